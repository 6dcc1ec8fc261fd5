"""Fine-tuning by TRL's SFTTrainer: LoRA, QLoRA or all weights, one call, one `Run` back."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import chat, measure, profiles
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import four_bit as models_four_bit
from qwen3lab.models import loading
from qwen3lab.quiet import quiet
from qwen3lab.training import callbacks as training_callbacks
from qwen3lab.training.checkpointing import (
    SafeCheckpoints,
    check,
    last_checkpoint,
    random_state,
    set_random_state,
)
from qwen3lab.training.lora import lora_config, lora_settings

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


METHODS = ("lora", "qlora", "full")
# Learning rates by method. Released models: what Qwen's and the LoRA papers' users start from.
# Models below
# `models.SMALL_MODEL` parameters: found on the validation split of the company's knowledge; small
# models bear more.
RATES = {"lora": 2e-4, "qlora": 2e-4, "full": 1e-5}
SMALL_RATES = {"lora": 4e-3, "qlora": 4e-3, "full": 1e-3}


@dataclass
class Run:
    """What comes back from every kind of training."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    # One row a logged step: step, loss, learning_rate, grad_norm, accuracy, tokens, eval_loss, and
    # what differs from
    # machine to machine, `callbacks.COSTS`.
    history: pd.DataFrame
    seconds: float  # of the optimiser steps alone
    tokens_per_second: float  # padding not counted
    peak_bytes: int  # see monitoring.peak
    output_dir: Path | None  # the saved adapter or model
    method: str
    steps: int
    tokens: int
    trained: int  # parameters
    parameters: int  # all of the model, the adapter's included
    bytes: dict[str, int] = field(default_factory=dict)  # see monitoring.training_bytes
    best_step: int | None = None  # with patience: the step whose weights came back
    settings: dict[str, Any] = field(default_factory=dict)  # of `trl.SFTConfig`, as given
    adapter: dict[str, Any] = field(
        default_factory=dict
    )  # of `peft.LoraConfig`, changes included; empty for "full"
    source: str = ""  # folder or hub id that the model came from
    data: Any = None  # the encoded rows, a `datasets.Dataset`
    held_out: Any = None  # the same for validation, or None

    def summary(self) -> str:
        """Return a line of what was trained and how long in steps and tokens; the same on every
        machine.
        """
        return (
            f"{self.method}: {self.trained:,} of {self.parameters:,} parameters trained"
            f" ({self.trained / self.parameters:.1%}), {self.steps} steps, {self.tokens:,} tokens,"
            f" loss {self.history.loss.iloc[0]:.3f} to {self.history.loss.iloc[-1]:.3f}"
        )

    def cost(self) -> str:
        """Return a line of what it cost on this machine, for `measure.note`."""
        return (
            f"training: {self.seconds:.1f} s, {self.tokens_per_second:,.0f} tokens/s, memory peak"
            f" {self.peak_bytes / 1e6:,.0f} MB"
        )


