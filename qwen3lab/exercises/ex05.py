"""The exercises of notebook 05, and from `cosine_schedule` on those of its companions."""

from __future__ import annotations

from qwen3lab.exercises.exercise import case, exercise


@exercise(
    why=(
        "After the correction m is the gradient and v its square, so only the sign is left: every"
        " weight moves by the learning rate."
    ),
    hints=(
        "At t = 1 the corrected m is g and the corrected v is g². What is m / sqrt(v) then?",
        "It is g / |g|, with the small eps beside |g| so that a zero stays a zero.",
        "It is -lr * g / (g.abs() + eps).",
    ),
    ask=lambda answer, *args: answer(*args).nan_to_num(nan=1.0),
)  # a nan equals nothing, so its mistake could not be named
def first_step(g, lr, eps=1e-8):
    """By how much does AdamW's first step change each weight, without weight decay? `g` is the
    gradient, a tensor; the result has its shape and sign.
    """
    return -lr * g / (g.abs() + eps)


@first_step.cases
def _():
    import torch

    for seed, (size, lr, eps) in enumerate(((6, 1e-2, 1e-8), (4, 1e-1, 1e-8), (5, 1e-2, 1e-3))):
        g = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 10.0 ** torch.arange(
            size
        ).sub(3)
        g[0] = 0.0
        weight = torch.nn.Parameter(torch.zeros(size))
        weight.grad = g.clone()
        torch.optim.AdamW([weight], lr=lr, eps=eps, weight_decay=0.0).step()
        yield case(
            g,
            lr,
            eps,
            expect=weight.detach().clone(),
            note=f"gradients of very different sizes, one of them zero, rate {lr:g}, eps {eps:g}",
        )


@first_step.mistake(
    "That is plain gradient descent. AdamW divides by the root of the second average, so the size"
    " of g falls out."
)
def _plain(g, lr, eps=1e-8):
    return -lr * g


@first_step.mistake(
    "You forgot the correction by 1 - beta to the power t. Without it the first step is more than"
    " three times too large."
)
def _uncorrected(g, lr, eps=1e-8):
    return -lr * 0.1 * g / ((0.001 * g * g).sqrt() + eps)


@first_step.mistake("The wrong way: a step goes against the gradient.")
def _upwards(g, lr, eps=1e-8):
    return lr * g / (g.abs() + eps)


@first_step.mistake(
    "A gradient of zero must leave its weight alone; without eps it divides zero by zero."
)
def _no_eps(g, lr, eps=1e-8):
    return -lr * g / g.abs()


@exercise(
    why=(
        "Every trained token counts once, whichever part it came in: exactly the mean of the big"
        " batch."
    ),
    hints=(
        "What would the loss be if all rows had come in one batch?",
        "There every token counts the same, so add up the sums and the counts first.",
        "It is sum(sums) / sum(counts).",
    ),
)
def step_loss(sums, counts):
    """The mean loss a token of a step that came in parts. `sums` are the summed token losses of
    each part, `counts` its trained tokens.
    """
    return sum(sums) / sum(counts)


@step_loss.cases
def _():
    yield case([30.0, 10.0], [10, 10], expect=2.0, note="two parts of equal size")
    yield case(
        [30.0, 4.0], [10, 1], expect=34 / 11, note="a part of ten tokens and one of a single token"
    )
    yield case(
        [8.0, 0.0, 12.0],
        [4, 0, 4],
        expect=2.5,
        note="a part whose rows were all cut off, with no trained token",
    )


@step_loss.mistake(
    "That is the mean of the parts' means: a token in a short part counts more than one in a long"
    " part."
)
def _mean_of_means(sums, counts):
    means = [s / n for s, n in zip(sums, counts) if n]
    return sum(means) / len(means)


@step_loss.mistake(
    "You divided by the number of parts. The sums grow with the tokens, so divide by the tokens."
)
def _by_parts(sums, counts):
    return sum(sums) / len(sums)


@step_loss.mistake(
    "That weighs each part by its tokens and then divides by the number of parts once more."
)
def _twice(sums, counts):
    return sum(sums) / sum(counts) / len(sums)


