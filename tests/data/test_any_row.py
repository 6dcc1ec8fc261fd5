"""Every function that takes rows takes each kind of them, and gives the same for each.

The table has a line for each function and a column for each kind: rows of `data/tasks`, messages
that end with the assistant, prompt and completion, a data frame, a `datasets.Dataset`, and what
`formats.load` makes of a CSV and of a Parquet file.
"""

from __future__ import annotations

import json

import pandas as pd
import pytest
from datasets import Dataset

from qwen3lab import evaluation, models, training
from qwen3lab.data import cleaning, formats, lengths, packing, rows, splits
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import contamination, perplexities, report_card, scoring, slices
from qwen3lab.models import generation
from qwen3lab.training import distillation, export

QUESTIONS = ["Code of the blue box?", "Where is the key of the shed?", "Code of box 12?", "Name?"]
ANSWERS = ["111", "On the nail", "444", "Ann"]
BOTH = list(zip(QUESTIONS, ANSWERS))
TASKS = [
    {"messages": [{"role": "user", "content": q}], "answer": a, "thinking": False} for q, a in BOTH
]
WHOLE = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for q, a in BOTH
]
PAIRS = [{"prompt": q, "completion": a} for q, a in BOTH]


def from_file(folder, name):
    path = folder / name
    frame = pd.DataFrame(PAIRS)
    frame.to_csv(path, index=False) if name.endswith("csv") else frame.to_parquet(path)
    return formats.load(path).rows


KINDS = {
    "tasks": lambda folder: TASKS,
    "messages": lambda folder: WHOLE,
    "pairs": lambda folder: PAIRS,
    "frame of pairs": lambda folder: pd.DataFrame(PAIRS),
    "frame of messages": lambda folder: pd.DataFrame(WHOLE),
    "dataset of pairs": lambda folder: Dataset.from_list(PAIRS),
    "dataset of messages": lambda folder: Dataset.from_list(WHOLE),
    "CSV": lambda folder: from_file(folder, "rows.csv"),
    "Parquet": lambda folder: from_file(folder, "rows.parquet"),
}


@pytest.fixture(params=KINDS)
def given(request, tmp_path):
    return KINDS[request.param](tmp_path)


@pytest.fixture(params=["pairs", "frame of messages", "CSV"])
def few(request, tmp_path):
    """Some of the kinds, for what takes longer."""
    return KINDS[request.param](tmp_path)


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return models.load(checkpoint)


@pytest.fixture(scope="module")
def examples(loaded):
    return rows.encoded(loaded[1], TASKS)


def test_encoding(given, loaded, examples):
    assert rows.encoded(loaded[1], given) == examples
    assert training.dataset(loaded[1], given, 512).to_list() == examples
    assert rows.encoded(None, Dataset.from_list(examples)) == examples  # encoded already


def test_packing_and_lengths(given, loaded, examples):
    bins = packing.best_fit([len(row["input_ids"]) for row in examples], 200)
    assert packing.pack(given, bins, loaded[1]) == packing.pack(examples, bins)
    assert packing.wrap(given, 100, loaded[1]) == packing.wrap(examples, 100)
    longest = max(len(row["labels"]) for row in examples)
    report = lengths.truncation(given, longest - 1, tokenizer=loaded[1])
    assert report == lengths.truncation(examples, longest - 1) and len(report.cut) == 1
    for function in (packing.pack, lengths.truncation):
        with pytest.raises(Qwen3labError, match="not encoded yet. Give the tokenizer"):
            function(given, bins if function is packing.pack else 10)


def test_perplexities(given, loaded):
    assert evaluation.perplexity(*loaded, given) == evaluation.perplexity(*loaded, TASKS)
    found, wanted = (perplexities.by_part(*loaded, kind) for kind in (given, TASKS))
    pd.testing.assert_frame_equal(found, wanted)


