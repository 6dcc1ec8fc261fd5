"""A run's folder: whole files, one run, one record."""

from __future__ import annotations

import os

import pytest

from qwen3lab.errors import Qwen3labError
from qwen3lab.tuning import folder

ROWS = [{"a": "line\u2028break", "b": [1, {"c": "é\n"}]}, {"a": "", "b": None}]


def test_rows_come_back(tmp_path):
    file = folder.write_rows(tmp_path / "x" / "rows.jsonl", ROWS)
    assert folder.read_rows(file) == ROWS
    assert [path.name for path in file.parent.iterdir()] == ["rows.jsonl"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    file = folder.write_json(tmp_path / "run.json", {"a": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError):
        folder.write_json(file, {"a": 2})
    assert folder.read(tmp_path) == {"a": 1}


def test_claims(tmp_path):
    mine = {"rows": "r", "steps": 3}
    place = tmp_path / "run"
    assert folder.claim(place, mine) == {"identity": mine, "state": "begun"}
    assert folder.claim(place, mine)["state"] == "begun"
    with pytest.raises(Qwen3labError, match="another run: its steps differ"):
        folder.claim(place, mine | {"steps": 4})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    with pytest.raises(Qwen3labError, match="not empty and holds no run"):
        folder.claim(tmp_path / "full", mine)
    (tmp_path / "stopped").mkdir()
    (tmp_path / "stopped" / "run.json.new").write_text("{")  # stopped while it was made
    assert folder.claim(tmp_path / "stopped", mine)["state"] == "begun"
    (place / folder.RECORD).write_text("{")
    with pytest.raises(Qwen3labError, match="damaged"):
        folder.read(place)
    with pytest.raises(Qwen3labError, match="There is no folder 'nowhere'"):
        folder.read(tmp_path / "nowhere")


def test_digest_depends_on_content_alone():
    assert folder.digest({"a": 1, "b": [2]}) == folder.digest({"b": [2], "a": 1})
    assert folder.digest({"a": 1}) != folder.digest({"a": 2})
    assert folder.digest("\ud800") == folder.digest("\ud800")
