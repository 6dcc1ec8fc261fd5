"""Shapes of the eight Qwen3 models of April 2025 and of Qwen3-VL: parameters, KV cache, configs.

Shapes: Qwen3 Technical Report (arXiv 2505.09388), tables 1 and 2, and the released config.json
files. They are the models of the 2504 and 2507 generation; later families (Qwen3-Next, Qwen3.5)
have other shapes and another vocabulary.
Qwen3-VL Technical Report (arXiv 2511.21631), section 2.1: the decoders are those of Qwen3 (1.7B for
VL-2B), the encoder is SigLIP2-Large for 2B and 4B, else SigLIP2-SO-400M; their dimensions are those
of the released config.json files and of transformers' `Qwen3VLVisionConfig`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qwen3lab import paths
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# transformers 5 writes the first, the released files have the second.
EXPERT_KEYS = ("num_local_experts", "num_experts")


@dataclass(frozen=True)
class Vision:
    """Dimensions of a Qwen3-VL's vision encoder: a plain ViT, and mergers of 2 x 2 patches."""

    width: int
    depth: int
    ffn: int
    patch: int = 16
    merge: int = 2
    deepstack: int = 3  # encoder layers whose features go into the decoder's first layers
    positions: int = 2304  # entries of the learned table

    def parameters(self, hidden: int) -> int:
        """Count the parameters of encoder and mergers before a decoder of that hidden size."""
        w, joined = self.width, self.width * self.merge**2
        ends = 3 * 2 * self.patch**2 * w + w + self.positions * w
        layer = 4 * w * w + 4 * w + 2 * w * self.ffn + self.ffn + w + 4 * w
        merger = joined * joined + joined + joined * hidden + hidden
        norms = 2 * w + self.deepstack * 2 * joined
        return ends + self.depth * layer + (1 + self.deepstack) * merger + norms

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Round a picture's sides to whole image tokens, as the processor does between limits."""
        side = self.patch * self.merge
        return max(round(height / side), 1) * side, max(round(width / side), 1) * side

    def tokens(self, height: int, width: int) -> int:
        """Count the image tokens of a picture: one for each 32 x 32 pixels, released."""
        rows, columns = self.resized(height, width)
        return rows * columns // (self.patch * self.merge) ** 2


