"""From a file to a trained and examined model: the six public forms, a CSV and a Parquet file."""

from __future__ import annotations

import math
import time

import pandas as pd
import pytest

from qwen3lab import evaluation, training
from qwen3lab.data import formats
from qwen3lab.evaluation import perplexities
from qwen3lab.training.continued_pretraining import blocks

TABLE = pd.DataFrame(
    {
        "frage": ["Code of box 1?", "Code of box 2?", "Where is the key?", "几点关门？"],
        "antwort": ["037", "074", "On the nail,\nby the door.", "八点。"],
    }
)
SOURCES = [*formats.SAMPLES, "rows.csv", "rows.parquet"]
REFERENCES = {
    "alpaca": "Rinse it with cold water, dab it with a little soap, and rinse again before you wash"
    " it.",
    "medqa": "A. Allergic contact dermatitis",
    "tools": "Yes, it is raining in Harwick, at 11 degrees.",
    "rows.csv": "037",
    "rows.parquet": "037",
}


def loaded(name, folder):
    if name in formats.SAMPLES:
        return formats.load(name)
    if name.endswith("csv"):
        TABLE.to_csv(folder / name, index=False, sep=";", encoding="utf-8-sig")
    else:
        TABLE.to_parquet(folder / name)
    return formats.load(folder / name, columns={"frage": "prompt", "antwort": "completion"})


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_is_trained_and_examined(name, tmp_path):
    begin = time.process_time()
    done = loaded(name, tmp_path)
    settings = {"steps": 2, "batch_size": 2, "too_long": "drop"}
    if done.texts:  # no answers to ask for: continued pre-training, and the perplexity of a text
        texts = [row["text"] for row in done.texts[:3]]
        run = training.fine_tune("chat", blocks_of(texts), **settings)
        ids = run.tokenizer(texts[0]).input_ids
        read = perplexities.sliding(run.model, ids, 64, 32)
        assert read.token.tolist() == ids[1:] and math.isfinite(read.nll.mean())
    else:
        rows = done.rows[:4]
        run = training.fine_tune("chat", rows, **settings)
        answers = evaluation.evaluate_tasks(run.model, run.tokenizer, rows, max_new_tokens=4)
        assert answers.id.tolist() == [row["id"] for row in rows]
        assert answers.reference[0] == REFERENCES.get(name, rows[0]["messages"][-1]["content"])
        assert 1 < evaluation.perplexity(run.model, run.tokenizer, rows) < math.inf
    assert run.steps == 2 and math.isfinite(run.history.loss.iloc[-1])
    assert time.process_time() - begin < 60  # of computing: other work on the machine plays no part


def blocks_of(texts):
    from qwen3lab import models

    return blocks(models.load_tokenizer("chat"), texts, 128)
