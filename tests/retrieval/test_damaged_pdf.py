"""Broken PDFs: what a user is told, word for word, and that nothing is lost without a word."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from qwen3lab import paths
from qwen3lab.data.pdf import read_pdf
from qwen3lab.errors import Qwen3labError
from qwen3lab.retrieval import damaged_pdf

NOT_A_PDF = "'book.pdf' is not a PDF. Export the document as PDF and give that file."
ADVICE = "Open it in a viewer and print it to a new PDF."
IN_PLACES = (
    "'book.pdf' is damaged in places, and some of its text may be missing. Compare it with what a"
    " viewer shows."
)
TOLD = {
    "missing": "There is no file 'book.pdf'. Give the path of a PDF.",
    "empty file": "'book.pdf' is empty. Copy or download the PDF again.",
    "letter as text": NOT_A_PDF,
    "web page": NOT_A_PDF,
    "Word file with another name": NOT_A_PDF,
    "PDF inside a mail": NOT_A_PDF,
    "password": "'book.pdf' is encrypted. Save a copy without a password and give that one.",
    "only the head": f"'book.pdf' is damaged (PdfStreamError). {ADVICE}",
    "first half": f"'book.pdf' is damaged (PdfStreamError). {ADVICE}",
    "last 2,000 bytes missing": f"'book.pdf' is damaged (PdfStreamError). {ADVICE}",
    "line ends changed": f"'book.pdf' is damaged (PdfReadError). {ADVICE}",
    "page tree that holds itself": f"'book.pdf' is damaged (PdfReadError). {ADVICE}",
    "read as text and written again": (
        f"'book.pdf' is damaged: none of its text could be read. {ADVICE}"
    ),
    "pages of noise": f"'book.pdf' is damaged: none of its text could be read. {ADVICE}",
    "no pages": "'book.pdf' has no pages. Export the document again and give the new file.",
    "scan without text": (
        "'book.pdf' holds no text, so it is probably a scan. Run text recognition over it and give"
        " the result."
    ),
}
READ = {
    "printing forbidden, no password": "",
    "wrong place of the table of objects": IN_PLACES,
    "zeros in the middle": IN_PLACES,
}


@pytest.fixture(scope="module")
def whole() -> bytes:
    return damaged_pdf.excerpt(paths.HANDBOOK, range(5, 8))


def read(path: Path) -> tuple[list[str], str]:
    """The text of each page, and the warning ("": none)."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        texts = [page.text for page in read_pdf(path)]
    return texts, "; ".join(str(warning.message) for warning in told)


@pytest.fixture(scope="module")
def texts(whole, tmp_path_factory) -> list[str]:
    path = tmp_path_factory.mktemp("whole") / "book.pdf"
    path.write_bytes(whole)
    found, told = read(path)
    assert len(found) == 3 and not told
    return found


def test_every_kind_has_its_words():
    assert TOLD.keys() | READ.keys() == {"missing", *damaged_pdf.KINDS}


@pytest.mark.parametrize("kind", TOLD)
def test_a_broken_pdf_is_refused_in_one_sentence_and_one_advice(kind, whole, tmp_path):
    with pytest.raises(Qwen3labError) as caught:
        read_pdf(damaged_pdf.make(kind, whole, tmp_path / "book.pdf"))
    assert str(caught.value) == TOLD[kind]


@pytest.mark.parametrize("kind", READ)
def test_a_pdf_that_can_be_read_is_read_and_loss_is_told(kind, whole, texts, tmp_path):
    found, told = read(damaged_pdf.make(kind, whole, tmp_path / "book.pdf"))
    assert told == READ[kind]
    assert (found == texts) is (kind != "zeros in the middle")


def test_damage_by_chance_is_refused_or_told(whole, texts, tmp_path):
    path, silent, outcomes = tmp_path / "book.pdf", 0, set()
    for _, data in damaged_pdf.damaged(whole, 24):
        path.write_bytes(data)
        try:
            found, told = read(path)
        except Qwen3labError as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
        else:
            silent += found != texts and not told
            outcomes.add("whole" if found == texts else "in part")
    assert silent == 0 and outcomes >= {"refused", "in part"}
    assert list(damaged_pdf.damaged(whole, 4)) == list(damaged_pdf.damaged(whole, 4))


def test_an_unknown_kind_is_refused(whole, tmp_path):
    with pytest.raises(
        Qwen3labError,
        match="There is no broken file of the kind 'torn'. Use one of: missing, empty file",
    ):
        damaged_pdf.make("torn", whole, tmp_path / "book.pdf")
