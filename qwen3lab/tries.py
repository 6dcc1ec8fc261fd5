"""What pass@k needs: several drawn answers to each question, and tests for rows that have none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab import chat, models
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def draw(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]], n: int, *, temperature: float = 1.0,
         seed: int = 0, max_new_tokens: int = 64, batch_size: int = 64) -> pd.DataFrame:
    """Draw n answers to each row at random, from the probabilities that the model gives, at a temperature.

    Args:
        rows: of `data/tasks`. n: tries for each.
        temperature: above 0; logits are divided by it. Below 1 the answers are more alike.
        seed: the same one gives the same answers, on the same machine and with the same `batch_size`.
    Returns:
        One row a try, the tries of a row one after the other: id, trial (from 0), prediction (without thoughts).
    Raises:
        Qwen3labError: no rows, no tries, or a temperature of 0 or less.
    """
    import pandas as pd
    import torch

    if not rows or n < 1 or temperature <= 0:
        raise Qwen3labError(f"{n} tries at {len(rows)} rows and a temperature of {temperature} cannot be drawn. Give rows, at least one try and a temperature above 0.")
    prompts = [chat.encode(tokenizer, row["messages"], thinking=bool(row.get("thinking")), tools=row.get("tools")) for row in rows]
    places = sorted((place for place in range(len(rows)) for _ in range(n)), key=lambda place: len(prompts[place]), reverse=True)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ends = sorted({tokenizer.eos_token_id, pad})
    settings = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0, "num_beams": 1, "max_length": None, "max_new_tokens": max_new_tokens,
                "eos_token_id": ends, "pad_token_id": pad}
    texts: dict[int, list[str]] = {place: [] for place in range(len(rows))}
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []), torch.inference_mode(), models.more_threads(model.device):
        torch.manual_seed(seed)
        for start in range(0, len(places), batch_size):
            batch = places[start:start + batch_size]
            width = len(prompts[batch[0]])
            ids = torch.tensor([[pad] * (width - len(prompts[place])) + prompts[place] for place in batch], device=model.device)
            mask = torch.tensor([[0] * (width - len(prompts[place])) + [1] * len(prompts[place]) for place in batch], device=model.device)
            for place, row in zip(batch, model.generate(input_ids=ids, attention_mask=mask, **settings)[:, width:].tolist()):
                end = next((at for at, token in enumerate(row) if token in ends), None)
                texts[place].append(chat.split_thinking(tokenizer.decode(row[:end], skip_special_tokens=True).strip())[1])
    model.train(was_training)
    return pd.DataFrame([{"id": row.get("id", place), "trial": trial, "prediction": text}
                         for place, row in enumerate(rows) for trial, text in enumerate(texts[place])])


def tests_of(row: dict[str, Any]) -> list[str]:
    """Lines `assert <call> == <value>` for a row whose reference is a one-line function of x, v, s or a and b, as pre-training has them.

    The reference is run in this very process to get the values, so give rows of your own data alone. Inputs lie around the numbers
    in the reference, where a wrong comparison or number shows.
    Raises Qwen3labError where the reference is no such function.
    """
    found = re.fullmatch(r"def (\w+)\((x|v|s|a, b)\): return (.+)", row["answer"])
    if not found:
        raise Qwen3labError(f"The reference of the row {row.get('id', '')!r} is no one-line function of x, v, s or a, b. Give it tests of its own.")
    name, arguments, body = found.groups()
    numbers = [int(number) for number in re.findall(r"\d+", body)] or [5]
    inputs = {"x": [(number + step,) for number in numbers for step in (-1, 0, 1)], "v": [([(place * 37) % 101 for place in range(100)],)],
              "s": [("One lamp and two chairs went to the new house in spring, and nobody was at home that day.",), ("Wildon",)], "a, b": [(3, 8), (8, 3)]}[arguments]
    space: dict[str, Any] = {}
    exec(row["answer"], space)  # noqa: S102
    return [f"assert {name}({', '.join(map(repr, values))}) == {space[name](*values)!r}" for values in inputs]
