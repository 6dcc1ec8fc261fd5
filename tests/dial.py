"""Checkpoints to turn the dial on: Qwen3's shapes and vocabulary, few layers, random weights.

`python tests/dial.py PROFILE FOLDER` writes those of a profile, for a trial by hand:
`QWEN3LAB_MODELS=FOLDER QWEN3LAB_SMOKE=1 qwen3lab run 03 --profile PROFILE`.
"""

from __future__ import annotations

import base64
import copy
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import chat_templates
import torch

from qwen3lab import family, profiles

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The ids of Qwen3's control tokens follow its 151,643 ranks, in this order.
CONTROL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|>"
    " <|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|>"
    " <|image_pad|> <|video_pad|>"
).split()
# The template and the model use these as words: `skip_special_tokens` keeps them.
WORDS = (
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|>"
    " <|repo_name|> <|file_sep|> <tool_response> </tool_response> <think> </think>"
).split()
RANKS = 4_064  # the first ranks of a byte-level BPE are themselves one
ALL_RANKS = 151_643
# (hidden width, width of the FFN, further ranks). No two models of a profile have the same width,
# and none that of the bundled ones. The chat models share a vocabulary with their draft, which
# guesses their tokens; the others have others. As with the released models, rows have whole blocks
# of 64 weights, and matrices of the FFN whole blocks of 64 * 256.
SHAPES = {
    "Qwen3-0.6B": (64, 256, 1_500),
    "Qwen3-0.6B-Base": (192, 256, 0),
    "Qwen3-8B": (320, 256, 1_500),
    "Qwen3-8B-Base": (192, 256, 500),
    "Qwen3-30B-A3B": (384, 128, 1_500),
    "Qwen3-30B-A3B-Base": (192, 256, 500),
    "Qwen3-Embedding-0.6B": (72, 144, 1_000),
}
# Each template meets each notebook: as the chat model's, or as the small dense one's.
TEMPLATES = {
    "small": {"Qwen3-0.6B": "april 2025"},
    "medium": {},
    "large": {"Qwen3-30B-A3B": "qwen3_instruct_2507", "Qwen3-0.6B": "thinking 2507"},
    "small, whole vocabulary": {"Qwen3-0.6B": "thinking 2507"},
}


@lru_cache
def ranks() -> list[bytes]:
    """Read Qwen3's ranked tokens from the package dashscope, which is not imported."""
    package = Path(importlib.util.find_spec("dashscope").origin).parent
    lines = (package / "resources" / "qwen.tiktoken").read_bytes().splitlines()
    return [base64.b64decode(line.split()[0]) for line in lines if line]


def merges(tokens: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Derive the merges of a BPE from its ranks: each token is split by the lower ranks alone."""
    rank = {token: place for place, token in enumerate(tokens)}
    found = []
    for limit, token in enumerate(tokens):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            joined = [rank.get(a + b, limit) for a, b in zip(parts, parts[1:])]
            best = min(joined)
            if best >= limit:
                break
            at = joined.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            found.append((parts[0], parts[1]))
    return found


@lru_cache
def tokenizer(count: int = RANKS) -> PreTrainedTokenizerBase:
    """Build the tokenizer of the first `count` ranks and the 26 control tokens."""
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = bytes_to_unicode()
    spelled = lambda token: "".join(letters[byte] for byte in token)
    chosen = ranks()[:count]
    made = Qwen2Tokenizer(
        vocab={spelled(token): place for place, token in enumerate(chosen)},
        merges=[(spelled(a), spelled(b)) for a, b in merges(chosen)],
        # Another end token would be added before the rest and take the first of their ids.
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token=None,
    )
    made.add_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL])
    made.add_tokens([AddedToken(token, normalized=False, special=False) for token in WORDS])
    made.eos_token = "<|im_end|>"
    return made


def checkpoint(
    folder: Path, template: str | None = None, count: int = RANKS, rows: int = 0, layers: int = 2
) -> Path:
    """Save a model of the family with random weights and its tokenizer into `folder`.

    Args:
        folder: its name is the model's, without the owner, for example Qwen3-8B.
        template: the chat template's text; a model without one gets none.
        count: ranks of the vocabulary; some models get more.
        rows: of the embedding table; default: those that the tokenizer needs, and some unused ones.
    """
    from tokenizers import processors
    from transformers import AutoModel, AutoModelForCausalLM, GenerationConfig

    name = folder.name
    hidden, ffn, more = SHAPES[name]
    own = copy.deepcopy(tokenizer(min(count + more, ALL_RANKS)))
    embedding = "Embedding" in name
    shape = name.removeprefix("Qwen3-").removeprefix("Embedding-").removesuffix("-Base")
    ids = {token: own.convert_tokens_to_ids(token) for token in CONTROL[:3]}
    base = name.endswith("-Base")
    end = ids["<|endoftext|>" if base or embedding else "<|im_end|>"]
    changes: dict = {
        "vocab_size": rows or len(own) + 22,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": ffn,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": end,
    }
    if family.FAMILY[shape].is_moe:
        changes |= {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    torch.manual_seed(0)
    config = family.config(shape, base=base, **changes)
    model = (AutoModel if embedding else AutoModelForCausalLM).from_config(config)
    if not embedding:
        # As released: sampling is the default, and two tokens end an answer.
        with torch.no_grad():  # so that some answers end, as real ones do
            model.get_output_embeddings().weight[end] *= 2
        model.generation_config = GenerationConfig(
            bos_token_id=ids["<|endoftext|>"],
            eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]],
            pad_token_id=ids["<|endoftext|>"],
            do_sample=True,
            temperature=0.6,
            top_k=20,
            top_p=0.95,
        )
    model.save_pretrained(folder)
    own.eos_token = "<|endoftext|>" if base else "<|im_end|>"
    own.chat_template = template
    if embedding:  # its vector is the state at the token that closes every text
        close = processors.TemplateProcessing(
            single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", end)]
        )
        own.backend_tokenizer.post_processor = processors.Sequence(
            [processors.ByteLevel(trim_offsets=False), close]
        )
    own.save_pretrained(folder)
    if embedding:
        _as_sentence_transformer(folder, hidden)
    return folder


def _as_sentence_transformer(folder: Path, hidden: int) -> None:
    """Write what sentence-transformers reads beside the weights, as the released model has it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    modules = [Transformer(str(folder)), Pooling(hidden, "lasttoken"), Normalize()]
    query = "Instruct: Given a web search query, retrieve relevant passages that answer the query"
    SentenceTransformer(
        modules=modules, prompts={"query": f"{query}\nQuery:", "document": ""}
    ).save(str(folder))


def make(
    profile: str, folder: Path, templates: Mapping[str, str] | None = None, count: int = RANKS
) -> Path:
    """Save every model that a profile names into `folder`, unless the course bundles it.

    `templates`: names of `chat_templates.templates`, by the model's name; today's for all others.
    Base and embedding models
    have none.
    """
    chosen = profiles.get(profile)
    for model in sorted(chosen.models):
        if "/" in model:
            made = folder / model
            plain = made.name.endswith("-Base") or "Embedding" in made.name
            name = "base" if plain else (templates or {}).get(made.name)
            text = chat_templates.templates()[name or "qwen3"]
            checkpoint(made, text, count, rows=151_936 if count == ALL_RANKS else 0)
    return folder


if __name__ == "__main__":
    print(make(sys.argv[1], Path(sys.argv[2]), TEMPLATES[sys.argv[1]]))
