"""The planner: against figures worked out by hand, against published ones, and against the bytes of
real tensors.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics

import pytest

from qwen3lab import measure, memory, models, training
from qwen3lab.course import cli
from qwen3lab.errors import Qwen3labError
from qwen3lab.family import FAMILY, shape
from qwen3lab.memory import activations, gpus, planner, published, tracking
from qwen3lab.memory.activations import Format, Step
from qwen3lab.models import four_bit as models_four_bit
from qwen3lab.results import records

# GB: bf16 weights, full fine-tuning, LoRA r16 (dense: all linear; mixture of experts: attention)
STATIC = {
    "0.6B": (1.2, 9.5, 1.4),
    "1.7B": (3.4, 27.5, 3.7),
    "4B": (8.0, 64.4, 8.6),
    "8B": (16.4, 131.1, 17.1),
    "14B": (29.5, 236.3, 30.6),
    "32B": (65.5, 524.2, 67.7),
    "30B-A3B": (61.1, 488.5, 61.3),
    "235B-A22B": (470.2, 3761.5, 471.0),
}
# GB of the base model in NF4: if everything were quantised, and as transformers 5 and bitsandbytes
# 0.50 do it
NF4 = {
    "0.6B": (0.5, 0.5),
    "1.7B": (1.3, 1.3),
    "4B": (2.7, 2.7),
    "8B": (6.1, 6.1),
    "14B": (9.9, 9.9),
    "32B": (19.2, 19.2),
    "30B-A3B": (16.7, 59.7),
    "235B-A22B": (123.2, 460.2),
}
KIB_PER_TOKEN = {
    "0.6B": 112,
    "1.7B": 112,
    "4B": 144,
    "8B": 144,
    "14B": 160,
    "32B": 256,
    "30B-A3B": 96,
    "235B-A22B": 188,
}
TINY = ("qwen3-tiny", "qwen3-tiny-moe")
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


# --- by hand ---


@pytest.mark.parametrize("name", FAMILY)
def test_static_sizes(name):
    sizes = tuple(memory.plan(name, method).total / 1e9 for method in ("inference", "full", "lora"))
    assert sizes == pytest.approx(STATIC[name], abs=0.051)


@pytest.mark.parametrize("name", FAMILY)
def test_nf4(name):
    for experts_in_4bit, expected in zip((True, False), NF4[name], strict=True):
        parts = memory.plan(name, "qlora", experts_in_4bit=experts_in_4bit).parts
        assert (parts["4-bit weights"] + parts["other weights"]) / 1e9 == pytest.approx(
            expected, abs=0.051
        )
        matrices = shape(name).linear_parameters + experts_in_4bit * shape(name).expert_parameters
        assert parts["4-bit weights"] == pytest.approx(memory.NF4_BYTES * matrices, rel=1e-6)


@pytest.mark.parametrize("name", FAMILY)
def test_key_value_cache(name):
    assert shape(name).kv_bytes() == KIB_PER_TOKEN[name] * 1024
    for options in ({"tokens": 32_768}, {"batch": 4, "length": 8192}):
        assert (
            memory.plan(name, "inference", **options).parts["key-value cache"]
            == 32_768 * KIB_PER_TOKEN[name] * 1024
        )


def test_lora_keeps_four_copies_of_the_adapter_and_qlora_half_of_that():
    adapter = shape("8B").lora_parameters(16)
    assert memory.plan("8B", "lora").parts["adapter"] == 16 * adapter
    assert memory.plan("8B", "qlora").parts["adapter"] == 8 * adapter
    assert memory.plan("8B", "lora", optimiser="adamw-8bit").parts["adapter"] == pytest.approx(
        10.03125 * adapter
    )


def test_a_first_look_by_tokens():
    parts = memory.plan("0.6B", "lora", tokens=1_000).parts
    assert parts["activations"] == 2 * 1_000 * 1024 * 28 and "logits" not in parts


def test_float32_weights_take_twice_as_much():
    assert (
        memory.plan("0.6B", "inference", bytes_per_weight=4).total
        == 2 * memory.plan("0.6B", "inference").total
    )


@pytest.mark.parametrize(
    "optimiser, bytes_a_parameter", [("adamw", 16), ("adamw-bf16", 8), ("adamw-8bit", 6.03)]
)
def test_bytes_a_parameter(optimiser, bytes_a_parameter):
    assert memory.plan("32B", "full", optimiser=optimiser).total / shape(
        "32B"
    ).parameters == pytest.approx(bytes_a_parameter, rel=1e-3)


def test_upcast_doubles_what_is_not_in_4_bits():
    plain, upcast = (memory.plan("30B-A3B", "qlora", upcast=flag).parts for flag in (False, True))
    assert upcast["other weights"] == 2 * plain["other weights"] and upcast[
        "other weights"
    ] / 1e9 == pytest.approx(118.5, abs=0.1)
    assert upcast["4-bit weights"] == plain["4-bit weights"]


@pytest.mark.parametrize(
    "shard, weights, gradients, optimiser",
    [("zero1", 1, 1, 8), ("zero2", 1, 8, 8), ("zero3", 8, 8, 8)],
)
def test_shards(shard, weights, gradients, optimiser):
    whole, split = (
        memory.plan("8B", "full", shard=shard).parts,
        memory.plan("8B", "full", shard=shard, gpus=8).parts,
    )
    assert sum(whole.values()) == 16 * shape("8B").parameters
    for part, times in (("weights", weights), ("gradients", gradients), ("optimiser", optimiser)):
        assert split[part] == pytest.approx(whole[part] / times, abs=1)
    assert ("gathered layers" in split) == (shard == "zero3")


def test_fsdp_splits_everything_and_lora_too():
    parts = memory.plan("8B", "full", shard="fsdp", gpus=4).parts
    assert parts.pop("gathered layers") > 0 and sum(parts.values()) == pytest.approx(
        4 * shape("8B").parameters, abs=3
    )
    lora = memory.plan("8B", "lora", shard="fsdp", gpus=4).parts
    assert lora["weights"] == shape("8B").parameters / 2 and lora["adapter"] == 4 * shape(
        "8B"
    ).lora_parameters(16)


def test_logits_of_the_plain_trainer():
    """Four rows of 2,048 tokens: 10 bytes a logit (bfloat16, float32 and its softmax), of which the
    softmax waits for the backward pass.
    """
    plain, tiled = (
        memory.plan("0.6B", "lora", batch=4, length=2048, head=head) for head in ("plain", "trl")
    )
    logits = 4 * 2048 * 151_936
    assert plain.parts["logits"] == 6 * logits
    assert plain.total - tiled.total > 9.5 * logits and tiled.parts["logits"] < 0.4e9


def test_checkpointing_keeps_one_activation_a_layer():
    step = {"batch": 2, "length": 1024}
    keeps = activations.kept(shape("8B"), Step(**step), Format(2, 2), "all-linear")
    assert keeps == pytest.approx(36 * 2048 * 4096 * 2, rel=0.1)
    assert (
        activations.kept(shape("8B"), Step(**step, checkpointing=False), Format(2, 2), "all-linear")
        > 10 * keeps
    )


def test_the_peak_is_never_above_the_sum():
    for name, method, checkpointing, head in itertools.product(
        ("0.6B", "30B-A3B"), ("lora", "qlora", "full"), (True, False), activations.HEADS
    ):
        made = memory.plan(
            name, method, batch=2, length=512, checkpointing=checkpointing, head=head
        )
        static = memory.plan(name, method)
        assert (
            static.total <= made.peak + made.parts.get("gradients", made.parts.get("adapter", 0))
            and made.peak <= made.total
        )
        assert static.peak == static.total


def test_table_adds_up():
    plan = memory.plan("8B", "qlora", batch=4, length=1024)
    lines = plan.table().splitlines()
    assert lines[0] == "8B, QLoRA" and len(lines) == len(plan.parts) + 2
    sizes = [float(line.split()[-2]) for line in lines[1:]]
    assert sum(sizes[:-1]) == pytest.approx(sizes[-1], abs=0.003)


@pytest.mark.parametrize(
    "method, options, sentence",
    [
        ("dora", {}, "Unknown method 'dora'. Use one of: inference, lora, qlora, full."),
        ("lora", {"targets": "mlp"}, "Unknown LoRA targets 'mlp'"),
        (
            "full",
            {"optimiser": "sgd"},
            "Unknown optimiser 'sgd'. Use one of: adamw, adamw-bf16, adamw-8bit.",
        ),
        ("full", {"optimiser": "adamw-bf16", "bytes_per_weight": 4}, "Leave one of the two out."),
        (
            "full",
            {"gpus": 2, "shard": "zero4"},
            "Unknown shard 'zero4'. Use one of: zero1, zero2, zero3, fsdp.",
        ),
        ("full", {"gpus": 0}, "Rank 16, 0 GPUs, 0 tokens and 2 bytes a weight cannot be planned."),
        ("lora", {"rank": 0}, "Rank 0, 1 GPUs"),
        (
            "lora",
            {"batch": 0},
            "A batch of 0 rows of 2048 tokens has nothing to compute. Give both as 1 or more.",
        ),
        ("lora", {"labelled": 1.5}, "The labelled share 1.5 is no share."),
        (
            "lora",
            {"head": "fused"},
            "Unknown output head 'fused'. Use one of: trl, plain, one-pass.",
        ),
        ("lora", {"tokens": 5, "batch": 1}, "Both tokens and a batch are given."),
    ],
)
def test_what_cannot_be_planned(method, options, sentence):
    with pytest.raises(Qwen3labError, match=sentence.replace(".", r"\.")):
        memory.plan("8B", method, **options)


def test_machine_memory_is_plausible():
    assert 2**28 < memory.machine_bytes() < 2**48


# --- published figures ---


def test_growth_a_token_is_the_key_value_cache():
    table = published.growth()
    assert (
        len(table) == 7 and table.error.abs().max() < 0.1
    )  # all seven, between 6,144 and 30,720 tokens
    clean = {"0.6B", "4B", "8B", "30B-A3B"}
    off = table.error_from_one_token.abs()
    assert set(off[off < 1].index) == clean
    assert off.drop(index=clean).to_dict() == pytest.approx(
        {"1.7B": 3.7, "14B": 2.7, "32B": 3.7}, abs=0.05
    )


def test_published_sizes():
    table = published.inference()
    four_bit = table[(table.format == "awq") & (table.prompt == 1)]
    assert len(four_bit) == 4 and four_bit.error.abs().max() < 5
    bf16 = table[(table.format == "bf16") & (table.prompt > 1)]
    overhead = (bf16.published - bf16.planned) * 1e9 / 2**20
    assert (
        len(bf16) == 21
        and 33 < overhead.min()
        and overhead.max() < 48
        and bf16.error.abs().max() < 1.7
    )


def test_published_training_runs():
    table = published.training()
    assert (table.fits == (table.outcome == "ran")).all() and set(table.outcome) == {
        "ran",
        "out of memory",
    }
    one_gpu = table[~table.index.str.contains("GPUs")]
    assert len(one_gpu) == 3 and one_gpu.error.abs().max() < 5
    assert all(row["source"] for row in published.load()["training"])


@pytest.mark.parametrize(
    "text, sentence",
    [(None, "is missing. Run `git checkout -- data/published.toml`"), ("[a", "is no valid TOML")],
)
def test_broken_published_file(tmp_path, text, sentence):
    if text:
        (tmp_path / "published.toml").write_text(text)
    with pytest.raises(Qwen3labError, match=sentence):
        published.load(tmp_path / "published.toml")


# --- cards ---


def test_a_card_has_not_the_bytes_of_its_name():
    assert gpus.CARDS["A100 80 GB"].bytes == 80 * 2**30 and gpus.CARDS[
        "H100 80 GB"
    ].bytes / 1e9 == pytest.approx(85.52, abs=0.01)
    assert [card.bytes for card in gpus.CARDS.values()] == sorted(
        card.bytes for card in gpus.CARDS.values()
    )


def test_which_cards_fit():
    fits, small = gpus.fitting(memory.plan("8B", "lora", batch=1, length=2048))
    assert fits[0].name == "L4 24 GB" and [card.name for card in small] == ["T4 16 GB"]


def test_two_80_gb_cards_do_not_train_all_of_30b():
    two = 2 * gpus.CARDS["A100 80 GB"].bytes
    assert memory.plan("30B-A3B", "full").total > 2.8 * two
    assert (
        memory.plan("30B-A3B", "full", optimiser="adamw-8bit").total > two
    )  # not with 8-bit moments and bfloat16 weights either
    step = {"batch": 1, "length": 2048}
    assert gpus.fewest("A100 80 GB", "30B-A3B", "full", **step) == 7
    assert gpus.CARDS["A100 80 GB"].share(memory.plan("30B-A3B", "lora", **step)) < 1


FLOAT16 = [
    ("0.6B", "lora", {}),
    ("4B", "qlora", {}),
    ("8B", "qlora", {"optimiser": "adamw-8bit"}),
    ("1.7B", "full", {}),
    ("30B-A3B", "qlora", {"targets": "all-linear"}),
    ("8B", "full", {"gpus": 8, "shard": "zero3"}),
    ("8B", "inference", {}),
]


@pytest.mark.parametrize("model, method, options", FLOAT16)
def test_float16_differs_from_bfloat16_by_qloras_adapter_alone(model, method, options):
    half, brain = (memory.plan(model, method, float16=on, **options).parts for on in (True, False))
    adapter = shape(model).lora_parameters(
        16, options.get("targets", "attention" if shape(model).is_moe else "all-linear")
    )
    assert {name: half[name] - brain[name] for name in brain if half[name] != brain[name]} == (
        # Weight and gradient, and two moments unless they are in 8 bits: 2 bytes more of each.
        {"adapter": (4 if "optimiser" in options else 8) * adapter} if method == "qlora" else {}
    )
    assert half.keys() == brain.keys()


def test_float16_keeps_copies_by_its_own_name():
    step = {"batch": 1, "length": 512, "checkpointing": True}
    half = memory.plan("4B", "qlora", float16=True, **step).parts
    assert half["float16 copies"] == 2 * shape("4B").lora_parameters(16, "all-linear")
    lora = [memory.plan("4B", "lora", float16=on, **step) for on in (True, False)]
    assert lora[0].total == lora[1].total and "bfloat16 copies" in lora[1].parts


@pytest.mark.parametrize(
    "method, options, words",
    [
        ("lora", {"bytes_per_weight": 4}, "Both float16 and float32 are asked for."),
        ("full", {"optimiser": "adamw-bf16"}, "'adamw-bf16' trains bfloat16 weights"),
        ("full", {"optimiser": "adamw-8bit"}, "'adamw-8bit' trains bfloat16 weights"),
    ],
)
def test_what_loss_scaling_cannot_do_is_refused(method, options, words):
    with pytest.raises(Qwen3labError, match=words):
        memory.plan("0.6B", method, float16=True, **options)


def test_formats_by_dtype():
    assert [planner.format_of(name) for name in ("float32", "bfloat16", "float16")] == [
        {"bytes_per_weight": 4, "float16": False},
        {"bytes_per_weight": 2, "float16": False},
        {"bytes_per_weight": 2, "float16": True},
    ]


@pytest.mark.parametrize(
    "name, model, method",
    [("T4 16 GB", "8B", "qlora"), ("T4 16 GB", "4B", "lora"), ("L4 24 GB", "8B", "lora")],
)
def test_the_longest_row_fits_and_a_longer_one_does_not(name, model, method):
    card = gpus.CARDS[name]
    length = gpus.longest(card, model, method)
    assert length % 256 == 0 and 0 < length < 32_768

    def share(tokens):
        made = memory.plan(model, method, float16=not card.bfloat16, batch=1, length=tokens)
        return card.share(made)

    assert share(length) <= 1 < share(length + 256)


def test_the_longest_row_at_both_ends():
    assert gpus.longest(gpus.CARDS["T4 16 GB"], "32B", "lora") == 0
    assert gpus.longest(gpus.CARDS["H200 141 GB"], "0.6B", "lora", most=4096) == 4096


def test_cards_without_bfloat16_are_judged_by_the_float16_plan():
    small, large = (memory.Plan("m", "lora", {"weights": gb * 10**9}) for gb in (1, 20))
    names = [card.name for card in gpus.fitting(small, large)[0]]
    assert "T4 16 GB" not in names and "L4 24 GB" in names
    assert "T4 16 GB" in [card.name for card in gpus.fitting(small)[0]]


def test_fewest_cards_errors():
    with pytest.raises(Qwen3labError, match="Unknown card 'A100'. Use one of: T4 16 GB"):
        gpus.fewest("A100", "8B", "full")
    with pytest.raises(Qwen3labError, match="No number of T4 16 GB cards up to 4 is enough."):
        gpus.fewest("T4 16 GB", "32B", "full", most=4)


# --- the command ---


@pytest.mark.parametrize(
    "line, words",
    [
        (
            "8B --method qlora",
            [
                "8B, QLoRA",
                "4-bit weights       3.583 GB",
                "fits:         T4 16 GB",
                "does not fit: none",
                "note: The T4 16 GB has no bfloat16: float16 with loss scaling, what is trained in"
                " float32; --float16 counts it. Steps that overflow are left out (float16 ends at"
                " 65,504).\n",
            ],
        ),
        (
            "8B --method qlora --float16",
            ["adapter              0.698 GB", "float16 copies       0.087 GB"],
        ),
        (
            "4B --method inference",
            ["note: The T4 16 GB has no bfloat16: its weights are float16, of the same size.\n"],
        ),
        (
            "0.6B --method full --optimiser adamw-bf16",
            [
                "does not fit: T4 16 GB",
                "note: The T4 16 GB has no bfloat16: loss scaling needs float32 weights, which"
                " 'adamw-bf16' does not keep.\n",
            ],
        ),
        (
            "30B-A3B --method qlora",
            ["59.252 GB", "bitsandbytes leaves the experts in 16 bits", "--upcast shows it"],
        ),
        (
            "30B-A3B --method qlora --experts-in-4bit",
            ["15.423 GB", "RTX 4090 24 GB (78%)", "adapters on such experts are refused"],
        ),
        (
            "30B-A3B --method full --gpus 16 --shard zero2 --length 8192",
            ["each of 16 GPUs under zero2", "fits:         H200 141 GB"],
        ),
        (
            "30B-A3B --targets all-linear --no-checkpointing",
            ["second copy of all experts", "fits:         none of the cards in the table"],
        ),
        (
            "32B --method inference --four-bit --length 32768",
            ["key-value cache       8.590 GB", "RTX 5090 32 GB"],
        ),
        (
            "qwen3-tiny --float32 --batch 8 --length 64 --padded --head plain",
            ["qwen3-tiny, LoRA", "0.014 GB"],
        ),
    ],
)
def test_the_command(line, words, capsys):
    assert cli.main(["plan", *line.split()]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in words), printed


def test_the_command_says_what_is_wrong_in_a_sentence(capsys):
    assert cli.main(["plan", "8B", "--length", "0"]) == 1
    captured = capsys.readouterr()
    assert (
        captured.err
        == "A batch of 1 rows of 0 tokens has nothing to compute. Give both as 1 or more.\n"
        and not captured.out
    )


# --- real tensors ---


@pytest.mark.parametrize("name", TINY)
def test_static_bytes_of_full_fine_tuning(name):
    import torch

    model = models.load(name)[0].train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    gradients = measure.tensor_bytes(p.grad for p in model.parameters())
    optimizer.step()
    measured = measure.training_bytes(model, optimizer)
    assert memory.plan(name, "full").parts == {
        "weights": measured["trained weights"],
        "gradients": gradients,
        "optimiser": measured["optimiser"],
    }
    half = models.load(name, dtype="bfloat16")[0]
    assert memory.plan(name, "inference").total == measure.model_bytes(half)


@pytest.mark.parametrize(
    "name, targets, modules",
    [
        (TINY[0], "all-linear", SEVEN),
        (TINY[0], "attention", SEVEN[:4]),
        (TINY[1], "attention", SEVEN[:4]),
        (TINY[1], "all-linear", SEVEN),
    ],
)
def test_adapter_bytes(name, targets, modules):
    adapted = training.add_lora(models.load(name)[0], target_modules=modules)
    weights = measure.tensor_bytes(p for p in adapted.parameters() if p.requires_grad)
    assert memory.plan(name, "lora", targets=targets).parts["adapter"] == 4 * weights


@pytest.mark.parametrize("name", TINY)
def test_4bit_bytes(name):
    model, _ = models.load_4bit(name)
    planned = memory.plan(name, "qlora", bytes_per_weight=4).parts
    quantised = measure.tensor_bytes(layer.weight for layer in models_four_bit.layers_4bit(model))
    assert planned["4-bit weights"] == quantised
    assert planned["other weights"] == measure.model_bytes(model) - quantised


def test_4bit_experts_and_what_upcasting_does_to_the_others():
    import torch
    from bitsandbytes.nn.parametrize import replace_parameter_4bit
    from peft import prepare_model_for_kbit_training

    half, _ = models.load_4bit(TINY[1], dtype="bfloat16")
    other = memory.plan(TINY[1], "qlora").parts["other weights"]
    assert measure.model_bytes(half) - memory.four_bit_bytes(shape(TINY[1])) == other
    prepared = prepare_model_for_kbit_training(half, use_gradient_checkpointing=False)
    assert measure.model_bytes(prepared) == sum(
        memory.plan(TINY[1], "qlora", upcast=True).parts[p]
        for p in ("4-bit weights", "other weights")
    )
    experts = models.load(TINY[1])[0].model.layers[0].mlp.experts
    for parameter in ("gate_up_proj", "down_proj"):
        replace_parameter_4bit(experts, parameter, quant_type="nf4", compress_statistics=True)
    tensors = []
    for parameter in ("gate_up_proj", "down_proj"):
        state = experts.parametrizations[parameter][0].quant_state
        tensors += [experts.parametrizations[parameter].original, state.absmax, state.state2.absmax]
    assert all(torch.is_tensor(tensor) for tensor in tensors)
    assert 4 * measure.tensor_bytes(tensors) == memory.four_bit_bytes(
        shape(TINY[1]), experts=True
    ) - memory.four_bit_bytes(shape(TINY[1]))


@pytest.mark.parametrize("name", TINY)
def test_moments_in_8_bits(name):
    import bitsandbytes
    import torch

    model = models.load(name, dtype="bfloat16")[0].train()
    optimizer = bitsandbytes.optim.AdamW8bit(model.parameters(), lr=1e-3)
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    optimizer.step()
    state = [
        value
        for entry in optimizer.state.values()
        for key, value in entry.items()
        if torch.is_tensor(value) and not key.startswith("qmap")
    ]
    assert measure.tensor_bytes(state) == pytest.approx(
        memory.plan(name, "full", optimiser="adamw-8bit").parts["optimiser"], rel=1e-3
    )


def _ready(name, trains, form, checkpointing, four_bit=False):
    """A model in training mode with TRL's output head, and an adapter where not all is trained."""
    import torch
    from trl.trainer.utils import add_fused_lm_head

    model = (
        models.load_4bit(name)[0]
        if four_bit
        else models.load(name, dtype="bfloat16" if form.stream == 2 else "float32")[0]
    ).train()
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    model.config.output_router_logits = (
        name == TINY[1]
    )  # SFTTrainer turns the load-balancing loss on
    top = (
        model
        if trains == "all"
        else training.add_lora(model, target_modules=SEVEN if trains == "all-linear" else SEVEN[:4])
    )
    for parameter in top.parameters() if form.adapter == 2 else ():
        parameter.data = (
            parameter.data.to(torch.bfloat16) if parameter.requires_grad else parameter.data
        )
    if checkpointing:
        model.activation_checkpointing_enable()
    return model, top


