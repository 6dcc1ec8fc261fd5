"""The exercises of notebook 07, in the order of its sections."""

from __future__ import annotations

from qwen3lab.exercises.exercise import case, exercise


@exercise(
    why=(
        "At each token the first form says how much each difference counts, and the mean makes"
        " short and long answers comparable."
    ),
    hints=(
        (
            "KL(p ‖ q) at one token is the sum over the vocabulary of p * (log p - log q), and p is"
            " the first form's."
        ),
        (
            "first and other are logits: log_softmax(-1) turns them into log p and log q, each of"
            " shape [tokens, vocabulary]."
        ),
        (
            "Sum over the last dimension, then take the mean: (p.exp() * (p - q)).sum(-1).mean()"
            " with p and q as logarithms."
        ),
    ),
)
def mean_divergence(first, other):
    """The mean KL divergence in nats a token from the first form to the other, from their logits
    [tokens, vocabulary].
    """
    p, q = first.log_softmax(-1), other.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()


@mean_divergence.cases
def _():
    import torch

    def wanted(first, other):
        return torch.nn.functional.kl_div(
            other.log_softmax(-1), first.log_softmax(-1), reduction="batchmean", log_target=True
        ).item()

    generator = torch.Generator().manual_seed(0)
    for tokens, spread, note in (
        (1, 1.0, "one token"),
        (5, 3.0, "five tokens, sure predictions"),
        (3, 0.0, "the form itself"),
    ):
        first = 2 * torch.randn(tokens, 7, generator=generator)
        other = first + spread * torch.randn(tokens, 7, generator=generator)
        yield case(first, other, expect=wanted(first, other), note=note)


@mean_divergence.mistake(
    "That is KL the other way round. The weights are the first form's p: what it finds likely is"
    " what counts."
)
def _reversed(first, other):
    p, q = first.log_softmax(-1), other.log_softmax(-1)
    return (q.exp() * (q - p)).sum(-1).mean()


@mean_divergence.mistake(
    "You summed over the tokens too. Then a long answer is further away than a short one; take the"
    " mean."
)
def _summed(first, other):
    p, q = first.log_softmax(-1), other.log_softmax(-1)
    return (p.exp() * (p - q)).sum()


@mean_divergence.mistake(
    "You took the mean over the vocabulary as well. The divergence of one token is a sum over all"
    " its candidates."
)
def _mean_of_all(first, other):
    p, q = first.log_softmax(-1), other.log_softmax(-1)
    return (p.exp() * (p - q)).mean()


@mean_divergence.mistake(
    "You compared logits. They are no probabilities yet: a constant added to all of them changes"
    " nothing but your result."
)
def _of_logits(first, other):
    return (first.softmax(-1) * (first - other)).sum(-1).mean()


@exercise(
    why=(
        "Each group spans its own largest weight with seven steps up and seven down, so one large"
        " weight coarsens only the others of its group."
    ),
    hints=(
        "Cut each row into groups: weight.reshape(-1, group).",
        (
            "A group's step is its largest magnitude divided by 7, for the codes from -8 to 7 are"
            " those of four bits."
        ),
        (
            "Round weight / step, clamp to -8 and 7, multiply by the step again, and give it back"
            " its shape."
        ),
    ),
)
def four_bits(weight, group):
    """Round a weight [rows, columns] to four bits and back: each `group` of neighbouring columns of
    a row has one step, its largest magnitude / 7.
    """
    groups = weight.reshape(-1, group)
    step = groups.abs().amax(1, keepdim=True) / 7
    return ((groups / step).round().clamp(-8, 7) * step).reshape(weight.shape)


