"""Training in float16 with a scaled loss, as on a T4.

There is no such card here. The trainer's own code is run on the CPU instead: torch has autocast and
loss scaling for it, and only accelerate leaves them out there (`scaled_on_the_cpu`).
"""

from __future__ import annotations

import math
import shutil
import types

import accelerate
import pytest
import torch
from helpers import pretend
from safetensors.torch import load_file

from qwen3lab import models, training
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import four_bit
from qwen3lab.training import checkpointing, sft, trl_patches

ROWS = [
    {"messages": [{"role": "user", "content": f"Code {n}?"}], "answer": str(n), "thinking": False}
    for n in range(8)
]


@pytest.fixture
def scaled_on_the_cpu(monkeypatch):
    """Make accelerate do on a CPU what it does on a GPU when `fp16` is asked for."""
    original, done = accelerate.Accelerator.__init__, types.SimpleNamespace(made=[], first=2.0**14)

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if self.state.mixed_precision == "fp16":
            self.native_amp = True
            self.scaler = torch.amp.GradScaler("cpu", init_scale=done.first)
            done.made.append(self.scaler)

    monkeypatch.setattr(accelerate.Accelerator, "__init__", init)
    return done


def loaded(checkpoint, method, dtype):
    if method == "qlora":
        model, _ = four_bit.load_4bit(checkpoint, dtype=dtype)
        return model
    return models.load(checkpoint, dtype="float32" if method == "full" else dtype)[0]


def tuned(checkpoint, method, dtype, **options):
    options = {"steps": 6, "batch_size": 4, "learning_rate": 1e-2} | options
    return training.fine_tune(
        loaded(checkpoint, method, dtype), ROWS, method=method, fp16=dtype == "float16", **options
    )


@pytest.mark.parametrize("method", training.METHODS)
def test_the_loss_falls_as_in_float32(checkpoint, scaled_on_the_cpu, method):
    exact, half = (tuned(checkpoint, method, dtype) for dtype in ("float32", "float16"))
    assert half.settings["fp16"] and not half.settings["bf16"] and len(scaled_on_the_cpu.made) == 1
    assert scaled_on_the_cpu.made[0].get_scale() == 2.0**14  # no step was left out
    trained = {p.dtype for p in half.model.parameters() if p.requires_grad}
    assert trained == {torch.float32}
    kept = {p.dtype for p in half.model.parameters() if not p.requires_grad}
    assert kept == {"lora": {torch.float16}, "qlora": {torch.float16, torch.uint8}}.get(
        method, set()
    )
    losses = exact.history.loss.tolist(), half.history.loss.tolist()
    assert losses[1] == pytest.approx(losses[0], rel=5e-3) and losses[1][-1] < losses[1][0] - 0.05


def test_steps_that_overflow_are_left_out_and_counted(checkpoint, scaled_on_the_cpu, capsys):
    scaled_on_the_cpu.first = 2.0**20
    run = tuned(checkpoint, "lora", "float16", steps=12)
    skipped = 20 - math.log2(scaled_on_the_cpu.made[0].get_scale())
    assert 1 <= skipped <= 11 and run.steps == 12
    assert f"left out {skipped:.0f} of 12 steps: float16 overflowed" in capsys.readouterr().out
    assert run.history.loss.iloc[-1] < run.history.loss.iloc[0] - 0.05


def test_nothing_is_said_where_nothing_is_left_out(checkpoint, capsys):
    tuned(checkpoint, "lora", "float32")
    assert "left out" not in capsys.readouterr().out


