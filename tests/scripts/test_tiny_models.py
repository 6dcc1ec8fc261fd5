"""How the bundled models were made: world, tokenizer, encoding, optimiser, loop, upcycling."""

import json
import random

import pytest
import torch

from qwen3lab import paths, prompts
from qwen3lab.chat import template
from qwen3lab.paths import MODELS
from qwen3lab.world import corpus, names
from scripts.tiny_models import build, cards, report, shapes
from scripts.tiny_models import tokenizer as tokenizers
from scripts.tiny_models.encode import Encoder
from scripts.tiny_models.muon import Muon, orthogonalise
from scripts.tiny_models.pretrain import Recipe, loss_sum, train, update
from scripts.tiny_models.upcycle import upcycle


@pytest.fixture(scope="module")
def tok():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODELS / "qwen3-tiny")


def small_dense(tok, **kw):
    from transformers import Qwen3ForCausalLM

    config = shapes.dense(tok)
    config.update(
        dict(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            layer_types=["full_attention"] * 2,
            **kw,
        )
    )
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config)


def test_values_and_names_of_evaluation_never_occur_in_training():
    rng = random.Random(0)
    trained = {names.word(rng, language, False) for language in ("en", "zh") for _ in range(3000)}
    held_out = {names.word(rng, language, True) for language in ("en", "zh") for _ in range(3000)}
    assert not trained & held_out
    assert all(names.is_held_out(name) for name in held_out)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_answers_stand_in_the_text_and_refusals_do_not(language):
    rng = random.Random(1)
    for _ in range(300):
        row = corpus.context_question(rng, language, True, unanswerable=0)
        assert row.answer in row.messages[0]["content"].split("\n\n", 1)[1]
        row = corpus.context_question(rng, language, True, unanswerable=1)
        assert row.answer == prompts.REFUSAL[language] and row.task == "unanswerable"


def test_added_steps_are_right():
    rng = random.Random(2)
    for _ in range(300):
        row = corpus.addition(rng, "en", False)
        for step in row.messages[-1]["reasoning_content"].splitlines():
            sum_, rest = step.split(" = ")
            assert eval(sum_) == int(
                rest.split(",")[0]
            )  # digits and plus signs written by the generator above


def test_tokenizer_is_lossless_with_single_digits_and_qwen3s_control_tokens(tok):
    rng = random.Random(3)
    for _ in range(200):
        text = corpus.plain_text(rng)
        assert tok.decode(tok(text).input_ids) == text
    assert tok.tokenize("12345") == list("12345")
    added = tok.convert_tokens_to_ids([*tokenizers.SPECIAL, *tokenizers.MARKS])
    assert added == list(range(4064, 4090)) and len(tok) == 4090
    assert tok.eos_token == "<|im_end|>" and tok.pad_token == "<|endoftext|>"
    assert tok.chat_template is None


def test_encoded_rows_equal_the_chat_template(tok):
    encoder, rng = Encoder(tok), random.Random(4)
    seen = set()
    for _ in range(800):
        row = corpus.sample(rng, 0.9)
        if row.every_turn:
            continue
        ids, weights = encoder.row(row)
        apply = lambda messages, **kw: tok.apply_chat_template(
            messages, tools=row.tools, chat_template=template(), tokenize=False, **kw
        )
        assert (
            ids == tok(apply(row.messages).removesuffix("\n"), add_special_tokens=False).input_ids
        )
        prompt = [i for i, w in zip(ids, weights) if w == 0]
        asked = apply(row.messages[:-1], add_generation_prompt=True, enable_thinking=row.thinking)
        assert prompt == tok(asked, add_special_tokens=False).input_ids
        assert sum(weights) == pytest.approx((len(ids) - len(prompt)) ** 0.5)
        seen.add(row.task)
    assert seen >= {
        "context",
        "unanswerable",
        "addition",
        "word-problem",
        "dialogue",
        "tool",
        "code",
        "recall",
    }


def test_newton_schulz_pulls_singular_values_to_one_and_equals_torch():
    from torch.optim._muon import _zeropower_via_newtonschulz

    torch.manual_seed(0)
    matrix = torch.randn(48, 96)
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert values.min() > 0.6 and values.max() < 1.3
    theirs = _zeropower_via_newtonschulz(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7).float()
    assert (orthogonalise(matrix) - theirs).abs().max() < 0.02  # theirs is in bfloat16
    stack = torch.randn(3, 20, 10)
    assert torch.allclose(orthogonalise(stack)[1], orthogonalise(stack[1]), atol=1e-5)