@four_bits.cases
def _():
    import torch

    from qwen3lab.from_scratch import awq

    for seed, (rows, columns, group) in enumerate(((1, 8, 8), (2, 12, 4), (3, 64, 16))):
        weight = torch.randn(
            rows, columns, generator=torch.Generator().manual_seed(seed)
        ) * torch.tensor([1.0, 5.0]).repeat(columns // 2)
        yield case(
            weight,
            group,
            expect=awq.round_groups(weight, group),
            note=f"a weight of {rows} x {columns}, groups of {group}",
        )


@four_bits.mistake(
    "One step for the whole row: its largest weight makes all others coarse. Give each group a step"
    " of its own."
)
def _whole_rows(weight, group):
    step = weight.abs().amax(1, keepdim=True) / 7
    return (weight / step).round().clamp(-8, 7) * step


@four_bits.mistake("One step for the whole matrix. Four bits need one for each group.")
def _whole_matrix(weight, group):
    step = weight.abs().max() / 7
    return (weight / step).round().clamp(-8, 7) * step


@four_bits.mistake(
    "Those are the codes, whole numbers from -8 to 7. Multiply by the step to get weights again."
)
def _codes(weight, group):
    groups = weight.reshape(-1, group)
    return (
        (groups / (groups.abs().amax(1, keepdim=True) / 7))
        .round()
        .clamp(-8, 7)
        .reshape(weight.shape)
    )


@four_bits.mistake(
    "You cut off what is behind the point. Rounding to the nearest step makes half the error."
)
def _cut_off(weight, group):
    groups = weight.reshape(-1, group)
    step = groups.abs().amax(1, keepdim=True) / 7
    return ((groups / step).trunc().clamp(-8, 7) * step).reshape(weight.shape)


@four_bits.mistake(
    "The groups run down the columns. They are neighbours within a row: these share an output, and"
    " lie together in memory."
)
def _down(weight, group):
    groups = weight.T.reshape(-1, group)
    step = groups.abs().amax(1, keepdim=True) / 7
    return ((groups / step).round().clamp(-8, 7) * step).reshape(weight.T.shape).T


@exercise(
    why=(
        "The error of column i, divided by U[i, i], goes to the columns behind it in the shares of"
        " row i of U."
    ),
    hints=(
        "The error is what the column was minus what it became; in units of U[i, i].",
        (
            "Each column j behind i changes by -error * U[i, j]: an outer product of the errors"
            " (rows) and row i of U."
        ),
        (
            "With error = (rest[:, i] - kept) / U[i, i], subtract error[:, None] * U[i, i + 1:]"
            " from rest[:, i + 1:]."
        ),
    ),
    ask=lambda answer, rest, kept, U, i: answer(rest.clone(), kept, U, i),
)
def passed_on(rest, kept, U, i):
    """One step of GPTQ: column i of `rest` [rows, columns] was rounded to `kept` [rows]. Return
    `rest` with that error made up for in the columns behind i alone.
    """
    rest = rest.clone()
    error = (rest[:, i] - kept) / U[i, i]
    rest[:, i + 1 :] -= error[:, None] * U[i, i + 1 :]
    return rest


@passed_on.cases
def _():
    import torch

    for seed, (rows, columns, i) in enumerate(((1, 3, 0), (2, 5, 1), (3, 6, 3), (2, 4, 3))):
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(40, columns, generator=generator) @ torch.randn(
            columns, columns, generator=generator
        )
        weight = torch.randn(rows, columns, generator=generator)
        hessian = (inputs.T @ inputs).double()
        U = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
        error = weight[:, i].round().double() - weight[:, i].double()
        behind = weight.double().clone()
        # Independent of U: with column i fixed, least squares over the columns behind it.
        behind[:, i + 1 :] -= (
            error[:, None] * torch.linalg.solve(hessian[i + 1 :, i + 1 :], hessian[i + 1 :, i])
            if i + 1 < columns
            else 0
        )
        note = f"column {i} of {columns}"
        if i + 1 == columns:
            note = f"column {i} of {columns}, the last one"
        yield case(weight, weight[:, i].round(), U.float(), i, expect=behind.float(), note=note)


@passed_on.mistake(
    "The wrong sign: the columns behind should make up for the error, and yours double it."
)
def _added(rest, kept, U, i):
    rest = rest.clone()
    rest[:, i + 1 :] += ((rest[:, i] - kept) / U[i, i])[:, None] * U[i, i + 1 :]
    return rest


@passed_on.mistake(
    "The division by U[i, i] is missing: row i of U gives the shares in units of its own first"
    " entry."
)
def _undivided(rest, kept, U, i):
    rest = rest.clone()
    rest[:, i + 1 :] -= (rest[:, i] - kept)[:, None] * U[i, i + 1 :]
    return rest


@passed_on.mistake(
    "You spread the error evenly over the columns. Row i of U says how much each has to take."
)
def _evenly(rest, kept, U, i):
    rest = rest.clone()
    rest[:, i + 1 :] += ((rest[:, i] - kept) / max(1, rest.shape[1] - i - 1))[:, None]
    return rest


@passed_on.mistake(
    "That is column i of U, which is zero below the diagonal. Take row i: U is an upper triangle."
)
def _column(rest, kept, U, i):
    rest = rest.clone()
    rest[:, i + 1 :] -= ((rest[:, i] - kept) / U[i, i])[:, None] * U[i + 1 :, i]
    return rest


@exercise(
    why=(
        "Codes, one 16-bit scale a group, and what stays in 16 bits: a large table makes four bits"
        " much more than a quarter."
    ),
    hints=(
        "Three parts: the codes, the scales, and the weights that nobody quantised.",
        "A code has `bits` bits; a scale has 16, one for each group; an unquantised weight has 16.",
        (
            "Add bits * quantised, 16 * quantised / group and 16 * others, and divide by the number"
            " of all weights."
        ),
    ),
)
def bits_a_weight(quantised, others, bits, group):
    """Mean bits a weight of a checkpoint: `quantised` weights of `bits` bits with a 16-bit scale
    for each `group`, and `others` in 16 bits.
    """
    return (bits * quantised + 16 * quantised / group + 16 * others) / (quantised + others)


@bits_a_weight.cases
def _():
    yield case(
        1280,
        0,
        4,
        128,
        expect=4.125,
        note="1,280 weights in four bits, groups of 128, nothing else",
    )
    yield case(
        2_359_296,
        1_051_392,
        4,
        128,
        expect=(2_359_296 * 4.125 + 1_051_392 * 16) / 3_410_688,
        note="a small model, a large table",
    )
    yield case(
        6_945_767_424,
        1_244_967_936,
        4,
        32,
        expect=(6_945_767_424 * 4.5 + 1_244_967_936 * 16) / 8_190_735_360,
        note="8B, groups of 32",
    )
    yield case(
        512,
        512,
        8,
        64,
        expect=(512 * 8.25 + 512 * 16) / 1024,
        note="half of the weights in eight bits, groups of 64",
    )


@bits_a_weight.mistake("The scales are missing: sixteen bits for each group.")
def _no_scales(quantised, others, bits, group):
    return (bits * quantised + 16 * others) / (quantised + others)


@bits_a_weight.mistake(
    "You counted every weight as quantised. Embeddings, norms and often the head stay in 16 bits."
)
def _all_quantised(quantised, others, bits, group):
    return bits + 16 / group


@bits_a_weight.mistake("That is bytes a weight; the question is for bits.")
def _bytes(quantised, others, bits, group):
    return (bits * quantised + 16 * quantised / group + 16 * others) / (quantised + others) / 8


@bits_a_weight.mistake(
    "You took the plain mean of the two kinds of weights. There are more of one than of the other;"
    " weigh them by their numbers."
)
def _plain_mean(quantised, others, bits, group):
    return (bits + 16 / group + 16) / 2


@exercise(
    why=(
        "A server's speed is all its tokens over the time from the first question to the last"
        " answer, whoever waited meanwhile."
    ),
    hints=(
        "Requests overlap. How long was the server at work as a whole?",
        "From the earliest start to the latest end.",
        "sum of the tokens / (max of the ends - min of the starts)",
    ),
)
def server_speed(requests):
    """Tokens a second that a server wrote, of requests that overlap: a list of (start, end,
    tokens), times in seconds.
    """
    starts, ends, tokens = zip(*requests)
    return sum(tokens) / (max(ends) - min(starts))


@server_speed.cases
def _():
    yield case([(0.0, 2.0, 50), (0.0, 2.0, 50)], expect=50.0, note="two requests at the same time")
    yield case(
        [(1.0, 2.0, 40), (3.0, 5.0, 60)],
        expect=25.0,
        note="one after the other, with a pause between them",
    )
    yield case(
        [(0.5, 4.5, 100), (1.0, 3.0, 20), (1.5, 5.5, 80)], expect=40.0, note="three that overlap"
    )
    yield case([(2.0, 4.0, 30)], expect=15.0, note="a single request, at the second second")


@server_speed.mistake(
    "That is the mean speed of one request. A server that answers several at once writes more than"
    " that."
)
def _mean_speed(requests):
    return sum(tokens / (end - start) for start, end, tokens in requests) / len(requests)


@server_speed.mistake(
    "You added up the seconds of all requests. Those that run at the same time share their seconds."
)
def _summed_seconds(requests):
    return sum(tokens for *_, tokens in requests) / sum(end - start for start, end, _ in requests)


@server_speed.mistake("You added up the speeds of the requests, as if all had run all the time.")
def _summed_speeds(requests):
    return sum(tokens / (end - start) for start, end, tokens in requests)


@server_speed.mistake("You counted from second zero. Begin at the first request's start.")
def _from_zero(requests):
    return sum(tokens for *_, tokens in requests) / max(end for _, end, _ in requests)


@exercise(
    why=(
        "What was already given by kept guesses is min(p, q); the replacement is drawn from the"
        " rest of p, so that both together make p."
    ),
    hints=(
        (
            "A token that the draft likes more than the target needs no help: it comes out of the"
            " guesses often enough."
        ),
        "What is missing is the positive part of p - q.",
        "(p - q).clamp(min=0), divided by its sum.",
    ),
)
def replacement(p, q):
    """From which distribution is the token drawn that replaces a dropped guess? `p` is the target's
    distribution, `q` the draft's, both [vocabulary].
    """
    rest = (p - q).clamp(min=0)
    return rest / rest.sum()


@replacement.cases
def _():
    import torch

    for p, q, wanted, note in (
        ([0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4], [0.8, 0.2, 0.0, 0.0], "four tokens"),
        (
            [0.0, 1.0, 0.0],
            [1.0, 0.0, 0.0],
            [0.0, 1.0, 0.0],
            "two models that are sure, of different tokens",
        ),
        ([0.25, 0.25, 0.5], [0.5, 0.25, 0.25], [0.0, 0.0, 1.0], "a token on which both agree"),
    ):
        yield case(torch.tensor(p), torch.tensor(q), expect=torch.tensor(wanted), note=note)
    for seed in range(2):
        p, q = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed)).softmax(-1)
        kept = torch.minimum(p, q)
        yield case(
            p,
            q,
            expect=(p - kept) / (1 - kept.sum()),
            note="two random distributions of six tokens",
        )


