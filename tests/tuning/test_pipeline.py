"""`tune` from a file to a folder, and what it refuses."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import yaml
from planted import conversations

from qwen3lab.data import splits
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import loading
from qwen3lab.training import load_adapter, sft
from qwen3lab.tuning import Forms, Settings, folder, pipeline, questions, tune


def write(path, rows):
    return str(folder.write_rows(path, rows))


@pytest.fixture(autouse=True)
def few_old_skills(monkeypatch):
    """Four questions are enough to see that they are asked."""
    chosen = questions.old_skills()[::15]
    monkeypatch.setattr(questions, "old_skills", lambda: chosen)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    rows = conversations("knowledge", "train", 60)
    return write(tmp_path_factory.mktemp("rows") / "faq.jsonl", rows)


QUICK = {"steps": 6, "batch": 4, "answered": 3, "rate": 2e-3}


@pytest.fixture(scope="module")
def done(source, tmp_path_factory):
    """One run with its transcript."""
    patch, chosen = pytest.MonkeyPatch(), questions.old_skills()[::15]
    patch.setattr(questions, "old_skills", lambda: chosen)
    out, said = tmp_path_factory.mktemp("runs") / "run", []
    forms = Forms(ollama=True)
    record = tune(Settings(source=source, **QUICK), out, forms=forms, say=said.append)
    patch.undo()
    return out, record, said


def test_the_folder_is_complete_and_loads(done):
    out, record, said = done
    names = {path.name for path in out.iterdir()}
    assert names == {
        "README.md",
        "Modelfile",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "conversations",
        "exam.after.jsonl",
        "exam.before.jsonl",
        "merged",
        "model-q4_k_m.gguf",
        "report.html",
        "rows",
        "run.json",
        "sft.yaml",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert folder.read(out) == json.loads(json.dumps(record)) and record["state"] == "finished"
    model, tokenizer = load_adapter(out, "qwen3-tiny")
    held_out = folder.read_rows(out / "conversations" / "held_out.jsonl")
    now = questions.examine(model, tokenizer, held_out, answered=3)
    then = [row for row in folder.read_rows(out / "exam.after.jsonl") if row["part"] == "own"]
    assert now.nll.tolist() == pytest.approx([row["nll"] for row in then], rel=1e-3)
    assert now.prediction[:3].tolist() == [row["prediction"] for row in then[:3]]
    assert not any("/" in str(value) for value in json.loads(json.dumps(record["asked"])).values())


def test_the_rows_of_the_run_are_those_of_the_file_and_none_is_on_both_sides(done, source):
    out, record, _ = done
    parts = [folder.read_rows(out / "conversations" / f"{n}.jsonl") for n in ("train", "held_out")]
    both = [json.dumps(row["messages"]) for part in parts for row in part]
    given = [json.dumps(row["messages"]) for row in folder.read_rows(pipeline.Path(source))]
    assert sorted(both) == sorted(given)
    asked = [[row | {"messages": row["messages"][:-1]} for row in part] for part in parts]
    assert splits.leaks(*asked) == []
    assert len(parts[1]) == record["counts"]["held_out"] >= 8
    encoded = folder.read_rows(out / "rows" / "train.jsonl")
    tokenizer = loading.load_tokenizer(out)
    assert encoded == [sft.encode(tokenizer, row) for row in parts[0]]


def test_the_settings_are_those_of_trl(done):
    settings = yaml.safe_load((done[0] / "sft.yaml").read_text())
    assert settings["max_steps"] == 6 and settings["lora_r"] == 16
    assert settings["per_device_train_batch_size"] == 4 and settings["learning_rate"] == 2e-3


def test_the_transcript_says_each_stage(done):
    out, record, said = done
    kinds = dict.fromkeys(line.split()[0] for line in said if not line.startswith("score"))
    assert list(kinds) == [
        *("rows", "split", "tokens", "memory", "disk", "before", "trained", "after", "written")
    ]
    scores = [line.split("  ")[1:] for line in said if line.startswith("score")]
    assert [cells[-1] for cells in scores] == [cells[-1] for cells in record["scores"]]
    train, held_out = record["counts"]["train"], record["counts"]["held_out"]
    assert f"split    {train} to train on, {held_out} held out" in said


def test_the_modelfile_asks_as_the_training_did(done):
    """Its template, filled in by hand as Ollama would, is the prompt of the training."""
    from qwen3lab import chat

    text = (done[0] / "Modelfile").read_text()
    body = text.split('TEMPLATE """')[1].split('"""')[0]
    loop, tail = body.removeprefix("{{- range .Messages }}").split("{{ end }}")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi?"}]
    turns = "".join(
        loop.replace("{{ .Role }}", m["role"]).replace("{{ .Content }}", m["content"])
        for m in messages
    )
    assert turns + tail == chat.render(loading.load_tokenizer(done[0]), messages)
    assert text.startswith("FROM ./model-q4_k_m.gguf\n")


def test_the_card_has_front_matter_and_no_row(done):
    out, record, _ = done
    text = (out / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["base_model"] == "qwen3-tiny" and front["library_name"] == "peft"
    rows = folder.read_rows(out / "conversations" / "train.jsonl")
    assert not any(row["messages"][0]["content"] in text for row in rows)
    assert all(cell in text for line in record["scores"] for cell in line)
    assert "llama-server -m FOLDER/model-q4_k_m.gguf" in text and "--enable-lora" in text


def test_a_finished_run_is_not_trained_again(done, source):
    out, record, _ = done
    before = (out / "adapter_model.safetensors").stat().st_mtime_ns
    said = []
    again = tune(Settings(source=source, **QUICK), out, say=said.append)
    assert again == folder.read(out) and said[-2].startswith("finished already")
    assert (out / "adapter_model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(Qwen3labError, match="another run: its rows, seed differ"):
        tune(Settings(source=source, **QUICK | {"seed": 1}), out, say=said.append)


def test_stopped_at_any_step_it_goes_on_to_the_same_weights(done, source, tmp_path, monkeypatch):
    from trl import SFTTrainer

    out, record, _ = done
    step, place, count = SFTTrainer.training_step, tmp_path / "run", iter(range(10**6))
    stops = set(random.Random(0).sample(range(1, 12), 3))

    def stopping(self, *args, **kwargs):
        if next(count) in stops:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, "training_step", stopping)
    for _ in range(len(stops) + 1):
        try:
            found = tune(Settings(source=source, **QUICK), place, say=lambda line: None)
            break
        except KeyboardInterrupt:
            assert folder.read(place)["state"] == "begun"
    assert found["loss"] == record["loss"] and found["tokens"] == record["tokens"]
    name = "adapter_model.safetensors"
    assert (place / name).read_bytes() == (out / name).read_bytes()
    assert not (place / folder.TRAINING).exists()


def test_stopped_while_it_writes_nothing_is_half_there(source, tmp_path, monkeypatch):
    real, place = pipeline.cards.report, tmp_path / "run"

    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.cards, "report", stopped)
    with pytest.raises(KeyboardInterrupt):
        tune(Settings(source=source, **QUICK), place, say=lambda line: None)
    assert folder.read(place)["state"] == "begun"
    load_adapter(place, "qwen3-tiny")
    monkeypatch.setattr(pipeline.cards, "report", real)
    assert tune(Settings(source=source, **QUICK), place, say=lambda line: None)["steps"] == 6


def test_a_full_disk_is_a_sentence_and_the_run_goes_on(source, tmp_path, monkeypatch):
    import safetensors.torch
    from safetensors import SafetensorError

    real, place = safetensors.torch.save_file, tmp_path / "run"

    def full(*args, **kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    for module in ("peft.peft_model.safe_save_file", "qwen3lab.training.checkpointing.save_file"):
        monkeypatch.setattr(module, full)
    with pytest.raises(Qwen3labError, match="The disk is full. What 'run' holds is whole"):
        tune(Settings(source=source, **QUICK), place, say=lambda line: None)
    for module in ("peft.peft_model.safe_save_file", "qwen3lab.training.checkpointing.save_file"):
        monkeypatch.setattr(module, real)
    assert tune(Settings(source=source, **QUICK), place, say=lambda line: None)["steps"] == 6


def test_dry_run_writes_nothing(source, tmp_path):
    said = []
    found = tune(Settings(source=source), tmp_path / "run", dry_run=True, say=said.append)
    assert found["state"] == "planned" and not (tmp_path / "run").exists()
    assert said[-1].startswith("stopped")


def test_copies_are_kept_and_said_or_dropped(tmp_path):
    rows = conversations("knowledge", "train", 20)
    source = write(tmp_path / "twice.jsonl", rows + rows[:5])
    kept = pipeline.read(Settings(source=source))
    assert kept.counts["copies"] == 5 and len(kept.train) + len(kept.held_out) == 25
    assert "copies   5 rows repeat another; kept (--clean drops them)" in kept.said
    cleaned = pipeline.read(Settings(source=source, clean=True))
    assert len(cleaned.train) + len(cleaned.held_out) == 20


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_rows_to_hold_back_train_all_the_same(n, tmp_path):
    row = conversations("knowledge", "train", 1)[0]
    source = write(tmp_path / "few.jsonl", [row] * n)
    said = []
    record = tune(Settings(source=source, steps=2), tmp_path / "run", say=said.append)
    assert record["counts"]["held_out"] == 0 and record["counts"]["train"] == n
    assert any("nothing is examined" in line for line in said)
    assert [score["name"] for score in record["exam"]] == [
        *("old skills: loss a token", "old skills: exact match")
    ]


def test_bad_input(tmp_path):
    say = [].append

    def refused(message, **given):
        with pytest.raises(Qwen3labError, match=message):
            tune(Settings(**given), tmp_path / "run", say=say)
        assert not (tmp_path / "run").exists()

    refused("There is no file nowhere.jsonl", source=str(tmp_path / "nowhere.jsonl"))
    (tmp_path / "empty.jsonl").write_text("")
    refused("holds no rows", source=str(tmp_path / "empty.jsonl"))
    questions_only = write(tmp_path / "no_answer.jsonl", [{"question": "Why?"}] * 3)
    refused("holds no conversation to train on", source=questions_only)
    source = write(tmp_path / "rows.jsonl", conversations("knowledge", "train", 12))
    refused("There is no checkpoint 'nothing'", source=source, model="nothing")
    refused("cannot be held out", source=source, held_out=1.5)
    long = {
        "messages": [
            {"role": "user", "content": "w " * 2000},
            {"role": "assistant", "content": "x"},
        ]
    }
    mixed = write(tmp_path / "long.jsonl", [*conversations("knowledge", "train", 30), long])
    refused("rows have more than 512 tokens", source=mixed, held_out=0.0)


def test_long_rows_are_dropped_when_asked_and_said(tmp_path):
    long = {
        "messages": [
            {"role": "user", "content": "w " * 2000},
            {"role": "assistant", "content": "x"},
        ]
    }
    source = write(tmp_path / "long.jsonl", [*conversations("knowledge", "train", 30), long])
    settings, said = Settings(source=source, drop_long=True), []
    rows = pipeline.read(settings)
    pipeline.check_lengths(settings, loading.load_tokenizer("chat"), rows, said.append)
    assert len(rows.train) + len(rows.held_out) == 30
    assert "dropped  1 rows of more than 512 tokens" in said


def test_a_hub_model_is_named_by_its_id(tmp_path, monkeypatch):
    shutil.copytree(loading.resolve("qwen3-tiny"), tmp_path / "mirror" / "Qwen3-0.6B")
    monkeypatch.setenv("QWEN3LAB_MODELS", str(tmp_path / "mirror"))
    assert pipeline.name_of("Qwen/Qwen3-0.6B", loading.resolve("Qwen/Qwen3-0.6B")) == (
        "Qwen/Qwen3-0.6B"
    )
    assert pipeline.name_of("chat", loading.resolve("chat")) == "qwen3-tiny"
    monkeypatch.setenv("QWEN3LAB_PROFILE", "small")
    assert pipeline.name_of("chat", loading.resolve("chat")) == "Qwen/Qwen3-0.6B"
