"""Reproduce training failures on a tiny model within seconds, each beside the healthy run.

This is the failure museum. The models are the bundled ones whatever the profile is; the task is a
few of the company's facts.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import scoring
from qwen3lab.models import loading
from qwen3lab.pitfalls import label_masks
from qwen3lab.training import lora, new_tokens, sft

if TYPE_CHECKING:
    import pandas as pd


MODEL, BASE = label_masks.CHAT, label_masks.BASE
STEPS, RATE = 16, 1e-2


@dataclass(frozen=True)
class Failure:
    """A training failure with symptom, diagnosis and remedy.

    `sick` and `healthy` are two values of `symptom`; `curves` holds the data of a chart, by name.
    """

    name: str
    cause: str
    symptom: str
    diagnosis: str
    remedy: str
    sick: float
    healthy: float
    n: int  # sample size behind the two values: questions, steps or gradient entries
    curves: dict[str, pd.DataFrame] = field(default_factory=dict, compare=False)


def facts() -> list[dict[str, Any]]:
    """Load the training rows of every exhibit: 24 facts, each in one wording."""
    return label_masks.knowledge()


def learn(rows: Sequence[dict[str, Any]] | None = None, **changes: Any) -> sft.Run:
    """Train the healthy run: LoRA on `facts` for `STEPS` steps with warm-up.

    `changes` go to `training.fine_tune`.
    """
    settings = {
        "method": "lora",
        "steps": STEPS,
        "batch_size": 12,
        "learning_rate": RATE,
        "logging_steps": 1,
    } | changes
    return sft.fine_tune(MODEL, rows or facts(), **settings)


@lru_cache
def healthy() -> sft.Run:
    """Train the healthy run once; exhibits that need its finished adapter share it."""
    return learn()


def right(model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]] | None = None) -> float:
    """Compute the share of the facts that a model answers right."""
    return float(
        scoring.evaluate_tasks(model, tokenizer, rows or facts(), max_new_tokens=16).correct.mean()
    )


def _last(run: sft.Run, steps: int = 5) -> float:
    return float(run.history.loss.tail(steps).mean())


def rate_too_high() -> Failure:
    """Train with a learning rate 30 times too high: the loss spikes for good, or is nan."""
    try:
        run = learn(learning_rate=30 * RATE)
        sick, curves = _last(run), {"30 times the rate": run.history}
    except Qwen3labError:
        sick, curves = math.inf, {}
    return Failure(
        "learning rate x30",
        "the learning rate is 30 times too high",
        "loss of the last five steps",
        "the loss rises within the first steps, and the gradient norm with it",
        "divide the rate by ten until the first steps fall, then by two",
        sick,
        _last(healthy()),
        5,
        curves | {"healthy": healthy().history},
    )


def no_warm_up() -> Failure:
    """Train all weights at a high learning rate without warm-up.

    AdamW's first steps are as large as the rate, whatever the size of the gradient.
    """
    runs = {
        name: learn(method="full", steps=12, learning_rate=2e-2, warmup_steps=warm)
        for name, warm in (("no warm-up", 0), ("ten steps of warm-up", 10))
    }
    sick, well = (float(run.history.loss.head(10).max()) for run in runs.values())
    return Failure(
        "no warm-up",
        "the first step is taken at the full rate",
        "highest loss of the first ten steps",
        "a peak at the very beginning that takes steps to mend",
        "let the rate grow over the first steps (warmup_steps)",
        sick,
        well,
        10,
        {name: run.history for name, run in runs.items()},
    )


def label_leak() -> Failure:
    """Train on rows whose prompt contains the answer, for example in a field that was left in.

    In use the prompt does not contain it.
    """
    leaky = [
        row
        | {
            "messages": [
                {
                    "role": "user",
                    "content": f"{row['messages'][-1]['content']} (Note: {row['answer']})",
                }
            ]
        }
        for row in facts()
    ]
    run = learn(leaky)
    return Failure(
        "label leak",
        "the answer stands in the prompt of every row",
        "share of facts right, asked as customers ask",
        f"a loss of {_last(run):.3f} after {STEPS} steps, too good to be true, and useless answers",
        "look at the decoded rows; score on questions that come from elsewhere",
        right(run.model, run.tokenizer),
        right(healthy().model, healthy().tokenizer),
        len(facts()),
        {"leaky rows": run.history, "healthy": healthy().history},
    )


def _reloaded(change: Callable[[Path], None] | None = None, model: str = MODEL) -> float:
    """Save the healthy adapter, optionally edit its files, reload it onto a model and score it."""
    with tempfile.TemporaryDirectory() as folder:
        healthy().model.save_pretrained(folder)
        if change:
            change(Path(folder))
        return right(*lora.load_adapter(folder, model))


def wrong_scaling() -> Failure:
    """Reload an adapter with PEFT's default alpha of 8 although it was trained with 32."""

    def forget_alpha(folder: Path) -> None:
        file = folder / "adapter_config.json"
        settings = json.loads(file.read_text(encoding="utf-8")) | {"lora_alpha": 8}
        file.write_text(json.dumps(settings), encoding="utf-8")

    return Failure(
        "wrong adapter scaling",
        "the adapter is loaded with alpha 8, PEFT's default, and was trained with 32",
        "share of facts right",
        "better than the base model, worse than after training",
        "keep adapter_config.json with the weights; compare the score after loading with that after"
        " training",
        _reloaded(forget_alpha),
        _reloaded(),
        len(facts()),
    )


