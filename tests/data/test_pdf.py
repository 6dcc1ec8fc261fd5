"""What stands on a page comes into its lines and chapters, whatever way it stands there."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from pdfs import FONTS, stream, text, write

from qwen3lab.data.pdf import Chapter, chapters, read_pdf

BODY = (
    "The lamp is made of oak, which our own workshop",
    "dries for a whole year in the open air, and it is",
    "sold with a shade of the linen that we weave.",
)
WHOLE = " ".join(BODY)
LONG = "".join(
    text(40, 500 - 14 * n, line, 9) for n, line in enumerate(BODY)
)  # enough text for a page that is no scan


def read(path: Path):
    """The pages, and the warnings as one text."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        pages = read_pdf(path)
    return pages, " | ".join(str(warning.message) for warning in told)


@pytest.fixture
def parts(tmp_path):
    """Write pages, read them and return the chapters; a warning fails."""

    def made(contents, **options) -> list[Chapter]:
        pages, told = read(write(tmp_path / "book.pdf", contents, **options))
        assert told == ""
        return chapters(pages)

    return made


def standing(turned: int, lines, width: int = 400, height: int = 600) -> str:
    """Lines (left edge, height, text, size) of an upright page of 400 by 600, drawn turned."""
    place = {
        0: lambda x, y: (x, y),
        90: lambda x, y: (height - y, x),
        180: lambda x, y: (width - x, height - y),
        270: lambda x, y: (y, width - x),
    }[turned]
    return "".join(text(*place(x, y), what, size, turned=turned) for x, y, what, size in lines)


TITLED = [(40, 550, "Lamps", 18), *((40, 520 - 14 * n, line, 11) for n, line in enumerate(BODY))]


@pytest.mark.parametrize("page", ["", "/Rotate 90", "/Rotate 180", "/Rotate 270"])
@pytest.mark.parametrize("turned", [0, 90, 180, 270])
def test_a_page_is_read_in_the_direction_of_its_text(turned, page, parts):
    size = (600, 400) if turned in (90, 270) else (400, 600)
    content = standing(turned, TITLED)
    assert parts([content], page=page, size=size) == [Chapter("Lamps", ((WHOLE, 1),))]


def test_the_matrix_of_the_page_turns_text_as_that_of_the_text_does(parts):
    turn = "q 0 1 -1 0 600 0 cm\n" + standing(0, TITLED) + "Q"
    assert parts([turn], size=(600, 400)) == [Chapter("Lamps", ((WHOLE, 1),))]
    hanging = "q 0.99939 0.0349 -0.0349 0.99939 0 0 cm\n" + standing(0, TITLED) + "Q"  # 2 degrees
    assert parts([hanging]) == [Chapter("Lamps", ((WHOLE, 1),))]


def test_words_that_are_placed_one_by_one_stay_words_in_every_direction(parts):
    words = "BT /F1 11 Tf {} Tm (made) Tj 30 0 Td (of) Tj 15 0 Td (oak) Tj ET"
    for matrix in ("1 0 0 1 40 300", "0 1 -1 0 40 300", "-1 0 0 -1 300 300", "0 -1 1 0 40 300"):
        assert parts([words.format(matrix)]) == [Chapter("", (("made of oak", 1),))]


def test_a_stamp_across_a_page_is_no_heading_and_a_line_up_the_margin_is_text(parts):
    stamp = "q 0.7071 0.7071 -0.7071 0.7071 90 90 cm " + text(0, 0, "DRAFT", 60) + "Q\n"
    (part,) = parts([stamp + standing(0, TITLED) + text(390, 40, "arXiv 1", 9, turned=90)])
    assert part == Chapter("Lamps", ((WHOLE, 1), ("DRAFT", 1), ("arXiv 1", 1)))


LEFT = (
    "The left column begins with this",
    "and goes on with another line in",
    "which it comes to its own end.",
)
RIGHT = (
    "To the right something else is",
    "told, and it has three lines as",
    "well, of which this is the last.",
)
COLUMNS = [Chapter("", ((" ".join(LEFT), 1), (" ".join(RIGHT), 1)))]


