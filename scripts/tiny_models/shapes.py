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


def vision(tokenizer, text):
    """Build the `Qwen3VLConfig` of `qwen3-tiny-vl`: the chat model, and an encoder of 64 x 4.

    `text` is the chat model's config. A picture of 64 x 64 pixels is 8 x 8 patches, 16 tokens.
    """
    from transformers import Qwen3VLConfig

    ids = tokenizer.convert_tokens_to_ids
    fields = {
        name: value
        for name, value in text.to_dict().items()
        if name
        in (
            "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads"
            " num_key_value_heads head_dim rms_norm_eps max_position_embeddings pad_token_id"
            " bos_token_id eos_token_id"
        ).split()
    }
    # 12 of the 32 pairs of a head turn by time, 10 by row, 10 by column, as 24, 20, 20 of 64.
    rotary = text.rope_parameters | {"mrope_section": [12, 10, 10], "mrope_interleaved": True}
    return Qwen3VLConfig(
        text_config=fields | {"rope_parameters": rotary},
        vision_config=dict(
            depth=4,
            hidden_size=64,
            num_heads=4,
            intermediate_size=128,
            patch_size=8,
            out_hidden_size=text.hidden_size,
            num_position_embeddings=64,
            deepstack_visual_indexes=[1, 2],
        ),
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
        dtype="float32",
    )
