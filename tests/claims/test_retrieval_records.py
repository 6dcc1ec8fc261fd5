"""What notebook 08 says of the records of its first half: totals follow from the single tries, and
sentences from the numbers.
"""

from __future__ import annotations

import math

import pytest

from qwen3lab.evaluation import wilson
from qwen3lab.results import records
from qwen3lab.retrieval import damaged_pdf, prompt_injection


def test_indexes_at_three_sizes():
    told = records.read("indexes")
    lines = {(line["n"], line["index"], line["effort"]): line for line in told["indexes"]}
    assert {n for n, *_ in lines} == {1_000, 100_000, 1_000_000} and told["questions"] == 500
    flat, graph, cells = (
        lines[1_000_000, *which] for which in (("flat", None), ("hnsw", 64), ("ivf", 64))
    )
    assert (
        graph["recall"] > 0.95 and graph["milliseconds"] < flat["milliseconds"] / 10
    )  # "nearly all, in a small part of the time"
    assert (
        1.9 < graph["bytes"] / flat["bytes"] < 2.3 and graph["build seconds"] > 60
    )  # "twice the bytes and minutes of building"
    assert (
        cells["build seconds"] < graph["build seconds"] / 2
        and cells["bytes"] < 1.1 * flat["bytes"]
        and cells["recall low"] < graph["recall"]
    )
    assert told["peak bytes"] < 6 * 2**30
    made, real = (
        {(line["index"], line["effort"]): line["recall"] for line in told["check"][name]}
        for name in ("made", "real")
    )
    assert all(made["ivf", effort] < real["ivf", effort] for effort in (1, 4, 16, 64))


def test_parsing_and_damages():
    told = records.read("parsing")
    assert (
        told["pages"] == 1000
        and told["reading"]["cpu seconds"] + max(part["cpu seconds"] for part in told["chunking"])
        < 60
    )
    assert all(part["longest"] <= part["most"] for part in told["chunking"])
    assert {line["kind"] for line in told["kinds"]} == {"missing", *damaged_pdf.KINDS}
    outcomes = {line["outcome"] for line in told["damages"]}
    assert sum(line["n"] for line in told["damages"]) == 400 and not outcomes & {
        "other error",
        "refused in other words",
    }


def test_reranking_follows_from_the_ranks():
    told = records.read("rerank")
    for part in told["sets"].values():
        for line in part["lines"].values():
            ranks = line["ranks"]
            assert len(ranks) == line["n"] == part["questions"]
            assert line["MRR"] == pytest.approx(
                sum(1 / rank for rank in ranks if rank) / len(ranks), abs=1e-4
            )
            hits = sum(rank == 1 for rank in ranks)
            assert (line["recall@1"], line["recall@1 low"]) == pytest.approx(
                (hits / len(ranks), wilson(hits, len(ranks))[0]), abs=1e-4
            )
    harder = told["sets"]["harder"]["lines"]
    assert harder["fused, Reader"]["MRR low"] > harder["dense"]["MRR high"]
    assert told["sets"]["harder"]["passages"] == 1817
    assert harder["BM25, Reader"]["recall@1"] > harder["fused, Reader"]["recall@1"]
    assert min(part["recall@10"] for part in harder.values()) == min(
        harder[name]["recall@10"] for name in ("dense", "dense (64 numbers)")
    )  # "recall@10 is its limit, and that of the vectors is lowest"


def test_the_yes_or_no_training_learned_nothing():
    """One passage in three fits; a constant answer at that rate costs 0.64 nats."""
    losses = [run["loss"] for run in records.read("rerank")["runs"]]
    constant = -(math.log(1 / 3) + 2 * math.log(2 / 3)) / 3
    assert [round(loss, 2) for loss in losses] == [0.60, 0.52] and round(constant, 2) == 0.64


def test_poison_follows_from_the_tries():
    told = records.read("poison")
    tries, total = told["tries"], told["total"]
    assert len(tries) == 50 and len(
        {(line["poison"], line["place"]) for line in tries}
    ) == 50 == len(prompt_injection.POISONS) * len(prompt_injection.PLACES)
    for way in (
        "through the PDF",
        "in the chunk",
        "harmless sentence",
        "encoded by the tokenizer itself",
    ):
        for key in ("n", "equal", "right before", "right after"):
            assert total[way][key] == sum(line[way].get(key, 0) for line in tries)
    assert all(
        line["control tokens gained"] == line["in the chunk, control tokens gained"] == 0
        for line in tries
    )
    assert total["through the PDF"]["obeyed"] == total["in the chunk"]["obeyed"] == 0
    assert total["became text"] == sum(line["place"] != "metadata" for line in tries)
    assert 0 < total["lies"]["believed"] and total["reached"] > 0