@pytest.mark.parametrize("lower", [0, 3])
def test_columns_that_a_file_holds_row_by_row_are_read_one_after_the_other(lower, parts):
    rows = (
        text(40, 500 - 14 * n, a, 9) + text(215, 500 - lower - 14 * n, b, 9)
        for n, (a, b) in enumerate(zip(LEFT, RIGHT))
    )
    assert parts(["".join(rows)]) == COLUMNS


def test_columns_within_one_text_object_are_read_one_after_the_other(parts):
    rows = (f"({a}) Tj 175 0 Td ({b}) Tj -175 -14 Td\n" for a, b in zip(LEFT, RIGHT))
    assert parts(["BT /F1 9 Tf 40 500 Td\n" + "".join(rows) + "ET"]) == COLUMNS
    rows = (
        f"1 0 0 1 40 {500 - 14 * n} Tm ({a}) Tj 1 0 0 1 215 {500 - 14 * n} Tm [({b})] TJ\n"
        for n, (a, b) in enumerate(zip(LEFT, RIGHT))
    )
    assert parts(["BT /F1 9 Tf\n" + "".join(rows) + "ET"]) == COLUMNS


def test_columns_of_words_that_are_placed_one_by_one_are_columns(parts):
    """As text recognition writes them."""
    from fpdf import FPDF

    measure = FPDF(unit="pt")
    measure.set_font("helvetica", size=9)

    def words(x: float, y: float, line: str) -> str:
        made = ""
        for word in line.split():
            made += text(round(x, 2), y, word, 9)
            x += measure.get_string_width(word + " ")
        return made

    rows = (
        words(40, 500 - 14 * n, a) + words(215, 500 - 14 * n, b)
        for n, (a, b) in enumerate(zip(LEFT, RIGHT))
    )
    assert parts(["".join(rows)]) == COLUMNS


def test_three_narrow_columns_of_text_are_no_table(parts):
    narrow = (
        ("made of red", "sold in May", "kept for you"),
        ("oak and ash", "or in June", "with us"),
    )
    rows = (
        text(40 + 62 * k, 500 - 14 * n, line, 9)
        for n, row in enumerate(narrow)
        for k, line in enumerate(row)
    )
    (part,) = parts(["".join(rows)])
    assert [words for words, _ in part.paragraphs] == [
        "made of red oak and ash",
        "sold in May or in June",
        "kept for you with us",
    ]


def table(rows, head: str = "F1") -> str:
    return "".join(
        text(x, 500 - 15 * n, cell, font=head if n == 0 else "F1")
        for n, row in enumerate(rows)
        for x, cell in zip((40, 160, 260), row)
    )


def test_a_table_has_names_of_columns_by_their_font_or_by_the_digits_below(parts):
    lamp, wood = ("Corvel lamp", "45 euros", "A12"), ("Corvel lamp", "oak", "Lorbin")
    kettle = ("Brunla kettle", "19 euros", "B27")
    assert parts([table([("Product", "Price", "Shelf"), lamp, kettle])]) == [
        Chapter(
            "",
            (
                ("Corvel lamp: price 45 euros; shelf A12.", 1),
                ("Brunla kettle: price 19 euros; shelf B27.", 1),
            ),
        )
    ]
    named = [("Product", "Wood", "Made in"), wood, ("Solfem canoe", "ash", "Storwil")]
    assert parts([table(named, "F2")]) == [
        Chapter(
            "",
            (
                ("Corvel lamp: wood oak; made in Lorbin.", 1),
                ("Solfem canoe: wood ash; made in Storwil.", 1),
            ),
        )
    ]
    assert parts([table([lamp, kettle])]) == [  # nothing names its columns
        Chapter("", (("Corvel lamp 45 euros A12", 1), ("Brunla kettle 19 euros B27", 1)))
    ]