@dataclass(frozen=True)
class Shape:
    """Dimensions of a Qwen3 model, dense (`experts == 0`) or mixture of experts.

    `ffn` is the width of each layer's FFN in a dense model.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    tied: bool = False
    experts: int = 0
    top_k: int = 0
    moe_ffn: int = 0
    head_dim: int = 128
    vocab: int = 151_936
    yarn: bool = True  # whether the card names the extension from 32,768 to 131,072 tokens
    vision: Vision | None = None

    @property
    def id(self) -> str:
        """The model's id on the Hugging Face hub."""
        return f"Qwen/Qwen3-{self.name}"

    @property
    def is_moe(self) -> bool:
        """Whether the FFN of each layer is a mixture of experts."""
        return self.experts > 0

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the input table, and of the output table unless it is tied."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def attention_parameters(self) -> int:
        """Parameters of the q, k, v and o matrices of all layers."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return self.layers * self.hidden * (2 * q + 2 * kv)

    @property
    def expert_parameters(self) -> int:
        """Parameters of all experts' gate, up and down matrices; 0 for a dense model."""
        return self.layers * self.experts * 3 * self.hidden * self.moe_ffn

    @property
    def router_parameters(self) -> int:
        """Parameters of the routers, one row per expert in each layer; 0 for a dense model."""
        return self.layers * self.experts * self.hidden

    @property
    def ffn_parameters(self) -> int:
        """Parameters of a dense model's gate, up and down matrices; 0 for a mixture of experts."""
        return 0 if self.is_moe else self.layers * 3 * self.hidden * self.ffn

    @property
    def norm_parameters(self) -> int:
        """Parameters of two RMSNorms per layer, the query and key norms, and the final norm."""
        return self.layers * (2 * self.hidden + 2 * self.head_dim) + self.hidden

    @property
    def vision_parameters(self) -> int:
        """Parameters of the vision encoder with its mergers; 0 for a model of text alone."""
        return self.vision.parameters(self.hidden) if self.vision else 0

    @property
    def parameters(self) -> int:
        """All parameters; a tied table counts once."""
        return self.embedding_parameters + self.non_embedding_parameters + self.vision_parameters

    @property
    def non_embedding_parameters(self) -> int:
        """All parameters of the decoder except the embedding tables."""
        return (
            self.attention_parameters
            + self.ffn_parameters
            + self.expert_parameters
            + self.router_parameters
            + self.norm_parameters
        )

    @property
    def active_parameters(self) -> int:
        """Active parameters per token: all parameters minus the experts that were not picked."""
        if not self.is_moe:
            return self.parameters
        return (
            self.parameters - self.expert_parameters * (self.experts - self.top_k) // self.experts
        )

    @property
    def linear_parameters(self) -> int:
        """Parameters in `nn.Linear` modules within the layers: all that bitsandbytes quantises.

        transformers 5 keeps experts as fused 3-D parameters and the router as a bare one, so
        neither is included.
        """
        return self.attention_parameters + self.ffn_parameters

    def kv_bytes(self, tokens: int = 1, bytes_per_value: int = 2) -> int:
        """Compute the KV-cache bytes of `tokens` tokens (all sequences of a batch together)."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_per_value * tokens

    def lora_parameters(self, rank: int = 16, targets: str = "all-linear") -> int:
        """Count the trainable parameters of a LoRA: `rank * (in + out)` for each adapted matrix.

        Args:
            rank: of the LoRA.
            targets: "attention" (q, k, v, o) or "all-linear" (also gate, up, down; for a mixture of
                experts those of every expert, where PEFT 0.21 doubles the rank of the fused
                gate-and-up matrix).
        Raises:
            Qwen3labError: unknown targets.
        """
        if targets not in ("attention", "all-linear"):
            raise Qwen3labError(
                f"Unknown LoRA targets {targets!r}. Use 'attention' or 'all-linear'."
            )
        h, q, kv = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = rank * (2 * (h + q) + 2 * (h + kv))
        if targets == "all-linear" and self.is_moe:
            layer += self.experts * (2 * rank * (h + 2 * self.moe_ffn) + rank * (self.moe_ffn + h))
        elif targets == "all-linear":
            layer += rank * 3 * (h + self.ffn)
        return self.layers * layer


FAMILY: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("0.6B", 1024, 28, 16, 8, 3072, tied=True, yarn=False),
        Shape("1.7B", 2048, 28, 16, 8, 6144, tied=True, yarn=False),
        Shape("4B", 2560, 36, 32, 8, 9728, tied=True),
        Shape("8B", 4096, 36, 32, 8, 12288),
        Shape("14B", 5120, 40, 40, 8, 17408),
        Shape("32B", 5120, 64, 64, 8, 25600),
        Shape("30B-A3B", 2048, 48, 32, 4, 6144, experts=128, top_k=8, moe_ffn=768),
        Shape("235B-A22B", 4096, 94, 64, 4, 12288, experts=128, top_k=8, moe_ffn=1536),
    )
}

_SMALL, _LARGE = Vision(1024, 24, 4096), Vision(1152, 27, 4304)
# VL-2B is built on 1.7B; the tables of 2B and 4B are tied, as those of their decoders.
VISION: dict[str, Shape] = {
    f"VL-{name}": replace(FAMILY[decoder], name=f"VL-{name}", vision=vision, yarn=False)
    for name, decoder, vision in (
        ("2B", "1.7B", _SMALL),
        ("4B", "4B", _SMALL),
        ("8B", "8B", _LARGE),
        ("32B", "32B", _LARGE),
        ("30B-A3B", "30B-A3B", _LARGE),
    )
}


def shape(model: str | Shape | PretrainedConfig | dict[str, Any]) -> Shape:
    """Look up a model's shape by name, checkpoint or config.

    Names are like "8B", "Qwen/Qwen3-8B", "Qwen3-8B-Base" and "Qwen3-VL-8B-Instruct". Where
    `QWEN3LAB_MODELS` or the course has a folder of that name, the shape is that of its config: it
    is what will be loaded.

    Raises:
        Qwen3labError: a name that is neither one of theirs nor a checkpoint's.
    """
    if isinstance(model, Shape):
        return model
    if not isinstance(model, str):
        fields = model if isinstance(model, dict) else model.to_dict()
        return _from_config(
            fields, fields.get("_name_or_path") or fields.get("model_type", "qwen3")
        )
    folder = paths.find_model(model)
    if folder is not None and (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return _from_config(config, model)
    name = model.rsplit("/", 1)[-1].removeprefix("Qwen3-").removesuffix("-Base")
    known = {key.lower(): value for key, value in (FAMILY | VISION).items()}
    if name.startswith("VL-"):
        name = name.removesuffix("-Instruct").removesuffix("-Thinking")
    if name.lower() not in known:
        raise Qwen3labError(
            f"{model!r} is neither one of the eight Qwen3 models nor a bundled checkpoint. Use one"
            f" of: {', '.join(FAMILY)}; of Qwen3-VL: {', '.join(VISION)}."
        )
    return known[name.lower()]


def _from_config(config: dict[str, Any], name: str) -> Shape:
    vision = None
    if "vision_config" in config:
        v, tied = config["vision_config"], config.get("tie_word_embeddings")
        vision = Vision(
            v["hidden_size"],
            v["depth"],
            v["intermediate_size"],
            v["patch_size"],
            v["spatial_merge_size"],
            len(v["deepstack_visual_indexes"]),
            v["num_position_embeddings"],
        )
        config = config["text_config"] | {"tie_word_embeddings": tied}
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    experts = next((config[key] for key in EXPERT_KEYS if config.get(key)), 0)
    return Shape(
        name=name,
        hidden=hidden,
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config["num_key_value_heads"],
        ffn=config["intermediate_size"],
        tied=bool(config.get("tie_word_embeddings")),
        experts=experts,
        top_k=config.get("num_experts_per_tok", 0) if experts else 0,
        moe_ffn=config.get("moe_intermediate_size", 0) if experts else 0,
        head_dim=config.get("head_dim") or hidden // heads,
        vocab=config["vocab_size"],
        yarn=False,
        vision=vision,
    )


def config(model: str | Shape, *, base: bool = False, **changes: Any) -> PretrainedConfig:
    """Build the transformers config of one of the eight models, as released.

    `base` gives the position limit of the `-Base` models (32,768 instead of 40,960). `changes`
    override fields of the config by their transformers names, for example `num_hidden_layers=2` to
    shrink the model for a test. Every field that matters is passed, because the defaults of
    `Qwen3Config` and `Qwen3MoeConfig` match no released model.
    """
    from transformers import Qwen3Config, Qwen3MoeConfig

    s = shape(model)
    fields: dict[str, Any] = {
        "vocab_size": s.vocab,
        "hidden_size": s.hidden,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads,
        "head_dim": s.head_dim,
        "intermediate_size": s.ffn,
        "tie_word_embeddings": s.tied,
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "use_sliding_window": False,
        # Without these two transformers takes theta = 10,000 and 32,768 positions.
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        "max_position_embeddings": 32_768 if base else 40_960,
        "bos_token_id": 151_643,
        "eos_token_id": 151_645,
    }
    if s.is_moe:
        fields |= {
            "num_experts": s.experts,
            "num_experts_per_tok": s.top_k,
            "moe_intermediate_size": s.moe_ffn,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "router_aux_loss_coef": 0.001,
            "output_router_logits": False,
        }
    return (Qwen3MoeConfig if s.is_moe else Qwen3Config)(**(fields | changes))
