"""Command line of the Chinese edition: `python -m scripts.zh update|render|import FILES|check`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qwen3lab import locale
from qwen3lab.course import notebooks as course
from scripts.zh import messages, notebooks, rules


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code, 1 where `check` finds a fault."""
    parser = argparse.ArgumentParser(prog="python -m scripts.zh", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("update", help="bring the catalogues into step with notebooks and source")
    commands.add_parser("render", help="write notebooks/zh, and compile the package's messages")
    take = commands.add_parser("import", help="take translations from files of `@@ id` blocks")
    take.add_argument("files", nargs="+", type=Path, help="named like the notebook, / as __")
    commands.add_parser("check", help="list what is wrong")
    args = parser.parse_args(argv)
    if args.command == "import":
        for file in args.files:
            name = file.stem.replace("__", "/")
            said = notebooks.blocks(file.read_text(encoding="utf-8"))
            strange = notebooks.take(notebooks.catalogue_of(name), said)
            print(f"{name}: {len(said) - len(strange)} taken", *strange)
        return 0
    found = messages.faults() if args.command == "check" else []
    for path in course.every():
        name = course.short(path)
        file, rendered = notebooks.catalogue_of(name), notebooks.ZH / f"{name}.ipynb"
        if args.command == "update":
            file.parent.mkdir(parents=True, exist_ok=True)
            notebooks.update(path, file).save(file)
        elif args.command == "render":
            rendered.parent.mkdir(parents=True, exist_ok=True)
            rendered.write_text(notebooks.render(path, file), encoding="utf-8")
        else:
            faults = notebooks.faults(path, file, rendered, rules.glossary())
            found += [f"{name}: {fault}" for fault in faults]
    if args.command == "update":
        messages.update().save(messages.PO)
    elif args.command == "render":
        locale.CATALOGUE.parent.mkdir(parents=True, exist_ok=True)
        locale.CATALOGUE.write_bytes(messages.compiled(messages.PO))
    print("\n".join(found), end="\n" * bool(found))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
