"""Keep a run's folder: its record, and files that are whole or not there.

Checkpoints lie in `training/` until the run is finished. Everything else is written under another
name first and then renamed, so that a run stopped at any moment leaves nothing half written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qwen3lab.errors import Qwen3labError

RECORD = "run.json"
TRAINING = "training"  # checkpoints, until the run is finished
CONVERSATIONS = "conversations"  # the rows as conversations: train.jsonl, held_out.jsonl
MERGED = "merged"
MODELFILE = "Modelfile"


def write_text(path: Path, text: str) -> Path:
    """Write a text file at once: readers see the old one or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.write_text(text, encoding="utf-8", newline="\n")
    os.replace(draft, path)
    return path


def write_json(path: Path, thing: Any) -> Path:
    """Write JSON at once, see `write_text`."""
    return write_text(path, json.dumps(thing, ensure_ascii=False, indent=1) + "\n")


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows as JSON lines at once, see `write_text`."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    return write_text(path, "".join(f"{line}\n" for line in lines))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read rows that `write_rows` wrote."""
    # Only line feeds separate rows: U+2028 may stand within a text.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def move_whole(source: Path, target: Path, names: Iterable[str]) -> None:
    """Copy files into another folder, each at once, and only those that exist."""
    for name in names:
        if (source / name).is_file():
            draft = target / f"{name}.new"
            draft.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, draft)
            os.replace(draft, target / name)


def digest(thing: Any) -> str:
    """Compute the SHA-256 of a JSON thing."""
    text = json.dumps(thing, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read(folder: str | Path) -> dict[str, Any]:
    """Read a run's record; an empty dict for a folder without one.

    Raises:
        Qwen3labError: there is no such folder, or its record is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise Qwen3labError(
            f"There is no folder {folder.name!r}. Give the folder that `qwen3lab tune` wrote, or"
            " one with an adapter."
        )
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Qwen3labError(
            f"{RECORD} of {folder.name!r} is damaged ({error}). Delete the folder and tune again."
        ) from None


def claim(folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Take a folder for a run, or go on with the run that is there; returns its record.

    Raises:
        Qwen3labError: the folder belongs to another run, or holds something else.
    """
    record = read(folder) if folder.is_dir() else {}
    if record:
        there = record.get("identity", {})
        other = sorted(key for key in identity if there.get(key) != identity[key])
        if other:
            raise Qwen3labError(
                f"{folder.name!r} holds another run: its {', '.join(other)} differ. Name another"
                " folder with --out, or delete this one."
            )
        return record
    strange = folder.exists() and not folder.is_dir()
    if strange or any(file.suffix != ".new" for file in folder.glob("*")):
        raise Qwen3labError(
            f"{folder.name!r} is not empty and holds no run. Name another folder with --out."
        )
    record = {"identity": identity, "state": "begun"}
    write_json(folder / RECORD, record)
    return record
