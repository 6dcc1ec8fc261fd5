"""Run a model's Python function and its tests in a separate process, with resource limits.

The tests are lines `assert <call> == <literal>`. The process gets the calls, never the expected
values: it returns the results of the calls as plain data, and the comparison is made here. So no
answer passes by exiting early, by printing "passed", by redefining `assert`, `exec` or `__eq__`, or
by searching the process: the expected values are not in it.

This limits accidents. It is not a security boundary: the process runs as the same user on the same
kernel, and a determined attacker gets out of it. For untrusted answers of a model, put a container
or a virtual machine around it.
"""

from __future__ import annotations

import ast
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

from qwen3lab.errors import Qwen3labError

FILE_BYTES = 1 << 20  # maximum size of a file that the process can write, its report included
OPEN_FILES = 32
POLL = 0.002  # seconds between two polls of the process; `Popen.wait` is up to 0.05 s late
SHOWN = 60  # characters of a value or an error in a message
# How a process ends that was killed, or used up its time; Windows knows neither signal.
KILLED, USED_UP = -getattr(signal, "SIGKILL", 9), -getattr(signal, "SIGXCPU", 24)

# Runs in the process. Limits that the system lacks (address space on macOS) are skipped, and the
# limit on the number of processes does not apply to root. So an audit hook (PEP 578), which no
# Python code can remove, refuses to start processes, to send signals, to open sockets, to load
# libraries, to delete or rename files, and to open files other than Python's own and those in the
# working folder. Modules that open files without asking the hook cannot be imported, and the two
# functions of `os` that make files so are taken away.
WORKER = r"""
import os, sys
try:
    import resource
except ImportError:
    resource = None
code, calls, limits = eval(sys.stdin.read())
for name, soft, hard in limits:
    try:
        resource.setrlimit(getattr(resource, name), (soft, hard))
    except (AttributeError, ValueError, OSError):
        pass
report, nothing = os.dup(1), os.open(os.devnull, os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(nothing, number)
os.close(nothing)
own, folder = tuple(os.path.realpath(place) + os.sep for place in sys.path), os.getcwd() + os.sep
refused = ("os.", "shutil.", "subprocess.", "pty.", "_posixsubprocess.",
           "socket.", "ctypes.", "signal.", "syslog.", "resource.", "_winapi.", "winreg.")
unasked = {"sqlite3", "_sqlite3", "_dbm", "_gdbm", "readline", "_curses", "_tkinter", "_ssl",
           "_multiprocessing", "_posixshmem"}
for module in (os, sys.modules.get("posix")):
    for name in ("mkfifo", "mknod"):
        if hasattr(module, name):
            delattr(module, name)

def guard(event, arguments, allowed=("os.listdir", "os.scandir"), real=os.path.realpath,
          decode=os.fsdecode, refused=refused, own=own,
          folder=folder, reading=os.O_RDONLY, ways=os.O_WRONLY | os.O_RDWR, unasked=unasked):
    if event == "import" and arguments[0] in unasked:
        raise ImportError("the module " + arguments[0] + " is refused")
    if event.startswith(refused) and event not in allowed:
        raise PermissionError(event + " is refused")
    if event == "open" and not isinstance(arguments[0], int):
        path, writes = real(decode(arguments[0])), arguments[2] & ways != reading
        if not path.startswith(folder) and (writes or not path.startswith(own)):
            raise PermissionError("opening files elsewhere is refused")

def plain(value):
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        return all(map(plain, value))
    return all(map(plain, [*value, *value.values()])) if kind is dict else kind in (
        int, float, complex, bool, str, bytes, type(None))

def told(error):
    return "raised", ": ".join(filter(None, (type(error).__name__, str(error))))

found = []
sys.addaudithook(guard)
space = {"__name__": "answer", "__builtins__": __builtins__}
try:
    exec(compile(code, "<answer>", "exec"), space)
except BaseException as error:
    found.append(told(error))
else:
    for call in calls:
        try:
            value = eval(call, space)
            found.append(
                ("gave", repr(value)) if plain(value) else ("strange", type(value).__name__))
        except BaseException as error:
            found.append(told(error))
os.write(report, ascii(found).encode())
os._exit(0)
"""


@dataclass(frozen=True)
class Result:
    """A test result: "passed", "failed" (a wrong value), "error" or "timeout".

    "error": an exception, or no values at all.
    """

    status: str
    message: str = ""  # one line about the first test that went wrong; empty if all passed

    @property
    def passed(self) -> bool:
        """Whether every test passed."""
        return self.status == "passed"


