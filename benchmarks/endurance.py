"""Try the chat server's endurance: malformed requests, a crowd, killed clients, and its memory.

`python benchmarks/endurance.py` serves the bundled chat model by llama.cpp behind the guard in a
process of its own. It asks some questions one by one, and after that counts as lost every answer
that does not come or is another one. Then 10,000 malformed requests; 64 clients for a minute, a
third of them streaming, beside 20 that never end their request; 20 clients that are killed in the
middle of a stream. The server's memory is read in between.

`--beside FILE` also measures another version of `qwen3lab/serving/chat_server.py` in front of the
same engine, in turn with this one (`git show COMMIT:qwen3lab/serving/chat_server.py > FILE`).
Writes `data/benchmarks/endurance.json`.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import child
import record

from qwen3lab import models, paths, quantization, serving
from qwen3lab.data import tasks
from qwen3lab.serving import chat_server

MODEL = "qwen3-tiny"
CONTEXT, SLOTS, LONGEST = 512, 8, 16
ROUTE = "/v1/chat/completions"
HEADERS = {"Content-Type": "application/json"}
HANGING = 20


# The server, in a process of its own.


def serve(file: Path, beside: Path | None) -> None:
    """Print the guard's address, the other guard's and the engine's, until the input closes."""
    tokenizer = models.load_tokenizer(paths.MODELS / MODEL)
    kinds = [chat_server]
    if beside:
        spec = importlib.util.spec_from_file_location("beside", beside)
        kinds.append(importlib.util.module_from_spec(spec))
        sys.modules["beside"] = kinds[1]
        spec.loader.exec_module(kinds[1])
    with (
        serving.LlamaServer(file, None, context=CONTEXT, slots=SLOTS, reuse=False) as server,
        ExitStack() as stack,
    ):
        doors = [
            stack.enter_context(kind.Guard(server.address, tokenizer, context=CONTEXT, name=MODEL))
            for kind in kinds
        ]
        print(*(door.address for door in doors), server.address, flush=True)
        sys.stdin.read()


def served(file: Path, beside: Path | None) -> AbstractContextManager[tuple[str, int]]:
    """Run the server; yields its addresses, in a line, and its process id."""
    also = ["--beside", str(beside)] if beside else []
    return child.running(__file__, "--serve", str(file), *also)


# Its clients.


def post(address: str, body: bytes) -> tuple[int, bytes]:
    """Send one request on a connection of its own; returns status and body."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=300)
    try:
        connection.request("POST", ROUTE, body, HEADERS)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def question(row: dict[str, Any], **more: Any) -> bytes:
    """Write a row's question as a request for a greedy answer."""
    options = {"temperature": 0, "max_tokens": LONGEST}
    return json.dumps({"messages": row["messages"]} | options | more).encode()


def answer(address: str, row: dict[str, Any], stream: bool = False) -> str | None:
    """Ask a question; returns the answer's text, or None if there is no whole answer."""
    try:
        status, body = post(address, question(row, stream=stream))
        if status != 200:
            return None
        if not stream:
            return json.loads(body)["choices"][0]["message"]["content"]
        *events, last = body.decode().strip().split("\n\n")
        if last != "data: [DONE]":
            return None
        parts = [json.loads(event.removeprefix("data: "))["choices"] for event in events]
        return "".join(part[0]["delta"].get("content") or "" for part in parts if part)
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return None


VALUES = (None, True, -1, 0, 2**70, 1.5, "", "x", "\u8bcd" * 50, [], [[]], {}, {"a": [None]}, [1])
BYTES = (b"\xff", b"\x00", b"{", b'"', b"\\ud800", b"NaN", b"1e999", b"[" * 2000)


def malformed(row: dict[str, Any], draw: random.Random) -> bytes:
    """Damage a question: values, missing keys, unknown keys, bytes, the end, or all of it."""
    body = json.loads(question(row))
    body |= {"n": 1, "stop": ["x"], "stream": False, "stream_options": {}, "tools": []}
    kind = draw.randrange(6)
    if kind < 3:
        owner: Any = body
        while draw.random() < 0.6:
            inner = [
                value
                for value in (owner.values() if isinstance(owner, dict) else owner)
                if isinstance(value, (dict, list)) and value
            ]
            if not inner:
                break
            owner = draw.choice(inner)
        keys = list(owner) if isinstance(owner, dict) else range(len(owner))
        key = draw.choice(list(keys))
        if kind == 0:
            owner[key] = draw.choice(VALUES)
        elif kind == 1:
            del owner[key]
        elif isinstance(owner, dict):
            owner[draw.choice(("suffix", "functions", "x", ""))] = draw.choice(VALUES)
        else:
            owner.append(draw.choice(VALUES))
    text = json.dumps(body).encode()
    if kind == 3:
        place = draw.randrange(len(text))
        return text[:place] + draw.choice(BYTES) + text[place + draw.randrange(3) :]
    if kind == 4:
        return text[: draw.randrange(len(text))]
    if kind == 5:
        return json.dumps(draw.choice(VALUES)).encode() + draw.choice((b"", b" ", b"}"))
    return text


