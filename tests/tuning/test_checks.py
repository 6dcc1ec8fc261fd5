"""The audit: each planted fault is named, and a healthy run has none."""

from __future__ import annotations

import shutil

import pytest
from planted import FAULTS, experts_missed, rehearsed, run

from qwen3lab.course import cli
from qwen3lab.errors import Qwen3labError
from qwen3lab.tuning import Forms, checks, folder, questions


@pytest.fixture(scope="module", autouse=True)
def few_old_skills():
    """Twelve of the sixty questions, of every task."""
    patch, chosen = pytest.MonkeyPatch(), questions.old_skills()[::5]
    patch.setattr(questions, "old_skills", lambda: chosen)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    place = tmp_path_factory.mktemp("healthy")
    return run(place, rehearsed(60), Forms(merge=True, gguf="q8_0"), steps=30)


def test_a_healthy_run_has_no_fault(healthy, capsys):
    lines = checks.audit(healthy)
    assert [line for line in lines if line.level in (checks.FAULT, checks.WARNING)] == []
    assert {line.check for line in lines} >= {
        *("mask", "rows", "pad and end", "template", "base", "adapter", "adapted", "result"),
        *("stops", "thinking", "old skills", "merged weights", "merged", "model-q8_0.gguf"),
    }
    page = (healthy / "audit.html").read_text(encoding="utf-8")
    assert all(line.check in page for line in lines) and "⟦" in page
    tokens = folder.read_rows(healthy / "rows" / "train.jsonl")
    trained = sum(label != -100 for row in tokens for label in row["labels"])
    assert lines[0].figure.startswith(f"{trained:,} of ")


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named(name, healthy, tmp_path, monkeypatch):
    plant, looks = FAULTS[name]
    if name == "never stops":  # answers of 64 tokens show it as well as those of 300
        monkeypatch.setattr(questions, "answer_limit", lambda *_: 64)
    copy = tmp_path / "run"
    shutil.copytree(healthy, copy)
    model = plant(copy)
    opened = checks.Run(copy, model if isinstance(model, str) else None)
    found = [line for check in looks for line in check(opened)]
    assert name in [line.check for line in found if line.level == checks.FAULT], found
    assert all(line.advice for line in found if line.level == checks.FAULT)


@pytest.mark.filterwarnings("ignore:target_modules")
def test_missed_experts_are_named(tmp_path):
    opened = checks.Run(experts_missed(tmp_path))
    (line,) = checks.trained_share(opened)
    assert line.level == checks.FAULT and line.check == "experts missed"
    assert line.figure.startswith("no adapter on experts gate_up_proj, 51% of the weights")


def test_the_command_returns_1_on_a_fault(healthy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(checks, "CHECKS", (checks.mask, checks.ends))
    assert cli.main(["audit", str(healthy)]) == 0
    copy = tmp_path / "run"
    shutil.copytree(healthy, copy)
    FAULTS["wrong mask"][0](copy)
    assert cli.main(["audit", str(copy)]) == 1
    told = capsys.readouterr().out
    assert "fault    wrong mask: " in told and "1 faults, 0 warnings" in told
    assert cli.main(["audit", str(tmp_path)]) == 1
    assert "neither an adapter nor a model" in capsys.readouterr().err


def test_a_folder_without_a_record_is_audited_as_far_as_it_goes(healthy, tmp_path):
    copy = tmp_path / "adapter"
    copy.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(healthy / name, copy / name)
    rows = folder.read_rows(healthy / "conversations" / "held_out.jsonl")
    lines = checks.audit(copy, "qwen3-tiny", rows, page=False)
    levels = {line.check: line.level for line in lines}
    assert levels["adapter"] == levels["stops"] == levels["pad and end"] == checks.OK
    assert levels["mask"] == levels["base"] == levels["other forms"] == checks.SKIPPED
    assert checks.FAULT not in levels.values()
    (copy / "adapter_model.safetensors").unlink()
    lines = checks.audit(copy, "qwen3-tiny", rows, page=False)
    assert "adapter not saved" in [line.check for line in lines if line.level == checks.FAULT]


def test_a_base_that_nothing_names(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(Qwen3labError, match="Name it with --model"):
        checks.Run(tmp_path).base_name  # noqa: B018
