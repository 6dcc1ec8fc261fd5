"""Kept checkpoints: made once, known by content, refused when damaged."""

from __future__ import annotations

import shutil

import pytest

from qwen3lab import cache
from qwen3lab.errors import Qwen3labError


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    return folder


def _make(counter, text="small"):
    def make(folder):
        counter.append(1)
        (folder / "sub").mkdir()
        (folder / "sub" / "weights.bin").write_text(text)

    return make


def test_made_once_and_known_by_content(source, tmp_path):
    calls, store = [], tmp_path / "store"
    first = cache.keep(source, "gptq", {"bits": 4}, _make(calls), folder=store)
    moved = shutil.copytree(source, tmp_path / "elsewhere")
    assert (
        cache.keep(moved, "gptq", {"bits": 4}, _make(calls), folder=store) == first
        and len(calls) == 1
    )
    assert (first / "sub" / "weights.bin").read_text() == "small"
    assert cache.find(moved, "gptq", {"bits": 4}, folder=store) == first
    assert cache.find(moved, "gptq", {"bits": 8}, folder=store) is None
    others = {
        cache.keep(source, "gptq", {"bits": 8}, _make(calls), folder=store),
        cache.keep(source, "nf4", {"bits": 4}, _make(calls), folder=store),
    }
    (source / "model.safetensors").write_bytes(b"others!")
    others.add(cache.keep(source, "gptq", {"bits": 4}, _make(calls), folder=store))
    assert len(others | {first}) == 4 and len(calls) == 4


def test_nothing_half_made_is_left(source, tmp_path):
    def fails(folder):
        (folder / "weights.bin").write_text("half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        cache.keep(source, "gptq", {}, fails, folder=tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []


def test_a_faster_process_wins(source, tmp_path):
    store = tmp_path / "store"

    def slow(folder):
        cache.keep(source, "gptq", {}, _make([], "the other's"), folder=store)
        (folder / "weights.bin").write_text("mine")

    place = cache.keep(source, "gptq", {}, slow, folder=store)
    assert (place / "sub" / "weights.bin").read_text() == "the other's" and len(
        list(store.iterdir())
    ) == 1


@pytest.mark.parametrize("damage", ["changed", "missing", "no proof", "broken proof"])
def test_damaged_is_refused(source, tmp_path, damage):
    place = cache.keep(source, "gptq", {}, _make([]), folder=tmp_path / "store")
    if damage == "changed":
        (place / "sub" / "weights.bin").write_text("smalL")
    elif damage == "missing":
        (place / "sub" / "weights.bin").unlink()
    elif damage == "no proof":
        (place / cache.PROOF).unlink()
    else:
        (place / cache.PROOF).write_text("{")
    message = (
        "is damaged .sub/weights.bin."
        if damage in ("changed", "missing")
        else "has no readable kept.json"
    )
    with pytest.raises(Qwen3labError, match=message):
        cache.keep(source, "gptq", {}, _make([]), folder=tmp_path / "store")


def test_fingerprints(source, tmp_path):
    assert cache.fingerprint(["a", "bc"]) != cache.fingerprint(["ab", "c"])
    (source / "config.json").write_text('{"_name_or_path": "elsewhere"}')  # no part of the content
    one = cache.fingerprint(source)
    (source / "tokenizer.json").write_text("{}")
    assert cache.fingerprint(source) != one
    (tmp_path / "empty").mkdir()
    with pytest.raises(Qwen3labError, match="holds no weights"):
        cache.fingerprint(tmp_path / "empty")
