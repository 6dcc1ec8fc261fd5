"""Open 4-bit checkpoints of GPTQ and AWQ with plain torch, without the library that wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from qwen3lab import paths, profiles
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import beside, loading
from qwen3lab.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class PackedLinear(nn.Module):
    """A linear layer whose weights stay packed, several codes in each int32, and are unpacked at
    every use: weight = (code - zero point of its group) * scale of its group.
    """

    PARTS = ("qweight", "qzeros", "scales", "g_idx", "bias")

    def __init__(self, bits: int, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.bits = bits
        for name in self.PARTS:
            self.register_buffer(name, tensors.get(name))
        self.in_features, self.out_features = self.shape()

    def shape(self) -> tuple[int, int]:
        """(inputs, outputs)."""
        raise NotImplementedError

    def codes(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Codes [inputs, outputs], zero points [groups, outputs], and the group of each input."""
        raise NotImplementedError

    def dequantize_weight(self) -> torch.Tensor:
        """The weights as numbers [inputs, outputs], in the type of the scales."""
        codes, zeros, group = self.codes()
        return (codes - zeros[group]) * self.scales[group]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Multiply by the unpacked weights."""
        out = inputs @ self.dequantize_weight().to(inputs.dtype)
        return out if self.bias is None else out + self.bias

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """Codes of int32 words, lowest bits first, in a new last dimension."""
        shifts = torch.arange(0, 32, self.bits, device=packed.device, dtype=torch.int32)
        return (packed[..., None] >> shifts) & (2**self.bits - 1)


class GptqLinear(PackedLinear):
    """GPTQ's layout: a word holds the codes of successive inputs; `g_idx` names each input's group;
    the first version of the format (`offset` 1) stores each zero point less one.
    """

    offset = 1

    def shape(self) -> tuple[int, int]:
        """(inputs, outputs)."""
        return len(self.g_idx), self.qweight.shape[1]

    def codes(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Codes, zero points and groups."""
        codes = self.unpack(self.qweight).transpose(1, 2).flatten(0, 1)
        zeros = (self.unpack(self.qzeros).flatten(1) + self.offset) & (2**self.bits - 1)
        return codes, zeros, self.g_idx.long()


class AwqLinear(PackedLinear):
    """AWQ's layout "gemm": a word holds eight outputs, the even ones first."""

    ORDER = [0, 4, 1, 5, 2, 6, 3, 7]  # where output 0, 1, 2 ... of the eight lies in its word

    def shape(self) -> tuple[int, int]:
        """(inputs, outputs)."""
        return len(self.qweight), self.scales.shape[1]

    def codes(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Codes, zero points and groups."""
        codes, zeros = (
            self.unpack(packed)[..., self.ORDER].flatten(1)
            for packed in (self.qweight, self.qzeros)
        )
        rows = torch.arange(len(codes), device=codes.device)
        return codes, zeros, rows // (len(codes) // len(zeros))


class GptqLinear2(GptqLinear):
    """The second version of GPTQ's layout, with zero points as they are."""

    offset = 0


LAYOUTS = {"gptq": GptqLinear, "gptq_v2": GptqLinear2, "gemm": AwqLinear}


def load_gptq(
    path: str | Path, *, dtype: str | None = None, device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a GPTQ or AWQ checkpoint: (model in eval mode, tokenizer). The weights stay packed in
    memory and are unpacked by plain torch layer by layer, which is slow, and the same everywhere.

    A checkpoint whose config names a bundled model under "rest" holds the linear layers and norms
    alone, and takes the embedding table and the tokenizer from that model.

    Args:
        path: folder that `quantization.gptq` or `make gptq` wrote.
        dtype: of all that is not packed, and of the multiplications; default: the profile's.
        device: default: the profile's.
    Raises:
        Qwen3labError: no such checkpoint, a layout that is not known here, or a damaged file.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    quiet()
    profile, path = profiles.get(), Path(path)
    method, bits = _layout(path)
    loading.check_folder(path)
    config = loading.call_loader(AutoConfig.from_pretrained, str(path))
    config.__dict__.pop("quantization_config", None)
    rest = paths.MODELS / config.rest if hasattr(config, "rest") else path
    kind, device = getattr(torch, dtype or profile.dtype), device or profile.device
    weights = _weights(path)
    if rest != path:
        name = "model.embed_tokens.weight"
        weights[name] = _weights(rest)[name].bfloat16()  # as all unpacked weights of such a file
    weights = {
        name: tensor.to(kind) if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=kind)
    for name in [name.removesuffix(".qweight") for name in weights if name.endswith(".qweight")]:
        parts = [key for key in weights if key.rpartition(".")[0] == name]
        layer = LAYOUTS[method](bits, {key.rpartition(".")[2]: weights.pop(key) for key in parts})
        _put(model, name, layer, path)
    packed = {key for key in model.state_dict() if key.rpartition(".")[2] in PackedLinear.PARTS}
    absent, unknown = model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    settings = beside.generation(path)
    if settings is not None:
        model.generation_config = settings
    wrong = [*unknown, *sorted(set(absent) - packed - set(model.all_tied_weights_keys))]
    if wrong:
        raise Qwen3labError(
            f"The weights of {path.name!r} do not fit its config ({wrong[0]}). Make the checkpoint"
            " again with `make gptq`."
        )
    model = model.to(device).eval()
    loading.set_threads(model.num_parameters(), device)
    return model, loading.load_tokenizer(path, rest)


def _layout(path: Path) -> tuple[str, int]:
    """(layout, bits) of a checkpoint, refused where nothing here unpacks it."""
    try:
        told = json.loads((path / "quantize_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Qwen3labError(
            f"{path.name!r} holds no GPTQ model (no quantize_config.json). Write it with"
            " qwen3lab.quantization.gptq()."
        ) from None
    layout, bits = told.get("checkpoint_format") or told.get("format"), told.get("bits")
    if layout not in LAYOUTS or bits not in (2, 4, 8) or (layout == "gemm" and bits != 4):
        raise Qwen3labError(
            f"{path.name!r} is packed as {layout!r} with {bits} bits, which is not unpacked here."
            " Open it with the library that wrote it."
        )
    return layout, bits


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def _put(model: nn.Module, name: str, layer: PackedLinear, path: Path) -> None:
    """Put a packed layer in place of the linear layer of that name and shape."""
    try:
        old = model.get_submodule(name)
    except AttributeError:
        raise Qwen3labError(
            f"{path.name!r} has a packed layer {name!r}, which its model has not; experts are"
            " packed one by one. Open it with the library that wrote it."
        ) from None
    if (layer.in_features, layer.out_features) != (old.in_features, old.out_features):
        raise Qwen3labError(
            f"The packed layer {name!r} of {path.name!r} has another shape than its model. Make"
            " the checkpoint again with `make gptq`."
        )
    model.set_submodule(name, layer)
