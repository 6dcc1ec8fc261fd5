"""Greedy answers of a chat model, many prompts at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab import chat
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import batching

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


SHORT = 16  # tokens of the first pass


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[dict[str, Any]]],
    *,
    thinking: bool | Sequence[bool] = False,
    tools: list[dict] | None = None,
    max_new_tokens: int = 64,
    batch_size: int = 64,
) -> list[str]:
    """Answer every conversation in `prompts` by `model.generate`, the likeliest token each time.

    Prompts of like length share a batch and are padded on the left, so that every answer begins in
    the same column; in float32 the answers do not depend on the batch size.

    Args:
        prompts: lists of messages that end with the user or a tool.
        thinking: for all prompts, or one value a prompt.
        tools: JSON schemas, offered in every prompt.
        max_new_tokens: an answer that needs more is cut off.
        batch_size: prompts a batch.
    Returns:
        The text of each answer in the order of the prompts: think block and tool calls as written,
            end tokens left out.
    Raises:
        Qwen3labError: `thinking` has another length than `prompts`; a prompt that `chat.encode`
            refuses.
    """
    switches = [thinking] * len(prompts) if isinstance(thinking, bool) else list(thinking)
    if len(switches) != len(prompts):
        raise Qwen3labError(
            f"There are {len(prompts)} prompts but {len(switches)} values of thinking. Give one"
            " value, or one a prompt."
        )
    rows = [
        chat.encode(tokenizer, prompt, thinking=switch, tools=tools)
        for prompt, switch in zip(prompts, switches)
    ]
    answers = generate_ids(
        model, tokenizer, rows, max_new_tokens=max_new_tokens, batch_size=batch_size
    )
    return [tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in answers]


def generate_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[list[int]],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 64,
) -> list[list[int]]:
    """Continue rows of token ids greedily; returns the new ids of each row without the end token
    and what follows it.

    A batch takes as long as its longest answer. So all rows get a short first pass, and only those
    that did not end in
    it go on together: where most answers are short, that is several times faster.
    """
    first = min(SHORT, max_new_tokens)
    answers, ended = _pass(model, tokenizer, rows, first, batch_size)
    left = [place for place, end in enumerate(ended) if not end]
    if left and max_new_tokens > first:
        more, _ = _pass(
            model,
            tokenizer,
            [rows[place] + answers[place] for place in left],
            max_new_tokens - first,
            batch_size,
        )
        for place, rest in zip(left, more):
            answers[place] += rest
    return answers


def pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id to pad with: the tokenizer's, or its end token where it has none."""
    pad = tokenizer.pad_token_id
    return pad if pad is not None else tokenizer.eos_token_id


def end_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that end an answer: the end of a turn, and the padding after it."""
    return sorted({tokenizer.eos_token_id, pad_token(tokenizer)} - {None})


def _pass(
    model, tokenizer, rows: Sequence[list[int]], max_new_tokens: int, batch_size: int
) -> tuple[list[list[int]], list[bool]]:
    """Up to `max_new_tokens` new ids of each row, and whether the row came to its end."""
    ends = set(end_tokens(tokenizer))
    # Sampling fields are set to None because released checkpoints carry some, which greedy search
    # would warn about.
    settings = {
        "do_sample": False,
        "temperature": None,
        "top_p": None,
        "top_k": None,
        "num_beams": 1,
        "max_length": None,
        "max_new_tokens": max_new_tokens,
        "eos_token_id": sorted(ends),
        "pad_token_id": pad_token(tokenizer),
    }
    answers: list[list[int]] = [[] for _ in rows]
    ended = [False] * len(rows)
    with batching.reading(model, most_threads=2 if len(rows) >= 8 else 1):
        for batch, ids, mask in batching.batches(
            rows,
            batch_size,
            order="longest first",
            fill=pad_token(tokenizer),
            side="left",
            device=model.device,
        ):
            out = model.generate(input_ids=ids, attention_mask=mask, **settings)
            for place, row in zip(batch, out[:, ids.shape[1] :].tolist()):
                end = next((at for at, token in enumerate(row) if token in ends), None)
                answers[place], ended[place] = row[:end], end is not None
    return answers, ended


def draw(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    n: int,
    *,
    temperature: float = 1.0,
    seed: int = 0,
    max_new_tokens: int = 64,
    batch_size: int = 64,
) -> pd.DataFrame:
    """Draw n answers to each row at random, from the probabilities that the model gives, at a
    temperature.

    Args:
        rows: of `data/tasks`. n: tries for each.
        temperature: above 0; logits are divided by it. Below 1 the answers are more alike.
        seed: the same one gives the same answers, on the same machine and with the same
            `batch_size`.
    Returns:
        One row a try, the tries of a row one after the other: id, trial (from 0), prediction
            (without thoughts).
    Raises:
        Qwen3labError: no rows, no tries, or a temperature of 0 or less.
    """
    import pandas as pd
    import torch

    if not rows or n < 1 or temperature <= 0:
        raise Qwen3labError(
            f"{n} tries at {len(rows)} rows and a temperature of {temperature} cannot be drawn."
            " Give rows, at least one try and a temperature above 0."
        )
    prompts = [
        chat.encode(
            tokenizer, row["messages"], thinking=bool(row.get("thinking")), tools=row.get("tools")
        )
        for row in rows
    ]
    owners = [place for place in range(len(rows)) for _ in range(n)]
    ends = end_tokens(tokenizer)
    settings = {
        "do_sample": True,
        "temperature": temperature,
        "top_p": 1.0,
        "top_k": 0,
        "num_beams": 1,
        "max_length": None,
        "max_new_tokens": max_new_tokens,
        "eos_token_id": ends,
        "pad_token_id": pad_token(tokenizer),
    }
    texts: dict[int, list[str]] = {place: [] for place in range(len(rows))}
    gpus = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), batching.reading(model):
        torch.manual_seed(seed)
        for batch, ids, mask in batching.batches(
            [prompts[owner] for owner in owners],
            batch_size,
            order="longest first",
            fill=pad_token(tokenizer),
            side="left",
            device=model.device,
        ):
            out = model.generate(input_ids=ids, attention_mask=mask, **settings)
            for place, row in zip(batch, out[:, ids.shape[1] :].tolist()):
                end = next((at for at, token in enumerate(row) if token in ends), None)
                text = tokenizer.decode(row[:end], skip_special_tokens=True).strip()
                texts[owners[place]].append(chat.split_thinking(text)[1])
    return pd.DataFrame(
        [
            {"id": row.get("id", place), "trial": trial, "prediction": text}
            for place, row in enumerate(rows)
            for trial, text in enumerate(texts[place])
        ]
    )
