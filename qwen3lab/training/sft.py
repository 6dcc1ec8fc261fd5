"""Fine-tune a chat model with TRL's SFTTrainer: LoRA, QLoRA or all weights, one call, one `Run`."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import chat, measure, profiles
from qwen3lab.data.packing import best_fit
from qwen3lab.data.rows import encode as encode_row
from qwen3lab.data.rows import records
from qwen3lab.errors import Qwen3labError
from qwen3lab.memory import devices
from qwen3lab.models import four_bit, loading
from qwen3lab.quiet import importing, quiet
from qwen3lab.training import optimizers, speed, trl_patches
from qwen3lab.training.callbacks import COSTS, cost, log_last_step, skipped_steps
from qwen3lab.training.lora import lora_config, lora_settings

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


METHODS = ("lora", "qlora", "full")
# Learning rates by method. Released models: what Qwen's and the LoRA papers' users start from.
# Models below `models.SMALL_MODEL` parameters: found on the validation split of the company's
# knowledge; small models bear more.
RATES = {"lora": 2e-4, "qlora": 2e-4, "full": 1e-5}
SMALL_RATES = {"lora": 4e-3, "qlora": 4e-3, "full": 1e-3}


@dataclass
class Run:
    """A training run: the model, its history, its cost and everything needed to repeat it."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    # One row per logged step: step, loss, learning_rate, grad_norm, accuracy, tokens, eval_loss,
    # and what differs from machine to machine, `callbacks.COSTS`.
    history: pd.DataFrame
    seconds: float  # the trainer's train_runtime; of a resumed run the last part's
    tokens_per_second: float  # padding not counted
    peak_bytes: int  # see `measure.peak`
    output_dir: Path | None  # the saved adapter or model
    method: str
    steps: int
    tokens: int
    trained: int  # parameters
    parameters: int  # all of the model, the adapter's included
    bytes: dict[str, int] = field(default_factory=dict)  # see `measure.training_bytes`
    best_step: int | None = None  # with patience: the step whose weights came back
    settings: dict[str, Any] = field(default_factory=dict)  # of `trl.SFTConfig`, as given
    # Of `peft.LoraConfig`, changes included; empty for "full".
    adapter: dict[str, Any] = field(default_factory=dict)
    source: str = ""  # folder or hub id that the model came from
    data: Any = None  # the encoded rows, a `datasets.Dataset`
    held_out: Any = None  # the same for validation, or None
    reasons: tuple[str, ...] = ()  # how the steps were computed, and why (`speed.choose`)

    def summary(self) -> str:
        """Summarise parameters, steps, tokens and loss in one line, equal on every machine."""
        losses = self.history.loss.dropna()  # a line may hold an evaluation alone
        return (
            f"{self.method}: {self.trained:,} of {self.parameters:,} parameters trained"
            f" ({self.trained / self.parameters:.1%}), {self.steps} steps, {self.tokens:,} tokens,"
            f" loss {losses.iloc[0]:.3f} to {losses.iloc[-1]:.3f}"
        )

    def cost(self) -> str:
        """Summarise time, throughput and peak memory in one line, for `measure.note`."""
        return (
            f"training: {self.seconds:.1f} s, {self.tokens_per_second:,.0f} tokens/s, memory peak"
            f" {self.peak_bytes / 1e6:,.0f} MB"
        )


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of a fine-tuning run, checked when they are made.

    Raises:
        Qwen3labError: an unknown method, settings that contradict each other, and an optimiser
            that cannot be had, or not be saved (`optimizers.check`).
    """

    # "lora" (adapters on the model), "qlora" (on the model in NF4), "full" (every weight).
    method: str = "lora"
    # How long; give one of the two. Default: the profile's steps.
    steps: int | None = None
    epochs: float | None = None
    learning_rate: float | None = None  # default: by method and size of the model, `default_rate`
    batch_size: int | None = None  # rows per step; default: the profile's
    # Changes to the adapter's defaults (r 16, lora_alpha 32, no dropout, every linear layer, for a
    # mixture of experts the attention's), by the names of `peft.LoraConfig`.
    lora: dict[str, Any] = field(default_factory=dict)
    # Where the adapter or the model is saved at the end; nothing is saved without it.
    output_dir: str | Path | None = None
    # Of the adapter's start and of the order of the rows. The same seed gives the same numbers.
    seed: int = 0
    # What to do with rows of more tokens than the profile's `max_length`: "raise", or "drop" them
    # and print how many. No row is ever cut: its answer would lose its end.
    too_long: str = "raise"
    # Stop after so many evaluations (not epochs) without a lower `eval_loss`, and give back the
    # weights of the lowest. Needs validation rows.
    patience: int | None = None
    # Write a checkpoint into `output_dir` every so many steps; the last two are kept.
    save_every: int | None = None
    # Go on from the last checkpoint in `output_dir`, if there is one. The result equals that of an
    # uninterrupted run; model, rows and settings have to be the same.
    resume: bool = False
    logs: str | Path | None = None  # folder for TensorBoard: what the history holds, step by step
    # Whether each decoder layer is compiled, or torch's backend for it. Default: `speed.choose`.
    compile: bool | str | None = None
    # The output head: "trl" (tiles, computed again for the backward pass) or "one-pass" (loss and
    # gradient of a frozen head together). Default: `speed.choose`.
    head: str | None = None
    # For `trl.SFTConfig`, for example `lr_scheduler_type`, `warmup_steps`, `optim`; `padding_free`
    # (the rows of a step in one, with position ids) and `packing` (rows of the profile's
    # `max_length` made of several; `batch_size` counts those).
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise Qwen3labError(
                f"Unknown method {self.method!r}. Use one of: {', '.join(METHODS)}."
            )
        if self.steps is not None and self.epochs is not None:
            raise Qwen3labError("Both steps and epochs are given. Give one of the two.")
        if (self.save_every or self.resume) and not self.output_dir:
            raise Qwen3labError("Checkpoints need a folder that lasts. Give an `output_dir`.")
        speed.check(self.compile, self.head, self.method)
        strategy = self.options.get("save_strategy", "no")
        optimizers.check(self.options, bool(self.save_every or self.resume or strategy != "no"))

    @classmethod
    def of(cls, **given: Any) -> Arguments:
        """Make arguments of keywords; those that are no field go to `options`."""
        own = {entry.name for entry in fields(cls)} - {"options"}
        given["lora"] = given.get("lora") or {}
        return cls(
            **{name: value for name, value in given.items() if name in own},
            options={name: value for name, value in given.items() if name not in own},
        )

    def settings(
        self, model: PreTrainedModel, rows: int, validated: bool, folder: Path
    ) -> dict[str, Any]:
        """Return what `trl.SFTConfig` is made of, for a model, a number of rows and a folder.

        Mixed precision follows the profile's dtype (`devices.autocast`), unless `bf16` or `fp16` is
        among the options.
        """
        profile, on_cpu = profiles.get(), model.device.type == "cpu"
        batch_size = min(self.batch_size or profile.batch_size, rows)
        by_epochs = math.ceil(self.epochs * rows / batch_size) if self.epochs else None
        wanted = self.steps or by_epochs or profile.steps
        steps = profiles.smoke_steps(wanted)
        if steps < wanted:
            print(f"smoke run: {steps} of {wanted} steps")
        found: dict[str, Any] = {
            "output_dir": str(folder),
            "max_steps": steps,
            "seed": self.seed,
            "per_device_train_batch_size": batch_size,
            "per_device_eval_batch_size": 4 * batch_size,
            "learning_rate": self.learning_rate or default_rate(self.method, model),
            "lr_scheduler_type": "linear",
            "warmup_steps": min(0.1, 10 / steps),
            "logging_steps": max(1, steps // 40),
            "max_length": None,  # lengths are checked in `dataset`
            "train_sampling_strategy": "group_by_length",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": not measure.is_live(),  # a progress bar where somebody watches
            # Else a loss that is not a number is logged as the mean of the others.
            "logging_nan_inf_filter": False,
            # Recomputing activations saves memory, not time: not worth it for small models.
            "activation_checkpointing": not on_cpu,
            "use_cpu": on_cpu,
            # Only CUDA copies from pinned memory; on MPS the loader would warn and not do it.
            "dataloader_pin_memory": model.device.type == "cuda",
        }
        mixed = devices.autocast(model.device.type, profile.dtype)
        if self.options.get("packing"):
            found["max_length"] = profile.max_length
        if mixed.keys() & self.options.keys():
            mixed = dict.fromkeys(mixed, False)  # the caller chose, and the two exclude each other
        found |= mixed
        if validated:
            found |= {"eval_strategy": "steps", "eval_steps": self.save_every or max(1, steps // 5)}
        if self.save_every:
            found |= {"save_strategy": "steps", "save_steps": self.save_every}
        if self.patience is not None:
            every = self.options.get("eval_steps", found["eval_steps"])
            found |= {
                "load_best_model_at_end": True,
                "metric_for_best_model": "eval_loss",
                "greater_is_better": False,
                "save_strategy": "steps",
                # A multiple of the steps between evaluations, as the library asks.
                "save_steps": math.ceil(found["eval_steps"] / every) * every,
                "save_only_model": not self.save_every,
            }
        if found["save_strategy"] == "steps":
            found["save_total_limit"] = 2
        return found | self.options


def fine_tune(
    model: str | Path | PreTrainedModel,
    rows: Sequence[Any],
    *,
    validation: Sequence[Any] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    callbacks: Sequence[Any] = (),
    **arguments: Any,
) -> Run:
    """Fine-tune a chat model with TRL's SFTTrainer, the loss on the last answer and its end alone.

    Args:
        model: a role, a name, a folder or a hub id, loaded fresh; or a loaded model, which is
            changed in place.
        rows: a sequence, a data frame or a `datasets.Dataset`. Each row has messages that end with
            the assistant (as `formats.load` gives them), messages up to the user and the answer
            apart (as in `data/tasks`), or a prompt and a completion; or it is encoded already
            (input_ids and labels), where something else is to be trained.
        validation: rows whose loss is measured five times on the way (`eval_loss` of the history).
        tokenizer: for a loaded model; default: the one beside its weights.
        callbacks: further `transformers.TrainerCallback`s, for example `callbacks.live_chart()`.
        arguments: the fields of `Arguments`: method, steps or epochs, learning_rate, batch_size,
            lora, output_dir, seed, too_long, patience, save_every, resume, logs, compile, head; all
            else goes to `trl.SFTConfig`.
    Raises:
        Qwen3labError: what `Arguments` refuses, no rows, rows that are too long, a loss that is not
            a number, a checkpoint of another run, and what `models.load` and `chat.example` raise.
    """
    # 1. What was asked for, checked before anything is loaded.
    asked = Arguments.of(**arguments)
    validation = [] if validation is None else records(validation)
    if asked.patience is not None and not validation:
        raise Qwen3labError(
            "Patience counts evaluations, and there is nothing to evaluate. Give rows as"
            " `validation`."
        )
    with importing():
        from trl import SFTTrainer  # noqa: F401
    quiet()
    # 2. Model, tokenizer and encoded rows.
    if isinstance(model, (str, Path)):
        model, tokenizer = load(model, asked.method)
    else:
        _check_loaded(model, asked.method)
        tokenizer = tokenizer or loading.load_tokenizer(model.config.name_or_path)
    length, source = profiles.get().max_length, str(model.config.name_or_path)
    data = dataset(tokenizer, rows, length, asked.too_long)
    held_out = dataset(tokenizer, validation, length, asked.too_long) if validation else None
    # 3. Training, in a folder that lasts or in one that does not.
    lasting = Path(asked.output_dir) if asked.output_dir else None
    folder = lasting or Path(tempfile.mkdtemp(prefix="qwen3lab-"))
    count = packed(data, length) if asked.options.get("packing") else len(data)
    settings = asked.settings(model, count, held_out is not None, folder)
    chosen = speed.choose(asked, model, settings["max_steps"])
    for reason in chosen.chosen:
        print(reason)
    end = chat.end_of_turn(tokenizer)
    if end not in (None, tokenizer.eos_token):  # a base model's end token ends a text, not a turn
        settings = {"eos_token": end} | settings
    router = getattr(model.config, "output_router_logits", None)
    try:
        run = _train(model, tokenizer, data, held_out, asked, settings, chosen, callbacks, lasting)
    finally:
        # TRL asks for the balancing loss; in `generate` its mask no longer fits the one new token.
        if router is not None:
            model.config.output_router_logits = router
        if not lasting:
            shutil.rmtree(folder, ignore_errors=True)
    # 4. What the run was made from, for cards and exports.
    run.settings, run.source, run.data, run.held_out = settings, source, data, held_out
    run.reasons = chosen.reasons
    run.adapter = {} if asked.method == "full" else lora_settings(model, **asked.lora)
    return run


def _train(model, tokenizer, data, held_out, asked, settings, chosen, callbacks, lasting) -> Run:
    """Train, save where a folder lasts, and put together the `Run`."""
    from trl import SFTConfig

    from qwen3lab.training.checkpointing import (
        SafeCheckpoints,
        check,
        ended,
        last_checkpoint,
        remove_pickles,
        restore,
    )

    # Of the library's two counts of tokens the one that a checkpoint keeps.
    counted = {"include_num_input_tokens_seen": "non_padding"} | settings
    trainer = _trainer(model, tokenizer, data, held_out, asked, SFTConfig(**counted))
    optimizers.create(trainer)
    checkpoint = last_checkpoint(lasting) if asked.resume else None
    if checkpoint:
        check(checkpoint, trainer.model)
    for callback in [SafeCheckpoints(checkpoint), *_watchers(asked, callbacks)]:
        trainer.add_callback(callback)
    with (
        measure.peak(model.device.type) as memory,
        trl_patches.head_on_trained_positions(),
        speed.applied(chosen, trainer),
    ):
        if checkpoint and ended(checkpoint):  # the library would train one step more
            restore(trainer, checkpoint)
            seconds = 0.0
        else:
            result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            seconds = result.metrics["train_runtime"]
    settle = getattr(trainer.optimizer, "eval", None)
    if settle and not trainer.args.load_best_model_at_end:
        settle()  # schedule-free ones train other weights than those that they recommend
    if lasting:  # first of all: whatever fails from here on, the weights are there
        trainer.save_model(str(lasting))
        remove_pickles(lasting)
    run = _run(trainer, tokenizer, asked.method, seconds, memory.bytes, lasting)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if not math.isfinite(losses[-1]):
        said = "The loss is no longer a number. Lower the learning rate."
        if trainer.args.fp16:
            said += (
                " In float16 it may also have overflowed: load the model with dtype='float32' and"
                " give fp16=False."
            )
        raise Qwen3labError(said)
    return run


def load(model_id: str | Path, method: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model in the precision that the method trains.

    NF4 for QLoRA, float32 for all weights, otherwise the profile's dtype.
    """
    if method == "qlora":
        return four_bit.load_4bit(model_id)
    # In bfloat16 alone most updates of full fine-tuning would be smaller than a weight's last bit
    # and be lost.
    return loading.load(model_id, dtype="float32" if method == "full" else None)


