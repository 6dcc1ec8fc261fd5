"""Speculative decoding: the rule keeps the distribution, greedy answers are the target's own, and
the counts are transformers'.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare

from qwen3lab import models
from qwen3lab.chat import encode
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.from_scratch import speculative
from qwen3lab.results import records, tables

RUNS = 300  # sampled texts
P = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
DRAFTS = {
    "another": [0.1, 0.2, 0.3, 0.4],
    "equal": [0.5, 0.3, 0.15, 0.05],
    "with zeros": [0.0, 0.0, 0.6, 0.4],
    "certain": [0.0, 1.0, 0.0, 0.0],
}


def fit(counts: Counter, expected: dict) -> float:
    """The p-value of Pearson's test; what has probability 0 must not occur."""
    assert not {cell for cell in counts if expected.get(cell, 0) == 0}
    cells, n = [cell for cell, share in expected.items() if share > 0], sum(counts.values())
    return chisquare(
        [counts[cell] for cell in cells], [n * expected[cell] for cell in cells]
    ).pvalue


def outputs(
    p: torch.Tensor, q: torch.Tensor, following: torch.Tensor, draws: int = 12_000
) -> Counter:
    """First and, where the drafted token stayed, second token."""
    generator = torch.Generator().manual_seed(1)
    guesses, pairs = (
        torch.multinomial(q, draws, replacement=True, generator=generator).tolist(),
        Counter(),
    )
    both = torch.stack([p, following])
    for guess in guesses:
        kept, after = speculative.accept(both, q[None], [guess], generator)
        pairs[(guess, after) if kept else (after,)] += 1
    return pairs


def firsts(pairs: Counter) -> Counter:
    counts = Counter()
    for pair, n in pairs.items():
        counts[pair[0]] += n
    return counts


@pytest.mark.parametrize("name", DRAFTS)
def test_the_rule_gives_the_targets_distribution(name):
    q, following = (
        torch.tensor(DRAFTS[name], dtype=torch.float64),
        torch.tensor([0.0, 0.2, 0.2, 0.6], dtype=torch.float64),
    )
    pairs = outputs(P, q, following)
    assert fit(firsts(pairs), dict(enumerate(P.tolist()))) > 0.001
    stayed = Counter()
    for pair, n in pairs.items():
        if len(pair) == 2:
            stayed[pair[1]] += n
    assert fit(stayed, dict(enumerate(following.tolist()))) > 0.001
    # Leviathan et al., corollary 3.6: the share that stays is the overlap of the two distributions.
    assert sum(stayed.values()) / 12_000 == pytest.approx(
        torch.minimum(P, q).sum().item(), abs=0.015
    )


def test_disjoint_distributions_reject_every_guess():
    p, q = torch.tensor([0.7, 0.3, 0.0, 0.0]).double(), torch.tensor([0.0, 0.0, 0.5, 0.5]).double()
    pairs = outputs(p, q, P, 4_000)
    assert {len(pair) for pair in pairs} == {1} and fit(
        firsts(pairs), dict(enumerate(p.tolist()))
    ) > 0.001


def test_a_rejection_that_leaves_nothing_draws_from_the_target():
    p, q, generator = (
        torch.tensor([[0.5, 0.3], [0.0, 1.0]]).double(),
        torch.tensor([[0.6, 0.4]]).double(),
        torch.Generator().manual_seed(0),
    )
    found = Counter(
        speculative.accept(p, q, [0], generator) for _ in range(600)
    )  # rounding makes such a p, by far less
    assert found[0, 0] + found[0, 1] == 600 - found[1, 1] > 0
    assert fit(Counter({token: found[0, token] for token in (0, 1)}), {0: 5 / 8, 1: 3 / 8}) > 0.001


def test_the_chi_square_test_notices_wrong_rules(monkeypatch):
    q = torch.tensor(DRAFTS["another"], dtype=torch.float64)

    def keep_all(p, q, drafted, generator=None):
        return len(drafted), speculative.draw_from(p[-1], generator)

    def draw_from_p(
        p, q, drafted, generator=None
    ):  # after a rejection from p, not from what q left of it
        for place, token in enumerate(drafted):
            if (
                torch.rand((), dtype=torch.float64, generator=generator) * q[place, token]
                >= p[place, token]
            ):
                return place, speculative.draw_from(p[place], generator)
        return len(drafted), speculative.draw_from(p[-1], generator)

    for wrong in (keep_all, draw_from_p):
        monkeypatch.setattr(speculative, "accept", wrong)
        assert fit(firsts(outputs(P, q, P)), dict(enumerate(P.tolist()))) < 1e-6


