"""`python -m qwen3lab.course.notebooks`: run the notebooks in fresh kernels, time them, compare the
outputs of two runs.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from qwen3lab import paths
from qwen3lab.course import section_times
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import loading

VOLATILE = "time · "  # a line that begins so holds a measurement that differs from run to run
# bytes that a notebook is given with several at once: twice the highest peak that we saw
MEMORY = 3_000_000_000


@dataclass
class Result:
    """One executed notebook: seconds, the kernel's peak memory in bytes, and the error that stopped
    it, if one did.
    """

    name: str
    seconds: float
    peak_bytes: int
    error: str = ""
    cells: dict[str, float] = field(
        default_factory=dict
    )  # seconds of each code cell that ran, by its id


def find(names: list[str] | None = None, folder: Path | None = None) -> list[Path]:
    """The notebooks whose file names begin with one of `names` (all without names), in order.

    Raises Qwen3labError for a name that fits none.
    """
    every = sorted((folder or paths.NOTEBOOKS).glob("[0-9]*.ipynb"))
    chosen = [
        path
        for path in every
        if not names or any(path.stem.startswith(Path(name).stem) for name in names)
    ]
    for name in names or []:
        if not any(path.stem.startswith(Path(name).stem) for path in every):
            raise Qwen3labError(
                f"There is no notebook {name!r}. Choose from:"
                f" {', '.join(path.stem for path in every) or 'none'}."
            )
    return chosen


class _Watch(threading.Thread):
    """Follows the memory of a kernel and its children: looks every 0.2 s, and asks Linux for the
    kernel's own peak.
    """

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
                self.peak = max(self.peak, sum(sizes), _linux_peak(kernel.pid))
            except (AttributeError, TypeError, psutil.Error):  # not started yet, or ended just now
                continue


def _linux_peak(pid: int) -> int:
    """The highest resident memory of a process so far, in bytes; 0 where the system does not keep
    it.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def run(
    source: Path, target: Path, timeout: int = 600, after_cell: Callable[[str], None] | None = None
) -> Result:
    """Execute `source` top to bottom in a fresh kernel and write it to `target` without what
    changes on every run.

    A notebook that fails is written too, for a look at it, but never over `source`.

    Args:
        timeout: seconds that one cell may take.
        after_cell: is called with the notebook's name after each code cell, for a progress bar.
    Raises:
        Qwen3labError: the folder of `target` cannot be written, which is said before the kernel
            starts.
    """
    import nbformat
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    class ThisPython(KernelSpecManager):
        """Knows one kernel: the interpreter that runs this, whatever else is registered on the
        machine as python3.
        """

        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            # Only errors are logged: else each start says that the connection, which never leaves
            # this machine, is not encrypted.
            return KernelSpec(
                argv=[
                    sys.executable,
                    "-m",
                    "ipykernel_launcher",
                    "-f",
                    "{connection_file}",
                    "--log-level=ERROR",
                ],
                language="python",
                display_name="Python 3",
                name=kernel_name,
            )

    check_folder(target.parent)
    notebook = nbformat.read(source, as_version=4)
    started, cells = {}, {}

    def begin(cell, **_) -> None:
        started[cell.id] = time.perf_counter()

    def end(cell, **_) -> None:
        cells[cell.id] = time.perf_counter() - started[cell.id]
        if after_cell:
            after_cell(source.stem)

    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=ThisPython())
    # The folder is the one that JupyterLab gives a kernel, so that relative paths mean the same
    # here and there.
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=timeout,
        record_timing=False,
        coalesce_streams=True,
        on_cell_execute=begin,
        on_cell_executed=end,
        resources={"metadata": {"path": str(source.parent)}},
    )
    home = os.pathsep.join(
        [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    watch, began, error = _Watch(manager), time.perf_counter(), ""
    watch.start()
    try:
        # No session of JupyterLab, even if this is started from one: widgets then show their static
        # form.
        # The client ends a kernel of its own; this one, with its gigabyte, would live on until we
        # end.
        client.execute(
            env=os.environ | {"PYTHONPATH": home, "JPY_SESSION_NAME": ""}, cleanup_kc=True
        )
    except CellExecutionError as failure:
        error = f"{failure.ename}: {failure.evalue}".splitlines()[0]
    except TimeoutError:
        error = f"a cell timed out after {timeout} s"
    except DeadKernelError:
        error = "the kernel died, perhaps for want of memory"
    finally:
        watch.over.set()
    seconds = time.perf_counter() - began
    if not error or source.resolve() != target.resolve():
        nbformat.write(clean(notebook), target)
    return Result(source.stem, seconds, watch.peak, error, cells)


def check_folder(folder: Path) -> None:
    """Make a folder and see that files can be written into it. Raises Qwen3labError where they
    cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Qwen3labError(
            f"Nothing can be written into the folder {folder.name!r} ({error.strerror}). Give"
            " another one."
        ) from error


def run_all(
    files: list[tuple[Path, Path]],
    jobs: int = 1,
    after_cell: Callable[[str], None] | None = None,
    timeout: int = 600,
) -> Iterator[Result]:
    """Run (source, target) pairs, `jobs` at a time, and yield the results in the order of the
    pairs; the rest as in `run`.

    With several jobs each gets CPUs of its own, where the system can pin a process (Linux): two
    notebooks whose threads fight for the same CPUs are many times slower than one after the other.
    """
    pinned, free = hasattr(os, "sched_setaffinity"), queue.SimpleQueue()
    every = sorted(os.sched_getaffinity(0)) if pinned else []
    for job in range(jobs):
        free.put(set(every[job::jobs]))

    def one(pair: tuple[Path, Path]) -> Result:
        mine = free.get()
        try:
            if mine:
                os.sched_setaffinity(
                    0, mine
                )  # of this thread; the kernel that it starts inherits it
            return run(*pair, timeout, after_cell)
        finally:
            free.put(mine)

    if jobs == 1:
        yield from (run(*pair, timeout, after_cell) for pair in files)
    else:
        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(one, files)


def default_jobs() -> int:
    """Notebooks to run at once: one for each CPU of this process, at most two, and one where memory
    is short.
    """
    import psutil

    return 2 if loading.cpus() >= 2 and psutil.virtual_memory().available > 2 * MEMORY else 1


def clean(notebook):
    """Drop time stamps and machine details from an executed notebook; ids, counts and
    outputs stay."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
    return notebook


def table(results: list[Result], seconds: float) -> str:
    """The times as lines of text; `seconds` is what all of them took together by the clock on the
    wall.
    """
    lines = [f"{'notebook':<36} {'seconds':>8} {'peak GB':>8}"]
    lines += [
        f"{r.name:<36} {r.seconds:8.1f}"
        f" {r.peak_bytes / 1e9:8.2f}{'   ' + r.error if r.error else ''}"
        for r in results
    ]
    return "\n".join([*lines, f"{'all, by the clock':<36} {seconds:8.1f}"])


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
                lines = [line for line in str(text).splitlines() if not line.startswith(VOLATILE)]
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
                f"There are no notebooks in {folder.name!r}. Give two folders that `run` wrote."
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
    runs = commands.add_parser("run", help="execute notebooks")
    runs.add_argument("names", nargs="*", help="for example 03; all without a name")
    runs.add_argument(
        "--into",
        type=Path,
        default=paths.BUILD / "notebooks",
        help="folder for the executed copies",
    )
    runs.add_argument(
        "--in-place", action="store_true", help="write the outputs into the notebooks themselves"
    )
    runs.add_argument(
        "--jobs",
        choices=("1", "2", "auto"),
        default="1",
        help=(
            "notebooks at a time, each on its own CPUs; auto: two where the CPUs and the memory"
            " allow it"
        ),
    )
    runs.add_argument(
        "--times",
        type=Path,
        help="JSON file that gets the seconds of each section, for docs/workshop.md",
    )
    compare = commands.add_parser("diff", help="compare the outputs of two folders")
    compare.add_argument("first", type=Path)
    compare.add_argument("second", type=Path)
    args = parser.parse_args(argv)
    if args.command == "diff":
        lines = diff(args.first, args.second)
        print("\n".join(lines) or "The outputs are equal but for times.")
        return 1 if lines else 0
    results, began = [], time.perf_counter()
    files = [(path, path if args.in_place else args.into / path.name) for path in find(args.names)]
    jobs = default_jobs() if args.jobs == "auto" else int(args.jobs)
    if jobs > 1:
        print(
            f"{jobs} notebooks at a time, each on its own CPUs: each takes longer than alone, all"
            " of them together less.",
            flush=True,
        )
    for result in run_all(files, jobs):
        results.append(result)
        print(f"{result.name}: {result.error or 'done'} in {result.seconds:.1f} s", flush=True)
    print(table(results, time.perf_counter() - began))
    if args.times:
        section_times.record(
            args.times,
            [(result, source) for result, (source, _) in zip(results, files, strict=True)],
            jobs,
        )
    return 1 if any(r.error for r in results) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Qwen3labError as error:
        sys.exit(str(error))
