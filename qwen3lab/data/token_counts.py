"""Count the tokens of many texts, each piece that recurs only once.

A tokenizer first splits a text into pieces (words, numbers, runs of Chinese characters), then each
piece into tokens, by itself. So a text has as many tokens as its pieces together, and the count of
a piece can be remembered. Only the splitting of Qwen's tokenizers is known here, and only for
characters on which all versions of Unicode agree; all other texts, and all texts of another
tokenizer, are encoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# How Qwen2 and Qwen3 split, as it stands in their tokenizer.json.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLIT = [
    {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
]
# Latin, Chinese and Japanese as they have been for long: all known characters, then their letters
# and numbers. NFC changes none of them, whatever stands beside it.
_KNOWN = (
    r"\t\n\r -~\xa0-\u017e\u2010-\u2027\u2030-\u205e\u3001-\u3029\u3041-\u3096\u309d-\u30ff"
    r"\u3400-\u4db5\u4e00-\u9fa5\uff01-\uff5e"
)
_LETTER = (
    r"A-Za-z\xaa\xb5\xba\xc0-\xd6\xd8-\xf6\xf8-\u017e\u3005-\u3006\u3041-\u3096\u309d-\u309f"
    r"\u30a1-\u30fa\u30fc-\u30ff\u3400-\u4db5\u4e00-\u9fa5\uff21-\uff3a\uff41-\uff5a"
)
_NUMBER = r"0-9\xb2-\xb3\xb9\xbc-\xbe\u3007\u3021-\u3029\uff10-\uff19"
_OTHER = re.compile(f"[^{_KNOWN}]")
# `PATTERN` for the known characters; Python's own expressions have no \p.
_PIECE = re.compile(
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n{_LETTER}{_NUMBER}]?[{_LETTER}]+|[{_NUMBER}]"
    rf"| ?[^\s{_LETTER}{_NUMBER}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MOST = 1 << 18  # pieces that are remembered; then all are forgotten


class _Alphabet(dict):
    """Characters as byte-level models write them: each of their bytes as a letter."""

    def __init__(self, letters: dict[int, str]) -> None:
        super().__init__()
        self.letters = letters

    def __missing__(self, character: str) -> str:
        self[character] = written = "".join(self.letters[byte] for byte in character.encode())
        return written


class _Pieces(dict):
    """Number of tokens by piece, counted when it is first asked for."""

    def __init__(self, model: Any) -> None:
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        super().__init__()
        self.tokenize = model.tokenize
        self.alphabet = _Alphabet(bytes_to_unicode())

    def __missing__(self, piece: str) -> int:
        if len(self) >= MOST:
            self.clear()
        written = map(self.alphabet.__getitem__, piece)
        self[piece] = count = len(self.tokenize("".join(written)))
        return count


def by_pieces(backend: Any) -> Callable[[str], int | None] | None:
    """Build a function that counts a text's tokens by its pieces, or returns None for the text.

    None if the tokenizer (of the library tokenizers) splits in another way than Qwen's.
    """
    from tokenizers.models import BPE

    if not isinstance(getattr(backend, "model", None), BPE) or backend.model.dropout:
        return None
    normalizer, split = map(_state, (backend.normalizer, backend.pre_tokenizer))
    if normalizer not in (None, {"type": "NFC"}) or not _is_qwens(split):
        return None
    added = [token.content for token in backend.get_added_tokens_decoder().values()]
    control = re.compile("|".join(map(re.escape, added)) or r"(?!)")
    pieces, known = _PIECE.findall, _Pieces(backend.model).__getitem__

    def count(text: str) -> int | None:
        if _OTHER.search(text) or control.search(text):
            return None
        return sum(map(known, pieces(text)))

    return count


def _state(part: Any) -> Any:
    return None if part is None else json.loads(part.__getstate__())


def _is_qwens(split: Any) -> bool:
    parts = (split or {}).get("pretokenizers", [])
    return len(parts) == len(_SPLIT) and all(
        wanted.items() <= given.items() for wanted, given in zip(_SPLIT, parts)
    )


def count_tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Count the tokens of each text, without special tokens, as the tokenizer encodes it."""
    count = by_pieces(getattr(tokenizer, "backend_tokenizer", None))
    found = [count(text) if count else None for text in texts]
    left = [place for place, number in enumerate(found) if number is None]
    if left:
        encoded = tokenizer([texts[place] for place in left], add_special_tokens=False).input_ids
        for place, ids in zip(left, encoded):
            found[place] = len(ids)
    return found
