"""Wildon, the held-out company: its facts, its handbook and the fine-tuning and evaluation sets
made from them.

Rebuild all of it with `python -m scripts.company` (the Debian package fonts-wqy-microhei must be
installed): that writes `data/handbook/handbook.pdf` and every `data/tasks/*.jsonl`, the same bytes
every time. `--check` writes nothing and says whether what lies there is what would be written.
"""

from __future__ import annotations