def _check_loaded(model: Any, method: str) -> None:
    """Refuse a loaded model that does not fit the method."""
    in_4bit = getattr(model, "is_loaded_in_4bit", False)
    if hasattr(model, "peft_config"):
        raise Qwen3labError(
            "This model carries an adapter already. Load the base model anew, or merge the adapter"
            " into it first."
        )
    if (method == "qlora") != in_4bit:
        need = "needs a model in 4 bits" if method == "qlora" else "cannot train a model in 4 bits"
        raise Qwen3labError(
            f"Method {method!r} {need}. Give the model's name, and it is loaded in the right"
            " format."
        )
    if in_4bit:
        four_bit.guard(model)


def default_rate(method: str, model: PreTrainedModel) -> float:
    """Return the default learning rate: higher for adapters and for small models."""
    return (SMALL_RATES if model.num_parameters() < loading.SMALL_MODEL else RATES)[method]


def dataset(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Any],
    max_length: int,
    too_long: str = "raise",
):
    """Encode rows into a `datasets.Dataset` of input_ids and labels for SFTTrainer.

    SFTTrainer leaves such rows as they are. Raises Qwen3labError for no rows and, unless `too_long`
    is "drop", for rows of more than `max_length` tokens.
    """
    from datasets import Dataset

    encoded = [encode(tokenizer, row) for row in records(rows)]
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


