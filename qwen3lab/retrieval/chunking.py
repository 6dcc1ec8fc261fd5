"""Split a document into chunks that fit the model's context, each with its source."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qwen3lab.chat import plain_ids
from qwen3lab.data.pdf_layout import Chapter, chapters
from qwen3lab.data.pdf_marks import WIDE, Page, whole
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Piece = tuple[str, int | None, str]  # text, page, separator before it
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


@dataclass(frozen=True)
class Chunk:
    """A document chunk: id, text, first page, chapter, and the positions where a page begins.

    `page` is None in documents without pages, `chapter` is the path of headings, and `file` names
    the document where there is more than one.
    """

    id: int
    text: str
    page: int | None
    chapter: str
    turns: tuple[
        tuple[int, int], ...
    ] = ()  # (position in the text, page): the text from this position on is on that page
    file: str = ""

    def where(self, page: int | None = None) -> str:
        """Name the place for people: "manual.pdf, page 7", or "notes.md, Depots / Tonjax"."""
        page = page or self.page
        inside = f"page {page}" if page else self.chapter
        return ", ".join(part for part in (self.file, inside) if part)

    def page_at(self, position: int) -> int | None:
        """Return the page on which the paragraph at a position of the text begins."""
        return next((page for start, page in reversed(self.turns) if position >= start), self.page)

    def stands_on(self, page: int) -> bool:
        """Check whether any paragraph of the chunk begins on that page."""
        return page == self.page or any(page == turned for _, turned in self.turns)


def chunk(
    pages: list[Page] | list[Chapter],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int = 100,
    overlap: int = 0,
) -> list[Chunk]:
    """Split a document into chunks of at most `max_tokens` tokens, never across chapters.

    Whole paragraphs are packed as long as they fit. A longer paragraph is split at sentence ends, a
    longer sentence between tokens. With an `overlap`, each chunk begins with the last paragraphs or
    sentences of the previous one, as many as fit into `overlap` tokens. Raises Qwen3labError unless
    0 <= overlap < max_tokens.
    """
    if max_tokens < 1 or not 0 <= overlap < max_tokens:
        raise Qwen3labError(
            f"Chunks of {max_tokens} tokens with an overlap of {overlap} cannot be cut. Choose 0 <="
            " overlap < max_tokens."
        )
    count = lambda text: len(
        plain_ids(tokenizer, text)
    )  # as the model will read it: "<|im_end|>" on a page is ten characters, not one token
    found: list[Chunk] = []
    for part in pages if pages and isinstance(pages[0], Chapter) else chapters(pages):
        pieces = [
            (piece, page, glue)
            for text, page in part.paragraphs
            for piece, glue in _pieces(whole(text), tokenizer, max_tokens)
        ]
        held: list[Piece] = []
        for piece in pieces:
            if held and count(_glue([*held, piece])) > max_tokens:
                found.append(_chunk(len(found), held, whole(part.title)))
                held = _tail(held, overlap, count)
                while held and count(_glue([*held, piece])) > max_tokens:
                    held.pop(0)
            held.append(piece)
        if held:
            found.append(_chunk(len(found), held, whole(part.title)))
    return found


def _chunk(number: int, pieces: list[Piece], title: str) -> Chunk:
    turns = [
        (len(_glue(pieces[:i])) + len(pieces[i][2]), pieces[i][1])
        for i in range(1, len(pieces))
        if pieces[i][1] != pieces[i - 1][1]
    ]
    return Chunk(number, _glue(pieces), pieces[0][1], title, tuple(turns))


def _glue(pieces: list[Piece]) -> str:
    """Join pieces: one paragraph per line, sentences of a paragraph as in the original."""
    text = ""
    for piece, _, glue in pieces:
        text += (glue if text else "") + piece
    return text


def _tail(pieces: list[Piece], overlap: int, count) -> list[Piece]:
    kept: list[Piece] = []
    for piece in reversed(pieces):
        if count(_glue([piece, *kept])) > overlap:
            break
        kept.insert(0, piece)
    return kept


def _pieces(
    text: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> list[tuple[str, str]]:
    """Split a paragraph, if too long, into (piece, separator before it) pairs.

    It is split at sentence ends, and a sentence that is too long between tokens.
    """
    ids = lambda s: plain_ids(tokenizer, s)
    if len(ids(text)) <= max_tokens:
        return [(text, "\n")]
    pieces: list[tuple[str, str]] = []
    for sentence in SENTENCE_END.split(text):
        glue = "\n" if not pieces else "" if WIDE.match(pieces[-1][0][-1]) else " "
        while len(ids(sentence)) > max_tokens:
            cut = _longest_prefix(sentence, ids, max_tokens)
            pieces.append((sentence[:cut], glue))
            sentence, glue = sentence[cut:], ""
        if sentence:
            pieces.append((sentence, glue))
    return pieces


def _longest_prefix(text: str, ids, max_tokens: int) -> int:
    """Find the longest prefix, in characters, of at most `max_tokens` tokens by binary search.

    The result is at least 1.
    """
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(ids(text[:middle])) <= max_tokens else (low, middle - 1)
    return low
