"""Imports without the garbage collector: it is on again afterwards, and what came in is left out
of its searches where no model can be among it.
"""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from qwen3lab import paths
from qwen3lab.quiet import importing


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_is_as_it_was(on):
    was = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        with pytest.raises(ZeroDivisionError), importing():
            assert not gc.isenabled()
            1 / 0  # noqa: B018
        assert gc.isenabled() is on
    finally:
        (gc.enable if was else gc.disable)()


@pytest.mark.parametrize("first", ["", "import transformers.modeling_utils; "])
def test_libraries_are_left_out_unless_a_model_may_be_there(first):
    code = (
        f"import gc; {first}from qwen3lab.quiet import importing\n"
        "with importing(): import transformers.modeling_utils\n"
        "with importing(): import json\n"
        "print(gc.get_freeze_count(), gc.isenabled())"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert (int(told[0]) > 100_000, told[1]) == (not first, "True")


def test_the_first_call_of_a_notebook_quiets_what_it_imports_next():
    """bitsandbytes logs a missing kernel when it is imported, on CPUs that have AVX512-BF16."""
    code = (
        "import logging, qwen3lab; qwen3lab.profile()\n"
        "logging.getLogger('bitsandbytes.backends.cpu.ops').warning('heard')"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=True
    )
    assert "heard" not in told.stderr
