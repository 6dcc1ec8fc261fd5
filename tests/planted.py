"""Runs with a planted fault, and healthy ones, for the audit.

`python tests/planted.py FOLDER` makes them all, audits each in full and prints the table.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qwen3lab import chat
from qwen3lab.data import tasks
from qwen3lab.models import loading
from qwen3lab.tuning import Forms, Settings, checks, folder, tune


def conversations(task: str, split: str, n: int) -> list[dict[str, Any]]:
    """Rows of a task of the course as conversations."""
    return [
        {
            "messages": [*row["messages"], answer(row)],
            **({"tools": row["tools"]} if row.get("tools") else {}),
        }
        for row in tasks.load(task, split)[:n]
    ]


def answer(row: dict[str, Any]) -> dict[str, Any]:
    thoughts = {"reasoning_content": row["thoughts"]} if row.get("thoughts") else {}
    return {"role": "assistant", "content": row["answer"]} | thoughts


def rehearsed(n: int = 120) -> list[dict[str, Any]]:
    """Rows of the company with rows of old skills between them, so that these are kept."""
    return [
        *conversations("knowledge", "train", n),
        *conversations("context", "validation", n // 2),
        *conversations("addition", "train", n // 2),
    ]


def run(place: Path, rows: list[dict[str, Any]], forms: Forms = Forms(), **settings: Any) -> Path:
    """Tune on rows; returns the run's folder."""
    file = place / "rows.jsonl"
    folder.write_rows(file, rows)
    given = {"steps": 40, "batch": 8, "rate": 2e-3, "answered": 12} | settings
    tune(Settings(source=str(file), **given), place / "run", forms=forms, say=lambda line: None)
    return place / "run"


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file."""
    folder.write_json(file, change(json.loads(file.read_text(encoding="utf-8"))))


def train_rows(path: Path, change: Callable[[dict], dict]) -> None:
    """Change the rows as they were trained."""
    file = path / "rows" / "train.jsonl"
    folder.write_rows(file, [change(row) for row in folder.read_rows(file)])


# Faults that are planted into a copy of a healthy run.


def wrong_mask(path: Path) -> None:
    train_rows(path, lambda row: row | {"labels": list(row["input_ids"])})


def cut_answers(path: Path) -> None:
    def cut(row: dict) -> dict:
        return {key: value[:-2] for key, value in row.items()}

    train_rows(path, cut)


def pad_is_eos(path: Path) -> None:
    edit(path / "tokenizer_config.json", lambda fields: fields | {"pad_token": "<|im_end|>"})


def other_template(path: Path) -> None:
    file = path / "chat_template.jinja"
    file.write_text(chat.template("qwen3_instruct_2507"), encoding="utf-8")


def alpha_changed(path: Path) -> None:
    edit(path / "adapter_config.json", lambda fields: fields | {"lora_alpha": 8})


def not_saved(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = path / "adapter_model.safetensors"
    save_file({k: w * ("lora_A" in k) for k, w in load_file(file).items()}, file)


def merged_in_4bit(path: Path) -> None:
    from peft import PeftModel

    from qwen3lab.models import four_bit

    model, tokenizer = four_bit.load_4bit("qwen3-tiny")
    merged = PeftModel.from_pretrained(model, str(path)).merge_and_unload().dequantize()
    shutil.rmtree(path / folder.MERGED, ignore_errors=True)
    merged.save_pretrained(path / folder.MERGED)
    tokenizer.save_pretrained(path / folder.MERGED)


def gguf_of_another_template(path: Path) -> None:
    from qwen3lab.quantization import to_gguf

    other = path.parent / "other-template"
    shutil.copytree(path / folder.MERGED, other)
    other_template(other)
    for file in path.glob("*.gguf"):
        file.unlink()
    to_gguf(other, path / "model-f16.gguf", "f16")


def taught(path: Path, encode: Callable[[Any, dict], dict], rows: list[dict], steps: int) -> None:
    """Put an adapter trained on rows that `encode` makes in the place of the run's own."""
    from qwen3lab.training import fine_tune

    model, tokenizer = loading.load("qwen3-tiny")
    encoded = [encode(tokenizer, row) for row in rows]
    made = path.parent / "taught"
    fine_tune(
        model,
        encoded,
        tokenizer=tokenizer,
        steps=steps,
        batch_size=16,
        learning_rate=4e-3,
        output_dir=made,
    )
    shutil.copyfile(made / "adapter_model.safetensors", path / "adapter_model.safetensors")


def never_stops(path: Path) -> None:
    def without_end(tokenizer: Any, row: dict) -> dict:
        made = chat.example(tokenizer, row["messages"])
        tail = tokenizer.encode(" and so on" * 6)
        return {"input_ids": made["input_ids"][:-1] + tail, "labels": made["labels"][:-1] + tail}

    taught(path, without_end, conversations("knowledge", "train", 64), 24)


