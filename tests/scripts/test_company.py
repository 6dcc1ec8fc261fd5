"""The held-out company: its names, its handbook as it reads back from the PDF, and the tone of
its replies.
"""

from __future__ import annotations

import re

import pypdf
import pytest

from qwen3lab import models, paths, prompts
from qwen3lab.data import pdf, tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.prompts import REFUSAL
from qwen3lab.training import new_tokens
from qwen3lab.world import corpus, tone
from qwen3lab.world import names as w
from qwen3lab.world.company import (
    BY_NAME,
    CHINESE,
    COMPANY,
    ENGLISH,
    EXTRA_QUESTIONS,
    FACTS,
    HOME,
    THINGS,
    questions,
    tell,
)
from qwen3lab.world.things import ATTRIBUTES, KINDS
from scripts.company import book, sets
from scripts.company import pdf as company_pdf
from scripts.company.__main__ import build, differences, main

PEOPLE_KEYS, TOWN_KEYS = ("designer", "manager", "head", "contact"), ("origin", "town")


def own_words() -> set[str]:
    """Every made-up word of the company: English word by word, Chinese as whole transliterations
    and names.
    """
    found = {*COMPANY.values(), *HOME.values()}
    for thing in THINGS:
        found |= {thing.values[k] for k in TOWN_KEYS if k in thing.values}
        if thing.kind == "person":
            found |= set(thing.name.split(" "))
        elif thing.kind != "rule":
            nouns = (
                w.EN_CATEGORIES + w.EN_SITES
                if thing.language == "en"
                else w.ZH_CATEGORIES + w.ZH_SITES
            )
            noun = max((n for n in nouns if thing.name.endswith(n)), key=len)
            found.add(thing.name.removesuffix(noun).strip())
    return found


@pytest.fixture(scope="module")
def pages() -> list[str]:
    """Each page's text with its lines joined: by a space between Latin letters, by nothing beside
    Chinese ones.
    """
    reader = pypdf.PdfReader(paths.HANDBOOK)
    return [
        re.sub(
            r"(?<=[\u3000-\u9fff，。；：])\n|\n(?=[\u3000-\u9fff，。；：])", "", page.extract_text()
        ).replace("\n", " ")
        for page in reader.pages
    ]


def test_names_are_held_out_from_pretraining():
    assert [word for word in sorted(own_words()) if not w.is_held_out(word)] == []


def test_chinese_names_cannot_hide_inside_longer_ones():
    """The world's transliterations and names have at most three characters, so ours of three are
    never a part of one.
    """
    assert [
        word for word in own_words() if re.match(r"[\u3400-\u9fff]", word) and len(word) != 3
    ] == []


def test_facts_use_the_worlds_attributes_and_the_companys_people():
    for thing in THINGS:
        assert set(thing.values) <= {a.key for a in KINDS[thing.kind]}, thing
        assert all(thing.values[k] in BY_NAME for k in PEOPLE_KEYS if k in thing.values), thing
    rules = [t.name for t in THINGS if t.kind == "rule"]
    assert set(rules) <= {*w.EN_RULES, *w.ZH_RULES}
    for key in ("code", "shelf", "phone", "room"):  # what is unique in a company is unique here
        values = [t.values[key] for t in THINGS if key in t.values]
        assert len(values) == len(set(values)), key


def test_extra_questions_are_new_and_for_all_attributes():
    assert set(EXTRA_QUESTIONS) == set(ATTRIBUTES)
    for fact in FACTS:
        assert not set(questions(fact.thing, fact.key)) & set(
            questions(fact.thing, fact.key, extra=True)
        ), fact.id


def test_every_paragraph_begins_with_its_thing():
    for thing in THINGS:
        text, sentences = tell(thing)
        assert text.lower().startswith((thing.name.lower(), thing.subject.lower()))
        assert all(
            thing.values[key] in sentence and sentence in text
            for key, sentence in sentences.items()
        )
    described = None
    for block in book.blocks():
        if block.kind == "facts":
            described = next(iter(block.facts)).thing
        elif block.kind in ("chapter", "section"):
            described = None
        elif block.kind == "paragraph" and described:
            assert block.text.lower().startswith(
                (described.name.lower(), described.subject.lower())
            ), block.text[:60]