def test_one_hot_is_greedy():
    p, q = speculative.one_hot([3, 1, 2], 5), speculative.one_hot([3, 0], 5)
    assert speculative.accept(p, q, [3, 0]) == (1, 1)
    assert speculative.accept(p, speculative.one_hot([3, 1], 5), [3, 1]) == (2, 2)
    assert speculative.probabilities(torch.tensor([[0.1, 0.9], [2.0, 1.0]]), 0).tolist() == [
        [0, 1],
        [1, 0],
    ]


def test_temperature_flattens():
    logits = torch.tensor([0.0, 2.0])
    assert speculative.probabilities(logits, 2.0).tolist() == pytest.approx(
        [1 / (1 + math.e), math.e / (1 + math.e)]
    )


def _random_model(seed: int, layers: int):
    from transformers import AutoModelForCausalLM

    from qwen3lab import family

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(
        family.config(
            "0.6B",
            num_hidden_layers=layers,
            hidden_size=8,
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=8,
            intermediate_size=8,
            vocab_size=4,
            bos_token_id=None,
            eos_token_id=None,
            initializer_range=0.6,
        )
    ).eval()


def _exact(model, prompt, length):
    """The probability of each continuation of `length` tokens, by the model itself."""
    rows = list(itertools.product(range(4), repeat=length))
    with torch.inference_mode():
        p = speculative.probabilities(
            model(torch.tensor([[*prompt, *row] for row in rows])).logits, 1.0
        )
    return {
        row: (
            torch.stack([p[i, len(prompt) - 1 + k, token] for k, token in enumerate(row)])
            .prod()
            .item()
        )
        for i, row in enumerate(rows)
    }


@pytest.mark.parametrize("kind", ["model", "lookup"])
def test_sampled_texts_keep_their_distribution(kind):
    target, small, prompt = _random_model(6, 1), _random_model(7, 1), [2, 2, 3, 2, 2]
    expected = _exact(target, prompt, 2)
    draft = speculative.Lookup() if kind == "lookup" else small
    generator, counts, kept, drafted = torch.Generator().manual_seed(0), Counter(), 0, 0
    for _ in range(RUNS):
        out = speculative.generate(
            target,
            prompt,
            draft,
            drafted=2,
            max_new_tokens=3,
            temperature=1.0,
            ends=set(),
            generator=generator,
        )
        counts[tuple(out.ids[:2])] += 1
        kept, drafted = kept + out.accepted, drafted + out.drafted
    assert fit(counts, expected) > 0.001
    assert 0.1 * drafted < kept < 0.9 * drafted  # both branches of the rule were taken
    assert max(expected.values()) > 3 * min(
        expected.values()
    )  # a text of uniform tokens would tell nothing
    if kind == "model":  # the test would notice a draft whose guesses are taken unread
        drawn = _exact(small, prompt, 2)
        assert (
            chisquare(
                [RUNS * share for share in drawn.values()],
                [RUNS * share for share in expected.values()],
            ).pvalue
            < 1e-6
        )


@pytest.fixture(scope="module")
def pair():
    target, tokenizer = models.load("qwen3-tiny")
    return target, models.load("qwen3-tiny-draft")[0], tokenizer


@pytest.fixture(scope="module")
def prompts(pair):
    return [
        encode(pair[2], row["messages"], thinking=row["thinking"])
        for row in tasks.load("chat", "test")[:50]
    ]


class Passes:
    """Counts the forward passes of a model."""

    def __init__(self, model):
        self.count = 0
        self.hook = model.register_forward_pre_hook(
            lambda *_: setattr(self, "count", self.count + 1)
        )


def _theirs(target, prompt, **options):
    with torch.inference_mode():
        out = target.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=12,
            **options,
        )
    return out[0, len(prompt) :].tolist()


