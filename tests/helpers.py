"""What several tests call: tiny checkpoints with random weights, rows, and commands launched in
another process.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

# Of a trainer of TRL that takes one step on a CPU and says nothing.
ONE_STEP = {
    "max_steps": 1,
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def needs_gptqmodel() -> None:
    """Skip the test where the library is missing, without importing it, which is loud."""
    if importlib.util.find_spec("gptqmodel") is None:
        pytest.skip("gptqmodel is not here: run this with .venv-gptq/bin/python after `make gptq`")


def make_tokenizer(folder: Path) -> None:
    """Save a tokenizer of the 256 bytes and three control tokens into `folder`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(
        models.BPE(vocab={symbol: number for number, symbol in enumerate(alphabet)}, merges=[])
    )
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(CONTROL_TOKENS))
    PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    ).save_pretrained(folder)


def make_checkpoint(folder: Path, name: str = "0.6B", **changes: object) -> Path:
    """Save a model of the family, shrunk to two layers and random weights, with its tokenizer, into
    `folder`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from qwen3lab import family

    torch.manual_seed(0)
    small: dict[str, object] = {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
        "vocab_size": 264,
        "bos_token_id": None,
        "eos_token_id": 258,
    }
    if "A" in name:
        small |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    AutoModelForCausalLM.from_config(family.config(name, **(small | changes))).save_pretrained(
        folder
    )
    make_tokenizer(folder)
    return folder


def launched(folder: Path, command: str, seconds: float = 400, grace: float = 20) -> None:
    """Run an exported command line in its folder; it fails if it takes longer than `seconds`.

    A run that has saved its model and does not end within `grace` seconds is killed with all that
    it started, and counts as done. Of two processes one hangs now and then when it ends: torch's
    main thread frees the process group and waits for that group's thread, which waits for Python's
    lock, which the main thread holds.
    """
    words = shlex.split(command)
    variables = dict(word.split("=") for word in words if re.fullmatch(r"[A-Z_]+=\w+", word))
    first, *rest = words[len(variables) :]
    programs = Path(sys.executable).parent
    environment = (
        os.environ
        | variables
        | {"OMP_NUM_THREADS": "1", "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    )
    began, saved = time.monotonic(), None
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [str(programs / first), *rest],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=environment,
        ) as process,
    ):
        while process.poll() is None:
            time.sleep(0.1)
            now = time.monotonic()
            if saved is None and list(folder.glob("trained/*.safetensors")):
                saved = now
            if saved is not None and now - saved > grace:
                return _kill(process)
            if now - began > seconds:
                _kill(process)
                pytest.fail(f"{command} was not done in {seconds} s")
        errors.seek(0)
        assert process.returncode == 0, errors.read()[-3000:]


def _kill(process: subprocess.Popen) -> None:
    # Each worker leads a session of its own (torch.distributed.elastic), so killing a process group
    # would miss it.
    workers = psutil.Process(process.pid).children(recursive=True)
    for started in [*workers, process]:
        with suppress(psutil.NoSuchProcess):
            started.kill()
    psutil.wait_procs(workers, timeout=10)  # on a busy machine they end a little later


def ended(pid: int, seconds: float = 10) -> bool:
    """Whether a process is gone, or will be shortly: on a busy machine a kill takes a moment."""
    try:
        process = psutil.Process(pid)
        limit = time.monotonic() + seconds
        while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < limit:
            time.sleep(0.05)
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def code_rows(n: int = 16) -> list[dict]:
    """Rows of unlike lengths for an exported run."""
    return [
        {
            "id": str(i),
            "task": "codes",
            "language": "en",
            "messages": [{"role": "user", "content": f"Code of box {i}?" + " please" * (i % 5)}],
            "answer": f"{i * 37 % 100}",
            "thinking": False,
        }
        for i in range(n)
    ]


def servable_checkpoint(folder, name):
    """A model with random weights and a tokenizer with a few merges, without which llama.cpp
    refuses a vocabulary.
    """
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    make_checkpoint(folder, name, eos_token_id=260)
    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the"]
    core = Tokenizer(
        kinds.BPE(
            vocab={symbol: number for number, symbol in enumerate(symbols)},
            merges=[("t", "h"), ("th", "e")],
        )
    )
    core.pre_tokenizer, core.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    core.add_special_tokens(list(CONTROL_TOKENS))
    PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    ).save_pretrained(folder)
    return folder


def pretend(
    monkeypatch: pytest.MonkeyPatch,
    gpu: str | None = None,
    capability: tuple[int, int] = (8, 0),
    archs: tuple[str, ...] | list[str] = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_120"),
    apple: str | None = None,
    macos: int = 15,
    memory: int = 15_828_320_256,
    count: int = 1,
) -> None:
    """Let torch report another machine: an NVIDIA GPU, an Apple GPU, or neither.

    `archs`: what the build has kernels for, as a build for CUDA 13 has; `memory`: of the GPU, in
    bytes; `count`: of the GPUs.
    """
    import types

    import torch

    cuda = types.SimpleNamespace(
        total_memory=memory, name=gpu, major=capability[0], minor=capability[1]
    )
    for name, value in {
        "is_available": gpu is not None,
        "device_count": count if gpu else 0,
        "current_device": 0,
        "get_device_name": gpu,
        "get_device_capability": capability,
        "get_arch_list": list(archs),
        "get_device_properties": cuda,
        "mem_get_info": (memory, memory),
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple is not None)
    monkeypatch.setattr(torch.backends.mps, "get_name", lambda: apple)
    monkeypatch.setattr(
        torch.backends.mps, "is_macos_or_newer", lambda major, minor: (macos, 0) >= (major, minor)
    )
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: memory)
