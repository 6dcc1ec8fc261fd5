"""Compiled layers, a head in one pass and rows without padding train what the plain way trains."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.utils import counters
from transformers import TrainerCallback
from trl.trainer import utils

from qwen3lab import training
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.training import one_pass_head, speed, trl_patches
from qwen3lab.training.sft import Arguments

# Every row is in every step, so that packed rows are compared too. Plain gradient descent: Adam
# divides by the gradients, and would turn rounding of a small one into a step of full size.
ROWS = tasks.load("knowledge", "train")[:6]
RUN = {"steps": 3, "batch_size": 6, "optim": "sgd", "logging_steps": 1, "seed": 0}
RATES = {"lora": 1.0, "full": 0.05, "qlora": 1.0}


def train(method="lora", **options):
    return training.fine_tune(
        "chat", ROWS, method=method, **RUN | {"learning_rate": RATES[method]} | options
    )


def weights(run):
    return {name: p.detach() for name, p in run.model.named_parameters() if p.requires_grad}


def names(folder):
    found = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            found |= set(opened.keys())
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Runs in the plain way by method, trained once, with the names in their saved files."""
    found = {}

    def get(method):
        if method not in found:
            folder = tmp_path_factory.mktemp(method)
            found[method] = (train(method, output_dir=folder), names(folder))
        return found[method]

    return get


@pytest.mark.parametrize(
    "method, options",
    [
        ("lora", {"compile": "eager", "activation_checkpointing": True}),
        ("lora", {"compile": "aot_eager", "padding_free": True}),
        ("lora", {"compile": "eager", "packing": True}),
        ("lora", {"head": "one-pass", "packing": True}),
        ("full", {"compile": "eager", "packing": True}),
        ("qlora", {"compile": "eager"}),
    ],
    ids=str,
)
def test_the_same_losses_weights_and_names(plain, method, options, tmp_path):
    theirs, saved = plain(method)
    counters.clear()
    ours = train(method, output_dir=tmp_path, **options)
    assert ("compile" in options) == bool(counters["stats"]["unique_graphs"])
    assert ours.history.loss.tolist() == pytest.approx(theirs.history.loss.tolist(), rel=1e-5)
    assert ours.history.accuracy.tolist() == theirs.history.accuracy.tolist()
    assert ours.tokens == theirs.tokens and names(tmp_path) == saved
    before, after = weights(theirs), weights(ours)
    assert before.keys() == after.keys()
    errors = {name: float((after[name] - before[name]).abs().max()) for name in before}
    print("largest difference of a weight", max(errors.values()))
    assert max(errors.values()) < 1e-5, max(errors, key=errors.get)
    assert not any("_orig_mod" in name for name, _ in ours.model.named_modules())
    assert not any(isinstance(m, torch._dynamo.OptimizedModule) for m in ours.model.modules())


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step == 2


def test_a_compiled_run_goes_on_from_its_checkpoint(tmp_path):
    options = {"compile": "eager", "optim": "adamw_torch", "learning_rate": 4e-3}
    whole = train(**options)
    train(**options, output_dir=tmp_path, save_every=1, callbacks=[Stop()])
    assert not any("_orig_mod" in name for name in names(tmp_path / "checkpoint-2"))
    resumed = train(**options, output_dir=tmp_path, save_every=1, resume=True)
    assert resumed.steps == 3
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(resumed)[name]), name


def test_an_evaluation_on_the_way_changes_nothing_and_is_told_apart():
    """The library asks the model whether it is trained, and steps through a copy of it."""
    runs = [train(validation=ROWS[:2], eval_steps=1, **more) for more in ({}, {"compile": "eager"})]
    first, second = (run.history for run in runs)
    for column in ("loss", "accuracy", "eval_loss"):
        assert second[column].tolist() == pytest.approx(first[column].tolist(), rel=1e-5), column


def test_a_compiler_that_fails_is_told_with_the_way_out():
    with pytest.raises(Qwen3labError, match="no kernel.*compile=False"):
        with speed.applied(speed.Speed(), None):
            raise BackendCompilerFailed("inductor", RuntimeError("no kernel"), None)
    with pytest.raises(ZeroDivisionError), speed.applied(speed.Speed(), None):
        raise ZeroDivisionError


