"""Check what a quantisation is asked for, before minutes are spent and before its library is there.

The rule: a value that the method does not take is refused with a sentence that names it, and so is
a calibration text that would measure nothing. Nothing that lies in the folder to be written is ever
deleted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab.errors import Qwen3labError
from qwen3lab.models import beside, loading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


BITS = {"GPTQ": (2, 3, 4, 8), "AWQ": (4,)}
WORD = 32  # bits of the words into which codes are packed


def source(folder: Path) -> dict[str, Any]:
    """Check that a folder holds a whole model in 16 or 32 bits; returns its config.

    Raises:
        Qwen3labError: no model, an adapter, damaged weights, or a model that is quantised already.
    """
    if beside.is_adapter(folder):
        raise Qwen3labError(
            f"{folder.name!r} is a LoRA adapter, not a whole model. Merge it first"
            " (qwen3lab.quantization.merge), and quantise what that writes."
        )
    loading.check_folder(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("quantization_config") or (folder / "quantize_config.json").is_file():
        raise Qwen3labError(
            f"{folder.name!r} is quantised already. Take the 16-bit checkpoint that it was made"
            " from."
        )
    return config


def target(folder: Path, *read: Path) -> None:
    """Check that a folder to be written is new or empty, and none that is read.

    Raises:
        Qwen3labError: something lies there.
    """
    for place in read:
        if folder.resolve() in (place.resolve(), *place.resolve().parents):
            raise Qwen3labError(
                f"{folder.name!r} is to be written, and the model is read from there. Name another"
                " folder for the result."
            )
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        kind = "a folder that is not empty" if folder.is_dir() else "a file"
        raise Qwen3labError(
            f"{folder.name!r} is {kind}, and it would be overwritten. Name a new folder for the"
            " result, or delete this one."
        )


def groups(config: dict[str, Any], name: str, method: str, bits: Any, group_size: Any) -> None:
    """Check bits and group size against a method and the widths of a model's linear layers.

    Raises:
        Qwen3labError: bits that the method has not, no whole number, or a width that groups or
            words do not divide.
    """
    if type(bits) is not int or bits not in BITS[method]:
        known = ", ".join(map(str, BITS[method]))
        raise Qwen3labError(f"{method} has no {bits!r} bits. Use one of: {known}.")
    if type(group_size) is not int or group_size < -1 or group_size == 0:
        raise Qwen3labError(
            f"{group_size!r} is no group size. Give a whole number of weights that share a scale,"
            " such as 128 or 32, or -1 for a whole row."
        )
    together = WORD if bits == 3 else WORD // bits
    for field, size in widths(config).items():
        # Scales are shared along a layer's inputs, which keys and values are not.
        if group_size > 0 and size % group_size and not field.startswith("num_key_value"):
            raise Qwen3labError(
                f"The {field} of {name!r} is {size}, which does not divide by the group size"
                f" {group_size}. Choose a smaller group, such as 32."
            )
        if size % together:
            raise Qwen3labError(
                f"The {field} of {name!r} is {size}, and {bits}-bit codes are packed {together} at"
                f" a time. {method} with {bits} bits cannot store this model; take to_gguf()."
            )


def widths(config: dict[str, Any]) -> dict[str, int]:
    """List the sizes of a Qwen3 model's linear layers, by the config's fields that make them."""
    found = {
        name: config[name]
        for name in ("hidden_size", "intermediate_size", "moe_intermediate_size")
        if config.get(name)
    }
    head = config.get("head_dim")
    for name in ("num_attention_heads", "num_key_value_heads"):
        if head and config.get(name):
            found[f"{name} * head_dim"] = config[name] * head
    return found


def texts(given: Any, tokenizer: PreTrainedTokenizerBase, method: str, longest: int) -> list[str]:
    """Check calibration texts; returns them as a list.

    Args:
        given: any iterable of texts, a generator too.
        longest: tokens of the model's context.
    Raises:
        Qwen3labError: no texts, one text instead of many, something that is no text, or texts that
            are empty, of control tokens alone, or longer than the context.
    """
    if isinstance(given, (str, bytes)):
        raise Qwen3labError(
            f"{method} was given one text where it takes a list of them. Write [text], or better,"
            " some dozens of texts."
        )
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise Qwen3labError(
            f"{method} takes a list of texts to measure the layers' errors on, not"
            f" {type(given).__name__}. Give some dozens of texts like those the model will see."
        )
    found = list(given)
    if not found:
        raise Qwen3labError(
            f"{method} needs texts to measure the layers' errors on. Give some dozens of rows like"
            " those the model will see."
        )
    control = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    for number, text in enumerate(found, start=1):
        where = f"Calibration text {number} of {len(found)}"
        if not isinstance(text, str):
            raise Qwen3labError(
                f"{where} is no text but {type(text).__name__}. Give texts as the model reads them:"
                " quantization.variants.calibration() makes them of rows."
            )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise Qwen3labError(
                f"{where} holds half of a character (a lone surrogate). Leave it out, or read its"
                " file again with the right encoding."
            ) from None
        rest = text
        for token in control:
            rest = rest.replace(token, "")
        if not rest.strip():
            kind = "consists of control tokens alone" if text.strip() else "is empty"
            raise Qwen3labError(f"{where} {kind}, so it measures nothing. Leave it out.")
        tokens = len(tokenizer(text, add_special_tokens=False).input_ids)
        if tokens > longest:
            raise Qwen3labError(
                f"{where} has {tokens} tokens, and the model's context is {longest}. Split it, or"
                " leave it out."
            )
    return found
