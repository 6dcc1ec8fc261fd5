"""Word problems worked digit by digit: every line is true, and the digits give the result."""

from __future__ import annotations

import random
import re

import pytest

from qwen3lab import chat
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.world import arithmetic


def test_a_column_is_the_sum_that_the_rows_hold():
    for row in tasks.load("addition", "test"):
        a, b = map(int, re.findall(r"\d+", row["messages"][0]["content"]))
        assert arithmetic.column(a, "+", b, row["language"]) == row["thoughts"].splitlines()
    assert arithmetic.column(42, "-", 17, "en") == [
        "12 - 7 = 5, write 5, carry 1.",
        "4 - 1 - 1 = 2, write 2, carry 0.",
    ]


def read_digits(lines: list[str]) -> tuple[str, str]:
    """Check that each line of a column is true; return the digits written and the last carry."""
    digits = ""
    for line in lines:
        left, total, digit, carry = re.fullmatch(
            r"(.+) = (\d+), write (\d), carry (\d)\.", line
        ).groups()
        assert eval(left) == int(total) and int(total) % 10 == int(digit)  # noqa: S307
        digits = digit + digits
    return digits, carry


@pytest.mark.parametrize("op", ["+", "-"])
def test_every_line_is_true_and_the_digits_give_the_result(op):
    rng = random.Random(1)
    for _ in range(500):
        b, a = sorted((rng.randint(0, 99), rng.randint(0, 99)))
        result = eval(f"{a} {op} {b}")  # noqa: S307
        lines = arithmetic.column(a, op, b, "en")
        digits, carry = read_digits(lines)
        assert int(f"{carry if op == '+' else ''}{digits}" or 0) == result
        assert op == "+" or carry == "0"


def test_a_difference_is_the_sum_with_the_complement_without_its_last_carry():
    rng = random.Random(3)
    for _ in range(500):
        b, a = sorted((rng.randint(0, 999), rng.randint(0, 999)))
        nines, opened, *lines = arithmetic.complement(a, b, "en")
        whole, part, other = map(int, re.findall(r"\d+", nines))
        assert set(str(whole)) == {"9"} and part == b and whole - part == other
        assert list(map(int, re.findall(r"\d+", opened))) == [a, other]
        assert re.fullmatch(r".+ = 1\d, write \d\.", lines[-1])  # the carry that is dropped
        lines[-1] = lines[-1].replace(".", ", carry 1.")
        assert int(read_digits(lines)[0]) == a - b


@pytest.mark.parametrize("complements", [False, True])
def test_worked_thoughts_hold_the_same_steps_and_end_with_the_answer(complements):
    for row in tasks.load("word-problem", "train"):
        long = arithmetic.worked(row["thoughts"], row["language"], complements)
        assert arithmetic.steps(long) == arithmetic.steps(row["thoughts"])
        assert len(arithmetic.steps(long)) == 2 and arithmetic.steps(long)[-1][3] == int(
            row["answer"]
        )
        opened = re.findall(r"(?m)^(\d+) [-+] (\d+) = \?$", long)
        assert all(len(a) == len(b) for a, b in opened)
        expected = 0
        for a, op, b, _ in arithmetic.steps(long):
            short = op == "*" or (complements and op == "+" and max(a, b) < 10)
            expected += 2 if complements and op == "-" else not short
        assert len(opened) == expected


def test_the_first_fault_is_named():
    wanted = "27 + 9 = 36.\n36 - 5 = 31."
    long = arithmetic.worked(wanted, "en")
    assert arithmetic.fault(long, wanted) == arithmetic.fault(wanted, wanted) == ""
    assert arithmetic.fault(long.replace("36 - 5", "36 - 6"), wanted) == "set-up"
    assert arithmetic.fault(long.replace("27 + 9 = 36", "27 + 9 = 35"), wanted) == "arithmetic +"
    assert arithmetic.fault(long.replace("36 - 5 = 31", "36 - 5 = 30"), wanted) == "arithmetic -"
    assert arithmetic.fault("27 + 9 = 36.", wanted) == "format"
    assert arithmetic.fault("", wanted) == "format"


def test_the_calculator_agrees_with_python_and_runs_nothing():
    rng = random.Random(2)
    for _ in range(500):
        numbers = [str(rng.randint(0, 999)) for _ in range(rng.randint(1, 6))]
        text = " ".join(x for n in numbers for x in (n, rng.choice("+-*"))).rsplit(" ", 1)[0]
        assert arithmetic.calculate(text) == eval(re.sub(r"\b0+(?=\d)", "", text))  # noqa: S307
    for wrong in ("", "6*8", "6 ** 8", "-6", "6 / 2", "(6 + 8)", "six", "1 + __import__", None, 7):
        with pytest.raises(Qwen3labError, match="is no expression of whole numbers"):
            arithmetic.calculate(wrong)


def test_the_rows_of_the_calculator_call_it_and_answer_from_its_response():
    for row in tasks.load("word-problem", "train"):
        call, told = arithmetic.calculator_rows(row)
        found = chat.extract_tool_calls(call["answer"], call["tools"])
        assert [one["name"] for one in found] == ["calculate"]
        assert str(arithmetic.calculate(found[0]["arguments"]["expression"])) == row["answer"]
        assert told["messages"][-1] == {"role": "tool", "content": row["answer"]}
        assert told["answer"] == row["answer"] and told["messages"][:1] == row["messages"]
