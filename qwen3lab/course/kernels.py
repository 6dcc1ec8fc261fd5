"""Control the kernels that nbmake starts: interpreter, environment, CPUs, time and peak memory.

A pytest plugin: `pytest --nbmake notebooks -n 2` loads it through conftest.py, `qwen3lab run` by
its name.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from qwen3lab import measure
from qwen3lab.models import loading

# bytes that a notebook is given with several at once: twice the highest peak that we saw
MEMORY = 3_000_000_000
PEAK = "peak bytes"  # the property of a notebook's report
BEGAN = pytest.StashKey[float]()


def jobs() -> int:
    """Count the notebooks to run at once: two, or one where the CPUs or the memory are short."""
    return 2 if loading.cpus() >= 2 and psutil.virtual_memory().available > 2 * MEMORY else 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Set what `-n auto` means where notebooks are run."""
    notebooks = getattr(config.option, "nbmake", False) or config.option.markexpr == "dial"
    return jobs() if notebooks else None


def pytest_configure(config: pytest.Config) -> None:
    """Record when the run began."""
    config.stash[BEGAN] = time.perf_counter()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    """Run a notebook in a kernel of this interpreter, on this worker's CPUs; record its peak."""
    if not getattr(item, "nbmake", False):
        return (yield)
    watch = _Watch()
    with own(item.config):
        watch.start()
        try:
            return (yield)
        finally:
            watch.over.set()
            item.user_properties.append((PEAK, watch.peak))


@contextmanager
def own(config: pytest.Config) -> Iterator[None]:
    """Give the kernels that are started within the block this interpreter, this course and this
    worker's CPUs.
    """
    from ipykernel.kernelspec import write_kernel_spec

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        # The kernel is found here first, whatever else is registered on the machine as python3.
        # Only errors are logged: else a failure says that the connection, which never leaves this
        # machine, is not encrypted.
        write_kernel_spec(Path(folder, "kernels", "python3"), extra_arguments=["--log-level=ERROR"])
        patch.setenv("JUPYTER_PATH", folder, prepend=os.pathsep)
        # It imports the course that this process has imported, whatever else is installed.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
        patch.delenv("MPLBACKEND", raising=False)  # it draws inline
        # No session of JupyterLab, even if this is started from one: widgets are static then.
        patch.setenv("JPY_SESSION_NAME", "")
        before = _pin(config)
        try:
            yield
        finally:
            if before:
                os.sched_setaffinity(0, before)


def _pin(config: pytest.Config) -> set[int]:
    """Give a worker of pytest-xdist, and so its kernels, CPUs of its own; return those it had.

    Two notebooks whose threads fight for the same CPUs are many times slower than one after the
    other.
    """
    worker = getattr(config, "workerinput", None)
    if not worker or not hasattr(os, "sched_setaffinity"):  # one process, or no Linux
        return set()
    before = os.sched_getaffinity(0)
    number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    os.sched_setaffinity(0, sorted(before)[number % count :: count] or before)
    return before


class _Watch(threading.Thread):
    """Sample the memory of this process's kernels, child processes included, every 0.2 s."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.over = 0, threading.Event()

    def run(self) -> None:
        this = psutil.Process()
        while not self.over.wait(0.2):
            with suppress(psutil.Error):  # one of them ended just now
                kernels = [one for one in this.children() if "ipykernel_launcher" in one.cmdline()]
                sizes = [
                    one.memory_info().rss
                    for kernel in kernels
                    for one in (kernel, *kernel.children(recursive=True))
                ]
                self.peak = max(self.peak, sum(sizes), *map(own_peak, kernels))


def own_peak(process: psutil.Process) -> int:
    """Return a process's peak resident memory in bytes; 0 where the system keeps none."""
    try:
        return measure.high_water(process.pid)
    except OSError:
        return getattr(process.memory_info(), "peak_wset", 0)
    except StopIteration:  # it has ended
        return 0


def name(report: pytest.TestReport) -> str:
    """Return the name of a report's notebook, without folder and ending."""
    return Path(report.nodeid.partition("::")[0]).stem


def peak(report: pytest.TestReport) -> int | None:
    """Return the kernel's peak in bytes; None where the report is of no notebook."""
    return dict(report.user_properties).get(PEAK) if report.when == "call" else None


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Print a line per notebook in place of a dot."""
    if peak(report) is None:
        return None
    done = "done" if report.passed else report.outcome
    line = f"{name(report)}: {done} in {report.duration:.1f} s\n"
    return report.outcome, line, report.outcome.upper()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """Print the table of times, in the notebooks' order."""
    reports = [
        report
        for kind in ("passed", "failed")
        for report in terminalreporter.getreports(kind)
        if peak(report) is not None
    ]
    if not reports:
        return
    terminalreporter.write_line(f"{'notebook':<36} {'seconds':>8} {'peak GB':>8}")
    for report in sorted(reports, key=name):
        failed = "   failed" if report.failed else ""
        terminalreporter.write_line(
            f"{name(report):<36} {report.duration:8.1f} {peak(report) / 1e9:8.2f}{failed}"
        )
    seconds = time.perf_counter() - config.stash[BEGAN]
    terminalreporter.write_line(f"{'all, by the clock':<36} {seconds:8.1f}")
