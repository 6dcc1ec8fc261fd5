"""Run the command line `qwen3lab`: the commands of `qwen3lab.course.commands`, exit codes."""

from __future__ import annotations

import argparse
import sys

from qwen3lab.course import commands
from qwen3lab.course.commands import audit, bundle, chat, doctor, plan, progress, run, tune
from qwen3lab.errors import Qwen3labError

COMMANDS = (doctor, plan, run, tune, audit, chat, progress, bundle)
CODES = (
    "exit codes: 0 done; 1 something is wrong and one sentence says what; 2 the command line itself"
    " is wrong"
)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    0: done; 1: an error, reported in one sentence; 2: wrong arguments (by SystemExit).
    """
    parser = commands.Parser(
        prog="qwen3lab",
        description="The course on fine-tuning Qwen3.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "examples:\n  qwen3lab doctor\n  qwen3lab plan 8B --method qlora\n  qwen3lab run 03\n "
            " qwen3lab tune rows.csv\n  qwen3lab audit RUN\n  qwen3lab chat RUN\n"
            "  qwen3lab progress\n  qwen3lab bundle\n\n`qwen3lab run --help` and so on show the"
            f" options of a command.\n{CODES}"
        ),
    )
    chosen = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add(chosen)
    args = parser.parse_args(argv)
    try:
        return args.call(args)
    except Qwen3labError as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        commands.say("Stopped before the end.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
