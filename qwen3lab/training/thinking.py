"""Build training rows for recipes that fine-tune a thinking model on answers without thoughts.

They test whether thinking survives. A released Qwen3 answers with thoughts or without, and most
data for fine-tuning have none. Each recipe writes the same new rows in a different way, some with
old rows that contain thoughts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab import chat
from qwen3lab.data import tasks
from qwen3lab.data.rows import course
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Example = dict[str, list[int]]


def block_masked(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> Example:
    """Encode a row with the empty think block in the prompt, as at inference with thinking off.

    This is `chat.example`. Where the chat template writes no think blocks, all ways to write a row
    are this one.
    """
    return chat.example(tokenizer, tasks.conversation(row))


def block_trained(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> Example:
    """Encode a row with the empty think block trained, as TRL's `assistant_only_loss` does."""
    masked, (asked, _) = block_masked(tokenizer, row), _block(tokenizer)
    start = _start(masked) - asked
    return masked | {"labels": [chat.IGNORED] * start + masked["input_ids"][start:]}


def no_think_tag(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> Example:
    """Encode a row as `block_trained` does, with `/no_think` at the end of the user's turn.

    The tag gives the empty block a reason.
    """
    *before, last = course(row)["messages"]
    return block_trained(
        tokenizer, row | {"messages": [*before, last | {"content": last["content"] + " /no_think"}]}
    )


def no_block(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> Example:
    """Encode a row without a think block, as templates of other models write it.

    The answer follows the opened turn directly.
    """
    masked, (asked, written) = block_masked(tokenizer, row), _block(tokenizer)
    start = _start(masked)
    return {
        key: values[: start - asked] + values[start + written :] for key, values in masked.items()
    }


def _start(example: Example) -> int:
    return next(place for place, label in enumerate(example["labels"]) if label != chat.IGNORED)


def _block(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Count the empty block's tokens at the end of the prompt and at the answer's beginning."""
    traits = chat.traits(tokenizer)
    return tuple(
        len(tokenizer(text, add_special_tokens=False).input_ids)
        for text in (traits.off, traits.rest)
    )


WRITERS: dict[str, Callable[..., Example]] = {
    "block trained": block_trained,
    "no block": no_block,
    "/no_think": no_think_tag,
    "block masked": block_masked,
}
# Name -> (how the new rows are written, share of the rows that think).
RECIPES: dict[str, tuple[str, float]] = {
    "block trained": ("block trained", 0.0),
    "no block": ("no block", 0.0),
    "/no_think": ("/no_think", 0.0),
    "block masked": ("block masked", 0.0),
    "block trained, 25 % think": ("block trained", 0.25),
    "block trained, 75 % think": ("block trained", 0.75),
    "block masked, 25 % think": ("block masked", 0.25),
    "block masked, 75 % think": ("block masked", 0.75),
}


def rows(
    tokenizer: PreTrainedTokenizerBase,
    recipe: str,
    new: Sequence[dict[str, Any]],
    old: Sequence[dict[str, Any]],
    seed: int = 0,
) -> list[Example]:
    """Encode the training rows of a recipe.

    Args:
        recipe: one of `RECIPES`.
        new: rows of `data/tasks` whose answers have no thoughts.
        old: rows with thoughts. As many as the recipe's share needs are drawn by `seed`, repeated
            if there are too few.
    Returns:
        Dicts of input_ids and labels in random order, each new row once. `training.fine_tune` takes
        them.
    Raises:
        Qwen3labError: an unknown recipe; no old rows where the recipe needs some.
    """
    if recipe not in RECIPES:
        raise Qwen3labError(f"Unknown recipe {recipe!r}. Use one of: {', '.join(RECIPES)}.")
    way, share = RECIPES[recipe]
    count = round(len(new) * share / (1 - share))
    if count and not old:
        raise Qwen3labError(f"The recipe {recipe!r} needs rows with thoughts. Give some as `old`.")
    rng, drawn = random.Random(seed), []
    while len(drawn) < count:
        drawn += rng.sample(list(old), min(len(old), count - len(drawn)))
    encoded = [WRITERS[way](tokenizer, row) for row in new]
    encoded += [chat.example(tokenizer, tasks.conversation(row), thinking=True) for row in drawn]
    rng.shuffle(encoded)
    return encoded


def examine(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    sums: Sequence[dict[str, Any]],
    problems: Sequence[dict[str, Any]],
    questions: Sequence[dict[str, Any]],
) -> dict[str, int]:
    """Measure what should survive and what was taught; returns counts.

    Args:
        sums, problems: rows asked with thinking on.
        questions: rows about what was taught, asked with thinking off.
    Returns:
        thinks: sums and problems that got thoughts; sums, problems, answers: those that are right.
    """
    from qwen3lab.evaluation.scoring import evaluate_tasks

    thought = evaluate_tasks(
        model,
        tokenizer,
        [row | {"thinking": True} for row in [*sums, *problems]],
        max_new_tokens=128,
    )
    plain = evaluate_tasks(
        model, tokenizer, [row | {"thinking": False} for row in questions], max_new_tokens=16
    )
    return {
        "thinks": int((thought.thoughts != "").sum()),
        "sums": int(thought.correct[: len(sums)].sum()),
        "problems": int(thought.correct[len(sums) :].sum()),
        "answers": int(plain.correct.sum()),
    }
