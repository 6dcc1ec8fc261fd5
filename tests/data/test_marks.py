"""What makes two texts of the same words different, and what does not."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3lab.data import cleaning, splits
from qwen3lab.data.marks import holds, marks

WORDS = "the lamp of a friend was sold near 车站 and 我们 drank well-known café tea Anna".split()
PUNCTUATION = [".", ",", ";", "?", "!", ":", " – ", "…", "“", "”", "。", "，", "、", "**", "`"]
OPERATORS = [
    "+",
    "-",
    "*",
    "/",
    "^",
    "=",
    "<",
    ">",
    "<=",
    ">=",
    "!=",
    "==",
    "%",
    "±",
    "×",
    "÷",
    "≠",
]
EMOJI = ["👍", "👎", "😀", "😢", "❤", "💔", "🎉", "☀", "☔", "🇫🇷", "🇩🇪", "✅", "❌", "🙂", "🙁"]
LANGUAGES = ["C", "C++", "C#", "c", "F#", "F", "R", "r", "J#", "D", "x", "X"]
NAMES = st.sampled_from("count total price item left name".split())


def wide(text):
    """Full-width forms, as a Chinese keyboard writes them."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(words, st.data())
def test_punctuation_case_and_spaces_do_not_count(words, data):
    plain = " ".join(words)
    shown = "".join(
        data.draw(st.sampled_from([str.lower, str.title, str.upper, "“{}”".format]))(word)
        + data.draw(st.sampled_from(["", *PUNCTUATION]))
        + data.draw(st.sampled_from([" ", "  ", "\n", "\u00a0"]))
        for word in words
    )
    assert marks(shown) == marks(plain) == ""


@pytest.mark.parametrize("signs", [OPERATORS, EMOJI, LANGUAGES], ids=["signs", "emoji", "names"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_another_sign_emoji_or_name_is_another_text(signs, data):
    one, two = data.draw(st.lists(st.sampled_from(signs), min_size=2, max_size=2, unique=True))
    before, after = data.draw(words), data.draw(words)
    left, right = ("12", "30") if signs is OPERATORS else ("", "")
    texts = [" ".join([*before, left, sign, right, *after]) for sign in (one, two)]
    assert marks(texts[0]) != marks(texts[1])
    assert marks(wide(texts[0])) == marks(texts[0])
    rows = [{"text": text} for text in texts]
    assert cleaning.clean_rows(rows)[0] == [cleaning.clean(row) for row in rows]
    assert splits.leaks(rows[:1], rows[1:]) == [] != splits.leaks(rows[:1], rows[:1])


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from(OPERATORS), st.integers(0, 10**6), st.integers(0, 10**6)
)
def test_sums_are_the_same_with_or_without_spaces(one, sign, two, three):
    assert marks(f"{one}{sign}{two}") == marks(f"{one} {sign} {two}")
    assert marks(f"{one}{sign}{two}") == marks(f"{one}  {sign}  {two}")
    assert marks(f"{one:,} cups") == marks(f"{one} cups")
    assert (marks(f"{one} cups") == marks(f"{three} cups")) == (one == three)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("You may enter.", "You may not enter."),
        ("It is safe.", "It isn't safe."),
        ("可以拍照", "不可以拍照"),
        ("开会", "别开会"),
        ("10²", "102"),
        ("(2 + 3) * 4", "2 + 3 * 4"),
        ("1.5 m", "15 m"),
        ("12:30", "1230"),
        ("Ask the US.", "Ask the us."),
        ("5! + 1", "5 + 1"),
    ],
)
def test_other_marks(one, two):
    assert marks(one) != marks(two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("It isn’t safe.", "It is not safe.".replace("is not", "isn't")),
        ("- bread\n- milk", "* bread\n* milk"),
        ("# Hours\nWe open.", "Hours: we open."),
        ("e-mail and X-ray", "E-mail and x-ray"),
        ("5 − 3", "5 - 3"),
        ("他特别喜欢", "他 特别 喜欢。"),
        ("Thanks 🙏🏽", "Thanks 🙏"),
        ("GO HOME, WHO IS IT?", "Go home, who is it?"),
    ],
)
def test_the_same_marks(one, two):
    assert marks(one) == marks(two)


@given(st.text())
def test_any_text_has_marks_that_normalising_keeps(text):
    assert marks(text.replace("\n", " \n")) == marks(text)
    assert cleaning.normalize(cleaning.normalize(text)) == cleaning.normalize(text)


def test_words_left_out():
    assert holds("a b c d".split(), "a c d".split()) and holds(["a"], [])
    assert not holds("a b c d".split(), "c a".split())


@st.composite
def bodies(draw, depth=0):
    """Lines of a function's body as (depth, statement)."""
    lines = []
    for _ in range(draw(st.integers(1, 3))):
        name, other = draw(NAMES), draw(NAMES)
        simple = [
            f"{name} = {other} + 1",
            f"{name} -= {other}",
            f"print({name}, {other})",
            f"{name}[{other}] = 'a  b'",
            f"return {name}",
            "pass",
            f"{name}",
            f"# {name} of {other}",
        ]
        blocks = [f"if {name} > {other}:", f"for {name} in {other}:", "while True:"]
        if depth < 2 and draw(st.booleans()):
            lines += [
                (depth, draw(st.sampled_from(blocks))),
                *draw(bodies(depth + 1)),
                (depth + 1, "pass"),
            ]
        else:
            lines.append((depth, draw(st.sampled_from(simple))))
    return lines


def written(lines, indent):
    return "".join(f"{indent * (depth + 1)}{line}\n" for depth, line in lines)


@settings(max_examples=150, deadline=None)
@given(bodies(), st.sampled_from(["  ", "    ", "\t", "        "]), st.sampled_from(["\n", "\r\n"]))
def test_a_body_compiles_after_cleaning(lines, indent, end):
    lines = [*lines, (0, "pass")]
    text = written(lines, indent)
    ((row,), _) = cleaning.clean_rows([{"text": text.replace("\n", end)}])
    assert row["text"] == text.rstrip("\n")
    compile(f"def f():\n{row['text']}\n", "f", "exec")


@settings(max_examples=150, deadline=None)
@given(bodies(), st.data())
def test_in_code_the_depth_of_a_line_counts_and_the_width_of_an_indent_does_not(lines, data):
    text = "def f():\n" + written(lines, "    ")
    for indent in ("\t", "  ", " "):
        assert marks("def f():\n" + written(lines, indent)) == marks(text)
    assert marks(text.replace("\n", "\n\n")) == marks(text)
    assert marks(text + "    # the end\n") == marks(text)
    assert marks(textwrap.indent(text, "  ")) != marks(text)
    places = [n for n, (_, line) in enumerate(lines) if not line.startswith("#")]
    if places and lines[place := data.draw(st.sampled_from(places))][0]:
        moved = [*lines]
        moved[place] = (lines[place][0] - 1, lines[place][1])
        assert marks("def f():\n" + written(moved, "    ")) != marks(text)
