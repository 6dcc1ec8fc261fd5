"""Word problems worked digit by digit, in the form in which pre-training wrote its sums."""

from __future__ import annotations

import re

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


def column(a: int, op: str, b: int, language: str) -> list[str]:
    """Write `a + b` or `a - b` (a not below b) digit by digit from the right.

    A borrowed ten of a subtraction is called a carry, so that no word is new to the models.
    """
    width, carry, lines = len(str(max(a, b))), 0, []
    for x, y in zip(reversed(f"{a:0{width}}"), reversed(f"{b:0{width}}")):
        value = int(x) + int(y) + carry if op == "+" else int(x) - int(y) - carry
        ten = f"1{x}" if value < 0 else x
        left = f"{ten} {op} {y}" + (f" {op} {carry}" if carry else "")
        total = value + 10 * (value < 0)
        carry = total // 10 if op == "+" else int(value < 0)
        lines.append(_LINE[language].format(left=left, total=total, digit=total % 10, carry=carry))
    return lines


def worked(thoughts: str, language: str) -> str:
    """Rewrite thoughts of whole steps so that each sum and difference is worked digit by digit.

    A step opens in the form of a sum, `27 + 09 = ?`, has a line a digit, and ends with the whole
    step, `27 + 9 = 36.` Products of one-digit numbers stay one line.
    """
    lines = []
    for a, op, b, c in steps(thoughts):
        if op != "*":
            width = len(str(max(a, b)))
            lines += [f"{a:0{width}} {op} {b:0{width}} = ?", *column(a, op, b, language)]
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