def test_a_resumed_run_goes_on_with_its_scale(checkpoint, scaled_on_the_cpu, tmp_path):
    """The scale decides which steps are left out, so it belongs to a checkpoint."""
    scaled_on_the_cpu.first = 2.0**20
    folder = tmp_path / "run"
    options = {"output_dir": folder, "save_every": 3, "resume": True}
    tuned(checkpoint, "lora", "float16", **options)
    whole = load_file(folder / "adapter_model.safetensors")
    shutil.rmtree(folder / "checkpoint-6")
    saved = checkpointing.read_progress(folder / "checkpoint-3")["loss scale"]
    assert saved["scale"] == 2.0**17  # three steps left out
    assert saved.keys() == scaled_on_the_cpu.made[0].state_dict().keys()
    assert not any((folder / "checkpoint-3" / name).exists() for name in checkpointing.PICKLES)
    tuned(checkpoint, "lora", "float16", **options)
    again = load_file(folder / "adapter_model.safetensors")
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    first, second = (scaler.state_dict() for scaler in scaled_on_the_cpu.made)
    assert first == second


# --- formats ---


def test_peft_makes_adapters_float32_and_trl_makes_those_of_a_4bit_model_bfloat16(checkpoint):
    """What `train_in_float32` rests on; it can go when TRL asks before it casts."""
    from peft import get_peft_model
    from trl import SFTConfig, SFTTrainer

    model = loaded(checkpoint, "lora", "float16")
    assert model.dtype == torch.float16
    adapted = get_peft_model(model, training.lora_config(model))
    trained = [p for p in adapted.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32} and len(trained) > 0
    plain = get_peft_model(
        loaded(checkpoint, "lora", "float16"),
        training.lora_config(model),
        autocast_adapter_dtype=False,
    )
    assert {p.dtype for p in plain.parameters() if p.requires_grad} == {torch.float16}

    model, tokenizer = four_bit.load_4bit(checkpoint, dtype="float16")
    trainer = SFTTrainer(
        model,
        args=SFTConfig("unused", use_cpu=True, bf16=False, report_to="none", max_length=None),
        train_dataset=sft.dataset(tokenizer, ROWS, 512),
        processing_class=tokenizer,
        peft_config=training.lora_config(model),
    )
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.bfloat16}
    trl_patches.train_in_float32(trainer.model)
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_torch_scales_float32_gradients_alone(dtype):
    """Why `check_scaled` is there."""
    weight = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    scaler, optimizer = torch.amp.GradScaler("cpu"), torch.optim.SGD([weight], lr=0.1)
    scaler.scale(weight.float().sum()).backward()
    if dtype == torch.float16:
        with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients."):
            scaler.unscale_(optimizer)
    with pytest.raises(Qwen3labError) as error:
        sft.check_scaled(torch.nn.ParameterDict({"w": weight}), fp16=True)
    assert str(error.value) == (
        "Training with fp16 scales the loss, which needs float32 weights, and 1 of 1 trained"
        f" tensors are not, for example w ({str(dtype)[6:]}). Give the model's name, and it is"
        " loaded in the right format, or load it with dtype='float32'."
    )
    sft.check_scaled(torch.nn.ParameterDict({"w": weight}), fp16=False)
    weight.requires_grad = False
    sft.check_scaled(torch.nn.ParameterDict({"w": weight}), fp16=True)


def test_all_weights_in_float16_are_refused_before_the_first_step(checkpoint):
    model, _ = models.load(checkpoint, dtype="float16")
    with pytest.raises(Qwen3labError, match="which needs float32 weights, and 24 of 24 trained"):
        training.fine_tune(model, ROWS, method="full", steps=1, fp16=True)


# --- settings ---

T4 = {"gpu": "Tesla T4", "capability": (7, 5)}
L4 = {"gpu": "NVIDIA L4", "capability": (8, 9)}
M2 = {"apple": "Apple M2"}


def stub(kind, parameters=600_000_000):
    return types.SimpleNamespace(
        device=torch.device(kind), num_parameters=lambda: parameters, dtype=torch.float16
    )


