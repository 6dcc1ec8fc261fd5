"""Distil a large model into a small one: by its answers, by its distributions, or on-policy.

Kim & Rush 2016, "Sequence-Level Knowledge Distillation"; Hinton et al. 2015, "Distilling the
Knowledge in a Neural Network"; Agarwal et al. 2023, "On-Policy Distillation of Language Models"
(TRL's `DistillationTrainer`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab import chat, profiles
from qwen3lab.data.rows import as_exams, ask
from qwen3lab.errors import Qwen3labError
from qwen3lab.memory import devices
from qwen3lab.models import batching
from qwen3lab.models.generation import generate_ids
from qwen3lab.quiet import quiet

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


LONGEST = 24  # max_new_tokens of an answer


def half(model: PreTrainedModel) -> PreTrainedModel:
    """Copy a model with every second layer, the first one included, as the initial student.

    The embeddings are the same (Sanh et al. 2019, "DistilBERT"). Raises Qwen3labError for a model
    of one layer.
    """
    import copy

    layers = model.config.num_hidden_layers
    if layers < 2:
        raise Qwen3labError("A model of one layer has no half. Take a deeper teacher.")
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(range(0, layers, 2))
    config.layer_types = config.layer_types[::2]
    student = type(model)(config).to(model.dtype)
    kept = {
        f"model.layers.{old}.": f"model.layers.{new}."
        for new, old in enumerate(range(0, layers, 2))
    }
    weights = {}
    for name, weight in model.state_dict().items():
        if not name.startswith("model.layers."):
            weights[name] = weight
        for old, new in kept.items():
            if name.startswith(old):
                weights[new + name[len(old) :]] = weight
    student.load_state_dict(weights)
    student.generation_config = copy.deepcopy(model.generation_config)
    student.config.name_or_path = model.config.name_or_path
    return student.to(model.device).eval()


def answered(
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    longest: int = LONGEST,
) -> list[dict[str, list[int]]]:
    """Label the rows' prompts with the teacher's own greedy answers (sequence-level distillation).

    The rows' own answers are not read; rows are of any kind that `fine_tune` takes.

    Returns:
        Encoded rows (input_ids, labels) in the order of `rows`, without those that the teacher did
        not end within `longest` tokens.
    """
    prompts = [ask(tokenizer, row) for row in as_exams(rows)]
    end = tokenizer.convert_tokens_to_ids(chat.end_of_turn(tokenizer) or tokenizer.eos_token)
    found = zip(prompts, generate_ids(teacher, tokenizer, prompts, max_new_tokens=longest))
    return [
        {
            "input_ids": [*prompt, *answer, end],
            "labels": [chat.IGNORED] * len(prompt) + [*answer, end],
        }
        for prompt, answer in found
        if len(answer) < longest
    ]


def divergence(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Compute T² · KL(teacher ‖ student), averaged over tokens: the loss of logit distillation.

    Args:
        student, teacher: logits [tokens, vocabulary].
        temperature: divides both; above 1 the unlikely tokens count more. T² keeps the gradient's
            magnitude (Hinton et al. 2015, section 2).
    """
    import torch

    q, p = (
        torch.log_softmax(student / temperature, -1),
        torch.log_softmax(teacher / temperature, -1),
    )
    return temperature**2 * (p.exp() * (p - q)).sum(-1).mean()


