"""The exercises of notebook 06, and `shared_runs` of its companion."""

from __future__ import annotations

from qwen3lab.exercises.exercise import case, exercise


@exercise(
    why=(
        "Only the questions on which one of the two is right say which is better, and there a fair"
        " coin would decide."
    ),
    hints=(
        (
            "How often is the first alone right, and how often the second alone? All other"
            " questions say nothing."
        ),
        (
            "If both are equally good, each of these questions is a toss of a coin: how likely is a"
            " result at least as uneven, to either side?"
        ),
        (
            "With n = a + b and c = min(a, b): 2 * sum(math.comb(n, i) for i in range(c + 1)) / 2"
            " ** n, but 1 at most."
        ),
    ),
)
def mcnemar_p(first, second):
    """McNemar's exact test, two-sided. `first` and `second` are lists of True and False: what each
    system got right, on the same questions. The result is p.
    """
    import math

    a = sum(one and not other for one, other in zip(first, second))
    b = sum(other and not one for one, other in zip(first, second))
    return min(1.0, 2 * sum(math.comb(a + b, i) for i in range(min(a, b) + 1)) / 2 ** (a + b))


@mcnemar_p.cases
def _():
    def lists(both, one, other, neither):
        return [True] * (both + one) + [False] * (other + neither), [True] * both + [
            False
        ] * one + [True] * other + [False] * neither

    yield case(
        *lists(5, 6, 0, 1),
        expect=2 / 64,
        note="twelve questions, six of which the first system alone has right",
    )
    yield case(
        *lists(10, 1, 7, 2),
        expect=2 * 9 / 256,
        note="one question for the first system, seven for the second",
    )
    yield case(*lists(3, 2, 2, 3), expect=1.0, note="two questions for each system")
    yield case(
        *lists(20, 4, 1, 0),
        expect=2 * 6 / 32,
        note="four questions for the first system, one for the second",
    )


@mcnemar_p.mistake(
    "That is one-sided. You would have been as surprised by the opposite, so both ends of the"
    " distribution count."
)
def _one_sided(first, second):
    import math

    a = sum(one and not other for one, other in zip(first, second))
    b = sum(other and not one for one, other in zip(first, second))
    return sum(math.comb(a + b, i) for i in range(min(a, b) + 1)) / 2 ** (a + b)


@mcnemar_p.mistake(
    "Questions that both have right, or both wrong, are no tosses. Only those where exactly one is"
    " right count."
)
def _all_questions(first, second):
    import math

    n, least = (
        len(first),
        min(
            sum(one and not other for one, other in zip(first, second)),
            sum(other and not one for one, other in zip(first, second)),
        ),
    )
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(least + 1)) / 2**n)


@mcnemar_p.mistake(
    "A probability is 1 at most. Where both have as many, the two ends of the distribution overlap."
)
def _above_one(first, second):
    return 2 * _one_sided(first, second)


@mcnemar_p.mistake(
    "That is the chance of exactly this result. A result that is more uneven still would have been"
    " a sign too: add them up."
)
def _exactly(first, second):
    import math

    a = sum(one and not other for one, other in zip(first, second))
    b = sum(other and not one for one, other in zip(first, second))
    return min(1.0, 2 * math.comb(a + b, min(a, b)) / 2 ** (a + b))


@exercise(
    why=(
        "The interval shrinks with the root of n, so half its width costs four times as many"
        " questions."
    ),
    hints=(
        "The standard error of a share is the root of share * (1 - share) / n.",
        "Half the width is 1.96 standard errors. Solve that for n, and round up.",
        "It is math.ceil(1.96 ** 2 * share * (1 - share) / half ** 2).",
    ),
)
def questions_for(share, half):
    """How many questions does a test need, so that the simple 95 % interval (1.96 standard errors
    to each side) is `share` plus or minus `half`? A whole number.
    """
    import math

    return math.ceil(1.96**2 * share * (1 - share) / half**2)


@questions_for.cases
def _():
    yield case(0.9, 0.03, expect=385, note="a share of 0.9, three points to each side")
    yield case(0.5, 0.05, expect=385, note="a share of 0.5, five points to each side")
    yield case(0.8, 0.02, expect=1537, note="a share of 0.8, two points to each side")
    yield case(0.97, 0.01, expect=1118, note="a share of 0.97, one point to each side")


@questions_for.mistake(
    "You took `half` for the whole width of the interval. It is what lies to each side of the"
    " share."
)
def _whole_width(share, half):
    return questions_for.answer(share, half / 2)


