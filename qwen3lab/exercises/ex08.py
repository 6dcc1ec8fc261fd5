"""The exercises of notebook 08: vectors, fusion, ranks, the reranker's score; citations,
hallucinations, a threshold.
"""

from __future__ import annotations

from qwen3lab.exercises.exercise import case, exercise


@exercise(
    why="The mask says where each row's last token is, on whichever side the padding stands.",
    hints=(
        "Padding can stand on either side, so the last token is not always the last column.",
        "The last column of row i with mask 1: torch.arange(T) * mask is largest there.",
        (
            "last = (mask * torch.arange(mask.shape[1])).argmax(1); take states[rows, last] and"
            " divide by the norm."
        ),
    ),
)
def last_state(states, mask):
    """Pool by the last token: `states` [N, T, H] and `mask` [N, T] (1 where a token is, padding on
    either side) -> tensor [N, H] of length 1.
    """
    import torch

    last = (mask * torch.arange(mask.shape[1])).argmax(1)
    chosen = states[torch.arange(len(states)), last]
    return chosen / chosen.norm(dim=1, keepdim=True)


@last_state.cases
def _():
    import torch
    import torch.nn.functional as F

    states = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    left = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])
    right = left.flip(1)
    yield case(states, left, expect=F.normalize(states[:, -1], dim=1), note="padding on the left")
    ends = torch.tensor([4, 2, 3])
    yield case(
        states,
        right,
        expect=F.normalize(states[torch.arange(3), ends], dim=1),
        note="padding on the right",
    )
    yield case(
        states[:1], left[:1], expect=F.normalize(states[:1, -1], dim=1), note="no padding at all"
    )


@last_state.mistake(
    "You took the last column. With padding on the right that is padding, not the last token."
)
def _last_column(states, mask):
    import torch

    return torch.nn.functional.normalize(states[:, -1], dim=1)


@last_state.mistake(
    "You counted the tokens and took that column. With padding on the left the tokens do not begin"
    " in the first column."
)
def _by_count(states, mask):
    import torch

    return torch.nn.functional.normalize(states[torch.arange(len(states)), mask.sum(1) - 1], dim=1)


