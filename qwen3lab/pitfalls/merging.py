"""Reproduce four silent failures in merging an adapter, each measured beside the right way.

Each comes with a number that shows it, the number of the right way, and the remedy.
"""

from __future__ import annotations

import copy
import json
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import cache, chat, family
from qwen3lab import measure as qwen3lab_measure
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import scoring
from qwen3lab.from_scratch import nf4
from qwen3lab.models import four_bit, loading
from qwen3lab.quantization import variants
from qwen3lab.quiet import quiet
from qwen3lab.serving import ladder
from qwen3lab.training import lora as training_lora

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


STAMP = "base.json"  # beside an adapter: the fingerprint of the base that it was trained on


@dataclass(frozen=True)
class Trap:
    """A merging mistake, measured: `broken` and `healthy` are values of `measure`."""

    name: str
    measure: str
    broken: float
    healthy: float
    remedy: str


def distance(
    model: PreTrainedModel, first: Sequence[torch.Tensor], examples: Sequence[dict[str, list[int]]]
) -> float:
    """Compute the mean KL divergence from `first` (of `ladder.read`) to a model, in nats per token.

    The mean is over the answer tokens of the examples.
    """
    sums = [
        ladder.divergence(p, None, q)
        for pair in zip(first, ladder.read(model, examples))
        for p, q in zip(*pair, strict=True)
    ]
    return sum(sums) / len(sums)


def answer_examples(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]]
) -> list[dict[str, list[int]]]:
    """Encode rows as input_ids and labels, the labels on the answer alone."""
    return [chat.example(tokenizer, tasks.conversation(row)) for row in rows]


