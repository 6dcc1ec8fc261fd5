"""Every optimiser that the trainer knows goes on from its file as if never stopped, or is refused.

What is not installed here is refused by its name; where it is installed, it is trained.
"""

from __future__ import annotations

import copy
import importlib.util
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from helpers import make_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

from qwen3lab import models, training
from qwen3lab.errors import Qwen3labError
from qwen3lab.training import checkpointing, optimizers
from qwen3lab.training.sft import Arguments

ROWS = [
    {"messages": [{"role": "user", "content": f"Code of box {i}?"}], "answer": f"{i * 37 % 100}"}
    for i in range(4)
]
RUN = {"method": "full", "steps": 4, "batch_size": 2, "learning_rate": 1e-3, "logging_steps": 1}
LOW_RANK = {"optim_target_modules": "all-linear"}


def needed(name):
    """The module that an optimiser needs and that is not here; None if there is none."""
    modules = [entry[0] for start, entry in optimizers.PACKAGES.items() if name.startswith(start)]
    return next((module for module in modules if importlib.util.find_spec(module) is None), None)


def build(name, model, folder):
    """The optimiser of that name over a model, as the trainer makes it."""
    from transformers import Trainer, TrainingArguments

    args = TrainingArguments(
        output_dir=str(folder), optim=name, use_cpu=True, report_to="none", learning_rate=0.01
    )
    args.optim_target_modules = "all-linear" if name.startswith(("galore", "apollo")) else None
    kind, settings_ = Trainer.get_optimizer_cls_and_kwargs(args, model)
    parameters = settings_.pop("params", None) or settings_.pop("model", model).parameters()
    return kind(parameters, **settings_)


def step(model, optimizer, x):
    if hasattr(optimizer, "train"):
        optimizer.train()
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name", optimizers.names())
def test_each_goes_on_bit_for_bit_or_is_refused_by_its_name(name, tmp_path):
    missing = needed(name)
    if missing or name in optimizers.CUDA or optimizers.unsaved(name):
        with pytest.raises(Qwen3labError, match=f"'{name}' (needs|cannot be saved)"):
            Arguments.of(optim=name, save_every=1, output_dir=tmp_path, **LOW_RANK)
        return
    Arguments.of(optim=name, save_every=1, output_dir=tmp_path, **LOW_RANK)
    torch.manual_seed(0)
    # Of 4,096 weights and more: bitsandbytes keeps smaller ones in 32 bits.
    model, x = nn.Sequential(nn.Linear(128, 64), nn.Linear(64, 64)), torch.randn(3, 128)
    first = build(name, model, tmp_path)
    for _ in range(2):
        step(model, first, x)
    checkpointing.save_optimizer(tmp_path / "o.safetensors", first)
    other = copy.deepcopy(model)
    second = build(name, other, tmp_path)
    checkpointing.load_optimizer(tmp_path / "o.safetensors", second)
    for _ in range(2):
        step(model, first, x)
        step(other, second, x)
    for place, weight in model.named_parameters():
        assert torch.equal(weight, other.get_parameter(place)), place
    third = copy.deepcopy(model)  # and a state that is not loaded shows
    fresh = build(name, third, tmp_path)
    step(model, first, x)
    step(third, fresh, x)
    if first.state_dict()["state"]:
        assert not torch.equal(model[0].weight, third[0].weight)


