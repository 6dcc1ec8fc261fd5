"""The exercises of notebook 03, and from `lora_gradients` on those of its companion."""

from __future__ import annotations

from qwen3lab.exercises.exercise import case, exercise


@exercise(
    why=(
        "A has r numbers for each input, B has r for each output; the layer's own size does not"
        " matter."
    ),
    hints=(
        "How many numbers has A, and how many has B?",
        "A is r by inputs, B is outputs by r.",
        "It is r * (inputs + outputs) for each layer; add the layers up.",
    ),
)
def adapter_size(layers, r):
    """How many numbers does LoRA of rank r train on these layers? `layers` is a list of (inputs,
    outputs).
    """
    return sum(r * (inputs + outputs) for inputs, outputs in layers)


@adapter_size.cases
def _():
    yield case(
        [(256, 512)], 16, expect=12_288, note="one layer of 256 inputs and 512 outputs, rank 16"
    )
    yield case(
        [(4096, 4096), (4096, 1024)],
        8,
        expect=106_496,
        note="a query and a key projection of Qwen3-8B, rank 8",
    )
    yield case([(10, 20)] * 3, 1, expect=90, note="three equal layers, rank 1")


@adapter_size.mistake(
    "That is the size of the frozen weights. The adapter goes through a bottleneck of r numbers."
)
def _frozen(layers, r):
    return sum(inputs * outputs for inputs, outputs in layers)


@adapter_size.mistake(
    "One of the two matrices is missing: A reads the inputs, B writes the outputs, and both are"
    " trained."
)
def _only_a(layers, r):
    return sum(r * inputs for inputs, outputs in layers)


@adapter_size.mistake("You multiplied the two sizes. A and B are two matrices: their sizes add up.")
def _product(layers, r):
    return sum(r * inputs * outputs for inputs, outputs in layers)


@adapter_size.mistake("That counts the first layer only. Each layer has an adapter of its own.")
def _first_only(layers, r):
    return r * sum(layers[0])


@exercise(
    why=(
        "B A has the shape of the weight, and with the scale it is exactly what the detour adds to"
        " every input."
    ),
    hints=(
        (
            "The merged layer has to give W x + scale · B A x for every x. Which single matrix does"
            " that?"
        ),
        "The scale is alpha / r, and r is a size of A.",
        "It is W + (alpha / A.shape[0]) * B @ A.",
    ),
)
def merge(W, A, B, alpha):
    """The weight of a plain linear layer that computes what the layer with its adapter computes. A
    is [r, in], B is [out, r].
    """
    return W + (alpha / A.shape[0]) * B @ A


@merge.cases
def _():
    import torch

    for seed, (outputs, inputs, r, alpha) in enumerate(((5, 7, 2, 4), (6, 6, 3, 3), (4, 4, 4, 32))):
        make = torch.Generator().manual_seed(seed)
        W, A, B = (
            torch.randn(shape, generator=make)
            for shape in ((outputs, inputs), (r, inputs), (outputs, r))
        )
        yield case(
            W,
            A,
            B,
            alpha,
            expect=W + alpha / r * torch.einsum("or,ri->oi", B, A),
            note=f"a layer of {inputs} inputs and {outputs} outputs, rank {r}, alpha {alpha}",
        )


@merge.mistake("The scale is missing: the detour counts alpha / r times.")
def _no_scale(W, A, B, alpha):
    return W + B @ A


@merge.mistake("You took alpha itself as the scale. It is alpha divided by the rank.")
def _alpha_alone(W, A, B, alpha):
    return W + alpha * B @ A


@merge.mistake(
    "You divided by the wrong size of A: its first one is the rank, the second the inputs."
)
def _wrong_size(W, A, B, alpha):
    return W + (alpha / A.shape[1]) * B @ A


@merge.mistake("That is what the adapter adds, alone. The layer's own weight has to be in it.")
def _delta_alone(W, A, B, alpha):
    return (alpha / A.shape[0]) * B @ A


@exercise(
    why="It is as good as the best as far as these questions can tell, and it costs least.",
    hints=(
        (
            "Which lines cannot be told from the best? Those whose interval reaches up to the best"
            " line's."
        ),
        "The best line is the one with the highest accuracy; its interval begins at its `low`.",
        "Take the min, by 'trained', over the lines whose high is at least the best line's low.",
    ),
)
def cheapest_as_good(lines):
    """The name of the cheapest line (fewest trained numbers) whose interval overlaps that of the
    best one. A line is a dict of name, trained, accuracy, low and high.
    """
    best = max(lines, key=lambda line: line["accuracy"])
    return min(
        (line for line in lines if line["high"] >= best["low"]), key=lambda line: line["trained"]
    )["name"]


