"""Benchmark one model at 8, 4, 3 and 2 bits on tasks that leave less room than facts by heart.

`python benchmarks/low_bits.py`. Two models: the bundled chat model, on sums and word problems with
thoughts and on short and long texts; and the same model with the company's adapter merged in, on
the company's test questions. Each is rounded to nearest and by our own GPTQ
(`qwen3lab/quantization/rounding.py`), and in the mixes of llama.cpp's K-quants, whose weights are
read back from the GGUF file. All arithmetic is in float32, so only the weights differ.

An answer counts as right if each token of the reference, thoughts included, is the likeliest one,
given the true tokens before it: then greedy decoding gives exactly this answer. KL is measured at
the same tokens against the model in float32. GPTQ is calibrated on training rows. Goes on where it
was stopped; writes `data/benchmarks/low_bits.json`.
"""

from __future__ import annotations

import argparse
import copy
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import record
import torch

from qwen3lab import cache, chat, models, paths, training
from qwen3lab.data import rows as data_rows
from qwen3lab.data import tasks
from qwen3lab.quantization import rounding, variants
from qwen3lab.serving import ladder
from qwen3lab.world import corpus

FORMS = tuple((bits, 128) for bits in (8, 4, 3, 2)) + ((3, 32), (2, 32))  # bits, group
KINDS = ("q8_0", "q4_k_m", "q3_k_m", "q2_k")
CALIBRATION, ROWS = 32, 120  # texts; questions a task of the chat model


def general(tokenizer: Any, count: int) -> list[list[int]]:
    """Draw calibration texts for the chat model: rows as in pre-training, in the chat format."""
    rng, found = random.Random(0), []
    while len(found) < count:
        row = corpus.sample(rng, 1.0)
        ids = chat.encode(
            tokenizer, row.messages, thinking=row.thinking, tools=row.tools, generation_prompt=False
        )
        if len(ids) <= 256:
            found.append(ids)
    return found


def exams(tokenizer: Any) -> dict[str, list[dict[str, Any]]]:
    """Collect the chat model's questions: name -> rows of data/tasks."""
    reading = sorted(
        tasks.load("context", "test"), key=lambda row: len(data_rows.ask(tokenizer, row))
    )
    return {
        "sums": tasks.load("addition", "test")[:ROWS],
        "word problems": tasks.load("word-problem", "test")[:ROWS],
        "short texts": reading[:ROWS],
        "long texts": reading[-ROWS:],
    }


def read(model: Any, examples: Sequence[dict[str, list[int]]]) -> list[torch.Tensor]:
    """Read log-probabilities at each answer token: [tokens, vocabulary] per example."""
    return ladder.read(model, examples, batch_size=16)


def compare(
    first: Sequence[torch.Tensor], other: Any, examples: Sequence[dict[str, list[int]]]
) -> dict[str, Any]:
    """Measure KL from `first` and right answers of `other`, question by question."""
    sums, right = [], []
    for p, q, example in zip(first, read(other, examples), examples, strict=True):
        wanted = torch.tensor([label for label in example["labels"] if label != chat.IGNORED])
        sums.append((p.exp() * (p - q)).sum().item())
        right.append(bool((q.argmax(-1) == wanted).all()))
    counts = [len(p) for p in first]
    low, high = ladder.bootstrap_mean(sums, counts)
    return {
        "tokens": sum(counts),
        "kl": sum(sums) / sum(counts),
        "kl_low": low,
        "kl_high": high,
        "right": record.digits(right),
    }


def from_gguf(model: Any, path: Path) -> Any:
    """Copy a model with the weights of its GGUF file, unpacked."""
    import gguf

    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    inside = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    copied, filled = copy.deepcopy(model), 0
    for tensor in gguf.GGUFReader(path).tensors:
        name = tensor.name.removesuffix(".weight")
        if name.startswith("blk."):
            _, number, kind = name.split(".")
            name = f"model.layers.{number}.{inside[kind]}"
        else:
            name = names[name]
        weight = copied.get_submodule(name).weight
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        with torch.no_grad():
            weight.copy_(torch.from_numpy(values.copy()).reshape(weight.shape))
        filled += 1
    wanted = len({id(parameter) for parameter in copied.parameters()})
    if filled != wanted:
        raise RuntimeError(f"{filled} of {wanted} tensors were in {path.name}")
    return copied


def forms(
    model: Any, folder: Path, calibration: list[list[int]]
) -> dict[str, Callable[[], tuple[dict[str, Any], Any]]]:
    """Define the forms of one model: name -> function that gives its description and the model."""
    made: dict[str, Callable[[], tuple[dict[str, Any], Any]]] = {
        "float32": lambda: (
            {"method": "float32", "bits": 32, "bytes": 4 * model.num_parameters()},
            model,
        )
    }

    def rounded(method: str, bits: int, group: int) -> tuple[dict[str, Any], Any]:
        texts = calibration if method == "GPTQ" else None
        line = {"method": method, "bits": bits, "group": group}
        line["bytes"] = rounding.stored_bytes(model, bits, group)
        return line, rounding.round_linears(
            copy.deepcopy(model), bits=bits, group_size=group, texts=texts
        )

    def packed(kind: str) -> tuple[dict[str, Any], Any]:
        path = variants.gguf(folder, kind)
        line = {"method": "GGUF", "kind": kind, "bits": int(kind[1]), "bytes": path.stat().st_size}
        return line, from_gguf(model, path)

    for bits, group in FORMS:
        for method in ("nearest", "GPTQ"):
            name = f"{method}, {bits} bits, groups of {group}"
            made[name] = lambda m=method, b=bits, g=group: rounded(m, b, g)
    for kind in KINDS:
        made[f"GGUF {kind}"] = lambda kind=kind: packed(kind)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, help="questions a task; default: all")
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "low_bits.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = record.Parts("low_bits", keep=not args.rows)
    plain, tokenizer = models.load("chat", dtype="float32")
    adapter = training.company_adapter()
    merged = variants.merged("chat", adapter, "float32")
    company, _ = models.load(merged, dtype="float32")
    texts = [tokenizer(text).input_ids for text in variants.calibration(tokenizer)]
    facts = {"company facts": tasks.load("knowledge", "test")}
    lines = []
    for first, folder, calibration, asked in (
        (plain, models.folder("chat"), general(tokenizer, CALIBRATION), exams(tokenizer)),
        (company, merged, texts, facts),
    ):
        examples = {
            name: [data_rows.encode(tokenizer, row) for row in rows[: args.rows]]
            for name, rows in asked.items()
        }
        wanted = {name: read(first, some) for name, some in examples.items()}
        which = "chat" if first is plain else "company"
        for name, make in forms(first, folder, calibration).items():

            def measure() -> list[dict[str, Any]]:
                line, other = make()
                return [
                    line
                    | {"form": name, "model": which, "task": task}
                    | compare(wanted[task], other, some)
                    for task, some in examples.items()
                ]

            lines += parts.once(f"{which}, {name}", measure)
    record.write(
        args.out,
        {
            "adapter": cache.fingerprint(adapter / "adapter_model.safetensors"),
            "lines": lines,
            "calibration": (
                f"{CALIBRATION} texts as in pre-training for the chat model, 64 of the training"
                " questions for the company's"
            ),
            "bytes": "GGUF: the file; else computed: codes, a 16-bit scale a group, others 16 bits",
        },
        "low_bits.py",
        ("torch", "transformers", "gguf", "xllamacpp"),
        args.note,
    )
    parts.drop()


if __name__ == "__main__":
    main()