def into_4bit(
    adapter: Path, rows: Sequence[dict[str, Any]], base: str | Path = "chat"
) -> list[Trap]:
    """Merge the adapter into the 4-bit base that it was trained on (QLoRA), which rounds twice.

    The base is rounded first and the sum again. The healthy way has the same number of bits in the
    other order: merge in 16 bits, then round once.
    """
    import torch

    quiet()
    examples = answer_examples(loading.load_tokenizer(base), rows)
    first = variants.adapted(base, adapter)
    wanted = ladder.read(first, examples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of the rounding errors measured here
        twice = training_lora.load_adapter(adapter, four_bit.load_4bit(base)[0])[
            0
        ].merge_and_unload()
    once, _ = four_bit.load_4bit(variants.merged(base, adapter, "bfloat16"))
    exact, remedy = (
        first.merge_and_unload(),
        "load the base in 16 or 32 bits, merge, and quantise the result once",
    )
    errors = [
        nf4.relative_error(*map(torch.cat, zip(*_pairs(model, exact)))) for model in (twice, once)
    ]
    return [
        Trap(
            "merged into 4 bits",
            "KL to the adapter, nats a token",
            distance(twice, wanted, examples),
            distance(once, wanted, examples),
            remedy,
        ),
        Trap("merged into 4 bits", "error of the weights, relative", *errors, remedy),
    ]


def _pairs(
    model: PreTrainedModel, exact: PreTrainedModel
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Collect each 4-bit layer's dequantised weight and the exact one, flattened."""
    import bitsandbytes

    return [
        (
            bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            .float()
            .flatten(),
            exact.get_submodule(name).weight.detach().float().flatten(),
        )
        for name, layer in model.named_modules()
        if isinstance(layer, bitsandbytes.nn.Linear4bit)
    ]


def untie(model: PreTrainedModel) -> PreTrainedModel:
    """Untie the output head in place, so that changes to the embeddings do not reach it.

    Returns the model.
    """
    import torch

    if model.config.tie_word_embeddings:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(
            model.get_input_embeddings().weight.detach().clone(), requires_grad=False
        )
    return model


def _embedding_adapter(model: PreTrainedModel, seed: int = 0, **change: Any) -> Any:
    """Add an adapter on the embeddings (or a whole new table) with small random weights.

    They stand for a short training.
    """
    import torch

    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        adapted = training_lora.add_lora(model, r=4, lora_alpha=4, **change).eval()
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if parameter.requires_grad and "embed_tokens" in name:
                    parameter.add_(torch.randn(parameter.shape) * 0.02)
    return adapted


def tied_head(rows: Sequence[dict[str, Any]], base: str | Path = "chat") -> list[Trap]:
    """Merge an adapter that changed the embeddings into a model whose output head is tied to them.

    LoRA on the embeddings leaves the head as it was, but once merged into the one table the update
    reaches the head as well. A table saved whole (modules_to_save) is no longer tied to the head:
    the merged file holds two tables, and the head has learned nothing. Raises Qwen3labError for a
    base with an untied head.
    """
    tokenizer = loading.load_tokenizer(base)
    if not loading.config(base).get("tie_word_embeddings"):
        raise Qwen3labError(
            f"The output head of {str(base)!r} is a table of its own, so this trap is not there."
            " Use a model with tied embeddings."
        )
    examples, kl, sizes = answer_examples(tokenizer, rows), {}, {}
    lora, whole = (
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    )
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")  # PEFT warns of this trap, which is measured here
        for untied in (False, True):
            model, _ = loading.load(base, dtype="float32")
            adapted = _embedding_adapter(untie(model) if untied else model, **lora)
            wanted = ladder.read(adapted, examples)
            kl[untied] = distance(adapted.merge_and_unload(), wanted, examples)
            adapted = _embedding_adapter(
                loading.load(base, dtype="float32")[0], ensure_weight_tying=untied, **whole
            )
            adapted.merge_and_unload().save_pretrained(Path(scratch) / str(untied))
            sizes[untied] = qwen3lab_measure.folder_bytes(
                Path(scratch) / str(untied), "*.safetensors"
            )
    return [
        Trap(
            "LoRA on tied embeddings",
            "KL to the adapter, nats a token",
            kl[False],
            kl[True],
            "untie the head before the adapter is put on and merged",
        ),
        Trap(
            "table saved whole, head untied",
            "bytes of the merged file",
            sizes[False],
            sizes[True],
            "train with ensure_weight_tying=True",
        ),
    ]


def every(adapter: Path, merged: Path, rows: Sequence[dict[str, Any]]) -> list[Trap]:
    """Measure all traps on the profile's chat model, its adapter and what the two were merged to.

    Prints why a trap is not there with these models, and leaves it out.

    Args:
        rows: questions; the traps with new tokens generate, and take four of them.
    """
    found = into_4bit(adapter, rows)
    for measure in (lambda: tied_head(rows), lambda: [wrong_base(adapter, rows)]):
        try:
            found += measure()
        except Qwen3labError as error:
            print(error)
    return found + special_tokens(merged, rows[:4])


def stamp(adapter: Path, base: str | Path) -> Path:
    """Write the SHA-256 of the base's weights and tokenizer into a file beside an adapter.

    It identifies the base that the adapter belongs to. Returns the file.
    """
    file = Path(adapter) / STAMP
    file.write_text(
        json.dumps({"base": cache.fingerprint(loading.folder(base))}, indent=1) + "\n",
        encoding="utf-8",
    )
    return file


def check_base(adapter: Path, base: str | Path) -> None:
    """Reject an adapter whose stamp names another base.

    Raises Qwen3labError: no stamp, or a stamp of other weights, such as another revision of the
    same model.
    """
    file = Path(adapter) / STAMP
    if not file.is_file():
        raise Qwen3labError(
            f"{Path(adapter).name!r} does not say which base it belongs to. "
            "Write it with merging.stamp() right after the training."
        )
    if json.loads(file.read_text(encoding="utf-8")).get("base") != cache.fingerprint(
        loading.folder(base)
    ):
        raise Qwen3labError(
            f"The adapter {Path(adapter).name!r} was trained on other weights than those of"
            f" {str(base)!r}. Load the revision that it was trained on, or train it anew."
        )


def wrong_base(
    adapter: Path,
    rows: Sequence[dict[str, Any]],
    base: str | Path = "chat",
    other: str | Path = "base",
) -> Trap:
    """Load the adapter onto another revision of its base: same shapes and names, other weights.

    No error is raised. Raises Qwen3labError for one of another size, where there is one.
    """
    sizes = [
        (shape.hidden, shape.layers, shape.vocab)
        for shape in (family.shape(loading.config(which)) for which in (base, other))
    ]
    if sizes[0] != sizes[1]:
        raise Qwen3labError(
            f"{str(other)!r} has another size than {str(base)!r}, so the adapter does not even load"
            " there: this trap needs two revisions of one model. Give `other` such a one."
        )
    examples = answer_examples(loading.load_tokenizer(base), rows)
    shares = [
        float(scoring.read_answers(variants.adapted(which, adapter), examples).right.mean())
        for which in (other, base)
    ]
    return Trap(
        "adapter on the wrong revision",
        "right answers, share",
        *shares,
        "keep the base's checksum beside the adapter and compare before the merge",
    )


def special_tokens(source: Path, rows: Sequence[dict[str, Any]], *, limit: int = 24) -> list[Trap]:
    """Teach a model a new end token, then lose it on the way to the file.

    The token gets the embedding of `<|im_end|>`, scaled by 1.1: with the tied head it is generated
    wherever that one was, as after training. What is lost is either the row of the embedding table
    (a plain LoRA adapter does not store it) or the entry in generation_config.json. The answers
    themselves stay right; they do not end.
    """
    model, tokenizer, new = taught(source)
    prompts = [chat.encode(tokenizer, row["messages"]) for row in rows]
    healthy = mean_length(model, prompts, limit)
    silent = copy.deepcopy(model.generation_config)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    unknown = mean_length(model, prompts, limit)
    model.generation_config = silent
    plain, _ = loading.load(source, dtype="float32")
    plain.resize_token_embeddings(max(len(tokenizer), plain.config.vocab_size), mean_resizing=False)
    model.get_input_embeddings().weight.data[new] = plain.get_input_embeddings().weight.data[new]
    lost = mean_length(model, prompts, limit)
    measure = f"tokens an answer, at most {limit}"
    return [
        Trap(
            "end token not in the generation config",
            measure,
            unknown,
            healthy,
            "set generation_config.eos_token_id to every end token and save it with the model",
        ),
        Trap(
            "embedding row of a new token lost",
            measure,
            lost,
            healthy,
            "train and save the row with the adapter (trainable_token_indices), and save the"
            " tokenizer",
        ),
    ]


def taught(
    source: Path, token: str = "<|done|>"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, int]:
    """Build a model that ends its answers with a new token: (model, tokenizer, the token's id)."""
    model, tokenizer = loading.load(source, dtype="float32")
    tokenizer.add_special_tokens({"additional_special_tokens": [token]})
    new, end = (tokenizer.convert_tokens_to_ids(name) for name in (token, "<|im_end|>"))
    model.resize_token_embeddings(max(len(tokenizer), model.config.vocab_size), mean_resizing=False)
    table = model.get_input_embeddings().weight.data
    table[new] = table[end] * 1.1
    model.generation_config.eos_token_id = new
    return model, tokenizer, new


def mean_length(model: PreTrainedModel, prompts: Sequence[list[int]], limit: int) -> float:
    """Compute the mean number of tokens that `generate` adds, including the end token.

    It uses the model's own generation config.
    """
    import torch

    model.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None)
    lengths = []
    with torch.inference_mode():
        for prompt in prompts:
            lengths.append(
                model.generate(torch.tensor([prompt]), max_new_tokens=limit).shape[1] - len(prompt)
            )
    return sum(lengths) / len(lengths)


def table(traps: Sequence[Trap]) -> pd.DataFrame:
    """Tabulate traps, one line per trap by name: measure, broken, healthy, remedy."""
    import pandas as pd

    return pd.DataFrame([asdict(trap) for trap in traps]).set_index("name")
