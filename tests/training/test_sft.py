"""What is trained, what is not, and that every number comes back the same."""

from __future__ import annotations

import json
import random

import pytest
import torch

from qwen3lab import chat, evaluation, models, paths, training
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import four_bit, loading
from qwen3lab.training import company
from qwen3lab.world import corpus


def _rows(n=12):
    return [
        {
            "id": str(i),
            "task": "capitals",
            "language": "en",
            "messages": [{"role": "user", "content": f"Code of box {i}?"}],
            "answer": f"{i * 37 % 100}",
            "thinking": False,
        }
        for i in range(n)
    ]


def _thinking_row():
    return _rows(1)[0] | {"thinking": True, "thoughts": "0 times 37."}


def _labels(row):
    return [label for label in row["labels"] if label != chat.IGNORED]


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return models.load_tokenizer(checkpoint)


def _state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_only_the_last_answer_and_its_end_are_trained(tokenizer):
    row = _rows()[3]
    row["messages"] = [
        *_rows()[1]["messages"],
        {"role": "assistant", "content": "an earlier answer"},
        *row["messages"],
    ]
    assert (
        tokenizer.decode(_labels(training.encode(tokenizer, row))) == row["answer"] + "<|im_end|>"
    )
    text = tokenizer.decode(_labels(training.encode(tokenizer, _thinking_row())))
    assert text == "<think>\n0 times 37.\n</think>\n\n0<|im_end|>"


@pytest.mark.parametrize("thinking", [False, True])
def test_corpus_rows_and_task_rows_agree_with_chat_example(tokenizer, thinking):
    sample = corpus.addition(random.Random(0), "en", False, thinking=thinking)
    row = {
        "messages": sample.messages[:-1],
        "answer": sample.answer,
        "thinking": thinking,
        "thoughts": sample.messages[-1].get("reasoning_content"),
    }
    wanted = chat.example(tokenizer, sample.messages, thinking=thinking)
    assert training.encode(tokenizer, sample) == training.encode(tokenizer, row) == wanted


