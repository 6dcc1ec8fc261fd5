"""Score answers: exact match with confidence intervals, refusals, perplexity.

The text metrics are in `qwen3lab.evaluation.metrics`.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab import chat
from qwen3lab.data.rows import as_exams, ask, encode, encoded
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation.statistics import bootstrap_groups, wilson
from qwen3lab.models import batching

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def normalize(text: str) -> str:
    """Normalise a text for the comparison of answers.

    Unicode NFKC (full-width characters become ordinary ones), lower case, single spaces, no quotes
    around the whole and no full stop, comma or exclamation mark at its end. Everything else counts:
    "8 euros" is not "8".
    """
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return re.sub(r"""^["'“”‘’「」\s]+|["'“”‘’「」\s.。,!]+$""", "", text)


def exact_match(prediction: str, reference: str) -> bool:
    """Check whether two answers are equal after `normalize`."""
    return normalize(prediction) == normalize(reference)


def is_refusal(text: str) -> bool:
    """Detect the course's own refusal in English or Chinese: the text gives no answer."""
    from qwen3lab.prompts import REFUSAL

    return normalize(text) in {normalize(sentence) for sentence in REFUSAL.values()}


def evaluate_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    *,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
) -> pd.DataFrame:
    """Generate greedy answers to rows of `data/tasks` and score each by exact match.

    Args:
        rows: of `data/tasks`, with "messages" (up to the user), "answer", "thinking", optionally
            "tools", "task", "language", "id"; or of any kind that `fine_tune` takes.
        max_new_tokens: default 64, for rows that think 256.
        batch_size: prompts per batch.
    Returns:
        One row per question, in the order of `rows`: id, task, language, reference, prediction
        (without thoughts), thoughts, correct (bool), refused (bool; the answer says that the text
        does not say). A tool call is scored by its name and arguments.
    """
    import pandas as pd

    from qwen3lab.models.generation import generate_ids, split_answer

    rows = as_exams(rows)
    if not rows:
        raise Qwen3labError("There are no rows to evaluate. Give at least one.")
    outputs = [("", "")] * len(rows)
    for thinks in (False, True):
        places = [place for place, row in enumerate(rows) if bool(row.get("thinking")) == thinks]
        prompts = [ask(tokenizer, rows[place]) for place in places]
        answers = (
            generate_ids(
                model,
                tokenizer,
                prompts,
                batch_size=batch_size,
                max_new_tokens=max_new_tokens or (256 if thinks else 64),
            )
            if places
            else []
        )
        for place, answer in zip(places, answers):
            outputs[place] = split_answer(tokenizer, answer, thinks)
    return pd.DataFrame(
        [_score(place, row, output) for place, (row, output) in enumerate(zip(rows, outputs))]
    )


def _score(place: int, row: dict[str, Any], output: tuple[str, str]) -> dict[str, Any]:
    thoughts, prediction = output
    reference = row["answer"]
    wanted = chat.extract_tool_calls(reference)
    correct = (
        chat.extract_tool_calls(prediction) == wanted
        if wanted
        else exact_match(prediction, reference)
    )
    return {
        "id": row.get("id", place),
        "task": row.get("task", ""),
        "language": row.get("language", ""),
        "reference": reference,
        "prediction": prediction,
        "thoughts": thoughts,
        "correct": correct,
        "refused": is_refusal(prediction),
    }


