"""How a benchmark writes its result: as JSON, with where, when and with which versions it was measured."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any


def write(out: Path, result: dict[str, Any], script: str, packages: Sequence[str], note: str) -> dict[str, Any]:
    """Write the result of `python benchmarks/<script>` to `out`, with a last entry "measured"; returns it with that entry.

    `packages` are those whose versions matter; `note` tells, for example, what else the machine was doing.
    """
    result = result | {"measured": {
        "date": date.today().isoformat(), "machine": f"{platform.machine()}, {os.cpu_count()} cores", "note": note,
        "command": f"python benchmarks/{script}", "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages}}}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return result
