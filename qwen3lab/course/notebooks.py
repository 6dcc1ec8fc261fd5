"""Find notebooks, clean executed ones, and compare the outputs of two runs.

`python -m qwen3lab.course.notebooks diff A B` compares two folders.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qwen3lab import paths
from qwen3lab.errors import Qwen3labError
from qwen3lab.measure import MARK

DEEPER = "deeper"  # the folder of the companions


def find(names: list[str] | None = None, folder: Path | None = None) -> list[Path]:
    """The notebooks whose file names begin with one of `names`, in order; the eight without names.

    "01" is a notebook, "deeper/01" its companion, "deeper" all companions.
    Raises Qwen3labError for a name that fits none.
    """
    shorts = {short(path): path for path in every(folder)}
    if not names:
        return [path for name, path in shorts.items() if "/" not in name]
    begins = [DEEPER if name.strip("/") == DEEPER else short(Path(name)) for name in names]
    for name, begin in zip(names, begins, strict=True):
        if not any(one.startswith(begin) for one in shorts):
            raise Qwen3labError(
                f"There is no notebook {name!r}. Choose from: {', '.join(shorts) or 'none'}."
            )
    return [path for name, path in shorts.items() if name.startswith(tuple(begins))]


def every(folder: Path | None = None) -> list[Path]:
    """The notebooks, then their companions, each in order."""
    folder = folder or paths.NOTEBOOKS
    return sorted(folder.glob("[0-9]*.ipynb")) + sorted((folder / DEEPER).glob("[0-9]*.ipynb"))


def short(path: Path) -> str:
    """A notebook's name without its ending, a companion's with its folder: deeper/01_routing."""
    return f"{DEEPER}/" * (path.parent.name == DEEPER) + path.name.removesuffix(".ipynb")


def clean(notebook):
    """Drop time stamps and machine details from an executed notebook, and join what a cell printed;
    ids, counts and outputs stay.
    """
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
    return notebook


def _joined(outputs: list) -> list:
    """Join a cell's streams by name: into how many pieces a kernel cuts what was printed changes
    from run to run.
    """
    streams, found = {}, []
    for out in outputs:
        if out.output_type == "stream" and out.name in streams:
            streams[out.name].text += out.text
            continue
        if out.output_type == "stream":
            streams[out.name] = out
        found.append(out)
    return found


def outputs(path: Path) -> list[tuple[str, str, str]]:
    """(cell id, kind, text) of every output of a notebook, without the volatile lines; an image is
    the text that encodes it.
    """
    import nbformat

    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        for out in cell.get("outputs", []):
            pieces = (
                {out["name"]: out["text"]}
                if out.output_type == "stream"
                else dict(out.get("data", {}))
            )
            if out.output_type == "error":
                pieces = {"error": f"{out['ename']}: {out['evalue']}"}
            for kind, text in sorted(pieces.items()):
                lines = [line for line in str(text).splitlines() if not line.startswith(MARK)]
                found += [(cell["id"], kind, "\n".join(lines))] if lines else []
    return found


def diff(first: Path, second: Path) -> list[str]:
    """Where the outputs of the notebooks in two folders differ, a line each; empty when all are
    equal but for times.

    Raises Qwen3labError for a folder without notebooks.
    """
    names = {folder: {path.name for path in find(folder=folder)} for folder in (first, second)}
    for folder, there in names.items():
        if not there:
            raise Qwen3labError(
                f"There are no notebooks in {folder.name!r}. Give two folders that `qwen3lab run`"
                " wrote."
            )
    found = [
        f"{name.removesuffix('.ipynb')}: only in one of the folders"
        for name in sorted(names[first] ^ names[second])
    ]
    for name in sorted(names[first] & names[second]):
        left, right, stem = (
            outputs(first / name),
            outputs(second / name),
            name.removesuffix(".ipynb"),
        )
        if [a[:2] for a in left] != [b[:2] for b in right]:
            found.append(f"{stem}: other outputs, {len(left)} against {len(right)}")
            continue
        for (cell, kind, a), (_, _, b) in zip(left, right, strict=True):
            if a != b and kind.startswith("image/"):
                found.append(f"{stem}, cell {cell}: another {kind} picture")
            elif a != b:
                changed = next(
                    ((x, y) for x, y in zip(a.splitlines(), b.splitlines()) if x != y),
                    (a[-80:], b[-80:]),
                )
                found.append(
                    f"{stem}, cell {cell}: {changed[0][:80]!r} against {changed[1][:80]!r}"
                )
    return found


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m qwen3lab.course.notebooks", description=__doc__
    )
    commands = parser.add_subparsers(dest="command", required=True)
    compare = commands.add_parser("diff", help="compare the outputs of two folders")
    compare.add_argument("first", type=Path)
    compare.add_argument("second", type=Path)
    args = parser.parse_args(argv)
    lines = diff(args.first, args.second)
    print("\n".join(lines) or "The outputs are equal but for times.")
    return 1 if lines else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Qwen3labError as error:
        sys.exit(str(error))