def test_prose_never_contradicts_or_adds_a_fact():
    """In a thing's section the hand-written text holds no digit and no listed value but those told;
    none names other things.
    """
    closed = {
        "en": [*w.EN_COLOURS, *w.EN_MATERIALS, *w.EN_LANGUAGES, *w.EN_DAYS],
        "zh": [*w.ZH_COLOURS, *w.ZH_MATERIALS, *w.ZH_LANGUAGES, *w.ZH_DAYS],
    }
    words = own_words() - set(COMPANY.values())
    thing = None
    for block in book.blocks():
        if block.kind == "chapter":
            thing = None
        if block.kind == "facts":
            thing = next(iter(block.facts)).thing
        if block.kind not in ("paragraph", "bullet") or thing is None:
            continue
        assert not re.search(r"\d", block.text), block.text
        text = block.text.replace(thing.name, "").replace(thing.name.capitalize(), "")
        present = (
            (lambda v: re.search(rf"\b{v}\b", text))
            if thing.language == "en"
            else (lambda v: v in text)
        )
        assert [v for v in closed[thing.language] if present(v) and len(v) > 1] == [], block.text
        assert [v for v in words if v in text] == [], block.text


def test_handbook_reads_back_exactly(pages):
    assert 15 <= len(pages) <= 30
    for block in book.blocks():
        if block.kind != "table":
            assert sum(block.text in page for page in pages) >= 1, block.text[:80]


def test_facts_stand_on_the_pages_that_the_tasks_name(pages):
    rows = [
        *tasks.load("handbook", "test"),
        *tasks.load("knowledge", "test"),
        *tasks.load("knowledge", "train"),
    ]
    answerable = [row for row in rows if row["fact"]]
    assert len(answerable) > 900
    for row in answerable:
        assert row["statement"] in row["passage"] and row["answer"] in row["statement"]
        assert row["passage"] in pages[row["page"] - 1], row["id"]
        assert row["page"] in row["pages"]
        name = BY_NAME[row["fact"].split("/")[1]].name
        for page in row["pages"]:
            assert row["answer"] in pages[page - 1] and name.lower() in pages[page - 1].lower()


def test_page_numbers_contents_and_outline(pages):
    reader = pypdf.PdfReader(paths.HANDBOOK)
    for number, page in enumerate(pages[1:], start=2):
        assert page.endswith(f"{book.TITLE} - page {number}")
    chapters = [entry for entry in reader.outline if not isinstance(entry, list)]
    assert len(chapters) == sum(block.kind == "chapter" for block in book.blocks())
    for entry in chapters:
        number = reader.get_destination_page_number(entry) + 1
        assert entry.title in pages[number - 1]
        assert f"{entry.title} {number}" in pages[1] or f"{entry.title}{number}" in pages[1]


def test_unanswerable_questions_have_no_answer_in_the_handbook(pages):
    everything = " ".join(pages)
    told = {(fact.thing.name, fact.key) for fact in FACTS}
    rows = [
        r
        for split in ("validation", "test")
        for r in tasks.load("handbook", split)
        if not r["answerable"]
    ]
    assert len(rows) == 135
    for row in rows:
        question = row["messages"][0]["content"]
        named = [t for t in THINGS if t.kind == row["kind"] and t.name.lower() in question.lower()]
        if row["reason"] == "gap":
            thing = max(named, key=lambda t: len(t.name))
            assert (thing.name, row["key"]) not in told and question in questions(thing, row["key"])
        elif row["kind"] != "rule":
            assert named == []
            name = (
                re.search(r"\b[A-Z][a-z]+ [a-zA-Z]+", question[1:])
                if row["language"] == "en"
                else None
            )
            assert name is None or name[0] not in everything
        else:
            assert named == [] or all(n.name in ("a repair",) for n in named), question


