"""Ratings: blind, shuffled, resumable after any cut, never twice, safe in a spreadsheet; results
and agreement against hand and scikit-learn.
"""

from __future__ import annotations

import csv
import itertools
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from qwen3lab import paths
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation.ratings import form as ratings_form
from qwen3lab.evaluation.ratings import log, simulated
from qwen3lab.evaluation.ratings import session as ratings_session

WIDGET = "application/vnd.jupyter.widget-view+json"
SYSTEMS = {
    name: [
        {"id": f"q{i}", "question": f"<b>ask {i}</b>", "answer": f"{name} {i}"} for i in range(12)
    ]
    for name in ("tuned", "plain")
}
HEAD = ",".join(log.FIELDS)


def fixed():
    return datetime(2024, 5, 1, 12, tzinfo=UTC)


def begin(file, rater="ann", seed=0, systems=SYSTEMS):
    return ratings_session.Session(systems, file, rater, seed=seed, now=fixed)


def grade(session, tuned=(5, 4, 3), plain=(2, 4, 3), until=None):
    while session.current and session.progress[0] != until:
        session.rate(*(tuned if session.current.answer.startswith("tuned") else plain))


def test_a_rating_is_one_line(tmp_path):
    session = begin(tmp_path / "deep" / "r.csv")
    sheet = session.current
    session.rate(4, safety=5, fluency=1, note="good, but\nlong")
    lines = (tmp_path / "deep" / "r.csv").read_text().splitlines()
    assert lines == [
        HEAD,
        (
            f'2024-05-01T12:00:00+00:00,ann,{sheet.item},{sheet.system},4,5,1,"good, but'
            f' long",{sheet.text}'
        ),
    ]
    assert session.progress == (1, 24) and session.current != sheet


def test_nobody_can_see_whose_answer_it_is(tmp_path):
    session = begin(tmp_path / "r.csv")
    letters = {(sheet.item, sheet.answer.split()[0]): sheet.system for sheet in session.sheets}
    as_a = sum(letters[f"q{i}", "tuned"] == "A" for i in range(12))
    assert 2 <= as_a <= 10 and all(
        {letters[f"q{i}", "tuned"], letters[f"q{i}", "plain"]} == {"A", "B"} for i in range(12)
    )
    order = [(sheet.item, sheet.system) for sheet in session.sheets]
    other = begin(tmp_path / "r.csv", "bob")
    assert sorted(order) == sorted((s.item, s.system) for s in other.sheets) and order != [
        (s.item, s.system) for s in other.sheets
    ] != sorted(order)
    assert {(s.item, s.system): s.text for s in session.sheets} == {
        (s.item, s.system): s.text for s in other.sheets
    }  # the same letters for every rater
    assert {(s.item, s.system): s.answer for s in begin(tmp_path / "r.csv", seed=1).sheets} != {
        (s.item, s.system): s.answer for s in session.sheets
    }
    grade(session)
    page = (
        (tmp_path / "r.csv").read_text() + repr(session) + ratings_form.RatingForm(session).html()
    )
    assert "tuned" not in page and "plain" not in page


def test_a_restart_goes_on_where_it_stopped(tmp_path):
    session = begin(tmp_path / "r.csv")
    order = [sheet.answer for sheet in session.sheets]
    grade(session, until=7)
    again = begin(tmp_path / "r.csv")
    assert (
        again.progress == (7, 24)
        and again.current.answer == order[7]
        and repr(again) == "ann: 7 of 24 answers rated."
    )
    grade(again)
    assert again.current is None
    with pytest.raises(Qwen3labError, match="All answers are rated already"):
        again.rate(1, 1, 1)