def packed(data: Any, max_length: int) -> int:
    """Count the rows that TRL packs encoded rows into; it packs 1,000 at a time."""
    lengths = [len(ids) for ids in data["input_ids"]]
    pieces = [lengths[start : start + 1000] for start in range(0, len(lengths), 1000)]
    return sum(len(best_fit(piece, max_length)) for piece in pieces)


def encode(tokenizer: PreTrainedTokenizerBase, row: Any) -> dict[str, list[int]]:
    """Encode one row as input_ids and labels with `chat.example`; an encoded row is kept."""
    if isinstance(row, dict):
        return encode_row(tokenizer, row)
    return chat.example(tokenizer, row.messages, thinking=row.thinking, tools=row.tools)


def _trainer(model, tokenizer, data, held_out, asked: Arguments, config):
    """Build the SFTTrainer, with an adapter unless all weights are trained."""
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTTrainer

    from qwen3lab.training.checkpointing import random_state, set_random_state

    class Trainer(SFTTrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            # Compiled layers are those of a copy, and the library asks the model itself whether it
            # is trained or evaluated.
            self.model.train()
            return super().training_step(*args, **kwargs)

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            # The loader draws a number; a run that is watched has to equal one that is not.
            state = random_state()
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
        peft_config=None if asked.method == "full" else lora_config(model, **asked.lora),
    )
    trainer.remove_callback(PrinterCallback)
    trl_patches.give_head_a_bias(trainer.model)
    if asked.method != "full" and (config.fp16 or asked.method == "qlora" and not config.bf16):
        trl_patches.train_in_float32(trainer.model)
    check_scaled(trainer.model, config.fp16)
    return trainer


