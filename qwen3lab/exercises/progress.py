"""Store a learner's progress in one JSON file of the cache folder; nothing leaves the machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

from qwen3lab import paths

EMPTY = {"tries": 0, "solved": False, "hints": 0, "solution": False}


def file() -> Path:
    """Return the path of the progress file."""
    return paths.CACHE / "progress.json"


def load() -> tuple[dict[str, dict], str]:
    """Load the progress record, tolerating damage.

    Never raises: an unreadable file counts as empty, and a malformed entry is left out.

    Returns:
        {exercise id: {"tries", "solved", "hints", "solution"}}, and a sentence about what could not
        be read ("" if nothing).
    """
    try:
        raw = json.loads(file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError, RecursionError):
        return (
            {},
            (
                "The progress file could not be read and counts as empty. Repair or delete"
                " progress.json in the cache folder."
            ),
        )
    entries = raw if isinstance(raw, dict) else {}
    good = {key: EMPTY | entry for key, entry in entries.items() if _is_entry(entry)}
    lost = len(entries) - len(good) if isinstance(raw, dict) else 1
    return good, (
        f"Entries of the progress file that have a wrong form and were left out: {lost}."
        if lost
        else ""
    )


def _is_entry(entry: object) -> bool:
    """Check that every known key has a value of its type; True is not a number of tries."""
    return isinstance(entry, dict) and all(
        type(entry.get(key, value)) is type(value) for key, value in EMPTY.items()
    )


def note(
    key: str, *, tried: bool = False, solved: bool = False, hints: int = 0, solution: bool = False
) -> str:
    """Record what happened in one exercise; returns "" or a line about a problem with the file.

    A damaged file is moved to progress.broken.json, so that nothing in it is lost, and a new one is
    started.
    """
    record, fault = load()
    entry = EMPTY | record.get(key, {})
    entry |= {
        "tries": entry["tries"] + tried,
        "solved": entry["solved"] or solved,
        "hints": max(entry["hints"], hints),
        "solution": entry["solution"] or solution,
    }
    record[key] = entry
    target = file()
    new = target.with_name(f"progress.{os.getpid()}.json")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if fault:
            os.replace(target, target.with_name("progress.broken.json"))
        new.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(new, target)  # atomic: another notebook never reads half a file
    except OSError as error:
        return (
            f"Your progress could not be kept ({error.strerror or type(error).__name__}). The check"
            " itself is not touched by this."
        )
    return (
        "Your progress file was damaged. It lies beside the new one as progress.broken.json."
        if fault
        else ""
    )