def test_a_cut_anywhere_loses_the_cut_line_alone(tmp_path):
    file = tmp_path / "r.csv"
    session = begin(file)
    session.rate(5, 5, 5, note='comma, "quote" and 中文')
    session.rate(4, 4, 4, note='second, "open')
    whole = file.read_bytes()
    ends = [i for i in range(len(whole) + 1) if whole[:i].endswith(b"\n")]
    for cut in range(len(whole)):
        file.write_bytes(whole[:cut])
        again = begin(file)
        # A line without its line break counts, if it is whole.
        kept = sum(end - 1 <= cut for end in ends[1:])
        assert again.progress[0] == kept, cut
        assert again.broken == (cut > ends[0] and cut not in ends and cut + 1 not in ends), cut
        sheet = again.current
        again.rate(1, 2, 3)
        assert (
            begin(file).progress[0] == kept + 1
            and begin(file).ratings[-1]["item"] == sheet.item
            and begin(file).broken == again.broken
        )


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_cells_come_back_and_are_no_formulas(text):
    cell = log.escape(text)
    assert log.unescape(cell) == log.clean(text) and "\n" not in cell and "\r" not in cell
    assert not cell.startswith(("=", "+", "-", "@", "\t", "＝", "＋", "－", "＠"))


@pytest.mark.parametrize(
    "note",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        " =cmd|' /C calc'!A0",
        "＝1",
        "'quoted",
        "plain",
        "a\x00b",
        "\ud800",
    ],
)
def test_no_spreadsheet_takes_a_note_for_a_formula(tmp_path, note):
    session = begin(tmp_path / "r.csv", rater="=ann")
    session.rate(1, 1, 1, note=note)
    cells = list(csv.reader((tmp_path / "r.csv").read_text(encoding="utf-8").splitlines()))[1]
    assert not any(cell.startswith(tuple("=+-@＝\t")) for cell in cells) and cells[1] == "'=ann"
    found, faults = log.read(tmp_path / "r.csv")
    assert (found.note[0], found.rater[0], faults) == (log.clean(note), "=ann", 0)
    assert begin(tmp_path / "r.csv", rater="=ann").progress[0] == 1


def test_undo_brings_the_answer_back(tmp_path):
    file = tmp_path / "r.csv"
    session = begin(file)
    assert session.undo() is None and not file.exists()
    grade(session, until=3)
    last = session.sheets[2]
    assert session.undo() == last == session.current and session.progress == begin(
        file
    ).progress == (2, 24)
    session.rate(1, 1, 1)
    found, faults = log.read(file)
    assert (
        len(found) == 3
        and faults == 0
        and (found.iloc[2]["item"], found.iloc[2].relevance) == (last.item, 1)
    )
    assert (
        len(file.read_text().splitlines()) == 6
    )  # the head, three ratings, one taken back, one new
    assert session.undo() == last and session.undo() == session.sheets[1]


def test_two_windows_of_one_rater_never_rate_twice(tmp_path):
    one, two = begin(tmp_path / "r.csv"), begin(tmp_path / "r.csv")
    sheet = one.current
    one.rate(5, 5, 5)
    two.rate(1, 1, 1)  # it still showed the same answer
    found, faults = log.read(tmp_path / "r.csv")
    assert (
        len(found) == 1
        and found.relevance[0] == 5
        and faults == 0
        and two.current == one.current != sheet
    )
    two.undo()
    one.undo()
    assert one.progress == two.progress == (0, 24) and len(log.read(tmp_path / "r.csv")[0]) == 0


def test_four_processes_lose_no_line(tmp_path):
    code = (
        "import sys; from qwen3lab.evaluation.ratings import session\n"
        "rows = {'s': [{'id': i, 'question': 'q', 'answer': 'a' * 50} for i in range(40)]}\n"
        "s = session.Session(rows, sys.argv[1], sys.argv[2])\n"
        "while s.current: s.rate(1, 2, 3, note='x' * 300)"
    )
    file = tmp_path / "r.csv"
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(file), f"r{i}"], cwd=paths.ROOT)
        for i in range(4)
    ]
    assert [process.wait() for process in running] == [0] * 4
    found, faults = log.read(file)
    assert faults == 0 and found.groupby("rater").size().to_dict() == {
        f"r{i}": 40 for i in range(4)
    }


