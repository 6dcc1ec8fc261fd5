"""Documents of five kinds: their headings, paragraphs and tables, and what people are told where
one cannot be read.
"""

from __future__ import annotations

import docx
import pytest

from qwen3lab import paths
from qwen3lab.data import documents
from qwen3lab.errors import Qwen3labError
from qwen3lab.retrieval import damaged_pdf

ROWS = "Lamki lantern: price 46 euros; runtime 38 hours", "Rojal lantern: runtime 71 hours"


def write(folder, name, content) -> object:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path) -> list[tuple[str, list[str]]]:
    parts, notes = documents.read(path)
    assert not notes
    assert all(page is None for part in parts for _, page in part.paragraphs)
    return [(part.title, [text for text, _ in part.paragraphs]) for part in parts]


def test_markdown(tmp_path):
    text = (
        "---\ntitle: left out\n---\nBefore.\n\n# Shop\n\n## Lanterns\n\nOne line\n"
        "and **the** next.\n\n- a\n- b\n\n| Name | price | runtime |\n|---|---|---|\n|"
        " Lamki lantern | 46 euros | 38 hours |\n| Rojal lantern | | 71 hours |\n\n## Empty\n\n"
        "# Code\n\n```\nx = 1\n```\n"
    )
    assert read(write(tmp_path, "a.md", text)) == [
        ("", ["Before."]),
        ("Shop / Lanterns", ["One line and the next.", "a", "b", *ROWS]),
        ("Shop / Empty", ["Empty"]),  # nothing stands under it, so it is a text itself
        ("Code", ["x = 1"]),
    ]


def test_html(tmp_path):
    text = (
        "<!doctype html><head><title>t</title><script>no()</script></head><nav>home</nav>"
        "<h1>Sh<b>op</b></h1>loose <i>te</i>xt<div>in a div<br>next</div><!-- no -->"
        "<table><tr><th>Name<th>price<th>runtime<tr><td>Lamki lantern<td>46 euros<td>38 hours"
        "<tr><td>Rojal lantern<td><td>71 hours</table><p>&lt;|im_end|&gt; 价<b>格</b></p>"
        "<table><tr><td><h2>In a layout</h2><p>x<p>y</table>"
    )
    assert read(write(tmp_path, "a.html", text)) == [
        ("Shop", ["loose text", "in a div next", *ROWS, "<|im_end|> 价格"]),
        ("Shop / In a layout", ["x", "y"]),
    ]


def test_text(tmp_path):
    text = "Lanterns\n\nThe Lamki lantern\ncosts 46 euros.\n- a\n- b\n\n第一行，\n第二行。\r\n\r\n"
    assert read(write(tmp_path, "a.txt", text)) == [
        ("Lanterns", ["The Lamki lantern costs 46 euros.", "- a", "- b", "第一行，第二行。"])
    ]
    assert read(write(tmp_path, "b.txt", "one\ntwo")) == [("", ["one", "two"])]


def test_word(tmp_path):
    document = docx.Document()
    document.add_paragraph("Before.")
    document.add_heading("Shop", 1)
    document.add_heading("Lanterns", 2)
    table = document.add_table(rows=3, cols=3)
    cells = ["Name", "price", "runtime", "Lamki lantern", "46 euros", "38 hours"]
    for cell, value in zip(
        (cell for row in table.rows for cell in row.cells),
        [*cells, "Rojal lantern", "", "71 hours"],
    ):
        cell.text = value
    document.add_paragraph("价格 46")
    document.save(str(tmp_path / "a.docx"))
    assert read(tmp_path / "a.docx") == [("", ["Before."]), ("Shop / Lanterns", [*ROWS, "价格 46"])]


def test_pdf_keeps_its_pages_and_notes(tmp_path):
    whole = damaged_pdf.excerpt(paths.HANDBOOK, range(5, 9))
    parts, notes = documents.read(write(tmp_path, "a.pdf", whole))
    pages = {page for part in parts for _, page in part.paragraphs}
    assert pages == {1, 2, 3, 4} and not notes
    damaged = damaged_pdf.make("zeros in the middle", whole, tmp_path / "b.pdf")
    _, notes = documents.read(damaged)
    assert len(notes) == 1 and "damaged in places" in notes[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "gb18030"])
def test_encodings(tmp_path, encoding):
    text = (
        "帐篷\n\n萨雅斯帐篷售价286欧元。它的重量是5.3千克。Price 286 euros, weight 5.3 kilograms."
    )
    (told,) = read(write(tmp_path, "a.txt", text.encode(encoding)))
    assert told == ("帐篷", [text.split("\n\n")[1]])


def test_html_says_its_encoding(tmp_path):
    page = '<meta charset="shift_jis"><p>テント</p>'
    assert read(write(tmp_path, "a.html", page.encode("shift_jis"))) == [("", ["テント"])]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.md", b"", "is empty. Copy"),
        ("a.txt", b" \n", "is empty. Copy"),
        ("a.html", b"<p> </p><script>x</script>", "holds no text. If it shows pictures"),
        ("a.xlsx", b"PK\x03\x04", "of a kind that cannot be read here. Save it as PDF, Markdown"),
        ("a", b"text", "of a kind that cannot be read here"),
        ("a.docx", b"PK\x03\x04 and no more", r"is damaged, or no Word file \(BadZipFile\). Open"),
        ("a.docx", b"\xd0\xcf\x11\xe0 old", "is an old Word file, or has a password. Save it"),
        ("a.pdf", b"<html>", "is not a PDF. Export"),
        ("a.txt", b"\xff \x81 \xb0a \xffb\x8d", "cannot be told from its bytes. Save"),
    ],
)
def test_refusals_are_two_sentences(tmp_path, name, content, words):
    with pytest.raises(Qwen3labError, match=words) as caught:
        documents.read(write(tmp_path, name, content))
    assert str(caught.value).startswith(f"'{name}' ") and str(caught.value).endswith(".")


def test_a_scan_and_a_missing_file(tmp_path):
    scan = damaged_pdf.make(
        "scan without text", damaged_pdf.excerpt(paths.HANDBOOK, range(3)), tmp_path / "s.pdf"
    )
    with pytest.raises(Qwen3labError, match="holds no text, so it is probably a scan. Run text"):
        documents.read(scan)
    with pytest.raises(Qwen3labError, match="There is no file 'b.md'. Check"):
        documents.read(tmp_path / "b.md")
    with pytest.raises(Qwen3labError, match="There is no file"):
        documents.read(tmp_path)


def test_a_word_file_that_is_another_archive(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.docx", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(Qwen3labError, match=r"no Word file \(KeyError\)"):
        documents.read(tmp_path / "a.docx")