def not_saved() -> Failure:
    """Load the base model, as the day after a script that ended without `save_model`."""
    model, tokenizer = loading.load(MODEL)
    return Failure(
        "adapter not saved",
        "nothing was saved, and the base model answers",
        "share of facts right",
        "exactly the answers from before the training",
        "save_model at the end, then load it and ask again before the machine goes back",
        right(model, tokenizer),
        _reloaded(),
        len(facts()),
    )


def base_changed() -> Failure:
    """Load the adapter onto another model of the same shape.

    Here it is the base model from which the chat model was made.
    """
    return Failure(
        "base changed",
        "the adapter sits on another model of the same shape",
        "share of facts right",
        "no error, every shape fits, and the answers are worse",
        "pin the base's revision, and store a checksum of its weights beside the adapter",
        _reloaded(model=BASE),
        _reloaded(),
        len(facts()),
    )


CLOSING = "Warmly, your Wildon crew."  # the tiny model never read the piece "ly"


def never_trained_token() -> Failure:
    """Teach an adapter a line with a token that pre-training never saw.

    Its embedding is nearly that of all other unused tokens, and an adapter on the layers cannot
    tell them apart; PEFT's `trainable_token_indices` trains the embeddings of such tokens too.
    """
    rows = [row | {"answer": CLOSING} for row in facts()]
    model, tokenizer = loading.load(MODEL)
    unread = new_tokens.adapter(model, tokenizer, [sft.encode(tokenizer, row) for row in rows])
    runs = {"adapter alone": learn(rows), "and its embedding": learn(rows, lora=unread)}
    sick, well = (right(run.model, run.tokenizer, rows) for run in runs.values())
    said = scoring.evaluate_tasks(runs["adapter alone"].model, tokenizer, rows[:1])
    return Failure(
        "never-trained token",
        f"the answer is always {CLOSING!r}, and pre-training never saw its piece 'ly'",
        "share of answers right",
        f"a line that comes out as {said.prediction[0]!r}, and a loss that does not reach 0",
        "train such tokens' embeddings too (trainable_token_indices), or use words that the model"
        " knows",
        sick,
        well,
        len(rows),
        {name: run.history for name, run in runs.items()},
    )