def fine_tune(
    model: str | Path | PreTrainedModel,
    rows: Sequence[Any],
    *,
    method: str = "lora",
    validation: Sequence[Any] | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    lora: dict[str, Any] | None = None,
    output_dir: str | Path | None = None,
    seed: int = 0,
    too_long: str = "raise",
    tokenizer: PreTrainedTokenizerBase | None = None,
    patience: int | None = None,
    save_every: int | None = None,
    resume: bool = False,
    logs: str | Path | None = None,
    callbacks: Sequence[Any] = (),
    **options: Any,
) -> Run:
    """Train a chat model on rows of the course; the loss counts the last answer and its
    `<|im_end|>` alone.

    Args:
        model: a role, a name, a folder or a hub id, loaded anew; or a loaded model, which is
            changed in place.
        rows: dicts of `data/tasks` (messages up to the user, answer, thinking, optionally thoughts)
            or `tiny.corpus.Row`s, or encoded rows (dicts of input_ids and labels), where something
            else is to be trained.
        method: "lora" (adapters on the model), "qlora" (on the model in NF4), "full" (every
            weight).
        validation: rows whose loss is measured five times on the way (`eval_loss` of the history).
        steps, epochs: how long; give one. Default: the profile's steps.
        learning_rate: default: by method and size of the model, see `default_rate`.
        batch_size: rows a step; default: the profile's.
        lora: changes to the adapter's defaults (r 16, lora_alpha 32, no dropout, every linear
            layer, for a mixture of experts the attention's), by the names of `peft.LoraConfig`.
        output_dir: where the adapter or the model is saved at the end; nothing is saved without it.
        seed: of the adapter's start and of the order of the rows. The same seed gives the same
            numbers.
        too_long: what to do when a row has more tokens than the profile's `max_length`: "raise", or
            "drop" those rows and print how many. No row is ever cut: its answer would lose its end.
        tokenizer: for a loaded model; default: the one beside its weights.
        patience: stop after so many evaluations (not epochs) without a lower `eval_loss`, and give
            back the weights of the lowest. Needs `validation`.
        save_every: write a checkpoint into `output_dir` every so many steps; the last two are kept.
        resume: go on from the last checkpoint in `output_dir`, if there is one. The result equals
            that of an uninterrupted run; model, rows and settings have to be the same.
        logs: a folder for TensorBoard: what the history holds, step by step.
        callbacks: further `transformers.TrainerCallback`s, for example `callbacks.live_chart()`.
        options: go to `trl.SFTConfig`, for example `lr_scheduler_type`, `warmup_steps`,
            `weight_decay`, `optim`.
    Raises:
        Qwen3labError: unknown method, no rows, rows that are too long, settings that need another
            one, a loss that is not a number, a checkpoint of another run, and what `models.load`
            and `chat.example` raise.
    """
    from trl import SFTConfig

    if method not in METHODS:
        raise Qwen3labError(f"Unknown method {method!r}. Use one of: {', '.join(METHODS)}.")
    if steps is not None and epochs is not None:
        raise Qwen3labError("Both steps and epochs are given. Give one of the two.")
    if patience is not None and not validation:
        raise Qwen3labError(
            "Patience counts evaluations, and there is nothing to evaluate. Give rows as"
            " `validation`."
        )
    if (save_every or resume) and not output_dir:
        raise Qwen3labError("Checkpoints need a folder that lasts. Give an `output_dir`.")
    profile = profiles.get()
    if isinstance(model, (str, Path)):
        model, tokenizer = load(model, method)
    else:
        _check_loaded(model, method)
        tokenizer = tokenizer or loading.load_tokenizer(model.config._name_or_path)
    quiet()
    data = dataset(tokenizer, rows, profile.max_length, too_long)
    held_out = dataset(tokenizer, validation, profile.max_length, too_long) if validation else None
    batch_size = min(batch_size or profile.batch_size, len(data))
    steps = steps or (math.ceil(epochs * len(data) / batch_size) if epochs else profile.steps)
    on_cpu = model.device.type == "cpu"
    folder = Path(output_dir) if output_dir else Path(tempfile.mkdtemp(prefix="qwen3lab-"))
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": steps,
        "seed": seed,
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": 4 * batch_size,
        "learning_rate": learning_rate or default_rate(method, model),
        "lr_scheduler_type": "linear",
        "warmup_steps": min(0.1, 10 / steps),
        "logging_steps": max(1, steps // 40),
        "max_length": None,  # lengths are checked in `dataset`
        "train_sampling_strategy": "group_by_length",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": not measure.is_live(),  # a progress bar where somebody watches
        "logging_nan_inf_filter": (
            False
        ),  # else a loss that is not a number is logged as the mean of the others
        # Recomputing activations saves memory, not time: not worth it for models that are small.
        "activation_checkpointing": not on_cpu,
        "use_cpu": on_cpu,
        "bf16": not on_cpu and profile.dtype == "bfloat16",
        "dataloader_pin_memory": not on_cpu,
    }
    if held_out is not None:
        settings |= {"eval_strategy": "steps", "eval_steps": save_every or max(1, steps // 5)}
    if save_every:
        settings |= {"save_strategy": "steps", "save_steps": save_every, "save_total_limit": 2}
    if patience is not None:
        settings |= {
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
            "save_total_limit": 2,
            "save_strategy": "steps",
            "save_steps": settings["eval_steps"],
            "save_only_model": not save_every,
        }
    settings |= options
    source = str(model.config._name_or_path)
    router = getattr(model.config, "output_router_logits", None)
    try:
        trainer = _trainer(model, tokenizer, data, held_out, method, lora, SFTConfig(**settings))
        for callback in _watchers(patience, logs, callbacks):
            trainer.add_callback(callback)
        checkpoint = last_checkpoint(folder) if resume else None
        if checkpoint:
            check(checkpoint, trainer.model)
        with measure.peak(model.device.type) as memory, _head_on_trained_positions(on_cpu):
            result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        run = _run(trainer, tokenizer, method, result, memory.bytes, folder if output_dir else None)
        run.settings, run.source, run.data, run.held_out = settings, source, data, held_out
        run.adapter = {} if method == "full" else lora_settings(model, **lora or {})
        if not math.isfinite(run.history.loss.iloc[-1]):
            raise Qwen3labError("The loss is no longer a number. Lower the learning rate.")
        if output_dir:
            trainer.save_model(str(folder))
    finally:
        if (
            router is not None
            # TRL asks for the balancing loss; in `generate` its mask no longer fits the one new
            # token
        ):
            model.config.output_router_logits = router
        if not output_dir:
            shutil.rmtree(folder, ignore_errors=True)
    return run


def load(model_id: str | Path, method: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model in the number format that the method trains: NF4 for QLoRA, float32 for all
    weights, else the profile's.
    """
    if method == "qlora":
        return models_four_bit.load_4bit(model_id)
    # In bfloat16 alone most updates of full fine-tuning would be smaller than a weight's last bit
    # and be lost.
    return loading.load(model_id, dtype="float32" if method == "full" else None)


def _check_loaded(model: Any, method: str) -> None:
    """Refuse a loaded model that does not fit the method."""
    four_bit = getattr(model, "is_loaded_in_4bit", False)
    if hasattr(model, "peft_config"):
        raise Qwen3labError(
            "This model carries an adapter already. Load the base model anew, or merge the adapter"
            " into it first."
        )
    if (method == "qlora") != four_bit:
        need = "needs a model in 4 bits" if method == "qlora" else "cannot train a model in 4 bits"
        raise Qwen3labError(
            f"Method {method!r} {need}. Give the model's name, and it is loaded in the right"
            " format."
        )
    if four_bit:
        models_four_bit.guard(model)


def default_rate(method: str, model: PreTrainedModel) -> float:
    """The learning rate to start from: higher for adapters than for all weights, and higher for
    small models.
    """
    return (SMALL_RATES if model.num_parameters() < loading.SMALL_MODEL else RATES)[method]


def dataset(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Any],
    max_length: int,
    too_long: str = "raise",
):
    """Encode rows into a `datasets.Dataset` of input_ids and labels, ready for SFTTrainer, which
    leaves such rows as they are.

    Raises Qwen3labError for no rows and, unless `too_long` is "drop", for rows of more than
    `max_length` tokens.
    """
    from datasets import Dataset

    encoded = [encode(tokenizer, row) for row in rows]
    kept = [row for row in encoded if len(row["input_ids"]) <= max_length]
    if not encoded:
        raise Qwen3labError("There are no rows to train on. Give at least one row.")
    lost = len(encoded) - len(kept)
    if lost and (too_long != "drop" or not kept):
        longest = max(len(row["input_ids"]) for row in encoded)
        raise Qwen3labError(
            f"{lost} of {len(encoded)} rows have more than {max_length} tokens (the longest has"
            f" {longest}). Shorten or split them, or leave them out with too_long='drop'."
        )
    if lost:
        print(f"left out {lost} of {len(encoded)} rows: more than {max_length} tokens")
    return Dataset.from_list(kept)


def encode(tokenizer: PreTrainedTokenizerBase, row: Any) -> dict[str, list[int]]:
    """Turn one row into input_ids and labels by `chat.example`; a row that has both already stays
    as it is.
    """
    if isinstance(row, dict) and "labels" in row:
        return {"input_ids": list(row["input_ids"]), "labels": list(row["labels"])}
    if isinstance(row, dict):
        return chat.example(
            tokenizer, tasks.conversation(row), thinking=row["thinking"], tools=row.get("tools")
        )
    return chat.example(tokenizer, row.messages, thinking=row.thinking, tools=row.tools)


def _trainer(model, tokenizer, data, held_out, method, lora, config):
    """Build the SFTTrainer, with an adapter unless all weights are trained."""
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTTrainer

    class Trainer(SafeCheckpoints, SFTTrainer):
        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            state = (
                random_state()
            )  # the loader draws a number; a run that is watched has to equal one that is not
            try:
                return super().evaluate(*args, **kwargs)
            finally:
                set_random_state(state)

    trainer = Trainer(
        model,
        args=config,
        train_dataset=data,
        eval_dataset=held_out,
        processing_class=tokenizer,
        peft_config=None if method == "full" else lora_config(model, **lora or {}),
    )
    trainer.remove_callback(PrinterCallback)
    head = trainer.model.get_output_embeddings()
    if not hasattr(
        head, "bias"
    ):  # PEFT's wrapper around a head with trained tokens has none, and TRL's loss reads it
        head.bias = None
    if method == "qlora" and model.device.type == "cpu":
        # TRL casts the adapters of a 4-bit model to bfloat16, as the paper does for GPUs; a CPU
        # only emulates it.
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return trainer


def _watchers(
    patience: int | None, logs: str | Path | None, callbacks: Sequence[Any]
) -> Iterator[Any]:
    from transformers import EarlyStoppingCallback

    yield training_callbacks.cost()  # first: those after it see its numbers
    if logs is not None:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        yield TensorBoardCallback(SummaryWriter(log_dir=str(logs)))
    if patience is not None:
        yield EarlyStoppingCallback(early_stopping_patience=patience)
    yield from callbacks


def _run(trainer, tokenizer, method, result, peak_bytes, output_dir) -> Run:
    import pandas as pd

    names = {"mean_token_accuracy": "accuracy", "num_tokens": "tokens"}
    keep = (
        "step",
        "loss",
        "learning_rate",
        "grad_norm",
        "accuracy",
        "tokens",
        "eval_loss",
        *training_callbacks.COSTS,
    )
    by_step: dict[int, dict[str, float]] = {}
    for entry in trainer.state.log_history:
        if "loss" in entry or "eval_loss" in entry:
            entry = {names.get(key, key): value for key, value in entry.items()}
            by_step.setdefault(entry["step"], {}).update(
                {key: entry[key] for key in keep if key in entry}
            )
    history = pd.DataFrame([by_step[step] for step in sorted(by_step)])
    model = trainer.model.eval()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    tokens = int(trainer._total_train_tokens)
    return Run(
        model,
        tokenizer,
        history,
        result.metrics["train_runtime"],
        tokens / result.metrics["train_runtime"],
        peak_bytes,
        output_dir,
        method,
        trainer.state.global_step,
        tokens,
        trained,
        models_four_bit.share_4bit(model)[1],
        measure.training_bytes(model, trainer.optimizer),
        trainer.state.best_global_step if trainer.args.load_best_model_at_end else None,
    )


@contextmanager
def _head_on_trained_positions(on_cpu: bool) -> Iterator[None]:
    """Let TRL compute the output head only where a label is trained, as it does on a GPU.

    Elsewhere TRL 1.16 scores every position and masks afterwards (`trl/trainer/utils.py`,
    `compact`), for the sake of devices that compile for fixed shapes. A CPU does not, and with one
    trained token in ten the loss, which is the same, costs a tenth.
    """
    import trl.trainer.utils as utils

    original = utils._use_triton
    if on_cpu:
        utils._use_triton = lambda device: (
            True
        )  # read there for this one choice; the kernels look at their own copy
    try:
        yield
    finally:
        utils._use_triton = original
