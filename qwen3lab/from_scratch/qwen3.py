"""Qwen3 from scratch in plain PyTorch, dense and mixture of experts, short enough for one sitting.

First the five ideas as functions, then the modules that hold their weights under the official
names, then loading and generation. The logits equal those of transformers' `Qwen3ForCausalLM` and
`Qwen3MoeForCausalLM`; `parity` shows it.

Shapes in the comments: B texts, T tokens read now, S tokens known so far (S = T without a cache), H
hidden, d head_dim, E experts, k experts per token. Qwen3 Technical Report (arXiv 2505.09388),
section 2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from qwen3lab import family
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Config:
    """Model configuration: a shape and the three settings that a shape leaves open."""

    shape: family.Shape
    theta: float = 1_000_000.0  # RoPE base: the larger, the slower the slowest pair rotates
    eps: float = 1e-6
    renormalise: bool = True  # divide the k chosen weights by their sum (`norm_topk_prob`)

    def __post_init__(self) -> None:
        s = self.shape
        if s.heads % s.kv_heads or s.head_dim % 2:
            raise Qwen3labError(
                f"{s.heads} query heads cannot share {s.kv_heads} key-value heads of size"
                f" {s.head_dim}. Take a multiple of the key-value heads, and an even size of a"
                " head."
            )
        if s.is_moe and not 1 <= s.top_k <= s.experts:
            raise Qwen3labError(
                f"A router cannot pick {s.top_k} of {s.experts} experts. Choose a top-k from 1 to"
                f" {s.experts}."
            )


# The ideas, as functions of tensors.


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """Apply RMSNorm: scale the last axis of `x` to root mean square 1, then by `weight`.

    arXiv 1910.07467, equation 4.
    """
    wide = x.float()  # squares in 16 bits would lose digits
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rope(
    start: int, length: int, head_dim: int, theta: float, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the RoPE cosines and sines [T, d] for positions `start` to `start + length - 1`.

    Pair i of a head rotates by theta^(-2i/d) per position: the first pair by one radian, the last
    by almost nothing. RoFormer (arXiv 2104.09864), equation 15.
    """
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, device=device).float() / head_dim)
    angles = torch.arange(start, start + length, device=device).float()[:, None] * frequencies
    # Dimensions i and i + d/2 of a head form a pair.
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair of dimensions (i, i + d/2) of heads `x` [B, heads, T, d] by its angle."""
    first, second = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], dim=-1) * sin.to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute causal grouped-query attention (arXiv 2305.13245), [B, heads, T, d].

    q is [B, heads, T, d], k and v are [B, kv_heads, S, d]. Each key-value head serves heads /
    kv_heads query heads. The T queries are the last T of S positions.
    """
    group, (T, S) = q.shape[1] // k.shape[1], (q.shape[2], k.shape[2])
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    # Position t sees itself and everything before it.
    visible = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    return (
        scores.masked_fill(~visible, float("-inf")).softmax(-1, dtype=torch.float32).to(v.dtype) @ v
    )


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Compute the SwiGLU feed-forward network: `down (silu(gate x) * up x)`.

    arXiv 2002.05202, equation 6.
    """
    return linear(silu(linear(x, gate)) * linear(x, up), down)


def route(x: Tensor, matrix: Tensor, k: int, renormalise: bool = True) -> tuple[Tensor, Tensor]:
    """Route N tokens `x` [N, H] to k experts: their weights [N, k] and indices [N, k].

    `matrix` [E, H] has one row per expert. Softmax over all experts, the k largest, divided by
    their sum (if `renormalise`): equals transformers' `Qwen3MoeTopKRouter`.
    """
    shares = linear(x, matrix).float().softmax(-1)
    weights, experts = shares.topk(k, dim=-1)
    if renormalise:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights.to(x.dtype), experts


# The modules. The names of their weights are those of the released checkpoints.


class RMSNorm(nn.Module):
    """RMSNorm with a weight [size]."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention with QK-norm, RoPE and an optional KV cache."""

    def __init__(self, config: Config):
        super().__init__()
        s = config.shape
        self.head_dim = s.head_dim
        self.q_proj = nn.Linear(s.hidden, s.heads * s.head_dim, bias=False)
        self.k_proj = nn.Linear(s.hidden, s.kv_heads * s.head_dim, bias=False)
        self.v_proj = nn.Linear(s.hidden, s.kv_heads * s.head_dim, bias=False)
        self.o_proj = nn.Linear(s.heads * s.head_dim, s.hidden, bias=False)
        self.q_norm, self.k_norm = RMSNorm(s.head_dim, config.eps), RMSNorm(s.head_dim, config.eps)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None, layer: int
    ) -> Tensor:
        def heads(flat: Tensor) -> Tensor:  # [B, T, heads * d] -> [B, heads, T, d]
            return flat.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        q = rotate(self.q_norm(heads(self.q_proj(x))), cos, sin)  # QK-norm first, then RoPE
        k = rotate(self.k_norm(heads(self.k_proj(x))), cos, sin)
        v = heads(self.v_proj(x))
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        return self.o_proj(attend(q, k, v).transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """SwiGLU feed-forward layer."""

    def __init__(self, hidden: int, width: int):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return swiglu(x, self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)


class Router(nn.Module):
    """Top-k router of a mixture of experts."""

    def __init__(self, config: Config):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.shape.experts, config.shape.hidden))
        self.k, self.renormalise = config.shape.top_k, config.renormalise

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return route(x, self.weight, self.k, self.renormalise)