# --- the head ---


@pytest.mark.parametrize("labelled", [7, 0])
def test_one_pass_equals_trls_kernel_also_where_rows_weigh_differently(labelled, monkeypatch):
    monkeypatch.setattr(one_pass_head, "ONE_PASS_ROWS", 3)
    torch.manual_seed(0)
    weight, targets = torch.randn(50, 8), torch.randint(0, 50, (labelled,))
    hidden, above = torch.randn(labelled, 8), torch.rand(labelled)
    outputs = ("log_probs", "entropy", "is_top1")
    results = []
    for patched in (False, True):
        rows = hidden.clone().requires_grad_()
        call = (rows, weight, None, targets, 1.0, 16, None, 1.0, outputs)
        if patched:
            with trl_patches.head_in_one_pass(one_pass_head.scores):
                found = utils._ChunkedLogProbFunction.apply(*call)
        else:
            found = utils._ChunkedLogProbFunction.apply(*call)
        (found[0] * above).sum().backward()
        results.append((found, rows.grad))
    (theirs, slope), (ours, mine) = results
    assert [x is None for x in ours] == [x is None for x in theirs]
    for mine_, theirs_ in zip((*ours, mine), (*theirs, slope)):
        if theirs_ is not None:
            torch.testing.assert_close(mine_, theirs_, atol=1e-6, rtol=1e-5)


def test_a_trained_head_stays_with_trl():
    hidden, head = torch.randn(4, 8, requires_grad=True), nn.Parameter(torch.randn(50, 8))
    targets, original = torch.arange(4), utils._ChunkedLogProbFunction
    with trl_patches.head_in_one_pass(one_pass_head.scores):
        found = utils._ChunkedLogProbFunction.apply(
            hidden, head, None, targets, 1.0, 16, None, 1.0, ("log_probs",)
        )
    found[0].sum().backward()
    assert head.grad is not None and utils._ChunkedLogProbFunction is original


# --- choices ---


def chosen(steps=1000, device="cuda", experts=0, method="lora", **options):
    model = SimpleNamespace(
        device=torch.device(device), config=SimpleNamespace(num_experts=experts)
    )
    return speed.choose(Arguments.of(method=method, **options), model, steps)


@pytest.fixture
def ready(monkeypatch):
    """A machine with Triton and a C compiler."""
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(speed.shutil, "which", lambda name: "/usr/bin/cc")


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize(
    "given, backend, head, word",
    [
        ({}, "inductor", "one-pass", "H200"),
        ({"method": "full"}, "inductor", "trl", "H200"),
        ({"device": "cpu"}, None, "trl", "CUDA"),
        ({"device": "mps"}, None, "trl", "CUDA"),
        ({"steps": 20}, None, "trl", "20 steps"),
        ({"method": "qlora"}, None, "trl", "4 bits"),
        ({"experts": 4}, None, "trl", "mixture"),
        ({"compile": False}, None, "trl", "as asked"),
        ({"compile": True, "device": "cpu"}, "inductor", "one-pass", "as asked"),
        ({"head": "one-pass", "device": "cpu"}, None, "one-pass", "CUDA"),
    ],
)
def test_choices_and_their_reasons(given, backend, head, word):
    found = chosen(**given)
    assert (found.backend, found.head) == (backend, head) and word in found.reasons[0]
    assert len(found.reasons) == 3
    assert len(found.chosen) == (backend is not None) + (head == "one-pass")


@pytest.mark.parametrize("missing, word", [("triton", "Triton"), ("cc", "C compiler")])
def test_what_compiling_needs(ready, monkeypatch, missing, word):
    if missing == "triton":
        monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: None)
    else:
        monkeypatch.setattr(speed.shutil, "which", lambda name: None)
    assert chosen().backend is None and word in chosen().reasons[0]


@pytest.mark.parametrize(
    "given, word",
    [
        ({"compile": "no such"}, "no backend"),
        ({"head": "plain"}, "Unknown output head"),
        ({"head": "one-pass", "method": "full"}, "frozen|trains"),
    ],
)
def test_what_cannot_be_is_refused(given, word):
    with pytest.raises(Qwen3labError, match=word):
        Arguments.of(**given)