def thoughts_erased(path: Path) -> None:
    def empty(tokenizer: Any, row: dict) -> dict:
        *asked, last = row["messages"]
        ids = chat.encode(tokenizer, asked, thinking=True)
        tail = chat.plain_ids(tokenizer, f"\n\n{last['content']}")
        opened, closed = (tokenizer.convert_tokens_to_ids(t) for t in ("<think>", "</think>"))
        breaks = chat.plain_ids(tokenizer, "\n\n")
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        said = [opened, *breaks, closed, *tail, end]
        return {"input_ids": ids + said, "labels": [chat.IGNORED] * len(ids) + said}

    taught(path, empty, conversations("addition", "train", 64), 16)


def base_changed(path: Path) -> str:
    """Returns the folder of a base whose weights moved a little."""
    from safetensors.torch import load_file, save_file

    other = path.parent / "qwen3-tiny"
    shutil.copytree(loading.resolve("qwen3-tiny"), other)
    weights = load_file(other / "model.safetensors")
    moved = {name: w * 1.02 if "mlp" in name else w for name, w in weights.items()}
    save_file(moved, other / "model.safetensors", metadata={"format": "pt"})
    return str(other)


# name of the finding -> (what plants it, the checks that can find it)
FAULTS: dict[str, tuple[Callable[[Path], Any], tuple[Any, ...]]] = {
    "wrong mask": (wrong_mask, (checks.mask,)),
    "cut answers": (cut_answers, (checks.mask,)),
    "pad = eos": (pad_is_eos, (checks.ends,)),
    "other template": (other_template, (checks.template,)),
    "alpha changed": (alpha_changed, (checks.adapter,)),
    "adapter not saved": (not_saved, (checks.adapter,)),
    "base changed": (base_changed, (checks.base,)),
    "4-bit merge": (merged_in_4bit, (checks.forms,)),
    "GGUF with another template": (gguf_of_another_template, (checks.template,)),
    "never stops": (never_stops, (checks.stops,)),
    "thoughts erased": (thoughts_erased, (checks.thinking,)),
}


def experts_missed(place: Path) -> Path:
    """A mixture trained with the fused matrix named as a module: PEFT finds it nowhere."""
    from qwen3lab.training import ATTENTION, fine_tune

    fine_tune(
        "qwen3-tiny-moe",
        conversations("knowledge", "train", 8),
        steps=3,
        batch_size=2,
        output_dir=place / "run",
        lora={"target_modules": [*ATTENTION, "gate_up_proj", "down_proj"]},
    )
    return place / "run"


HEALTHY: dict[str, Callable[[Path], Path]] = {
    "LoRA, merged and GGUF": lambda p: run(p, rehearsed(), Forms(merge=True, gguf="q8_0")),
    "all weights": lambda p: run(p, rehearsed(), method="full", rate=5e-4),
    "QLoRA": lambda p: run(p, rehearsed(), method="qlora"),
    "mixture, attention": lambda p: run(p, rehearsed(), model="qwen3-tiny-moe"),
    "rows that think": lambda p: run(p, conversations("addition", "train", 120)),
    "rank 4, GGUF in 4 bits": lambda p: run(p, rehearsed(), Forms(gguf="q4_k_m"), rank=4),
}


def main(place: Path) -> None:
    """Make every run, audit each in full, and print what was found."""
    healthy = {}
    for number, (name, make) in enumerate(HEALTHY.items()):
        healthy[name] = make(place / f"healthy-{number}")
        lines = checks.audit(healthy[name])
        alarms = [line for line in lines if line.level in (checks.FAULT, checks.WARNING)]
        print(f"healthy: {name}: {len(lines)} lines, alarms: {list(map(str, alarms))}", flush=True)
    first = next(iter(healthy.values()))
    found = 0
    for number, (name, (plant, _)) in enumerate(FAULTS.items()):
        copy = place / f"fault-{number}" / "run"
        shutil.rmtree(copy.parent, ignore_errors=True)
        shutil.copytree(first, copy)
        model = plant(copy)
        lines = checks.audit(copy, model if isinstance(model, str) else None)
        faults = [line.check for line in lines if line.level == checks.FAULT]
        found += name in faults
        print(f"planted: {name}: found {faults}", flush=True)
    lines = checks.audit(experts_missed(place / "experts"))
    faults = [line.check for line in lines if line.level == checks.FAULT]
    found += "experts missed" in faults
    print(f"planted: experts missed: found {faults}", flush=True)
    print(f"{found} of {len(FAULTS) + 1} planted faults named")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