@exercise(
    why="One factor for all of them keeps the direction of the step and shortens its length alone.",
    hints=(
        (
            "How long is the gradient as a whole? Square all numbers of all tensors, add, take the"
            " root."
        ),
        (
            "If that is above the limit, multiply every tensor by limit / norm; if not, leave all"
            " as they are."
        ),
        "norm = sum((g ** 2).sum() for g in gradients) ** 0.5; the factor is min(1, limit / norm).",
    ),
    ask=lambda answer, gradients, limit: list(answer([g.clone() for g in gradients], limit)),
)
def clipped(gradients, limit):
    """The gradients (a list of tensors), shortened together so that the length of all of them as
    one vector is at most `limit`.
    """
    norm = sum((g**2).sum() for g in gradients) ** 0.5
    return [g * min(1.0, limit / norm) for g in gradients]


@clipped.cases
def _():
    import torch

    for note, values, limit in (
        ("a gradient of length 5, limit 1", ([3.0], [4.0]), 1.0),
        ("a gradient below the limit", ([0.3, 0.0], [0.4]), 1.0),
        ("two tensors of which one is small, limit 2", ([6.0, 8.0], [0.1, 0.2]), 2.0),
    ):
        gradients = [torch.tensor(value) for value in values]
        parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
        for parameter, g in zip(parameters, gradients):
            parameter.grad = g.clone()
        torch.nn.utils.clip_grad_norm_(parameters, limit)
        yield case(gradients, limit, expect=[parameter.grad for parameter in parameters], note=note)


@clipped.mistake(
    "You clipped each tensor by its own length. That changes the direction of the step; take one"
    " factor for all."
)
def _each_apart(gradients, limit):
    return [g * min(1.0, limit / float(g.norm())) for g in gradients]


@clipped.mistake("You cut off single numbers. Clipping by the norm keeps their proportions.")
def _by_value(gradients, limit):
    return [g.clamp(-limit, limit) for g in gradients]


@clipped.mistake(
    "A gradient that is short enough stays as it is; yours was stretched to the limit."
)
def _stretched(gradients, limit):
    norm = sum(float((g**2).sum()) for g in gradients) ** 0.5
    return [g * limit / norm for g in gradients]


@clipped.mistake(
    "You added up the lengths of the tensors. The length of the whole is the root of the sum of"
    " their squares."
)
def _sum_of_norms(gradients, limit):
    return [
        g * min(1.0, limit / sum(float(other.norm()) for other in gradients)) for g in gradients
    ]


@exercise(
    why=(
        "A frozen weight is only read. A trained one needs itself, its gradient and two averages,"
        " four bytes each."
    ),
    hints=(
        "What does AdamW keep for each trained weight?",
        (
            "Weight, gradient, m and v, each of four bytes: sixteen. A frozen weight costs what it"
            " is stored in."
        ),
        "It is frozen * width + 16 * trained.",
    ),
)
def state_bytes(frozen, width, trained):
    """The bytes of weights, gradients and optimiser: `frozen` weights of `width` bytes each, and
    `trained` ones in 32 bits with AdamW.
    """
    return frozen * width + 16 * trained


@state_bytes.cases
def _():
    yield case(0, 2, 1000, expect=16_000, note="1,000 trained weights and none frozen")
    yield case(
        1000, 2, 10, expect=2_160, note="LoRA: 1,000 frozen weights in 16 bits, 10 trained ones"
    )
    yield case(
        2000, 0.5, 20, expect=1_320.0, note="QLoRA: 2,000 frozen weights in 4 bits, 20 trained ones"
    )


@state_bytes.mistake(
    "A frozen weight has no gradient and no averages: it costs its own bytes alone."
)
def _all_trained(frozen, width, trained):
    return 16 * (frozen + trained)


@state_bytes.mistake("AdamW keeps two averages for each trained weight, m and v; you counted one.")
def _one_average(frozen, width, trained):
    return frozen * width + 12 * trained


@state_bytes.mistake(
    "You counted the two averages alone. The trained weights and their gradients take four bytes"
    " each as well."
)
def _moments_only(frozen, width, trained):
    return frozen * width + 8 * trained


@state_bytes.mistake(
    "You took `width` for the trained weights too. They are kept in 32 bits, whatever the frozen"
    " ones are in."
)
def _same_width(frozen, width, trained):
    return (frozen + 4 * trained) * width