@replacement.mistake(
    "A draw from p favours what p likes twice: once in the kept guesses, once here. Take what is"
    " still missing."
)
def _from_p(p, q):
    return p


@replacement.mistake("Those shares do not sum to 1. Divide by their sum.")
def _not_normalised(p, q):
    return (p - q).clamp(min=0)


@replacement.mistake(
    "You gave weight to what the draft likes too much. That comes out too often already; cut at"
    " zero."
)
def _absolute(p, q):
    return (p - q).abs() / (p - q).abs().sum()


@replacement.mistake("The other way round: that is what the draft has too much of.")
def _reversed_rest(p, q):
    return (q - p).clamp(min=0) / (q - p).clamp(min=0).sum()


@exercise(
    why=(
        "A round gives the kept guesses and one token of the target's own, and costs one target"
        " pass and all the draft's."
    ),
    hints=(
        (
            "How many tokens does a round give? The i-th guess counts only if all i - 1 before it"
            " stayed, so it is kept with probability a ** i."
        ),
        "The target's own token comes on top: 1 + a + a² + ... + a ** k.",
        "Divide by what the round costs, in target passes: 1 + k * cost.",
    ),
)
def speed_up(a, k, cost):
    """How many times faster is decoding with `k` guesses a round, if each stays with probability
    `a` and a draft pass costs `cost` target passes?
    """
    return sum(a**i for i in range(k + 1)) / (1 + k * cost)


