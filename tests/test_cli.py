"""The command line: what it prints and its exit codes."""

import pytest

from qwen3lab import cli, exercises, paths


def test_doctor_says_what_runs_here(capsys):
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "torch 2.13.0" in printed and "profile  tiny    runs here" in printed


def test_doctor_fails_with_one_sentence_when_the_models_are_missing(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "MODELS", tmp_path)
    assert cli.main(["doctor"]) == 1
    assert "The bundled model qwen3-tiny is missing. Run `git checkout -- data/models`." in capsys.readouterr().err


def test_plan_prints_the_planners_figures(capsys):
    assert cli.main(["plan", "8B", "--method", "full"]) == 0
    assert "131.052 GB" in capsys.readouterr().out  # 16 bytes for each of 8,190,735,360 parameters


def test_progress_lists_every_exercise(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    assert cli.main(["progress"]) == 0
    printed = capsys.readouterr().out
    assert "1.2, qk_norm" in printed and f"0 of {len(exercises.every())} solved" in printed


def test_unknown_model_is_one_sentence(capsys):
    assert cli.main(["plan", "9B"]) == 1
    assert "9B" in capsys.readouterr().err


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0 and "qwen3lab plan 8B" in capsys.readouterr().out
