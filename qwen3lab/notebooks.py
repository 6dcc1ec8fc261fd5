"""`python -m qwen3lab.notebooks`: run the notebooks in fresh kernels, time them, compare the outputs of two runs."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from qwen3lab import paths
from qwen3lab.errors import Qwen3labError

VOLATILE = "time · "  # a line that begins so holds a measurement that differs from run to run


@dataclass
class Result:
    """One executed notebook: seconds, the kernel's peak memory in bytes, and the error that stopped it, if one did."""

    name: str
    seconds: float
    peak_bytes: int
    error: str = ""


def find(names: list[str] | None = None, folder: Path | None = None) -> list[Path]:
    """The notebooks whose file names begin with one of `names` (all without names), in order.

    Raises Qwen3labError for a name that fits none.
    """
    every = sorted((folder or paths.NOTEBOOKS).glob("[0-9]*.ipynb"))
    chosen = [path for path in every if not names or any(path.stem.startswith(Path(name).stem) for name in names)]
    for name in names or []:
        if not any(path.stem.startswith(Path(name).stem) for path in every):
            raise Qwen3labError(f"There is no notebook {name!r}. Choose from: {', '.join(path.stem for path in every) or 'none'}.")
    return chosen


class _Watch(threading.Thread):
    """Samples the memory of a kernel and its children every 0.2 s."""

    def __init__(self, manager):
        super().__init__(daemon=True)
        self.manager, self.peak, self.over = manager, 0, threading.Event()

    def run(self) -> None:
        import psutil

        while not self.over.wait(0.2):
            provisioner = getattr(self.manager, "provisioner", None)
            try:
                kernel = psutil.Process(provisioner.pid)
                sizes = [p.memory_info().rss for p in (kernel, *kernel.children(recursive=True))]
                self.peak = max(self.peak, sum(sizes))
            except (AttributeError, TypeError, psutil.Error):  # not started yet, or ended just now
                continue


def run(source: Path, target: Path) -> Result:
    """Execute `source` top to bottom in a fresh kernel and write it to `target` without what changes on every run."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from jupyter_client.manager import AsyncKernelManager

    notebook = nbformat.read(source, as_version=4)
    manager = AsyncKernelManager(kernel_name="python3")
    manager.kernel_spec.argv[0] = sys.executable  # the interpreter of this environment, whatever else is registered
    client = NotebookClient(notebook, km=manager, timeout=600, resources={"metadata": {"path": str(paths.ROOT)}})
    watch, began, error = _Watch(manager), time.perf_counter(), ""
    watch.start()
    try:
        client.execute()
    except CellExecutionError as failure:
        error = str(failure).strip().splitlines()[-1]
    finally:
        watch.over.set()
    seconds = time.perf_counter() - began
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(clean(notebook), target)
    return Result(source.stem, seconds, watch.peak, error)


def clean(notebook):
    """Drop time stamps and machine details from an executed notebook; ids, counts and outputs stay."""
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                         "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
    return notebook


def table(results: list[Result]) -> str:
    """The times as lines of text."""
    lines = [f"{'notebook':<36} {'seconds':>8} {'peak GB':>8}"]
    lines += [f"{r.name:<36} {r.seconds:8.1f} {r.peak_bytes / 1e9:8.2f}{'   ' + r.error if r.error else ''}" for r in results]
    return "\n".join([*lines, f"{'all':<36} {sum(r.seconds for r in results):8.1f}"])


def outputs(path: Path) -> list[tuple[str, str]]:
    """(cell id, output) of a notebook with the volatile lines left out."""
    import nbformat

    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        for out in cell.get("outputs", []):
            pieces = [out.get("text", "")] if "text" in out else [f"{kind}: {data}" for kind, data in sorted(out.get("data", {}).items())]
            for piece in pieces:
                lines = [line for line in str(piece).splitlines() if not line.startswith(VOLATILE)]
                found += [(cell["id"], "\n".join(lines))] if lines else []
    return found


def diff(first: Path, second: Path) -> list[str]:
    """Where the outputs of the notebooks in two folders differ, a line each; empty when all are equal but for times."""
    found = []
    for path in find(folder=first):
        left, right = outputs(path), outputs(second / path.name)
        if len(left) != len(right):
            found.append(f"{path.stem}: {len(left)} outputs against {len(right)}")
        found += [f"{path.stem}, cell {a[0]}: {a[1][:80]!r} against {b[1][:80]!r}" for a, b in zip(left, right) if a != b]
    return found


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m qwen3lab.notebooks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="execute notebooks")
    runs.add_argument("names", nargs="*", help="for example 03; all without a name")
    runs.add_argument("--into", type=Path, default=paths.BUILD / "notebooks", help="folder for the executed copies")
    runs.add_argument("--in-place", action="store_true", help="write the outputs into the notebooks themselves")
    compare = commands.add_parser("diff", help="compare the outputs of two folders")
    compare.add_argument("first", type=Path)
    compare.add_argument("second", type=Path)
    args = parser.parse_args(argv)
    if args.command == "diff":
        lines = diff(args.first, args.second)
        print("\n".join(lines) or "The outputs are equal but for times.")
        return 1 if lines else 0
    results = []
    for path in find(args.names):
        results.append(run(path, path if args.in_place else args.into / path.name))
        print(f"{path.stem}: {results[-1].error or 'done'} in {results[-1].seconds:.1f} s", flush=True)
    print(table(results))
    return 1 if any(r.error for r in results) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Qwen3labError as error:
        sys.exit(str(error))
