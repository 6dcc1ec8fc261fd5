"""The table of platforms with a fake resolver: no network, all asked, what fails named."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from types import SimpleNamespace

import pytest

from qwen3lab import paths
from scripts import platforms


def test_all_are_asked_and_counted():
    asked = []
    told, good = platforms.table(lambda *what: asked.append(what) or (250, ""))
    assert good == len(asked) == len(set(asked)) == 8
    assert ("3.13", "aarch64-apple-darwin", ("test", "site")) in asked
    lines = told.splitlines()
    assert len(lines) == 10 and lines[1] == "Linux x86-64          3.11    250"
    assert lines[-1].startswith("8 of 8 resolve from wheels, but for rouge-score, sqlitedict")


def test_what_fails_is_named():
    def ask(python, platform, extras):
        return (0, "x==1 has no usable wheels") if "windows" in platform else (9, "")

    told, good = platforms.table(ask)
    assert good == 6 and "Windows x86-64        3.11    none" in told
    assert told.endswith("Windows x86-64, Python 3.13: x==1 has no usable wheels")


@pytest.mark.parametrize("fails", [False, True])
def test_the_exit_code(fails, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["platforms"])
    monkeypatch.setattr(platforms, "resolve", lambda *_: (0, "no") if fails else (3, ""))
    assert platforms.main() == fails
    assert f"{0 if fails else 8} of 8" in capsys.readouterr().out


def test_what_uv_says_is_read(monkeypatch):
    def run(words, *, env, **_):
        assert env["MACOSX_DEPLOYMENT_TARGET"] == "14.0" and words[:3] == [
            sys.executable,
            "-m",
            "uv",
        ]
        if "3.13" in words:
            return SimpleNamespace(
                returncode=1, stdout="", stderr="error: No solution\n  cause: Because a\n  is b.\n"
            )
        return SimpleNamespace(returncode=0, stdout="a==1\nb==2 ; x\n", stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    assert platforms.resolve("3.11", "p", ["test"]) == (2, "")
    assert platforms.resolve("3.13", "p", ["test"]) == (0, "Because a is b.")


def test_only_what_is_named_may_come_as_source():
    words = platforms.command("3.11", "p", ["site"])
    assert words[words.index("--only-binary") + 1] == ":all:" and "site" in words
    named = [words[place + 1] for place, word in enumerate(words) if word == "--no-binary"]
    assert named == list(platforms.SOURCES)
    pins = (paths.ROOT / "constraints.txt").read_text().lower().replace("_", "-")
    assert all(f"{name}==" in pins for name in named)
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
    assert set(platforms.EXTRAS) == set(project["optional-dependencies"])
