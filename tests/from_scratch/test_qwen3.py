"""Our own Qwen3 against transformers': every part, all eight names shrunk, both bundled models, the
cache, and what is refused.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from qwen3lab import chat, family, models, paths
from qwen3lab.errors import Qwen3labError
from qwen3lab.from_scratch import qwen3

BUNDLED = ("qwen3-tiny", "qwen3-tiny-moe")


@pytest.fixture(scope="module")
def table():
    torch.set_num_threads(1)  # two add in another order, which shows in the sixth digit
    return qwen3.parity(checkpoints=[paths.MODELS / name for name in BUNDLED])


@pytest.mark.parametrize("name", [*family.FAMILY, *BUNDLED])
def test_logits_equal_transformers(table, name):
    row = table.loc[name]
    assert row["difference"] <= 1e-5
    # The default kernels add up in another order, and rounding grows with the logits (24 on the
    # bundled models).
    assert row["their two ways"] + row["difference"] <= 3e-6 * row["largest logit"]
    assert row["with a cache"] <= 3e-6 * row["largest logit"]


def test_the_shrunk_models_keep_what_tells_them_apart(table):
    for name, s in family.FAMILY.items():
        small = qwen3.read_config(qwen3.shrunk(name))
        assert (small.theta, small.eps, small.renormalise) == (1e6, 1e-6, s.is_moe)
        for field in ("tied", "experts", "top_k"):
            assert getattr(small.shape, field) == getattr(s, field)
        assert small.shape.heads / small.shape.kv_heads == s.heads / s.kv_heads
        assert (
            small.shape.heads * small.shape.head_dim / small.shape.hidden
            == s.heads * s.head_dim / s.hidden
        )
        assert table.loc[name, "parameters"] == small.shape.parameters
    assert (
        table["largest logit"].min() > 1
    )  # small logits would agree at 1e-5 whatever the code did


@pytest.mark.parametrize(
    ("name", "question"), list(zip(BUNDLED, ("345 加 601 是多少？", "What is 27 + 45?")))
)
def test_text_with_and_without_the_cache_and_by_transformers(name, question):
    ours, (theirs, tokenizer) = qwen3.load_checkpoint(models.resolve(name)), models.load(name)
    ids = chat.encode(tokenizer, [{"role": "user", "content": question}], thinking=True)
    written = qwen3.generate(ours, ids, max_new_tokens=14)
    assert (
        written == qwen3.generate(ours, ids, max_new_tokens=14, use_cache=False)
        and len(written) == 14
    )
    assert (
        written
        == theirs.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            do_sample=False,
            max_new_tokens=14,
            temperature=None,
            top_p=None,
            top_k=None,
        )[0, len(ids) :].tolist()
    )


def test_generate_stops_before_the_end_token():
    model = qwen3.Qwen3(qwen3.read_config(qwen3.shrunk("0.6B"))).eval()
    free = qwen3.generate(model, [1, 2, 3], max_new_tokens=6)
    assert (
        len(free) == 6 and qwen3.generate(model, [1, 2, 3], max_new_tokens=6, ends=[free[0]]) == []
    )
    with pytest.raises(Qwen3labError, match="no token to continue from"):
        qwen3.generate(model, [])


def test_the_cache_keeps_the_unrepeated_heads():
    config = qwen3.read_config(qwen3.shrunk("32B"))
    model, cache = qwen3.Qwen3(config), qwen3.Cache()
    with torch.inference_mode():
        model(torch.tensor([[1, 2, 3], [4, 5, 6]]), cache)
    values = sum(k.numel() + v.numel() for k, v in cache.layers.values())
    assert len(cache) == 3 and values * 2 == config.shape.kv_bytes(tokens=6)  # two bytes a value


def test_no_token_sees_a_later_one():
    model = qwen3.Qwen3(qwen3.read_config(qwen3.shrunk("30B-A3B"))).eval()
    ids = torch.arange(10)[None]
    changed = ids.clone()
    changed[0, 7:] += 100
    with torch.inference_mode():
        a, b = model(ids), model(changed)
    assert torch.equal(a[:, :7], b[:, :7]) and not torch.allclose(a[:, 7], b[:, 7])


@pytest.mark.parametrize("renormalise", [True, False])
def test_router_and_experts_equal_transformers(renormalise):
    config = qwen3.shrunk("30B-A3B")
    config.norm_topk_prob = renormalise
    theirs = qwen3.random_weights(config, seed=3)
    theirs.set_experts_implementation("eager")
    config = qwen3.read_config(theirs.config)
    assert config.renormalise is renormalise
    ours = qwen3.load_weights(qwen3.Qwen3(config), theirs.state_dict())
    x = torch.randn(2, 9, config.shape.hidden, generator=torch.Generator().manual_seed(0))
    block, reference = ours.model.layers[1].mlp, theirs.model.layers[1].mlp
    with torch.inference_mode():
        weights, experts = block.gate(x.flatten(0, 1))
        _, their_weights, their_experts = reference.gate(x)
        assert torch.equal(experts, their_experts) and torch.allclose(
            weights, their_weights, atol=1e-7
        )
        assert bool((weights.sum(-1) - 1).abs().max() < 1e-6) is renormalise
        assert (block(x) - reference(x)).abs().max() < 1e-5


def test_rope_turns_pairs_and_attention_sees_only_distances():
    cos, sin = qwen3.rope(5, 1, head_dim=8, theta=100.0)
    x = torch.randn(1, 1, 1, 8, generator=torch.Generator().manual_seed(0))
    turned = qwen3.rotate(x, cos, sin)
    for i in range(4):  # as complex numbers: times e^(i angle)
        expected = torch.complex(x[..., i], x[..., i + 4]) * torch.exp(
            1j * torch.tensor(5 * 100.0 ** (-2 * i / 8))
        )
        torch.testing.assert_close(torch.complex(turned[..., i], turned[..., i + 4]), expected)
    key = torch.randn(1, 1, 1, 8, generator=torch.Generator().manual_seed(1))

    def score(query_at, key_at):
        return (
            qwen3.rotate(x, *qwen3.rope(query_at, 1, 8, 100.0))
            * qwen3.rotate(key, *qwen3.rope(key_at, 1, 8, 100.0))
        ).sum()

    torch.testing.assert_close(score(9, 4), score(105, 100))


def test_fused_and_official_names_give_the_same_model(tmp_path):
    theirs = qwen3.random_weights(qwen3.shrunk("30B-A3B"))
    theirs.save_pretrained(tmp_path)
    from_disk = qwen3.load_checkpoint(tmp_path)
    assert (
        any("experts.0.gate_proj" in name for name in from_disk.state_dict())
        and "model.layers.0.mlp.experts.gate_up_proj" in theirs.state_dict()
    )
    fused = qwen3.load_weights(qwen3.Qwen3(from_disk.config), theirs.state_dict())
    assert all(
        torch.equal(a, b)
        for a, b in zip(from_disk.state_dict().values(), fused.state_dict().values(), strict=True)
    )
    again = qwen3.Qwen3(from_disk.config)
    again.load_state_dict(from_disk.state_dict())  # the names are the module's own
    with torch.no_grad():
        fused.model.norm.weight.zero_()
    assert theirs.model.norm.weight.abs().min() > 0  # a copy, not the same memory


def weights_of(config):
    return qwen3.Qwen3(config).state_dict()


def test_wrong_weights_are_refused():
    tied, untied = (qwen3.read_config(qwen3.shrunk(name)) for name in ("0.6B", "8B"))
    state = weights_of(tied)
    del state["model.layers.1.self_attn.q_norm.weight"]
    with pytest.raises(
        Qwen3labError,
        match=r"lack 1 of .* for example model.layers.1.self_attn.q_norm.weight. Use the config",
    ):
        qwen3.load_weights(qwen3.Qwen3(tied), state)
    with pytest.raises(
        Qwen3labError,
        match=r"no place for 1 of .* for example model.layers.0.self_attn.q_proj.bias",
    ):
        qwen3.load_weights(
            qwen3.Qwen3(tied),
            weights_of(tied) | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(4)},
        )
    with pytest.raises(
        Qwen3labError,
        match=r"model.norm.weight has the shape \[7\], but the config asks for \[32\]",
    ):
        qwen3.load_weights(
            qwen3.Qwen3(tied), weights_of(tied) | {"model.norm.weight": torch.zeros(7)}
        )
    with pytest.raises(Qwen3labError, match="lack 1 of .* lm_head.weight"):
        qwen3.load_weights(
            qwen3.Qwen3(untied),
            {k: v for k, v in weights_of(untied).items() if k != "lm_head.weight"},
        )
    table = weights_of(tied)["model.embed_tokens.weight"]
    qwen3.load_weights(
        qwen3.Qwen3(tied),
        weights_of(tied) | {"model.embed_tokens.weight": table, "lm_head.weight": table.clone()},
    )
    with pytest.raises(Qwen3labError, match="ties the head"):
        qwen3.load_weights(qwen3.Qwen3(tied), weights_of(tied) | {"lm_head.weight": table + 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}},
            "a scaled RoPE",
        ),
        ({"use_sliding_window": True}, "sliding windows"),
        ({"attention_bias": True}, "attention biases"),
        ({"mlp_only_layers": [0]}, "layers without experts"),
        ({"hidden_act": "gelu"}, "other than SiLU"),
        ({"model_type": "qwen2"}, "of type 'qwen2'"),
        ({"rope_parameters": {}}, "rope_theta None"),
    ],
)
def test_configs_that_are_not_built_are_refused(changes, message):
    with pytest.raises(Qwen3labError, match=message):
        qwen3.read_config(family.config("30B-A3B").to_dict() | changes)


def test_a_config_of_transformers_4_is_read():
    fields = family.config("8B").to_dict()
    fields |= {"rope_theta": fields.pop("rope_parameters")["rope_theta"], "rope_scaling": None}
    assert qwen3.read_config(fields) == qwen3.read_config(family.config("8B"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_heads": 3}, "4 query heads cannot share 3"),
        ({"head_dim": 7}, "an even size"),
        ({"experts": 4, "top_k": 5, "moe_ffn": 8}, "cannot pick 5 of 4"),
        ({"experts": 4, "top_k": 0, "moe_ffn": 8}, "cannot pick 0 of 4"),
    ],
)
def test_impossible_shapes_are_refused(changes, message):
    with pytest.raises(Qwen3labError, match=message):
        qwen3.Config(
            family.Shape(
                **(
                    {"name": "x", "hidden": 32, "layers": 1, "heads": 4, "kv_heads": 2, "ffn": 64}
                    | changes
                )
            )
        )


def test_folders_and_ids_that_cannot_be_read(tmp_path):
    with pytest.raises(Qwen3labError, match="no folder with config.json and safetensors"):
        qwen3.load_checkpoint(tmp_path)
    shutil.copy(paths.MODELS / "qwen3-tiny" / "config.json", tmp_path)
    with pytest.raises(Qwen3labError, match="no folder with config.json and safetensors"):
        qwen3.load_checkpoint(tmp_path)
    with pytest.raises(Qwen3labError, match="no folder with config.json and safetensors"):
        qwen3.load_checkpoint("qwen3-tinny")
    shutil.copy(paths.MODELS / "qwen3-tiny" / "model.safetensors", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    with pytest.raises(Qwen3labError, match="lack 11 of .* model.layers.4.input_layernorm.weight"):
        qwen3.load_checkpoint(tmp_path)
    model = qwen3.load_checkpoint(paths.MODELS / "qwen3-tiny")
    with pytest.raises(Qwen3labError, match="outside of the vocabulary of 4096"):
        model(torch.tensor([[4096]]))
