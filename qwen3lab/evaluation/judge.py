"""Use a model as a judge: pairwise comparison in both orders, or grades from 1 to 5.

`ask_twice` takes any function that sends messages to a model, for example to an OpenAI-compatible
address: the judge writes its verdict by a rubric, and `control` tells whether it can judge at all.

`pairwise` and `grade` need the weights: the judge generates nothing, and its choice is read from
the probabilities of the next token, so it always decides, and its confidence is visible. Zheng et
al. 2023, "Judging LLM-as-a-Judge with
MT-Bench and Chatbot Arena", ask in both orders against position bias; the expected grade is from
Liu et al. 2023, "G-Eval: NLG Evaluation using GPT-4 with Better Human Alignment".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from qwen3lab import chat
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation.statistics import wilson
from qwen3lab.models import batching

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


PAIR = (
    "Two answers to the same question follow. Say which one is"
    " better.\n\nQuestion:\n{question}\n\nAnswer A:\n{a}\n\nAnswer B:\n{b}\n\nWhich answer is"
    " better? Write A or B and nothing else."
)
SINGLE = (
    "A question and an answer follow. Grade the answer from 1 (useless) to 5"
    " (perfect).\n\nQuestion:\n{question}\n\nAnswer:\n{answer}\n\nWrite one digit from 1 to 5 and"
    " nothing else."
)
LETTERS, DIGITS = ("A", "B"), ("1", "2", "3", "4", "5")
CHOICES = ("first", "second", "order", "none")


def messages(rubric: str, question: str, a: str, b: str) -> list[dict[str, str]]:
    """Write the judge's prompt: the rubric as the system message, then question and answers."""
    asked = (
        f"Question:\n{question}\n\nAnswer A:\n{a}\n\nAnswer B:\n{b}\n\nCompare the two answers by"
        ' the rubric. End with the line "Verdict: A" or "Verdict: B".'
    )
    return [{"role": "system", "content": rubric}, {"role": "user", "content": asked}]


def verdict(reply: str) -> str:
    """Read "A" or "B" from a judge's reply: its last verdict, thoughts left out; "" if none."""
    answer = chat.split_thinking(reply.strip())[1]
    found = re.findall(r"verdict\W{1,6}([AB])\b", answer, flags=re.IGNORECASE)
    return found[-1].upper() if found else ""


def ask_twice(
    ask: Callable[[list[dict[str, str]]], str],
    rubric: str,
    questions: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
) -> pd.DataFrame:
    """Let a judge compare pairs of answers by a rubric, in both orders.

    Args:
        ask: sends messages to the judge and returns its reply, for example through the `openai`
            client.
    Returns:
        A row per question: leading, trailing (the verdict where the first answer is A, and where it
        is B), choice: "first" or "second" where both verdicts name the same answer, "order" where
        they name the same letter, "none" where a reply has no verdict.
    Raises:
        Qwen3labError: different numbers of questions and answers, or none.
    """
    import pandas as pd

    _same_numbers(questions, first, second)
    lines = []
    for question, one, two in zip(questions, first, second):
        leading = verdict(ask(messages(rubric, question, one, two)))
        trailing = verdict(ask(messages(rubric, question, two, one)))
        choice = "none" if not (leading and trailing) else "order"
        if {leading, trailing} == {"A", "B"}:
            choice = "first" if leading == "A" else "second"
        lines.append({"leading": leading, "trailing": trailing, "choice": choice})
    return pd.DataFrame(lines)


def control(judged: pd.DataFrame) -> pd.DataFrame:
    """Count a judge's choices on a positive control: pairs whose first answer is plainly right.

    Args:
        judged: of `ask_twice`.
    Returns:
        A row per choice ("first" is the right one): count, n, share, low, high (Wilson, 95 %). A
        judge that picks letters at random has "first" in a quarter of the pairs, one that always
        writes the same letter in none.
    """
    return _shares({name: (int((judged.choice == name).sum()), len(judged)) for name in CHOICES})


def _same_numbers(questions: Sequence[str], first: Sequence[str], second: Sequence[str]) -> None:
    if not len(questions) == len(first) == len(second) or not len(questions):
        raise Qwen3labError(
            f"There are {len(questions)} questions, {len(first)} first and {len(second)} second"
            " answers. Give as many of each, at least one."
        )


def next_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    words: Sequence[str],
    batch_size: int = 16,
) -> np.ndarray:
    """Compute the probabilities of some words as the reply's first token, thinking off.

    Args:
        words: each must be one token, for example "A".
    Returns:
        Probabilities over the whole vocabulary, float64 [prompts, words]; the sum of a row says how
        far the model keeps to these words at all.
    Raises:
        Qwen3labError: a word that is not one token; no prompts.
    """
    import numpy as np

    ids = [tokenizer.encode(word, add_special_tokens=False) for word in words]
    if any(len(tokens) != 1 for tokens in ids):
        raise Qwen3labError(
            f"Not every one of {', '.join(words)} is one token of this tokenizer. Choose words that"
            " are."
        )
    if not prompts:
        raise Qwen3labError("There is nothing to judge. Give at least one question.")
    rows = [chat.encode(tokenizer, [{"role": "user", "content": prompt}]) for prompt in prompts]
    found, columns = np.empty((len(rows), len(words))), [tokens[0] for tokens in ids]
    with batching.reading(model):
        for batch, padded, mask in batching.batches(
            rows, batch_size, side="left", device=model.device
        ):
            logits = model(
                input_ids=padded,
                attention_mask=mask,
                position_ids=batching.positions(mask),
                use_cache=False,
                logits_to_keep=1,
            ).logits
            found[batch] = batching.double(logits[:, -1]).softmax(-1)[:, columns].cpu().numpy()
    return found


