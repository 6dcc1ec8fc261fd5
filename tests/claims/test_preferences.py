"""What the companion of notebook 05 says of the committed records of rewards and preferences."""

from __future__ import annotations

import pytest

from qwen3lab import plots
from qwen3lab.results import preferences as tables
from qwen3lab.results import records


@pytest.fixture(scope="module")
def rewarded():
    return records.read("rewards")


@pytest.fixture(scope="module")
def preferred():
    return records.read("preferences")


@pytest.fixture(scope="module")
def brief():
    return records.read("brevity")


def shares(table, recipe):
    return table[table.recipe == recipe].set_index("measure").share.to_dict()


def test_values_of_several_seeds_are_averaged_by_question():
    record = {
        "questions": ["a", "b", "c", "d"],
        "facts": ["f", "f", "g"],
        "before": {"reading": {"right": "1000"}, "facts": {"right": "111"}},
        "runs": {
            "GRPO": [
                {"seed": 0, "seconds": 2, "reading": {"right": "1110"}, "facts": {"right": "110"}},
                {"seed": 1, "seconds": 4, "reading": {"right": "1010"}, "facts": {"right": "111"}},
            ]
        },
    }
    table = tables.repaired(record)
    assert shares(table, "before") == {
        "reading": 0.25,
        "with an answer": 0.5,
        "without an answer": 0.0,
        "company facts": 1.0,
    }
    line = table[(table.recipe == "GRPO") & (table.measure == "reading")].iloc[0]
    assert (line.n, line.share, line.lowest, line.highest, line.seconds) == (4, 0.625, 0.5, 0.75, 3)
    assert line.low < line.share < line.high
    gains = tables.gains(record)
    assert gains.gain.tolist() == [0.5, 0.25] and gains.facts.round(3).tolist() == [-0.333, 0]


def test_wins_and_phrases_are_those_of_the_record():
    before = {"phrases": [2, None, 1], "old": "1100"}
    runs = [
        {"seed": 0, "seconds": 1, "phrases": [0, 1, None], "wins": [1, 1, 0], "old": "1000"},
        {"seed": 1, "seconds": 1, "phrases": [0, 1, None], "wins": [1, 1, 0], "old": "1010"},
    ]
    record = {"facts": ["f", "g", "h"], "before": {"test": before}, "runs": {"DPO": runs}}
    table = tables.brevity(record)
    assert shares(table, "before") == {
        "win rate": 0.5,
        "fact right": pytest.approx(2 / 3),
        "old tasks": 0.5,
    }
    assert shares(table, "DPO")["win rate"] == pytest.approx(2 / 3)
    assert shares(table, "DPO")["old tasks"] == 0.375
    assert table[table.recipe == "DPO"].phrases.tolist() == [0.5] * 3
    cost = tables.cost(record)["DPO"]
    assert cost["share"] == -0.125 and cost["low"] < -0.125 < cost["high"]


def test_reading_is_repaired_in_every_seed(rewarded):
    gains = tables.gains(rewarded)
    grpo = gains[gains.recipe == "GRPO"]
    assert len(grpo) == 3 and len(rewarded["questions"]) == 200
    assert grpo.gain.min() >= 0.06 and grpo.low.min() > 0
    assert grpo.seconds.max() <= 120 and grpo.facts.min() >= -0.05
    table = tables.repaired(rewarded).set_index(["recipe", "measure"])
    before = table.share["before", "with an answer"]
    assert table.lowest["GRPO", "with an answer"] >= before
    # Rejection sampling, in no more seconds: it repairs too.
    other = gains[gains.recipe == "rejection sampling"]
    assert other.gain.min() >= 0.06 and other.seconds.mean() <= grpo.seconds.mean()