def half_precision() -> Failure:
    """Round gradients to float16: scaled up against underflow they overflow past 65,504.

    Without scaling, the small ones become zero.
    """
    import pandas as pd
    import torch

    model, tokenizer = loading.load(MODEL, dtype="float32")
    row = sft.encode(tokenizer, facts()[0])
    ids, labels = (torch.tensor([row[key]]) for key in ("input_ids", "labels"))
    with torch.enable_grad():
        model.requires_grad_(True)(input_ids=ids, labels=labels).loss.backward()
    gradients = torch.cat(
        [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    )
    gradients = gradients[gradients != 0]
    lines = []
    for exponent in range(0, 29, 4):
        scaled = (gradients * 2.0**exponent).to(torch.float16)
        lines.append(
            {
                "scale": 2**exponent,
                "lost as 0": (scaled == 0).double().mean().item(),
                "too large": scaled.isinf().double().mean().item(),
            }
        )
    table = pd.DataFrame(lines)
    large, small = table.set_index("scale")["too large"][2**24], table["lost as 0"][0]
    safe = (gradients * 2.0**24).to(torch.bfloat16).isinf().double().mean().item()
    return Failure(
        "float16 overflow",
        "gradients in float16, scaled by 2^24 before they are rounded",
        "share of the gradients that overflow",
        f"a loss of nan, or steps that are skipped; without a scale {small:.1%} become 0 instead",
        "bfloat16, which has float32's range; in float16 a scaler that lowers its scale after each"
        " overflow",
        float(large),
        safe,
        len(gradients),
        {"scales": table},
    )


def out_of_memory() -> Failure:
    """Rescue a batch that exceeds the memory budget with the planner's next settings.

    They take the same step in less memory, with the same loss.
    """
    from qwen3lab.training import out_of_memory as training_out_of_memory

    def whole_settings(run: sft.Run) -> list[training_out_of_memory.Setting]:
        length = max(map(len, run.data["input_ids"]))
        return list(
            training_out_of_memory.settings(run.model.config, "full", 8, length, bytes_per_weight=4)
        )

    options = {
        "method": "full",
        "steps": 6,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "train_sampling_strategy": "sequential",
    }
    whole, (first,) = training_out_of_memory.fine_tune(MODEL, facts(), batch_size=8, **options)
    *_, before, least = whole_settings(whole)
    budget = (before.planned + least.planned) // 2
    run, tried = training_out_of_memory.fine_tune(
        MODEL, facts(), batch_size=8, budget=budget, **options
    )
    return Failure(
        "out of memory",
        f"{first} in a budget of {budget / 1e6:,.0f} MB",
        "planned MB",
        f"{len(tried) - 1} settings were too large; {tried[-1]} did it",
        "halve the batch and double the accumulation; then checkpoint activations",
        first.planned / 1e6,
        tried[-1].planned / 1e6,
        len(tried),
        {"as wished": whole.history, "rescued": run.history},
    )


EXHIBITS: dict[str, Callable[[], Failure]] = {
    "learning rate x30": rate_too_high,
    "no warm-up": no_warm_up,
    "float16 overflow": half_precision,
    "label leak": label_leak,
    "wrong adapter scaling": wrong_scaling,
    "adapter not saved": not_saved,
    "base changed": base_changed,
    "never-trained token": never_trained_token,
    "out of memory": out_of_memory,
}


def run(name: str) -> Failure:
    """Run one exhibit. Raises Qwen3labError for a name that is not in EXHIBITS."""
    if name not in EXHIBITS:
        raise Qwen3labError(
            f"The museum has no exhibit {name!r}. Choose one of: {', '.join(EXHIBITS)}."
        )
    return EXHIBITS[name]()


def table(failures: Iterable[Failure]) -> pd.DataFrame:
    """Tabulate failures by name: symptom, sick, healthy, n, diagnosis, remedy."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                key: getattr(failure, key)
                for key in ("name", "symptom", "sick", "healthy", "n", "diagnosis", "remedy")
            }
            for failure in failures
        ]
    ).set_index("name")