@questions_for.mistake(
    "That is one standard error to each side, which holds the truth in two of three cases only. It"
    " takes 1.96 of them."
)
def _one_error(share, half):
    import math

    return math.ceil(share * (1 - share) / half**2)


@questions_for.mistake(
    "The width shrinks with the root of n, so n grows with the square of 1.96 / half."
)
def _no_square(share, half):
    import math

    return math.ceil(1.96 * share * (1 - share) / half)


@questions_for.mistake("You rounded down; the interval is then a hair too wide. Round up.")
def _rounded_down(share, half):
    return int(1.96**2 * share * (1 - share) / half**2)


@questions_for.mistake(
    "You left out share * (1 - share): an answer that is nearly always right varies less, and needs"
    " fewer questions."
)
def _worst_case(share, half):
    import math

    return math.ceil(1.96**2 / half**2)


@exercise(
    why=(
        "One mean over all tokens that count, then the exponential: long answers weigh as much as"
        " they are long."
    ),
    hints=(
        "Which tokens count? Gather their losses from all rows first.",
        "Then one mean over all of them together, and the exponential of it at the very end.",
        (
            "kept = all losses whose mask is true, of all rows; the result is math.exp(sum(kept) /"
            " len(kept))."
        ),
    ),
)
def text_perplexity(losses, counted):
    """The perplexity of some rows. `losses` holds -ln p of each token, a list a row; `counted` has
    the same form and says which tokens belong to the answer.
    """
    import math

    kept = [loss for row, mask in zip(losses, counted) for loss, counts in zip(row, mask) if counts]
    return math.exp(sum(kept) / len(kept))


@text_perplexity.cases
def _():
    import math

    yield case(
        [[2.0, 0.5, 1.5]],
        [[False, True, True]],
        expect=math.exp(1.0),
        note="one row whose first token is the prompt's",
    )
    yield case(
        [[0.5, 0.5, 0.5], [2.5]],
        [[True] * 3, [True]],
        expect=math.exp(1.0),
        note="an answer of three tokens and one of a single token",
    )
    yield case(
        [[4.0, 1.0, 0.2, 0.6], [3.0, 2.2], [0.4, 5.0, 1.0]],
        [[False, True, True, True], [True, True], [False, False, True]],
        expect=math.exp(8.0 / 6),
        note="three rows with a prompt in two of them",
    )


@text_perplexity.mistake(
    "You counted every token. The prompt's tokens are read, not scored: leave out those whose mask"
    " is false."
)
def _all_tokens(losses, counted):
    return text_perplexity.answer(losses, [[True] * len(row) for row in losses])


@text_perplexity.mistake(
    "That is the mean of the rows' means: a token of a short answer counts more than one of a long"
    " answer."
)
def _mean_of_means(losses, counted):
    import math

    means = [math.log(text_perplexity.answer([row], [mask])) for row, mask in zip(losses, counted)]
    return math.exp(sum(means) / len(means))


@text_perplexity.mistake(
    "You averaged the rows' perplexities. Average the losses, and take the exponential once, at the"
    " end."
)
def _mean_of_rows(losses, counted):
    return sum(text_perplexity.answer([row], [mask]) for row, mask in zip(losses, counted)) / len(
        losses
    )


@text_perplexity.mistake("That is the loss. Perplexity is its exponential.")
def _loss(losses, counted):
    import math

    return math.log(text_perplexity.answer(losses, counted))


@text_perplexity.mistake(
    "You took the exponential of each token's loss before the mean. It comes last, or a single rare"
    " token decides all."
)
def _exponential_first(losses, counted):
    import math

    kept = [
        math.exp(loss)
        for row, mask in zip(losses, counted)
        for loss, counts in zip(row, mask)
        if counts
    ]
    return sum(kept) / len(kept)


@exercise(
    why=(
        "A group is found at most as often as the reference has it, so repeating a good word earns"
        " nothing."
    ),
    hints=(
        (
            "List all groups of n words of both texts, with how often each occurs;"
            " `collections.Counter` counts."
        ),
        "A group counts as found as often as it occurs in both: the smaller of the two numbers.",
        (
            "ours & theirs of two Counters is the smaller count of each; divide the sum of its"
            " values by the sum of ours."
        ),
    ),
)
def clipped_precision(written, reference, n):
    """BLEU's share of groups of `n` words: how many of the written text's groups are found in the
    reference? Both texts are lists of words.
    """
    from collections import Counter

    ours, theirs = (
        Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        for words in (written, reference)
    )
    return sum((ours & theirs).values()) / sum(ours.values())