def pairwise(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
    batch_size: int = 16,
) -> pd.DataFrame:
    """Judge pairs of answers in both orders: with the first as A and with the second as A.

    Returns:
        A row per question: leading, trailing (probability of the first answer as A and as B; the
        two letters make up 1), for_first (their mean), changes (whether the choice changes with the
        order), position ("A" or "B" if it does, else ""), mass (total probability of A and B; the
        rest went to other words).
    Raises:
        Qwen3labError: different numbers of questions and answers; as `next_tokens`.
    """
    _same_numbers(questions, first, second)
    prompts = [
        PAIR.format(question=q, a=a, b=b)
        for pairs in (zip(questions, first, second), zip(questions, second, first))
        for q, a, b in pairs
    ]
    found = next_tokens(model, tokenizer, prompts, LETTERS, batch_size)
    share_a = (found[:, 0] / found.sum(1)).reshape(2, -1)
    return both_orders(share_a[0], 1 - share_a[1], found.sum(1).reshape(2, -1).mean(0))


def both_orders(
    leading: Sequence[float], trailing: Sequence[float], mass: Sequence[float]
) -> pd.DataFrame:
    """Build the table of `pairwise` from its columns leading, trailing and mass.

    They may come from a record.
    """
    import numpy as np
    import pandas as pd

    lead, trail = np.asarray(leading, float), np.asarray(trailing, float)
    changes = (lead > 0.5) != (trail > 0.5)
    return pd.DataFrame(
        {
            "leading": lead,
            "trailing": trail,
            "for_first": (lead + trail) / 2,
            "changes": changes,
            "position": np.where(changes, np.where(lead > 0.5, "A", "B"), ""),
            "mass": np.asarray(mass, float),
        }
    )


def bias(judged: pd.DataFrame) -> pd.DataFrame:
    """Measure the judge's position bias from `pairwise`: shares with Wilson's 95 % interval.

    Returns:
        Rows "changes with the order" (of all questions; 0 for a perfect judge, 1 for one that sees
        only the position) and "of these, A both times" (1/2 without a preferred position). Columns:
        count, n, share, low, high.
    """
    changed = int(judged.changes.sum())
    return _shares(
        {
            "changes with the order": (changed, len(judged)),
            "of these, A both times": (int((judged.position == "A").sum()), changed),
        }
    )


def agreement(
    judged: pd.DataFrame, scores_first: Sequence[float], scores_second: Sequence[float]
) -> pd.DataFrame:
    """Measure the judge's agreement with a reference, for three ways of asking.

    It agrees if it prefers the answer that the reference scores higher. Shares with Wilson's 95 %
    interval.

    Args:
        judged: of `pairwise`.
        scores_first, scores_second: the reference's, for example exact
            match. Equal scores say nothing and are left out.
    Returns:
        Rows "asked once" (the first answer always as A), "both orders, mean" and "both orders,
        where they agree" (fewer questions). A coin has 1/2.
    Raises:
        Qwen3labError: different numbers of scores.
    """
    import numpy as np

    one, two = np.asarray(scores_first, float), np.asarray(scores_second, float)
    if not len(judged) == len(one) == len(two):
        raise Qwen3labError(
            f"There are {len(judged)} judged pairs but {len(one)} and {len(two)} scores. Give both"
            " answers of each pair a score."
        )
    told = one != two
    right = {
        name: ((judged[column] > 0.5).to_numpy() == (one > two))[told]
        for name, column in (("asked once", "leading"), ("both orders, mean", "for_first"))
    }
    right["both orders, where they agree"] = right["both orders, mean"][
        ~judged.changes.to_numpy()[told]
    ]
    return _shares({name: (int(hits.sum()), len(hits)) for name, hits in right.items()})


def grade(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    answers: Sequence[str],
    batch_size: int = 16,
) -> pd.DataFrame:
    """Grade single answers from 1 to 5.

    Returns:
        A row per answer: expected (the mean of the five digits weighted by their probabilities,
        which distinguishes answers that get the same digit), likeliest (int), mass (total
        probability of the five digits).

    Raises as `pairwise` does.
    """
    import numpy as np
    import pandas as pd

    if len(questions) != len(answers):
        raise Qwen3labError(
            f"There are {len(questions)} questions but {len(answers)} answers. Give as many of"
            " each."
        )
    found = next_tokens(
        model,
        tokenizer,
        [SINGLE.format(question=q, answer=a) for q, a in zip(questions, answers)],
        DIGITS,
        batch_size,
    )
    grades = np.arange(1, len(DIGITS) + 1)
    return pd.DataFrame(
        {
            "expected": found @ grades / found.sum(1),
            "likeliest": grades[found.argmax(1)],
            "mass": found.sum(1),
        }
    )


def _shares(counts: dict[str, tuple[int, int]]) -> pd.DataFrame:
    import pandas as pd

    nothing = float("nan"), float("nan")
    return pd.DataFrame.from_dict(
        {
            name: {
                "count": k,
                "n": n,
                "share": k / n if n else nothing[0],
                **dict(zip(("low", "high"), wilson(k, n) if n else nothing)),
            }
            for name, (k, n) in counts.items()
        },
        orient="index",
    )
