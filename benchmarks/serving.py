"""Benchmark the inference engines on the same 50 prompts, with greedy answers compared.

`python benchmarks/serving.py`. Each engine runs in a process of its own, with the weights in
float32, on the CPUs that this process may use (`taskset` sets them), and so do the clients. "core
used" is the CPU time of both over the wall-clock time: below about 0.9 other programs had the core,
and the speeds say little. At each level, that many concurrent clients ask one prompt after the
other. transformers has no server: it gets as many prompts at once, in one `generate`, and all wait
for the longest. Time to first token comes from streamed requests, everything else from plain ones.
vLLM is left out if `make vllm` has not been run. Writes `data/benchmarks/serving.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import child

from qwen3lab import chat, models, paths, serving
from qwen3lab.errors import Qwen3labError
from qwen3lab.results import tables
from qwen3lab.serving import engines
from qwen3lab.serving import vllm as serving_vllm

# Modules that only one engine or only the writing needs are imported there, so that they do not
# count towards another engine's memory.

LEVELS, ROUNDS, LONGEST, CONTEXT = (1, 8, 32), 3, 64, 512
MODEL = "qwen3-tiny"
Ask = Callable[
    [list[int], bool], tuple[str, int, float | None]
]  # prompt, streamed -> text, tokens, seconds to the first token


def asked(
    ask: Ask, prompts: Sequence[list[int]], level: int, streamed: bool
) -> tuple[float, list[tuple[str, int, float | None, float]]]:
    """Send all prompts with `level` concurrent clients.

    Returns the total seconds, and per prompt (text, tokens, seconds to the first token, seconds).
    """

    def one(prompt: list[int]) -> tuple[str, int, float | None, float]:
        started = time.perf_counter()
        return *ask(prompt, streamed), time.perf_counter() - started

    with ThreadPoolExecutor(level) as clients:
        started = time.perf_counter()
        found = list(clients.map(one, prompts))
        return time.perf_counter() - started, found


def batched(
    prompts: Sequence[list[int]],
    level: int,
    batch: Callable[[Sequence[list[int]]], list[tuple[str, int, float]]],
):
    """Do the same for an engine that takes `level` prompts as one batch.

    It answers when all are done.
    """
    started, found = time.perf_counter(), []
    for place in range(0, len(prompts), level):
        begun = time.perf_counter()
        answers = batch(prompts[place : place + level])
        found += [(*answer, time.perf_counter() - begun) for answer in answers]
    return time.perf_counter() - started, found


def load(
    prompts: Sequence[list[int]],
    run: Callable[[Sequence[list[int]], int, bool], Any],
    *,
    streams: bool = True,
    busy: Callable[[], float] = time.process_time,
) -> dict[str, dict[str, Any]]:
    """Measure every concurrency level.

    Args:
        run: `run(prompts, level, streamed)` returns what `asked` returns.
        busy: returns the CPU seconds of engine and clients so far.
    """
    result = {}
    run(prompts[:10], 1, False)
    for level in LEVELS:
        many = list(prompts) * (1 if level == 1 else 2)
        run(many[:level], level, False)
        seconds, shares, answers = [], [], []
        for _ in range(ROUNDS):
            before = busy()
            took, found = run(many, level, False)
            seconds.append(took)
            shares.append((busy() - before) / took)
            answers += found
        first = [line[2] for line in (run(many, level, True)[1] if streams else answers)]
        tokens = sum(line[1] for line in answers) / ROUNDS
        rates = [tokens / took for took in seconds]
        result[str(level)] = {
            "n": len(answers),
            "tokens": round(tokens),
            "tokens a second": round(statistics.median(rates), 1),
            "slowest round": round(min(rates), 1),
            "fastest round": round(max(rates), 1),
            "core used": round(statistics.median(shares) / models.cpus(), 2),
            "requests a second": round(len(many) / statistics.median(seconds), 2),
            "first token p50, ms": quantile(first, 0.5),
            "first token p95, ms": quantile(first, 0.95),
            "first token n": len(first),
            "latency p50, ms": quantile([line[3] for line in answers], 0.5),
            "latency p95, ms": quantile([line[3] for line in answers], 0.95),
            "texts": [line[0] for line in answers[: len(prompts)]],
        }
        print(
            level,
            {key: value for key, value in result[str(level)].items() if key != "texts"},
            file=sys.stderr,
            flush=True,
        )
    return result


def quantile(seconds: Sequence[float], share: float) -> float:
    """Compute a quantile in milliseconds, by linear interpolation."""
    import numpy as np

    return round(1000 * float(np.quantile(list(seconds), share)), 1)


def transformers_inside(prompts: list[list[int]]) -> dict[str, Any]:
    """Measure transformers in this process."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    model, tokenizer = models.load(MODEL, dtype="float32")
    torch.set_num_threads(models.cpus())
    pad, ends = tokenizer.pad_token_id, [tokenizer.eos_token_id, tokenizer.pad_token_id]

    class First(StoppingCriteria):
        """A stopping criterion that only records when the first token is generated."""

        seconds: float | None = None

        def __call__(self, ids, scores, **_: Any):
            self.seconds = self.seconds or time.perf_counter() - self.begun
            return torch.zeros(len(ids), dtype=torch.bool)

    def ids_of(rows: Sequence[list[int]], first: First) -> list[list[int]]:
        width = max(map(len, rows))
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        first.begun = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=LONGEST,
                eos_token_id=ends,
                pad_token_id=pad,
                stopping_criteria=StoppingCriteriaList([first]),
            )
        return [
            row[: next((place for place, token in enumerate(row) if token in ends), len(row))]
            for row in out[:, width:].tolist()
        ]

    def batch(rows: Sequence[list[int]]) -> list[tuple[str, int, float]]:
        first = First()
        return [
            (tokenizer.decode(answer, skip_special_tokens=True), len(answer), first.seconds)
            for answer in ids_of(rows, first)
        ]

    answers = [ids_of([prompt], First())[0] for prompt in prompts]
    found = load(prompts, lambda rows, level, _: batched(rows, level, batch), streams=False)
    return {"answers": answers, "load": found, "memory": peak(os.getpid())}