class MixtureOfExperts(nn.Module):
    """Mixture of experts: SwiGLU layers, of which the router chooses k per token."""

    def __init__(self, config: Config):
        super().__init__()
        s = config.shape
        self.gate = Router(config)
        self.experts = nn.ModuleList(SwiGLU(s.hidden, s.moe_ffn) for _ in range(s.experts))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        weights, chosen = self.gate(tokens)
        out = torch.zeros_like(tokens)
        # Each expert reads all tokens that chose it at once.
        for number in chosen.unique().tolist():
            token, choice = (chosen == number).nonzero(as_tuple=True)
            out.index_add_(
                0, token, weights[token, choice, None] * self.experts[number](tokens[token])
            )
        return out.view_as(x)


class Block(nn.Module):
    """Decoder layer: attention, then feed-forward, each behind a norm and beside a residual."""

    def __init__(self, config: Config):
        super().__init__()
        s = config.shape
        self.input_layernorm, self.post_attention_layernorm = (
            RMSNorm(s.hidden, config.eps),
            RMSNorm(s.hidden, config.eps),
        )
        self.self_attn = Attention(config)
        self.mlp = MixtureOfExperts(config) if s.is_moe else SwiGLU(s.hidden, s.ffn)

    def forward(self, x: Tensor, *attention: Any) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), *attention)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Decoder: embedding, layers and the last norm."""

    def __init__(self, config: Config):
        super().__init__()
        s, self.config = config.shape, config
        self.embed_tokens = nn.Embedding(s.vocab, s.hidden)
        self.layers = nn.ModuleList(Block(config) for _ in range(s.layers))
        self.norm = RMSNorm(s.hidden, config.eps)

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        start = 0 if cache is None else len(cache)
        cos, sin = rope(
            start, ids.shape[1], self.config.shape.head_dim, self.config.theta, ids.device
        )
        x = self.embed_tokens(ids)
        for number, block in enumerate(self.layers):
            x = block(x, cos, sin, cache, number)
        return self.norm(x)


class Qwen3(nn.Module):
    """Qwen3 causal language model, dense or mixture of experts.

    `Qwen3(Config(family.shape("0.6B")))` has random weights; `load_checkpoint` reads trained ones.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config, self.model = config, Decoder(config)
        # A tied model uses the embedding table as its output head; its checkpoint holds only the
        # table.
        self.lm_head = (
            None
            if config.shape.tied
            else nn.Linear(config.shape.hidden, config.shape.vocab, bias=False)
        )

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Compute the next-token logits [B, T, vocabulary] for `ids` [B, T].

        `cache` holds the keys and values of earlier tokens and takes up those of `ids`.

        Raises:
            Qwen3labError: ids outside the vocabulary.
        """
        if ids.numel() and not 0 <= ids.min() <= ids.max() < self.config.shape.vocab:
            raise Qwen3labError(
                f"A token id is outside of the vocabulary of {self.config.shape.vocab}. Encode the"
                " text with this model's own tokenizer."
            )
        table = self.model.embed_tokens if self.lm_head is None else self.lm_head
        return linear(self.model(ids, cache), table.weight)


# The cache, generation and loading.


class Cache:
    """KV cache: keys and values of all tokens read so far, [B, kv_heads, S, d] each per layer."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return self.layers[0][0].shape[2] if self.layers else 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append the keys and values of new tokens to a layer's; return all of them."""
        if layer in self.layers:
            k, v = (torch.cat([old, new], dim=2) for old, new in zip(self.layers[layer], (k, v)))
        self.layers[layer] = k, v
        return k, v


