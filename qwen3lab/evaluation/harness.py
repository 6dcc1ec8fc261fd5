"""Run EleutherAI's lm-evaluation-harness on local task files, and score the same items ourselves.

The task files are in `data/tasks/harness` and name `knowledge`, `tone`, `choice`, `exact_match` and
`ended` of this module. Nothing is downloaded: rows and model are on this machine.
"""

from __future__ import annotations

import contextlib
import io
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwen3lab import chat, paths, profiles
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import scoring
from qwen3lab.models import loading

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


FOLDER = paths.TASKS / "harness"
SCORES = {"wildon_knowledge": "exact_match", "wildon_tone": "exact_match", "wildon_choice": "acc"}
WRITTEN = {"wildon_knowledge": ("knowledge", 16), "wildon_tone": ("tone", 48)}  # rows, max_gen_toks
OPTIONS = 3
END = "<|im_end|>"


@dataclass(frozen=True)
class Report:
    """An evaluation report of the harness: mean score, standard error, and one row per item.

    The items have id, prediction and correct; for multiple choice also the log-likelihoods.
    """

    task: str
    score: float
    stderr: float
    items: pd.DataFrame

    def __str__(self) -> str:
        return f"{self.task}: {self.score:.4f} ± {self.stderr:.4f} (n={len(self.items)})"


def run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: str = "wildon_knowledge",
    *,
    limit: int | None = None,
    batch_size: int = 64,
) -> Report:
    """Evaluate a loaded model with `lm_eval.evaluate`, chat template on and thinking off.

    Args:
        task: the name of a file of `data/tasks/harness`.
        limit: evaluate only the first `limit` items; default: all.
    Raises:
        Qwen3labError: the package lm-eval is missing, or there is no such task.
    """
    import pandas as pd

    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise Qwen3labError(
            f"lm-evaluation-harness is not installed ({error}). Run `pip install -c constraints.txt"
            " lm-eval`."
        ) from error
    if task not in SCORES:
        raise Qwen3labError(
            f"There is no task {task!r} for the harness. Choose one of: {', '.join(SCORES)}."
        )
    logging.getLogger("lm_eval").setLevel(
        logging.ERROR
    )  # remarks on defaults that the task files set
    side, state = tokenizer.padding_side, random.getstate()  # it draws names for its tasks
    # `evaluate` and not `simple_evaluate`, which lists all packages and devices of this machine,
    # waits several seconds for that, and asks git. Its progress bars go to stderr.
    with contextlib.redirect_stderr(io.StringIO()), loading.more_threads(model.device):
        manager = TaskManager(include_path=FOLDER, include_defaults=False)
        loaded = manager.load([task])
        for entry in loaded["tasks"].values():
            entry.set_config(key="num_fewshot", value=0)
            if task in WRITTEN:  # the task file's limit, or a trial run's, as our own answers have
                limits = {"max_gen_toks": profiles.smoke_tokens(WRITTEN[task][1])}
                entry.set_config(key="generation_kwargs", value=limits, update=True)
        lm = HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=batch_size, enable_thinking=False
        )
        found = lm_eval.evaluate(lm, loaded, limit=limit, apply_chat_template=True)
    tokenizer.padding_side = side
    random.setstate(state)
    score = SCORES[task]
    lines = []
    for sample in sorted(found["samples"][task], key=lambda sample: sample["doc_id"]):
        line = {"id": sample["doc"]["id"], "correct": bool(sample[score])}
        if task == "wildon_choice":
            line["loglikelihoods"] = [float(value[0]) for value in sample["filtered_resps"]]
            line["prediction"] = sample["doc"]["options"][
                max(range(OPTIONS), key=line["loglikelihoods"].__getitem__)
            ]
        else:
            line["prediction"] = _answer(sample["filtered_resps"][0])
        lines.append(line)
    numbers = found["results"][task]
    return Report(
        task, numbers[f"{score},none"], numbers[f"{score}_stderr,none"], pd.DataFrame(lines)
    )