def test_only_the_number_of_the_page_makes_lines_alike(parts):
    def page(n: int) -> str:
        return (
            text(40, 570, f"Hollin store, page {n} of 5", 8)
            + text(40, 540, f"Invoice {1000 + n}")
            + text(40, 500, f"Pay {n} euros, dear customer, within {n + 9} days.")
            + text(40, 440, f"Step {n}.")
            + text(200, 30, str(n + 6))
        )

    pages = [page(n) for n in range(1, 6)]
    assert parts(pages) == [
        Chapter(
            "",
            tuple(
                (line, n)
                for n in range(1, 6)
                for line in (
                    f"Invoice {1000 + n}",
                    f"Pay {n} euros, dear customer, within {n + 9} days.",
                    f"Step {n}.",
                )
            ),
        )
    ]
    titled = [text(40, 550, f"Chapter {n}", 18) + LONG for n in range(1, 5)]
    assert [part.title for part in parts(titled)] == [f"Chapter {n}" for n in range(1, 5)]


def test_what_was_dropped_from_a_page_says_why(tmp_path):
    contents = [text(40, 570, "Hollin store") + LONG + text(200, 30, f"- {n} -") for n in (1, 2, 3)]
    pages, _ = read(write(tmp_path / "book.pdf", contents))
    assert [(c.reason, c.dropped) for c in pages[1].changes] == [
        ("running head or foot, on 3 pages", "Hollinstore"),
        ("running head or foot, on 3 pages", "-2-"),
    ]
    few, _ = read(write(tmp_path / "few.pdf", contents[:2]))
    assert [(c.reason, c.dropped) for c in few[1].changes] == [("page number", "-2-")]


@pytest.mark.parametrize("line", ["7", "12", "1987", "3 / 4", "- 9 -"])
def test_a_number_that_is_not_that_of_the_page_stays(line, parts):
    rows = text(40, 500, BODY[0]) + text(40, 486, "All that came to the fair: ")
    words = lambda made: [text for part in made for text, _ in part.paragraphs]
    assert words(parts([rows + text(40, 472, line)]))[-1] == line
    numbers = ("40", "7", "812", "3")  # at the foot of four pages, and in no step with them
    pages = [text(40, 500, word) + text(40, 30, n) for word, n in zip("ABCD", numbers)]
    assert " ".join(words(parts(pages))) == "A 40 B 7 C 812 D 3"


def test_raised_and_lowered_marks_stay_in_their_line(parts):
    line = (
        text(40, 500, "A hall of 120 m")
        + text(113.6, 504, "2", 7)
        + text(126, 500, "with H")
        + text(157.5, 497.5, "2", 7)
        + text(161.5, 500, "O and a note")
        + text(223.5, 504, "3", 7)
    )
    foot = text(40, 104, "3", 6) + text(44, 100, "Not for swimming.", 9)
    under = text(40, 560, "Halls", 20) + text(40, 549, "of the old town", 8)
    (part,) = parts([under + line + foot])
    assert part.title == "Halls"
    assert [words for words, _ in part.paragraphs] == [
        "of the old town",
        "A hall of 120 m2 with H2O and a note3",
        "3 Not for swimming.",
    ]


def test_headings_without_text_join_the_next_of_their_page_or_are_text(parts):
    cover = text(40, 500, "Hollin", 30) + text(40, 450, "Handbook", 20)
    title = text(40, 550, "Lamps", 18) + LONG
    assert parts([cover, title, text(40, 500, "Appendix", 18)]) == [
        Chapter("Hollin / Handbook", (("Hollin", 1), ("Handbook", 1))),
        Chapter("Lamps", ((WHOLE, 2),)),
        Chapter("Appendix", (("Appendix", 3),)),
    ]
    assert parts([cover + text(40, 380, "Lamps", 18) + text(40, 300, WHOLE, 3)]) == [
        Chapter("Hollin / Handbook / Lamps", ((WHOLE, 1),))
    ]
    assert parts([text(40, 500, "1 Goods") + text(40, 480, "2 Rules")]) == [
        Chapter("1 Goods", (("1 Goods", 1),)),
        Chapter("2 Rules", (("2 Rules", 1),)),
    ]


def test_entries_of_a_list_of_contents_go_and_others_stay(parts):
    listed = (
        text(40, 550, "Contents", 20)
        + text(40, 520, "1 Lamps", 12) + text(300, 520, "2", 12)
        + text(40, 495, "2 Gone", 12) + text(300, 495, "9", 12)
    )  # fmt: skip
    assert parts([listed, text(40, 550, "1 Lamps", 12) + LONG]) == [
        Chapter("2 Gone 9", (("2 Gone 9", 1),)),
        Chapter("1 Lamps", ((WHOLE, 2),)),
    ]


