"""An exported run trains again outside of the course: the same losses by `trl sft`, and by two
processes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from helpers import code_rows, launched

from qwen3lab import models, training
from qwen3lab.errors import Qwen3labError
from qwen3lab.training import export

OPTIONS = "--config sft.yaml --save_strategy steps --save_steps {} --disable_tqdm true"


def losses(folder: Path, command: str) -> list[float]:
    """Run an exported command in its folder; the losses that the trainer logged."""
    launched(folder, command)
    return logged(folder)


def losses_here(folder: Path, monkeypatch, steps: int = 6) -> list[float]:
    """Run what `trl sft` runs, in this process: the libraries are imported already."""
    from trl.scripts import sft

    monkeypatch.chdir(folder)
    sft.main(*sft.make_parser().parse_args_and_config(OPTIONS.format(steps).split()))
    return logged(folder)


def logged(folder: Path) -> list[float]:
    state = json.loads(next(folder.glob("trained/checkpoint-*/trainer_state.json")).read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


@pytest.mark.parametrize(
    ("method", "options"), [("lora", {"lora": {"r": 4, "lora_alpha": 8}}), ("full", {})]
)
def test_trl_sft_repeats_the_run(method, options, checkpoint, tmp_path, monkeypatch):
    run = training.fine_tune(
        checkpoint,
        code_rows(),
        method=method,
        validation=code_rows(4),
        steps=6,
        batch_size=4,
        logging_steps=1,
        **options,
    )
    assert export.export(run, tmp_path) == tmp_path / "sft.yaml"
    command = "trl sft " + OPTIONS.format(6)
    again = losses(tmp_path, command) if method == "lora" else losses_here(tmp_path, monkeypatch)
    assert again == pytest.approx(run.history.loss.tolist(), abs=2e-5)


def test_a_4bit_run_starts_alike_and_stays_near(checkpoint, tmp_path, monkeypatch):
    run = training.fine_tune(
        checkpoint,
        code_rows(),
        method="qlora",
        steps=6,
        batch_size=4,
        logging_steps=1,
        lora={"r": 4, "lora_alpha": 8},
    )
    export.export(run, tmp_path)
    again = losses_here(tmp_path, monkeypatch)
    assert again[0] == pytest.approx(
        run.history.loss[0], abs=2e-5
    )  # the same weights in 4 bits, and an adapter that adds nothing yet
    assert again == pytest.approx(
        run.history.loss.tolist(), abs=5e-3
    )  # there the adapter is in bfloat16


def test_a_mixture_with_adapters_on_its_experts(moe_checkpoint, tmp_path, monkeypatch):
    run = training.fine_tune(
        moe_checkpoint,
        code_rows(),
        steps=3,
        batch_size=4,
        logging_steps=1,
        lora={"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
    )
    export.export(run, tmp_path)
    again = losses_here(tmp_path, monkeypatch, 3)
    assert again == pytest.approx(run.history.loss.tolist(), abs=2e-5)


def test_two_processes_give_the_loss_of_one_with_twice_the_accumulation(checkpoint, tmp_path):
    run = training.fine_tune(
        checkpoint,
        code_rows(),
        method="full",
        steps=6,
        batch_size=4,
        gradient_accumulation_steps=2,
        logging_steps=1,
        train_sampling_strategy="sequential",
    )
    export.export(run, tmp_path)
    line = export.launch(run, 2)
    assert line.endswith(
        "--num_processes 2 -m trl.scripts.sft --config sft.yaml --gradient_accumulation_steps 1"
    )
    again = losses(tmp_path, line + " --save_strategy steps --save_steps 6 --disable_tqdm true")
    assert again == pytest.approx(run.history.loss.tolist(), abs=2e-5)


def test_the_settings_are_those_of_the_run(checkpoint, tmp_path):
    run = training.fine_tune(
        checkpoint, code_rows(), method="lora", steps=2, batch_size=4, learning_rate=3e-3, seed=7
    )
    settings = yaml.safe_load(export.export(run, tmp_path).read_text())
    assert (
        settings["learning_rate"] == 3e-3
        and settings["seed"] == 7
        and settings["lora_r"] == 16
        and settings["use_peft"] is True
    )
    assert (tmp_path / settings["model_name_or_path"]).resolve() == Path(checkpoint).resolve()
    rows = [
        json.loads(line) for line in (tmp_path / "rows" / "train.jsonl").read_text().splitlines()
    ]
    assert rows[3] == training.encode(run.tokenizer, code_rows()[3])


def test_what_cannot_be_exported(checkpoint, tmp_path):
    run = training.fine_tune(
        checkpoint, code_rows(), steps=1, batch_size=3, lora={"init_lora_weights": "gaussian"}
    )
    with pytest.raises(
        Qwen3labError, match="does not know these settings of the adapter: init_lora_weights"
    ):
        export.export(run, tmp_path)
    with pytest.raises(Qwen3labError, match="3 rows a step cannot be shared out to 2 processes"):
        export.launch(run, 2)


@pytest.mark.parametrize("method, fp16", [("qlora", True), ("qlora", False), ("lora", True)])
def test_qlora_in_float16_cannot_be_left_to_trl(method, fp16, checkpoint, tmp_path):
    import types

    import torch

    run = types.SimpleNamespace(
        method=method,
        source=str(checkpoint),
        tokenizer=models.load_tokenizer(checkpoint),
        adapter={},
        model=types.SimpleNamespace(dtype=torch.float16),
        settings={"fp16": fp16, "bf16": False, "use_cpu": False},
    )
    if method == "qlora" and fp16:
        with pytest.raises(Qwen3labError, match="into bfloat16, and the loss scaling of fp16 can"):
            export.config(run, tmp_path)
        return
    written = export.config(run, tmp_path)
    assert (written["dtype"], written["fp16"], written["bf16"]) == ("float16", fp16, False)


def test_what_the_run_asked_with_goes_along(checkpoint, tmp_path):
    """A changed template is exported beside the rows; added tokens have no model there."""
    model, tokenizer = models.load(checkpoint)
    same = tokenizer.chat_template
    tokenizer.chat_template = same + "{# other #}"
    run = training.fine_tune(model, code_rows(4), tokenizer=tokenizer, steps=1, batch_size=4)
    settings = yaml.safe_load(export.export(run, tmp_path).read_text())
    assert settings["chat_template_path"] == "chat_template.jinja"
    assert (tmp_path / "chat_template.jinja").read_text() == tokenizer.chat_template
    tokenizer.chat_template = same
    assert "chat_template_path" not in export.config(run, tmp_path)
    tokenizer.add_tokens(["Basdru"])
    with pytest.raises(Qwen3labError, match="its tokenizer lacks the tokens that were added"):
        export.export(run, tmp_path)