def _batch(step):
    """Token numbers, labels on the last tokens of each row, and with padding a mask."""
    import torch

    ids = torch.arange(step.tokens).reshape(step.batch, step.length) * 37 % 4000
    labels = ids.clone()
    labels[:, : step.length - round(step.labelled * step.length)] = -100
    batch = {"input_ids": ids, "labels": labels}
    if step.padded:
        batch["attention_mask"] = torch.ones_like(ids)
        batch["attention_mask"][0, -5:] = 0
    return batch


@pytest.fixture
def _labelled_rows_alone(monkeypatch):
    """On a GPU TRL computes the output head for labelled rows alone; fine_tune makes it do so on a
    CPU.
    """
    import trl.trainer.utils

    monkeypatch.setattr(trl.trainer.utils, "_use_triton", lambda device: True)


FLOAT32, BFLOAT16, QLORA, MIXED = Format(4, 4), Format(2, 2), Format(2, 2, 2), Format(4, 2)


@pytest.mark.usefixtures("_labelled_rows_alone")
@pytest.mark.parametrize(
    "name, trains, form, checkpointing, padded",
    [
        (name, *case)
        for name in TINY
        for case in [
            ("all", FLOAT32, False, False),
            ("all", FLOAT32, True, True),
            ("all", MIXED, False, True),
            ("attention", FLOAT32, False, False),
            ("attention", QLORA, False, True),
            ("all-linear", FLOAT32, False, True),
            ("all-linear", BFLOAT16, False, False),
            ("all-linear", BFLOAT16, True, False),
        ]
    ],
)
def test_activations_are_what_autograd_keeps(name, trains, form, checkpointing, padded):
    import torch

    step = Step(2, 64, checkpointing, padded, labelled=0.25, device="cpu")
    model, top = _ready(name, trains, form, checkpointing)
    context = (
        torch.autocast("cpu", torch.bfloat16) if form.product == 2 else contextlib.nullcontext()
    )
    with tracking.saved_for_backward(model) as saved, context:
        out = top(**_batch(step), fused_lm_head=True)
    planned = activations.kept(shape(name), step, form, trains) + (
        not checkpointing
    ) * activations.cast_weights(shape(name), form, trains)
    assert out.loss.isfinite() and planned == pytest.approx(saved.bytes, rel=0.005)


