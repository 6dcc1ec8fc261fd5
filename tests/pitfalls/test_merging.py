"""Each trap shows in its number, and the remedy heals it."""

from __future__ import annotations

import json

import pytest
import torch

from qwen3lab import models, paths, training
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.pitfalls import merging
from qwen3lab.serving import ladder

TINY, OTHER = paths.MODELS / "qwen3-tiny", paths.MODELS / "qwen3-tiny-base"
ROWS = tasks.load("knowledge", "validation")[:8]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(paths, "CACHE", tmp_path_factory.getbasetemp() / "cache")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter with random numbers that move the weights by more than a step of four bits, as a
    trained one does.
    """
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    adapted = training.add_lora(models.load(TINY, dtype="float32")[0], r=8, lora_alpha=16)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(folder)
    return folder


def test_two_roundings_are_worse_than_one(adapter):
    answers, weights = merging.into_4bit(adapter, ROWS, TINY)
    assert answers.healthy > 1e-4 < answers.broken
    # Two independent roundings: their squares add up.
    assert 0.08 < weights.healthy < 0.11 and weights.broken / weights.healthy == pytest.approx(
        2**0.5, rel=0.1
    )


def test_a_tied_head_learns_what_it_should_not_or_not_what_it_should():
    lora, whole = merging.tied_head(ROWS, TINY)
    assert lora.broken > 0.005 and lora.healthy < 1e-6
    table = 4096 * 256 * 4
    assert whole.broken - whole.healthy == pytest.approx(table, rel=0.01)
    assert whole.healthy == pytest.approx(
        2 * (TINY / "model.safetensors").stat().st_size, rel=0.01
    )  # float32 of the same tables


def test_untie_changes_no_answer_until_the_embeddings_change():
    model, tokenizer = models.load(TINY, dtype="float32")
    ids = torch.tensor([tokenizer("What is the fee for a key card?").input_ids])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        after = merging.untie(model)(input_ids=ids).logits
        assert torch.equal(before, after)
        head = model.lm_head.weight.clone()
        model.get_input_embeddings().weight.mul_(2)
    assert torch.equal(model.lm_head.weight, head) and model.config.tie_word_embeddings is False


def test_wrong_base_is_refused(adapter, tmp_path):
    with pytest.raises(Qwen3labError, match="does not say which base"):
        merging.check_base(adapter, TINY)
    stamp = merging.stamp(adapter, TINY)
    merging.check_base(adapter, TINY)
    with pytest.raises(Qwen3labError, match="was trained on other weights"):
        merging.check_base(adapter, OTHER)
    assert len(json.loads(stamp.read_text())["base"]) == 64


def test_wrong_base_loads_without_a_word_and_answers_differently(tmp_path):
    """An adapter that does nothing: the right base gives the base's own answers, the other one does
    not.
    """
    rows = [
        row
        for row in tasks.load("chat", "test")
        if row["task"] == "lookup" and not row.get("tools")
    ][:12]
    training.add_lora(models.load(TINY, dtype="float32")[0], r=2).save_pretrained(tmp_path)
    trap = merging.wrong_base(tmp_path, rows, TINY, OTHER)
    assert trap.healthy > 0.8 and trap.broken < 0.4


def test_special_tokens():
    rows = [row for row in tasks.load("chat", "test") if row["task"] == "lookup"][:6]
    unknown, lost = merging.special_tokens(TINY, rows, limit=16)
    assert unknown.healthy == lost.healthy < 14 < unknown.broken
    assert lost.broken == 16
    model, tokenizer, new = merging.taught(TINY)
    assert (
        tokenizer.convert_ids_to_tokens(new) == "<|done|>"
        and model.generation_config.eos_token_id == new
    )


def test_table_and_distance(adapter):
    trap = merging.Trap("a", "b", 2.0, 1.0, "c")
    assert merging.table([trap]).loc["a"].tolist() == ["b", 2.0, 1.0, "c"]
    model, tokenizer = models.load(TINY, dtype="float32")
    examples = merging.answer_examples(tokenizer, ROWS[:2])
    assert merging.distance(model, ladder.read(model, examples), examples) == 0


def test_a_head_of_its_own_has_no_such_trap(tmp_path):
    from helpers import make_checkpoint

    with pytest.raises(Qwen3labError, match="a table of its own"):
        merging.tied_head(ROWS, make_checkpoint(tmp_path / "untied", "8B"))


def test_a_base_of_another_size_is_no_wrong_revision(adapter, tmp_path):
    from helpers import make_checkpoint

    with pytest.raises(Qwen3labError, match="has another size than"):
        merging.wrong_base(adapter, ROWS, TINY, make_checkpoint(tmp_path / "other"))


def test_every_trap_that_is_there_and_why_another_is_not(monkeypatch, capsys):
    trap = merging.Trap("t", "m", 1.0, 0.0, "r")

    def missing(*_):
        raise Qwen3labError("Untied. Take another.")

    monkeypatch.setattr(merging, "into_4bit", lambda *_: [trap])
    monkeypatch.setattr(merging, "tied_head", missing)
    monkeypatch.setattr(merging, "wrong_base", lambda *_: trap)
    monkeypatch.setattr(merging, "special_tokens", lambda _, rows: [trap] * len(rows))
    assert merging.every(TINY, TINY, ROWS[:9]) == [trap] * 6
    assert capsys.readouterr().out == "Untied. Take another.\n"
