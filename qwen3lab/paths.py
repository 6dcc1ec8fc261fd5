"""Where the course keeps its files. Everything lies in the clone; nothing is written outside it but the cache."""

from __future__ import annotations

import os
from pathlib import Path

# The package is installed in editable form, so its parent is the clone. QWEN3LAB_HOME serves those who installed it otherwise.
ROOT = Path(os.environ.get("QWEN3LAB_HOME") or Path(__file__).resolve().parent.parent)
DATA = ROOT / "data"
MODELS = DATA / "models"
TASKS = DATA / "tasks"
HANDBOOK = DATA / "handbook" / "handbook.pdf"
CLAIMS = DATA / "claims.toml"
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "build"
CACHE = Path(os.environ.get("QWEN3LAB_CACHE") or Path.home() / ".cache" / "qwen3lab")
