"""The same prompts to every engine that can serve a model, compared token id by token id."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import chat, paths, serving
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.serving import LlamaServer

if TYPE_CHECKING:
    import pandas as pd
    from openai import OpenAI
    from transformers import PreTrainedTokenizerBase

MIX = ("chat", "context", "addition")
VLLM = paths.ROOT / ".venv-vllm" / "bin" / "python"  # `make vllm`
START = 600  # seconds that vLLM may take to open; its first start compiles


def rows(n: int = 50) -> list[dict[str, Any]]:
    """n test questions of data/tasks, a third each of chat, context and addition."""
    return [row for task in MIX for row in tasks.load(task, "test")[:-(-n // len(MIX))]][:n]


def prompts(tokenizer: PreTrainedTokenizerBase, n: int = 50) -> list[list[int]]:
    """Token ids of `rows(n)`, with thoughts and tools where the row has them."""
    return [chat.encode(tokenizer, row["messages"], thinking=row["thinking"], tools=row.get("tools")) for row in rows(n)]


def client(address: str, timeout: float = 300) -> OpenAI:
    """The `openai` package's client of a server on this machine. It needs no key, tries once, and goes around proxies; `timeout` in seconds."""
    import openai

    return openai.OpenAI(base_url=address.rstrip("/") + "/v1", api_key="none", max_retries=0, timeout=timeout, http_client=openai.DefaultHttpxClient(trust_env=False))


def over_http(address: str, prompts: Sequence[list[int]], tokenizer: PreTrainedTokenizerBase, *, max_new_tokens: int = 64) -> list[list[int]]:
    """Greedy answers of a server that has /v1/completions, as ids without the end token. llama.cpp and vLLM give them in fields of their own."""
    with client(address) as asking:
        name = asking.models.list().data[0].id
        replies = [asking.completions.create(model=name, prompt=prompt, max_tokens=max_new_tokens, temperature=0, logprobs=1,
                                             extra_body={"return_token_ids": True}) for prompt in prompts]
    return [_answer(ids_of(reply.choices[0].model_dump()), tokenizer) for reply in replies]


def in_process(server: LlamaServer, prompts: Sequence[list[int]], *, max_new_tokens: int = 64) -> list[list[int]]:
    """Greedy answers of llama.cpp by a function call, without HTTP, as ids without the end token."""
    replies = [server.call({"prompt": prompt, "max_tokens": max_new_tokens, "temperature": 0.0, "logprobs": 1}) for prompt in prompts]
    return [_answer(ids_of(reply["choices"][0]), server.tokenizer) for reply in replies]


def ids_of(choice: dict[str, Any]) -> list[int]:
    """The new token ids of one choice of /v1/completions: vLLM's `token_ids`, or those in llama.cpp's log-probabilities."""
    if choice.get("token_ids") is not None:
        return choice["token_ids"]
    return [entry["id"] for entry in (choice["logprobs"] or {}).get("content", [])]