def _lines(*values):
    return [dict(zip(("name", "trained", "accuracy", "low", "high"), line)) for line in values]


@cheapest_as_good.cases
def _():
    yield case(
        _lines(
            ("rank 4", 65_536, 0.48, 0.43, 0.53),
            ("rank 16", 262_144, 0.93, 0.90, 0.95),
            ("rank 32", 524_288, 0.956, 0.931, 0.972),
        ),
        expect="rank 16",
        note="three ranks, of which two overlap",
    )
    yield case(
        _lines(
            ("a", 100, 0.70, 0.60, 0.78), ("b", 200, 0.80, 0.71, 0.87), ("c", 400, 0.90, 0.83, 0.94)
        ),
        expect="b",
        note="a chain: a overlaps b, b overlaps c, a does not overlap c",
    )
    yield case(
        _lines(
            ("a", 10, 0.80, 0.72, 0.865), ("b", 20, 0.86, 0.79, 0.91), ("c", 40, 0.90, 0.84, 0.94)
        ),
        expect="a",
        note="three lines of which all overlap the best",
    )
    yield case(
        _lines(("large", 900, 0.90, 0.86, 0.93), ("small", 10, 0.10, 0.07, 0.14)),
        expect="large",
        note="a small line that is plainly worse",
    )
    yield case(
        _lines(("best", 50, 0.95, 0.92, 0.97), ("next", 80, 0.94, 0.91, 0.96)),
        expect="best",
        note="two lines of which the better is the cheaper",
    )


@cheapest_as_good.mistake(
    "That is the line with the highest score. A line that cannot be told from it may cost less."
)
def _highest(lines):
    return max(lines, key=lambda line: line["accuracy"])["name"]


@cheapest_as_good.mistake("That is the cheapest line of all, however bad it is.")
def _cheapest(lines):
    return min(lines, key=lambda line: line["trained"])["name"]


@cheapest_as_good.mistake(
    "You went from neighbour to neighbour: a overlaps b and b overlaps c, but a does not reach the"
    " best line. Compare each with the best itself."
)
def _chain(lines):
    left, reach = sorted(lines, key=lambda line: -line["accuracy"]), []
    for line in left:
        if not reach or line["high"] >= min(other["low"] for other in reach):
            reach.append(line)
    return min(reach, key=lambda line: line["trained"])["name"]


@cheapest_as_good.mistake(
    "You asked whether the best line's score lies in the other's interval. Both scores are"
    " uncertain: compare interval with interval."
)
def _score_inside(lines):
    best = max(lines, key=lambda line: line["accuracy"])
    return min(
        (line for line in lines if line["high"] >= best["accuracy"]),
        key=lambda line: line["trained"],
    )["name"]


@exercise(
    why=(
        "The gradient flows back along the detour: first to B with what A let through, then through"
        " B to A. At the start B is zero, so A gets nothing in the first step."
    ),
    hints=(
        (
            "Let h = A x be what comes out of the bottleneck. How would you get B's gradient for"
            " the plain layer y = scale · B h?"
        ),
        "For y = B h with rows as examples: dB = g.T @ h. Through B goes back g @ B.",
        "With h = x @ A.T: dB = scale * g.T @ h, and dA = scale * (g @ B).T @ x.",
    ),
    ask=lambda answer, *args: list(answer(*args)),
)
def lora_gradients(x, g, A, B, scale):
    """The gradients (dA, dB) of a loss. x [n, in] are the inputs, g [n, out] is the loss's gradient
    with respect to the layer's output.
    """
    return scale * (g @ B).T @ x, scale * g.T @ (x @ A.T)


@lora_gradients.cases
def _():
    import torch

    for seed, (n, inputs, outputs, r, scale, zero) in enumerate(
        ((3, 5, 4, 2, 2.0, False), (6, 4, 7, 3, 0.5, False), (4, 5, 4, 2, 2.0, True))
    ):
        make = torch.Generator().manual_seed(seed)
        x, g, A, B = (
            torch.randn(shape, generator=make)
            for shape in ((n, inputs), (n, outputs), (r, inputs), (outputs, r))
        )
        B = B * (not zero)
        a, b = A.clone().requires_grad_(), B.clone().requires_grad_()
        with torch.enable_grad():
            (g * (scale * x @ a.T @ b.T)).sum().backward()
        yield case(
            x,
            g,
            A,
            B,
            scale,
            expect=[a.grad, b.grad],
            note=(
                "an adapter at its start, where B is zero"
                if zero
                else f"{n} inputs, rank {r}, scale {scale}"
            ),
        )


