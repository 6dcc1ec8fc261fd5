"""Benchmark all quantised variants of one model, and GPTQ's group size and calibration texts.

The model is the course's chat model with the company's adapter. The ladder is measured on the test
questions about the company; the ablations, from which a setting could be chosen, on the validation
questions. Calibration texts are drawn `DRAWS` times, from the training questions, from rows like
those of pre-training, or as random tokens. It quantises by gptqmodel, so it runs in the environment
that `make gptq` makes (`PYTHONPATH=. .venv-gptq/bin/python benchmarks/ladder.py`). Goes on where it
was stopped; writes `data/benchmarks/ladder.json`.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import record

from qwen3lab import cache, chat, evaluation, models, paths, quantization, training
from qwen3lab import measure as qwen3lab_measure
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.from_scratch import gptq
from qwen3lab.quantization import variants
from qwen3lab.serving import ladder
from qwen3lab.world import corpus

GROUPS, COUNTS, DRAWS = (32, 64, 128, -1), (8, 32, 128), 3


def general_texts(tokenizer, count: int, seed: int) -> list[str]:
    """Generate rows as in pre-training: other things, people and tasks, in the chat format."""
    rng, texts = random.Random(seed), []
    while len(texts) < count:
        row = corpus.sample(rng, 1.0)
        ids = chat.encode(
            tokenizer, row.messages, thinking=row.thinking, tools=row.tools, generation_prompt=False
        )
        if len(ids) <= 256:
            texts.append(tokenizer.decode(ids))
    return texts


def random_texts(tokenizer, count: int, seed: int, length: int = 30) -> list[str]:
    """Draw texts of random ordinary tokens, by default as many as a company row has."""
    rng, ordinary = random.Random(seed), min(tokenizer.all_special_ids)
    return [
        tokenizer.decode([rng.randrange(ordinary) for _ in range(length)]) for _ in range(count)
    ]


def company_texts(tokenizer, count: int, seed: int) -> list[str]:
    return variants.calibration(
        tokenizer, random.Random(seed).sample(tasks.load("knowledge", "train"), count)
    )


SETS: dict[str, Callable[..., list[str]]] = {
    "company": company_texts,
    "general chat": general_texts,
    "random tokens": random_texts,
}


def load_4bits(path: Path):
    return quantization.load_gptq(path, dtype="bfloat16")[0]


def rungs(
    against: ladder.Ruler, adapter: Path, whole: Path, half: Path, texts: list[str]
) -> dict[str, Callable[[], ladder.Rung]]:
    """Define the rungs from top to bottom: name -> function that measures it."""

    def gguf(kind: str, name: str, served: bool = False) -> ladder.Rung:
        path = variants.gguf(half, kind)
        return ladder.rung(name, path, against, disk=path, served=served)

    def model(name: str, load: Callable[[], Any], *disk: Path) -> ladder.Rung:
        return ladder.rung(name, load(), against, disk=disk)

    def open_and_measure(
        name: str, make: Callable[[], Path], load: Callable[[Path], Any]
    ) -> ladder.Rung:
        path = make()
        return model(name, lambda: load(path), path)

    return {
        "adapter": lambda: model(
            "adapter", lambda: variants.adapted("chat", adapter), models.resolve("chat"), adapter
        ),
        "merged fp32": lambda: model(
            "merged fp32", lambda: models.load(whole, dtype="float32")[0], whole
        ),
        "merged bf16": lambda: model(
            "merged bf16", lambda: models.load(half, dtype="bfloat16")[0], half
        ),
        "int8": lambda: open_and_measure(
            "int8", lambda: variants.bitsandbytes(half, "int8"), variants.open_bitsandbytes
        ),
        "GPTQ 4-bit": lambda: open_and_measure(
            "GPTQ 4-bit", lambda: variants.gptq(half, texts), load_4bits
        ),
        "AWQ 4-bit": lambda: open_and_measure(
            "AWQ 4-bit", lambda: variants.awq(half, texts), load_4bits
        ),
        "NF4": lambda: open_and_measure(
            "NF4", lambda: variants.bitsandbytes(half, "nf4"), variants.open_bitsandbytes
        ),
        "GGUF F16": lambda: gguf("f16", "GGUF F16"),
        "GGUF Q8_0": lambda: gguf("q8_0", "GGUF Q8_0"),
        "GGUF Q4_K_M": lambda: gguf("q4_k_m", "GGUF Q4_K_M"),
        "served Q4_K_M": lambda: gguf("q4_k_m", "served Q4_K_M", served=True),
    }


def nearest(half: Path, group_size: int):
    """Round every linear layer but the head of the merged model to nearest, in bfloat16."""
    import torch

    model, _ = models.load(half, dtype="bfloat16")
    with torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, torch.nn.Linear) and name != "lm_head":
                layer.weight.copy_(gptq.nearest(layer.weight, group_size=group_size).weight())
    return model


def ablation(line: dict[str, Any], model, against: ladder.Ruler, size: int) -> dict[str, Any]:
    """Add the measures of one quantised model to a line.

    An answer is right if each of its tokens is the likeliest one, given the true tokens before it.
    """
    import torch

    seen = ladder.read(model, against.examples)
    sums = [
        sum(ladder.divergence(p, None, q) for p, q in zip(*pair))
        for pair in zip(against.log_probabilities, seen)
    ]
    counts = [len(lines) for lines in seen]
    same = sum(
        int((p.argmax(-1) == q.argmax(-1)).sum()) for p, q in zip(against.log_probabilities, seen)
    )
    wanted = [
        torch.tensor([label for label in example["labels"] if label != chat.IGNORED])
        for example in against.examples
    ]
    right = sum(bool((q.argmax(-1) == ids).all()) for q, ids in zip(seen, wanted))
    low, high = ladder.bootstrap_mean(sums, counts)
    return line | {
        "bytes": size,
        "tokens": sum(counts),
        "kl": sum(sums) / sum(counts),
        "kl_low": low,
        "kl_high": high,
        "agreement": same / sum(counts),
        "n": len(counts),
        "right": right,
        **dict(zip(("low", "high"), evaluation.wilson(right, len(counts)))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, help="questions; default: all")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "ladder.json")
    args = parser.parse_args()
    _, tokenizer = models.load("chat", dtype="float32")
    adapter, texts = training.company_adapter(), variants.calibration(tokenizer)
    whole, half = (variants.merged("chat", adapter, dtype) for dtype in ("float32", "bfloat16"))
    parts = record.Parts("ladder", keep=not args.rows)
    first = variants.adapted("chat", adapter)
    against = ladder.ruler(first, tokenizer, tasks.load("knowledge", "test")[: args.rows])
    lines, missing = [], {}
    for name, measure in rungs(against, adapter, whole, half, texts).items():
        try:
            lines.append(parts.once(name, lambda: asdict(measure())))
        except Qwen3labError as error:
            if name != "AWQ 4-bit":
                raise
            missing[name] = str(error)
    print(
        ladder.table(lines)[["disk", "memory", "kl", "agreement", "accuracy", "speed"]].to_string(),
        *missing.values(),
        sep="\n",
        flush=True,
    )

    against = ladder.ruler(first, tokenizer, tasks.load("knowledge", "validation")[: args.rows])
    groups, sets = [], []
    for size in GROUPS:
        groups.append(
            parts.once(
                f"nearest, group {size}",
                lambda: ablation(
                    {"method": "nearest", "group": size}, nearest(half, size), against, 0
                ),
            )
        )

        def measure(texts: list[str], size: int, line: dict) -> dict:
            path = variants.gptq(half, texts, group_size=size)
            return ablation(
                line,
                load_4bits(path),
                against,
                qwen3lab_measure.folder_bytes(path, "*.safetensors"),
            )

        groups.append(
            parts.once(
                f"GPTQ, group {size}",
                lambda: measure(texts, size, {"method": "GPTQ", "group": size}),
            )
        )
    for kind, make in SETS.items():
        for count in COUNTS:
            for seed in range(args.draws):

                def fresh() -> dict:
                    given = make(tokenizer, count, seed)
                    length = sum(len(tokenizer(text).input_ids) for text in given)
                    return measure(
                        given,
                        variants.GROUP,
                        {"texts": kind, "count": count, "seed": seed, "calibration_tokens": length},
                    )

                sets.append(parts.once(f"{kind}, {count} texts, draw {seed}", fresh))
    record.write(
        args.out,
        {
            "adapter": cache.fingerprint(adapter / "adapter_model.safetensors"),
            "ladder": lines,
            "left out": missing,
            "AWQ made by": f"gptqmodel {variants.GPTQMODEL}",
            "groups": groups,
            "calibration": sets,
            "interval": (
                "95 %: kl by bootstrap over questions, shares by Wilson; agreement as if an"
                " answer's tokens were independent"
            ),
            "questions": {
                "ladder": "knowledge.test",
                "groups and calibration": (
                    "knowledge.validation, right: every token of the answer is the likeliest"
                ),
            },
            "speed": (
                f"answer tokens a second of {against.timed} prompts one at a time, reading"
                " included, one thread"
            ),
        },
        "ladder.py",
        ("torch", "transformers", "gptqmodel", "bitsandbytes", "xllamacpp"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
