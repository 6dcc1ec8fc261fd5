"""Build the data of Wildon, the held-out company: handbook, fine-tuning and evaluation sets.

Rebuild all of it with `python -m scripts.company` (the Debian package fonts-wqy-microhei must be
installed): that writes `data/handbook/handbook.pdf` and every `data/tasks/*.jsonl`, the same bytes
every time. `--check` writes nothing and tells whether the existing files equal what would be
written.
"""

from __future__ import annotations