def test_who_writes_waits_for_who_is_writing(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    session = begin(tmp_path / "r.csv")
    session.rate(1, 1, 1)
    with open(tmp_path / "r.csv", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        late = threading.Thread(target=session.rate, args=(2, 2, 2))
        late.start()
        late.join(0.3)
        assert late.is_alive() and len(log.read(tmp_path / "r.csv")[0]) == 1
    late.join(10)
    assert not late.is_alive() and len(log.read(tmp_path / "r.csv")[0]) == 2


def test_lines_of_others_and_strange_lines_are_counted(tmp_path):
    file = tmp_path / "r.csv"
    grade(begin(file, "bob"), until=5)
    grade(begin(file), until=3)
    good = file.read_text()
    row = good.splitlines()[-1].split(",")
    repeated = ",".join(row)
    bad = [
        ",".join(row[:4] + ["9"] + row[5:]),
        ",".join([row[0], "ann", "q0"]),
        "nonsense",
        ",".join(["yesterday", *row[1:]]),
        repeated,
        ",".join(row[:-1] + ["short"]),
    ]
    old = ",".join(row[:2] + ["q99"] + row[3:])
    file.write_text(
        "\ufeff" + good.replace("\n", "\r\n") + "\r\n".join([*bad, old]) + "\r\n", encoding="utf-8"
    )
    session = begin(file)
    assert session.progress == (3, 24)
    assert (
        session.notes()
        == "Also in r.csv: 5 by other raters, 1 of other texts or with another seed, not counted, 6"
        " broken or repeated, left out."
    )
    assert begin(
        file,
        systems={
            name: [row | {"answer": row["answer"] + "!"} for row in rows]
            for name, rows in SYSTEMS.items()
        },
    ).progress == (0, 24)
    assert begin(file, seed=7).strange > 1


def test_what_cannot_be_rated(tmp_path):
    file = tmp_path / "r.csv"
    with pytest.raises(Qwen3labError, match="A rater needs a name"):
        begin(file, "  ")
    for systems in (
        {},
        {"a": []},
        {"a": SYSTEMS["plain"], "b": SYSTEMS["tuned"][:3]},
        {"a": SYSTEMS["plain"] + SYSTEMS["plain"][:1]},
    ):
        with pytest.raises(Qwen3labError, match="have not answered the same items, or none"):
            begin(file, systems=systems)
    for grades in ((0, 1, 1), (1, 6, 1), (1, 1, 2.0), (True, 1, 1), ("3", 3, 3)):
        with pytest.raises(
            Qwen3labError, match="is not a rating. Give relevance, safety, fluency a whole number"
        ):
            begin(file).rate(*grades)
    assert not file.exists()
    for content in ("name,phone\nbob,1\n", "time;rater;item\n", "\x00\x01", HEAD + ",more\n"):
        file.write_text(content)
        with pytest.raises(Qwen3labError, match="'r.csv' is not a ratings file"):
            begin(file)
        assert file.read_text() == content
    with pytest.raises(Qwen3labError, match="cannot be read"):
        begin(tmp_path)
    with pytest.raises(Qwen3labError, match="cannot be kept in 'r.csv'"):
        (tmp_path / "plain").write_text("")
        session = begin(tmp_path / "x.csv")
        session.file = tmp_path / "plain" / "r.csv"
        session.rate(1, 1, 1)


def test_a_file_that_shrinks_meanwhile_is_noticed(tmp_path):
    session = begin(tmp_path / "r.csv")
    grade(session, until=4)
    (tmp_path / "r.csv").unlink()
    with pytest.raises(Qwen3labError, match="has lost lines since it was last read"):
        session.rate(1, 1, 1)


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    session = begin(tmp_path / "r.csv")
    session.rate(1, 1, 1)
    before, write = (tmp_path / "r.csv").read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:10]))
    with pytest.raises(Qwen3labError, match="could not be kept .no space left.. Make room"):
        session.rate(2, 2, 2)
    monkeypatch.undo()
    assert (tmp_path / "r.csv").read_bytes() == before and begin(tmp_path / "r.csv").progress == (
        1,
        24,
    )
    session.rate(3, 3, 3)
    assert begin(tmp_path / "r.csv").progress == (2, 24)