def try_malformed(address: str, rows: list[dict], count: int) -> dict[str, Any]:
    """Send malformed requests from eight clients; some damages leave a good request."""
    draw = random.Random(0)
    bodies = [malformed(rows[place % len(rows)], draw) for place in range(count)]

    def ask(body: bytes) -> str:
        try:
            status, told = post(address, body)
            error = json.loads(told).get("error") if status != 200 else None
            whole = status == 200 or (error["code"] == status and len(error["message"]) > 10)
            return str(status) if whole else f"{status} without a sentence"
        except (OSError, http.client.HTTPException, ValueError) as problem:
            return type(problem).__name__

    with ThreadPoolExecutor(8) as clients:
        found = Counter(clients.map(ask, bodies))
    return {"n": count, "statuses": dict(sorted(found.items()))}


def crowd(address: str, rows: list[dict], right: list[str], n: int, seconds: float) -> dict:
    """Let n clients ask for some seconds, a third of them by streams, beside some that hang."""
    netloc, ends = urlsplit(address).netloc.split(":"), time.perf_counter() + seconds
    hanging = [socket.create_connection(netloc) for _ in range(HANGING)]
    for place, line in enumerate(hanging):
        line.sendall(f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\n".encode())
        if place % 2:
            line.sendall(b"Content-Length: 100\r\n\r\n{")
    took, lost = [], []

    def client(number: int) -> None:
        place = number
        while time.perf_counter() < ends:
            row, started = place % len(rows), time.perf_counter()
            told = answer(address, rows[row], stream=number % 3 == 0)
            took.append(time.perf_counter() - started)
            if told != right[row]:
                lost.append(told)
            place += n

    threads = [threading.Thread(target=client, args=(number,)) for number in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for line in hanging:
        line.close()
    ranked = sorted(took)
    return {
        "clients": n,
        "seconds": seconds,
        "hanging beside": HANGING,
        "answers": len(took),
        "lost": len(lost),
        "latency p50, ms": round(1000 * statistics.median(ranked)),
        "latency p95, ms": round(1000 * ranked[int(0.95 * len(ranked))]),
    }


KILLED = """
import socket, sys, time
line = socket.create_connection((sys.argv[1], int(sys.argv[2])))
body = sys.argv[3].encode()
line.sendall(b"POST /v1/chat/completions HTTP/1.1\\r\\nHost: x\\r\\n")
line.sendall(b"Content-Length: %d\\r\\n\\r\\n" % len(body) + body)
line.recv(10)
print("begun", flush=True)
time.sleep(1000)
"""


def kill(address: str, engine: str, row: dict, n: int) -> dict[str, Any]:
    """Kill n clients in the middle of long streams; returns when the engine was idle again."""
    host, port = urlsplit(address).netloc.split(":")
    bias = dict.fromkeys(map(str, ends()), -100)  # so that no answer ends early
    body = question(row, stream=True, max_tokens=400, logit_bias=bias).decode()
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", KILLED, host, port, body], stdout=subprocess.PIPE, text=True
        )
        for _ in range(n)
    ]
    begun = [clients[place].stdout.readline().strip() for place in range(SLOTS)]
    busy = slots_at_work(engine)
    for process in clients:
        process.kill()
    killed = time.perf_counter()
    while slots_at_work(engine) and time.perf_counter() - killed < 60:
        time.sleep(0.05)
    idle = time.perf_counter() - killed
    for process in clients:
        process.communicate()
    return {
        "clients": n,
        "streams under way": begun.count("begun"),
        "slots at work before": busy,
        "seconds until the engine was idle": round(idle, 2),
        "slots at work after": slots_at_work(engine),
    }


def ends() -> list[int]:
    """List the ids of the tokens that end an answer."""
    tokenizer = models.load_tokenizer(paths.MODELS / MODEL)
    return sorted({tokenizer.eos_token_id, tokenizer.pad_token_id})