@speed_up.cases
def _():
    from qwen3lab.from_scratch import speculative

    for a, k, cost, note in (
        (0.8, 4, 0.1, "four guesses that stay with 0.8, a cheap draft"),
        (1.0, 3, 0.0, "three guesses that always stay and cost nothing"),
        (0.5, 2, 0.5, "two guesses of a draft half as costly as the target"),
        (0.0, 4, 0.25, "guesses that never stay"),
    ):
        yield case(a, k, cost, expect=float(speculative.expected_speedup(a, k, cost)), note=note)


@speed_up.mistake(
    "The target's pass gives a token of its own even if no guess stays. Begin the sum with 1."
)
def _no_own_token(a, k, cost):
    return sum(a**i for i in range(1, k + 1)) / (1 + k * cost)


@speed_up.mistake(
    "You counted each guess by itself. After the first that goes, all that follow are dropped."
)
def _independent(a, k, cost):
    return (1 + a * k) / (1 + k * cost)


@speed_up.mistake("The draft is not free: each of its k passes costs `cost` target passes.")
def _free_draft(a, k, cost):
    return float(sum(a**i for i in range(k + 1)))


@speed_up.mistake("The draft makes one pass for every guess, so its cost counts k times.")
def _one_draft_pass(a, k, cost):
    return sum(a**i for i in range(k + 1)) / (1 + cost)