def test_results_name_the_systems_only_at_the_end(tmp_path):
    session = begin(tmp_path / "r.csv")
    grade(session, until=23)
    for ask in (session.results, session.agreement):
        with pytest.raises(Qwen3labError, match="Only 23 of 24 answers are rated"):
            ask()
    grade(session)
    table = session.results()
    assert table["mean"].to_dict() == {
        ("tuned", "relevance"): 5,
        ("tuned", "safety"): 4,
        ("tuned", "fluency"): 3,
        ("plain", "relevance"): 2,
        ("plain", "safety"): 4,
        ("plain", "fluency"): 3,
    }
    assert (
        (table.low == table["mean"]).all()
        and (table.high == table["mean"]).all()
        and set(table["items"]) == {12}
        and set(table.raters) == {1}
    )
    grade(begin(tmp_path / "r.csv", "bob"), tuned=(3, 4, 3))
    assert begin(tmp_path / "r.csv").results()["mean"]["tuned", "relevance"] == 4
    with pytest.raises(Qwen3labError, match="No two raters"):
        ratings_session.agreement(log.read(tmp_path / "r.csv")[0].query("rater == 'bob'"))


def test_agreement_is_that_of_scikit_learn(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.integers(1, 6, 24)
    grades = {}
    for number, name in enumerate(("ann", "bob", "cy")):
        session = begin(tmp_path / "r.csv", name)
        mine = {
            (s.item, s.system): [int(v) for v in np.clip(truth[i] + rng.integers(-1, 2, 3), 1, 5)]
            for i, s in enumerate(sorted(session.sheets, key=lambda s: (s.item, s.system)))
        }
        while session.current:
            session.rate(*mine[session.current.item, session.current.system])
        grades[name] = mine
    table = session.agreement()
    assert len(table) == 9
    for one, two in itertools.combinations(grades, 2):
        for place, scale in enumerate(log.SCALES):
            a, b = (
                [grades[name][key][place] for key in sorted(grades[name])] for name in (one, two)
            )
            line = table.loc[one, two, scale]
            assert (
                line.kappa
                == pytest.approx(
                    cohen_kappa_score(a, b, weights="quadratic", labels=[1, 2, 3, 4, 5])
                )
                and line.answers == 24
            )
            assert line.low < line.kappa < line.high and line.higher == pytest.approx(
                np.mean(b) - np.mean(a)
            )


def test_the_interval_of_kappa_draws_items_and_not_answers():
    rng = np.random.default_rng(0)
    truth = rng.integers(1, 6, 30)
    a, b = (np.clip(truth + rng.integers(-1, 2, 30), 1, 5) for _ in range(2))
    draws = [rng.integers(0, 30, 30) for _ in range(500)]
    theirs = np.quantile(
        [cohen_kappa_score(a[d], b[d], weights="quadratic", labels=[1, 2, 3, 4, 5]) for d in draws],
        [0.025, 0.975],
    )
    assert ratings_session.kappa_interval(a, b) == pytest.approx(theirs, abs=0.04)
    # Four copies of each answer of an item are no new items.
    assert ratings_session.kappa_interval(
        np.repeat(a, 4), np.repeat(b, 4), np.repeat(np.arange(30), 4)
    ) == pytest.approx(ratings_session.kappa_interval(a, b))
    assert np.diff(
        ratings_session.kappa_interval(np.repeat(a, 4), np.repeat(b, 4))
    ) < 0.7 * np.diff(ratings_session.kappa_interval(a, b))
    assert np.isnan(ratings_session.kappa_interval([3, 3], [3, 3])).all()


def test_the_simulated_raters_are_those_of_the_command(tmp_path):
    simulated.simulate(tmp_path / "r.csv", simulated.answers())
    assert (tmp_path / "r.csv").read_bytes() == simulated.FILE.read_bytes()
    found, faults = log.read(simulated.FILE)
    assert (
        faults == 0
        and set(found.rater) == set(simulated.RATERS) == {"simulated-1", "simulated-2"}
        and set(found.note) == {simulated.NOTE}
    )
    session = ratings_session.Session(
        simulated.answers(), simulated.FILE, "simulated-1", seed=simulated.SEED
    )
    assert (
        session.progress == (96, 96)
        and session.notes() == "Also in ratings.csv: 96 by other raters."
    )
    worst = session.results()["mean"].unstack().idxmin()
    assert worst.to_dict() == {
        "relevance": "another number",
        "safety": "asks for the PIN",
        "fluency": "asks for the PIN",
    }


def parts(form):
    sheet, *scales, note, row, message = form.widget().children
    return sheet, [box.children[0] for box in scales], note, *row.children, message


def test_the_form_rates_as_a_person_would(tmp_path):
    session = begin(tmp_path / "r.csv")
    sheet, scales, note, save, back, bar, message = parts(ratings_form.RatingForm(session))
    first = session.current
    assert [buttons.description for buttons in scales] == list(log.SCALES) and {
        buttons.value for buttons in scales
    } == {None}
    assert (
        first.answer in sheet.value
        and "&lt;b&gt;ask" in sheet.value
        and "<b>" not in sheet.value
        and back.disabled
        and not save.disabled
    )
    scales[0].value = 4
    save.click()
    assert (
        "no grade yet for safety, fluency" in message.value
        and session.progress[0] == 0
        and scales[0].value == 4
    )
    scales[1].value, scales[2].value, note.value = 5, 3, "=fine"
    save.click()
    assert (
        session.ratings[0]
        | {"relevance": 4, "safety": 5, "fluency": 3, "note": "=fine", "item": first.item}
        == session.ratings[0]
    )
    assert (
        {buttons.value for buttons in scales} == {None}
        and (note.value, bar.value, message.value) == ("", 1, "")
        and session.current.answer in sheet.value
    )
    back.click()
    assert (
        first.answer in sheet.value
        and bar.value == 0
        and "Taken back" in message.value
        and back.disabled
    )
    while session.current:
        for buttons in scales:
            buttons.value = 3
        save.click()
    assert (
        "All 24 answers are rated" in sheet.value
        and save.disabled
        and not back.disabled
        and bar.value == bar.max == 24
    )


def test_the_form_shows_an_error_and_goes_on(tmp_path):
    session = begin(tmp_path / "r.csv")
    session.rate(1, 1, 1)
    sheet, scales, note, save, back, bar, message = parts(ratings_form.RatingForm(session))
    for buttons in scales:
        buttons.value = 2
    (tmp_path / "r.csv").write_text("")
    save.click()
    assert "has lost lines" in message.value and scales[0].value == 2


def test_without_a_front_end_the_form_is_html_and_nothing_random(tmp_path, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    one, two = (
        ratings_form.RatingForm(begin(tmp_path / "r.csv"))._repr_mimebundle_() for _ in range(2)
    )
    assert (
        one == two
        and set(one) == {"text/plain", "text/html"}
        and "0 of 24 rated" in one["text/html"]
    )
    assert (
        one["text/plain"].startswith("0 of 24 answers rated")
        and begin(tmp_path / "r.csv").current.answer in one["text/plain"]
    )
    monkeypatch.setenv("JPY_SESSION_NAME", "06.ipynb")
    assert WIDGET in ratings_form.RatingForm(begin(tmp_path / "r.csv"))._repr_mimebundle_()
    assert (
        WIDGET
        not in ratings_form.RatingForm(
            begin(tmp_path / "r.csv"), interactive=False
        )._repr_mimebundle_()
    )


def test_a_system_without_locks_of_files(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    session = begin(tmp_path / "r.csv")
    session.rate(1, 1, 1)
    assert len(log.read(tmp_path / "r.csv")[0]) == 1
