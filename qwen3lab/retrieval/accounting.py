"""Account for every character of a PDF: in a chunk, or dropped for a reason.

The rule: characters read + characters added = characters in chunks + characters dropped, sign by
sign and not only in number; white space does not count. What the sum leaves over is `lost`, and
has to be empty: a character that neither a chunk nor a reason has is a fault of this package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from qwen3lab.data.pdf_layout import layout
from qwen3lab.data.pdf_marks import Page, whole
from qwen3lab.retrieval.chunking import Chunk

OVERLAP = "repeated by the overlap of chunks"


@dataclass(frozen=True)
class Account:
    """What became of the characters of a document; white space is left out.

    `read` counts each character on the pages, `in_chunks` those of the pages that are in chunks.
    `dropped` and `added` do so by reason: what is in no chunk, and what the chunks have beside the
    pages' own characters. `lost` counts characters that have neither a chunk nor a reason, and
    `invented` those of chunks that come from nowhere.
    """

    pages: int
    read: Counter[str]
    in_chunks: Counter[str]
    dropped: dict[str, Counter[str]]
    added: dict[str, Counter[str]]
    lost: Counter[str]
    invented: Counter[str]

    def __str__(self) -> str:
        """Print a short table: characters by what became of them."""
        total = max(1, self.read.total())
        lines = [
            ("read", self.read),
            ("in chunks", self.in_chunks),
            *((f"dropped: {reason}", count) for reason, count in self.dropped.items()),
            *([("lost without a reason", self.lost)] if self.lost else []),
        ]
        beside = [
            *((f"added: {reason}", count) for reason, count in self.added.items()),
            *([("in chunks, and on no page", self.invented)] if self.invented else []),
        ]
        return "\n".join(
            [
                f"{self.pages} pages, characters other than white space",
                *(f"{n.total():9,}  {n.total() / total:6.1%}  {what}" for what, n in lines),
                *(f"{n.total():9,}          {what}" for what, n in beside),
            ]
        )


def account(pages: Sequence[Page], chunks: Sequence[Chunk]) -> Account:
    """Add up what became of the characters of `pages` on the way into `chunks` (all of them).

    Print the result for a table. With an overlap, what chunks repeat counts as added, so that a
    character which another chunk has twice may hide a lost one; without, nothing hides.
    """
    letters = lambda text: Counter("".join(whole(text).split()))
    read: Counter[str] = Counter()
    for page in pages:
        read += letters(page.read or page.text)
    parts, changes = layout(list(pages))
    dropped: dict[str, Counter[str]] = {}
    added: dict[str, Counter[str]] = {}
    for change in (*(change for page in pages for change in page.changes), *changes):
        for counts, text in ((dropped, change.dropped), (added, change.added)):
            if text:
                counts[change.reason] = counts.get(change.reason, Counter()) + letters(text)
    held, laid = Counter[str](), Counter[str]()
    for chunk in chunks:
        held += letters(chunk.text)
    for part in parts:
        for text, _ in part.paragraphs:
            laid += letters(text)
    if repeated := held - laid:
        added[OVERLAP] = repeated
    gone, come = (sum(counts.values(), Counter()) for counts in (dropped, added))
    here, there = read + come, held + gone
    lost, invented = here - there, there - here
    return Account(len(pages), read, held - come - invented, dropped, added, lost, invented)
