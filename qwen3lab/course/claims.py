"""Check claims that guides repeat against values that this course computes or measures.

They are in data/claims.toml, with bounds for each. Bounds that were measured on a model belong to
that model: with a profile that does not use it they are shown, and hold nothing up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qwen3lab import paths, profiles
from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Claim:
    """A claim: one row of data/claims.toml."""

    id: str
    guide: str  # what guides say
    ours: str  # the right statement, without its number
    unit: str
    low: float  # bounds, inclusive, of the value that supports `ours`
    high: float
    notebook: str  # the notebook that checks it, by its number
    source: str  # how the value is computed or measured
    model: str = ""  # the model that the bounds were measured on; "" if they hold for any


def load(path: Path | None = None) -> dict[str, Claim]:
    """Load the claims, by id.

    Raises Qwen3labError for a missing file or an incomplete row.
    """
    path = path or paths.CLAIMS
    rows = paths.read_toml(path, "claims file").get("claim", [])
    claims: dict[str, Claim] = {}
    for number, row in enumerate(rows, 1):
        try:
            claim = Claim(**row)
        except TypeError as error:
            raise Qwen3labError(
                f"Claim {number} of {path.name} is not complete or has a field too many ({error}). "
                f"Give it exactly: {', '.join(Claim.__dataclass_fields__)} (the last may be left"
                " out)."
            ) from error
        if claim.id in claims or not claim.low <= claim.high:
            raise Qwen3labError(
                f"Claim {claim.id!r} of {path.name} stands there twice or has its bounds the wrong"
                " way round. Mend that row."
            )
        claims[claim.id] = claim
    return claims


def check(claim_id: str, value: float) -> float:
    """Check a value against a claim's bounds, print both, and return the value.

    Where the bounds were measured on a model that the profile does not use, they are printed beside
    the value and not checked. Raises Qwen3labError for an unknown id, and for a value outside the
    claim's bounds: then the text around it is wrong.
    """
    claims = load()
    if claim_id not in claims:
        raise Qwen3labError(f"There is no claim {claim_id!r}. Use one of: {', '.join(claims)}.")
    claim = claims[claim_id]
    found = f"{value:.4g}{claim.unit and ' ' + claim.unit}"
    if claim.model and claim.model not in profiles.get().models:
        print(
            f"guides say: {claim.guide}\n{claim.model}: {claim.ours}: {claim.low:g} to"
            f" {claim.high:g}\nhere:       {found}"
        )
        return value
    if math.isnan(value) or not claim.low <= value <= claim.high:
        raise Qwen3labError(
            f"Claim {claim_id!r}: {found} is outside {claim.low:g} to {claim.high:g}. Find out what"
            " changed, then correct the text and data/claims.toml."
        )
    print(f"guides say: {claim.guide}\nhere:       {claim.ours}: {found}")
    return value


def table() -> pd.DataFrame:
    """Tabulate the claims: the guides' statement, the right one, its bounds, the notebook."""
    import pandas as pd

    rows = [
        {
            "guides say": c.guide,
            "right": c.ours,
            "from": c.low,
            "to": c.high,
            "unit": c.unit,
            "notebook": c.notebook,
        }
        for c in load().values()
    ]
    return pd.DataFrame(rows, index=list(load()))