def slots_at_work(engine: str) -> int:
    """Count the answers that llama.cpp writes at this moment."""
    connection = http.client.HTTPConnection(urlsplit(engine).netloc, timeout=60)
    connection.request("GET", "/slots")
    reply = json.loads(connection.getresponse().read())
    connection.close()
    return sum(bool(slot["is_processing"]) for slot in reply)


def speeds(addresses: list[str], pid: int, rows: list[dict], rounds: int) -> dict[str, Any]:
    """Ask the same questions of both guards in turn.

    Returns requests a second and their ratios, and the CPU time of guard and engine for a request,
    which other work on the machine changes less.
    """
    loads = {
        "one client": (1, 16, {}),
        "eight clients": (8, 48, {}),
        "64 clients": (64, 96, {}),
        "eight clients, one token": (8, 48, {"max_tokens": 1}),
        "eight clients, streams": (8, 48, {"stream": True}),
        "eight clients, refused": (8, 240, {"temperature": "hot"}),
    }
    found: dict[str, Any] = {}
    for name, (clients, count, more) in loads.items():
        bodies = [question(rows[place % len(rows)], **more) for place in range(count)]
        rates: list[list[float]] = [[], []]
        worked: list[list[float]] = [[], []]
        for _ in range(rounds):
            for place, address in enumerate(addresses[:2]):
                started, before = time.perf_counter(), cpu_seconds(pid)
                with ThreadPoolExecutor(clients) as pool:
                    statuses = Counter(
                        status for status, _ in pool.map(lambda body: post(address, body), bodies)
                    )
                rates[place].append(count / (time.perf_counter() - started))
                worked[place].append(1000 * (cpu_seconds(pid) - before) / count)
                assert set(statuses) == {400 if "temperature" in more else 200}, statuses
        ratios = [new / old for new, old in zip(*rates)]
        found[name] = {
            "requests": count,
            "rounds": rounds,
            "a second": round(statistics.median(rates[0]), 1),
            "a second, beside": round(statistics.median(rates[1]), 1),
            "CPU, ms": round(statistics.median(worked[0]), 1),
            "CPU, ms, beside": round(statistics.median(worked[1]), 1),
            "ratio": round(statistics.median(ratios), 2),
            "ratios": [round(ratio, 2) for ratio in sorted(ratios)],
        }
        print(name, found[name], flush=True)
    return found


def megabytes(pid: int) -> float:
    """Read the resident memory of a process, in MB."""
    import psutil

    return round(psutil.Process(pid).memory_info().rss / 1e6, 1)


def cpu_seconds(pid: int) -> float:
    """Read the CPU time of a process."""
    import psutil

    return sum(psutil.Process(pid).cpu_times()[:2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--beside", type=Path, help="another version of chat_server.py")
    parser.add_argument("--malformed", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--killed", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "endurance.json")
    parser.add_argument("--note", default="")
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.beside)
        return
    rows = [row for row in tasks.load("chat", "test") if not row["thinking"]][:32]
    with tempfile.TemporaryDirectory() as folder:
        file = quantization.to_gguf(paths.MODELS / MODEL, Path(folder) / "tiny.gguf", "f32")
        with served(file, args.beside) as (line, pid):
            addresses = line.split()
            address, engine = addresses[0], addresses[-1]
            right = [answer(address, row) for row in rows]
            assert None not in right
            memory = {"before": megabytes(pid)}
            result: dict[str, Any] = {
                "malformed": try_malformed(address, rows, args.malformed),
                "memory, MB": memory,
            }
            memory["after the malformed"] = megabytes(pid)
            print(result, flush=True)
            result["crowd"] = crowd(address, rows, right, args.clients, args.seconds)
            memory["after the crowd"] = megabytes(pid)
            print(result["crowd"], flush=True)
            result["killed"] = kill(address, engine, rows[0], args.killed)
            memory["after the killed"] = megabytes(pid)
            after = [answer(address, row) for row in rows]
            lost = sum(told != wanted for told, wanted in zip(after, right))
            result["answers after all that"] = {"n": len(rows), "lost": lost}
            print(result, flush=True)
            if args.beside:
                result["speed"] = speeds(addresses, pid, rows, args.rounds)
    packages = ("fastapi", "uvicorn", "httpx", "xllamacpp")
    record.write(args.out, result, "endurance.py", packages, args.note)


if __name__ == "__main__":
    main()
