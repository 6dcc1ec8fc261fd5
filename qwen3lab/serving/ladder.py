"""Compare variants of a model by size, KL divergence from the reference, accuracy and speed.

The variants may be transformers models or GGUF files in llama.cpp; the reference is the first one.
All get the same questions. The divergence is measured with teacher forcing: on the tokens of the
right answers, each predicted from the true ones before it, so that one early error does not count
again at every later token.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import chat, measure
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import scoring, statistics
from qwen3lab.models import batching
from qwen3lab.models.generation import generate_ids
from qwen3lab.serving import llama_cpp

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# Tokens whose log-probability llama.cpp returns; the whole vocabulary would take thirty times as
# long.
TOP = 256
DRAWS = 1000  # of the bootstrap


@dataclass(frozen=True)
class Rung:
    """A benchmark row for one variant of a model.

    Bytes: `disk` of the files, `memory` of the weights as loaded, without caches.
    """

    name: str
    disk: int
    memory: int
    tokens: int  # answer tokens over which kl and agreement are averaged
    kl: float  # mean KL divergence from the reference to this variant, in nats per token
    kl_low: float  # 95 % interval, bootstrap over questions
    kl_high: float
    # the same with the TOP likeliest tokens of this variant kept separate and the rest merged into
    # one: never more than the full divergence
    kl_top: float
    whole: bool  # whether kl is the full divergence; False: it is kl_top, a lower bound
    agreement: float  # share of positions where both have the same top-1 token
    agreement_low: float  # 95 %, Wilson; treats the tokens of a question as independent
    agreement_high: float
    n: int  # questions
    right: int
    accuracy: float  # exact match, with Wilson's 95 % interval
    low: float
    high: float
    speed: float  # answer tokens per second, one prompt at a time, prefill included


@dataclass(frozen=True)
class Ruler:
    """The reference log-probabilities of the right answers, to compare other variants with."""

    tokenizer: PreTrainedTokenizerBase
    rows: list[dict[str, Any]]
    examples: list[dict[str, list[int]]]
    log_probabilities: list[torch.Tensor]  # [answer tokens, vocabulary] per question, float32
    max_new_tokens: int
    timed: int


def ruler(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    *,
    max_new_tokens: int = 24,
    timed: int = 20,
) -> Ruler:
    """Compute the reference model's log-probabilities on the right answers of `rows`.

    Args:
        rows: questions of data/tasks, without thoughts and tools.
        max_new_tokens: per answer when the questions are asked.
        timed: number of prompts on which the speed is measured.
    Raises Qwen3labError for no rows, and for answers or times of nothing.
    """
    for name, value in (("max_new_tokens", max_new_tokens), ("timed", timed)):
        if type(value) is not int or value < 1:
            raise Qwen3labError(
                f"{name} is {value!r}, and nothing would be measured. Give 1 or more."
            )
    examples = [chat.example(tokenizer, tasks.conversation(row)) for row in rows]
    if not examples:
        raise Qwen3labError("There are no questions to measure with. Give at least one row.")
    return Ruler(tokenizer, list(rows), examples, read(model, examples), max_new_tokens, timed)


def read(
    model: PreTrainedModel, examples: Sequence[dict[str, list[int]]], batch_size: int = 32
) -> list[torch.Tensor]:
    """Compute log-probabilities over the vocabulary at each answer token with teacher forcing.

    Returns one float32 tensor [answer tokens, vocabulary] per example.
    """
    found: dict[int, torch.Tensor] = {}
    rows = [example["input_ids"] for example in examples]
    with batching.reading(model, most_threads=1):
        for batch, ids, mask in batching.batches(rows, batch_size, device=model.device):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            for place, given in zip(batch, logits):
                before = [answer - 1 for answer in _answer(examples[place])]
                found[place] = given[before].float().log_softmax(-1).cpu()
    return [found[place] for place in range(len(examples))]


def read_llama(
    server: llama_cpp.LlamaServer,
    examples: Sequence[dict[str, list[int]]],
    top: int = TOP,
    route: str = "/completion",
) -> list[list[tuple[list[int], list[float]]]]:
    """Fetch the `top` log-probabilities at each answer token from llama.cpp, one request per token.

    Args:
        route: "/completion", llama.cpp's own, or "/v1/completions", OpenAI's.
    Returns, per example and answer token, the ids of the `top` likeliest tokens and their
    log-probabilities.
    """
    body = (
        {"n_predict": 1, "n_probs": top, "cache_prompt": False}
        if route == "/completion"
        else {"max_tokens": 1, "logprobs": top}
    )
    found = []
    for example in examples:
        found.append([])
        for place in _answer(example):
            reply = server.post(
                route, {"prompt": example["input_ids"][:place], "temperature": 0.0} | body
            )
            step = (
                reply["completion_probabilities"][0]
                if route == "/completion"
                else reply["choices"][0]["logprobs"]["content"][0]
            )
            found[-1].append(
                (
                    [entry["id"] for entry in step["top_logprobs"]],
                    [entry["logprob"] for entry in step["top_logprobs"]],
                )
            )
    return found


def _answer(example: dict[str, list[int]]) -> list[int]:
    return [place for place, label in enumerate(example["labels"]) if label != chat.IGNORED]


def divergence(first: torch.Tensor, ids: Sequence[int] | None, other: torch.Tensor) -> float:
    """Compute the KL divergence sum p ln(p / q) of one prediction, in nats.

    Args:
        first: ln p of the whole vocabulary.
        ids: the tokens for which q is known; None: all. The remaining mass of p and of q counts as
            one more token. Merging tokens can only make the divergence smaller.
        other: ln q, of all tokens or of `ids`.
    """
    import torch

    p, q = first.double(), other.double()
    if ids is not None:
        p = p[torch.as_tensor(ids)]
        rest = torch.stack([(1 - part.exp().sum()).clamp(min=1e-12) for part in (p, q)]).log()
        p, q = torch.cat([p, rest[:1]]), torch.cat([q, rest[1:]])
    return max(0.0, torch.where(p > -60, p.exp() * (p - q.clamp(min=-60)), 0.0).sum().item())


def rung(
    name: str,
    candidate: PreTrainedModel | Path,
    against: Ruler,
    *,
    disk: Path | Sequence[Path],
    served: bool = False,
) -> Rung:
    """Measure one variant of a model: bytes, KL divergence, agreement, accuracy and speed.

    Args:
        candidate: a transformers model, or the path of a GGUF file, which then runs in llama.cpp.
        disk: the files or folders (their safetensors) that this variant needs.
        served: ask over OpenAI's routes, with the chat template applied by the server, instead of
            llama.cpp's own route with token ids.
    Raises:
        Qwen3labError: a file that is not there, a vocabulary of another size; what
            `serving.LlamaServer` raises.
    """
    from qwen3lab.measure import folder_bytes

    files = [disk] if isinstance(disk, (str, Path)) else list(disk)
    missing = [Path(file).name for file in files if not Path(file).exists()]
    if missing or not files:
        raise Qwen3labError(
            f"The bytes of {name!r} cannot be counted: {', '.join(missing) or 'no file'} is not"
            " there. Give the files or folders that this form needs."
        )
    if isinstance(candidate, (str, Path)) and Path(candidate).is_dir():
        raise Qwen3labError(
            f"{Path(candidate).name!r} is a folder. Load it with models.load() and give the model,"
            " or give a GGUF file."
        )
    size = sum(folder_bytes(file, "*.safetensors") for file in files)
    if isinstance(candidate, (str, Path)):
        return _measured(
            name,
            size,
            file_memory(candidate),
            against,
            *_ask_llama(Path(candidate), against, served),
            whole=False,
        )
    probabilities = read(candidate, against.examples)
    if probabilities[0].shape[-1] != against.log_probabilities[0].shape[-1]:
        raise Qwen3labError(
            f"{name!r} has a vocabulary of {probabilities[0].shape[-1]} tokens, the first form one"
            f" of {against.log_probabilities[0].shape[-1]}. Compare forms of the same model."
        )
    answers = scoring.evaluate_tasks(
        candidate, against.tokenizer, against.rows, max_new_tokens=against.max_new_tokens
    )
    seen = [[(None, line) for line in lines] for lines in probabilities]
    prompts = _prompts(against)
    generate_ids(candidate, against.tokenizer, prompts[:1], max_new_tokens=2)
    start = time.perf_counter()
    written = sum(
        len(
            generate_ids(
                candidate, against.tokenizer, [prompt], max_new_tokens=against.max_new_tokens
            )[0]
        )
        for prompt in prompts
    )
    return _measured(
        name,
        size,
        model_memory(candidate),
        against,
        seen,
        list(answers.correct),
        written / (time.perf_counter() - start),
        whole=True,
    )


def _prompts(against: Ruler) -> list[list[int]]:
    return [
        chat.encode(against.tokenizer, row["messages"]) for row in against.rows[: against.timed]
    ]


def _ask_llama(path: Path, against: Ruler, served: bool) -> tuple[list, list[bool], float]:
    import torch

    with llama_cpp.LlamaServer(path, against.tokenizer) as server:

        def answer(row: dict[str, Any]) -> tuple[str, int]:
            if not served:
                reply = server.complete(row["messages"], max_new_tokens=against.max_new_tokens)
                return reply.text, len(reply.ids)
            reply = server.post(
                "/v1/chat/completions",
                {
                    "messages": row["messages"],
                    "max_tokens": against.max_new_tokens,
                    "temperature": 0,
                    "chat_template_kwargs": {"enable_thinking": False},
                },
            )
            ended = reply["choices"][0]["finish_reason"] == "stop"
            return (
                reply["choices"][0]["message"]["content"],
                reply["usage"]["completion_tokens"] - ended,
            )  # the end token is not part of the answer

        seen = [
            [(ids, torch.tensor(values)) for ids, values in lines]
            for lines in read_llama(
                server, against.examples, route="/v1/completions" if served else "/completion"
            )
        ]
        right = [scoring.exact_match(answer(row)[0], row["answer"]) for row in against.rows]
        start = time.perf_counter()
        written = sum(answer(row)[1] for row in against.rows[: against.timed])
        return seen, right, written / (time.perf_counter() - start)


def _measured(
    name: str,
    disk: int,
    memory: int,
    against: Ruler,
    seen: list,
    right: Sequence[bool],
    speed: float,
    *,
    whole: bool,
) -> Rung:
    import torch

    full, top, same, counts = [], [], 0, []
    for lines, first in zip(seen, against.log_probabilities):
        pairs = [(p, ids, q) for p, (ids, q) in zip(first, lines, strict=True)]
        counts.append(len(pairs))
        cut = [
            (
                (p, ids, q)
                if ids is not None
                else (p, q.topk(min(TOP, len(q))).indices, q.topk(min(TOP, len(q))).values)
            )
            for p, ids, q in pairs
        ]
        top.append(sum(divergence(*line) for line in cut))
        full.append(sum(divergence(*line) for line in pairs) if whole else top[-1])
        same += sum(
            int(p.argmax())
            == int(q.argmax() if ids is None else ids[int(torch.as_tensor(q).argmax())])
            for p, ids, q in pairs
        )
    tokens, hits = sum(counts), int(sum(right))
    low, high = bootstrap_mean(full, counts)
    return Rung(
        name,
        disk,
        memory,
        tokens,
        sum(full) / tokens,
        low,
        high,
        sum(top) / tokens,
        whole,
        same / tokens,
        *statistics.wilson(same, tokens),
        len(right),
        hits,
        hits / len(right),
        *statistics.wilson(hits, len(right)),
        speed,
    )


def bootstrap_mean(
    sums: Sequence[float], counts: Sequence[int], seed: int = 0
) -> tuple[float, float]:
    """Compute the 95 % bootstrap interval of sum / count, resampling questions with replacement."""
    import numpy as np

    drawn = np.random.default_rng(seed).integers(0, len(sums), (DRAWS, len(sums)))
    means = np.asarray(sums)[drawn].sum(1) / np.asarray(counts)[drawn].sum(1)
    return tuple(float(value) for value in np.quantile(means, (0.025, 0.975)))


def model_memory(model: torch.nn.Module) -> int:
    """Compute the bytes of a model's weights and quantisation state; tied weights count once.

    The state is what quantised layers store beside the weights: scales, zero points, permutations.
    """
    import itertools

    extra = (
        getattr(parameter, "SCB", None) for parameter in model.parameters()
    )  # bitsandbytes' scales per int8 row
    states = (getattr(getattr(module, "state", None), "SCB", None) for module in model.modules())
    return measure.tensor_bytes(itertools.chain(model.parameters(), model.buffers(), extra, states))


def file_memory(path: str | Path) -> int:
    """Compute the bytes of a GGUF file's tensors, which llama.cpp maps into memory as they are."""
    import gguf

    llama_cpp.check(path)
    return int(sum(tensor.n_bytes for tensor in gguf.GGUFReader(path).tensors))


def table(rungs: Sequence[Rung | dict[str, Any]]) -> pd.DataFrame:
    """Tabulate rungs, one line per variant by name, with the columns of `Rung`.

    Also takes the records of data/benchmarks/ladder.json.
    """
    import pandas as pd

    return pd.DataFrame(
        [line if isinstance(line, dict) else asdict(line) for line in rungs]
    ).set_index("name")
