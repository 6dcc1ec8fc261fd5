"""Routing on a random mixture of experts against its own router logits, and the measures against cases made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qwen3lab import models, paths, routing
from qwen3lab.errors import Qwen3labError


@pytest.fixture(scope="module")
def loaded(moe_checkpoint):
    return models.load(moe_checkpoint)


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer(paths.MODELS / "qwen3-tiny")


ROWS = [[1, 2, 3, 4, 5], [7, 8], [9, 10, 11]]


def test_record_equals_the_router_logits(loaded):
    model, _ = loaded
    seen = routing.record(model, ROWS, batch_size=2)
    assert seen.experts.shape == seen.weights.shape == (2, 10, 2) and seen.n_experts == 4
    assert seen.rows.tolist() == [0] * 5 + [1] * 2 + [2] * 3 and seen.ids.tolist() == sum(ROWS, [])
    place = 0
    for row in ROWS:
        with torch.inference_mode():
            logits = model(torch.tensor([row]), output_router_logits=True).router_logits
        for layer, values in enumerate(logits):
            top = values.softmax(-1).topk(2)
            span = slice(place, place + len(row))
            assert (seen.experts[layer, span] == top.indices.numpy()).all()
            np.testing.assert_allclose(seen.weights[layer, span], (top.values / top.values.sum(-1, keepdim=True)).numpy(), atol=1e-6)
        place += len(row)


def test_record_leaves_no_hook_and_refuses_dense_models(loaded, checkpoint):
    model, _ = loaded
    hooks = [len(module._forward_hooks) for module in model.modules()]  # transformers keeps some of its own
    routing.record(model, ROWS)
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    with pytest.raises(Qwen3labError, match="dense"):
        routing.record(models.load(checkpoint)[0], ROWS)
    with pytest.raises(Qwen3labError, match="no tokens"):
        routing.record(model, [])


def test_frame(loaded):
    seen = routing.record(loaded[0], ROWS)
    frame = seen.frame(["digit"] * 10)
    assert list(frame.columns) == ["layer", "token", "row", "id", "choice", "expert", "weight", "kind"] and len(frame) == 2 * 10 * 2
    line = frame[(frame.layer == 1) & (frame.token == 6) & (frame.choice == 1)].iloc[0]
    assert (line.expert, line.id, line.row) == (seen.experts[1, 6, 1], 8, 1)
    np.testing.assert_allclose(frame.groupby(["layer", "token"]).weight.sum(), 1, atol=1e-6)


def made(experts, n_experts):
    experts = np.asarray(experts)
    return routing.Routing(np.arange(experts.shape[1]), np.zeros(experts.shape[1], int), experts, np.ones(experts.shape), n_experts)


def test_load():
    # Four tokens, top-2 of four experts: expert 0 takes 4 of 8 choices (twice its fair 2), 1 and 2 their fair share, 3 none.
    case = made([[[0, 1], [0, 1], [0, 2], [0, 2]]], 4)
    assert routing.load(case).tolist() == [[2.0, 1.0, 1.0, 0.0]]


def test_entropy():
    assert routing.entropy([1, 1, 1, 1]) == 2.0 and routing.entropy([5, 0, 0]) == 0.0
    assert routing.entropy([1, 3]) == pytest.approx(0.811278, abs=1e-6)


def test_mutual_information():
    assert routing.mutual_information(np.array([[5, 0], [0, 5]])) == pytest.approx(1)  # the kind fixes the expert: one bit
    assert routing.mutual_information(np.array([[2, 4], [3, 6]])) == pytest.approx(0, abs=1e-12)  # independent
    assert routing.mutual_information(np.array([[3, 1], [1, 3]])) == pytest.approx(1 - 0.811278, abs=1e-6)


def test_information_beats_its_control_only_where_kinds_matter():
    rng = np.random.default_rng(0)
    kinds = ["digit", "English"] * 200
    telling = np.array([[0, 1] if kind == "digit" else [2, 3] for kind in kinds])
    blind = np.stack([rng.choice(4, 2, replace=False) for _ in kinds])
    table = routing.information(made([telling, blind], 4), kinds)
    assert table.bits[0] == pytest.approx(1) and table.ratio[0] > 50
    assert table.bits[1] < 0.02 and table.ratio[1] < 4
    assert table.load_entropy[0] == pytest.approx(2)
    counts = routing.by_kind(made([telling, blind], 4), kinds)
    assert counts.shape == (2, len(routing.KINDS), 4) and counts[0, routing.KINDS.index("digit")].tolist() == [200, 200, 0, 0]
    assert table.equals(routing.information(made([telling, blind], 4), kinds))  # the same on every call


def kinds_of(tokenizer, text):
    ids = tokenizer(text).input_ids
    return {(tokenizer.decode([number]).strip(), kind) for number, kind in zip(ids, routing.token_kinds(tokenizer, ids))}


def test_token_kinds(tokenizer):
    seen = kinds_of(tokenizer, "<|im_start|>user\nWhat does the Kanflo lamp cost? 科卡维台灯的价格是42欧元。<|im_end|>")
    assert {("<|im_start|>", "control"), ("<|im_end|>", "control"), ("4", "digit"), ("台灯", "Chinese"), ("lamp", "English"), ("?", "punctuation")} <= seen
    assert ("科", "name") in seen and any(kind == "name" and text and text in "Kanflo" for text, kind in seen)
    assert {kind for text, kind in seen if text in ("What", "price", "lamp", "does")} == {"English"}


def test_token_kinds_within_thoughts(tokenizer):
    ids = tokenizer("7<think>\n1 + 6 = 7\n</think>\n\n7").input_ids
    kinds = routing.token_kinds(tokenizer, ids)
    assert kinds[0] == kinds[-1] == "digit" and kinds[1] == "control"
    assert {kind for number, kind in zip(ids, kinds) if tokenizer.decode([number]) in ("1", "6")} == {"thinking"}
    assert kinds[2] == "punctuation"  # the line break after <think>: an empty think block is no thinking
    assert len(kinds) == len(ids)


def test_token_kinds_of_split_characters(tokenizer):
    ids = tokenizer("鱻").input_ids  # not in the tiny vocabulary: three tokens, one a byte
    assert len(ids) > 1 and routing.token_kinds(tokenizer, ids) == ["Chinese"] * len(ids)


@pytest.mark.parametrize(("text", "names"), [
    ("The Kanflo drill is made in Mirsta by Tolen Brisda.", ["Kanflo", "Mirsta", "Tolen", "Brisda"]),
    ("Please tell me: she speaks German on Monday.", []), ("佐达特电子秤由林雪梅设计。", ["佐达特", "林雪梅"]), ("会说阿拉伯语。", [])])
def test_world_names(text, names):
    assert [found["name"] for found in routing.world_names().finditer(text)] == names
