"""Small Python functions of two operations, each with tests that reject its nearest mistakes.

Pre-training knew functions of one operation on one line (`world.corpus.FUNCTIONS`). These combine
two of the same operations: one after the other on two lines ("steps"), one of them by a condition
("choice"), one inside the other ("nested").
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# Name -> (English, Chinese, expression, range of {n}); the phrases are those of pre-training for
# one operation.
NUMBERS = {
    "plus": ("x plus {n}", "x 加 {n}", "x + {n}", (2, 99)),
    "minus": ("x minus {n}", "x 减 {n}", "x - {n}", (2, 99)),
    "times": ("x times {n}", "x 乘以 {n}", "x * {n}", (2, 99)),
    "power": ("x to the power of {n}", "x 的 {n} 次方", "x ** {n}", (2, 4)),
    "remainder": ("the remainder of x divided by {n}", "x 除以 {n} 的余数", "x % {n}", (2, 40)),
}
LISTS = {
    "first": ("the first {n} items of the list v", "列表 v 的前 {n} 项", "v[:{n}]", (2, 9)),
    "last": ("the last {n} items of the list v", "列表 v 的后 {n} 项", "v[-{n}:]", (2, 9)),
    "reverse": ("the list v in reverse", "反转的列表 v", "v[::-1]", None),
    "sorted": ("the list v sorted", "排序后的列表 v", "sorted(v)", None),
    "each plus": ("every item of v plus {n}", "v 的每一项加 {n}", "[x + {n} for x in v]", (2, 99)),
    "each times": (
        "every item of v times {n}",
        "v 的每一项乘以 {n}",
        "[x * {n} for x in v]",
        (2, 99),
    ),
    "larger": (
        "the items of v that are larger than {n}",
        "v 中大于 {n} 的项",
        "[x for x in v if x > {n}]",
        (2, 99),
    ),
}
LIST_ENDS = {
    "sum": ("the sum of the list v", "列表 v 的和", "sum(v)", None),
    "length": ("the length of the list v", "列表 v 的长度", "len(v)", None),
}
TEXTS = {
    "upper": ("the text s in upper case", "文本 s 的大写", "s.upper()", None),
    "repeat": ("the text s {n} times", "文本 s 重复 {n} 次", "s * {n}", (2, 9)),
    "letters": ("the first {n} letters of s", "s 的前 {n} 个字母", "s[:{n}]", (2, 9)),
}
TEXT_ENDS = {"words": ("the words of s", "s 中的单词", "s.split()", None)}
CONDITIONS = {
    "if larger": ("x is larger than {n}", "x 大于 {n}", "x > {n}", (2, 99)),
    "if equal": ("x equals {n}", "x 等于 {n}", "x == {n}", (2, 99)),
    "if even": ("x is even", "x 是偶数", "x % 2 == 0", None),
}
# Around another phrase {p} and expression {e}.
AROUND = {
    "sum": ("the sum of {p}", "{p}的和", "sum({e})", None),
    "length": ("the length of {p}", "{p}的长度", "len({e})", None),
    "sorted": ("{p}, sorted", "排序后的{p}", "sorted({e})", None),
    "reverse": ("{p}, in reverse", "反转的{p}", "{e}[::-1]", None),
    "upper": ("{p}, in upper case", "{p}的大写", "{e}.upper()", None),
    "repeat": ("{p}, {n} times", "{p}重复 {n} 次", "{e} * {n}", (2, 9)),
}
ALL = NUMBERS | LISTS | LIST_ENDS | TEXTS | TEXT_ENDS | CONDITIONS
REQUESTS = {
    ("en", "steps"): (
        "Write a Python function {name}({x}) that replaces {x} by {a} and returns {b}.",
        "Write a Python function {name}({x}) that sets {x} to {a}, then returns {b}.",
    ),
    ("zh", "steps"): ("写一个 Python 函数 {name}({x})，先把 {x} 换成{a}，再返回{b}。",),
    ("en", "choice"): (
        "Write a Python function {name}({x}) that returns {a} if {c}, otherwise {b}.",
        "Write a Python function {name}({x}) that returns {a} where {c} and {b} elsewhere.",
    ),
    ("zh", "choice"): ("写一个 Python 函数 {name}({x})，如果{c}就返回{a}，否则返回{b}。",),
    ("en", "nested"): ("Write a Python function {name}({x}) that returns {a}.",),
    ("zh", "nested"): ("写一个 Python 函数 {name}({x})，返回{a}。",),
}
BODIES = {
    "steps": "\n    {x} = {a}\n    return {b}",
    "choice": " return {a} if {c} else {b}",
    "nested": " return {a}",
}
IDLE = {(a, b) for a in ("reverse", "sorted") for b in ("sum", "length", "sorted")} | {
    ("each plus", "length"),
    ("each times", "length"),
}
LEAST_TESTS, MOST_TESTS = 4, 6


@dataclass(frozen=True)
class Program:
    """Program without its name: the request, and its code with `{name}` open."""

    kind: str
    operations: tuple[str, ...]
    argument: str
    request: str  # with {name} open
    code: str  # with {name} open
    tests: tuple[tuple[object, object], ...]  # (argument, wanted value)


def combinations() -> dict[str, list[tuple[str, ...]]]:
    """List the combinations of operations by kind of program, except those with an idle part."""
    steps = [
        (a, b)
        for first, more in ((NUMBERS, {}), (LISTS, LIST_ENDS), (TEXTS, TEXT_ENDS))
        for a in first
        for b in first | more
        if a != b
    ]
    choice = [(c, a, b) for c in CONDITIONS for a in NUMBERS for b in NUMBERS if a != b]
    nested = [(a, b) for a in LISTS for b in ("sum", "length", "sorted", "reverse") if a != b]
    nested += [
        ("letters", "upper"),
        ("letters", "repeat"),
        ("letters", "reverse"),
        ("words", "length"),
        ("words", "reverse"),
        ("words", "sorted"),
    ]
    return {
        "steps": [pair for pair in steps if pair not in IDLE],
        "choice": choice,
        "nested": [pair for pair in nested if pair not in IDLE],
    }


def deal(kind: str, shares: dict[str, float], rest: str) -> dict[str, list[tuple[str, ...]]]:
    """Split the combinations of a kind: `shares` drawn by a fixed seed, all others to `rest`.

    `rest` keeps every operation at every position, so that the other splits are new only as
    combinations.
    """
    left = combinations()[kind]
    order, dealt = random.Random(f"code-{kind}").sample(left, len(left)), {}
    for split, share in shares.items():
        dealt[split], wanted = [], round(share * len(order))
        for one in order:
            if (
                len(dealt[split]) < wanted
                and one in left
                and all(any(o != one and o[i] == one[i] for o in left) for i in range(len(one)))
            ):
                dealt[split].append(one), left.remove(one)
    return dealt | {rest: left}


def draw(
    rng: random.Random, language: str, kind: str, operations: tuple[str, ...]
) -> Program | None:
    """Draw a program of these operations with random numbers and tests.

    None if an operation happens to change nothing for these numbers.
    """
    numbers = [
        rng.randint(*bounds) if (bounds := _table(kind, name, place)[3]) else 0
        for place, name in enumerate(operations)
    ]
    argument = next(
        x
        for x, names in (("x", NUMBERS), ("v", LISTS), ("s", TEXTS | TEXT_ENDS))
        if operations[-2] in names
    )
    tests = _tests(rng, kind, operations, numbers, argument)
    if tests is None:
        return None
    column = 0 if language == "en" else 1
    request = rng.choice(REQUESTS[language, kind]).format(
        name="{name}", x=argument, **_parts(kind, operations, numbers, column)
    )
    return Program(
        kind, operations, argument, request, _code(kind, operations, numbers, argument), tests
    )


def _table(kind: str, name: str, place: int) -> tuple:
    return AROUND[name] if kind == "nested" and place else ALL[name]


def _parts(kind, operations, numbers, column) -> dict[str, str]:
    """Fill in the phrases or expressions of a program's operations: a, b and the condition c.

    Columns 0 and 1 are phrases, column 2 is the expression.
    """
    texts = [_table(kind, name, place)[column] for place, name in enumerate(operations)]
    if kind == "nested":
        inner = texts[0].format(n=numbers[0])
        return {"a": texts[1].format(n=numbers[1], p=inner, e=inner)}
    return dict(
        zip(
            "cab" if kind == "choice" else "ab",
            (text.format(n=n) for text, n in zip(texts, numbers)),
        )
    )


def _code(kind, operations, numbers, argument) -> str:
    return f"def {{name}}({argument}):" + BODIES[kind].format(
        x=argument, **_parts(kind, operations, numbers, 2)
    )


def _mistakes(kind, operations, numbers, argument) -> Iterator[tuple[str, bool]]:
    """Write the code of the nearest mistakes, and whether it must differ.

    One operation left out, the order swapped, a number off by one.
    """
    for name, n in (
        list(zip(operations, numbers))[-2:] if kind != "nested" else [(operations[0], numbers[0])]
    ):
        yield f"def {{name}}({argument}): return {ALL[name][2].format(n=n)}", True
    if kind == "nested":
        yield (
            (
                f"def {{name}}({argument}): return"
                f" {AROUND[operations[1]][2].format(n=numbers[1], e=argument)}"
            ),
            True,
        )
    elif (
        operations[-2] not in LIST_ENDS | TEXT_ENDS and operations[-1] not in LIST_ENDS | TEXT_ENDS
    ):
        yield (
            _code(
                kind,
                (*operations[:-2], *operations[:-3:-1]),
                [*numbers[:-2], *numbers[:-3:-1]],
                argument,
            ),
            False,
        )
    for place, n in enumerate(numbers):
        if n:
            for other in (n - 1, n + 1):
                yield (
                    _code(
                        kind, operations, [*numbers[:place], other, *numbers[place + 1 :]], argument
                    ),
                    False,
                )


def _inputs(rng: random.Random, argument: str, numbers: list[int]) -> list[object]:
    """Draw arguments to try, most of them near the numbers of the program."""
    near = [max(0, n + d) for n in numbers if n for d in (-1, 0, 1, 2)]
    if argument == "x":
        return (
            [rng.randint(0, 9) for _ in range(4)]
            + rng.sample(near, len(near))
            + [rng.randint(2, 120) for _ in range(8)]
        )
    if argument == "v":
        return [
            [rng.choice((rng.randint(1, 99), *near)) for _ in range(length)]
            for length in (3, 5, 4, 6, 8, 10, 11, 0, 5, 10)
        ]
    words = "blue lamp green tea old tower river stone small bird north wind".split()
    return [" ".join(rng.sample(words, count)) for count in (1, 2, 3, 2, 1, 4)] + [
        "".join(rng.sample("abcdefghiklmnop", n)) for n in (3, 8, 10)
    ]


def _function(code: str) -> Callable:
    space: dict = {}
    exec(code.format(name="f"), space)  # only our own tables
    return space["f"]


def _tests(rng, kind, operations, numbers, argument) -> tuple[tuple[object, object], ...] | None:
    right = _function(_code(kind, operations, numbers, argument))
    wrong = [
        (_function(code), must) for code, must in _mistakes(kind, operations, numbers, argument)
    ]
    found = []
    tried = [(value, right(value)) for value in _inputs(rng, argument, numbers)]
    tried = [
        pair
        for place, pair in enumerate(tried)
        if pair not in tried[:place] and len(repr(pair)) < 120
    ]
    seen_by = [[_differs(other, value, wanted) for other, _ in wrong] for value, wanted in tried]
    if any(must and not any(seen[i] for seen in seen_by) for i, (_, must) in enumerate(wrong)):
        return None
    open_ones = {i for i in range(len(wrong)) if any(seen[i] for seen in seen_by)}
    while open_ones:
        best = max(range(len(tried)), key=lambda place: sum(seen_by[place][i] for i in open_ones))
        found.append(best)
        open_ones -= {i for i in open_ones if seen_by[best][i]}
    found += [place for place in range(len(tried)) if place not in found][
        : max(0, LEAST_TESTS - len(found))
    ]
    return (
        tuple(tried[place] for place in sorted(found))
        if LEAST_TESTS <= len(found) <= MOST_TESTS
        else None
    )


def _differs(function: Callable, value: object, wanted: object) -> bool:
    try:
        return function(value) != wanted
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return True