def check_scaled(model: Any, fp16: bool) -> None:
    """Check that everything that is trained under loss scaling is float32.

    torch scales the gradients of float32 weights back and of no others: it would stop in the first
    step ("Attempting to unscale FP16 gradients."). PEFT makes adapters float32 (its
    `autocast_adapter_dtype`), TRL turns those of a 4-bit model into bfloat16, and a head or
    embedding that is trained beside them has the model's format; `trl_patches.train_in_float32`
    mends both.

    Raises:
        Qwen3labError: a trained weight has another format.
    """
    import torch

    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    other = [(name, p) for name, p in trained if p.dtype != torch.float32]
    if fp16 and other:
        name, parameter = other[0]
        raise Qwen3labError(
            f"Training with fp16 scales the loss, which needs float32 weights, and {len(other)} of"
            f" {len(trained)} trained tensors are not, for example {name}"
            f" ({str(parameter.dtype).removeprefix('torch.')}). Give the model's name, and it is"
            " loaded in the right format, or load it with dtype='float32'."
        )


def _watchers(asked: Arguments, callbacks: Sequence[Any]) -> Iterator[Any]:
    from transformers import EarlyStoppingCallback

    yield log_last_step()
    yield skipped_steps()
    yield cost()  # before the others: they see its numbers
    if asked.logs is not None:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        yield TensorBoardCallback(SummaryWriter(log_dir=str(asked.logs)))
    if asked.patience is not None:
        yield EarlyStoppingCallback(early_stopping_patience=asked.patience)
    yield from callbacks


def _run(trainer, tokenizer, method, seconds, peak_bytes, output_dir) -> Run:
    import pandas as pd

    names = {"mean_token_accuracy": "accuracy", "num_input_tokens_seen": "tokens"}
    keep = ("step", "loss", "learning_rate", "grad_norm", "accuracy", "tokens", "eval_loss", *COSTS)
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
    tokens, best = trainer.state.num_input_tokens_seen, trainer.args.load_best_model_at_end
    return Run(
        model=model,
        tokenizer=tokenizer,
        history=history,
        seconds=seconds,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        peak_bytes=peak_bytes,
        output_dir=output_dir,
        method=method,
        steps=trainer.state.global_step,
        tokens=tokens,
        trained=trained,
        parameters=four_bit.share_4bit(model)[1],
        bytes=measure.training_bytes(model, trainer.optimizer),
        best_step=trainer.state.best_global_step if best else None,
    )
