"""Store a benchmark's intermediate and final results as JSON, with date, machine and versions."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from qwen3lab import measure as qwen3lab_measure
from qwen3lab import paths
from qwen3lab.errors import Qwen3labError


class Parts:
    """A resumable store of partial results in `build/<name>.partial.json`.

    An interrupted run continues from it. With `keep=False`, for a quick look, nothing is read or
    written.
    """

    def __init__(self, name: str, keep: bool = True) -> None:
        self.file, self.keep = paths.BUILD / f"{name}.partial.json", keep
        self.found: dict[str, Any] = (
            json.loads(self.file.read_text(encoding="utf-8"))
            if keep and self.file.is_file()
            else {}
        )

    def put(self, key: str, value: Any) -> Any:
        """Store a part and return it as read back from JSON.

        So fresh and resumed runs see the same value.
        """
        self.found[key] = json.loads(json.dumps(value))
        if self.keep:
            self.file.parent.mkdir(exist_ok=True)
            new = self.file.with_suffix(".new")
            new.write_text(json.dumps(self.found), encoding="utf-8")
            new.replace(self.file)  # atomic: a run that is killed while writing loses nothing
        return self.found[key]

    def once(self, key: str, measure: Callable[[], Any]) -> Any:
        """Return the part under `key`; measure and store it first if it does not exist."""
        if key not in self.found:
            with qwen3lab_measure.clock(key):
                self.put(key, measure())
            print(key, str(self.found[key])[:300], flush=True)
        return self.found[key]

    def drop(self) -> None:
        """Delete the parts once the record is written, so that the next run starts over."""
        if self.keep:
            self.file.unlink(missing_ok=True)


def digits(values: Iterable[Any]) -> str:
    """Write answers as a string of digits in their order: 1 for right, 0 for wrong."""
    return "".join(str(int(value)) for value in values)


def one_processor() -> None:
    """Keep this process on one processor, where the system can: a second thread would only wait."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def peak(pid: int) -> int:
    """Highest resident bytes of a process so far (VmHWM)."""
    try:
        return qwen3lab_measure.high_water(pid)
    except FileNotFoundError:
        raise Qwen3labError(
            "This benchmark reads a process's memory peak from /proc, which only Linux has. Run it"
            " on Linux."
        ) from None


def write(
    out: Path, result: dict[str, Any], script: str, packages: Sequence[str], note: str
) -> dict[str, Any]:
    """Write the result of `python benchmarks/<script>` to `out`, with a last entry "measured".

    Args:
        packages: the packages whose versions matter.
        note: tells, for example, what else the machine was doing.
    Returns:
        The result with that entry.
    """
    result = result | {
        "measured": {
            "date": date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "note": note,
            "command": f"python benchmarks/{script}",
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        }
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return result
