"""The Chinese edition is in step with the English one, and each fault that the gate knows of is
found when it is planted.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import nbformat
import polib
import pytest

from qwen3lab import locale, paths
from qwen3lab.course import notebooks as course
from scripts.zh import messages, notebooks, rules

TERMS = rules.glossary()
ENGLISH = [
    "# Perplexity\n\nRead [the glossary](../docs/glossary.md) and `model.loss` first.",
    "After 60 steps the loss is $-\\log p$, **half** of what it was at first; see [the next"
    " notebook](02_more.ipynb).",
]
CHINESE = [
    "# 困惑度\n\n先读[术语表](../docs/glossary.md)和 `model.loss`。",
    "60 步之后，损失 $-\\log p$ 只剩开始时的**一半**；见[下一本笔记本](02_more.ipynb)。",
]


@pytest.mark.parametrize("path", course.every(), ids=course.short)
def test_every_cell_is_translated(path):
    name = course.short(path)
    rendered = notebooks.ZH / f"{name}.ipynb"
    assert notebooks.faults(path, notebooks.catalogue_of(name), rendered, TERMS) == []


def test_every_message_is_translated():
    assert messages.faults() == []


def test_nothing_is_left_of_a_notebook_that_has_gone():
    names = {course.short(path) for path in course.every()}
    assert {course.short(path) for path in course.every(notebooks.ZH)} == names
    there = {path.relative_to(rules.LOCALE) for path in rules.LOCALE.rglob("*.po")}
    assert there == {Path(f"{name}.po") for name in names} | {Path(messages.PO.name)}


@pytest.mark.parametrize("path", course.every(), ids=course.short)
def test_all_but_the_text_stays_byte_for_byte(path):
    rendered = notebooks.ZH / f"{course.short(path)}.ipynb"
    books = [nbformat.read(file, as_version=4) for file in (path, rendered)]
    nbformat.validate(books[1])
    for book in books:
        for cell in book.cells:
            if cell.cell_type == "markdown":
                cell.source = ""
    assert books[0] == books[1]


# Faults, each planted in a small notebook of two cells.


class Edition:
    """A notebook with a code cell, its catalogue and its translation, in a folder."""

    def __init__(self, folder: Path):
        self.path, self.file = folder / "01_toy.ipynb", folder / "01_toy.po"
        self.rendered = folder / "zh" / "01_toy.ipynb"
        self.rendered.parent.mkdir()
        self.write(ENGLISH)
        notebooks.update(self.path, self.file).save(self.file)
        said = {f"text-{place}": text for place, text in enumerate(CHINESE)}
        assert notebooks.take(self.file, said | {"other": ""}) == ["other"]
        self.render()

    def write(self, texts: list[str]) -> None:
        cells = [
            nbformat.v4.new_markdown_cell(text, id=f"text-{place}")
            for place, text in enumerate(texts)
        ]
        cells.append(nbformat.v4.new_code_cell("1 + 1", id="code"))
        nbformat.write(nbformat.v4.new_notebook(cells=cells), self.path)

    def render(self) -> None:
        text = notebooks.render(self.path, self.file)
        self.rendered.write_text(text, encoding="utf-8")

    def say(self, place: int, text: str) -> None:
        notebooks.take(self.file, {f"text-{place}": text})
        self.render()

    def faults(self) -> list[str]:
        return notebooks.faults(self.path, self.file, self.rendered, TERMS)


@pytest.fixture
def edition(tmp_path) -> Edition:
    made = Edition(tmp_path)
    assert made.faults() == []
    return made


@pytest.mark.parametrize(
    "place, old, new, fault",
    [
        (0, "困惑度", "难度", "the term 'Perplexity' without one of ['困惑度']"),
        (0, "`model.loss`", "损失", "code spans: lost ['model.loss'], new []"),
        (0, "glossary.md", "words.md", "links: lost ['../docs/glossary.md'], new ["),
        (0, "# ", "", "another number of headings"),
        (1, "60", "50", "numbers: lost ['60'], new ['50']"),
        (1, "p$", "q$", "formulas: lost ['$-\\\\log p$'], new ["),
        (1, "60 步", "60步", "no space: "),
        (1, "，", ", ", "half-width mark: "),
        (1, "**一半**", "一半", "another number of bold marks"),
        (1, "**一半**；见", "**一半；**见", "bold marks that stay visible"),
        (1, CHINESE[1], ENGLISH[1], "0 Chinese characters for 1"),
        (1, CHINESE[1], "", "not translated"),
    ],
)
def test_a_planted_fault_is_found(edition, place, old, new, fault):
    assert old in CHINESE[place]
    edition.say(place, CHINESE[place].replace(old, new))
    found = edition.faults()
    fault = fault.replace("'Perplexity'", "'perplexity'")
    assert found and any(line.startswith(f"text-{place}: {fault}") for line in found), found


def test_one_changed_word_makes_a_cell_fuzzy_until_it_is_translated(edition):
    edition.write([ENGLISH[0], ENGLISH[1].replace("half", "a third")])
    assert [line.split(";")[0] for line in edition.faults()] == ["text-1: the cell has changed"]
    notebooks.update(edition.path, edition.file).save(edition.file)
    entry = next(entry for entry in polib.pofile(edition.file) if entry.msgctxt == "text-1")
    assert (entry.previous_msgid, entry.fuzzy, entry.msgstr) == (ENGLISH[1], True, CHINESE[1])
    assert "text-1: translated from an older text" in edition.faults()
    edition.say(1, CHINESE[1].replace("一半", "三分之一"))
    assert edition.faults() == []


def test_cells_that_came_and_went_are_found(edition):
    edition.write(ENGLISH[:1])
    assert edition.faults()[0] == "text-1: the notebook has no such cell"
    notebooks.update(edition.path, edition.file).save(edition.file)
    edition.write(ENGLISH)
    assert "text-1: not in the catalogue" in edition.faults()
    notebooks.update(edition.path, edition.file).save(edition.file)
    assert "text-1: not translated" in edition.faults()
    assert {"text-0": CHINESE[0], "text-1": ""} == {
        entry.msgctxt: entry.msgstr for entry in polib.pofile(edition.file)
    }


def test_an_obsolete_entry_and_a_notebook_that_was_not_written_again_are_found(edition):
    catalogue = polib.pofile(edition.file)
    catalogue[1].obsolete = True
    catalogue.save()
    assert "text-1: the notebook has no such cell" in edition.faults()
    (second := edition.path.parent / "second").mkdir()
    edition = Edition(second)
    text = edition.rendered.read_text(encoding="utf-8")
    edition.rendered.write_text(text.replace("困惑度", "困惑的度"), encoding="utf-8")
    assert edition.faults() == [
        "the Chinese notebook is not the one of the catalogue; run `make zh`"
    ]


def test_links_follow_one_folder_deeper():
    text = "[a](../docs/x.md#here) [b](deeper/01_y.ipynb) [c](https://x.org/../y) [d](#place)"
    assert notebooks.moved(text) == text.replace("../docs", "../../docs")
    text = "[a](../../docs/x.md) [b](../01_y.ipynb) [c](02_z.ipynb)"
    assert notebooks.moved(text, "deeper") == text.replace("../../docs", "../../../docs")


@pytest.mark.parametrize("path", course.every(notebooks.ZH), ids=course.short)
def test_links_of_the_chinese_notebooks_lead_somewhere(path):
    targets = [
        found[2]
        for text in notebooks.cells(path).values()
        for found in notebooks.LINK.finditer(text)
    ]
    assert not [target for target in targets if not (path.parent / target).exists()]


# The package's messages.

SOURCE = '''
def check(model, rows):
    """Not a message."""
    if not rows:
        raise Qwen3labError(
            f"The model {model.name!r} got no rows. Give {'one row' if model else 'two rows'}."
        )
'''


@pytest.fixture
def package(tmp_path) -> Path:
    """A package of one file, outside of the rooms of exercises, commands and charts."""
    folder = tmp_path / "qwen3lab" / "data"
    folder.mkdir(parents=True)
    (folder / "rows.py").write_text(SOURCE, encoding="utf-8")
    return folder.parent


def test_messages_are_collected_as_templates(package):
    found = [text for kind, text in messages.collect(package) if kind == "error"]
    assert found == ["The model {name} got no rows. Give {model}.", "one row", "two rows"]


@pytest.mark.parametrize(
    "change, fault",
    [
        (lambda text: text.replace("模型 {name}", "这个模型"), "holes: lost ['name'], new []"),
        (lambda text: text.replace("两行数据", ""), "not translated"),
        (lambda text: text.replace('msgid "one row"', 'msgid "six rows"'), "not in the catalogue"),
        (lambda text: text.replace('msgid "one row"', 'msgid "six rows"'), "no longer a message"),
    ],
)
def test_a_planted_fault_in_the_messages_is_found(package, tmp_path, change, fault):
    found, file, mo = messages.collect(package), tmp_path / "toy.po", tmp_path / "toy.mo"
    catalogue = messages.update(file, found)
    for entry, text in zip(
        catalogue, ["模型 {name} 没有拿到样本。请给出{model}。", "一行数据", "两行数据"]
    ):
        entry.msgstr = text
    catalogue.save(file)
    assert messages.faults(file, mo, found) == ["toy.mo is not compiled from toy.po; run `make zh`"]
    mo.write_bytes(messages.compiled(file))
    assert messages.faults(file, mo, found) == []
    file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")
    assert any(fault in line for line in messages.faults(file, mo, found))


def filled(template: str) -> str:
    """A template with a sample in each hole."""
    return template.format_map({hole: f"<{hole}>" for hole in holes(template)})


def holes(template: str) -> list[str]:
    return list(locale.pattern(template).groupindex)


@pytest.mark.parametrize("kind", messages.KINDS)
def test_every_template_is_found_again_with_its_holes_in_place(kind, monkeypatch):
    monkeypatch.setenv("QWEN3LAB_LANG", "zh")
    entries = [entry for entry in polib.pofile(messages.PO) if entry.msgctxt == kind]
    assert entries
    for entry in entries:
        assert locale.translate(filled(entry.msgid), kind) == filled(entry.msgstr), entry.msgid


def test_holes_are_translated_too_and_what_is_unknown_stays(monkeypatch):
    monkeypatch.setenv("QWEN3LAB_LANG", "zh")
    assert "{" not in locale.translate("not yet. On one question your answer is 1.", "exercise")
    assert locale.translate("Nobody ever said this.", "error") == "Nobody ever said this."


@pytest.mark.parametrize(
    "given, language",
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8", "LANGUAGE": "zh_CN:de"}, "zh"),
        ({"LANGUAGE": "en:zh"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "QWEN3LAB_LANG": "en"}, "en"),
        ({"LANG": "C", "QWEN3LAB_LANG": "zh"}, "zh"),
    ],
)
def test_the_language_is_the_learners(given, language, monkeypatch):
    for name in locale.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert locale.language() == language


def test_english_costs_nothing(monkeypatch):
    monkeypatch.setattr(locale, "catalogue", lambda kind: pytest.fail("the catalogue was read"))
    text = "This model does not exist."
    assert locale.translate(text, "error") is text


def test_the_catalogue_is_installed_with_the_package():
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (pattern,) = project["tool"]["setuptools"]["package-data"]["qwen3lab.locale"]
    assert list(Path(locale.__file__).parent.glob(pattern)) == [locale.CATALOGUE]


HAN = re.compile(f"[{rules.HANZI}]")


def test_an_exercise_speaks_chinese(monkeypatch, capsys, tmp_path):
    from qwen3lab.exercises import ex01

    monkeypatch.setenv("QWEN3LAB_LANG", "zh")
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    one = ex01.active_parameters
    one.check(lambda total, layers, experts, k, hidden, moe_ffn: total * k / experts)
    one.check(one.answer)
    one.hint()
    wrong, right, hint = capsys.readouterr().out.splitlines()
    for line in (wrong, right, hint, repr(one)):
        assert len(HAN.findall(line)) > 10 and "active_parameters" in line, line
    monkeypatch.setenv("QWEN3LAB_LANG", "en")
    one.check(one.answer)
    assert capsys.readouterr().out == f"Exercise 1.1, active_parameters: right. {one.why}\n"


def test_an_error_and_the_command_line_speak_chinese(monkeypatch, capsys):
    from qwen3lab.course import cli

    monkeypatch.setenv("QWEN3LAB_LANG", "zh")
    assert cli.main(["run", "99"]) == 1
    message = capsys.readouterr().err
    assert "'99'" in message and "03_lora" in message and len(HAN.findall(message)) > 5
    with pytest.raises(SystemExit):
        cli.main(["plan", "--help"])
    told = capsys.readouterr().out
    assert len(HAN.findall(told)) > 100 and "--optimiser" in told and "%(default)s" not in told


def loss_curve():
    import pandas as pd

    from qwen3lab import plots

    return plots.loss_curves({"LoRA": pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0]})})


def test_a_chart_speaks_chinese_where_a_font_does(monkeypatch, capsys):
    from matplotlib import font_manager

    from qwen3lab.plots import style

    monkeypatch.setenv("QWEN3LAB_LANG", "zh")
    monkeypatch.setattr(font_manager, "get_font_names", lambda: ["DejaVu Sans"])
    style.chinese_font.cache_clear()
    for figure in (loss_curve(), loss_curve()):
        assert figure._repr_png_() and figure.axes[0].get_xlabel() == "optimiser step"
    assert capsys.readouterr().err.count("Noto Sans CJK") == 1
    monkeypatch.setattr(style, "chinese_font", lambda: "DejaVu Sans")
    figure = loss_curve()
    style.speak(figure)
    assert HAN.search(figure.axes[0].get_xlabel()) and HAN.search(figure.axes[0].get_ylabel())
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "LoRA"


def test_names_on_an_axis_are_translated_and_numbers_stay(monkeypatch):
    from qwen3lab.plots import style

    monkeypatch.setenv("QWEN3LAB_LANG", "zh")
    monkeypatch.setattr(style, "chinese_font", lambda: "DejaVu Sans")
    figure, ax = style.axes_of()
    ax.bar(["failure", "healthy", "qwen3-tiny"], [1, 2, 3])
    style.speak(figure)
    *said, name = [tick.get_text() for tick in ax.get_xticklabels()]
    assert all(HAN.search(word) for word in said) and name == "qwen3-tiny"
    assert not any(HAN.search(tick.get_text()) for tick in ax.get_yticklabels())


def test_the_page_of_terms_agrees_with_the_terms_of_the_translation():
    lines = (paths.ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][1:]
    apart = {
        english: (chinese, TERMS[english])
        for english, chinese, _ in rows
        if english in TERMS and TERMS[english] != [english]  # a name that stays
        if not any(form in chinese for form in TERMS[english])
    }
    assert apart == {}


def readme(name: str) -> str:
    """A README without its line that leads to the other language."""
    text = (paths.ROOT / name).read_text(encoding="utf-8")
    return re.sub(r"(?m)^\[(?:English|中文)\]\(.*\)\n", "", text)


def test_the_chinese_readme_has_the_commands_names_and_numbers_of_the_english_one():
    english, chinese = readme("README.md"), readme("README.zh.md")

    def commands(text: str) -> list[str]:
        return [line.split(" #")[0].rstrip() for line in text.splitlines() if line[:4] == "    "]

    def names(text: str) -> list[str]:
        blocks = "".join(rules.FENCE.findall(text)).splitlines()
        return [re.split(r"(?<=\S)  ", line)[0] for line in blocks]

    def rows(text: str) -> list[list[str]]:
        lines = [line for line in text.splitlines() if line.startswith("|")]
        return [sorted(re.findall(r"`[^`]+`|\d[\d.,]*\d|\d", line)) for line in lines]

    assert commands(chinese) == commands(english) and len(commands(english)) > 10
    assert names(chinese) == names(english)
    assert rows(chinese) == rows(english)
    # The table that a command prints stays as it is.
    said = [
        re.sub(r"(?s)<!-- models -->.*<!-- end of models -->|```.*?```", "", text)
        for text in (english, chinese)
    ]
    assert rules.faults(*said, {}) == []
