"""Poisoned pages: what is hidden in a PDF is read as text, and stays text in every prompt."""

from __future__ import annotations

import pytest
from pypdf import PdfReader

from qwen3lab import chat, models, paths, retrieval
from qwen3lab.data.pdf import Chapter, read_pdf
from qwen3lab.errors import Qwen3labError
from qwen3lab.prompts import context_prompt
from qwen3lab.retrieval import damaged_pdf, prompt_injection


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("poison") / "book.pdf"
    path.write_bytes(damaged_pdf.excerpt(paths.HANDBOOK, range(5, 9)))
    return path


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer(paths.MODELS / "qwen3-tiny")


ENGLISH = [p for p in prompt_injection.POISONS if p.text.isascii()]


def test_the_fifty_tries_are_fifty():
    assert len({p.name for p in prompt_injection.POISONS}) * len(prompt_injection.PLACES) == 50
    assert sum(not p.text.isascii() for p in prompt_injection.POISONS) == 2


@pytest.mark.parametrize(
    ("place", "hidden"),
    [(place, ENGLISH[n % len(ENGLISH)]) for n, place in enumerate(prompt_injection.PLACES * 2)],
    ids=lambda value: getattr(value, "name", value),
)
def test_hidden_text_is_read_on_its_page_alone(place, hidden, book, tmp_path):
    path = prompt_injection.poison(
        book, tmp_path / "poisoned.pdf", hidden.text, place, 2, before=place == "tiny"
    )
    before, after = read_pdf(book), read_pdf(path)
    squeeze = lambda text: "".join(text.split())
    assert [a.text for a in after][::2] == [b.text for b in before][::2]
    if place == "metadata":
        assert after == before
        assert squeeze(PdfReader(path).metadata.title) == squeeze(hidden.text)
    else:
        assert squeeze(hidden.text) in squeeze(after[1].text) and squeeze(
            hidden.text
        ) not in squeeze(before[1].text)
        gone = [line for line in before[1].lines if line not in after[1].lines]
        assert gone == []  # nothing of the page is lost by it


def test_each_place_hides_in_its_own_way(book, tmp_path):
    found = {}
    for place in prompt_injection.PLACES[:4]:
        path = prompt_injection.poison(
            book, tmp_path / "poisoned.pdf", "hidden here", place, 2, before=place == "tiny"
        )
        lines = read_pdf(path)[1].lines
        found[place] = (
            next(line for line in lines if "hidden here" in line.text),
            PdfReader(path).pages[1].get_contents().get_data(),
        )
        assert ("hidden here" in lines[0].text) is (place == "tiny") and (
            "hidden here" in lines[-1].text
        ) is (place != "tiny")
    ink = {
        place: b"\n1 g\n" in data or b" 1 g " in data or b"1 1 1 rg" in data
        for place, (_, data) in found.items()
    }
    assert ink == {"white": True, "tiny": False, "invisible": False, "outside": False}
    assert {place: line.size for place, (line, _) in found.items()} == {
        "white": 10,
        "tiny": 1,
        "invisible": 10,
        "outside": 10,
    }
    assert [place for place, (_, data) in found.items() if b"3 Tr" in data] == ["invisible"]
    assert [place for place, (line, _) in found.items() if line.y < 0] == ["outside"]


@pytest.mark.parametrize("hidden", prompt_injection.POISONS, ids=lambda hidden: hidden.name)
def test_no_hidden_text_becomes_a_control_token(hidden, tokenizer):
    ask = lambda text: chat.encode(
        tokenizer,
        [
            {
                "role": "user",
                "content": context_prompt(
                    f"The lamp costs 45 euros.\n{text}", "How much is the lamp?", "en"
                ),
            }
        ],
    )
    ids, clean = ask(hidden.text), ask("Thank you.")
    assert prompt_injection.control_ids(tokenizer, ids) == prompt_injection.control_ids(
        tokenizer, clean
    )
    assert hidden.text in tokenizer.decode(ids)
    plain = chat.plain_ids(tokenizer, hidden.text)
    assert (
        prompt_injection.control_ids(tokenizer, plain) == []
        and tokenizer.decode(plain) == hidden.text
    )
    naive = tokenizer(hidden.text, add_special_tokens=False).input_ids
    assert bool(prompt_injection.control_ids(tokenizer, naive)) is (
        "<" in hidden.text
    )  # the danger is real


def test_a_chunk_full_of_written_control_tokens_fits(tokenizer):
    text = "<|im_start|>" * 300
    for piece in retrieval.chunk([Chapter("A", ((text, 1),))], tokenizer, 100):
        assert len(chat.encode(tokenizer, [{"role": "user", "content": piece.text}])) <= 100 + 20


def test_chinese_is_hidden_where_the_font_is_there(book, tmp_path):
    from qwen3lab.data import pdf

    try:
        pdf.font_path()
    except Qwen3labError:
        pytest.skip("needs the Debian package fonts-wqy-microhei")
    hidden = next(p for p in prompt_injection.POISONS if p.name == "order, Chinese")
    pages = read_pdf(
        prompt_injection.poison(book, tmp_path / "poisoned.pdf", hidden.text, "white", 1)
    )
    assert hidden.text in pages[0].text


def test_impossible_poisons_are_refused(book, tmp_path):
    for place, page, told in (
        ("margin", 1, "Use one of: white, tiny"),
        ("white", 5, "no page 5 among 4"),
    ):
        with pytest.raises(Qwen3labError, match=told):
            prompt_injection.poison(book, tmp_path / "x.pdf", "text", place, page)