def scored(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    where: torch.Tensor,
) -> torch.Tensor:
    """Compute the logits that predict the tokens marked in `where` [rows, length].

    Returns [marked tokens, vocabulary]; the head runs only on these positions.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # of an adapter
    hidden = model.model(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False
    ).last_hidden_state
    return model.lm_head(hidden[:, :-1][where[:, 1:]])  # position t predicts token t + 1


def match(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, list[int]]],
    *,
    steps: int,
    learning_rate: float,
    batch_size: int = 32,
    temperature: float = 1.0,
    seed: int = 0,
) -> PreTrainedModel:
    """Train a student in place on the teacher's distribution at every labelled token; returns it.

    All weights are trained; the loss is `divergence`.

    Args:
        rows: encoded rows, as `answered` or `training.encode` return them. The tokens themselves
            matter only as context.
    Raises:
        Qwen3labError: no rows; two vocabularies.
    """
    import torch
    from transformers import Trainer, TrainingArguments

    _check(student, teacher, rows)

    def collate(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        ids, mask = batching.pad([row["input_ids"] for row in batch], tokenizer.pad_token_id)
        labels, _ = batching.pad([row["labels"] for row in batch], chat.IGNORED)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    class Matcher(Trainer):
        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ):
            where = inputs["labels"] != chat.IGNORED
            with torch.no_grad():
                wanted = scored(teacher, inputs["input_ids"], inputs["attention_mask"], where)
            loss = divergence(
                scored(model, inputs["input_ids"], inputs["attention_mask"], where),
                wanted,
                temperature,
            )
            return (loss, None) if return_outputs else loss

    teacher.eval()
    return _run(
        lambda folder: Matcher(
            student,
            TrainingArguments(**_settings(folder, student, steps, learning_rate, batch_size, seed)),
            train_dataset=list(rows),
            data_collator=collate,
        )
    )


def on_policy(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    *,
    steps: int,
    learning_rate: float,
    batch_size: int = 32,
    beta: float = 1.0,
    seed: int = 0,
    longest: int = LONGEST,
) -> PreTrainedModel:
    """Distil on-policy: train a student on the teacher's distribution along its own answers.

    In place, with TRL's `DistillationTrainer`; returns the student.

    Args:
        rows: of `data/tasks`; only their prompts are read.
        beta: 1 reverse KL(student ‖ teacher), 0 forward KL, between them the generalised
            Jensen-Shannon divergence.
        longest: max_new_tokens of an answer.
    Raises:
        Qwen3labError: no rows; two vocabularies.
    """
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    _check(student, teacher, rows)
    data = Dataset.from_list([{"prompt": row["messages"]} for row in rows])
    settings = _settings("", student, steps, learning_rate, batch_size, seed) | {
        "max_completion_length": longest,
        "beta": beta,
        "temperature": 1.0,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    return _run(
        lambda folder: DistillationTrainer(
            student,
            teacher,
            DistillationConfig(**settings | {"output_dir": folder}),
            train_dataset=data,
            processing_class=tokenizer,
        )
    )


def _check(student: Any, teacher: Any, rows: Sequence[Any]) -> None:
    if not rows:
        raise Qwen3labError("There are no rows to distil on. Give at least one.")
    if student.config.vocab_size != teacher.config.vocab_size:
        raise Qwen3labError(
            f"The student has {student.config.vocab_size:,} tokens and the teacher"
            f" {teacher.config.vocab_size:,}. Take two models with the same tokenizer."
        )


def _settings(
    folder: str,
    model: PreTrainedModel,
    steps: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
) -> dict[str, Any]:
    """Build the trainer settings of `training.fine_tune`, to keep methods comparable."""
    kind, scaled = model.device.type, str(model.dtype) == "torch.float16"
    if scaled:  # only the gradients of float32 weights can be scaled
        model.float()
    steps = profiles.smoke_steps(steps)
    return {
        "output_dir": folder,
        "max_steps": steps,
        "learning_rate": learning_rate,
        "per_device_train_batch_size": batch_size,
        "seed": seed,
        "lr_scheduler_type": "linear",
        "warmup_steps": min(0.1, 10 / steps),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "use_cpu": kind == "cpu",
        "activation_checkpointing": False,
        "dataloader_pin_memory": kind == "cuda",
        "remove_unused_columns": False,
    } | devices.autocast(kind, "float16" if scaled else "float32")


def _run(build: Any) -> PreTrainedModel:
    from transformers.trainer_callback import PrinterCallback

    quiet()
    folder = tempfile.mkdtemp(prefix="qwen3lab-")
    try:
        trainer = build(folder)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return trainer.model.eval()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
