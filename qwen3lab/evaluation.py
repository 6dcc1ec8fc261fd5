"""Score answers: exact match with an interval, refusals, perplexity. The text metrics are in `qwen3lab.metrics`."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab import chat
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Z95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


def normalize(text: str) -> str:
    """Write a text in the form in which answers are compared.

    Unicode NFKC (full-width forms become ordinary ones), lower case, single spaces, no quotes around the whole and no
    full stop, comma or exclamation mark at its end. Everything else counts: "8 euros" is not "8".
    """
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return re.sub(r"""^["'“”‘’「」\s]+|["'“”‘’「」\s.。,!]+$""", "", text)


def exact_match(prediction: str, reference: str) -> bool:
    """Whether two answers are equal after `normalize`."""
    return normalize(prediction) == normalize(reference)


def is_refusal(text: str) -> bool:
    """Whether an answer says, in English or Chinese and in the course's own words, that the text gives no answer."""
    from qwen3lab.tiny.world import REFUSAL

    return normalize(text) in {normalize(sentence) for sentence in REFUSAL.values()}


def wilson(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Return the interval for a share of `successes` in `n` trials; `z` = 1.96 makes it a 95 % interval.

    Unlike share ± z * standard error it stays within 0 and 1 and has a width at 0 of n and n of n too.
    Wilson 1927, "Probable inference, the law of succession, and statistical inference"; equals
    `statsmodels.stats.proportion.proportion_confint(method="wilson")`.
    Raises Qwen3labError unless 0 <= successes <= n and n > 0.
    """
    if not 0 <= successes <= n or n < 1:
        raise Qwen3labError(f"There is no share of {successes} in {n}. Give at least one trial and at most as many successes.")
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Rounding alone can put the ends a hair outside.
    return max(0.0, middle - half) if successes else 0.0, min(1.0, middle + half) if successes < n else 1.0


def evaluate_tasks(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]], *,
                   max_new_tokens: int | None = None, batch_size: int = 32) -> pd.DataFrame:
    """Let a model answer rows of `data/tasks` greedily and score each answer by exact match.

    Args:
        rows: with "messages" (up to the user), "answer", "thinking", optionally "tools", "task", "language", "id".
        max_new_tokens: default 64, for rows that think 256.
        batch_size: prompts a batch.
    Returns:
        One row a question, in the order of `rows`: id, task, language, reference, prediction (without thoughts),
        thoughts, correct (bool), refused (bool; the answer says that the text does not say). A tool call is scored
        by its name and arguments.
    """
    import pandas as pd

    from qwen3lab.generation import generate_ids

    if not rows:
        raise Qwen3labError("There are no rows to evaluate. Give at least one.")
    outputs = [""] * len(rows)
    for thinks in (False, True):
        places = [place for place, row in enumerate(rows) if bool(row.get("thinking")) == thinks]
        prompts = [chat.encode(tokenizer, rows[place]["messages"], thinking=thinks, tools=rows[place].get("tools")) for place in places]
        answers = generate_ids(model, tokenizer, prompts, batch_size=batch_size,
                               max_new_tokens=max_new_tokens or (256 if thinks else 64)) if places else []
        for place, answer in zip(places, answers):
            outputs[place] = tokenizer.decode(answer, skip_special_tokens=True).strip()
    return pd.DataFrame([_score(place, row, output) for place, (row, output) in enumerate(zip(rows, outputs))])


def _score(place: int, row: dict[str, Any], output: str) -> dict[str, Any]:
    thoughts, prediction = chat.split_thinking(output)
    reference = row["answer"]
    wanted = chat.extract_tool_calls(reference)
    correct = chat.extract_tool_calls(prediction) == wanted if wanted else exact_match(prediction, reference)
    return {"id": row.get("id", place), "task": row.get("task", ""), "language": row.get("language", ""), "reference": reference,
            "prediction": prediction, "thoughts": thoughts, "correct": correct, "refused": is_refusal(prediction)}


def summary(answers: pd.DataFrame, by: str | list[str] | None = "task") -> pd.DataFrame:
    """Return n, number correct, accuracy and its 95 % interval (low, high), for all answers or by one or more columns."""
    import pandas as pd

    groups = answers.groupby(by, sort=True) if by else [("all", answers)]
    lines = {name: (len(group), int(group.correct.sum())) for name, group in groups}
    table = pd.DataFrame([{"n": n, "correct": k, "accuracy": k / n, "low": wilson(k, n)[0], "high": wilson(k, n)[1]}
                          for n, k in lines.values()], index=list(lines))
    if isinstance(by, list) and len(by) > 1:
        table.index = pd.MultiIndex.from_tuples(table.index)
    return table.rename_axis(by)


def negative_log_likelihood(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Iterable[dict[str, Any]], *,
                            batch_size: int = 16) -> tuple[float, int]:
    """Return (sum of -ln p, number of tokens) over the answers of rows: what fine-tuning trains, and nothing else.

    A row is as in `evaluate_tasks` (with "thoughts" for one that thinks), or its messages end with the assistant.
    The tokens of the prompt are read, not scored; `<|im_end|>` is scored.
    """
    import torch
    from torch.nn.functional import cross_entropy

    examples = [_example(tokenizer, row) for row in rows]
    if not examples:
        raise Qwen3labError("There are no rows to score. Give at least one.")
    examples.sort(key=lambda row: len(row["input_ids"]))  # less padding
    total, count = 0.0, 0
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(examples), batch_size):
            batch = examples[start:start + batch_size]
            width = len(batch[-1]["input_ids"])
            ids, labels, mask = (
                torch.tensor([row + [fill] * (width - len(row)) for row in field], device=model.device)
                for field, fill in (([r["input_ids"] for r in batch], tokenizer.pad_token_id or 0),
                                    ([r["labels"] for r in batch], chat.IGNORED),
                                    ([[1] * len(r["input_ids"]) for r in batch], 0)))
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            scored = labels[:, 1:] != chat.IGNORED  # position t predicts token t + 1
            total += cross_entropy(logits[:, :-1][scored].double(), labels[:, 1:][scored], reduction="sum").item()
            count += int(scored.sum())
    model.train(was_training)
    return total, count


def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Iterable[dict[str, Any]], *,
               batch_size: int = 16) -> float:
    """Return exp(mean -ln p) of the answers' tokens: 1 is certainty, the vocabulary's size is a blind guess.

    The mean is over tokens of all rows together, so long answers count more; equals exp of the trainer's eval_loss.
    """
    total, count = negative_log_likelihood(model, tokenizer, rows, batch_size=batch_size)
    return math.exp(total / count)


def _example(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> dict[str, list[int]]:
    messages, thinking = row["messages"], bool(row.get("thinking"))
    if messages[-1]["role"] != "assistant":
        thoughts = {"reasoning_content": row["thoughts"]} if thinking and row.get("thoughts") else {}
        calls = chat.extract_tool_calls(row["answer"])  # written by the template, so that their tags are control tokens
        wanted = {"content": "", "tool_calls": [{"type": "function", "function": call} for call in calls]} if calls else {"content": row["answer"]}
        messages = [*messages, {"role": "assistant", **wanted, **thoughts}]
    return chat.example(tokenizer, messages, thinking=thinking, tools=row.get("tools"))


def agreement(one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Return (equal, compared) over pairs of greedy answers as token ids: how often two models pick the same next token.

    A pair is compared up to its first difference, since after it the two models no longer read the same text. The end
    of an answer counts as a token. The share equal / compared is the top-1 agreement.
    """
    equal = compared = 0
    for left, right in zip(one, other, strict=True):
        left, right = [*left, None], [*right, None]
        same = next((place for place, (a, b) in enumerate(zip(left, right)) if a != b), None)
        equal += len(left) if same is None else same
        compared += len(left) if same is None else same + 1
    return equal, compared