def llama_inside(prompts: list[list[int]], file: Path) -> dict[str, Any]:
    """Measure llama.cpp in this process, by function calls."""
    with serving.LlamaServer(file, None, context=CONTEXT, slots=max(LEVELS), reuse=False) as server:

        def ask(prompt: list[int], streamed: bool) -> tuple[str, int, float | None]:
            started, parts, times = time.perf_counter(), [], []
            each = (
                (lambda part: (parts.append(part), times.append(time.perf_counter() - started)))
                if streamed
                else None
            )
            reply = server.call({"prompt": prompt, "max_tokens": LONGEST, "temperature": 0.0}, each)
            text = (
                "".join(part["choices"][0]["text"] for part in parts)
                if streamed
                else reply["choices"][0]["text"]
            )
            return text, tokens_of(reply["usage"], reply["choices"][0]), times[0] if times else None

        found = {"load": load(prompts, partial(asked, ask)), "memory": peak(os.getpid())}
        server.tokenizer = models.load_tokenizer(MODEL)
        return found | {"answers": engines.in_process(server, prompts, max_new_tokens=LONGEST)}


def tokens_of(usage: Any, choice: Any) -> int:
    """Count answer tokens without the end token, which llama.cpp and vLLM include."""
    read = (lambda thing, name: thing[name]) if isinstance(usage, dict) else getattr
    return read(usage, "completion_tokens") - (read(choice, "finish_reason") == "stop")


def over_http(prompts: list[list[int]], address: str, pid: int) -> dict[str, Any]:
    """Measure a server with the `openai` package, from this process."""
    tokenizer = models.load_tokenizer(MODEL)
    client = engines.client(address)
    name = client.models.list().data[0].id

    def ask(prompt: list[int], streamed: bool) -> tuple[str, int, float | None]:
        options = {"model": name, "prompt": prompt, "max_tokens": LONGEST, "temperature": 0}
        if not streamed:
            reply = client.completions.create(**options)
            return reply.choices[0].text, tokens_of(reply.usage, reply.choices[0]), None
        started, first, text = time.perf_counter(), None, ""
        for part in client.completions.create(**options, stream=True):
            first = first or time.perf_counter() - started
            text += part.choices[0].text if part.choices else ""
        return text, 0, first

    answers = engines.over_http(address, prompts, tokenizer, max_new_tokens=LONGEST)
    return {"answers": answers, "load": load(prompts, partial(asked, ask), busy=partial(busy, pid))}