@lora_gradients.mistake(
    "The scale is missing: what is multiplied on the way forward is multiplied on the way back."
)
def _unscaled(x, g, A, B, scale):
    return (g @ B).T @ x, g.T @ (x @ A.T)


@lora_gradients.mistake("The two are in the wrong order: A's gradient comes first, then B's.")
def _swapped(x, g, A, B, scale):
    return scale * g.T @ (x @ A.T), scale * (g @ B).T @ x


@lora_gradients.mistake(
    "You took the mean over the examples. g holds that already, if the loss is a mean."
)
def _averaged(x, g, A, B, scale):
    return scale * (g @ B).T @ x / len(x), scale * g.T @ (x @ A.T) / len(x)


@exercise(
    why=(
        "The detour's volume is alpha / r, and only alpha is left to keep it when the rank changes."
        " (rsLoRA divides by the root of the rank instead.)"
    ),
    hints=(
        "What must stay the same: alpha, or alpha / r?",
        "For rsLoRA the volume is alpha / sqrt(r).",
        "It is alpha * new / old, and with rsLoRA alpha * (new / old) ** 0.5.",
    ),
)
def same_volume(alpha, old, new, rslora=False):
    """The alpha for rank `new` that leaves the detour as loud as `alpha` at rank `old`; with
    `rslora` the scale is alpha / sqrt(r).
    """
    return alpha * ((new / old) ** 0.5 if rslora else new / old)


@same_volume.cases
def _():
    yield case(32, 16, 8, expect=16.0, note="alpha 32 at rank 16, now rank 8")
    yield case(16, 8, 64, expect=128.0, note="alpha 16 at rank 8, now rank 64")
    yield case(32, 16, 64, True, expect=64.0, note="alpha 32 at rank 16, now rank 64, rsLoRA")


@same_volume.mistake(
    "With the same alpha another rank speaks at another volume: alpha / r changes."
)
def _same_alpha(alpha, old, new, rslora=False):
    return float(alpha)


@same_volume.mistake(
    "The wrong way round: a higher rank divides by more, so alpha has to grow with it."
)
def _inverse(alpha, old, new, rslora=False):
    return alpha * ((old / new) ** 0.5 if rslora else old / new)


@same_volume.mistake("rsLoRA divides by the square root of the rank; you treated it as plain LoRA.")
def _no_root(alpha, old, new, rslora=False):
    return alpha * new / old


@exercise(
    why=(
        "An expert that no adapter reaches keeps all that it knew, and nobody is told; so count"
        " before you train."
    ),
    hints=(
        "Which names are experts'? Those with `.experts.` in them.",
        "A weight is reached if its name is in `adapted`. Weigh each by how many numbers it has.",
        (
            "Add up the sizes of the experts that are not in adapted, and divide by the sum of all"
            " experts."
        ),
    ),
)
def experts_missed(sizes, adapted):
    """The share of the experts' numbers that no adapter reaches. `sizes` maps each weight's name to
    its count, `adapted` is the set of names with an adapter.
    """
    experts = {name: size for name, size in sizes.items() if ".experts." in name}
    if not experts:
        return 0.0
    return sum(size for name, size in experts.items() if name not in adapted) / sum(
        experts.values()
    )


_MIXTURE = {
    "layers.0.self_attn.q_proj.weight": 100,
    "layers.0.mlp.gate.weight": 20,
    "layers.0.mlp.experts.gate_up_proj": 600,
    "layers.0.mlp.experts.down_proj": 300,
}


@experts_missed.cases
def _():
    yield case(
        _MIXTURE,
        {"layers.0.self_attn.q_proj.weight"},
        expect=1.0,
        note="a mixture with adapters on its attention",
    )
    yield case(
        _MIXTURE,
        {"layers.0.mlp.experts.down_proj", "layers.0.self_attn.q_proj.weight"},
        expect=2 / 3,
        note="a mixture whose down_proj has an adapter",
    )
    yield case(_MIXTURE, set(_MIXTURE), expect=0.0, note="a mixture with adapters everywhere")
    yield case(
        {"layers.0.mlp.up_proj.weight": 50},
        set(),
        expect=0.0,
        note="a dense model, which has no experts",
    )