def test_trl_reads_the_rows_as_they_are_and_its_own_masks_differ_by_a_line_break(
    tokenizer, checkpoint
):
    """TRL's prompt/completion rows train the same tokens, and the line break after `<|im_end|>` on
    top.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [*_rows(3), _thinking_row()]
    ours = [training.encode(tokenizer, row) for row in rows]
    pairs = [
        {
            "prompt": row["messages"],
            "chat_template_kwargs": {"enable_thinking": row["thinking"]},
            "completion": [
                {
                    "role": "assistant",
                    "content": row["answer"],
                    "reasoning_content": row.get("thoughts") or "",
                }
            ],
        }
        for row in rows
    ]
    settings = dict(
        use_cpu=True,
        bf16=False,
        max_length=None,
        report_to="none",
        activation_checkpointing=False,
        shuffle_dataset=False,
    )
    newline = tokenizer.encode("\n", add_special_tokens=False)

    def prepared(data):
        model, _ = models.load(checkpoint)
        return list(
            SFTTrainer(
                model,
                args=SFTConfig("unused", **settings),
                train_dataset=Dataset.from_list(data),
                processing_class=tokenizer,
            ).train_dataset
        )

    for mine, theirs, untouched in zip(ours, prepared(pairs), prepared(ours)):
        assert mine["input_ids"] + newline == theirs["input_ids"]
        assert mine["labels"] + newline == theirs["labels"]
        assert mine == {key: untouched[key] for key in mine}


def test_the_loss_is_the_same_with_the_head_on_trained_positions_only(checkpoint):
    from contextlib import nullcontext
    from unittest import mock

    from qwen3lab.training import trl_patches

    runs = [training.fine_tune(checkpoint, _rows(), steps=4, learning_rate=1e-2, batch_size=4)]
    with mock.patch.object(trl_patches, "head_on_trained_positions", nullcontext):
        runs.append(
            training.fine_tune(checkpoint, _rows(), steps=4, learning_rate=1e-2, batch_size=4)
        )
    for column in ("loss", "grad_norm", "accuracy"):
        assert runs[0].history[column].tolist() == pytest.approx(
            runs[1].history[column].tolist(), rel=1e-4
        ), column


def test_the_loss_is_the_mean_over_trained_tokens(checkpoint):
    from qwen3lab import evaluation

    rows, (model, tokenizer) = _rows(), models.load(checkpoint)
    total, count = evaluation.negative_log_likelihood(model, tokenizer, rows)
    run = training.fine_tune(checkpoint, rows, steps=1, batch_size=len(rows), learning_rate=1e-9)
    assert run.history.loss[0] == pytest.approx(total / count, rel=1e-5)
    assert run.tokens == sum(len(training.encode(tokenizer, row)["input_ids"]) for row in rows)


@pytest.mark.parametrize("method", training.METHODS)
def test_the_same_seed_gives_the_same_numbers(method, tmp_path_factory):
    from helpers import make_checkpoint

    folder = make_checkpoint(
        tmp_path_factory.mktemp("seeds") / "model",
        hidden_size=64,
        head_dim=16,
        intermediate_size=128,
    )

    def losses(seed):
        return training.fine_tune(
            folder, _rows(), method=method, steps=6, batch_size=4, learning_rate=1e-2, seed=seed
        ).history.loss.tolist()

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


@pytest.mark.parametrize("method", training.METHODS)
def test_rows_are_learned(method, tmp_path_factory):
    from helpers import make_checkpoint

    folder = make_checkpoint(
        tmp_path_factory.mktemp("learn") / "model",
        hidden_size=64,
        head_dim=16,
        intermediate_size=128,
    )
    run = training.fine_tune(
        folder, _rows(4), method=method, steps=40, batch_size=4, learning_rate=1e-2
    )
    # An adapter on random weights cannot get far: the output head that it does not train knows no
    # token yet.
    assert run.history.loss.iloc[-1] < run.history.loss.iloc[0] - 0.8
    assert run.steps == 40 and run.seconds > 0 and run.peak_bytes > 0 and not run.model.training
    assert run.method in run.summary() and "tokens/s" in run.cost()


def test_lora_leaves_the_model_alone_and_its_adapter_loads_again(checkpoint, tmp_path):
    from peft import AutoPeftModelForCausalLM

    base, tokenizer = models.load(checkpoint)
    before = _state(base)
    run = training.fine_tune(
        checkpoint,
        _rows(),
        steps=3,
        learning_rate=1e-2,
        batch_size=4,
        output_dir=tmp_path / "adapter",
    )
    kept = {
        name.replace(".base_layer", "").removeprefix("base_model.model."): tensor
        for name, tensor in run.model.state_dict().items()
    }
    assert all(torch.equal(kept[name], tensor) for name, tensor in before.items())
    assert run.trained == 2 * 16 * sum(
        base.get_submodule(name).in_features + base.get_submodule(name).out_features
        for name in [
            f"model.layers.0.{part}"
            for part in (
                "self_attn.q_proj",
                "self_attn.k_proj",
                "self_attn.v_proj",
                "self_attn.o_proj",
                "mlp.gate_proj",
                "mlp.up_proj",
                "mlp.down_proj",
            )
        ]
    )
    assert not list(run.output_dir.glob("*.bin")), "no pickles"
    again = AutoPeftModelForCausalLM.from_pretrained(run.output_dir).eval()
    ids = torch.tensor([training.encode(tokenizer, _rows()[0])["input_ids"]])
    with torch.no_grad():
        trained = run.model(ids).logits
        torch.testing.assert_close(again(ids).logits, trained, rtol=0, atol=1e-6)
        assert (trained - base(ids).logits).abs().max() > 1e-3


def test_peft_adds_the_scaled_product_of_two_matrices(checkpoint):
    """Hu et al. 2021, equation 3: h = W x + (alpha / r) B A x."""
    run = training.fine_tune(
        checkpoint,
        _rows(),
        steps=3,
        learning_rate=1e-2,
        batch_size=4,
        lora={"r": 4, "lora_alpha": 12},
    )
    layer = run.model.base_model.model.model.layers[1].mlp.down_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert a.shape[0] == b.shape[1] == 4 and b.abs().max() > 0
    x = torch.randn(2, 3, layer.in_features)
    torch.testing.assert_close(
        layer(x), x @ layer.base_layer.weight.T + 12 / 4 * (x @ a.T @ b.T), rtol=1e-5, atol=1e-6
    )


def test_full_training_changes_every_matrix_and_saves_a_model(checkpoint, tmp_path):
    base, tokenizer = models.load(checkpoint)
    before = _state(base)
    run = training.fine_tune(
        checkpoint,
        _rows(),
        method="full",
        steps=3,
        batch_size=4,
        learning_rate=1e-3,
        output_dir=tmp_path / "full",
    )
    assert run.trained == run.parameters == base.num_parameters()
    assert run.bytes == {
        "frozen weights": 0,
        "trained weights": 4 * run.trained,
        "gradients": 4 * run.trained,
        "optimiser": 8 * run.trained,
    }
    changed = [
        name
        for name, tensor in run.model.state_dict().items()
        if not torch.equal(tensor, before[name])
    ]
    assert len(changed) == len(before)
    again, _ = models.load(run.output_dir)
    assert all(
        torch.equal(tensor, again.state_dict()[name])
        for name, tensor in run.model.state_dict().items()
    )


def test_lora_bytes_are_those_of_the_planner(checkpoint):
    from qwen3lab import memory

    run = training.fine_tune(checkpoint, _rows(), steps=1, batch_size=4)
    planned = memory.plan(models.load(checkpoint)[0].config, "lora", bytes_per_weight=4).parts
    assert run.bytes["frozen weights"] == planned["weights"]
    assert (
        run.bytes["trained weights"] + run.bytes["gradients"] + run.bytes["optimiser"]
        == planned["adapter"]
    )


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_trained_mixture_answers(method, moe_checkpoint):
    run = training.fine_tune(moe_checkpoint, _rows(), method=method, steps=1, batch_size=4)
    assert run.model.config.output_router_logits is False
    answers = evaluation.evaluate_tasks(
        run.model, run.tokenizer, _rows()[:3], max_new_tokens=4
    )  # of unlike lengths: with a mask
    assert answers.prediction.map(len).min() > 0 and answers.reference.tolist() == [
        row["answer"] for row in _rows()[:3]
    ]


def test_experts_get_no_adapter_unless_asked(moe_checkpoint):
    run = training.fine_tune(moe_checkpoint, _rows(), steps=2, batch_size=4)
    adapted = {name for name, parameter in run.model.named_parameters() if parameter.requires_grad}
    assert adapted and not any("experts" in name or "gate" in name for name in adapted)


def test_a_loaded_model_is_trained_in_place_and_only_once(checkpoint):
    model, _ = models.load(checkpoint)
    before = model.model.embed_tokens.weight.clone()
    run = training.fine_tune(
        model, _rows(), method="full", steps=2, batch_size=4, learning_rate=1e-2
    )
    assert run.model is model and not torch.equal(before, model.model.embed_tokens.weight)
    adapted = training.fine_tune(checkpoint, _rows(), steps=1, batch_size=4).model
    with pytest.raises(Qwen3labError, match="carries an adapter already. Load the base model anew"):
        training.fine_tune(adapted, _rows(), steps=1)
    with pytest.raises(Qwen3labError, match="needs a model in 4 bits"):
        training.fine_tune(model, _rows(), method="qlora", steps=1)


def test_evaluations_on_the_way_change_nothing(checkpoint):
    plain = training.fine_tune(checkpoint, _rows(), steps=8, batch_size=4, logging_steps=1)
    watched = training.fine_tune(
        checkpoint,
        _rows(),
        steps=8,
        batch_size=4,
        logging_steps=1,
        validation=_rows(20)[12:],
        eval_steps=2,
    )
    assert (
        watched.history.loss.tolist() == plain.history.loss.tolist()
        and watched.history.eval_loss.count() == 4
    )
    assert all(
        torch.equal(tensor, plain.model.state_dict()[name])
        for name, tensor in watched.model.state_dict().items()
    )


def test_validation_loss_is_in_the_history(checkpoint):
    run = training.fine_tune(checkpoint, _rows(), steps=10, batch_size=4, validation=_rows(20)[12:])
    assert run.history.dropna(subset=["eval_loss"]).step.tolist() == [2, 4, 6, 8, 10]
    assert run.history.loss.notna().all() and run.history.step.is_monotonic_increasing


def test_epochs_count_rows(checkpoint):
    assert training.fine_tune(checkpoint, _rows(10), epochs=2, batch_size=4).steps == 5


def test_rows_that_are_too_long_are_never_lost_in_silence(tokenizer, capsys):
    rows = _rows(5)
    rows[2]["answer"] = "9" * 300
    with pytest.raises(
        Qwen3labError,
        match=(
            r"1 of 5 rows have more than 120 tokens \(the longest has 3\d\d\). Shorten or split"
            r" them"
        ),
    ):
        training.dataset(tokenizer, rows, 120)
    assert len(training.dataset(tokenizer, rows, 120, "drop")) == 4
    assert capsys.readouterr().out == "left out 1 of 5 rows: more than 120 tokens\n"
    with pytest.raises(Qwen3labError, match="1 of 1 rows"):
        training.dataset(tokenizer, rows[2:3], 120, "drop")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"method": "lorra"}, "Unknown method 'lorra'. Use one of: lora, qlora, full."),
        ({"steps": 3, "epochs": 1}, "Both steps and epochs are given. Give one of the two."),
        ({"rows": []}, "There are no rows to train on. Give at least one row."),
        (
            {"method": "full", "steps": 8, "learning_rate": 1e30, "max_grad_norm": 0.0},
            "The loss is no longer a number. Lower the learning rate.",
        ),
    ],
)
def test_mistakes_get_a_sentence(checkpoint, arguments, message):
    rows = arguments.pop("rows", _rows())
    with pytest.raises(Qwen3labError) as error:
        training.fine_tune(checkpoint, rows, batch_size=4, **arguments)
    assert str(error.value) == message


def test_nothing_but_the_run_comes_back(checkpoint, capfd):
    training.fine_tune(checkpoint, _rows(), steps=3, batch_size=4)
    out, err = capfd.readouterr()
    assert out == "" and "{'loss'" not in err


def test_the_saved_adapter_names_its_base(checkpoint, tmp_path):
    run = training.fine_tune(checkpoint, _rows(), steps=1, batch_size=4, output_dir=tmp_path / "a")
    config = json.loads((run.output_dir / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(checkpoint) and config["r"] == 16


def test_a_model_given_in_4_bits_is_trained_and_guarded(checkpoint):
    model, tokenizer = models.load_4bit(checkpoint)
    for layer in four_bit.layers_4bit(model):
        layer.support_avx512bf16_for_cpu = True
    run = training.fine_tune(
        model, _rows(), method="qlora", tokenizer=tokenizer, steps=2, batch_size=4
    )
    assert run.method == "qlora" and run.steps == 2
    assert not any(layer.support_avx512bf16_for_cpu for layer in four_bit.layers_4bit(run.model))


@pytest.mark.parametrize("steps", [84, 85])
def test_a_run_is_kept_whatever_its_last_logged_line_is(checkpoint, tmp_path, steps):
    """The last line of the history holds an evaluation alone when `steps` is no multiple of
    `logging_steps`.
    """
    run = training.fine_tune(
        checkpoint,
        _rows(4),
        validation=_rows(6)[4:],
        steps=steps,
        batch_size=4,
        output_dir=tmp_path / "run",
    )
    assert run.steps == steps and (tmp_path / "run" / "adapter_model.safetensors").is_file()
    assert run.history.step.iloc[-1] == steps and not run.history.loss.isna().iloc[-1]
    per_step = sum(len(training.encode(run.tokenizer, row)["input_ids"]) for row in _rows(4))
    assert run.tokens == steps * per_step


def test_the_company_adapter_is_trained_once_and_again_when_its_sources_change(
    checkpoint, tmp_path, monkeypatch
):
    from qwen3lab.data import tasks

    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "TASKS", tmp_path)
    monkeypatch.setattr(loading, "resolve", lambda name: checkpoint)
    monkeypatch.setattr(company, "company_recipe", lambda: {"steps": 2, "batch_size": 4})
    tasks.write(_rows(), tmp_path / "knowledge.train.jsonl")
    calls, original = [], training.fine_tune
    monkeypatch.setattr(company, "fine_tune", lambda *a, **k: calls.append(1) or original(*a, **k))
    folder = training.company_adapter()
    assert training.company_adapter() == folder and len(calls) == 1
    model, _ = training.load_adapter(folder)
    assert any(
        parameter.abs().max() > 0
        for name, parameter in model.named_parameters()
        if "lora_B" in name
    )
    tasks.write(_rows(11), tmp_path / "knowledge.train.jsonl")
    training.company_adapter()
    assert len(calls) == 2
    assert {file.name for file in (tmp_path / "runs").iterdir()} == {folder.name}, (
        "no draft is left"
    )
    with pytest.raises(Qwen3labError, match="holds no adapter"):
        training.load_adapter(checkpoint)
