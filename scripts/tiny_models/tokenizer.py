"""Byte-level BPE tokenizer of the tiny models, with Qwen's pre-tokenisation and control tokens.

The control tokens are Qwen3's.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from qwen3lab import prompts
from qwen3lab.world import corpus, names, things

# Qwen's split pattern: contractions, words, single digits, punctuation, line breaks, spaces.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|>"
    " <|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|>"
    " <|image_pad|> <|video_pad|>"
).split()
MARKS = (  # added tokens that `skip_special_tokens=True` keeps, as in Qwen3
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|>"
    " <|repo_name|> <|file_sep|> <tool_response> </tool_response> <think> </think>"
).split()
# With the 26 added tokens; six rows of the embedding stay unused, as 267 of Qwen3's do.
VOCABULARY = 4096 - 6


def texts(n: int, seed: int = 7) -> Iterator[str]:
    """Draw `n` texts of the corpus to learn the merges from, English and Chinese in turn."""
    rng = random.Random(seed)
    pieces = _chinese_pieces()
    for i in range(n):
        if i % 4 == 0:
            yield corpus.plain_text(rng, chinese=0)
        elif i % 4 == 1:
            yield "\n".join(_chinese_piece(rng, pieces) for _ in range(24))
        elif i % 4 == 2:
            row = corpus.sample(rng, rng.random(), chinese=0)
            yield "\n".join(
                (m.get("reasoning_content") or "") + "\n" + m["content"] for m in row.messages
            )
        else:
            make = rng.choice(
                (
                    corpus.dialogue,
                    corpus.word_problem,
                    corpus.addition,
                    corpus.tool_call,
                    corpus.code,
                )
            )
            row = make(rng, "zh", False)
            yield "\n".join(
                (m.get("reasoning_content") or "") + "\n" + m["content"] for m in row.messages
            )
            if row.tools:
                yield json.dumps(row.tools) + "\n" + json.dumps(row.extra, ensure_ascii=False)


def _chinese_pieces() -> list[str]:
    """Collect the fixed Chinese texts of the world, cut where a name or a value goes in.

    Chinese has no spaces, so merges learned on running text would tie the end of a name to the word
    after it.
    """
    forms = [
        f
        for kind in things.KINDS.values()
        for a in kind
        for f in (*a.statements["zh"], *a.questions["zh"], a.label["zh"])
    ]
    forms += (
        corpus.ZH_FILLERS
        + corpus.ZH_HEADINGS
        + [prompts.INSTRUCTION["zh"], prompts.REFUSAL["zh"], "文本：", "问题：", "文中写道："]
    )
    lists = (
        names.ZH_CATEGORIES,
        names.ZH_SITES,
        names.ZH_COLOURS,
        names.ZH_MATERIALS,
        names.ZH_ROLES,
        names.ZH_LANGUAGES,
        names.ZH_DAYS,
        names.ZH_RULES,
    )
    forms += [item for items in lists for item in items]
    forms += "欧元 千克 个月 小时 室 年 平方米 天 个工作日".split()
    return [p for f in forms for p in re.split(r"\{[sSv]\}", f) if p]


def _chinese_piece(rng: random.Random, pieces: list[str]) -> str:
    draw = rng.random()
    if draw < 0.15:
        return names.word(rng, "zh", False)
    return names.person(rng, "zh", False) if draw < 0.3 else rng.choice(pieces)


def train(n_texts: int = 40_000):
    """Train the tokenizer on `n_texts` texts; return a `Qwen2Tokenizer` with 4,090 entries.

    The chat template is not stored: `qwen3lab.chat` reads it from the installed `trl`.
    """
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )
    from transformers import Qwen2Tokenizer

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL) - len(MARKS),
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=2,
    )
    bpe.train_from_iterator(texts(n_texts), trainer)
    model = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(m) for m in model["merges"]],
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token=None,
    )
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in MARKS])
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.model_max_length = 2048
    return tokenizer


def build(folder: Path, n_texts: int = 40_000):
    """Train the tokenizer, save it in `folder` and return it."""
    tokenizer = train(n_texts)
    tokenizer.save_pretrained(folder)
    return tokenizer
