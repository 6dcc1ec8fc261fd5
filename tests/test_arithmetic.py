"""Word problems worked digit by digit: every line is true, and the digits give the result."""

from __future__ import annotations

import random
import re

import pytest

from qwen3lab.data import tasks
from qwen3lab.world import arithmetic


def test_a_column_is_the_sum_that_the_rows_hold():
    for row in tasks.load("addition", "test"):
        a, b = map(int, re.findall(r"\d+", row["messages"][0]["content"]))
        assert arithmetic.column(a, "+", b, row["language"]) == row["thoughts"].splitlines()
    assert arithmetic.column(42, "-", 17, "en") == [
        "12 - 7 = 5, write 5, carry 1.",
        "4 - 1 - 1 = 2, write 2, carry 0.",
    ]


@pytest.mark.parametrize("op", ["+", "-"])
def test_every_line_is_true_and_the_digits_give_the_result(op):
    rng = random.Random(1)
    for _ in range(500):
        b, a = sorted((rng.randint(0, 99), rng.randint(0, 99)))
        result = eval(f"{a} {op} {b}")  # noqa: S307
        lines = arithmetic.column(a, op, b, "en")
        digits = ""
        for line in lines:
            left, total, digit, carry = re.fullmatch(
                r"(.+) = (\d+), write (\d), carry (\d)\.", line
            ).groups()
            assert eval(left) == int(total) and int(total) % 10 == int(digit)  # noqa: S307
            digits = digit + digits
        assert int(f"{carry if op == '+' else ''}{digits}" or 0) == result
        assert op == "+" or carry == "0"


def test_worked_thoughts_hold_the_same_steps_and_end_with_the_answer():
    for row in tasks.load("word-problem", "train"):
        long = arithmetic.worked(row["thoughts"], row["language"])
        assert arithmetic.steps(long) == arithmetic.steps(row["thoughts"])
        assert len(arithmetic.steps(long)) == 2 and arithmetic.steps(long)[-1][3] == int(
            row["answer"]
        )
        opened = re.findall(r"(?m)^(\d+) [-+] (\d+) = \?$", long)
        assert all(len(a) == len(b) for a, b in opened)
        assert len(opened) == sum(op != "*" for _, op, _, _ in arithmetic.steps(long))


def test_the_first_fault_is_named():
    wanted = "27 + 9 = 36.\n36 - 5 = 31."
    long = arithmetic.worked(wanted, "en")
    assert arithmetic.fault(long, wanted) == arithmetic.fault(wanted, wanted) == ""
    assert arithmetic.fault(long.replace("36 - 5", "36 - 6"), wanted) == "set-up"
    assert arithmetic.fault(long.replace("27 + 9 = 36", "27 + 9 = 35"), wanted) == "arithmetic +"
    assert arithmetic.fault(long.replace("36 - 5 = 31", "36 - 5 = 30"), wanted) == "arithmetic -"
    assert arithmetic.fault("27 + 9 = 36.", wanted) == "format"
    assert arithmetic.fault("", wanted) == "format"
