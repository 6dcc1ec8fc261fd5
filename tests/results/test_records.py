"""Records say on which model they were measured, where it is not the one in use."""

from __future__ import annotations

import pytest

from qwen3lab import paths
from qwen3lab.errors import Qwen3labError
from qwen3lab.results import records

NAMES = sorted(path.stem for path in (paths.DATA / "benchmarks").glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_a_record_of_another_model_says_so(name, monkeypatch, capsys):
    here = records.read(name)
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("QWEN3LAB_PROFILE", "small")
    assert records.read(name) == here
    said = f"{name}: measured on qwen3-tiny; profile small has Qwen/Qwen3-0.6B\n"
    assert capsys.readouterr().out == ("" if name in records.WITHOUT_IT else said)


def test_the_list_names_records():
    assert set(records.WITHOUT_IT) < set(NAMES)


def test_no_such_record():
    with pytest.raises(Qwen3labError, match="There is no record 'speed'"):
        records.read("speed")
