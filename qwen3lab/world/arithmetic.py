"""Word problems worked digit by digit as pre-training wrote its sums, or given to a calculator."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from qwen3lab.errors import Qwen3labError

STEP = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)")
_LINE = {
    "en": "{left} = {total}, write {digit}, carry {carry}.",
    "zh": "{left} = {total}，写 {digit}，进 {carry}。",
}


def steps(thoughts: str) -> list[tuple[int, str, int, int]]:
    """Read the steps `a op b = c` of thoughts as (a, op, b, c), lines on digits left out.

    A step of worked thoughts is its last line, which names both numbers and the result.
    """
    lines = [line for line in thoughts.splitlines() if "write" not in line and "写" not in line]
    found = (STEP.match(line) for line in lines)
    return [(int(m[1]), m[2], int(m[3]), int(m[4])) for m in found if m]


def column(a: int, op: str, b: int, language: str, carry: int = 0, width: int = 1) -> list[str]:
    """Write `a + b` or `a - b` (a not below b) digit by digit from the right, carry and all.

    A borrowed ten of a subtraction is called a carry, so that no word is new to the models.
    """
    width, lines = max(width, len(str(max(a, b)))), []
    for x, y in zip(reversed(f"{a:0{width}}"), reversed(f"{b:0{width}}")):
        value = int(x) + int(y) + carry if op == "+" else int(x) - int(y) - carry
        ten = f"1{x}" if value < 0 else x
        left = f"{ten} {op} {y}" + (f" {op} {carry}" if carry else "")
        total = value + 10 * (value < 0)
        carry = total // 10 if op == "+" else int(value < 0)
        lines.append(_LINE[language].format(left=left, total=total, digit=total % 10, carry=carry))
    return lines


def complement(a: int, b: int, language: str) -> list[str]:
    """Write `a - b` (a not below b) as a sum: the nines' complement of b, added with a carry of 1.

    With numbers of w digits, a + (10^w - 1 - b) + 1 is a - b + 10^w. The last carry, always 1, is
    left out, so that the digits written are the answer, as in a sum. The one thing to learn is the
    complement of a digit. Numbers have at least two digits.
    """
    width = max(2, len(str(a)))
    nines = 10**width - 1
    word, stop = ("write", ".") if language == "en" else ("写", "。")
    *lines, last = column(a, "+", nines - b, language, carry=1, width=width)
    return [
        f"{word} {nines} - {b:0{width}} = {nines - b:0{width}}{stop}",
        f"{a:0{width}} + {nines - b:0{width}} = ?",
        *lines,
        last.replace(", carry 1", "").replace("，进 1", ""),
    ]


def worked(thoughts: str, language: str, complements: bool = False) -> str:
    """Rewrite thoughts of whole steps so that each sum and difference is worked digit by digit.

    A step opens in the form of a sum, `27 + 09 = ?`, has a line a digit, and ends with the whole
    step, `27 + 9 = 36.` Products of one-digit numbers stay one line.

    Args:
        complements: work differences as sums (`complement`), not by borrowing, and leave sums of
            two one-digit numbers in one line, too.
    """
    lines = []
    for a, op, b, c in steps(thoughts):
        summed = complements and op == "-"
        known = op == "*" or (complements and op == "+" and max(a, b) < 10)
        if not known:
            width = max(2 if summed else 1, len(str(max(a, b))))
            digits = complement(a, b, language) if summed else column(a, op, b, language)
            lines += [f"{a:0{width}} {op} {b:0{width}} = ?", *digits]
        lines.append(f"{a} {op} {b} = {c}.")
    return "\n".join(lines)


def fault(thoughts: str, wanted: str) -> str:
    """Name the first fault of thoughts against the wanted ones, both of whole or worked steps.

    Returns:
        "" (all steps as wanted), "set-up" (other numbers or another operation than the problem
        has), "arithmetic +", "arithmetic -" or "arithmetic *" (a step's result is wrong), or
        "format" (a step is missing or cannot be read).
    """
    said, right = steps(thoughts), steps(wanted)
    for place, (a, op, b, c) in enumerate(right):
        if place >= len(said):
            return "format"
        if said[place][:3] != (a, op, b):
            return "set-up"
        if said[place][3] != c:
            return f"arithmetic {op}"
    return ""


EXPRESSION = re.compile(r"\d{1,9}( [-+*] \d{1,9}){0,9}")
CALCULATOR = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "Work out a sum of whole numbers.",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
        },
    },
}


def calculate(expression: str) -> int:
    """Evaluate an expression of whole numbers with + - *, spaces around the signs.

    It is read as numbers and signs and never run as code.

    Raises Qwen3labError for anything else.
    """
    if not isinstance(expression, str) or not EXPRESSION.fullmatch(expression):
        raise Qwen3labError(
            f"{str(expression)[:40]!r} is no expression of whole numbers. Write one such as"
            " '6 * 8 + 9'."
        )
    terms = re.findall(r"([-+]?) ?(\d+(?: \* \d+)*)", expression)
    return sum(
        (-1 if sign == "-" else 1) * math.prod(map(int, term.split(" * "))) for sign, term in terms
    )


def expression(thoughts: str) -> str:
    """Join the steps of thoughts, each going on from the last result, to one expression."""
    first, *rest = steps(thoughts)
    return f"{first[0]} {first[1]} {first[2]}" + "".join(f" {op} {b}" for _, op, b, _ in rest)


def called(messages: list[dict[str, Any]], asked: str) -> list[dict[str, Any]]:
    """Append a call of the calculator and its response to a conversation."""
    calls = [{"type": "function", "function": _call(asked)}]
    call = {"role": "assistant", "content": "", "tool_calls": calls}
    return [*messages, call, {"role": "tool", "content": str(calculate(asked))}]


def calculator_rows(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Turn a word problem into two training rows: the call, and the answer from the response."""
    asked = expression(row["thoughts"])
    told = {key: value for key, value in row.items() if key != "thoughts"}
    told |= {"thinking": False, "tools": [CALCULATOR]}
    return [
        told | {"answer": f"<tool_call>\n{json.dumps(_call(asked))}\n</tool_call>"},
        told | {"messages": called(row["messages"], asked)},
    ]


def _call(asked: str) -> dict[str, Any]:
    return {"name": "calculate", "arguments": {"expression": asked}}