@torch.inference_mode()
def generate(
    model: Qwen3,
    ids: Sequence[int],
    max_new_tokens: int = 64,
    ends: Sequence[int] = (),
    use_cache: bool = True,
) -> list[int]:
    """Continue one text greedily; return the new ids, without the end token.

    With a cache each step reads one token, without it all of them again: the same ids, at a higher
    cost.

    Args:
        ends: token ids that end the text.
    Raises:
        Qwen3labError: an empty text.
    """
    if not len(ids):
        raise Qwen3labError("There is no token to continue from. Give at least one token id.")
    written: list[int] = []
    cache, unread = (Cache() if use_cache else None), list(ids)
    while len(written) < max_new_tokens:
        token = int(model(torch.tensor([unread]), cache)[0, -1].argmax())
        if token in ends:
            break
        written.append(token)
        unread = [token] if use_cache else [*unread, token]
    return written


def read_config(config: PretrainedConfig | Mapping[str, Any]) -> Config:
    """Read a transformers config, or the contents of a config.json of any release.

    Raises:
        Qwen3labError: something that this file does not build: scaled RoPE, sliding windows,
            biases, another activation, layers without experts.
    """
    fields = dict(config) if isinstance(config, Mapping) else config.to_dict()
    rotary = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    theta = rotary.get("rope_theta", fields.get("rope_theta"))
    if fields.get("model_type") not in ("qwen3", "qwen3_moe") or theta is None:
        raise Qwen3labError(
            f"This config is of type {fields.get('model_type')!r} with rope_theta {theta}. Give the"
            " config of a Qwen3 of 2025, with its rope_theta."
        )
    others = {
        "a scaled RoPE": rotary.get("rope_type", rotary.get("type", "default")) != "default",
        "sliding windows": fields.get("use_sliding_window"),
        "attention biases": fields.get("attention_bias"),
        "an activation other than SiLU": fields.get("hidden_act", "silu") != "silu",
        "layers without experts": (
            fields.get("mlp_only_layers") or fields.get("decoder_sparse_step", 1) != 1
        ),
    }
    found = [name for name, there in others.items() if there]
    if found:
        raise Qwen3labError(
            f"This config asks for {' and '.join(found)}, which no released Qwen3 uses and this"
            " code does not build. Use qwen3lab.models.load."
        )
    return Config(
        family.shape(fields),
        float(theta),
        fields.get("rms_norm_eps", 1e-6),
        bool(fields.get("norm_topk_prob", False)),
    )


def load_weights(model: Qwen3, weights: Mapping[str, Tensor]) -> Qwen3:
    """Load weights into a model by the names that `save_pretrained` writes; return the model.

    transformers 5 keeps all experts of a layer in two arrays, `gate_up_proj` [E, 2 * width, H] and
    `down_proj` [E, H, width]; the `state_dict()` of such a model is accepted too.

    Raises:
        Qwen3labError: missing and unknown names, wrong shapes, and a head that differs from the
            table to which it is tied.
    """
    given: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        prefix, fused, part = name.partition(".mlp.experts.")
        if fused and part in ("gate_up_proj", "down_proj"):
            for number, matrix in enumerate(tensor):
                halves = (
                    zip(("gate_proj", "up_proj"), matrix.chunk(2))
                    if part == "gate_up_proj"
                    else [(part, matrix)]
                )
                given |= {
                    f"{prefix}.mlp.experts.{number}.{half}.weight": rows for half, rows in halves
                }
        else:
            given[name] = tensor
    if model.lm_head is None and "lm_head.weight" in given and "model.embed_tokens.weight" in given:
        if not torch.equal(given.pop("lm_head.weight"), given["model.embed_tokens.weight"]):
            raise Qwen3labError(
                "The config ties the head to the embedding table, but the weights hold two"
                " different ones. Set tie_word_embeddings to false."
            )
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    advice = "Use the config that the weights were saved with."
    if missing := sorted(wanted.keys() - given.keys()):
        raise Qwen3labError(
            f"The weights lack {len(missing)} of the tensors of this model, for example"
            f" {missing[0]}. {advice}"
        )
    if unknown := sorted(given.keys() - wanted.keys()):
        raise Qwen3labError(
            f"This model has no place for {len(unknown)} of the weights, for example {unknown[0]}."
            f" {advice}"
        )
    for name, size in wanted.items():
        if tuple(given[name].shape) != size:
            raise Qwen3labError(
                f"{name} has the shape {list(given[name].shape)}, but the config asks for"
                f" {list(size)}. {advice}"
            )
    # A model on "meta" has shapes and no memory yet.
    model.load_state_dict(given, assign=next(model.parameters()).is_meta)
    return model