def summary(
    answers: pd.DataFrame, by: str | list[str] | None = "task", unit: str | None = None
) -> pd.DataFrame:
    """Summarise n, number correct, accuracy and its 95 % interval (low, high).

    For all answers, or grouped by one or more columns.

    Args:
        unit: a column that names what was sampled, where several answers share one, as two
            wordings share a fact; then the interval resamples these, and "units" counts them.
            Default: each answer is one, and the interval is Wilson's.
    """
    import pandas as pd

    def interval(group: pd.DataFrame) -> tuple[float, float]:
        if unit is None:
            return wilson(int(group.correct.sum()), len(group))
        return bootstrap_groups(group.correct, group[unit])

    groups = dict(list(answers.groupby(by, sort=True))) if by else {"all": answers}
    lines = []
    for group in groups.values():
        low, high = interval(group)
        n, k = len(group), int(group.correct.sum())
        line = {"n": n, "correct": k, "accuracy": k / n, "low": low, "high": high}
        lines.append(line | ({"units": group[unit].nunique()} if unit else {}))
    table = pd.DataFrame(lines, index=list(groups))
    if isinstance(by, list) and len(by) > 1:
        table.index = pd.MultiIndex.from_tuples(table.index)
    return table.rename_axis(by)


def read_answers(
    model: PreTrainedModel, examples: Sequence[dict[str, list[int]]], batch_size: int = 16
) -> pd.DataFrame:
    """Score given answers with teacher forcing, in a single forward pass.

    It is cheap enough to try many changes of a model.

    Args:
        examples: as `chat.example` makes them: "input_ids" and "labels" (-100 for the prompt).
    Returns:
        One row per example, in their order: tokens (scored ones), nll (sum of -ln p over them),
        right (whether each is the likeliest after those before it, so that greedy decoding gives
        exactly this answer). exp(nll.sum() / tokens.sum()) is the perplexity.
    Raises:
        Qwen3labError: no examples.
    """
    import pandas as pd
    from torch.nn.functional import cross_entropy

    if not examples:
        raise Qwen3labError("There are no examples to read. Give at least one.")
    lines: dict[int, dict] = {}
    rows = [example["input_ids"] for example in examples]
    with batching.reading(model):
        for batch, ids, mask in batching.batches(rows, batch_size, device=model.device):
            wanted_ids = [examples[place]["labels"] for place in batch]
            labels, _ = batching.pad(wanted_ids, chat.IGNORED, device=model.device)
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            # Position t predicts token t + 1.
            for place, given, wanted in zip(batch, logits[:, :-1], labels[:, 1:]):
                scored = wanted != chat.IGNORED
                given = batching.double(given[scored])
                wanted = wanted[scored].to(given.device)
                lines[place] = {
                    "tokens": len(wanted),
                    "nll": cross_entropy(given, wanted, reduction="sum").item(),
                    "right": bool((given.argmax(-1) == wanted).all()),
                }
    return pd.DataFrame([lines[place] for place in range(len(examples))])


def negative_log_likelihood(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[dict[str, Any]],
    *,
    batch_size: int = 16,
) -> tuple[float, int]:
    """Compute (sum of -ln p, number of tokens) over the rows' answers, as fine-tuning does.

    Nothing else is counted. A row is as in `evaluate_tasks` (with "thoughts" for one that thinks),
    or its messages end with the assistant. The tokens of the prompt are read, not scored;
    `<|im_end|>` is scored.
    """
    examples = encoded(tokenizer, rows)
    if not examples:
        raise Qwen3labError("There are no rows to score. Give at least one.")
    read = read_answers(model, examples, batch_size)
    return float(read.nll.sum()), int(read.tokens.sum())


def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[dict[str, Any]],
    *,
    batch_size: int = 16,
) -> float:
    """Compute the perplexity of the answers, exp(mean -ln p) over their tokens.

    1 is certainty, the size of the vocabulary a blind guess. The mean is over tokens of all rows
    together, so long answers count more. It equals exp of the trainer's eval_loss if the rows are
    in one batch (`perplexities.as_trainers` computes what it reports for several).
    """
    total, count = negative_log_likelihood(model, tokenizer, rows, batch_size=batch_size)
    return math.exp(total / count)


def example(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> dict[str, list[int]]:
    """Encode a row of `negative_log_likelihood` as input_ids and labels (`chat.example`)."""
    return encode(tokenizer, row)
