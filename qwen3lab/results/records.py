"""Read benchmark records, the data files under `data/benchmarks`."""

from __future__ import annotations

import json
from typing import Any

from qwen3lab import paths
from qwen3lab.errors import Qwen3labError


def read(name: str) -> dict[str, Any]:
    """Read the record of `benchmarks/<name>.py`; "measured" holds date, machine and versions.

    Raises Qwen3labError if there is no such record.
    """
    path = paths.DATA / "benchmarks" / f"{name}.json"
    if not path.is_file():
        raise Qwen3labError(
            f"There is no record {name!r} in data/benchmarks. Run `python benchmarks/{name}.py`, or"
            " `git checkout -- data/benchmarks`."
        )
    return json.loads(path.read_text(encoding="utf-8"))