@experts_missed.mistake(
    "That counts tensors. One tensor of a mixture may hold twice the numbers of another."
)
def _by_tensor(sizes, adapted):
    experts = [name for name in sizes if ".experts." in name]
    return sum(name not in adapted for name in experts) / max(1, len(experts))


@experts_missed.mistake(
    "That is the share of the whole model. Asked is the share of the experts alone."
)
def _of_all(sizes, adapted):
    return sum(size for name, size in sizes.items() if name not in adapted) / sum(sizes.values())


@experts_missed.mistake("That is the share that is reached. Asked is what is missed.")
def _reached(sizes, adapted):
    experts = {name: size for name, size in sizes.items() if ".experts." in name}
    return (
        sum(size for name, size in experts.items() if name in adapted) / sum(experts.values())
        if experts
        else 0.0
    )


@experts_missed.mistake(
    "A dense model has no experts, so none is missed: the share is 0, not an error."
)
def _divides_by_zero(sizes, adapted):
    experts = {name: size for name, size in sizes.items() if ".experts." in name}
    return sum(size for name, size in experts.items() if name not in adapted) / sum(
        experts.values()
    )


@exercise(
    why=(
        "Only a new lowest loss resets the count, and what you keep are the weights of that"
        " evaluation, not of the last."
    ),
    hints=(
        "Walk through the losses and remember the best one and how many evaluations ago it was.",
        (
            "A loss that is not lower than the best so far adds one to the count; a lower one sets"
            " it to zero."
        ),
        "Stop as soon as the count reaches `patience`; without that all evaluations are made.",
    ),
)
def early_stop(losses, patience):
    """How many evaluations are made, and which gave the weights to keep (from 0)? A pair. Stops
    after `patience` evaluations without a new lowest loss.
    """
    best, bad = 0, 0
    for made, loss in enumerate(losses[1:], start=1):
        best, bad = (made, 0) if loss < losses[best] else (best, bad + 1)
        if bad == patience:
            return made + 1, best
    return len(losses), best


@early_stop.cases
def _():
    yield case(
        [3.0, 2.0, 1.0, 1.1, 1.2, 1.3, 0.5],
        3,
        expect=[6, 2],
        note="a loss that would fall again after the stop",
    )
    yield case(
        [3.0, 2.0, 2.1, 1.9, 2.0, 1.8], 2, expect=[6, 5], note="a loss that wavers but falls"
    )
    yield case(
        [2.0, 1.0, 1.5, 1.4, 1.3, 1.2],
        3,
        expect=[5, 1],
        note="a loss that falls again, but not below its lowest",
    )
    yield case([1.0, 1.0, 1.0, 1.0], 3, expect=[4, 0], note="a loss that stays the same")
    yield case(
        [2.0, 2.5, 1.5, 1.6, 1.4, 1.5, 1.6],
        2,
        expect=[7, 4],
        note="two bad evaluations that are not in a row",
    )


early_stop.ask = lambda answer, *args: [int(value) for value in answer(*args)]


@early_stop.mistake(
    "You counted all bad evaluations. A new lowest loss sets the count back to zero."
)
def _never_reset(losses, patience):
    best, bad = 0, 0
    for made, loss in enumerate(losses[1:], start=1):
        if loss < losses[best]:
            best = made
        else:
            bad += 1
        if bad == patience:
            return made + 1, best
    return len(losses), best


@early_stop.mistake(
    "You compared each loss with the one before. Patience counts since the lowest loss so far."
)
def _against_the_last(losses, patience):
    bad = 0
    for made in range(1, len(losses)):
        bad = 0 if losses[made] < losses[made - 1] else bad + 1
        if bad == patience:
            return made + 1, losses.index(min(losses[: made + 1]))
    return len(losses), losses.index(min(losses))


@early_stop.mistake(
    "The weights to keep are those of the lowest loss, not those of the last evaluation."
)
def _keeps_last(losses, patience):
    made, _ = early_stop.answer(losses, patience)
    return made, made - 1


@early_stop.mistake(
    "You looked at losses after the stop. Training ended there; the low one later was never seen."
)
def _looks_ahead(losses, patience):
    made, _ = early_stop.answer(losses, patience)
    return made, losses.index(min(losses))
