"""Define the commands of `qwen3lab`, one file each.

`add` declares a command's options, `call` runs it and returns the exit code.
"""

from __future__ import annotations

import argparse
from typing import Any


def parser(
    commands: Any, call, name: str, summary: str, description: str, *examples: str
) -> argparse.ArgumentParser:
    """Add a command whose help shows examples.

    `call` takes the parsed arguments and returns the exit code.
    """
    made = commands.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n  ".join(["examples:", *examples]),
    )
    made.set_defaults(call=call)
    return made
