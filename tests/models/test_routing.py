"""Routing on a random mixture of experts against its own router logits, and the measures against
cases made by hand.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from qwen3lab import models, paths
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import routing
from qwen3lab.results import records


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
            np.testing.assert_allclose(
                seen.weights[layer, span],
                (top.values / top.values.sum(-1, keepdim=True)).numpy(),
                atol=1e-6,
            )
        place += len(row)


def test_record_leaves_no_hook_and_refuses_dense_models(loaded, checkpoint):
    model, _ = loaded
    hooks = [
        len(module._forward_hooks) for module in model.modules()
    ]  # transformers keeps some of its own
    routing.record(model, ROWS)
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    with pytest.raises(Qwen3labError, match="dense"):
        routing.record(models.load(checkpoint)[0], ROWS)
    with pytest.raises(Qwen3labError, match="no tokens"):
        routing.record(model, [])


def test_frame(loaded):
    seen = routing.record(loaded[0], ROWS)
    frame = seen.frame(["digit"] * 10)
    assert (
        list(frame.columns) == ["layer", "token", "row", "id", "choice", "expert", "weight", "kind"]
        and len(frame) == 2 * 10 * 2
    )
    line = frame[(frame.layer == 1) & (frame.token == 6) & (frame.choice == 1)].iloc[0]
    assert (line.expert, line.id, line.row) == (seen.experts[1, 6, 1], 8, 1)
    np.testing.assert_allclose(frame.groupby(["layer", "token"]).weight.sum(), 1, atol=1e-6)


def made(experts, n_experts, texts=1, ids=None):
    """Choices made by hand [L, N, k], in texts of equal length."""
    experts = np.asarray(experts)
    return routing.Routing(
        np.arange(experts.shape[1]) if ids is None else np.asarray(ids),
        np.repeat(np.arange(texts), experts.shape[1] // texts),
        experts,
        np.ones(experts.shape),
        n_experts,
    )


def test_load():
    # Four tokens, top-2 of four experts: expert 0 takes 4 of 8 choices (twice its fair 2), 1 and 2
    # their fair share, 3 none.
    case = made([[[0, 1], [0, 1], [0, 2], [0, 2]]], 4)
    assert routing.load(case).tolist() == [[2.0, 1.0, 1.0, 0.0]]


def logits_of(model, row, **options):
    with torch.inference_mode():
        return model(torch.tensor([row]), output_router_logits=True, **options)


def test_balance_loss_equals_transformers(loaded):
    from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

    model, _ = loaded
    row = list(range(1, 40))
    out, seen = logits_of(model, row), routing.record(model, [row])
    assert routing.balance_loss(seen, jointly=True) == pytest.approx(out.aux_loss.item(), abs=1e-5)
    by_layer = [load_balancing_loss_func((logits,), 4, 2).item() for logits in out.router_logits]
    np.testing.assert_allclose(routing.balance_loss(seen), by_layer, atol=1e-5)
    # With padding: the mask of transformers counts the same tokens as our rows.
    batch, mask = torch.zeros(2, 39, dtype=torch.int), torch.zeros(2, 39, dtype=torch.int)
    for line, ids in enumerate((row, row[:5])):
        batch[line, : len(ids)], mask[line, : len(ids)] = torch.tensor(ids), 1
    with torch.inference_mode():
        out = model(batch, attention_mask=mask, output_router_logits=True)
    assert routing.balance_loss(
        routing.record(model, [row, row[:5]]), jointly=True
    ) == pytest.approx(out.aux_loss.item(), abs=1e-5)


def test_balance_loss_of_balance_and_of_collapse():
    from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

    E, k, N = 16, 4, 64
    fair = np.stack([(np.arange(k) + k * n) % E for n in range(N)])
    one = np.tile(np.arange(k), (N, 1))

    def case(*layers):
        shares = np.stack(
            [np.bincount(layer.ravel(), minlength=E) / layer.size for layer in layers]
        )
        return routing.Routing(
            np.arange(N),
            np.zeros(N, int),
            np.stack(layers),
            np.full((len(layers), N, k), 1 / k),
            E,
            shares,
        )

    assert routing.balance_loss(case(fair)).tolist() == [k] and routing.balance_loss(
        case(one)
    ).tolist() == [E]
    # Four layers, each collapsed to another four experts: all of them are at the worst, and the
    # joint number says perfect.
    hidden = case(*(one + k * layer for layer in range(4)))
    assert (
        routing.balance_loss(hidden).tolist() == [E] * 4
        and routing.balance_loss(hidden, jointly=True) == k
    )
    logits = tuple(
        torch.full((N, E), -30.0).scatter(1, torch.tensor(one + k * layer), 0.0)
        for layer in range(4)
    )
    assert load_balancing_loss_func(logits, E, k).item() == pytest.approx(k, abs=1e-4)
    assert load_balancing_loss_func(logits[:1], E, k).item() == pytest.approx(E, abs=1e-4)
    with pytest.raises(Qwen3labError, match="no mean shares"):
        routing.balance_loss(made([[[0, 1]]], 4))


def state(model):
    return (
        [getattr(module, "top_k", None) for module in model.modules()],
        model.config.num_experts_per_tok,
        model.num_experts_per_tok,
        model.state_dict(),
    )


def same(a, b):
    return a[:3] == b[:3] and all(
        torch.equal(x, y) for x, y in zip(a[3].values(), b[3].values(), strict=True)
    )


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_top_k_changes_the_choice_and_comes_back(moe_checkpoint, implementation):
    from qwen3lab.from_scratch import qwen3

    model, _ = models.load(moe_checkpoint, experts_implementation=implementation)
    row = [1, 2, 3, 4, 5]
    before, logits = copy.deepcopy(state(model)), logits_of(model, row).logits
    ours = qwen3.load_checkpoint(moe_checkpoint)
    for k in (1, 3, 4):
        with routing.top_k(model, k) as inside:
            assert inside is model
            out, seen = logits_of(model, row), routing.record(model, [row])
        assert seen.experts.shape[-1] == k and routing.balance_loss(
            seen, jointly=True
        ) == pytest.approx(out.aux_loss.item(), abs=1e-5)
        for block in ours.model.layers:
            block.mlp.gate.k = k
        with torch.inference_mode():
            torch.testing.assert_close(out.logits, ours(torch.tensor([row])), atol=1e-5, rtol=0)
        assert not torch.allclose(out.logits, logits, atol=1e-6)
    assert same(state(model), before) and torch.equal(logits_of(model, row).logits, logits)
    with pytest.raises(ZeroDivisionError), routing.top_k(model, 1):
        raise ZeroDivisionError
    assert same(state(model), before)
    for k in (0, 5):
        with (
            pytest.raises(Qwen3labError, match=f"cannot go to {k} of 4 experts"),
            routing.top_k(model, k),
        ):
            pass


def test_random_router_is_seeded_and_comes_back(moe_checkpoint, checkpoint):
    model, _ = models.load(moe_checkpoint)
    before, chosen = copy.deepcopy(state(model)), routing.record(model, ROWS).experts
    picks = []
    for seed in (0, 0, 1):
        with routing.random_router(model, seed):
            picks.append(routing.record(model, ROWS).experts)
            weights = [router.weight.clone() for router in routing.routers_of(model)]
    assert (
        (picks[0] == picks[1]).all() and (picks[0] != picks[2]).any() and (picks[0] != chosen).any()
    )
    for weight, router in zip(weights, routing.routers_of(model)):
        assert weight.std().item() == pytest.approx(router.weight.std().item(), rel=0.3)
    with pytest.raises(ZeroDivisionError), routing.random_router(model):
        raise ZeroDivisionError
    assert same(state(model), before) and (routing.record(model, ROWS).experts == chosen).all()
    dense, _ = models.load(checkpoint)
    for change in (routing.top_k(dense, 1), routing.random_router(dense)):
        with pytest.raises(Qwen3labError, match="dense"), change:
            pass


def test_by_group_counts_the_choices_of_each_label():
    case = routing.Routing(
        np.arange(5),
        np.array([0, 0, 1, 2, 2]),
        np.array([[[0, 1], [0, 1], [2, 3], [0, 3], [0, 3]]]),
        np.ones((1, 5, 2)),
        4,
    )
    counts, names = routing.by_group(case, ["sum", "copy", "sum"])
    assert names == ["copy", "sum"] and counts.tolist() == [[[0, 0, 1, 1], [4, 2, 0, 2]]]
    assert routing.per_token(case, ["a", "b", "c"]) == ["a", "a", "b", "c", "c"]
    with pytest.raises(Qwen3labError, match="There are 3 texts but 2 labels"):
        routing.by_group(case, ["sum", "copy"])
    with pytest.raises(Qwen3labError, match="There are 5 tokens but 3 labels"):
        routing.by_kind(case, ["digit"] * 3)
    with pytest.raises(Qwen3labError, match="'even' is not among the names"):
        routing.by_kind(case, ["even"] * 5)
    assert (
        case.ids.size == 5
        and routing.information(case, ["even", "odd", "even", "odd", "even"]).bits[0] >= 0
    )  # any labels


def test_entropy():
    assert routing.entropy([1, 1, 1, 1]) == 2.0 and routing.entropy([5, 0, 0]) == 0.0
    assert routing.entropy([1, 3]) == pytest.approx(0.811278, abs=1e-6)


def test_mutual_information():
    assert routing.mutual_information(np.array([[5, 0], [0, 5]])) == pytest.approx(
        1
    )  # the kind fixes the expert: one bit
    assert routing.mutual_information(np.array([[2, 4], [3, 6]])) == pytest.approx(
        0, abs=1e-12
    )  # independent
    assert routing.mutual_information(np.array([[3, 1], [1, 3]])) == pytest.approx(
        1 - 0.811278, abs=1e-6
    )


def test_information_is_the_share_that_a_label_can_explain():
    # Two of four experts for each token: one bit stays open whatever is known. The kind decides the
    # rest in the first layer, half of it in the second (every other digit), nothing in the third.
    rng = np.random.default_rng(0)
    kinds = rng.permutation(["digit", "English"] * 400)
    telling = np.array([[0, 1] if kind == "digit" else [2, 3] for kind in kinds])
    blind = np.array([[0, 1], [2, 3]])[rng.permutation([0, 1] * 400)]
    mixed = np.where(rng.permutation([True, False] * 400)[:, None], telling, blind)
    case = made([telling, mixed, blind], 4, texts=40)
    table = routing.information(case, kinds)
    assert table.entropy.tolist() == pytest.approx([1, 1, 1], abs=0.01)
    assert table.share[0] == pytest.approx(1)
    # Given the kind, three of four tokens go one way: 1 - H(1/4) = 0.189 bits.
    assert table.bits[1] == pytest.approx(0.189, abs=0.06) and table.share[2] < 0.02
    assert (table.by_chance < 0.01).all() and (table.by_chance > 0).all()
    np.testing.assert_allclose(table.share, table.bits / table.entropy)
    np.testing.assert_allclose(table.by_chance, table.shuffled / table.entropy)
    counts = routing.by_kind(case, kinds.tolist())
    assert counts.shape == (3, len(routing.KINDS), 4)
    assert counts[0, routing.KINDS.index("digit")].tolist() == [400, 400, 0, 0]
    assert table.equals(routing.information(case, kinds))  # the same on every call
    everywhere = made([[[0, 1]] * 4], 2, texts=2)  # all experts for each token: nothing to explain
    assert np.isnan(routing.information(everywhere, ["a", "b", "a", "b"]).share[0])


def test_a_token_explains_what_its_kind_does_and_more():
    # Eight tokens, each with an expert of its own; a kind holds four of them.
    ids = np.random.default_rng(1).integers(0, 8, 4000)
    case = made([ids[:, None]], 8, texts=20, ids=ids)
    kind, token = (routing.information(case, labels).iloc[0] for labels in (ids // 4, case.ids))
    assert token.share == pytest.approx(1) and token.bits == pytest.approx(3, abs=0.01)
    assert kind.bits == pytest.approx(1, abs=0.01) and kind.share == pytest.approx(1 / 3, abs=0.01)
    # More labels meet more chance: (8 - 1)(8 - 1) against (2 - 1)(8 - 1) cells, over 2 N ln 2.
    assert token.shuffled == pytest.approx(49 / (2 * 4000 * np.log(2)), rel=0.2)
    assert kind.shuffled == pytest.approx(7 / (2 * 4000 * np.log(2)), rel=0.3)


def test_kinds_of_tokens_are_shuffled_by_whole_texts():
    # A text keeps to one kind and to one expert, and neither follows from the other: thirty texts
    # say less than six hundred tokens seem to.
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(30), 20)
    kinds, experts = rng.integers(0, 3, 30)[rows], rng.integers(0, 8, 30)[rows]
    case = made([experts[:, None]], 8, texts=30)
    texts, tokens = (
        routing.information(case, kinds, whole_texts=whole).iloc[0] for whole in (True, False)
    )
    assert texts.bits == tokens.bits > 10 * tokens.shuffled
    assert texts.bits == pytest.approx(texts.shuffled, rel=0.5)


def kinds_of(tokenizer, text):
    ids = tokenizer(text).input_ids
    return {
        (tokenizer.decode([number]).strip(), kind)
        for number, kind in zip(ids, routing.token_kinds(tokenizer, ids))
    }


def test_token_kinds(tokenizer):
    seen = kinds_of(
        tokenizer,
        "<|im_start|>user\nWhat does the Kanflo lamp cost? 科卡维台灯的价格是42欧元。<|im_end|>",
    )
    assert {
        ("<|im_start|>", "control"),
        ("<|im_end|>", "control"),
        ("4", "digit"),
        ("台灯", "Chinese"),
        ("lamp", "English"),
        ("?", "punctuation"),
    } <= seen
    assert ("科", "name") in seen and any(
        kind == "name" and text and text in "Kanflo" for text, kind in seen
    )
    assert {kind for text, kind in seen if text in ("What", "price", "lamp", "does")} == {"English"}


def test_token_kinds_within_thoughts(tokenizer):
    ids = tokenizer("7<think>\n1 + 6 = 7\n</think>\n\n7").input_ids
    kinds = routing.token_kinds(tokenizer, ids)
    assert kinds[0] == kinds[-1] == "digit" and kinds[1] == "control"
    assert {
        kind for number, kind in zip(ids, kinds) if tokenizer.decode([number]) in ("1", "6")
    } == {"thinking"}
    assert (
        kinds[2] == "punctuation"
    )  # the line break after <think>: an empty think block is no thinking
    assert len(kinds) == len(ids)


def test_token_kinds_of_split_characters(tokenizer):
    ids = tokenizer("鱻").input_ids  # not in the tiny vocabulary: three tokens, one a byte
    assert len(ids) > 1 and routing.token_kinds(tokenizer, ids) == ["Chinese"] * len(ids)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            "The Kanflo drill is made in Mirsta by Tolen Brisda.",
            ["Kanflo", "Mirsta", "Tolen", "Brisda"],
        ),
        ("Please tell me: she speaks German on Monday.", []),
        ("佐达特电子秤由林雪梅设计。", ["佐达特", "林雪梅"]),
        ("会说阿拉伯语。", []),
    ],
)
def test_world_names(text, names):
    assert [found["name"] for found in routing.world_names().finditer(text)] == names


def test_labels_of_texts_are_dealt_out_to_whole_texts():
    # Each text keeps to experts of its own, whatever its label: dealt out by token the labels would
    # seem to matter.
    rng = np.random.default_rng(0)
    favourites, rows = rng.integers(0, 8, 30), np.repeat(np.arange(30), 20)
    experts = np.where(rng.random(600) < 0.8, favourites[rows], rng.integers(0, 8, 600))[
        None, :, None
    ]
    case = routing.Routing(np.arange(600), rows, experts, np.ones((1, 600, 1)), 8)
    labels = ["a", "b", "c"] * 10
    by_text = routing.information(case, labels).iloc[0]
    by_token = routing.information(case, routing.per_token(case, labels), whole_texts=False).iloc[0]
    assert by_text.bits == pytest.approx(by_token.bits)
    assert by_token.bits > 5 * by_token.shuffled and 0.5 < by_text.bits / by_text.shuffled < 2
    telling = routing.Routing(
        case.ids,
        rows,
        np.array(["abc".index(label) for label in routing.per_token(case, labels)])[None, :, None],
        case.weights,
        8,
    )
    told = routing.information(telling, labels).iloc[0]
    assert told.bits > 5 * told.shuffled


def test_the_recorded_speeds():
    import pandas as pd

    table = pd.DataFrame(records.read("experts")["rows"])
    assert (
        sorted(table.experts) == [16] * 3 + [128] * 3
        and (table.fastest <= table.seconds).all()
        and (table.seconds <= table.slowest).all()
    )
    by = table.pivot(index="experts", columns="implementation", values="seconds")
    assert (by.batched_mm > 10 * by.grouped_mm).all() and (by.batched_mm > 10 * by.eager).all()