def test_each_update_takes_a_fraction_of_the_full_rate():
    weight = torch.nn.Parameter(torch.ones(3))
    optims = [torch.optim.SGD([weight], lr=0.4)]
    for rate, left in ((0.5, 0.8), (0.25, 0.7)):  # of the full rate, not of the last one
        weight.grad = torch.ones(3)
        update(optims, rate)
        assert torch.allclose(weight, torch.full((3,), left)) and weight.grad is None


def test_muon_steps_equal_torch():
    torch.manual_seed(0)
    start, gradients = torch.randn(64, 32), [torch.randn(64, 32) for _ in range(3)]
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optims = [
        Muon([ours], lr=0.02, weight_decay=0.01),
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.01, momentum=0.95),
    ]
    for gradient in gradients:
        for p, optim in zip((ours, theirs), optims):
            p.grad = gradient.clone()
            optim.step()
    assert (ours - theirs).abs().max() < 2e-3 and (ours - start).abs().max() > 5e-3


def test_loss_equals_transformers_on_the_trained_tokens(tok):
    model, row = small_dense(tok), corpus.dialogue(random.Random(5), "en", False)
    ids, weights = Encoder(tok).row(row)
    labels = torch.tensor([[i if w else -100 for i, w in zip(ids, weights)]])
    loss, weight, _ = loss_sum(
        model, torch.tensor([ids]), torch.tensor([weights]), tok.pad_token_id
    )
    assert (loss / weight).item() == pytest.approx(
        model(torch.tensor([ids]), labels=labels).loss.item(), abs=1e-5
    )


def test_resumed_training_equals_uninterrupted(tok, tmp_path):
    recipe = Recipe("test", "chat", steps=6, tokens=1024, warmup=2)
    whole = small_dense(tok)
    train(whole, tok, recipe, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(model, step):
        raise Stop

    with pytest.raises(Stop):
        train(small_dense(tok), tok, recipe, tmp_path / "parts", save_every=3, on_save=stop)
    resumed = small_dense(tok)
    train(resumed, tok, recipe, tmp_path / "parts")
    for a, b in zip(whole.parameters(), resumed.parameters()):
        assert torch.equal(a, b)


def test_upcycled_moe_computes_what_the_dense_model_computes(tok):
    from transformers import Qwen3ForCausalLM, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    dense, moe = Qwen3ForCausalLM(shapes.dense(tok)), Qwen3MoeForCausalLM(shapes.moe(tok))
    upcycle(dense, moe, noise=0.0)
    ids = torch.randint(0, 4000, (2, 40))
    with torch.no_grad():
        assert (dense(ids).logits - moe(ids).logits).abs().max() < 1e-5


def test_smoke_build_runs_every_stage_and_is_scored_and_described(tmp_path):
    for stage in build.STAGES:
        getattr(build, stage)(tmp_path / "work", tmp_path / "models", smoke=True)
    for name in (
        "qwen3-tiny-base",
        "qwen3-tiny",
        "qwen3-tiny-moe",
        "qwen3-tiny-draft",
        "qwen3-tiny-embedding",
        "qwen3-tiny-vl",
    ):
        assert (tmp_path / "models" / name / "model.safetensors").exists()
        assert not list((tmp_path / "models" / name).glob("*.bin"))
    names = [name for name in cards.WHAT if name != "qwen3-tiny-base"]
    found = report.measure(names, tmp_path / "models", limit=2)
    assert set(found) == set(names) and found["qwen3-tiny"]["context en"]["n"] == 2
    assert found["qwen3-tiny-draft"]["accepted"]["n"] > 0
    assert found["qwen3-tiny-vl"]["price tags, held-out prices, fonts and positions"]["n"] == 2
    (tmp_path / "models" / "results.json").write_text(json.dumps(found))
    before = (paths.ROOT / "README.md").read_bytes()
    cards.write(tmp_path / "work", tmp_path / "models")
    card = (tmp_path / "models" / "qwen3-tiny" / "README.md").read_text()
    assert "`dense-chat`: 3 steps" in card and "context en: " in card
    assert (paths.ROOT / "README.md").read_bytes() == before


def test_the_report_finds_the_committed_scores():
    kept = json.loads((MODELS / "results.json").read_text())
    found = report.measure(["qwen3-tiny-embedding"])
    assert found["qwen3-tiny-embedding"] == kept["qwen3-tiny-embedding"]