@exercise(
    why=(
        "The share is of all rows, old and new together, so the old ones are share / (1 - share) of"
        " the new."
    ),
    hints=(
        "If a quarter of all rows are old, what share are the new ones?",
        "Then new is 3/4 of the whole; the whole is new / (1 - share).",
        "It is round(new * share / (1 - share)).",
    ),
)
def rehearsal_rows(new, share):
    """How many old rows must be added to `new` new ones, so that `share` of all rows are old? A
    whole number.
    """
    return round(new * share / (1 - share))


@rehearsal_rows.cases
def _():
    yield case(300, 0.25, expect=100, note="300 new rows, a quarter of all shall be old")
    yield case(100, 0.75, expect=300, note="100 new rows, three quarters of all shall be old")
    yield case(510, 0.5, expect=510, note="510 new rows, half of all shall be old")
    yield case(80, 0.0, expect=0, note="no rehearsal")


@rehearsal_rows.mistake(
    "That is the share of the new rows. Of all rows together it comes out smaller than asked."
)
def _of_new(new, share):
    return round(new * share)


@rehearsal_rows.mistake("That is how many rows there are in all. Asked are the old ones alone.")
def _total(new, share):
    return round(new / (1 - share))


@rehearsal_rows.mistake(
    "You have old and new the wrong way round: the new rows are 1 - share of the whole."
)
def _swapped(new, share):
    return round(new * (1 - share) / share) if share else 0


@exercise(
    why=(
        "Each stage shares out one more of the three: first what the optimiser keeps, then the"
        " gradients, then the weights."
    ),
    hints=(
        "In 32 bits: 4 bytes of weights, 4 of gradients, 8 of the optimiser, for each parameter.",
        (
            "Stage 1 divides the 8 by the cards, stage 2 also the 4 of the gradients, stage 3 all"
            " sixteen."
        ),
        (
            "parts = (8, 4, 4) in the order in which they are shared; the first `stage` of them are"
            " divided by `gpus`."
        ),
    ),
)
def shard_bytes(parameters, gpus, stage):
    """The bytes of weights, gradients and AdamW on each card, in 32 bits. Stage 0 shares nothing
    out; 1 the optimiser's state; 2 the gradients too; 3 the weights too.
    """
    return parameters * sum(
        size / gpus if stage > place else size for place, size in enumerate((8, 4, 4))
    )


@shard_bytes.cases
def _():
    yield case(1000, 4, 0, expect=16_000.0, note="plain data parallel: every card holds all")
    yield case(1000, 4, 1, expect=10_000.0, note="stage 1 on four cards")
    yield case(1000, 4, 2, expect=7_000.0, note="stage 2 on four cards")
    yield case(1000, 4, 3, expect=4_000.0, note="stage 3 on four cards")
    yield case(1000, 1, 3, expect=16_000.0, note="a single card")


@shard_bytes.mistake(
    "Only stage 3 divides everything. The lower stages leave a whole copy of something on each"
    " card."
)
def _all_divided(parameters, gpus, stage):
    return parameters * 16 / gpus if stage else parameters * 16.0


@shard_bytes.mistake(
    "Stage 1 shares out the optimiser's state, the largest part, and not the weights."
)
def _weights_first(parameters, gpus, stage):
    return parameters * sum(
        size / gpus if stage > place else size for place, size in enumerate((4, 4, 8))
    )


@shard_bytes.mistake(
    "You forgot the gradients: four bytes for each parameter, shared out from stage 2 on."
)
def _no_gradients(parameters, gpus, stage):
    return parameters * ((8 / gpus if stage > 0 else 8) + (4 / gpus if stage > 2 else 4))


@exercise(
    why="Half a cosine from one to zero over the steps that the warm-up has left.",
    hints=(
        "Two pieces: a straight line up to `warmup`, then the cosine.",
        "After the warm-up the progress is (step - warmup) / (steps - warmup), from 0 to 1.",
        (
            "The second piece is rate * 0.5 * (1 + cos(pi * progress)); the first is rate * step /"
            " warmup."
        ),
    ),
)
def cosine_schedule(step, steps, warmup, rate):
    """The learning rate at `step` (from 0): `warmup` steps in a straight line from 0 to `rate`,
    then half a cosine down to 0 at `steps`.
    """
    import math

    if step < warmup:
        return rate * step / warmup
    return rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