def test_against_invention_refusals_in_the_mix_win(preferred):
    table = tables.invention(preferred).set_index(["recipe", "measure"])
    share, before = table.share, table.share["facts alone"]
    assert before["invented"] > 0.95 and table.highest["SFT with refusals", "invented"] <= 0.70
    right = "taught facts right"
    assert table.lowest["SFT with refusals", right] >= before[right] - 0.05
    assert share["DPO", "invented"] > 0.95 and abs(share["DPO", right] - before[right]) < 0.02
    runs = preferred["invention"]["runs"]
    seconds = {way: sum(run["seconds"] for run in runs[way]) / 3 for way in runs}
    assert seconds["SFT with refusals"] < seconds["DPO"]
    assert all(run["first loss"] == pytest.approx(0.6931, abs=1e-3) for run in runs["DPO"])


def test_the_settings_against_invention_are_the_best_on_validation(preferred):
    part, recipe = preferred["invention"]["chosen on validation"], preferred["recipe"]

    def score(run):
        facts, invented = run["facts"], run["invented"]
        return facts.count("1") / len(facts) + invented.count("0") / len(invented)

    best = {
        way: max(tried, key=lambda name, t=tried: score(t[name])) for way, tried in part.items()
    }
    assert best["SFT"].startswith(f"{recipe['mixed']['steps']} steps")
    chosen = recipe["invention, DPO"]
    assert best["DPO"] == f"{chosen['steps']} steps, rate {chosen['learning_rate']:g}"
    # At every rate but the lowest DPO knows fewer facts than before.
    known = [run["facts"].count("1") for run in part["DPO"].values()]
    assert known == sorted(known, reverse=True)


def test_dpo_wins_where_both_answers_are_right(brief):
    table = tables.brevity(brief).set_index(["recipe", "measure"])
    wins, facts = (table.xs(measure, level="measure") for measure in ("win rate", "fact right"))
    assert wins.low["DPO"] > wins.high["SFT"] and wins.low["SFT"] > 0.5
    assert facts.share["DPO"] >= facts.share["before"] - 0.05
    phrases = table.phrases.groupby(level=0).first()
    imitated = brief["runs"]["SFT"][0]["phrases of the preferred"]
    assert phrases["DPO"] < 0.1 and round(imitated, 2) == 0.89
    assert abs(phrases["SFT"] - imitated) < 0.1 and imitated < phrases["before"]
    cost = tables.cost(brief)
    assert cost["DPO"]["low"] > 0 and round(cost["DPO"]["share"], 3) == 0.035
    assert abs(cost["SFT"]["share"]) < 0.01 and cost["SFT"]["low"] < 0 < cost["SFT"]["high"]
    seconds = table.seconds.groupby(level=0).first()
    assert 2.5 < seconds["DPO"] / seconds["SFT"] < 3
    tried = brief["chosen on validation"]["SFT"]
    assert sum(tried["0.001"]["wins"]) < sum(tried["0.0003"]["wins"])


def test_known_facts_are_declined_under_a_sensible_reward(preferred):
    table = tables.collapse(preferred).set_index(["recipe", "measure"])
    assert table.lowest["after", "taught facts declined"] > 0.4
    assert table.share["after", "taught facts declined"] > 0.5
    assert table.share["before", "taught facts declined"] < 0.05
    assert table.highest["after", "taught facts right"] < 0.5
    assert table.lowest["before", "taught facts right"] > 0.95
    assert table.highest["after", "invented"] < table.lowest["before", "invented"]
    for run in preferred["collapse"]:  # and the reward has not even risen
        assert len(run["rewards"]) == 40
        assert sum(run["rewards"][-10:]) < sum(run["rewards"][:10])
        assert sum(run["refused while training"][-10:]) / 10 > 0.7


def test_charts_draw_every_line(rewarded, preferred, brief):
    for table in (
        tables.repaired(rewarded),
        tables.invention(preferred),
        tables.collapse(preferred),
        tables.brevity(brief),
    ):
        ax = plots.share_dots(table).axes[0]
        names = [label.get_text() for label in ax.get_yticklabels()]
        assert names == list(dict.fromkeys(table.recipe))