def over_chat(rows: list[dict[str, Any]], address: str, pid: int) -> dict[str, Any]:
    """Measure the guard: messages in, text out."""
    client = engines.client(address)

    def ask(row: dict[str, Any], streamed: bool) -> tuple[str, int, float | None]:
        options = {
            "model": "any",
            "messages": row["messages"],
            "max_tokens": LONGEST,
            "temperature": 0,
            "extra_body": {"chat_template_kwargs": {"enable_thinking": row["thinking"]}},
        }
        if row.get("tools") and not streamed:
            options["tools"] = row["tools"]
        if not streamed:
            reply = client.chat.completions.create(**options)
            return (
                reply.choices[0].message.content or "",
                tokens_of(reply.usage, reply.choices[0]),
                None,
            )
        started, first = time.perf_counter(), None
        for part in client.chat.completions.create(**options, stream=True):
            delta = part.choices[0].delta if part.choices else None
            if (
                first is None
                and delta
                and (delta.content or getattr(delta, "reasoning_content", None))
            ):
                first = time.perf_counter() - started
        return "", 0, first or time.perf_counter() - started

    return {"load": load(rows, partial(asked, ask), busy=partial(busy, pid))}


def llama_outside(file: Path, guarded: bool) -> AbstractContextManager[tuple[str, int]]:
    """Run llama.cpp in another process; yields its address and process id."""
    kind = "guard" if guarded else "llama"
    return child.running(__file__, "--serve", kind, "--file", str(file))


def serve(kind: str, file: Path) -> None:
    """Print an address, and serve until the standard input closes."""
    with serving.LlamaServer(file, None, context=CONTEXT, slots=max(LEVELS), reuse=False) as server:
        if kind == "llama":
            print(server.address, flush=True)
            sys.stdin.read()
        else:
            from qwen3lab.serving import chat_server

            with chat_server.Guard(
                server.address, chat_server.load_tokenizer(MODEL, file), context=CONTEXT, name=MODEL
            ) as door:
                print(door.address, flush=True)
                sys.stdin.read()


def busy(pid: int) -> float:
    """Sum the CPU seconds of this process, of process `pid` and of its children."""
    import psutil

    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return time.process_time() + sum(sum(process.cpu_times()[:2]) for process in processes)


def peak(pid: int) -> int:
    """Sum the peak resident bytes (VmHWM) of a process and its children.

    Pages that they share count in each.
    """
    import psutil
    import record

    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(record.peak(process.pid) for process in processes)