@cosine_schedule.cases
def _():
    yield case(0, 100, 10, 1.0, expect=0.0, note="the very first step")
    yield case(5, 100, 10, 1.0, expect=0.5, note="half of the warm-up")
    yield case(10, 100, 10, 2.0, expect=2.0, note="the end of the warm-up")
    yield case(55, 100, 10, 1.0, expect=0.5, note="half of the way down")
    yield case(40, 100, 10, 1.0, expect=0.75, note="a third of the way down")
    yield case(100, 100, 10, 1.0, expect=0.0, note="the end")
    yield case(25, 50, 0, 4.0, expect=2.0, note="no warm-up at all")


@cosine_schedule.mistake(
    "The cosine begins after the warm-up: count its progress from there, over the steps that are"
    " left."
)
def _whole_cosine(step, steps, warmup, rate):
    import math

    return (
        rate * step / warmup
        if step < warmup
        else rate * 0.5 * (1 + math.cos(math.pi * step / steps))
    )


@cosine_schedule.mistake("The warm-up is missing: the rate has to begin at zero.")
def _no_warm_up(step, steps, warmup, rate):
    import math

    return rate * 0.5 * (1 + math.cos(math.pi * max(0, step - warmup) / (steps - warmup)))


@cosine_schedule.mistake(
    "That is the straight line down. The cosine stays high for longer, then falls faster."
)
def _linear(step, steps, warmup, rate):
    return rate * step / warmup if step < warmup else rate * (steps - step) / (steps - warmup)


@cosine_schedule.mistake(
    "A quarter of a cosine: it reaches zero, but with full speed. Use (1 + cos(pi * progress)) / 2."
)
def _quarter(step, steps, warmup, rate):
    import math

    return (
        rate * step / warmup
        if step < warmup
        else rate * math.cos(math.pi / 2 * (step - warmup) / (steps - warmup))
    )


@exercise(
    why=(
        "An overflow costs one step and halves the scale; a long quiet time doubles it, so it stays"
        " just below the edge."
    ),
    hints=(
        (
            "Three things may happen: an overflow, a good step, and the good step that makes the"
            " row complete."
        ),
        "An overflow sets the count of good steps to zero and skips the step.",
        (
            "Without overflow good + 1; when that reaches `every`, double the scale and begin to"
            " count anew."
        ),
    ),
    ask=lambda answer, *args: [float(value) for value in answer(*args)],
)
def next_scale(scale, good, overflow, every):
    """Dynamic loss scaling after a backward pass: the new (scale, good steps in a row, whether the
    weights are changed). Halves after an overflow, doubles after `every` good steps.
    """
    if overflow:
        return scale / 2, 0, False
    return (scale * 2, 0, True) if good + 1 == every else (scale, good + 1, True)


@next_scale.cases
def _():
    yield case(
        65536.0, 5, True, 2000, expect=[32768.0, 0.0, 0.0], note="an overflow after five good steps"
    )
    yield case(1024.0, 5, False, 2000, expect=[1024.0, 6.0, 1.0], note="a sixth good step")
    yield case(
        1024.0,
        9,
        False,
        10,
        expect=[2048.0, 0.0, 1.0],
        note="the tenth good step, when ten double the scale",
    )
    yield case(2.0, 0, True, 3, expect=[1.0, 0.0, 0.0], note="a second overflow in a row")


@next_scale.mistake(
    "After an overflow the gradients hold infinities: the weights must not be changed by them."
)
def _steps_anyway(scale, good, overflow, every):
    return next_scale.answer(scale, good, overflow, every)[:2] + (True,)


@next_scale.mistake("An overflow breaks the row of good steps: the count begins at zero again.")
def _keeps_count(scale, good, overflow, every):
    return (scale / 2, good, False) if overflow else next_scale.answer(scale, good, overflow, every)


@next_scale.mistake(
    "You doubled the scale after every good step. It waits for `every` of them in a row."
)
def _doubles_always(scale, good, overflow, every):
    return (scale / 2, 0, False) if overflow else (scale * 2, good + 1, True)


