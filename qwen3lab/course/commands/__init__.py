"""Define the commands of `qwen3lab`, one file each.

`add` declares a command's options, `call` runs it and returns the exit code.
"""

from __future__ import annotations

import argparse
from typing import Any

from qwen3lab.locale import translate


class Parser(argparse.ArgumentParser):
    """A parser whose help is in the learner's language."""

    def __init__(self, *args: Any, **options: Any):
        for name in ("description", "epilog"):
            if options.get(name):
                options[name] = translate(options[name], "command")
        super().__init__(*args, **options)

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add an argument, its help translated."""
        if isinstance(options.get("help"), str):
            options["help"] = translate(options["help"], "command")
        return super().add_argument(*names, **options)


def say(text: str, **options: Any) -> None:
    """Print a text in the learner's language; options as `print` has them."""
    print(translate(text, "command"), **options)


def parser(
    commands: Any, call, name: str, summary: str, description: str, *examples: str
) -> argparse.ArgumentParser:
    """Add a command whose help shows examples.

    `call` takes the parsed arguments and returns the exit code.
    """
    lines = ["examples:", *examples]
    made = commands.add_parser(
        name,
        help=translate(summary, "command"),
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n  ".join(translate(line, "command") for line in lines),
    )
    made.set_defaults(call=call)
    return made