def test_a_long_text_in_large_letters_is_text(parts):
    large = "".join(
        text(40, 400 - 20 * n, f"Large line {word} of a notice.", 15)
        for n, word in enumerate(("one", "two", "three", "four"))
    )
    many = "".join(text(40, 560 - 10 * n, BODY[1], 7) for n in range(6))
    (part,) = parts([many + large])
    assert part.title == "" and "Large line four of a notice." in part.paragraphs[-1][0]


FIELD = "<< /Type /Annot /Subtype {} /Rect [100 400 200 420] {} >>"
MARKS = [
    FIELD.format("/Widget", "/FT /Tx /T (name) /TU (Your name) /V (Ann Lee)"),
    FIELD.format("/Widget", "/FT /Btn /T (member) /V /Yes /AS /Yes"),
    FIELD.format("/Widget", "/FT /Btn /T (guest) /AS /Off"),
    FIELD.format("/Widget", "/FT /Ch /T (days) /V [(m) (Friday)] /Opt [[(m) (Monday)] (Friday)]"),
    FIELD.format("/Widget", "/FT /Tx /T (empty)"),
    FIELD.format("/Text", "/Contents (Ask Bo.\\rSoon.)"),
    FIELD.format("/Popup", "/Contents (Ask Bo.)"),
    FIELD.format("/FreeText", "/Contents <FEFF7EA2706F>"),
    "<< /T (whole) /FT /Tx /V (of two parts) /Kids [10 0 R] >>",
    "<< /Type /Annot /Subtype /Widget /Parent 9 0 R /Rect [1 1 2 2] >>",
]


def test_values_of_a_form_and_notes_are_read(parts):
    numbers = " ".join(f"{n} 0 R" for n in (1, 2, 3, 4, 5, 6, 7, 8, 10))
    (part,) = parts(
        [text(40, 400, "Name:")],
        objects=MARKS,
        page=f"/Annots [{numbers}]",
        root="/AcroForm << /Fields [1 0 R 2 0 R 3 0 R 4 0 R 5 0 R 9 0 R] >>",
    )
    assert [words for words, _ in part.paragraphs] == [
        "Name:",
        "Your name: Ann Lee",
        "member: Yes",
        "days: Monday, Friday",
        "Ask Bo. Soon.",
        "红灯",
        "whole: of two parts",
    ]


def test_a_form_is_a_page_with_text_even_if_nothing_else_is_on_it(parts):
    options = {"objects": MARKS, "page": "/Annots [1 0 R]"}
    assert parts([""], **options) == [Chapter("", (("Your name: Ann Lee", 1),))]


def test_what_an_annotation_draws_is_read_where_it_has_no_words_of_its_own(parts):
    stamp = stream(text(2, 2, "APPROVED"), "/Type /XObject /Subtype /Form /BBox [0 0 99 20]"
                   f" /Resources << /Font << /F1 {FONTS['F1']} >> >>")  # fmt: skip
    note = FIELD.format("/Stamp", "/AP << /N 1 0 R >>")
    (part,) = parts([LONG], objects=[stamp, note], page="/Annots [2 0 R]")
    assert part.paragraphs == ((WHOLE, 1), ("APPROVED", 1))


def test_values_that_stand_on_no_page_are_told(tmp_path):
    path = write(
        tmp_path / "book.pdf",
        [LONG],
        objects=["<< /FT /Tx /T (secret) /V (forty-two) >>", "<< /FT /Tx /T (nothing) >>"],
        root="/AcroForm << /Fields [1 0 R 2 0 R] >>",
    )
    _, told = read(path)
    assert told == (
        "'book.pdf' has a value of a form that stands on no page and was not read. Print it to a"
        " new PDF if a viewer shows it."
    )


PICTURE = stream(
    b"\0",
    "/Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray /BitsPerComponent 8",
)
FOOT = text(180, 30, "Page 3")
SCAN = "q 400 0 0 600 0 0 cm /I Do Q\n"