def run(code: str, tests: Sequence[str], *, seconds: float = 2.0, megabytes: int = 256) -> Result:
    """Run a function and its tests in a fresh `python -I -S` with limits.

    The process has an empty folder, an empty environment, no input and no output, a session of its
    own that is killed as a whole at the end, and limits (`resource.setrlimit`) on time, memory,
    files and processes. Windows has neither such sessions nor such limits: there the clock alone
    ends it.

    Args:
        code: the text of a Python module that defines the function.
        tests: lines `assert <call> == <literal>`, for example `assert half(8) == 4`; compared as
            Python compares.
        seconds: CPU time, rounded up to a whole number; the wall-clock limit is twice that plus one
            second, so that a busy machine does not fail a good answer.
        megabytes: limit of the address space, in 10^6 bytes; Python 3.11 on Linux alone takes
            between 10 and 15.
    Raises:
        Qwen3labError: no tests, or a test in another format.
    """
    pairs = [_parts(test) for test in tests]
    if not pairs:
        raise Qwen3labError(
            "There are no tests, and nothing would always pass. Give at least one assert line."
        )
    cpu, memory = math.ceil(seconds), megabytes * 10**6
    start = time.monotonic()
    limits = [
        ("RLIMIT_CPU", cpu, cpu + 1),
        ("RLIMIT_AS", memory, memory),
        ("RLIMIT_FSIZE", FILE_BYTES, FILE_BYTES),
        ("RLIMIT_NOFILE", OPEN_FILES, OPEN_FILES),
        ("RLIMIT_NPROC", 0, 0),
        ("RLIMIT_CORE", 0, 0),
    ]
    with (
        tempfile.TemporaryDirectory(prefix="qwen3lab-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as request,
        tempfile.TemporaryFile() as report,
    ):
        request.write(ascii((code, [call for call, _ in pairs], limits)).encode())
        request.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", WORKER],
            stdin=request,
            stdout=report,
            stderr=subprocess.DEVNULL,
            cwd=os.path.realpath(folder),
            env=worker_environment(),
            start_new_session=True,
        )
        try:
            while (ended := process.poll()) is None and time.monotonic() < start + 2 * cpu + 1:
                time.sleep(POLL)
        finally:
            _kill(process)
        report.seek(0)
        text = report.read(FILE_BYTES).decode(errors="replace")
    out_of_time = (
        ended == KILLED and time.monotonic() >= start + cpu
    )  # a process that ignores SIGXCPU is killed a second later
    if ended is None or ended == USED_UP or out_of_time:
        return Result("timeout", f"did not end within {cpu} s")
    if ended or not text:
        return Result(
            "error",
            (
                f"the process was ended by signal {-ended}"
                if ended < 0
                else "the process ended without returning values"
            ),
        )
    return verdict(text, pairs)


def _parts(test: str) -> tuple[str, object]:
    """Parse a test line into (call, expected value)."""
    try:
        (line,) = ast.parse(test.strip()).body
        left, (equal,), (right,) = line.test.left, line.test.ops, line.test.comparators
        if isinstance(line, ast.Assert) and isinstance(equal, ast.Eq):
            return ast.unparse(left), ast.literal_eval(right)
    except (SyntaxError, ValueError, TypeError, AttributeError):
        pass
    raise Qwen3labError(
        f"The test {test!r} has no value to compare with. Write it as: assert function(arguments)"
        " == literal."
    )


def worker_environment() -> dict[str, str]:
    """Nothing; but Python does not start on Windows without the folder of the system."""
    kept = ("SYSTEMROOT",) if os.name == "nt" else ()
    return {name: os.environ[name] for name in kept if name in os.environ}


def _kill(process: subprocess.Popen) -> None:
    """Kill the process and everything that it started in its session."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (
        ProcessLookupError,
        PermissionError,
    ):  # already gone; macOS raises the latter for a process that is not yet reaped
        pass
    process.wait()


def verdict(text: str, pairs: Sequence[tuple[str, object]]) -> Result:
    """Compare what the process returned with the expected values."""
    try:
        found = [(str(kind), str(what)) for kind, what in ast.literal_eval(text)]
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return Result("error", "the process returned something else than values")
    for (call, wanted), (kind, what) in zip(pairs, found):
        if kind == "raised":
            return Result("error", (f"{call}: " if len(found) == len(pairs) else "") + _short(what))
        if kind != "gave":
            return Result(
                "failed", f"{call} gives an object of type {_short(what)}, no plain value"
            )
        try:
            right = ast.literal_eval(what) == wanted
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            right = False
        if not right:
            return Result("failed", f"{call} gives {_short(what)}, not {_short(repr(wanted))}")
    if len(found) != len(pairs):
        return Result("error", f"the process returned {len(found)} values for {len(pairs)} tests")
    return Result("passed")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
