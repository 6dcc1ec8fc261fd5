"""Export a run for other tools: rows, a YAML for `trl sft`, and `accelerate launch` commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from qwen3lab.errors import Qwen3labError
from qwen3lab.models import loading
from qwen3lab.training.sft import Run

# Names in `trl.ModelConfig` of the settings of `peft.LoraConfig`; it has no others.
ADAPTER = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
    "target_parameters": "lora_target_parameters",
    "modules_to_save": "lora_modules_to_save",
    "task_type": "lora_task_type",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}
TEMPLATE = "chat_template.jinja"
OURS = ("output_dir",)  # overwritten by `config`
# `fine_tune` restores the random state after an evaluation; `trl sft` does not.
QUIET = (
    "# Evaluation on the way is off: in `trl sft` it draws random numbers, and the rows of later"
    " epochs would come in another order.\n"
)


def config(run: Run, folder: Path) -> dict[str, Any]:
    """Convert a run to the settings that `trl sft --config` reads.

    A local model is named by its path relative to `folder`, where the command will run, and a chat
    template that is not the model's by its file, see `export`. Raises Qwen3labError for an adapter
    setting that `trl sft` does not know, for tokens that were added after the model was loaded,
    and for QLoRA in float16, where only `fine_tune` keeps the adapters in the float32 that loss
    scaling needs.
    """
    if run.method == "qlora" and run.settings.get("fp16"):
        raise Qwen3labError(
            "`trl sft` turns the adapters of a 4-bit model into bfloat16, and the loss scaling of"
            " fp16 cannot train those. Run it from Python instead, or use method 'lora'."
        )
    source = os.path.relpath(run.source, folder) if Path(run.source).is_dir() else run.source
    found: dict[str, Any] = {
        "model_name_or_path": source,
        "dtype": str(run.model.dtype).removeprefix("torch."),
        "dataset_name": "rows",
        "output_dir": "trained",
    }
    theirs = loading.load_tokenizer(run.source) if run.source else run.tokenizer
    if theirs.get_added_vocab() != run.tokenizer.get_added_vocab():
        raise Qwen3labError(
            "`trl sft` loads the model that the run began with, and its tokenizer lacks the tokens"
            " that were added. Save model and tokenizer into one folder, and train that."
        )
    if theirs.chat_template != run.tokenizer.chat_template:
        found["chat_template_path"] = TEMPLATE
    if run.method != "full":
        strange = set(run.adapter) - set(ADAPTER) - {"bias"}
        if strange or run.adapter.get("bias", "none") != "none":
            raise Qwen3labError(
                "`trl sft` does not know these settings of the adapter:"
                f" {', '.join(sorted(strange)) or 'bias'}. Run it from Python instead."
            )
        found |= {"use_peft": True} | {
            ADAPTER[key]: value for key, value in run.adapter.items() if key in ADAPTER
        }
    if run.method == "qlora":
        found |= {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": True}
    settings = {key: value for key, value in run.settings.items() if key not in OURS}
    if not settings.get("load_best_model_at_end"):  # early stopping needs the evaluations
        settings = {
            key: value
            for key, value in settings.items()
            if key not in ("eval_strategy", "eval_steps")
        }
    # Without what only serves a notebook or is undone afterwards.
    return (
        found
        | {key: value for key, value in settings.items() if key != "disable_tqdm"}
        | {"save_strategy": settings.get("save_strategy", "no")}
    )


def export(run: Run, folder: str | Path) -> Path:
    """Export a run's rows and settings so that `trl sft --config sft.yaml` in `folder` repeats it.

    Evaluation during training is left out, unless the run used it for early stopping: `trl sft`
    orders the rows of later epochs by random numbers, and its evaluation draws from the same
    generator.

    Returns:
        The path of sft.yaml. Beside it: rows/train.jsonl (and test.jsonl for validation) with
        input_ids and labels; and chat_template.jinja, where the run's template is not its model's.
    Raises:
        Qwen3labError: as `config`.
    """
    import yaml

    folder = Path(folder)
    settings = config(run, folder.resolve())
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    if "chat_template_path" in settings:
        template = run.tokenizer.chat_template
        (folder / TEMPLATE).write_text(
            template["default"] if isinstance(template, dict) else template, encoding="utf-8"
        )
    run.data.to_json(folder / "rows" / "train.jsonl")
    if run.held_out is not None:
        run.held_out.to_json(folder / "rows" / "test.jsonl")
    comment = QUIET if run.held_out is not None and "eval_strategy" not in settings else ""
    (folder / "sft.yaml").write_text(
        comment + yaml.safe_dump(settings, sort_keys=False), encoding="utf-8"
    )
    return folder / "sft.yaml"


def launch(run: Run, processes: int = 2, accelerate_config: str | None = None) -> str:
    """Build the `accelerate launch` command that trains the exported run on several devices.

    The total number of rows per step stays the same.

    Args:
        processes: number of devices; must divide the rows per step.
        accelerate_config: a file for `--config_file`, for example an FSDP2 one.
    Raises:
        Qwen3labError: the rows of a step cannot be split evenly.
    """
    batch, parts = (
        run.settings["per_device_train_batch_size"],
        run.settings.get("gradient_accumulation_steps", 1),
    )
    if batch * parts % processes:
        raise Qwen3labError(
            f"{batch * parts} rows a step cannot be shared out to {processes} processes. Choose a"
            " batch that they divide."
        )
    if parts % processes == 0:
        share = f"--gradient_accumulation_steps {parts // processes}"
    else:
        share = (
            f"--per_device_train_batch_size {batch * parts // processes}"
            " --gradient_accumulation_steps 1"
        )
    where = (
        f"--config_file {accelerate_config}"
        if accelerate_config
        else "--multi_gpu --num_machines 1 --mixed_precision no --dynamo_backend no"
    )
    # With --cpu accelerate starts one process, whatever --num_processes says; --multi_gpu uses
    # torchrun, which also works on CPUs.
    cpu = "ACCELERATE_USE_CPU=true " if run.settings["use_cpu"] else ""
    return (
        f"{cpu}accelerate launch {where} --num_processes {processes} -m trl.scripts.sft --config"
        f" sft.yaml {share}"
    )
