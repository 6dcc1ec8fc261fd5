"""Fill generated tables into a Markdown page, between two comments with the table's name."""

from __future__ import annotations

import re
from collections.abc import Mapping

from qwen3lab.errors import Qwen3labError


def fill(text: str, tables: Mapping[str, str]) -> str:
    """Replace each table between `<!-- name -->` and `<!-- end of name -->`; returns the page.

    Raises Qwen3labError if the two comments are missing.
    """
    for name, table in tables.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        if not marks.search(text):
            raise Qwen3labError(
                f"The page has no place for {name!r}. Put the two lines <!-- {name} --> and <!--"
                f" end of {name} --> into it."
            )
        text = marks.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text)
    return text
