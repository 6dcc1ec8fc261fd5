"""A benchmark that is cut off goes on where it was, and one that is done measures anew."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from qwen3lab import measure
from qwen3lab.errors import Qwen3labError


@pytest.fixture()
def record(script, monkeypatch, tmp_path):
    module = script("record")
    monkeypatch.setattr(module.paths, "BUILD", tmp_path / "build")
    return module


def counted(calls, value):
    """A measurement that notes that it was made."""
    return lambda: calls.append(value) or value


def test_a_run_that_was_cut_off_goes_on(record, capsys):
    calls = []
    first = record.Parts("toy")
    assert first.once("a", counted(calls, {"share": 0.5})) == {"share": 0.5} and first.once(
        "a", counted(calls, 9)
    ) == {"share": 0.5}
    with pytest.raises(ZeroDivisionError):
        first.once("b", lambda: 1 / 0)
    again = record.Parts("toy")
    assert again.found == {"a": {"share": 0.5}} and again.once("b", counted(calls, 2)) == 2
    assert calls == [{"share": 0.5}, 2] and json.loads(
        (record.paths.BUILD / "toy.partial.json").read_text()
    ) == {"a": {"share": 0.5}, "b": 2}
    assert "a {'share': 0.5}" in capsys.readouterr().out


def test_a_run_in_one_go_sees_what_a_resumed_one_sees(record):
    value = record.Parts("toy").put("a", {1: (2, 3)})
    assert value == {"1": [2, 3]} == record.Parts("toy").found["a"]


def test_a_run_that_is_done_measures_anew(record):
    parts = record.Parts("toy")
    parts.put("a", 1), parts.drop(), parts.drop()
    assert record.Parts("toy").found == {} and list(record.paths.BUILD.iterdir()) == []


def test_a_quick_look_leaves_the_parts_alone(record):
    record.Parts("toy").put("a", 1)
    look = record.Parts("toy", keep=False)
    assert look.once("a", lambda: 2) == 2
    look.drop()
    assert record.Parts("toy").found == {"a": 1}


def test_the_record_tells_where_and_when(record, tmp_path):
    out = tmp_path / "folder" / "toy.json"
    written = record.write(out, {"share": 0.5}, "toy.py", ("torch",), "nothing else ran")
    assert json.loads(out.read_text()) == written and written["share"] == 0.5
    assert (
        set(written["measured"]) == {"date", "machine", "note", "command", "python", "torch"}
        and written["measured"]["command"] == "python benchmarks/toy.py"
    )


def test_a_peak_is_read_where_the_kernel_keeps_it(record, monkeypatch):
    if sys.platform == "linux":
        assert record.peak(os.getpid()) > 10_000_000
    monkeypatch.setattr(measure, "Path", lambda _: Path("nowhere"))
    with pytest.raises(Qwen3labError, match="which only Linux has. Run it on Linux."):
        record.peak(1)