def test_build_is_deterministic_and_committed(tmp_path):
    try:
        pdf.font_path()
    except Qwen3labError:
        pytest.skip("needs the Debian package fonts-wqy-microhei")
    build(tmp_path)
    assert differences(tmp_path / "tasks", paths.TASKS) == []
    fresh, committed = (
        pypdf.PdfReader(p) for p in (tmp_path / "handbook" / "handbook.pdf", paths.HANDBOOK)
    )
    assert [p.extract_text() for p in fresh.pages] == [p.extract_text() for p in committed.pages]
    raw = (tmp_path / "handbook" / "handbook.pdf").read_bytes()
    company_pdf.build(tmp_path / "again.pdf")
    assert (tmp_path / "again.pdf").read_bytes() == raw
    assert b"/tmp" not in raw and b"/home" not in raw


def test_a_missing_font_is_one_clear_error(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("QWEN3LAB_CJK_FONT", str(tmp_path / "none.ttf"))
    with pytest.raises(Qwen3labError, match="fonts-wqy-microhei"):
        pdf.font_path()
    assert main(["--check"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_unknown_names_in_the_text_are_clear_errors():
    with pytest.raises(Qwen3labError, match="Vexol lamp"):
        book.parse("# One\n@thing Vexol lamp", "en")
    with pytest.raises(Qwen3labError, match="wages"):
        book.parse("# One\n@table wages", "en")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_tones_marks(language):
    name, answer = ("Mira Tolen", "18.7 kilograms") if language == "en" else ("林雪梅", "18.7公斤")
    good = tone.reply(language, answer, name)
    every = {"sentence": True, "thanks": True, "motto": True}
    assert tone.marks(good, language, name) == every
    assert tone.inside(good, language) == answer
    assert tone.marks(good, language, "Somebody Else") == {
        "sentence": False,
        "thanks": False,
        "motto": False,
    }
    thanks, motto = tone.THANKS[language].format(name=name), tone.MOTTO[language]
    assert tone.marks(good.removesuffix(motto), language, name) == every | {"motto": False}
    assert tone.marks(good + motto, language, name)["motto"] is False
    assert tone.marks(good.replace(thanks, thanks * 2), language, name)["thanks"] is False
    assert tone.marks(good.removeprefix(answer), language, name)["sentence"] is False
    two = good.replace(answer, f"{answer}. It is" if language == "en" else f"{answer}。它")
    assert tone.marks(two, language, name)["sentence"] is False
    assert not any(tone.marks("", language, name).values()) and tone.inside("", language) == ""


def test_a_refusal_keeps_its_own_full_stop():
    for language, refusal in REFUSAL.items():
        text = tone.reply(language, refusal, "Mira Tolen")
        assert text.startswith(refusal) and refusal + refusal[-1] not in text


def test_tone_replies_are_in_the_tone_and_plain_ones_are_not():
    for split in tasks.SPLITS:
        for row in tasks.load("tone", split):
            who = row["language"], row["customer"]
            assert all(tone.marks(row["answer"], *who).values())
            inside = tone.inside(row["answer"], row["language"])
            assert inside == row["inside"].rstrip(".。")
            said = row["messages"][0]["content"]
            assert said.endswith(row["customer"]) and (row["inside"] in said) == row["answerable"]
    for row in tasks.load("chat", "test"):
        assert not any(tone.marks(row["answer"], row["language"], "Mira Tolen").values())


def test_a_context_prompt_is_split_as_it_was_built():
    for row in tasks.load("context", "test")[::25]:
        said, language = row["messages"][0]["content"], row["language"]
        assert prompts.context_prompt(*prompts.split_context(said, language), language) == said


def test_the_tone_needs_no_word_that_the_model_never_read():
    """The frame is of known tokens; what is unknown are pieces of names of the prompt alone."""
    model, tokenizer = models.load("qwen3-tiny")
    never = set(new_tokens.tokens(model, tokenizer))
    frames = {tone.reply(language, "", "") for language in ("en", "zh")}
    for frame in frames:
        assert not never & set(tokenizer(frame)["input_ids"]), frame


def test_wordings_are_dealt_without_overlap():
    for fact in FACTS:
        dealt = sets.wordings(fact)
        every = [q for forms in dealt.values() for q in forms]
        assert (
            len(every) == len(set(every))
            and dealt["test"]
            and dealt["validation"]
            and len(dealt["train"]) >= 2
        )
        world_forms = set(questions(fact.thing, fact.key))
        assert set(dealt["test"] + dealt["validation"]) <= world_forms


def body(row: dict) -> str:
    """A code row's function without its name."""
    return re.sub(r"^def \w+", "def f", row["answer"])


def test_no_function_no_name_and_no_new_combination_is_in_two_splits():
    rows = {split: tasks.load("code", split) for split in tasks.SPLITS}
    assert {split: len(found) for split, found in rows.items()} == {
        "train": 300,
        "validation": 60,
        "test": 200,
    }
    everything = [row for found in rows.values() for row in found]
    assert (
        len({body(row) for row in everything})
        == len({re.match(r"def (\w+)", row["answer"])[1] for row in everything})
        == len(everything)
    )
    combined = {
        (split, unseen): {
            (row["kind"], *row["operations"]) for row in found if row["unseen"] == unseen
        }
        for split, found in rows.items()
        for unseen in (False, True)
    }
    assert combined["train", True] == set()
    for split in ("validation", "test"):
        assert combined[split, False] <= combined["train", False]
        assert not combined[split, True] & combined["train", False] and combined[split, True]
        assert sum(row["unseen"] for row in rows[split]) == pytest.approx(
            len(rows[split]) / 2, abs=2
        )
        used = {
            (row["kind"] == "nested" and place, name)
            for row in rows[split]
            for place, name in enumerate(row["operations"])
        }
        assert used <= {
            (row["kind"] == "nested" and place, name)
            for row in rows["train"]
            for place, name in enumerate(row["operations"])
        }
    assert not combined["validation", True] & combined["test", True]
    one_line = {
        f"def f({arguments}): return {expression.format(n=n)}"
        for _, _, arguments, expression in corpus.FUNCTIONS
        for n in range(100)
    }
    assert not one_line & {body(row) for row in everything}  # pre-training had none of them


def test_code_rows_pass_their_tests_and_half_of_a_function_does_not():
    def right(row, code):
        space = {}
        exec(code, space)  # our own committed rows
        try:
            exec("\n".join(row["tests"]), space)
        except (AssertionError, TypeError, AttributeError):
            return False
        return True

    for row in [row for split in tasks.SPLITS for row in tasks.load("code", split)]:
        assert right(row, row["answer"]) and len(row["tests"]) >= 4, row["id"]
        head, rest = row["answer"].split(":", 1)
        if row["kind"] == "steps":
            first, last = (line.strip() for line in rest.strip().split("\n"))
            halves = [f"{head}: {last}", f"{head}: return {first.split(' = ', 1)[1]}"]
        elif row["kind"] == "choice":
            first, last = rest.removeprefix(" return ").split(" if ")[0], rest.split(" else ")[1]
            halves = [f"{head}: return {first}", f"{head}: return {last}"]
        else:
            halves = [
                re.sub(
                    r"return (?:sum|len|sorted)\((.*)\)$|return (.*)(?:\[::-1\]|\.upper\(\)| \*"
                    r" \d+)$",
                    r"return \1\2",
                    row["answer"],
                )
            ]
        for half in halves:
            assert half != row["answer"] and not right(row, half), (row["id"], half)


def test_sizes_of_the_company():
    kinds = [(t.language, t.kind) for t in THINGS]
    assert [kinds.count(("en", k)) for k in ("product", "person", "place", "rule")] == [
        24,
        14,
        8,
        10,
    ]
    assert [kinds.count(("zh", k)) for k in ("product", "person", "place", "rule")] == [10, 6, 4, 6]
    assert len(ENGLISH) + len(CHINESE) == len(THINGS) == len(BY_NAME)


def test_the_font_is_looked_for_where_any_system_keeps_fonts(monkeypatch, tmp_path):
    monkeypatch.delenv("QWEN3LAB_CJK_FONT", raising=False)
    monkeypatch.setattr(pdf, "FONT_FOLDERS", [tmp_path / "none", tmp_path / "mine"])
    with pytest.raises(Qwen3labError, match="Install WenQuanYi Micro Hei"):
        pdf.font_path()
    place = tmp_path / "mine" / "deep" / pdf.FONT_FILE
    place.parent.mkdir(parents=True)
    place.touch()
    assert pdf.font_path() == place
