"""Run a server in a process of its own, beside the clients that measure it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def running(*arguments: str) -> Iterator[tuple[str, int]]:
    """Run Python on `arguments`; yields the first line that it prints, and its process id.

    At the end its standard input is closed, by which it knows that it is over.
    """
    with subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.stdin.close()
