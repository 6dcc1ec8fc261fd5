"""Read benchmark records, the data files under `data/benchmarks`."""

from __future__ import annotations

import json
from typing import Any

from qwen3lab import paths, profiles
from qwen3lab.errors import Qwen3labError

MODEL = "qwen3-tiny"  # with its bundled relatives: what the other records were measured on
WITHOUT_IT = (  # records of no model, of released shapes, or of other tokenizers too
    "cleaning",
    "coverage",
    "decoding_gpu",
    "experts",
    "gpu",
    "gpu_fast_h100",
    "gpu_fast_h200",
    "parsing",
    "tokens",
)


def read(name: str) -> dict[str, Any]:
    """Read the record of `benchmarks/<name>.py`; "measured" holds date, machine and versions.

    Prints on which model it was measured where the profile in force has another. Raises
    Qwen3labError if there is no such record.
    """
    path = paths.DATA / "benchmarks" / f"{name}.json"
    if not path.is_file():
        raise Qwen3labError(
            f"There is no record {name!r} in data/benchmarks. Run `python benchmarks/{name}.py`, or"
            " `git checkout -- data/benchmarks`."
        )
    profile = profiles.get()
    if name not in WITHOUT_IT and MODEL not in profile.models:
        print(f"{name}: measured on {MODEL}; profile {profile.name} has {profile.chat}")
    return json.loads(path.read_text(encoding="utf-8"))