@next_scale.mistake(
    "After the scale has doubled the count begins at zero again, else it would double at the next"
    " step too."
)
def _no_reset(scale, good, overflow, every):
    if overflow:
        return scale / 2, 0, False
    return (scale * 2 if good + 1 >= every else scale), good + 1, True


@exercise(
    why=(
        "An answer is compared with the other answers to the same question, so an easy question"
        " does not count more than a hard one."
    ),
    hints=(
        "How far is each reward from the mean of its group, in standard deviations?",
        "The standard deviation is that of a sample: squares are divided by len(rewards) - 1.",
        "It is [(r - mean) / (spread + 1e-4) for r in rewards], with statistics.stdev as spread.",
    ),
)
def group_advantages(rewards):
    """The advantages of the answers to one question, by their rewards. 1e-4 is added to the
    standard deviation, as in TRL, so that a group that agrees gets zeros.
    """
    import statistics

    mean, spread = statistics.mean(rewards), statistics.stdev(rewards)
    return [(reward - mean) / (spread + 1e-4) for reward in rewards]


@group_advantages.cases
def _():
    import torch

    from qwen3lab.from_scratch import grpo

    for rewards, note in (
        ([1.0, 0.0, 0.0, 0.0], "one right answer of four"),
        ([1.0, 1.0, -1.0, 0.0, -1.0], "a reward of three values"),
        ([1.0, 1.0, 1.0], "a group that agrees"),
    ):
        wanted = grpo.group_advantages(torch.tensor(rewards), len(rewards)).tolist()
        yield case(rewards, expect=wanted, note=note)


@group_advantages.mistake(
    "You divided the squares by the number of answers. TRL takes the deviation of a sample, with"
    " one less."
)
def _population(rewards):
    import statistics

    mean, spread = statistics.mean(rewards), statistics.pstdev(rewards)
    return [(reward - mean) / (spread + 1e-4) for reward in rewards]


@group_advantages.mistake("You took the mean away, and did not divide by the standard deviation.")
def _centred(rewards):
    return [reward - sum(rewards) / len(rewards) for reward in rewards]


@group_advantages.mistake(
    "You divided the rewards and left their mean in. Then every answer with a reward is pushed up,"
    " also the worst of its group."
)
def _not_centred(rewards):
    import statistics

    return [reward / (statistics.stdev(rewards) + 1e-4) for reward in rewards]


@exercise(
    why=(
        "The smaller of the two is kept: a move in the wanted direction stops counting beyond the"
        " clip, a move in the wrong one never does."
    ),
    hints=(
        "There are two candidates: the ratio times the advantage, and the same with a ratio that"
        " stays between 1 - clip and 1 + clip.",
        "Which of them does the paper keep, for a positive and for a negative advantage?",
        "It is min(ratio * advantage, min(max(ratio, 1 - clip), 1 + clip) * advantage).",
    ),
)
def clipped_gain(ratio, advantage, clip=0.2):
    """What one token contributes to the gain that GRPO maximises. `ratio` is its new probability
    divided by its old one.
    """
    inside = min(max(ratio, 1 - clip), 1 + clip)
    return min(ratio * advantage, inside * advantage)


@clipped_gain.cases
def _():
    for ratio, advantage, note in (
        (1.5, 2.0, "a good answer that has become much likelier"),
        (0.5, 2.0, "a good answer that has become much less likely"),
        (1.5, -1.0, "a bad answer that has become much likelier"),
        (0.5, -1.0, "a bad answer that has become much less likely"),
        (1.0, 0.7, "a ratio of 1"),
    ):
        inside = min(max(ratio, 0.8), 1.2)
        yield case(ratio, advantage, expect=min(ratio * advantage, inside * advantage), note=note)


@clipped_gain.mistake(
    "You clipped the ratio and forgot the other candidate. Then a token that moved the wrong way"
    " has no gradient either and never comes back."
)
def _only_clipped(ratio, advantage, clip=0.2):
    return min(max(ratio, 1 - clip), 1 + clip) * advantage


@clipped_gain.mistake("Nothing is clipped: far from the old policy the gain must stop growing.")
def _unclipped(ratio, advantage, clip=0.2):
    return ratio * advantage