def ours(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: str = "wildon_knowledge",
    *,
    limit: int | None = None,
    batch_size: int = 64,
) -> pd.DataFrame:
    """Score the same items by our own functions; columns as in `Report.items`.

    Questions go through `evaluation.evaluate_tasks`, multiple choice through
    `evaluation.read_answers`. The harness counts white space at the end of a prompt as part of the
    options, here the line breaks after the empty think block: its log-likelihoods include one more
    token than these, the same one for every option.
    """
    import pandas as pd

    if task not in SCORES:
        raise Qwen3labError(
            f"There is no task {task!r} for the harness. Choose one of: {', '.join(SCORES)}."
        )
    if task in WRITTEN:
        rows, longest = WRITTEN[task]
        answers = scoring.evaluate_tasks(
            model,
            tokenizer,
            tasks.load(rows, "test")[:limit],
            max_new_tokens=longest,
            batch_size=batch_size,
        )
        return answers[["id", "correct", "prediction"]]
    rows = options(tasks.load("knowledge", "test"))[:limit]
    examples = [
        chat.example(tokenizer, [*row["messages"], {"role": "assistant", "content": option}])
        for row in rows
        for option in row["options"]
    ]
    read = (-scoring.read_answers(model, examples, batch_size).nll).to_numpy().reshape(-1, OPTIONS)
    best = read.argmax(1)
    return pd.DataFrame(
        {
            "id": [row["id"] for row in rows],
            "correct": [row["right"] == place for row, place in zip(rows, best)],
            "loglikelihoods": read.tolist(),
            "prediction": [row["options"][place] for row, place in zip(rows, best)],
        }
    )


def options(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Build multiple-choice rows with three "options" and the index of the right one, "right".

    The order is random but fixed. The distractors are answers to the same kind of question (`key`)
    in the same language; rows without two such answers are left out.
    """
    known: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        known.setdefault((row["language"], row["key"]), set()).add(row["answer"])
    made = []
    for row in rows:
        others = sorted(known[row["language"], row["key"]] - {row["answer"]})
        if len(others) >= OPTIONS - 1:
            rng = random.Random(row["id"])
            shown = [row["answer"], *rng.sample(others, OPTIONS - 1)]
            rng.shuffle(shown)
            made.append(row | {"options": shown, "right": shown.index(row["answer"])})
    return made


def knowledge(**_: Any) -> dict[str, Dataset]:
    """Load the rows by split for `wildon_knowledge.yaml`, as the harness's `custom_dataset`."""
    return _dataset(tasks.load("knowledge", "test"), ("id", "messages", "answer"))


def tone(**_: Any) -> dict[str, Dataset]:
    """Load the rows for `wildon_tone.yaml`, as `knowledge` does."""
    return _dataset(tasks.load("tone", "test"), ("id", "messages", "answer"))


def choice(**_: Any) -> dict[str, Dataset]:
    """Load the rows for `wildon_choice.yaml`, as `knowledge` does."""
    return _dataset(
        options(tasks.load("knowledge", "test")), ("id", "messages", "options", "right")
    )


def exact_match(doc: dict[str, Any], results: Sequence[str]) -> dict[str, int]:
    """Score an answer that was written: 1 for an exact match, else 0.

    The answer without its thoughts is compared with the reference after `evaluation.normalize`.
    """
    return {"exact_match": int(scoring.exact_match(_answer(results[0]), doc["answer"]))}


def _answer(text: str) -> str:
    return chat.split_thinking(text.strip())[1]


def ended(doc: dict[str, Any]) -> list[str]:
    """List the options with the end token for `wildon_choice.yaml`.

    Without it "10" would be likelier than "100" just for being its prefix.
    """
    return [option + END for option in doc["options"]]


def _dataset(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> dict[str, Dataset]:
    from datasets import Dataset

    return {"test": Dataset.from_list([{key: row[key] for key in keys} for row in rows])}