@pytest.mark.parametrize(
    "reported, profile, kind, bf16, fp16",
    [
        ({}, "small", "cpu", False, False),
        ({}, "medium", "cpu", False, False),
        (L4, "small", "cuda", True, False),
        (L4, "medium", "cuda", True, False),
        (T4, "small", "cuda", False, True),
        (T4, "medium", "cuda", False, True),
        (M2, "small", "mps", False, False),
        (M2, "medium", "mps", True, False),
        (T4, "tiny", "cpu", False, False),
    ],
)
def test_the_whole_settings(reported, profile, kind, bf16, fp16, monkeypatch, tmp_path):
    from qwen3lab import profiles

    pretend(monkeypatch, **reported)
    monkeypatch.setenv("QWEN3LAB_PROFILE", profile)
    assert profiles.get().device == kind
    batch = profiles.get().batch_size
    assert sft.Arguments(steps=40).settings(stub(kind), 100, False, tmp_path) == {
        "output_dir": str(tmp_path),
        "max_steps": 40,
        "seed": 0,
        "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": 4 * batch,
        "learning_rate": 2e-4,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.1,
        "logging_steps": 1,
        "max_length": None,
        "train_sampling_strategy": "group_by_length",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "activation_checkpointing": kind != "cpu",
        "use_cpu": kind == "cpu",
        "bf16": bf16,
        "fp16": fp16,
        "dataloader_pin_memory": kind == "cuda",
    }


def test_the_caller_may_choose_the_precision(monkeypatch, tmp_path):
    monkeypatch.setenv("QWEN3LAB_PROFILE", "small")
    for reported, options, wanted in (
        (T4, {"fp16": False}, (False, False)),
        (L4, {"fp16": True}, (False, True)),
        (L4, {"bf16": False}, (False, False)),
        (T4, {"bf16": True}, (True, False)),
    ):
        pretend(monkeypatch, **reported)
        made = sft.Arguments.of(**options).settings(stub("cuda"), 8, False, tmp_path)
        assert (made["bf16"], made["fp16"]) == wanted


@pytest.mark.parametrize(
    "reported, method, wanted",
    [
        (T4, "lora", {"dtype": "float16", "device": "cuda"}),
        (T4, "full", {"dtype": "float32", "device": "cuda"}),
        (T4, "qlora", {"dtype": "float16", "device": "cuda", "compute": torch.float16}),
        (L4, "qlora", {"dtype": "bfloat16", "device": "cuda", "compute": torch.bfloat16}),
        (M2, "lora", {"dtype": "float32", "device": "mps"}),
        (M2, "qlora", {"dtype": "float32", "device": "mps", "compute": torch.float32}),
        ({}, "qlora", {"dtype": "float32", "device": "cpu", "compute": torch.float32}),
    ],
)
def test_how_a_model_is_loaded_for_a_method(reported, method, wanted, checkpoint, monkeypatch):
    """What transformers is asked for; the weights stay on the CPU."""
    from transformers import AutoModelForCausalLM

    pretend(monkeypatch, **reported)
    monkeypatch.setenv("QWEN3LAB_PROFILE", "small")
    original, asked = AutoModelForCausalLM.from_pretrained, {}

    def spy(source, **options):
        asked.update(options)
        kept = {key: options[key] for key in ("dtype", "use_safetensors", "output_loading_info")}
        return original(source, **kept)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", spy)
    model, _ = sft.load(checkpoint, method)
    found = {"dtype": str(model.dtype)[6:], "device": asked.get("device_map", {"": "cpu"})[""]}
    if method == "qlora":
        config = asked["quantization_config"]
        assert config.load_in_4bit and config.bnb_4bit_quant_type == "nf4"
        found["compute"] = config.bnb_4bit_compute_dtype
    assert found == wanted


def test_a_device_without_4bit_weights_is_refused(checkpoint, monkeypatch):
    import bitsandbytes

    pretend(monkeypatch, **M2)
    monkeypatch.setenv("QWEN3LAB_PROFILE", "small")
    assert "mps" in bitsandbytes.supported_torch_devices, "look at four_bit.py and docs/colab.md"
    monkeypatch.setattr(bitsandbytes, "supported_torch_devices", {"cuda", "cpu"})
    with pytest.raises(Qwen3labError, match="has no 4-bit weights on 'mps'. Use method 'lora'"):
        four_bit.load_4bit(checkpoint)