@clipped_gain.mistake("You kept the larger of the two candidates. The paper keeps the smaller.")
def _larger(ratio, advantage, clip=0.2):
    inside = min(max(ratio, 1 - clip), 1 + clip)
    return max(ratio * advantage, inside * advantage)


@exercise(
    why=(
        "Only differences from the reference count. So the first loss of every run is ln 2,"
        " whatever the model and the pairs are."
    ),
    hints=(
        "The implicit reward of an answer is beta times its log probability minus the reference's.",
        "The loss is -ln of the sigmoid of chosen reward minus rejected reward.",
        "-ln sigmoid(x) is math.log(1 + math.exp(-x)).",
    ),
)
def dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta=0.1):
    """The DPO loss of one pair. The first four arguments are log probabilities of whole answers,
    numbers.
    """
    import math

    margin = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
    return math.log(1 + math.exp(-margin))


@dpo_loss.cases
def _():
    import torch

    from qwen3lab.from_scratch import preferences

    for given, beta, note in (
        ((-5.0, -5.0, -5.0, -5.0), 0.1, "a model that equals its reference"),
        ((-3.0, -9.0, -5.0, -6.0), 0.1, "a model that has moved towards the chosen answer"),
        ((-9.0, -3.0, -5.0, -6.0), 0.5, "one that has moved away from it, with a beta of 0.5"),
    ):
        wanted = preferences.dpo_loss(*(torch.tensor([one]) for one in given), beta=beta)
        yield case(*given, beta, expect=wanted.item(), note=note)


@dpo_loss.mistake(
    "The reference is missing: what counts is how far each answer has moved from it, not how"
    " likely it is."
)
def _no_reference(chosen, rejected, reference_chosen, reference_rejected, beta=0.1):
    import math

    return math.log(1 + math.exp(-beta * (chosen - rejected)))


@dpo_loss.mistake("You left out beta, the factor of both rewards.")
def _no_beta(chosen, rejected, reference_chosen, reference_rejected, beta=0.1):
    import math

    margin = (chosen - reference_chosen) - (rejected - reference_rejected)
    return math.log(1 + math.exp(-margin))


@dpo_loss.mistake(
    "The sign is the wrong way round: this loss falls as the rejected answer becomes likelier."
)
def _swapped_pair(chosen, rejected, reference_chosen, reference_rejected, beta=0.1):
    import math

    margin = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
    return math.log(1 + math.exp(margin))


@exercise(
    why=(
        "A tie says that neither is better, so it counts half. Two equal models then get 0.5, and"
        " the two win rates of a comparison add up to 1."
    ),
    hints=(
        "How much should a model win against itself?",
        "A win counts 1, a tie 0.5, a defeat 0; the rate is their mean.",
        "Go through zip(mine, theirs) and add up (a < b) + 0.5 * (a == b).",
    ),
)
def win_rate(mine, theirs):
    """The win rate of one model over another. Both lists hold the length of a right reply to each
    question, in the same order, and the shorter reply is preferred.
    """
    return sum((a < b) + 0.5 * (a == b) for a, b in zip(mine, theirs)) / len(mine)


@win_rate.cases
def _():
    yield case([1, 5, 2, 2], [3, 4, 2, 9], expect=0.625, note="two wins, a tie and a defeat")
    yield case([2, 2], [2, 2], expect=0.5, note="two models that reply alike")
    yield case([4, 4, 1, 6], [1, 2, 3, 6], expect=0.375, note="a win, a tie and two defeats")


@win_rate.mistake(
    "You left the ties out of the count. Then one win and a hundred ties look like a win rate of 1."
)
def _without_ties(mine, theirs):
    decided = [(a, b) for a, b in zip(mine, theirs) if a != b]
    return sum(a < b for a, b in decided) / max(1, len(decided))


@win_rate.mistake("You counted a tie as a defeat. Against itself a model would win 0 of all.")
def _ties_lost(mine, theirs):
    return sum(a < b for a, b in zip(mine, theirs)) / len(mine)


@win_rate.mistake("Here the longer reply wins. Asked is how often the shorter one does.")
def _longer(mine, theirs):
    return sum((a > b) + 0.5 * (a == b) for a, b in zip(mine, theirs)) / len(mine)