def test_maps_of_8_bits_are_in_the_file_and_stored_once(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 64), nn.Linear(64, 64))
    optimizer = build("paged_adamw_8bit", model, tmp_path)
    step(model, optimizer, torch.randn(3, 128))
    checkpointing.save_optimizer(tmp_path / "o.safetensors", optimizer)
    with safe_open(tmp_path / "o.safetensors", "pt") as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}
    assert sorted(kinds.values()).count("U8") == 4  # two moments of two matrices
    assert len([name for name in kinds if "qmap1" in name]) == 1


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model whose matrices are large enough for states in 8 bits."""
    return make_checkpoint(tmp_path_factory.mktemp("wide") / "wide", intermediate_size=160)


@pytest.mark.parametrize("name", ["paged_adamw_8bit", "lion_8bit", "adafactor"])
def test_a_run_goes_on_from_its_checkpoint(name, wide, tmp_path):
    options = RUN | {"optim": name, "save_every": 2, "output_dir": tmp_path}
    whole = training.fine_tune(wide, ROWS, **options)
    wanted = {key: value.clone() for key, value in whole.model.state_dict().items()}
    shutil.rmtree(tmp_path / "checkpoint-4")
    rest = training.fine_tune(wide, ROWS, resume=True, **options)
    assert rest.history.loss.tolist() == whole.history.loss.tolist()
    for key, value in rest.model.state_dict().items():
        assert torch.equal(value, wanted[key]), key
    assert not [f for f in tmp_path.rglob("*") if f.suffix in (".bin", ".pt", ".pth", ".pkl")]


def test_refused_before_the_model_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(models.loading, "load", lambda *_, **__: pytest.fail("loaded"))
    for options, message in (
        (
            {"optim": "adamw_bnb_8bits"},
            "no optimiser 'adamw_bnb_8bits'. Did you mean 'adamw_bnb_8b",
        ),
        ({"optim": "AdamW_Torch"}, "Did you mean 'adamw_torch'"),
        ({"optim": None}, "no optimiser None"),
        ({"optim": ""}, "no optimiser ''"),
        ({"optim": "lomo", "save_every": 2, "output_dir": tmp_path}, "'lomo'"),
    ):
        with pytest.raises(Qwen3labError, match=message):
            training.fine_tune("chat", ROWS, **options)
    assert not list(tmp_path.iterdir())


def test_settings_that_the_optimiser_refuses(checkpoint):
    with pytest.raises(Qwen3labError, match="optimiser 'sgd' cannot be made"):
        training.fine_tune(checkpoint, ROWS, optim="sgd", optim_args="momentum=fast", **RUN)


@settings(max_examples=50, deadline=None)
@given(st.one_of(st.text(), st.integers(), st.floats(), st.lists(st.text(), max_size=2)))
def test_odd_names_get_a_sentence(name):
    if name in optimizers.names():
        return
    with pytest.raises(Qwen3labError, match="(?s)There is no optimiser .* The names are: "):
        Arguments.of(optim=name)


KEYS = st.one_of(st.text(max_size=4), st.integers(-3, 9))
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)
)
TREES = st.recursive(
    LEAVES | st.builds(lambda n: torch.arange(n, dtype=torch.uint8), st.integers(0, 4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
    ),
    max_leaves=12,
)


class Holder(torch.optim.SGD):
    """An optimiser whose state is anything."""

    def __init__(self, state):
        self.kept = state

    def state_dict(self):
        return {"state": {0: self.kept}, "param_groups": [{"lr": 0.1}]}

    def load_state_dict(self, state):
        self.kept = state["state"][0]


def same(a, b):
    if torch.is_tensor(a):
        return torch.is_tensor(b) and a.dtype == b.dtype and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@settings(max_examples=200, deadline=None)
@given(TREES)
def test_any_nested_state_comes_back(tree):
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "o.safetensors"
        checkpointing.save_optimizer(file, Holder(tree))
        other = Holder(None)
        checkpointing.load_optimizer(file, other)
        assert same(tree, other.kept)


def test_another_optimiser_does_not_go_on(tmp_path):
    file = tmp_path / "checkpoint-2" / "o.safetensors"
    file.parent.mkdir()
    layer = nn.Linear(2, 2)
    checkpointing.save_optimizer(file, torch.optim.SGD(layer.parameters()))
    with pytest.raises(Qwen3labError) as error:
        checkpointing.load_optimizer(file, build("adamw_bnb_8bit", layer, tmp_path))
    assert str(error.value) == (
        "The checkpoint 'checkpoint-2' was trained with torch's SGD, and this run has"
        " bitsandbytes's AdamW. Resume with the same optim, or start anew in another folder."
    )


def test_what_only_a_pickle_holds_is_refused(tmp_path):
    with pytest.raises(Qwen3labError, match="has a set in its state"):
        checkpointing.save_optimizer(tmp_path / "o.safetensors", Holder({"x": {1, 2}}))
