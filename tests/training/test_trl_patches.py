"""The four changes to TRL: the names that they use are there, and still mean the same."""

from __future__ import annotations

import inspect

import torch
import trl.trainer.utils as utils
from torch import nn

from qwen3lab.training import trl_patches


def test_the_private_name_is_read_where_the_head_is_computed():
    source = inspect.getsource(utils)
    assert source.count("compact = _use_triton(") == 1, "look at trl_patches.py again"
    original = utils._use_triton
    assert not original(torch.device("cpu"))
    with trl_patches.head_on_trained_positions():
        assert all(utils._use_triton(torch.device(kind)) for kind in ("cpu", "mps", "cuda"))
    assert utils._use_triton is original


def test_the_function_of_the_head_is_called_once_by_its_private_name():
    called = "_ChunkedLogProbFunction.apply("
    assert inspect.getsource(utils).count(called) == 1, "look at trl_patches.py again"


def test_trl_still_reads_the_bias_of_the_head():
    assert "lm_head.bias" in inspect.getsource(utils)

    class Model(nn.Module):
        def __init__(self, head):
            super().__init__()
            self.head = head

        def get_output_embeddings(self):
            return self.head

    bare, whole = Model(nn.Identity()), Model(nn.Linear(2, 3))
    bias = whole.head.bias
    for model in (bare, whole):
        trl_patches.give_head_a_bias(model)
    assert bare.head.bias is None and whole.head.bias is bias


def test_only_trained_weights_become_float32():
    layer = nn.Linear(2, 2).to(torch.bfloat16)
    layer.bias.requires_grad_(False)
    trl_patches.train_in_float32(layer)
    assert (layer.weight.dtype, layer.bias.dtype) == (torch.float32, torch.bfloat16)
