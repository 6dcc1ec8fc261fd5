"""`qwen3lab tune` and `chat` on the command line, and the upload to the hub."""

from __future__ import annotations

import csv

import pytest
from huggingface_hub.errors import LocalTokenNotFoundError
from huggingface_hub.utils import filter_repo_objects

from qwen3lab.course import cli
from qwen3lab.course.commands import tune as command
from qwen3lab.errors import Qwen3labError
from qwen3lab.tuning import deploy, pipeline


@pytest.fixture()
def table(tmp_path):
    """A CSV with German names of its columns."""
    path = tmp_path / "fragen.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["frage", "antwort"], *([f"Code {i}?", i * 37 % 100] for i in range(60))])
    return path


def test_columns_are_read_from_the_command_line():
    assert command.columns("frage=prompt, antwort = completion") == {
        "frage": "prompt",
        "antwort": "completion",
    }
    assert command.columns(None) == {}
    for wrong in ("frage", "a=b=c", "=prompt", "a=prompt,"):
        with pytest.raises(Qwen3labError, match="is no list of pairs"):
            command.columns(wrong)


def test_a_dry_run_says_what_it_would_do(table, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--columns", "frage=prompt,antwort=completion", "--dry-run"]
    assert cli.main(["tune", str(table), *options]) == 0
    told = capsys.readouterr().out
    assert "'frage' is the prompt (60 rows)" in told and "60 conversations" in told
    assert "split    50 to train on, 10 held out" in told and "(--dry-run)" in told
    assert not (tmp_path / "runs").exists()
    assert cli.main(["tune", str(table), "--dry-run"]) == 1
    assert "frage" in capsys.readouterr().err


def test_ctrl_c_is_a_sentence(table, capsys, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "tune", stopped)
    assert cli.main(["tune", str(table)]) == 1
    assert capsys.readouterr().err == (
        "Stopped. What runs/fragen-chat-lora holds is whole; the same command goes on from there.\n"
    )


def test_every_setting_has_an_option_and_the_same_default(monkeypatch, table):
    seen = {}
    monkeypatch.setattr(pipeline, "tune", lambda settings, out, **more: seen.update(s=settings))
    assert cli.main(["tune", str(table)]) == 0
    assert seen["s"] == pipeline.Settings(source=str(table))


def test_the_upload_is_private_and_holds_no_row(tmp_path, monkeypatch):
    import huggingface_hub

    calls = []

    class Api:
        def create_repo(self, repo, **options):
            calls.append(("create", repo, options))

        def upload_folder(self, **options):
            calls.append(("upload", options))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert deploy.push(tmp_path, "me/tuned") == "https://huggingface.co/me/tuned"
    (_, repo, created), (_, sent) = calls
    assert repo == "me/tuned" and created["private"]
    files = [
        *("adapter_model.safetensors", "README.md", "sft.yaml", "run.json", "merged/config.json"),
        *("rows/train.jsonl", "conversations/train.jsonl", "conversations/held_out.jsonl"),
        *("exam.before.jsonl", "exam.after.jsonl", "report.html", "audit.html"),
        *("training/checkpoint-3/progress.json", "run.json.new"),
    ]
    uploaded = list(filter_repo_objects(files, ignore_patterns=sent["ignore_patterns"]))
    assert uploaded == files[:5]

    def refused(self, repo, **options):
        raise LocalTokenNotFoundError("Token is required, but no token found.")

    monkeypatch.setattr(Api, "create_repo", refused)
    with pytest.raises(Qwen3labError, match="Log in with `hf auth login`"):
        deploy.push(tmp_path, "me/tuned")