@pytest.mark.usefixtures("_labelled_rows_alone")
@pytest.mark.parametrize(
    "trains, form, padded",
    [
        ("all", MIXED, True),
        ("attention", FLOAT32, True),
        ("all-linear", BFLOAT16, False),
        ("all-linear", QLORA, False),
    ],
)
def test_compiled_layers_keep_what_the_partitioner_hands_on(trains, form, padded):
    """The partitioner is inductor's; only the kernels, which keep nothing, are torch's own here."""
    import torch

    step = Step(2, 64, False, padded, labelled=0.25, device="cpu", compiled=True)
    model, top = _ready(TINY[0], trains, form, False)
    torch.compiler.reset()
    for layer in model.model.layers:
        layer.compile(backend="aot_eager_decomp_partition")
    context = (
        torch.autocast("cpu", torch.bfloat16) if form.product == 2 else contextlib.nullcontext()
    )
    with tracking.saved_for_backward(model) as saved, context:
        out = top(**_batch(step), fused_lm_head=True)
    planned = activations.kept(shape(TINY[0]), step, form, trains) + activations.cast_weights(
        shape(TINY[0]), form, trains
    )
    assert out.loss.isfinite() and planned == pytest.approx(saved.bytes, rel=0.01)


def recorded(compiled):
    """Lines of whole steps on GPUs, each with its plan of today: (plan, line)."""
    for name in ("gpu", "gpu_fast_h100", "gpu_fast_h200"):
        for line in records.read(name)["lines"]:
            if "failed" in line or line.get("compiled", False) != compiled:
                continue
            options = {"checkpointing": line["checkpointing"]}
            if compiled:
                width = 2 if line["adapters"] == "bfloat16" else 4
                options |= {"compiled": True, "head": "one-pass", "adapter_bytes": width}
            made = memory.plan(
                line["model"], line["method"], batch=line["rows"], length=line["length"], **options
            )
            yield made.peak, line


