"""Paths of the course's files: everything is in the clone; only the cache is outside."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from qwen3lab.errors import Qwen3labError

# The package is installed in editable form, so its parent is the clone. QWEN3LAB_HOME is for any
# other installation.
ROOT = Path(os.environ.get("QWEN3LAB_HOME") or Path(__file__).resolve().parent.parent)
DATA = ROOT / "data"
MODELS = DATA / "models"
TASKS = DATA / "tasks"
HANDBOOK = DATA / "handbook" / "handbook.pdf"
CLAIMS = DATA / "claims.toml"
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "build"
CACHE = Path(os.environ.get("QWEN3LAB_CACHE") or Path.home() / ".cache" / "qwen3lab")


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read a TOML file of the data folder; `what` names it in errors.

    Raises:
        Qwen3labError: the file is missing or cannot be parsed.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Qwen3labError(
            f"The {what} {path.name} is missing. Run `git checkout -- data/{path.name}`."
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise Qwen3labError(
            f"The {what} {path.name} is no valid TOML ({error}). Mend the line it names."
        ) from error


def find_model(name: str) -> Path | None:
    """Find a checkpoint's folder: in the mirror `QWEN3LAB_MODELS` (by full id or its last part),
    else among the bundled ones; None where neither has it.
    """
    mirror = os.environ.get("QWEN3LAB_MODELS")
    folders = [MODELS / name]
    if mirror:
        place = Path(mirror).expanduser()
        folders = [place / name, place / name.rsplit("/", 1)[-1], *folders]
    found = (folder for folder in folders if name and _holds_model(folder))
    return next(found, None)


def _holds_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or (folder / "modules.json").is_file()
