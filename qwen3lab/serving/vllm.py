"""Run vLLM in a process and an environment of its own, and adapt configs for older engines."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwen3lab import paths
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import beside
from qwen3lab.serving import llama_cpp

VLLM = paths.ROOT / ".venv-vllm" / "bin" / "python"  # `make vllm`
START = 600  # seconds that vLLM may take to start; its first start compiles


class Vllm:
    """A vLLM server with one checkpoint, in its own process and environment, as a context manager.

    Args:
        folder: checkpoint with config.json; computed in float32, whatever precision it is stored
            in.
        context: tokens of prompt and answer together.
        concurrent: answers generated in parallel.
        cache: GiB reserved for the KV cache.
        name: of the model in a request; default: the folder's.
        adapters: LoRA adapters served beside the model: name of the model in a request -> folder.
        options: more of vLLM's options, as one would type them.
        log: file for vLLM's output; default: it is not kept.
        python: interpreter of the environment that has vLLM.
    Raises:
        Qwen3labError: vLLM is not installed, or ends before it is ready.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        context: int = 512,
        concurrent: int = 32,
        cache: int = 1,
        name: str | None = None,
        adapters: Mapping[str, str | Path] | None = None,
        options: Sequence[str] = (),
        log: Path | None = None,
        python: Path = VLLM,
    ):
        self.folder, self.context, self.concurrent, self.cache, self.log, self.python = (
            Path(folder),
            context,
            concurrent,
            cache,
            log,
            python,
        )
        self.name = name or self.folder.name
        self.adapters, self.options = dict(adapters or {}), list(options)
        self.process: subprocess.Popen | None = None
        self.address = ""

    def __enter__(self) -> Vllm:
        # 1. Can it run here?
        if not hasattr(os, "killpg"):
            raise Qwen3labError(
                "vLLM does not run on Windows. Take llama.cpp (qwen3lab.serving.LlamaServer), or"
                " run the course in WSL."
            )
        if not self.python.is_file():
            raise Qwen3labError(
                "vLLM is not installed here. Run `make vllm`, which gives it an environment of its"
                " own (3.4 GB)."
            )
        # 2. A free port.
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        # 3. The process, in a session of its own, so that its workers end with it.
        self._output = (
            self.log.open("w", encoding="utf-8")
            if self.log
            else tempfile.TemporaryFile("w+", encoding="utf-8")
        )
        self.process = subprocess.Popen(
            self._command(port),
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=self._environment(),
            start_new_session=True,
        )
        # 4. Until it answers; a server that does not is ended.
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _command(self, port: int) -> list[str]:
        # Prefix caching is off, so that a repeated prompt is read again, as by the other engines.
        options = {
            "model": self.folder,
            "served-model-name": self.name,
            "dtype": "float32",
            "max-model-len": self.context,
            "max-num-seqs": self.concurrent,
            "host": "127.0.0.1",
            "port": port,
        }
        return [
            str(self.python),
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--no-enable-prefix-caching",
            *(word for name, value in options.items() for word in (f"--{name}", str(value))),
            *self._lora(),
            *self.options,
        ]

    def _lora(self) -> list[str]:
        if not self.adapters:
            return []
        ranks = [beside.adapter_config(Path(folder))["r"] for folder in self.adapters.values()]
        modules = [f"{name}={folder}" for name, folder in self.adapters.items()]
        # 8 is the lowest that vLLM takes
        return ["--enable-lora", "--max-lora-rank", str(max(8, *ranks)), "--lora-modules", *modules]

    def _environment(self) -> dict[str, str]:
        cpus = (
            ",".join(map(str, sorted(os.sched_getaffinity(0))))
            if hasattr(os, "sched_getaffinity")
            else "auto"
        )
        return os.environ | {
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_CPU_KVCACHE_SPACE": str(self.cache),
            "VLLM_CPU_OMP_THREADS_BIND": cpus,
        }

    def version(self) -> str:
        """Return vLLM's version, as its server reports it."""
        with llama_cpp.opener().open(self.address + "/version") as reply:
            return json.load(reply)["version"]

    def _wait(self) -> None:
        opener, started = llama_cpp.opener(), time.monotonic()
        while time.monotonic() - started < START and self.process.poll() is None:
            try:
                with opener.open(self.address + "/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.5)
        raise Qwen3labError(
            f"vLLM did not open within {START} s, or ended (code {self.process.poll()}). "
            "Start it with log=... and read the end of that file."
        )

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)  # its workers too
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self._output.close()


def add_old_names(folder: str | Path) -> dict[str, Any]:
    """Add transformers 4's key names to a checkpoint's config.json; returns the config.

    transformers 5's names stay. An engine built on transformers 4 would miss a `rope_theta` inside
    `rope_parameters` and use its default of 10,000.
    """
    file = Path(folder) / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    rope = config.get("rope_parameters", {})
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    old = {
        "rope_theta": rope.get("rope_theta"),
        "torch_dtype": config.get("dtype"),
        "num_experts": config.get("num_local_experts"),
        "rope_scaling": scaling if rope.get("rope_type", "default") != "default" else None,
    }
    config |= {name: value for name, value in old.items() if value is not None}
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return config
