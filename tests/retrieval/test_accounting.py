"""The sum over a PDF's characters comes out, whatever stands on its pages."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pdfs import text, write

from qwen3lab import models, paths, retrieval
from qwen3lab.data.pdf import Page, chapters, read_pdf
from qwen3lab.errors import Qwen3labError

letters = lambda text: Counter("".join(text.split()))


@lru_cache
def tokenizer():
    """A token for each character."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    core.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="?")


def chunked(path: Path, most: int = 120, overlap: int = 0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pages = read_pdf(path)
    chunks = retrieval.chunk(pages, tokenizer(), most, overlap)
    return pages, chunks, retrieval.account(pages, chunks)


def balances(account: retrieval.Account) -> None:
    assert account.lost == account.invented == Counter()
    assert account.read == account.in_chunks + sum(account.dropped.values(), Counter())


def test_the_handbook_comes_out_and_its_chunks_are_those_of_the_records():
    pages = read_pdf(paths.HANDBOOK)
    chunks = retrieval.chunk(pages, models.load_tokenizer(paths.MODELS / "qwen3-tiny"), 100)
    account = retrieval.account(pages, chunks)
    balances(account)
    assert str(account).split("\n") == [
        "29 pages, characters other than white space",
        "   33,039  100.0%  read",
        "   30,216   91.5%  in chunks",
        "      720    2.2%  dropped: running head or foot, on 28 pages",
        "       87    0.3%  dropped: names of a table's columns, written into its rows",
        "    1,717    5.2%  dropped: heading, in the title of its chunks",
        "      299    0.9%  dropped: contents, whose entries are titles",
        "      858          added: names of a table's columns, written into its rows",
    ]
    told = [(c.id, c.text, c.page, c.turns) for c in chunks]
    whole = json.dumps(told, ensure_ascii=False).encode()
    assert (len(chunks), hashlib.sha256(whole).hexdigest()) == (
        216,
        "a52a4bc7e8c922da0ad686c9b47f8858bdec74ca90814a8709e031045b20e5bf",
    )


def test_a_chunk_that_goes_missing_shows_and_so_does_one_from_elsewhere(tmp_path):
    pages, chunks, account = chunked(
        write(tmp_path / "a.pdf", [text(40, 500, "One. Two. Three.")]), 6
    )
    balances(account)
    short = retrieval.account(pages, chunks[1:])
    assert short.lost == letters(chunks[0].text) and short.invented == Counter()
    assert "4   28.6%  lost without a reason" in str(short)
    kept = Page(1, pages[0].lines[:0], pages[0].read)
    other = retrieval.account([kept], chunks)
    assert other.invented == Counter() and other.added == {
        "repeated by the overlap of chunks": letters("One.Two.Three.")
    }


def test_what_an_overlap_repeats_is_added(tmp_path):
    path = write(tmp_path / "a.pdf", [text(40, 500, "One. Two. Three. Four.")])
    _, chunks, account = chunked(path, 14, 6)
    balances(account)
    assert [chunk.text for chunk in chunks] == ["One. Two.", "Two. Three.", "Three. Four."]
    assert account.added == {"repeated by the overlap of chunks": letters("Two.Three.")}


# Pages of chance: every word of a text is another one, so that a lost one cannot hide.

KINDS = ["line", "line", "paragraph", "paragraph", "row", "columns", "mark", "number"]
SIZES = st.sampled_from([8, 11, 11, 11, 11.5, 13, 18, 24])
FRAMES = {0: (400, 600), 90: (600, 400), 180: (400, 600), 270: (600, 400)}


@st.composite
def books(draw):
    """Contents of pages and the words of their texts; what else is printed has no such words."""
    number = iter(range(10**6))
    word = lambda: f"{draw(st.sampled_from(['w', 'Word', 'x-', 'Z']))}{next(number)}q"
    words: list[str] = []
    head = draw(st.sampled_from(["", "", "Hollin store", "Invoice {}", "Page {} of 9", "{}"]))
    foot = draw(st.sampled_from(["", "", "{}", "- {} -", "Handbook, page {}", "Chapter {}", "第"]))
    foot = foot.replace("第", "p. {}")
    contents = []
    for page in range(1, draw(st.integers(1, 5)) + 1):
        turned = draw(st.sampled_from([0, 0, 0, 90, 180, 270]))
        place = {
            0: lambda x, y: (x, y),
            90: lambda x, y: (600 - y, x),
            180: lambda x, y: (400 - x, 600 - y),
            270: lambda x, y: (y, 400 - x),
        }[turned]
        rows: list[tuple[float, float, str, float]] = []
        y = 560.0
        for _ in range(draw(st.integers(0, 6))):
            kind = draw(st.sampled_from(KINDS))
            size = draw(SIZES)
            y -= draw(st.sampled_from([1, 1.2, 1.4, 3])) * size
            some = lambda n: [word() for _ in range(n)]
            if kind == "line":
                made = some(draw(st.integers(1, 6)))
                ending = draw(st.sampled_from(["", ".", "-", ":"]))
                lead = draw(st.sampled_from(["", "", "2.1 ", "- "]))
                rows.append((40, y, lead + " ".join(made) + ending, size))
            elif kind == "paragraph":
                made = some(9)
                for n in range(3):
                    ending = draw(
                        st.sampled_from(["", "-", "\u00ad", ",", "."])
                    )  # a soft hyphen too
                    rows.append((40, y, " ".join(made[3 * n : 3 * n + 3]) + ending, size))
                    y -= 1.2 * size * (n < 2)
            elif kind == "row":
                made = some(draw(st.integers(2, 4)))
                rows += [(40 + 90 * n, y, cell, size) for n, cell in enumerate(made)]
            elif kind == "columns":
                made = some(24)
                drop = draw(st.sampled_from([0, 3]))
                for n in range(3):
                    for x, first in ((40, 4 * n), (210, 12 + 4 * n)):
                        line = " ".join(made[first : first + 4])
                        rows.append((x, y - drop * (x > 40) - 12 * n, line, 9))
                y -= 40
            elif kind == "mark":
                made = some(3)
                rows.append((40, y, made[0], size))
                rows.append((40 + 0.5 * size * len(made[0]), y + size / 3, made[1], size / 2))
                rows.append((40 + 0.9 * size * len(made[0]), y, made[2], size))
            else:
                made = []
                rows.append((40, y, str(draw(st.integers(1, 2000))), size))
            words += made
        for edge, height in ((head, 590), (foot, 12)):
            if edge:
                shown = edge.format(1000 + page if "Invoice" in edge else page)
                rows.append((40, height, shown, 9))
        contents.append(
            "".join(text(*place(x, y), what, size, turned=turned) for x, y, what, size in rows)
        )
    return contents, words


@given(books(), st.integers(20, 200))
@settings(max_examples=120, deadline=None)
def test_every_word_of_a_page_is_in_a_chunk_or_dropped_for_a_reason(tmp_path_factory, book, most):
    contents, words = book
    path = write(tmp_path_factory.getbasetemp() / "chance.pdf", contents, size=(600, 600))
    drawn: Counter[str] = Counter()
    for content in contents:
        for line in content.splitlines():
            drawn += letters(line[line.index("(") + 1 : line.rindex(")")])
    if not drawn:
        with pytest.raises(Qwen3labError, match="holds no text"):
            read_pdf(path)
        return
    pages, chunks, account = chunked(path, most)
    balances(account)
    assert account.read == drawn
    held = "\0".join("".join(chunk.text.split()) for chunk in chunks)
    # A long word may be cut between two chunks.
    whole = "".join("".join(chunk.text.split()) for chunk in chunks)
    gone = [change.dropped for page in pages for change in page.changes]
    titles = "\0".join("".join(part.title.split()) for part in chapters(pages))
    for word in words:
        assert any(word in text for text in (held, whole, titles)), (word, contents)
    assert all(not any(word in text for word in words) for text in gone), gone
