"""Batched generation: greedy answers for many prompts, and sampled answers at a temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab import chat, profiles
from qwen3lab.data.rows import ask, questions
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import batching

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


SHORT = 16  # tokens of the first pass
GGUF_ENDS = ("eos", "eot", "eom")  # where a GGUF file names the tokens that end an answer


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
    """Generate a greedy answer to every conversation in `prompts`, batched, with `model.generate`.

    Prompts of similar length share a batch and are left-padded, so that every answer begins in the
    same column. In float32 the answers do not depend on the batch size.

    Args:
        prompts: lists of messages that end with the user or a tool.
        thinking: one value for all prompts, or one per prompt.
        tools: JSON schemas, offered in every prompt.
        max_new_tokens: longer answers are cut off.
        batch_size: prompts per batch.
    Returns:
        The text of each answer in the order of the prompts: think block and tool calls as written,
            end tokens left out.
    Raises:
        Qwen3labError: `thinking` and `prompts` differ in length; `chat.encode` refuses a prompt.
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
    """Continue rows of token ids greedily; return each row's new ids, cut before the end token.

    A batch takes as long as its longest answer. So all rows get a short first pass, and only the
    rows that did not end in it continue together: where most answers are short, this is several
    times faster.
    """
    max_new_tokens = profiles.smoke_tokens(max_new_tokens)
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


def split_answer(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], thinking: bool = False
) -> tuple[str, str]:
    """Decode generated ids and split them into (thoughts, answer).

    `thinking`: how the prompt was encoded; some templates open the think block in it.
    """
    text = tokenizer.decode(ids, skip_special_tokens=True).strip()
    # A model may think without the opening tag though the prompt does not hold it.
    return chat.split_thinking(text, chat.traits(tokenizer).opened(thinking) or None)


def pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id to pad with: the tokenizer's, or its end token where it has none."""
    pad = tokenizer.pad_token_id
    return pad if pad is not None else tokenizer.eos_token_id


def end_tokens(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None = None
) -> list[int]:
    """Return the ids that end an answer: the end of a turn or text, and the padding after it.

    Args:
        model: its generation settings may state further ends (generation_config.json).
    """
    turn = chat.end_of_turn(tokenizer)
    ends = {tokenizer.eos_token_id, pad_token(tokenizer)}
    ends |= {turn and tokenizer.convert_tokens_to_ids(turn)}
    ends |= set(stated_ends(getattr(model, "generation_config", None)))
    return sorted(ends - {None})


def stated_ends(settings: Any) -> list[int]:
    """Return the end tokens that generation settings state, as a list."""
    stated = getattr(settings, "eos_token_id", None)
    return [] if stated is None else list(stated) if isinstance(stated, (list, tuple)) else [stated]


def before_end(ids: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Cut generated ids before the first end token."""
    return list(ids[: next((at for at, token in enumerate(ids) if token in ends), len(ids))])


def _pass(
    model, tokenizer, rows: Sequence[list[int]], max_new_tokens: int, batch_size: int
) -> tuple[list[list[int]], list[bool]]:
    """Up to `max_new_tokens` new ids of each row, and whether the row came to its end."""
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
    }
    answers = _answers(model, tokenizer, rows, settings, batch_size, 2 if len(rows) >= 8 else 1)
    return [answer for answer, _ in answers], [ended for _, ended in answers]


def _answers(
    model, tokenizer, rows: Sequence[list[int]], settings: dict, batch_size: int, threads: int = 2
) -> list[tuple[list[int], bool]]:
    """The new ids of each row before its end token, and whether there was one.

    The longest rows go first: if memory is short, it shows at once.
    """
    ends, pad = set(end_tokens(tokenizer, model)), pad_token(tokenizer)
    settings = settings | {"eos_token_id": sorted(ends), "pad_token_id": pad}
    found: list[tuple[list[int], bool]] = [([], False)] * len(rows)
    layout = {"order": "longest first", "fill": pad, "side": "left", "device": model.device}
    with batching.reading(model, most_threads=threads):
        for batch, ids, mask in batching.batches(rows, batch_size, **layout):
            out = model.generate(input_ids=ids, attention_mask=mask, **settings)
            for place, row in zip(batch, out[:, ids.shape[1] :].tolist()):
                end = next((at for at, token in enumerate(row) if token in ends), None)
                found[place] = row[:end], end is not None
    return found


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
    """Sample n answers per row from the model's distribution at a temperature.

    Args:
        rows: rows of `data/tasks`, or of any kind that `fine_tune` takes.
        n: samples per row.
        temperature: above 0; logits are divided by it. Below 1 the answers vary less.
        seed: the same seed gives the same answers on the same machine with the same `batch_size`.
    Returns:
        One row per sample, grouped by input row: id, trial (from 0), prediction (without thoughts).
    Raises:
        Qwen3labError: no rows, no samples, or a temperature of 0 or less.
    """
    import pandas as pd
    import torch

    rows = questions(rows)
    if not rows or n < 1 or temperature <= 0:
        raise Qwen3labError(
            f"{n} tries at {len(rows)} rows and a temperature of {temperature} cannot be drawn."
            " Give rows, at least one try and a temperature above 0."
        )
    prompts = [ask(tokenizer, row) for row in rows]
    owners = [place for place in range(len(rows)) for _ in range(n)]
    settings = {
        "do_sample": True,
        "temperature": temperature,
        "top_p": 1.0,
        "top_k": 0,
        "num_beams": 1,
        "max_length": None,
        "max_new_tokens": profiles.smoke_tokens(max_new_tokens),
    }
    texts: dict[int, list[str]] = {place: [] for place in range(len(rows))}
    kind = model.device.type
    gpus = [model.device] if kind != "cpu" else []
    with torch.random.fork_rng(devices=gpus, device_type=kind):
        torch.manual_seed(seed)
        asked = [prompts[owner] for owner in owners]
        answers = _answers(model, tokenizer, asked, settings, batch_size)
    for owner, (answer, _) in zip(owners, answers):
        thinks = bool(rows[owner].get("thinking"))
        texts[owner].append(split_answer(tokenizer, answer, thinks)[1])
    return pd.DataFrame(
        [
            {"id": row.get("id", place), "trial": trial, "prediction": text}
            for place, row in enumerate(rows)
            for trial, text in enumerate(texts[place])
        ]
    )