def inside(kind: str, prompts: list[list[int]], file: Path) -> dict[str, Any]:
    """Measure in a separate process; its memory includes the measuring code."""
    command = [sys.executable, __file__, "--inside", kind, "--file", str(file)]
    return json.loads(
        subprocess.run(
            command, input=json.dumps(prompts), stdout=subprocess.PIPE, text=True, check=True
        ).stdout
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inside", choices=("transformers", "llama"), help="used by this script")
    parser.add_argument("--serve", choices=("llama", "guard"), help="used by this script")
    parser.add_argument("--file", type=Path, help="used by this script")
    parser.add_argument(
        "--vllm", type=Path, default=serving_vllm.VLLM, help="Python of vLLM's environment"
    )
    parser.add_argument("--log", type=Path, help="file for what vLLM prints")
    parser.add_argument(
        "--only", nargs="*", help="engines to measure; the others stay as they are in the file"
    )
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "serving.json")
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve, args.file)
    if args.inside:
        prompts = json.load(sys.stdin)
        print(
            json.dumps(
                transformers_inside(prompts)
                if args.inside == "transformers"
                else llama_inside(prompts, args.file)
            )
        )
        return None
    import record

    from qwen3lab.quantization import variants

    tokenizer = models.load_tokenizer(MODEL)
    prompts = engines.prompts(tokenizer)
    file = variants.gguf(models.resolve(MODEL), "f32")

    def http(guarded: bool) -> dict[str, Any]:
        with llama_outside(file, guarded) as (address, pid):
            found = (
                over_chat(engines.rows(), address, pid)
                if guarded
                else over_http(prompts, address, pid)
            )
            return found | {"memory": peak(pid)}

    def vllm() -> dict[str, Any]:
        started = time.perf_counter()
        with serving_vllm.Vllm(
            models.resolve(MODEL),
            context=CONTEXT,
            concurrent=max(LEVELS),
            log=args.log,
            python=args.vllm,
        ) as server:
            opened = round(time.perf_counter() - started)
            found = over_http(prompts, server.address, server.process.pid) | {
                "seconds to open": opened
            }
            return found | {
                "memory": peak(server.process.pid),
                "KV cache, bytes": server.cache * 2**30,
                "version": server.version(),
            }

    every = {
        "transformers generate": lambda: inside("transformers", prompts, file),
        "llama.cpp in process": lambda: inside("llama", prompts, file),
        "llama.cpp over HTTP": lambda: http(False),
        "llama.cpp behind the guard": lambda: http(True),
        "vLLM": vllm,
    }
    before = (
        json.loads(args.out.read_text(encoding="utf-8"))
        if args.only and args.out.is_file()
        else {"engines": {}, "answers": {}}
    )
    found, missing = {}, {}
    for name, measure in every.items():
        if args.only and name not in args.only:
            continue
        print(name, file=sys.stderr, flush=True)
        try:
            found[name] = measure()
        except Qwen3labError as error:
            if name != "vLLM":
                raise
            missing[name] = str(error)
            print(error, file=sys.stderr)
    kept = {
        name: [[int(number) for number in line.split()] for line in rows]
        for name, rows in before["answers"].items()
    }
    answers = kept | {name: one.pop("answers") for name, one in found.items() if "answers" in one}
    same = engines.equal(answers)
    texts = [
        tokenizer.decode(ids, skip_special_tokens=True).strip()
        for ids in answers["transformers generate"]
    ]
    for name, one in found.items():
        content = [
            chat.split_thinking(text)[1].split("<tool_call>")[0].strip() for text in texts
        ]  # what the guard returns as content
        wanted = texts if name in answers else content
        for level in one["load"].values():
            level["equal texts"] = sum(
                text.strip() == right for text, right in zip(level.pop("texts"), wanted)
            )
    lines = before["engines"] | found
    one = {name: line["load"]["1"]["tokens a second"] for name, line in lines.items()}
    times = {name: round(rate / one["transformers generate"], 2) for name, rate in one.items()}
    record.write(
        args.out,
        {
            "model": MODEL,
            "prompts": len(prompts),
            "prompt tokens": sum(map(len, prompts)),
            "answer tokens": sum(map(len, answers["transformers generate"])),
            "longest answer": LONGEST,
            "rounds": ROUNDS,
            "cpus": models.cpus(),
            "arithmetic": (
                "weights in float32; keys and values too, in llama.cpp in float16, its default;"
                " greedy; no prompt kept for the next"
            ),
            "memory": (
                "highest resident bytes of the engine's processes; in process it holds what"
                " measures, too"
            ),
            "equal answers": same,
            "times as fast as transformers, one request": times,
            "left out": missing,
            "engines": {name: lines[name] for name in every if name in lines},
            "answers": {
                name: [" ".join(map(str, ids)) for ids in rows] for name, rows in answers.items()
            },
        },
        "serving.py",
        ("torch", "transformers", "xllamacpp", "openai"),
        args.note,
    )
    print(
        tables.engine_speeds(json.loads(args.out.read_text(encoding="utf-8"))).to_string(),
        same,
        sep="\n",
    )
    return None


if __name__ == "__main__":
    main()