def test_greedy_answers_and_counts_equal_transformers(pair, prompts, monkeypatch):
    target, small, _ = pair
    for key, value in {
        "num_assistant_tokens": 4,
        "num_assistant_tokens_schedule": "constant",
        "assistant_confidence_threshold": 0.0,
    }.items():
        monkeypatch.setattr(small.generation_config, key, value, raising=False)
    of_target, of_draft = Passes(target), Passes(small)
    for number, prompt in enumerate(prompts):
        wanted = _theirs(target, prompt)
        assert of_target.count == len(wanted)
        of_target.count = of_draft.count = 0
        ours = speculative.generate(target, prompt, small, drafted=4, max_new_tokens=12)
        assert ours.ids == wanted
        assert (ours.target_passes, ours.draft_passes, ours.drafted) == (
            of_target.count,
            of_draft.count,
            of_draft.count,
        )
        if number < 20:
            assert (
                speculative.generate(
                    target, prompt, speculative.Lookup(2), drafted=10, max_new_tokens=12
                ).ids
                == wanted
            )
        if number < 6:
            of_target.count = of_draft.count = 0
            assert _theirs(target, prompt, assistant_model=small) == wanted
            assert (of_target.count, of_draft.count) == (ours.target_passes, ours.draft_passes)
            of_target.count = 0
            assert _theirs(target, prompt, prompt_lookup_num_tokens=10) == wanted
            theirs, of_target.count = of_target.count, 0
            speculative.generate(
                target, prompt, speculative.Lookup(2), drafted=10, max_new_tokens=12
            )
            assert of_target.count == theirs
        of_target.count = of_draft.count = 0
    of_target.hook.remove(), of_draft.hook.remove()


def test_without_a_cache_the_same(pair, prompts):
    target, small, _ = pair
    for prompt in prompts[:6]:
        plain = speculative.generate(target, prompt, max_new_tokens=12)
        assert plain.target_passes == len(plain.ids) and plain.drafted == 0
        assert speculative.generate(target, prompt, max_new_tokens=12, cache=False) == plain
        guessed = speculative.generate(target, prompt, small, max_new_tokens=12)
        assert (
            speculative.generate(target, prompt, small, max_new_tokens=12, cache=False) == guessed
            and guessed.ids == plain.ids
        )
        assert (
            guessed.accepted + guessed.rejected <= guessed.drafted
            and guessed.rejected <= guessed.target_passes
        )
        assert guessed.accepted + guessed.target_passes - len(guessed.ids) in (
            0,
            1,
        )  # each pass adds its own token, unless the end was guessed


