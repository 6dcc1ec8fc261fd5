"""The table of claims: every row that follows from arithmetic is computed here, and what is wrong
is refused.
"""

from __future__ import annotations

import math
import re

import pytest

from qwen3lab import family, memory
from qwen3lab.course import claims, notebooks
from qwen3lab.errors import Qwen3labError


def _values() -> dict[str, float]:
    moe = family.shape("30B-A3B")
    quantised = memory.plan("8B", "qlora").parts
    return {
        "total-30b": moe.parameters / 1e9,
        "active-30b": moe.active_parameters / 1e9,
        "expert-layers-30b": moe.layers,
        "expert-share-30b": 100 * moe.expert_parameters / moe.parameters,
        "yarn-models": sum(shape.yarn for shape in family.FAMILY.values()),
        "lora-all-experts-30b": moe.lora_parameters(16, "all-linear") / 1e6,
        "qlora-30b": memory.plan("30B-A3B", "qlora").total / 1e9,
        "four-bit-saving-8b": (
            100
            * (
                1
                - (quantised["4-bit weights"] + quantised["other weights"])
                / memory.plan("8B", "inference").total
            )
        ),
        "full-30b": memory.plan("30B-A3B", "full").total / 1e9,
        "perplexity-of-loss": math.exp(1.8),
    }


@pytest.mark.parametrize("claim, value", _values().items())
def test_arithmetic_supports_the_claim(claim, value, capsys):
    assert claims.check(claim, value) == value
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and said[0].startswith("guides say: ") and f"{value:.4g}" in said[1]


def test_every_claim_is_checked_by_this_file_or_its_notebook_or_companion():
    for claim in claims.load().values():
        notebook = "".join(
            path.read_text(encoding="utf-8")
            for path in notebooks.every()
            if path.name.startswith(claim.notebook)
        )
        assert claim.id in _values() or re.search(
            rf"claims\.check\(\\?[\"']{re.escape(claim.id)}", notebook
        ), claim.id


@pytest.mark.parametrize("value", [47, 49, math.nan, math.inf])
def test_a_value_that_drifted_stops_the_run(value):
    with pytest.raises(
        Qwen3labError,
        match=f"Claim 'expert-layers-30b': {value:.4g} is outside 48 to 48. Find out what changed",
    ):
        claims.check("expert-layers-30b", value)


def test_bounds_of_a_model_bind_that_model_alone(monkeypatch, capsys):
    with pytest.raises(Qwen3labError, match="Claim 'lora-facts': 3 points is outside 70 to 100"):
        claims.check("lora-facts", 3)
    monkeypatch.setenv("QWEN3LAB_PROFILE", "small")
    assert claims.check("lora-facts", 3) == 3
    *_, bounds, here = capsys.readouterr().out.splitlines()
    assert bounds.startswith("qwen3-tiny: ") and bounds.endswith(": 70 to 100")
    assert here == "here:       3 points"
    with pytest.raises(Qwen3labError):  # these are the same on every model
        claims.check("expert-layers-30b", 47)


def test_unknown_claim():
    with pytest.raises(Qwen3labError, match="There is no claim 'speed'. Use one of: total-30b"):
        claims.check("speed", 1.0)


def test_table_has_a_row_for_each_claim():
    frame = claims.table()
    assert list(frame.index) == list(claims.load()) and not frame.isna().any().any()


ROW = '[[claim]]\nid="a"\nguide="g"\nours="o"\nunit=""\nlow=1\nhigh=2\nnotebook="01"\nsource="s"\n'


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("[[claim]\n", "is no valid TOML"),
        (
            ROW.replace('source="s"\n', ""),
            "Claim 1 of claims.toml is not complete or has a field too many",
        ),
        (ROW + "extra=1\n", "Claim 1 of claims.toml is not complete or has a field too many"),
        (ROW + ROW, "Claim 'a' of claims.toml stands there twice"),
        (ROW.replace("low=1", "low=3"), "has its bounds the wrong way round"),
    ],
)
def test_broken_files(tmp_path, text, sentence):
    (tmp_path / "claims.toml").write_text(text)
    with pytest.raises(Qwen3labError, match=sentence):
        claims.load(tmp_path / "claims.toml")


def test_missing_file(tmp_path):
    with pytest.raises(
        Qwen3labError,
        match="The claims file claims.toml is missing. Run `git checkout -- data/claims.toml`.",
    ):
        claims.load(tmp_path / "claims.toml")
