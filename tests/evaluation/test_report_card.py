"""The page is one valid piece of HTML without anything from outside; what users and models wrote
stays text; its numbers are the modules' own.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from qwen3lab import evaluation, models, training
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import perplexities, report_card, slices

VOID = {"meta", "img", "!doctype"}
ATTACKS = [
    "<script>alert(1)</script>",
    "</pre></dd><img src=x onerror=alert(1)>",
    "\"><a href='https://example.org'>",
    "````\n<b>out of the fence</b>\n```",
    "| a | b |\n|---|",
    "[x](javascript:alert(1)) ![y](https://example.org/y.png)",
    "&lt;b&gt; &amp;",
    "\u202etxet\u202c \x00\x1b[31m \ud800",
    "<!--",
    "]]>",
    "<style>body{display:none}</style>",
    "# head\n---\n> q",
]


class Page(HTMLParser):
    """Collects tags, attributes and text, and fails on an unbalanced document."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.texts, self.cells = [], [], [], {}, []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)


def _rows(texts):
    return [
        {
            "id": f"r{i}<i>",
            "task": "t<u>" if i % 2 else "s|s",
            "language": "en" if i % 3 else "zh",
            "messages": [{"role": "user", "content": text}],
            "answer": text,
            "thinking": False,
        }
        for i, text in enumerate(texts)
    ]


def _answers(rows, right=lambda i: i % 2 == 0):
    return pd.DataFrame(
        [
            {
                "id": row["id"],
                "task": row["task"],
                "language": row["language"],
                "reference": row["answer"],
                "prediction": row["messages"][0]["content"],
                "thoughts": "",
                "correct": right(i),
                "refused": False,
            }
            for i, row in enumerate(rows)
        ]
    )


@pytest.fixture(scope="module")
def attacked(checkpoint):
    rows = _rows([text.replace("\ud800", "") for text in ATTACKS])
    model, tokenizer = models.load(checkpoint)
    return report_card.card(
        model,
        tokenizer,
        rows=rows,
        answers=_answers(rows),
        train=rows[:3],
        title="<script>Card",
        examples=6,
        least=2,
    )


def test_nothing_of_a_text_becomes_html(attacked):
    page = Page(attacked.html)
    allowed = {
        "html",
        "head",
        "body",
        "meta",
        "title",
        "div",
        "style",
        "h1",
        "h2",
        "p",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "dl",
        "dt",
        "dd",
        "pre",
        "img",
    }
    assert (
        set(page.tags) <= allowed and page.tags.count("style") == 1 and page.tags.count("img") == 0
    )
    assert {name for _, name, _ in page.attributes} <= {
        "lang",
        "charset",
        "http-equiv",
        "content",
        "name",
        "class",
        "scope",
        "alt",
        "src",
    }
    shown = page.texts["pre"]
    for text in ATTACKS[:7] + ATTACKS[8:]:
        assert (
            sum(re.sub(r"[\x00\x1b]", "\ufffd", text) == found for found in shown) == 3
        )  # asked, wanted, written
    assert repr(attacked).startswith("<script>Card: Model, Scores, ")
    assert (
        page.texts["title"] == ["<script>Card"]
        and "t<u>" in page.texts["td"]
        and "s|s" in page.texts["td"]
    )
    assert any("r1<i>" in text for text in page.texts["dt"])


def test_nothing_comes_from_outside(attacked):
    outside = re.sub(r"<pre>.*?</pre>", "", attacked.html, flags=re.DOTALL)
    assert not re.search(r"https?:|url\(|@import|<link|<script|<iframe", outside)
    page = Page(attacked.html)
    assert (
        "meta",
        "content",
        report_card.POLICY,
    ) in page.attributes and "default-src 'none'" in report_card.POLICY


def _outside_fences(markdown):
    """The lines of a Markdown text that stand in no fenced block, by CommonMark's rule: a fence
    ends at one that is at least as long.
    """
    kept, fence = [], ""
    for line in markdown.split("\n"):
        ticks = re.match(r"`{3,}", line)
        if not fence and ticks:
            fence = ticks[0]
        elif fence and re.fullmatch(r"`{3,}\s*", line) and len(line.strip()) >= len(fence):
            fence = ""
        elif not fence:
            kept.append(line)
    assert not fence
    return kept


def test_nothing_of_a_text_becomes_markdown(attacked):
    lines = _outside_fences(attacked.markdown)
    text = "\n".join(lines)
    assert (
        "<" not in text
        and "alert" not in text
        and "example" not in text
        and "out of the fence" not in text
    )
    assert [line for line in lines if line.startswith("#")] == [
        line for line in lines if re.match(r"#{1,2} (&lt;script&gt;Card$|[A-Z])", line)
    ]
    tables = [line for line in lines if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in tables]
    assert set(widths) <= {9, 8, 5} and any(r"s\|s" in line for line in tables)
    for attack in ("````\n<b>out of the fence</b>\n```", "# head\n---\n> q"):
        assert attacked.markdown.count(attack) == 3