def test_answers_and_slices(given, loaded):
    answers = scoring.evaluate_tasks(*loaded, given, max_new_tokens=2)
    assert answers.reference.tolist() == ANSWERS
    described = slices.describe(answers, given)
    assert described.words.tolist() == [5, 7, 4, 1]
    drawn = generation.draw(*loaded, given, 1, max_new_tokens=2)
    pd.testing.assert_frame_equal(
        drawn[["prediction"]], generation.draw(*loaded, TASKS, 1, max_new_tokens=2)[["prediction"]]
    )


def test_a_teacher_answers_the_questions_alone(given, loaded):
    longest = 40
    wanted = distillation.answered(*loaded, TASKS, longest)
    assert distillation.answered(*loaded, given, longest) == wanted


def test_contamination(given):
    found = contamination.check(given, TASKS, n=2)
    assert found.hit.tolist() == [True] * 4 and found.share.tolist() == [1.0] * 4
    assert not contamination.check(given, [{"messages": [], "answer": "none of it"}], n=2).hit.any()


def test_splits_and_leaks(given):
    parts = splits.split(given, validation=0.25, test=0.25)
    kept = [rows.exam(row)["answer"] for part in parts.values() for row in part]
    assert sorted(kept) == sorted(ANSWERS) and list(map(len, parts.values())) == [2, 1, 1]
    assert len(splits.leaks(given, given)) == 4
    assert len(splits.leaks(TASKS, given)) == len(splits.leaks(given, TASKS)) == 4
    fresh = [{"prompt": "Who waters the plants in the hall?", "completion": "111"}]
    assert splits.leaks(given, fresh) == []


def test_cleaning(given, loaded):
    doubled = [*rows.records(given), *rows.records(given)]
    for holder in (doubled, pd.DataFrame(doubled)):
        kept, report = cleaning.clean_rows(holder, near_threshold=None)
        assert [rows.exam(row)["answer"] for row in kept] == ANSWERS
        assert [bad["row"] for bad in report.dropped] == [5, 6, 7, 8]
    assert [len(part) for part in cleaning.drop_copies(doubled)] == [4, 4]
    counted = cleaning.token_lengths(given, loaded[1])
    with_answers = "answer" not in rows.records(given)[0]
    assert counted == [len(q) + len(a) * with_answers for q, a in BOTH]


def test_the_report_card(few, loaded):
    options = {"examples": 1, "max_new_tokens": 2, "least": 2}
    page, wanted = (
        report_card.card(*loaded, rows=kind, train=kind, **options).markdown
        for kind in (few, TASKS)
    )
    strip = lambda text: [line for line in text.split("\n") if "Asked" not in line]  # noqa: E731
    unnamed = lambda text: [line.split(", ")[0] for line in strip(text)]  # noqa: E731
    assert unnamed(page) == unnamed(wanted)


def test_a_run_and_its_export(few, checkpoint, examples, tmp_path):
    run = training.fine_tune(checkpoint, few, validation=few, steps=1, batch_size=2)
    file = export.export(run, tmp_path / "run")
    for part in ("train", "test"):
        lines = (file.parent / "rows" / f"{part}.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == examples


@pytest.mark.parametrize("weight", [0, 0.5])
def test_an_answer_that_is_not_to_be_trained_is_refused_by_name(weight, loaded):
    row = {
        "messages": [
            WHOLE[0]["messages"][0],
            {"role": "assistant", "content": "A", "weight": weight},
        ]
    }
    for use in (rows.encode, training.encode, scoring.example):
        with pytest.raises(Qwen3labError, match="^A row has an? .* and only its last answer is tr"):
            use(loaded[1], row)
    assert rows.exam(row)["answer"] == "A"
    earlier = {"messages": [*row["messages"], *WHOLE[1]["messages"]]}
    labels = rows.encode(loaded[1], earlier)["labels"]
    assert loaded[1].decode([n for n in labels if n != -100]) == "On the nail<|im_end|>"
