"""Compare a learner's answer with the expected value and describe the difference in a few words."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any


def same(mine: Any, wanted: Any, tolerance: float = 1e-5, exact: bool = True) -> bool:
    """Compare two answers: floats and arrays within `tolerance`, everything else exactly.

    The tolerance is relative and absolute. Tensors, numpy arrays and lists of numbers count as the
    same type, and so do lists and tuples. Integers must be equal unless `exact` is false. NaN
    equals nothing. Neither object is changed.
    """
    try:
        if _is_array(wanted):
            import numpy as np

            left, right = _array(mine), _array(wanted)
            return left.shape == right.shape and bool(
                np.allclose(left, right, rtol=tolerance, atol=tolerance)
            )
        if _is_array(mine):
            mine = mine.tolist()
        if isinstance(wanted, dict):
            return (
                isinstance(mine, dict)
                and mine.keys() == wanted.keys()
                and all(same(mine[k], wanted[k], tolerance, exact) for k in wanted)
            )
        if isinstance(wanted, (list, tuple)):
            return (
                isinstance(mine, (list, tuple))
                and len(mine) == len(wanted)
                and all(same(a, b, tolerance, exact) for a, b in zip(mine, wanted))
            )
        if isinstance(wanted, float) or (
            isinstance(wanted, int) and not isinstance(wanted, bool) and not exact
        ):
            return isinstance(mine, Real) and math.isclose(
                mine, wanted, rel_tol=tolerance, abs_tol=tolerance
            )
        return bool(mine == wanted)
    except Exception:  # a learner's object may be anything, even incomparable
        return False


def difference(mine: Any, wanted: Any) -> str:
    """Describe how `mine` differs, as the end of a sentence that begins with "your answer"."""
    if _is_array(wanted):
        import numpy as np

        try:
            left, right = _array(mine), _array(wanted)
        except Exception:
            return f"is {short(mine)}, and numbers of the shape {_shape(wanted)} were expected"
        if left.shape != right.shape:
            return f"has the shape {_shape(left)}, and {_shape(right)} was expected"
        return f"is off by up to {np.abs(left - right).max():.3g}"
    return f"is {short(mine)}, and {short(wanted)} was expected"


def short(value: Any, limit: int = 90) -> str:
    """Format a value in one line of at most `limit` characters.

    Arrays are shown by their shape, objects without a readable repr by their type.
    """
    if _is_array(value) and len(value.shape):
        return f"numbers of the shape {_shape(value)}"
    try:
        text = repr(value.item() if _is_array(value) else value).replace("\n", " ")
    except Exception:
        text = ""
    if not text or " at 0x" in text:
        return f"an object of the type {type(value).__name__}"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _is_array(value: Any) -> bool:
    return hasattr(value, "tolist") and hasattr(value, "shape")


def _array(value: Any) -> Any:
    import numpy as np

    if hasattr(value, "detach"):  # a tensor, perhaps in bfloat16, which numpy does not support
        value = value.detach().cpu().double()
    return np.asarray(value, dtype=float)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in value.shape)