@pytest.fixture(scope="module")
def trained(checkpoint):
    rows = _rows([f"Say {n} and {'more ' * (n % 4)}" for n in range(60)])
    run = training.fine_tune(checkpoint, rows, method="lora", steps=4, batch_size=4, seed=3)
    return run, rows, _answers(rows)


def test_the_numbers_are_the_modules_own(trained):
    run, rows, answers = trained
    card = report_card.card(run, rows=rows, answers=answers, train=rows[:30], cost=False)
    page, text = Page(card.html), card.markdown
    low, high = evaluation.wilson(30, 60)
    assert (
        f"| all | 60 | 30 | 0.500 | {low:.3f} to {high:.3f} |" in text
        and run.summary() in page.texts["p"][0]
    )
    assert "Learning rate 0.004, 4 rows a step, seed 3." in page.texts["p"]
    found = slices.worst(slices.describe(answers, rows))
    assert (
        f"Of {found.attrs['tests']} slices of at least 20 rows, {int(found.bad.sum())} are worse"
        in card.sections[2].sentences[0]
        and found.bad.any()
    )
    assert (
        "task = t&lt;u&gt;" in text
        and found.slice[0] == "task = t<u>"
        and card.sections[2].table["slice"].tolist() == found.slice.head(5).tolist()
    )
    by_part = perplexities.by_part(run.model, run.tokenizer, rows)
    assert (
        f"| answer | {by_part.tokens['answer']:,} | {by_part.loss['answer']:.3f} |"
        f" {by_part.perplexity['answer']:,.2f} |" in text
    )
    assert "Right: 2 of 30 shown" in page.texts["h2"] and "Wrong: 2 of 30 shown" in page.texts["h2"]
    some = report_card.card(run, rows=rows, answers=answers, scored=5, cost=False).markdown
    assert (
        f"| answer | {perplexities.by_part(run.model, run.tokenizer, rows[:5]).tokens['answer']} |"
        in some
        and "of 5 rows" in some
    )
    hits = next(line for line in text.splitlines() if line.startswith("| 13 words, one run |"))
    assert (
        hits == "| 13 words, one run | 60 | 30 | 0.500 |"
    )  # the trained half; a text of fewer words is looked for as a whole
    (image,) = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert image.startswith("data:image/png;base64,iVBOR")


def test_cost_is_all_that_differs_from_machine_to_machine(trained):
    run, rows, answers = trained
    plain, again = (report_card.card(run, rows=rows, answers=answers, cost=False) for _ in range(2))
    assert plain.html == again.html and run.cost() not in plain.markdown.replace("\\", "")
    assert run.cost() in report_card.card(run, rows=rows, answers=answers).html
    assert "Not checked: no training rows were given." in plain.markdown


def test_saved_pages_are_utf8_and_short(attacked, tmp_path):
    paths = attacked.save(tmp_path / "new", "card")
    assert [path.name for path in paths] == ["card.html", "card.md"]
    assert [path.read_bytes().decode("utf-8") for path in paths] == [
        attacked.html,
        attacked.markdown,
    ]
    long = report_card.Section("x", examples=[("Asked", report_card.shorten("a" * 5000))]).to_html()
    assert len(long) < 400
    assert "\ud800" not in report_card.Section("\ud800", ["a\r\nb\x00"]).to_html()


def test_a_model_answers_by_itself():
    model, tokenizer = models.load("chat")
    rows = [row for row in tasks.load("chat", "test") if row["task"] == "lookup"][:6]
    text = report_card.card(model, tokenizer, rows=rows, max_new_tokens=8).markdown
    right = int(evaluation.evaluate_tasks(model, tokenizer, rows, max_new_tokens=8).correct.sum())
    assert f"| all | 6 | {right} |" in text and "3,410,688 parameters; not trained here." in text


def test_mistakes_get_a_sentence(checkpoint):
    model, tokenizer = models.load(checkpoint)
    for arguments in ({"rows": []}, {"rows": _rows(["a"]), "tokenizer": None}):
        with pytest.raises(Qwen3labError, match="needs a tokenizer and test rows"):
            report_card.card(model, **({"tokenizer": tokenizer} | arguments))
    with pytest.raises(Qwen3labError, match="do not belong"):
        report_card.card(model, tokenizer, rows=_rows(["a", "b"]), answers=_answers(_rows(["a"])))
