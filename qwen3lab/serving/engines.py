"""Compare inference engines on the same prompts, token id by token id."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab import chat
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import generation
from qwen3lab.serving.llama_cpp import LlamaServer

if TYPE_CHECKING:
    from openai import OpenAI
    from transformers import PreTrainedTokenizerBase


MIX = ("chat", "context", "addition")


def rows(n: int = 50) -> list[dict[str, Any]]:
    """Load n test questions of data/tasks, a third each of chat, context and addition."""
    return [row for task in MIX for row in tasks.load(task, "test")[: -(-n // len(MIX))]][:n]


def prompts(tokenizer: PreTrainedTokenizerBase, n: int = 50) -> list[list[int]]:
    """Encode `rows(n)` as token ids, with thoughts and tools where the row has them."""
    return [
        chat.encode(tokenizer, row["messages"], thinking=row["thinking"], tools=row.get("tools"))
        for row in rows(n)
    ]


def client(address: str, timeout: float = 300) -> OpenAI:
    """Create an `openai` client for a server on this machine.

    It needs no key, does not retry and bypasses proxies; `timeout` in seconds.
    """
    import openai

    return openai.OpenAI(
        base_url=address.rstrip("/") + "/v1",
        api_key="none",
        max_retries=0,
        timeout=timeout,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    )


def over_http(
    address: str,
    prompts: Sequence[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_new_tokens: int = 64,
    model: str | None = None,
) -> list[list[int]]:
    """Generate greedy answers over /v1/completions, as token ids without the end token.

    llama.cpp and vLLM return the ids in different fields (see `ids_of`).

    Args:
        model: the model or adapter to ask; default: the first that the server lists.
    """
    with client(address) as asking:
        name = model or asking.models.list().data[0].id
        replies = [
            asking.completions.create(
                model=name,
                prompt=prompt,
                max_tokens=max_new_tokens,
                temperature=0,
                logprobs=1,
                extra_body={"return_token_ids": True},
            )
            for prompt in prompts
        ]
    ends = generation.end_tokens(tokenizer)
    return [generation.before_end(ids_of(reply.choices[0].model_dump()), ends) for reply in replies]


def in_process(
    server: LlamaServer, prompts: Sequence[list[int]], *, max_new_tokens: int = 64
) -> list[list[int]]:
    """Generate greedy answers with llama.cpp by function calls, as ids without the end token."""
    replies = [
        server.call(
            {"prompt": prompt, "max_tokens": max_new_tokens, "temperature": 0.0, "logprobs": 1}
        )
        for prompt in prompts
    ]
    return [generation.before_end(ids_of(reply["choices"][0]), server.ends) for reply in replies]


def ids_of(choice: dict[str, Any]) -> list[int]:
    """Extract the generated token ids from one choice of a /v1/completions reply.

    They are vLLM's `token_ids`, or the ids in llama.cpp's log-probabilities.
    """
    if choice.get("token_ids") is not None:
        return choice["token_ids"]
    return [entry["id"] for entry in (choice["logprobs"] or {}).get("content", [])]


def equal(answers: dict[str, list[list[int]]]) -> dict[str, int]:
    """Count, per engine, the answers that equal the first engine's id by id.

    Raises Qwen3labError if the engines gave different numbers of answers.
    """
    first, *_ = answers.values()
    if {len(rows) for rows in answers.values()} != {len(first)}:
        raise Qwen3labError(
            "The engines gave unlike numbers of answers. Ask all of them the same prompts."
        )
    return {
        name: sum(ours == theirs for ours, theirs in zip(rows, first))
        for name, rows in answers.items()
    }


def speed(ask: Callable[[list[int]], int], prompts: Sequence[list[int]]) -> float:
    """Measure throughput in answer tokens per second, one prompt at a time.

    The first prompt is asked once beforehand as a warm-up.

    Args:
        ask: asks one prompt and returns the number of answer tokens.
    """
    ask(prompts[0])
    started = time.perf_counter()
    tokens = sum(map(ask, prompts))
    return tokens / (time.perf_counter() - started)