def load_checkpoint(folder: str | Path, dtype: torch.dtype = torch.float32) -> Qwen3:
    """Load a checkpoint folder with config.json and safetensors, in eval mode.

    `models.folder` finds that of a role or name.

    Raises:
        Qwen3labError: no such folder, or anything that `read_config` and `load_weights` refuse.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        raise Qwen3labError(
            f"{str(folder)!r} is no folder with config.json and safetensors. Give the folder that"
            " save_pretrained wrote; models.folder() finds that of a bundled model."
        )
    config = read_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    weights = {name: tensor.to(dtype) for file in files for name, tensor in load_file(file).items()}
    with torch.device("meta"):
        model = Qwen3(config)
    return load_weights(model, weights).eval()


# The parity check against transformers.


def shrunk(name: str) -> PretrainedConfig:
    """Build a small transformers config in the proportions of one of the eight models.

    Two layers; hidden size and FFN a 32nd, heads a quarter, head_dim an eighth: it runs in
    milliseconds. What tells the models apart stays: tied or not, query heads per key-value head,
    head_dim other than hidden / heads, 128 experts with 8 chosen, theta.
    """
    s = family.shape(name)
    changes = {
        "hidden_size": s.hidden // 32,
        "num_hidden_layers": 2,
        "num_attention_heads": s.heads // 4,
        "num_key_value_heads": s.kv_heads // 4,
        "head_dim": s.head_dim // 8,
        "intermediate_size": s.ffn // 32,
        "vocab_size": 512,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if s.is_moe:
        changes["moe_intermediate_size"] = s.moe_ffn // 32
    return family.config(s, **changes)


def random_weights(config: PretrainedConfig, seed: int = 0) -> nn.Module:
    """Build a transformers model with random float32 weights, norm weights included.

    transformers initialises norms to one, which would hide errors in them.
    """
    from transformers import AutoModelForCausalLM

    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # A spread that keeps the layers' outputs in balance.
            mean, spread = (1.0, 0.3) if "norm" in name else (0.0, weight.shape[-1] ** -0.5)
            weight.normal_(mean, spread, generator=generator)
    return model.eval()


@torch.inference_mode()
def parity(
    names: Sequence[str] | None = None,
    checkpoints: Sequence[Path] = (),
    tokens: int = 32,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare our logits with transformers' on the same weights, in float32.

    Both read two random texts of `tokens` tokens. transformers has several implementations of
    attention and of experts. "eager" does the arithmetic in our order; the default one (sdpa,
    grouped_mm) adds in another order, so it differs by rounding, from "eager" as from us.

    Args:
        names: official names, shrunk by `shrunk` and with random weights; default all eight.
        checkpoints: folders, with the weights that they hold.
    Returns:
        One row per name: parameters, query heads per key-value head, tied, experts, largest logit,
            and the largest absolute difference of three pairs: ours and eager, eager and the
            default, ours read piece by piece through a cache and ours read at once.
    """
    import pandas as pd
    from transformers import AutoModelForCausalLM

    rows = {}
    for name in [*(family.FAMILY if names is None else names), *checkpoints]:
        if isinstance(name, Path):
            theirs, ours = (
                AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval(),
                load_checkpoint(name),
            )
            name = name.name
        else:
            theirs = random_weights(shrunk(name), seed)
            ours = load_weights(Qwen3(read_config(theirs.config)), theirs.state_dict())
        s, cache, half = ours.config.shape, Cache(), tokens // 2
        ids = torch.randint(s.vocab, (2, tokens), generator=torch.Generator().manual_seed(seed))
        logits, default = ours(ids), theirs(input_ids=ids).logits
        theirs.set_attn_implementation("eager")
        if s.is_moe:
            theirs.set_experts_implementation("eager")
        eager = theirs(input_ids=ids).logits
        cached = torch.cat(
            [ours(part, cache) for part in (ids[:, :half], *ids[:, half:].split(3, dim=1))], dim=1
        )
        rows[name] = {
            "parameters": sum(p.numel() for p in ours.parameters()),
            "q a kv head": s.heads // s.kv_heads,
            "tied": s.tied,
            "experts": s.experts,
            "largest logit": eager.abs().max().item(),
            "difference": (logits - eager).abs().max().item(),
            "their two ways": (eager - default).abs().max().item(),
            "with a cache": (cached - logits).abs().max().item(),
        }
    return pd.DataFrame.from_dict(rows, orient="index")