@pytest.mark.parametrize(
    ("contents", "pages"),
    [
        ([LONG, SCAN, SCAN + FOOT, SCAN, LONG, SCAN, SCAN], "pages 2, 3, 4, 6 and 7"),
        ([LONG, SCAN], "page 2"),
        ([LONG, "10 10 m 90 90 l S"], "page 2"),
        ([LONG, "q 400 0 0 600 0 0 cm BI /W 1 /H 1 /CS /G /BPC 8 ID \0 EI Q"], "page 2"),
        ([LONG, *[SCAN] * 14], "pages 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 4 more"),
        ([LONG, SCAN + LONG, "", "q 20 0 0 20 0 0 cm /I Do Q\n" + text(40, 500, "Short.")], ""),
    ],
)  # fmt: skip
def test_pages_that_are_pictures_are_named(contents, pages, tmp_path):
    path = write(tmp_path / "book.pdf", contents, objects=[PICTURE], pictures="/I 1 0 R")
    told = (
        f"'book.pdf' has pictures or drawings and hardly any text on {pages}. If they are scans,"
        " run text recognition over the file and give the result."
    )
    assert read(path)[1] == (told if pages else "")


FORM = "/Type /XObject /Subtype /Form /BBox [0 0 300 300] /Matrix [2 0 0 2 0 0]"


def test_a_drawing_with_text_stands_where_the_page_puts_it(tmp_path):
    """With the page's fonts, and with the sizes and places that the page gives it."""
    path = write(
        tmp_path / "book.pdf",
        [text(40, 500, "Above.") + "q 1 0 0 1 100 200 cm /X Do Q"],
        objects=[stream(text(10, 10, "Inside."), FORM)],
        pictures="/X 1 0 R",
    )
    (page,), told = read(path)
    assert [(line.text, line.size, line.y, line.cells[0][0]) for line in page.lines] == [
        ("Above.", 11.0, 500.0, 40),
        ("Inside.", 22.0, 220.0, 120),
    ]
    assert told == ""


def test_what_is_no_letter_is_marked_and_told(tmp_path):
    cmap = (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap 1 begincodespacerange <00>"
        " <FF> endcodespacerange 4 beginbfchar <41> <D83D> <42> <0041> <43> <D83DDE00> <44> <0007>"
        " endbfchar endcmap end end"
    )
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode 1 0 R >>"
    path = write(
        tmp_path / "book.pdf",
        [text(40, 500, "ABCD end") + text(40, 480, "more", font="F9")],
        objects=[stream(cmap)],
        fonts={"F1": font},
    )
    (page,), told = read(path)
    assert page.text == "\ufffdA\U0001f600\ufffd end\n" + "\ufffd" * 4
    assert page.text.encode() and told == (
        "'book.pdf' has 6 characters that could not be read on page 1; U+FFFD stands for each."
        " Compare with what a viewer shows."
    )


def test_fonts_without_a_list_of_their_letters_are_told(tmp_path):
    font = (
        "<< /Type /Font /Subtype /Type0 /BaseFont /Foo /Encoding /Identity-H /DescendantFonts [<<"
        " /Type /Font /Subtype /CIDFontType2 /BaseFont /Foo /CIDSystemInfo << /Registry (Adobe)"
        " /Ordering (Identity) /Supplement 0 >> >>] >>"
    )
    content = LONG + "BT /F3 11 Tf 40 400 Td <002400250026> Tj ET"
    path = write(tmp_path / "book.pdf", [LONG, content], fonts=FONTS | {"F3": font})
    assert read(path)[1] == (
        "'book.pdf' has 3 characters in fonts that do not say which letters they draw, on page 2."
        " Compare with what a viewer shows, or run text recognition over the file."
    )


def test_ligatures_of_tex_are_letters(parts):
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /ABCDEF+CMR10 >>"
    content = "BT /F1 10 Tf 40 500 Td (o\\016ce \\014nds a \\015oor) Tj ET"
    assert parts([content], fonts={"F1": font}) == [Chapter("", (("office finds a floor", 1),))]


def test_pages_of_one_repeated_text_keep_it(parts):
    (part,) = parts([text(40, 500, "CONFIDENTIAL")] * 5)
    assert part.paragraphs[0][0].split() == ["CONFIDENTIAL"] * 5