def test_recorded_peaks_of_compiled_steps():
    """No number of the plan was fitted to these lines."""
    errors = [planned / line["peak bytes"] - 1 for planned, line in recorded(True)]
    assert len(errors) == 16 and max(map(abs, errors)) < 0.05, errors


def test_plans_of_plain_steps_are_those_of_the_records():
    lines = list(recorded(False))
    assert len(lines) == 19
    assert all(planned == line["planned bytes"] for planned, line in lines)


def test_a_compiled_mixture_is_not_planned():
    with pytest.raises(Qwen3labError, match="not known"):
        memory.plan("30B-A3B", "lora", batch=1, length=8, checkpointing=False, compiled=True)


def test_plain_logits_are_what_autograd_keeps():
    model, _ = _ready(TINY[0], "all", FLOAT32, False)
    step = Step(2, 64, checkpointing=False, head="plain")
    with tracking.saved_for_backward(model) as saved:
        out = model(**_batch(step))
    assert out.loss.isfinite() and activations.kept(
        shape(TINY[0]), step, FLOAT32, "all"
    ) == pytest.approx(saved.bytes, rel=0.005)


@pytest.mark.usefixtures("_labelled_rows_alone")
def test_4bit_experts_come_back_in_full_for_the_backward_pass():
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    model, top = _ready(TINY[1], "attention", FLOAT32, False)
    for layer in model.model.layers:
        for parameter in ("gate_up_proj", "down_proj"):
            replace_parameter_4bit(
                layer.mlp.experts, parameter, quant_type="nf4", compress_statistics=True
            )
    step = Step(2, 64, checkpointing=False, labelled=0.25, device="cpu")
    with tracking.saved_for_backward(model) as saved:
        out = top(**_batch(step), fused_lm_head=True)
    planned = activations.kept(shape(TINY[1]), step, FLOAT32, "attention", experts_in_4bit=True)
    assert out.loss.isfinite() and planned == pytest.approx(saved.bytes, rel=0.005)