def test_the_target_as_its_own_draft_is_always_right(pair, prompts):
    target = pair[0]
    for prompt in prompts[:5]:
        for temperature in (0.0, 1.0):
            out = speculative.generate(
                target, prompt, target, drafted=3, max_new_tokens=20, temperature=temperature
            )
            assert out.accepted == out.drafted and out.target_passes == -(-len(out.ids) // 4)


def test_a_draft_that_is_always_wrong_costs_no_answer(pair, prompts):
    target, prompt = pair[0], prompts[0]
    plain = speculative.generate(target, prompt, max_new_tokens=12)

    class Wrong:
        reader = None

        def propose(self, ids, *_):
            return [plain.ids[len(ids) - len(prompt)] + 1, 7], None

    out = speculative.generate(
        target, prompt, Wrong(), drafted=2, max_new_tokens=12
    )  # the last pass has no room for a guess
    assert out.ids == plain.ids and (
        out.target_passes,
        out.drafted,
        out.accepted,
        out.rejected,
    ) == (12, 22, 0, 11)


def test_lookup_finds_the_longest_first_run():
    propose = speculative.Lookup(2).propose
    assert propose([1, 2, 3, 9, 2, 4, 1, 2], 3, 0, set(), None) == ([3, 9, 2], None)
    assert propose([1, 2, 5, 1, 2, 6, 1, 2], 2, 0, set(), None) == ([5, 1], None)
    assert propose([5, 2, 7, 8, 6, 2], 2, 0, set(), None) == ([7, 8], None)
    assert propose([5, 2, 7, 8, 6, 2], 4, 0, {8}, None) == ([7], None)
    assert propose([1, 2, 3], 4, 0, set(), None) == ([], None)


def test_the_papers_formulas():
    assert speculative.expected_tokens(0.8, 4) == pytest.approx(1 + 0.8 + 0.8**2 + 0.8**3 + 0.8**4)
    assert speculative.expected_tokens(1, 4) == 5 and speculative.expected_tokens(0, 4) == 1
    assert speculative.expected_speedup(0.8, 5, 0.05) == pytest.approx(2.95, abs=0.01)
    generator = torch.Generator().manual_seed(0)
    p = (
        speculative.one_hot([0] * 5, 2) * 0.8 + speculative.one_hot([1] * 5, 2) * 0.2
    )  # guesses of 0 that stay four times in five
    mean = (
        sum(
            speculative.accept(p, speculative.one_hot([0] * 4, 2), [0] * 4, generator)[0] + 1
            for _ in range(4000)
        )
        / 4000
    )
    assert mean == pytest.approx(speculative.expected_tokens(0.8, 4), abs=0.08)


def test_mistakes_get_a_sentence(pair):
    target = pair[0]
    with pytest.raises(Qwen3labError, match="nothing to continue"):
        speculative.generate(target, [])
    with pytest.raises(Qwen3labError, match="same tokenizer"):
        speculative.generate(target, [1, 2], _random_model(0, 1))
    with pytest.raises(Qwen3labError, match="one row more"):
        speculative.accept(P[None], P[None], [1])


@pytest.fixture(scope="module")
def told():
    return {name: records.read(name) for name in ("decoding", "decoding_gpu")}


def test_the_table_of_the_committed_record(told):
    tiny, table = told["decoding"]["tiny"], tables.decoding(told["decoding"])
    for name, way in tiny["ways"].items():
        plain = tiny["ways"][name.split(",")[0] + ", plain"]["seconds"]
        assert table.loc[name, "times faster"] == pytest.approx(
            statistics.median(p / own for p, own in zip(plain, way["seconds"])), abs=2e-3
        )
        assert (
            table.loc[name, "passes a token"]
            == pytest.approx(way["target passes"] / way["tokens"], abs=1e-4)
            and way["equal"] == tiny["prompts"] == 50
        )
        assert len(way["seconds"]) == tiny["rounds"] and way["tokens"] == sum(
            part["tokens"] for part in way["by task"].values()
        )
    for kind in ("plain", "prompt lookup", "draft"):  # ours and transformers' take the same passes
        ours, theirs = (tiny["ways"][f"{who}, {kind}"] for who in ("by hand", "transformers"))
        assert (ours["target passes"], ours["draft passes"]) == (
            theirs["target passes"],
            theirs["draft passes"],
        )


def test_what_the_notebook_says_of_the_committed_record(told):
    table = tables.decoding(told["decoding"])
    assert table.slowest["by hand, draft"] > 1.1  # faster in every round
    assert (
        table["times faster"]["transformers, draft"] < 1
        and table["passes a token"]["transformers, draft"] < 0.25
    )
    assert table["times faster"][["by hand, no KV cache", "transformers, no KV cache"]].max() < 0.5
    lookup = told["decoding"]["tiny"]["ways"]["by hand, prompt lookup"]["by task"]
    assert (
        lookup["repeat"]["times faster than plain"] > 3
        and max(
            part["times faster than plain"] for task, part in lookup.items() if task != "repeat"
        )
        < 1.2
    )
    gpu = tables.decoding_shapes(told["decoding_gpu"]).set_index(["pair", "stays"])
    small, large = gpu.loc["8B with 0.6B"], gpu.loc["32B with 0.6B"]
    assert small["times faster"][0.8] < 1 < small["times faster"][0.9] and small.graphs.max() < 2.1
    assert large["times faster"].max() < 2.1 and large.graphs[0.8] < 2.1 < large.graphs[0.9]
    assert (
        small["draft cost"].min() > 5 * 0.6 / 8 and large["draft cost"].min() > 5 * 0.6 / 32
    )  # far above its share of the weights
    for line in told["decoding_gpu"]["shapes"]:
        assert set(gpu.loc[f"{line['target']} with {line['draft']}", "draft cost"]) == {
            line["cost"]["draft pass / target pass"]
        }
        cost = line["cost, CUDA graphs"]
        for entry in line["speed-ups"]:
            expected = speculative.expected_tokens(entry["acceptance"], 4) / (
                4 * cost["draft pass / target pass"] + cost["pass over 5 / pass over 1"]
            )
            assert entry["times faster, CUDA graphs, from the passes' times"] == pytest.approx(
                expected, rel=2e-3
            )