@clipped_precision.cases
def _():
    yield case(
        "the the the the".split(),
        "the lamp and the chair".split(),
        1,
        expect=0.5,
        note='"the" four times, where the reference has it twice',
    )
    yield case(
        "we send a new lamp today".split(),
        "we send you a new lamp".split(),
        2,
        expect=3 / 5,
        note="pairs of words, three of five found",
    )
    yield case(
        "a b a b a b a".split(),
        "a b a c d e f g".split(),
        3,
        expect=1 / 5,
        note="groups of three, one of them repeated",
    )
    yield case(
        "a b a b c".split(),
        "b c a b d e".split(),
        2,
        expect=0.5,
        note="pairs, one of them written twice",
    )


@clipped_precision.mistake(
    "You counted a repeated group each time. It counts as found only as often as the reference"
    " has it."
)
def _unclipped(written, reference, n):
    ours, theirs = (
        [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        for words in (written, reference)
    )
    return sum(group in theirs for group in ours) / len(ours)


@clipped_precision.mistake(
    "You counted each different group once. How often it occurs matters: use counts, not sets."
)
def _sets(written, reference, n):
    ours, theirs = (
        {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}
        for words in (written, reference)
    )
    return len(ours & theirs) / len(ours)


@clipped_precision.mistake(
    "You divided by the reference's groups. That is a recall; BLEU divides by the groups of the"
    " written text."
)
def _recall(written, reference, n):
    return clipped_precision.answer(reference, written, n)


@clipped_precision.mistake(
    "You compared single words. A group is a run of n words, in their order."
)
def _single_words(written, reference, n):
    return clipped_precision.answer(written, reference, 1)


@exercise(
    why=(
        "All ways to draw k tries, less those that hold no passing one; no estimate of the rate is"
        " needed on the way."
    ),
    hints=(
        "In how many ways can k of the n tries be drawn? `math.comb(n, k)` counts them.",
        "In how many of these is no try among those that passed? They are drawn from n - correct.",
        "It is 1 - math.comb(n - correct, k) / math.comb(n, k).",
    ),
)
def pass_chance(n, correct, k):
    """Of `n` tries at a problem `correct` have passed. If `k` of these tries are drawn, how likely
    is at least one among them that passed?
    """
    import math

    return 1 - math.comb(n - correct, k) / math.comb(n, k)


@pass_chance.cases
def _():
    yield case(8, 2, 1, expect=0.25, note="two of eight, one drawn")
    yield case(8, 2, 4, expect=1 - 15 / 70, note="two of eight, four drawn")
    yield case(10, 3, 2, expect=1 - 21 / 45, note="three of ten, two drawn")
    yield case(5, 4, 2, expect=1.0, note="four of five, two drawn: one of them must have passed")
    yield case(6, 0, 3, expect=0.0, note="no try that passed")


@pass_chance.mistake(
    "You drew with replacement, so one try can come twice. That is too low; count the ways to draw"
    " k different tries."
)
def _replaced(n, correct, k):
    return 1 - (1 - correct / n) ** k


@pass_chance.mistake("That is pass@1: the chance of a single try, whatever k is.")
def _single_try(n, correct, k):
    return correct / n


@pass_chance.mistake(
    "You added up the chances of k tries. Two of them may pass at once, so the sum is too high."
)
def _added(n, correct, k):
    return min(1.0, k * correct / n)


@pass_chance.mistake(
    "That is the chance that all k tries pass. One is enough: take away the draws in which none"
    " does."
)
def _all_pass(n, correct, k):
    import math

    return math.comb(correct, k) / math.comb(n, k)


@exercise(
    why=(
        "A choice counts only if it survives the exchange; all else the order decided, and the"
        " judge did not."
    ),
    hints=(
        (
            "In the first prompt the letter A means the first answer. What does it mean in the"
            " second prompt?"
        ),
        "p_ab > 0.5 is a vote for the first answer, p_ba > 0.5 one for the second.",
        '"first" where p_ab > 0.5 > p_ba, "second" where p_ab < 0.5 < p_ba, else "order".',
    ),
    ask=lambda answer, *args: list(answer(*args)),
)
def verdicts(p_ab, p_ba):
    """Name each pair's winner, "first" or "second", or "order" where the order decided. Lists of
    the judge's probability of "A": the first answer stands as A in `p_ab`, as B in `p_ba`.
    """
    return [
        "first" if ab > 0.5 > ba else "second" if ab < 0.5 < ba else "order"
        for ab, ba in zip(p_ab, p_ba)
    ]


@verdicts.cases
def _():
    yield case(
        [0.9, 0.2, 0.8, 0.1],
        [0.3, 0.7, 0.9, 0.4],
        expect=["first", "second", "order", "order"],
        note="one pair of every kind",
    )
    yield case(
        [0.6, 0.95], [0.7, 0.55], expect=["order", "order"], note="a judge that always says A"
    )
    yield case(
        [0.7, 0.4, 0.3],
        [0.1, 0.1, 0.8],
        expect=["first", "order", "second"],
        note="three pairs, the second of which was decided by the order",
    )


@verdicts.mistake(
    "The letters are exchanged in the second prompt: there a high probability of A is a vote for"
    " the second answer."
)
def _same_letters(p_ab, p_ba):
    return [
        "first" if ab > 0.5 and ba > 0.5 else "second" if ab < 0.5 and ba < 0.5 else "order"
        for ab, ba in zip(p_ab, p_ba)
    ]


@verdicts.mistake(
    "You looked at one order only. Whether the choice survives the exchange needs both."
)
def _asked_once(p_ab, p_ba):
    return ["first" if ab > 0.5 else "second" for ab in p_ab]


@verdicts.mistake(
    "You took the mean of both orders. It hides that they contradict each other: such a pair was"
    " decided by the order."
)
def _mean_of_both(p_ab, p_ba):
    return ["first" if ab + 1 - ba > 1 else "second" for ab, ba in zip(p_ab, p_ba)]


@verdicts.mistake("The wrong way round: p_ab > 0.5 is a vote for the first answer.")
def _exchanged(p_ab, p_ba):
    return verdicts.answer(p_ba, p_ab)


@exercise(
    why=(
        "A run is shared if some training text holds it as a whole; words that merely occur"
        " somewhere are no copy."
    ),
    hints=(
        "List the runs of n words of the test text, one at each place.",
        "Collect the runs of every training text, each text for itself, in a set.",
        (
            "It is the number of runs of `text` that are in the set, divided by the number of runs"
            " of `text`."
        ),
    ),
)
def shared_runs(text, known, n):
    """Which share of the runs of `n` words of `text` (a list of words) occurs in one of the
    training texts `known` (lists of words)?
    """

    def runs(words):
        return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

    seen = {run for words in known for run in runs(words)}
    return sum(run in seen for run in runs(text)) / len(runs(text))


@shared_runs.cases
def _():
    yield case(
        "what does a lamp cost today".split(),
        ["tell me what does a lamp weigh".split(), "a chair".split()],
        3,
        expect=0.5,
        note="runs of three, two of four in a training text",
    )
    yield case(
        "one two three four".split(),
        ["zero one two".split(), "three four five".split()],
        2,
        expect=2 / 3,
        note="pairs, with a text that is spread over two training texts",
    )
    yield case(
        "a b c d".split(),
        ["d c b a".split()],
        2,
        expect=0.0,
        note="the same words in the opposite order",
    )
    yield case(
        "who runs the museum in town".split(),
        ["who runs the museum".split(), "the museum in town is new".split()],
        4,
        expect=2 / 3,
        note="runs of four",
    )


@shared_runs.mistake(
    "You looked for single words. Nearly every text shares words with others; a copy shares runs of"
    " them."
)
def _words_only(text, known, n):
    seen = {word for words in known for word in words}
    return sum(word in seen for word in text) / len(text)


@shared_runs.mistake(
    "You joined the training texts. Then a run may begin in one text and end in the next, where"
    " nobody ever read it."
)
def _joined(text, known, n):
    return shared_runs.answer(text, [[word for words in known for word in words]], n)


@shared_runs.mistake(
    "You divided by the runs of the training texts. The question is how much of the test text is"
    " known."
)
def _of_training(text, known, n):
    total = sum(max(0, len(words) - n + 1) for words in known)
    return shared_runs.answer(text, known, n) * (len(text) - n + 1) / total


@shared_runs.mistake(
    "You left the order out. A run is shared only if its words stand there in this order."
)
def _without_order(text, known, n):
    return shared_runs.answer(text, [words[::way] for words in known for way in (1, -1)], n)
