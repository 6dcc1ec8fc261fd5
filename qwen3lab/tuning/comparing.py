"""Compare a tuned model with its merged and GGUF forms: answers, weights, chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab.models import loading
from qwen3lab.serving import ladder, llama_cpp

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def compare(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    form: Path,
    examples: Sequence[dict[str, list[int]]],
) -> tuple[float, float, int]:
    """Compare a form of a model with the model itself on given answers, by teacher forcing.

    Args:
        form: a checkpoint folder, or a GGUF file, which llama.cpp reads.
        examples: input_ids and labels, see `chat.example`.
    Returns:
        The share of answer tokens with the same likeliest token, the mean KL divergence in nats a
        token (of a GGUF file over its likeliest tokens and one more for the rest), and their
        number.
    """
    import torch

    first = ladder.read(model, examples)
    if form.is_dir():
        other, _ = loading.load(form, dtype="float32")
        seen: list[list[Any]] = [[(None, q) for q in q_s] for q_s in ladder.read(other, examples)]
    else:
        with llama_cpp.LlamaServer(form, tokenizer) as server:
            found = ladder.read_llama(server, examples)
        seen = [[(ids, torch.tensor(values)) for ids, values in line] for line in found]
    same, total, n = 0, 0.0, 0
    for lines, probabilities in zip(seen, first):
        for p, (ids, q) in zip(probabilities, lines, strict=True):
            top = int(q.argmax())
            same += int(p.argmax()) == (top if ids is None else ids[top])
            total += ladder.divergence(p, ids, q)
            n += 1
    return same / n, total / n, n


def merge_distance(model: Any, merged: Path) -> tuple[float, bool]:
    """Measure how far merged weights are from base plus adapter, rounded to the stored dtype.

    Returns:
        The largest distance of a matrix, |merged - (base + update)| / |update| (Frobenius), and
        whether base weights rounded to NF4 explain it better: a merge into a 4-bit model.
    """
    import torch
    from peft.tuners.lora import LoraLayer
    from safetensors.torch import load_file

    from qwen3lab.from_scratch import nf4

    weights: dict[str, torch.Tensor] = {}
    for file in sorted(merged.glob("*.safetensors")):
        weights |= load_file(file)
    worst, in_4bit = 0.0, False
    for name, module in model.named_modules():
        key = f"{name.removeprefix('base_model.model.')}.weight"
        if not isinstance(module, LoraLayer) or key not in weights or not module.lora_A:
            continue
        base = module.get_base_layer().weight.detach().float()
        update = module.get_delta_weight(module.active_adapters[0]).detach().float()
        stored = weights[key].float()
        wanted = (base + update).to(weights[key].dtype).float()
        size = update.norm().item()
        distance = (stored - wanted).norm().item()
        if size and distance / size > worst:
            worst = distance / size
            if base.numel() % 64 == 0:
                rounded = nf4.dequantize(*nf4.quantize(base), tuple(base.shape))
                in_4bit = (stored - rounded - update).norm().item() < 0.5 * distance
    return worst, in_4bit


def gguf_template(path: Path) -> str | dict[str, str] | None:
    """Read the chat template that a GGUF file carries, as a tokenizer has it.

    Where there are further ones by name ("tool_use") it is a dict, with the first as "default";
    None if the file has none.
    """
    import gguf

    llama_cpp.check(path)
    reader = gguf.GGUFReader(path)
    key = "tokenizer.chat_template"
    names = reader.get_field("tokenizer.chat_templates")
    found = {"default": reader.get_field(key)} | {
        name: reader.get_field(f"{key}.{name}") for name in (names.contents() if names else ())
    }
    texts = {name: field.contents() for name, field in found.items() if field}
    return texts if names else texts.get("default")
