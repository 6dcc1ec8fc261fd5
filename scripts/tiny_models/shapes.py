"""Shapes of the tiny models: multiples of 128 and 256, so that group-128 and K-quants work."""

from __future__ import annotations

VOCABULARY_ROWS = 4096


def _common(tokenizer) -> dict:
    return dict(
        vocab_size=VOCABULARY_ROWS,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        attention_bias=False,
        bos_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


def dense(tokenizer):
    """Build the `Qwen3Config` of `qwen3-tiny`: 3.4 M parameters."""
    from transformers import Qwen3Config

    return Qwen3Config(
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=512,
        **_common(tokenizer),
    )


def draft(tokenizer):
    """Build the `Qwen3Config` of `qwen3-tiny-draft`, the small draft model."""
    from transformers import Qwen3Config

    return Qwen3Config(
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=256,
        **_common(tokenizer),
    )


def moe(tokenizer):
    """Build the `Qwen3MoeConfig` of `qwen3-tiny-moe`: 16 experts of 128 per layer, 4 per token."""
    from transformers import Qwen3MoeConfig

    return Qwen3MoeConfig(
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=512,
        moe_intermediate_size=128,
        num_experts=16,
        num_experts_per_tok=4,
        norm_topk_prob=True,
        router_aux_loss_coef=0.01,
        output_router_logits=False,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        **_common(tokenizer),
    )
