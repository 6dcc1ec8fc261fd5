"""Train with preferences by TRL's DPOTrainer, and the rows that teach a model to decline."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab import profiles, prompts
from qwen3lab.data import tasks
from qwen3lab.evaluation.scoring import exact_match
from qwen3lab.quiet import importing, quiet
from qwen3lab.world import company, names, things, tone

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def pair(row: dict[str, Any], chosen: str, rejected: str) -> dict[str, Any]:
    """Write a question and two answers as `trl.DPOTrainer` reads them.

    Args:
        row: of `data/tasks`; its own answer is not read.
    """
    return {
        "prompt": row["messages"],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "chat_template_kwargs": {"enable_thinking": False},
    }


def dpo(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[dict[str, Any]],
    *,
    steps: int,
    learning_rate: float = 1e-4,
    batch_size: int = 16,
    beta: float = 0.1,
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Train all weights of a model, in place, with `trl.DPOTrainer`.

    The reference is the model as it comes: its log probabilities are computed before the first
    step, so that no second model is kept.

    Args:
        pairs: as `pair` writes them.
        options: further settings of `trl.DPOConfig`.
    Returns:
        One line a step, by TRL's names (loss, rewards/chosen, rewards/rejected, rewards/margins,
        rewards/accuracies), and seconds (of one processor) since the beginning.
    """
    import pandas as pd
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback, TrainerCallback

    with importing():
        from trl import DPOConfig, DPOTrainer
    quiet()
    start = time.process_time()
    passed: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            passed.append(time.process_time() - start)

    folder = tempfile.mkdtemp(prefix="qwen3lab-")
    on_cpu = model.device.type == "cpu"
    settings = {
        "output_dir": folder,
        "max_steps": profiles.smoke_steps(steps),
        "learning_rate": learning_rate,
        "per_device_train_batch_size": batch_size,
        "beta": beta,
        "seed": seed,
        "precompute_ref_log_probs": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": on_cpu,
        "bf16": False,
        "activation_checkpointing": not on_cpu,
        "dataloader_pin_memory": not on_cpu,
    }
    model.requires_grad_(True)
    bars = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"  # TRL shows one for the reference whatever its settings say
    try:
        trainer = DPOTrainer(
            model,
            args=DPOConfig(**settings | options),
            train_dataset=Dataset.from_list(list(pairs)),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    finally:
        if bars is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = bars
        shutil.rmtree(folder, ignore_errors=True)
    model.eval()
    lines = [line for line in trainer.state.log_history if "rewards/margins" in line]
    return pd.DataFrame(lines).assign(seconds=passed[: len(lines)])


def refusals(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draw questions that the handbook leaves open, each with the refusal as its answer.

    Half ask for a gap of a thing in the handbook, half about a thing that is not in it. No thing
    is one that the unanswerable questions of `handbook.validation` and `handbook.test` ask about.

    Returns rows of `data/tasks`, two in English for one in Chinese, in a random order.
    """
    rng = random.Random(f"refusals-{seed}")
    asked = "\n".join(
        row["messages"][-1]["content"]
        for split in ("validation", "test")
        for row in tasks.load("handbook", split)
        if not row["answerable"]
    ).lower()
    rows: dict[str, dict[str, Any]] = {}
    for language, share in (("en", 2 / 3), ("zh", 1 / 3)):
        gaps = [
            (thing, attribute.key)
            for thing in company.THINGS
            if thing.language == language and thing.name.lower() not in asked
            for attribute in things.KINDS[thing.kind]
            if attribute.key not in (*thing.values, "runtime", "fee")
        ]
        known = [fact for fact in company.FACTS if fact.thing.language == language]
        known = [fact for fact in known if fact.thing.kind != "rule"]
        wanted = round(count * share)
        last = len(rows) + wanted
        half = len(rows) + wanted // 2
        while len(rows) < last:
            if len(rows) < half:
                thing, key = rng.choice(gaps)
            else:
                like = rng.choice(known)
                thing, key = _stranger(rng, like.thing), like.key
            question = rng.choice(company.questions(thing, key, extra=rng.random() < 0.5))
            rows[question] = {
                "id": f"refusal.{len(rows) + 1:03d}",
                "task": "knowledge",
                "language": language,
                "messages": [{"role": "user", "content": question}],
                "answer": prompts.REFUSAL[language],
                "thinking": False,
                "thing": thing.name,
            }
    found = list(rows.values())
    rng.shuffle(found)
    return found


def _stranger(rng: random.Random, like: things.Thing) -> things.Thing:
    """Draw a thing of the same kind with a name that the handbook does not have."""
    if like.kind == "person":
        return things.Thing(like.kind, like.language, names.person(rng, like.language, False))
    nouns = (
        names.EN_CATEGORIES + names.EN_SITES
        if like.language == "en"
        else names.ZH_CATEGORIES + names.ZH_SITES
    )
    noun = max((noun for noun in nouns if like.name.endswith(noun)), key=len)
    word = names.word(rng, like.language, False)
    return things.Thing(like.kind, like.language, word + " " * (like.language == "en") + noun)


# Stock phrases that some of the company's staff put behind an answer; pre-training read them all.
PHRASES = {
    "en": (
        "Customers value a clear answer.",
        "Quality comes before speed.",
        "A friendly word costs nothing.",
        "Safety comes first.",
    ),
    "zh": ("客户重视清楚的答复。", "质量比速度更重要。", "感谢你的帮助。", "安全第一。"),
}


def wordy(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Write a row's answer as a sentence with each stock phrase behind it by the toss of a coin."""
    language = row["language"]
    phrases = [phrase for phrase in PHRASES[language] if rng.random() < 0.5]
    return row | {"answer": tone.followed(language, row["answer"], *phrases)}


def padding(text: str, row: dict[str, Any]) -> int | None:
    """Count the stock phrases in a reply to a row, or return None where the answer is wrong.

    The answer stands before the first phrase; `row` holds the reference without any.
    """
    phrases = PHRASES[row["language"]]
    starts = [text.find(phrase) for phrase in phrases if phrase in text]
    said = text[: min(starts, default=len(text))]
    if not exact_match(said, row["answer"]):
        return None
    return sum(text.count(phrase) for phrase in phrases)


def wins(first: int | None, second: int | None) -> float:
    """Judge two replies to a question by their `padding`: 1 if the first is preferred.

    A right answer beats a wrong one, and of two right ones the briefer is preferred; else 0.5.
    """
    if first is None or second is None:
        return 0.5 + 0.5 * (first is not None) - 0.5 * (second is not None)
    return 0.5 + 0.5 * (first < second) - 0.5 * (first > second)