@pytest.mark.usefixtures("_labelled_rows_alone")
def test_peak_of_a_step_for_every_way_of_training():
    """Issue 4's table: {dense, mixture} x {LoRA, QLoRA, full} x {checkpointing on, off}, as live
    tensors of a whole step.
    """
    import torch

    errors = {}
    for name, method, checkpointing in itertools.product(
        TINY, ("lora", "qlora", "full"), (True, False)
    ):
        step = Step(4, 64, checkpointing, padded=True, labelled=1 / 8, device="cpu")
        trains = "all" if method == "full" else "attention" if name == TINY[1] else "all-linear"
        _, top = _ready(name, trains, FLOAT32, checkpointing, four_bit=method == "qlora")
        trained = [p for p in top.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
        with tracking.live_bytes() as live:
            for parameter in trained:  # an empty step, after which the optimiser has its state
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            optimizer.zero_grad()
            top(**_batch(step), fused_lm_head=True).loss.backward()
            optimizer.step()
        measured = measure.model_bytes(top) + live.peak
        planned = memory.plan(name, method, bytes_per_weight=4, **vars(step))
        errors[name, method, checkpointing] = abs(planned.peak / measured - 1)
        assert measured <= planned.total * 1.01
    print({" ".join(map(str, case)): f"{error:.2%}" for case, error in errors.items()})
    assert (
        len(errors) == 12
        and statistics.median(errors.values()) < 0.01
        and max(errors.values()) < 0.02
    ), errors


def test_peak_of_the_trainer():
    """The same through TRL's SFTTrainer, as `fine_tune` runs it."""
    model, tokenizer = models.load(TINY[0])
    rows = [
        {
            "messages": [{"role": "user", "content": text}],
            "answer": "Yes, it is.",
            "thinking": False,
        }
        for text in ("Is it?", "Is it so, or is it not so at all?")
    ] * 4
    encoded = [training.encode(tokenizer, row) for row in rows]
    longest = max(len(row["input_ids"]) for row in encoded)
    labelled = sum(label != -100 for row in encoded for label in row["labels"]) / (
        len(rows) * longest
    )
    with tracking.live_bytes() as live:
        training.fine_tune(
            model,
            rows,
            tokenizer=tokenizer,
            steps=2,
            batch_size=len(rows),
            activation_checkpointing=True,
        )
    planned = memory.plan(
        TINY[0],
        "lora",
        bytes_per_weight=4,
        batch=len(rows),
        length=longest,
        labelled=labelled,
        padded=True,
        device="cpu",
    )
    assert planned.peak == pytest.approx(4 * shape(TINY[0]).parameters + live.peak, rel=0.05)