@last_state.mistake(
    "That is the mean over the tokens. In a causal model only the last one has seen the whole text."
)
def _mean(states, mask):
    import torch

    return torch.nn.functional.normalize(
        (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=1
    )


@last_state.mistake(
    "The right states, but not of length 1. Without that an inner product is no cosine."
)
def _unscaled(states, mask):
    import torch

    return states[torch.arange(len(states)), (mask * torch.arange(mask.shape[1])).argmax(1)]


@exercise(
    why="Only ranks are added up, so that scores of different scales never meet.",
    hints=(
        "Go through the rankings; each place of each ranking gives its id a share.",
        "The share of rank r, counted from 1, is 1 / (constant + r).",
        (
            "scores[name] = scores.get(name, 0) + 1 / (constant + rank), with enumerate(ranking,"
            " start=1)."
        ),
    ),
)
def fused_scores(rankings, constant=60):
    """Reciprocal rank fusion: `rankings` is a list of lists of ids, best first. Return a dict from
    every id to the sum of 1 / (constant + rank), rank from 1.
    """
    scores = {}
    for ranking in rankings:
        for rank, name in enumerate(ranking, start=1):
            scores[name] = scores.get(name, 0) + 1 / (constant + rank)
    return scores


@fused_scores.cases
def _():
    yield case(
        [["a", "b", "c"]], expect={"a": 1 / 61, "b": 1 / 62, "c": 1 / 63}, note="a single ranking"
    )
    yield case(
        [["a", "b"], ["b", "a"]],
        expect={"a": 1 / 61 + 1 / 62, "b": 1 / 61 + 1 / 62},
        note="two rankings that disagree",
    )
    yield case(
        [["a", "b", "c"], ["d", "b"]],
        1,
        expect={"a": 0.5, "b": 2 / 3, "c": 0.25, "d": 0.5},
        note="an id in the middle of both, constant 1",
    )


@fused_scores.mistake("Ranks are counted from 1. You gave the first place the rank 0.")
def _from_zero(rankings, constant=60):
    scores = {}
    for ranking in rankings:
        for rank, name in enumerate(ranking):
            scores[name] = scores.get(name, 0) + 1 / (constant + rank)
    return scores


@fused_scores.mistake(
    "You kept only each id's best place. An id that two searches have in the middle would gain"
    " nothing by that."
)
def _best_only(rankings, constant=60):
    scores = {}
    for ranking in rankings:
        for rank, name in enumerate(ranking, start=1):
            scores[name] = max(scores.get(name, 0), 1 / (constant + rank))
    return scores


@fused_scores.mistake("Ids that only one of the rankings holds count too.")
def _common_only(rankings, constant=60):
    common = set.intersection(*map(set, rankings))
    return {
        name: sum(1 / (constant + ranking.index(name) + 1) for ranking in rankings)
        for name in common
    }


@fused_scores.mistake(
    "That adds up constant + rank itself. So the best id has the smallest sum, and an id that a"
    " search did not find costs nothing."
)
def _sum_of_ranks(rankings, constant=60):
    scores = {}
    for ranking in rankings:
        for rank, name in enumerate(ranking, start=1):
            scores[name] = scores.get(name, 0) + constant + rank
    return scores


@exercise(
    why=(
        "Each question counts by the place of its first right chunk, and a miss counts nothing, but"
        " it counts as a question."
    ),
    hints=(
        "For each question: at which place, counted from 1, stands the first id that is right?",
        "Its share is 1 / place, or 0 where no right id is in the list.",
        "Divide the sum by the number of all questions, those without a find included.",
    ),
)
def reciprocal_rank(found, right):
    """MRR: `found` is for each question a list of ids, best first, `right` a set of right ids for
    each. Return the mean of 1 / rank of the first right one, 0 for a miss.
    """
    shares = []
    for ids, good in zip(found, right):
        shares.append(
            next((1 / place for place, name in enumerate(ids, start=1) if name in good), 0.0)
        )
    return sum(shares) / len(shares)


@reciprocal_rank.cases
def _():
    yield case([[3, 1, 2]], [{1}], expect=0.5, note="one question, right in the second place")
    yield case(
        [[1, 2], [5, 6]], [{1}, {9}], expect=0.5, note="one question at the first place, one missed"
    )
    yield case([[4, 7, 8, 9]], [{8, 9}], expect=1 / 3, note="two right chunks, in places 3 and 4")
    yield case(
        [[1], [2, 1], [3, 2, 1, 0]],
        [{1}, {1}, {0}],
        expect=(1 + 0.5 + 0.25) / 3,
        note="places 1, 2 and 4",
    )


@reciprocal_rank.mistake(
    "You left out the questions whose chunk was not found. They are misses: they count as 0."
)
def _misses_dropped(found, right):
    shares = [
        1 / (min(ids.index(name) for name in good if name in ids) + 1)
        for ids, good in zip(found, right)
        if good & set(ids)
    ]
    return sum(shares) / len(shares)


@reciprocal_rank.mistake(
    "That is one over the mean rank. MRR is the mean of one over the rank; a single late find then"
    " costs little."
)
def _inverse_of_mean(found, right):
    ranks = [
        next((place for place, name in enumerate(ids, start=1) if name in good), len(ids) + 1)
        for ids, good in zip(found, right)
    ]
    return len(ranks) / sum(ranks)


@reciprocal_rank.mistake(
    "That is recall at 1: it does not see whether the right chunk was second or tenth."
)
def _recall_at_one(found, right):
    return sum(ids[0] in good for ids, good in zip(found, right)) / len(found)


@reciprocal_rank.mistake(
    "Only the first right chunk counts; you added up the shares of all of them."
)
def _all_right(found, right):
    return sum(
        1 / place
        for ids, good in zip(found, right)
        for place, name in enumerate(ids, start=1)
        if name in good
    ) / len(found)


@exercise(
    why="Only the two words are compared, so whatever else the model might have said falls out.",
    hints=(
        "Which row of `logits` predicts the next token?",
        "Take the two logits of the last row and make a softmax of these two alone.",
        "It is logits[-1, [yes, no]].softmax(-1)[0].",
    ),
    ask=lambda answer, *args: float(answer(*args)),
)
def yes_share(logits, yes, no):
    """A reranker's score: `logits` [T, V] of one prompt, `yes` and `no` the ids of the two words.
    Return the probability of yes against no at the last position.
    """
    return float(logits[-1, [yes, no]].softmax(-1)[0])


@yes_share.cases
def _():
    import math

    import torch

    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    for yes, no in ((2, 7), (7, 2)):
        a, b = logits[-1, yes].item(), logits[-1, no].item()
        yield case(
            logits,
            yes,
            no,
            expect=math.exp(a) / (math.exp(a) + math.exp(b)),
            note=f"random logits, yes is token {yes}",
        )
    logits = torch.zeros(2, 5)
    logits[-1, 3] = math.log(3)
    yield case(logits, 3, 0, expect=0.75, note="yes three times as likely as no")


@yes_share.mistake(
    "You took the softmax over the whole vocabulary. Then the score depends on all other words too;"
    " only yes and no are compared."
)
def _whole(logits, yes, no):
    return float(logits[-1].softmax(-1)[yes])


@yes_share.mistake("That is the share of no.")
def _no(logits, yes, no):
    return float(logits[-1, [yes, no]].softmax(-1)[1])


@yes_share.mistake(
    "You looked at the first position. The last one has read the whole prompt, and it predicts the"
    " answer."
)
def _first(logits, yes, no):
    return float(logits[0, [yes, no]].softmax(-1)[0])


@yes_share.mistake("Logits are no probabilities: they can be negative. Put them through a softmax.")
def _raw(logits, yes, no):
    return float(logits[-1, yes] / (logits[-1, yes] + logits[-1, no]))


@exercise(
    why=(
        "Where the letters stand is not enough: the place has to speak of what was asked, and the"
        " value has to stand there whole."
    ),
    hints=(
        (
            "Go through the lines. Which of them hold the answer, and which speak of the thing in"
            " question?"
        ),
        (
            "A line counts only if it holds both. Of several take the first; if there is none, give"
            " back None."
        ),
        (
            "next((page for page, line in lines if thing in line and answer in line.replace('.', '"
            " ').replace(';', ' ').split()), None) is nearly it, but an answer may have several"
            " words: look for ' ' + answer + ' ' in ' ' + line + ' '."
        ),
    ),
)
def cited_page(answer, thing, lines):
    """The page to cite: that of the first line which holds `thing` and, as whole words, `answer`;
    None if none does. `lines`: (page, line) pairs; `.`, `;` and `:` end a word.
    """
    for page, line in lines:
        words = line
        for mark in ".;:":
            words = words.replace(mark, " ")
        if thing in line and f" {answer} " in f" {words} ":
            return page
    return None


@cited_page.cases
def _():
    book = [
        (3, "Mellu mug: colour blue; price 14 euros."),
        (5, "The Funlin backpack is blue."),
        (6, "The Funlin backpack stands on shelf B27."),
        (8, "Ask for a refund within 32 days."),
        (9, "Ask for an exchange within 2 days."),
        (22, "Funlin backpack: price 129 euros."),
    ]
    yield case(
        "blue",
        "Funlin backpack",
        book,
        expect=5,
        note="a colour that another thing has too, on an earlier page",
    )
    yield case("14 euros", "Mellu mug", book, expect=3, note="an answer of two words in a list")
    yield case("2 days", "exchange", book, expect=9, note="'2 days', which is a part of '32 days'")
    yield case(
        "2 days", "refund", book, expect=None, note="'2 days' about a refund: the line says 32 days"
    )
    yield case("B27", "Funlin backpack", book, expect=6, note="a shelf at the end of a sentence")
    yield case(
        "green", "Mellu mug", book, expect=None, note="an answer that the book does not hold"
    )


@cited_page.mistake(
    "You cite the first line that holds the answer, whatever it speaks of: the mug is blue too. The"
    " line has to name the thing."
)
def _any_thing(answer, thing, lines):
    return next(
        (
            page
            for page, line in lines
            if f" {answer} "
            in " " + line.replace(".", " ").replace(";", " ").replace(":", " ") + " "
        ),
        None,
    )


@cited_page.mistake("'2 days' is found inside '32 days'. Look for whole words.")
def _inside_words(answer, thing, lines):
    return next((page for page, line in lines if thing in line and answer in line), None)


@cited_page.mistake("You cite the first line about the thing, whether or not it tells the answer.")
def _any_answer(answer, thing, lines):
    return next((page for page, line in lines if thing in line), None)


@exercise(
    why=(
        "Wrong and not declined, as a share of all questions: a system that declines everything"
        " invents nothing."
    ),
    hints=(
        "Two things must come together before an answer counts as invented.",
        (
            "It is wrong, and it is not a refusal. A refusal is never invented, even where there"
            " was an answer."
        ),
        "Divide by all questions: sum(not declined and not right) / len(answers).",
    ),
)
def hallucination_rate(answers):
    """The share of all questions that got an invented answer. `answers` holds a pair (right,
    declined) for each question; a rightful refusal is (True, True).
    """
    return sum(not right and not declined for right, declined in answers) / len(answers)


@hallucination_rate.cases
def _():
    good, invented, shy, rightly = (True, False), (False, False), (False, True), (True, True)
    yield case(
        [good, invented, shy, rightly],
        expect=0.25,
        note="one right, one invented, one declined for nothing, one rightly declined",
    )
    yield case([shy, shy, shy, rightly], expect=0.0, note="a system that declines everything")
    yield case(
        [invented, invented, good, shy, shy],
        expect=0.4,
        note="two of five invented, two declined for nothing",
    )


@hallucination_rate.mistake(
    "That is all that is wrong. An answer that was declined for nothing is a pity, not an"
    " invention."
)
def _all_wrong(answers):
    return sum(not right for right, _ in answers) / len(answers)


@hallucination_rate.mistake(
    "You divided by the answers that were given. A rate of all questions lets systems be compared"
    " that decline more or less often."
)
def _of_given(answers):
    given = [right for right, declined in answers if not declined]
    return sum(not right for right in given) / len(given) if given else 0.0


@hallucination_rate.mistake(
    "That is how many answers were invented. The rate is their share of all questions."
)
def _how_many(answers):
    return sum(not right and not declined for right, declined in answers)


@hallucination_rate.mistake(
    "You count refusals as inventions. Who declines says nothing false; count what is wrong and was"
    " not declined."
)
def _refusals_too(answers):
    return sum(not right or declined for right, declined in answers) / len(answers)


@hallucination_rate.mistake("That is the share of refusals, rightful ones and others.")
def _refusals(answers):
    return sum(declined for _, declined in answers) / len(answers)


@exercise(
    why=(
        "A threshold trades answers for refusals; only counting both on questions kept for choosing"
        " tells where it pays."
    ),
    hints=(
        (
            "Try each candidate. With threshold t, which questions are declined, and which of those"
            " rightly?"
        ),
        (
            "A question with a score below t is right if it has no answer; any other is right as it"
            " was."
        ),
        (
            "max(candidates, key=right_with), where right_with(t) sums (not there if score < t else"
            " right); of equal ones the first, so go from low to high."
        ),
    ),
)
def best_threshold(questions, candidates):
    """The threshold among `candidates` (ascending) with the most right replies, of equal ones the
    lowest. `questions`: (score, has_answer, right_if_answered) each; below the threshold the reply
    is a refusal.
    """

    def right_with(t):
        return sum(not there if score < t else right for score, there, right in questions)

    return max(candidates, key=right_with)


@best_threshold.cases
def _():
    mixed = [
        (0.9, True, True),
        (0.8, True, True),
        (0.7, False, False),
        (0.6, True, True),
        (0.5, False, False),
        (0.3, False, False),
    ]
    yield case(
        mixed,
        [0.0, 0.4, 0.55, 0.75],
        expect=0.55,
        note="answers above 0.55, with one gap that scores higher",
    )
    yield case(
        [(0.9, True, True), (0.8, True, True), (0.4, True, True)],
        [0.0, 0.5, 0.85],
        expect=0.0,
        note="questions that all have an answer",
    )
    yield case(
        [(0.9, False, True), (0.8, True, True), (0.2, False, True)],
        [0.0, 0.5],
        expect=0.0,
        note="a model that declines by itself: nothing to gain",
    )
    yield case(
        [(0.9, True, False), (0.5, True, True), (0.4, False, False), (0.35, False, False)],
        [0.0, 0.45, 0.95],
        expect=0.45,
        note="a wrong answer with a high score",
    )


@best_threshold.mistake(
    "That is the threshold that invents least: it declines so much that good answers are lost. A"
    " refusal is right only where there is no answer; count right replies."
)
def _least_invented(questions, candidates):
    return min(
        candidates, key=lambda t: sum(not right and score >= t for score, _, right in questions)
    )


@best_threshold.mistake(
    "A rightful refusal counts too. You counted the answers above the threshold alone, so declining"
    " could never gain."
)
def _no_refusal(questions, candidates):
    return max(candidates, key=lambda t: sum(right for score, _, right in questions if score >= t))


@best_threshold.mistake("Declined is what scores below the threshold, not above it.")
def _upside_down(questions, candidates):
    return max(
        candidates,
        key=lambda t: sum(not there if score >= t else right for score, there, right in questions),
    )