def _answer(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    return ids[:next((place for place, token in enumerate(ids) if token in ends), len(ids))]


class Vllm:
    """vLLM's server with one checkpoint, in its own process and environment, open as long as the `with` block.

    Args:
        folder: checkpoint with config.json, in float32 arithmetic whatever it is stored in.
        context: tokens of prompt and answer together.
        concurrent: answers written at the same time.
        cache: GiB set aside for keys and values.
        log: file that gets what vLLM prints; default: none is kept.
        python: of the environment that has vLLM.
    Raises:
        Qwen3labError: vLLM is not there, or ends before it opens.
    """

    def __init__(self, folder: str | Path, *, context: int = 512, concurrent: int = 32, cache: int = 1, log: Path | None = None, python: Path = VLLM):
        self.folder, self.context, self.concurrent, self.cache, self.log, self.python = Path(folder), context, concurrent, cache, log, python
        self.process: subprocess.Popen | None = None
        self.address = ""

    def __enter__(self) -> Vllm:
        if not self.python.is_file():
            raise Qwen3labError("vLLM is not installed here. Run `make vllm`, which gives it an environment of its own (3.4 GB).")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        cpus = ",".join(map(str, sorted(os.sched_getaffinity(0)))) if hasattr(os, "sched_getaffinity") else "auto"
        environment = os.environ | {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": str(self.cache),
                                    "VLLM_CPU_OMP_THREADS_BIND": cpus}
        # Prefixes are not kept, so that a prompt that comes twice is read twice, as by the other engines.
        options = {"model": self.folder, "served-model-name": self.folder.name, "dtype": "float32", "max-model-len": self.context,
                   "max-num-seqs": self.concurrent, "host": "127.0.0.1", "port": port}
        command = [str(self.python), "-m", "vllm.entrypoints.openai.api_server", "--no-enable-prefix-caching",
                   *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
        output = self.log.open("w", encoding="utf-8") if self.log else tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self._output = output
        self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def version(self) -> str:
        """Of vLLM, as its server states it."""
        with serving.opener().open(self.address + "/version") as reply:
            return json.load(reply)["version"]

    def _wait(self) -> None:
        opener, started = serving.opener(), time.monotonic()
        while time.monotonic() - started < START and self.process.poll() is None:
            try:
                with opener.open(self.address + "/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.5)
        raise Qwen3labError(f"vLLM did not open within {START} s, or ended (code {self.process.poll()}). "
                            "Start it with log=... and read the end of that file.")

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)  # its workers, too
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self._output.close()


def add_old_names(folder: str | Path) -> dict[str, Any]:
    """Write the names that transformers 4 looks for into a checkpoint's config.json, beside those of transformers 5; returns the config.

    An engine with transformers 4 inside would take its default of 10,000 for a `rope_theta` that stands in `rope_parameters`.
    """
    file = Path(folder) / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    rope = config.get("rope_parameters", {})
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    old = {"rope_theta": rope.get("rope_theta"), "torch_dtype": config.get("dtype"), "num_experts": config.get("num_local_experts"),
           "rope_scaling": scaling if rope.get("rope_type", "default") != "default" else None}
    config |= {name: value for name, value in old.items() if value is not None}
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return config


def equal(answers: dict[str, list[list[int]]]) -> dict[str, int]:
    """How many answers of each engine are those of the first, id by id. Raises Qwen3labError for unlike numbers of answers."""
    first, *_ = answers.values()
    if {len(rows) for rows in answers.values()} != {len(first)}:
        raise Qwen3labError("The engines gave unlike numbers of answers. Ask all of them the same prompts.")
    return {name: sum(ours == theirs for ours, theirs in zip(rows, first)) for name, rows in answers.items()}


def speed(ask: Callable[[list[int]], int], prompts: Sequence[list[int]]) -> float:
    """Answer tokens a second, one prompt after the other; the first is asked once before, to warm up.

    Args:
        ask: asks one prompt and returns the number of answer tokens.
    """
    ask(prompts[0])
    started = time.perf_counter()
    tokens = sum(map(ask, prompts))
    return tokens / (time.perf_counter() - started)


WHEN = {
    "transformers generate": "to hold the others against; batches without a clock; a model that is too new for engines",
    "llama.cpp in process": "inside a program: laptop, phone, a job at night",
    "llama.cpp over HTTP": "a machine without a GPU, few users, all of them known",
    "llama.cpp behind the guard": "the same, where what users write is not to be trusted",
    "vLLM": "a GPU and many users at once (here on a CPU)",
    "TensorRT-LLM": "NVIDIA GPUs and a model that stays: docs/tensorrt_llm.md, not run here"}


def summary(record: dict[str, Any]) -> pd.DataFrame:
    """The table of engines: answer tokens a second with one client and with the most, peak memory in MB, and when to take which."""
    import pandas as pd

    found = table(record)
    levels = found.index.get_level_values("concurrent")
    few, many = (found["tokens a second"].xs(level, level="concurrent") for level in (levels.min(), levels.max()))
    memory = found.memory.groupby("engine").first() / 1e6
    columns = {f"tokens/s, {levels.min()}": few, f"tokens/s, {levels.max()}": many, "memory MB": memory, "take it for": pd.Series(WHEN)}
    return pd.DataFrame(columns).reindex(list(WHEN))


def table(record: dict[str, Any]) -> pd.DataFrame:
    """data/benchmarks/serving.json as a table, a row an engine and number of concurrent requests (index), with the columns of a measurement."""
    import pandas as pd

    lines = [{"engine": name, "concurrent": int(level), "memory": engine["memory"]} | measured
             for name, engine in record["engines"].items() for level, measured in engine["load"].items()]
    return pd.DataFrame(lines).set_index(["engine", "concurrent"])
