"""The sandbox: right answers pass, and no hostile program does, harms anything or outlasts its
limits.
"""

from __future__ import annotations

import os
import sys
import time
from types import SimpleNamespace

import pytest

from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import sandbox

TESTS = ["assert f(2) == 4", "assert f(3) == 6"]
RIGHT = "def f(x): return x * 2"


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        (RIGHT, TESTS),
        (
            (
                "import math, re, collections, itertools, random, functools, json\ndef f(x):\n   "
                " print('thinking')\n    return math.prod((x, 2))"
            ),
            TESTS,
        ),
        (
            (
                "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(x):"
                " return P(x).x * 2"
            ),
            TESTS,
        ),
        (
            (
                "def f(x):\n    open('note', 'w').write('a' * x)\n    return 2 *"
                " len(open('note').read())"
            ),
            TESTS,
        ),
        (
            "def f(v): return {1: [v], 'b': (None, True, -0.5, {2})}",
            ["assert f('é\\n') == {1: ['é\\n'], 'b': (None, True, -0.5, {2})}"],
        ),
        (
            "def f(x): return x",
            [
                "assert f('红') == '红'",
                "assert f([1, 2, 3])[1:] == [2, 3]",
                "assert [f(x) for x in (1, 2)] == [1, 2]",
            ],
        ),
    ],
)
def test_right_answers_pass(code, tests):
    assert sandbox.run(code, tests) == sandbox.Result("passed")


# Name -> (program, status, what the message says). `f(2) == 4` and `f(3) == 6` are wanted.
HOSTILE = {
    "wrong": ("def f(x): return x + 2", "failed", "f(3) gives 5, not 6"),
    "half a function": ("def f(x) return x", "error", "SyntaxError: expected ':'"),
    "null byte": ("def f(x):\0 return x", "error", "null bytes"),
    "another name": ("def g(x): return x * 2", "error", "f(2): NameError: name 'f' is not defined"),
    "raises": ("def f(x): return x / 0", "error", "f(2): ZeroDivisionError: division by zero"),
    "recursion": ("def f(x): return f(x)", "error", "RecursionError"),
    "leaves at once": ("import sys; sys.exit(0)", "error", "SystemExit: 0"),
    "leaves in the function": ("import sys\ndef f(x): sys.exit(0)", "error", "f(2): SystemExit: 0"),
    "leaves without clearing up": (
        "import os; os._exit(0)",
        "error",
        "ended without returning values",
    ),
    "loads a library": ("import ctypes", "error", "ctypes.dlopen is refused"),
    "prints success": (
        "print('passed'); print([('gave', '4'), ('gave', '6')])",
        "error",
        "NameError",
    ),
    "writes to every descriptor": (
        (
            "import os\nfor n in range(32):\n    try: os.write(n, b\"[('gave', '0'), ('gave',"
            " '0')]\")\n    except OSError: pass\nos._exit(0)"
        ),
        "failed",
        "f(2) gives 0, not 4",
    ),
    "writes nonsense": (
        (
            "import os\nfor n in range(32):\n    try: os.write(n, b'[' * 100000)\n    except"
            " OSError: pass\nos._exit(0)"
        ),
        "error",
        "something else than values",
    ),
    "writes too few values": (
        (
            "import os\nfor n in range(32):\n    try: os.write(n, b\"[('gave', '4')]\")\n    except"
            " OSError: pass\nos._exit(0)"
        ),
        "error",
        "1 values for 2 tests",
    ),
    "own exec and eval": (
        (
            "import builtins\nbuiltins.eval = builtins.exec = builtins.compile = lambda *a: 4\ndef"
            " f(x): return None"
        ),
        "failed",
        "f(3) gives 4, not 6",
    ),
    "own repr": (
        "import builtins\nbuiltins.repr = lambda x: '4'\ndef f(x): return 0",
        "failed",
        "f(3) gives 4, not 6",
    ),
    "no asserts": (
        (
            "import sys\n__debug__ if True else 0\nAssertionError = None\ndef f(x): assert x == 0;"
            " return 0"
        ),
        "error",
        "f(2): AssertionError",
    ),
    "equal to everything": (
        (
            "class A:\n    def __eq__(self, other): return True\n    def __repr__(self): return"
            " '4'\ndef f(x): return A()"
        ),
        "failed",
        "f(2) gives an object of type A, no plain value",
    ),
    "an int that is equal to everything": (
        "class A(int):\n    def __eq__(self, other): return True\ndef f(x): return A(1)",
        "failed",
        "type A",
    ),
    "memory": ("def f(x): return [0] * 10**10", "error", "MemoryError"),
    "memory bit by bit": ("s = 'a'\nwhile True: s += s", "error", "MemoryError"),
    "a huge file": (
        (
            "def f(x):\n    with open('big', 'wb', buffering=0) as file:\n        while True:"
            " file.write(b'a' * 10**6)"
        ),
        "error",
        "File too large",
    ),
    "a huge value": ("def f(x): return 'a' * 10**7", "error", ""),
    "reads the input": ("def f(x): return int(input())", "error", "f(2): EOFError"),
    "reads the calls again": (
        "import os\ndef f(x): return os.pread(0, 10000, 0).decode()",
        "failed",
        "f(2) gives '', not 4",
    ),
    "closes everything": (
        "import os\nos.closerange(0, 64)\ndef f(x): return x * 2",
        "error",
        "ended without returning values",
    ),
    "starts a shell": (
        "import os\ndef f(x): return os.system('echo 4')",
        "error",
        "os.system is refused",
    ),
    "starts a program": (
        "import subprocess\ndef f(x): return subprocess.run(['echo', '4'])",
        "error",
        "subprocess.Popen is refused",
    ),
    "forks for ever": ("import os\nwhile True: os.fork()", "error", "os.fork is refused"),
    "opens a socket": ("import socket\nsocket.socket()", "error", "is refused"),
    "reads other files": (
        "def f(x): return open('/etc/passwd').read()",
        "error",
        "opening files elsewhere is refused",
    ),
    "reads its way up": (
        "def f(x): return open('../' * 9 + 'etc/passwd').read()",
        "error",
        "opening files elsewhere is refused",
    ),
    "writes into Python": (
        "import os\ndef f(x): return open(os.__file__, 'a')",
        "error",
        "opening files elsewhere is refused",
    ),
    "deletes a file": ("import os\nos.remove('/nowhere')", "error", "os.remove is refused"),
    "kills its parent": ("import os\nos.kill(os.getppid(), 9)", "error", "os.kill is refused"),
    "writes a database": (
        "import sqlite3\nsqlite3.connect('/nowhere/a.db')",
        "error",
        "the module sqlite3 is refused",
    ),
    "writes a history": ("import readline", "error", "the module readline is refused"),
    "shares memory": (
        "import _multiprocessing\n_multiprocessing.SemLock(1, 1, 1, '/evil', False)",
        "error",
        "the module _multiprocessing is refused",
    ),
    "makes a pipe": ("import os\nos.mkfifo('/nowhere/a')", "error", "no attribute 'mkfifo'"),
    "makes a node": ("import posix\nposix.mknod('/nowhere/a')", "error", "no attribute 'mknod'"),
    "a link to other files": (
        "import os\nos.symlink('/etc/passwd', 'a')\ndef f(x): return open('a').read()",
        "error",
        "os.symlink is refused",
    ),
    "reads about itself": (
        "def f(x): return open('/proc/self/environ').read()",
        "error",
        "opening files elsewhere is refused",
    ),
    "opens beside a folder": (
        "import os\nos.open('../a', os.O_CREAT | os.O_WRONLY, dir_fd=os.open('.', os.O_RDONLY))",
        "error",
        "opening files elsewhere is refused",
    ),
    "asks the network": (
        "from urllib.request import urlopen\nurlopen('http://127.0.0.1:9')",
        "error",
        "socket.getaddrinfo is refused",
    ),
    "asks for a name": (
        "import socket\nsocket.getaddrinfo('localhost', 80)",
        "error",
        "socket.getaddrinfo is refused",
    ),
    "spawns": (
        "import os\nos.posix_spawn('/bin/echo', ['echo'], {})",
        "error",
        "os.posix_spawn is refused",
    ),
    "prints success and leaves": ("print('passed')\nraise SystemExit(0)", "error", "SystemExit: 0"),
    "leaves in the function without clearing up": (
        "import os\ndef f(x): os._exit(0)",
        "error",
        "ended without returning values",
    ),
    "ends itself": ("import os\nos.abort()", "error", "ended by signal"),
    "adds its own results": (
        "import sys\nsys._getframe(1).f_globals['found'] += [('gave', '4'), ('gave', '6')]",
        "error",
        "4 values for 2 tests",
    ),
    "calls everything plain": (
        (
            "import sys\nsys._getframe(1).f_globals['plain'] = lambda value: True\nclass A:\n   "
            " def __repr__(self): return '4'\n    def __eq__(self, other): return True\ndef f(x):"
            " return A()"
        ),
        "failed",
        "f(3) gives 4, not 6",
    ),
    "an error that cannot be told": (
        "class E(Exception):\n    def __str__(self): raise E\ndef f(x): raise E",
        "error",
        "ended without returning values",
    ),
    "a list in itself": ("a = []\na.append(a)\ndef f(x): return a", "error", "RecursionError"),
    "maps memory": (
        "import mmap\ndef f(x): return len(mmap.mmap(-1, 10**12))",
        "error",
        "allocate memory",
    ),
    "no limits": (
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (99, 99))",
        "error",
        "resource.setrlimit is refused",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_do_not_pass(name):
    code, status, message = HOSTILE[name]
    if "mem" in name and sys.platform == "darwin":
        pytest.skip("macOS has no limit of the address space")
    result = sandbox.run(code, TESTS)
    assert (result.status, result.passed) == (status, False), result
    assert message in result.message and "\n" not in result.message and len(result.message) < 200


@pytest.mark.parametrize(
    ("code", "least"),
    [
        ("def f(x):\n    while True: pass", 0.8),
        ("while True: print('passed' * 1000)", 0.8),
        ("def f(x): return 9**9**9", 0.8),
        ("import re\ndef f(x): return re.match('(a+)+$', 'a' * 60 + 'b')", 0.8),
        ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", 0.8),
        (
            (
                "import time\ndef f(x):\n    while True:\n        try: time.sleep(60)\n       "
                " except BaseException: pass"
            ),
            2.5,
        ),
    ],
)
def test_what_never_ends_is_ended(code, least):
    start = time.monotonic()
    result = sandbox.run(code, TESTS, seconds=1)
    assert result == sandbox.Result("timeout", "did not end within 1 s")
    assert least < time.monotonic() - start < 6


@pytest.mark.parametrize(
    "more",
    [
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n",
        "import atexit, time\natexit.register(time.sleep, 60)\n",
    ],
)
def test_what_would_go_on_after_the_tests_is_ended(more):
    start = time.monotonic()
    assert sandbox.run(more + RIGHT, TESTS, seconds=5) == sandbox.Result("passed")
    assert time.monotonic() - start < 9


def test_the_limits_hold_in_the_process():
    pytest.importorskip("resource")
    names = ["RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_CORE"] + [
        "RLIMIT_AS"
    ] * (sys.platform == "linux")
    wanted = dict(
        zip(names, [(3, 4), (1 << 20,) * 2, (32,) * 2, (0, 0), (0, 0), (200_000_000,) * 2])
    )
    code = (
        "import resource\ndef f(): return {name: resource.getrlimit(getattr(resource, name)) for"
        f" name in {names}}}"
    )
    result = sandbox.run(code, [f"assert f() == {wanted}"], seconds=2.5, megabytes=200)
    assert result.passed, result


def test_a_child_that_slips_through_dies_with_its_session(monkeypatch, tmp_path):
    """Without the audit hook, so that the killing of the session is what is tested."""
    monkeypatch.setattr(sandbox, "WORKER", sandbox.WORKER.replace("sys.addaudithook(guard)", ""))
    mark = tmp_path / "pid"
    written = (
        f"open('{mark}.new', 'w').write(str(os.getpid()))\n    os.rename('{mark}.new', '{mark}')"
    )
    code = (
        f"import os, time\nif os.fork() == 0:\n    {written}\n    time.sleep(60)\nwhile not"
        f" os.path.exists({str(mark)!r}): pass\n{RIGHT}"
    )
    result = sandbox.run(code, TESTS, seconds=5)
    if "BlockingIOError" in result.message:
        pytest.skip("the limit of processes forbids it already")
    assert result.passed
    pid = int(mark.read_text())
    for _ in range(200):
        try:
            state = (
                open(f"/proc/{pid}/stat").read().split()[2]
                if sys.platform == "linux"
                else (os.kill(pid, 0), "R")[1]
            )
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":  # dead, and waiting for whoever adopted it
            return
        time.sleep(0.01)
    pytest.fail("the child lives on")


def test_the_wanted_values_are_not_in_the_process():
    """A program that looks through all it can reach finds the calls and not what they
    should give."""
    code = """
import gc, sys
def everything():
    frame, texts = sys._getframe(), []
    while frame:
        texts += [repr(value) for value in (*frame.f_locals.values(), *frame.f_globals.values())]
        frame = frame.f_back
    kept = [thing for thing in gc.get_objects() if type(thing) in (tuple, list, dict)]
    return ' '.join(texts + [repr(thing) for thing in kept] + sys.argv)
def f(x):
    text = everything()
    return 'f(%d)' % x in text, ''.join(reversed('546372819')) in text
"""
    result = sandbox.run(code, ["assert f(7777) == (True, 918273645)"])
    assert result.message == "f(7777) gives (True, False), not (True, 918273645)"


def test_the_process_sees_an_empty_world(monkeypatch):
    monkeypatch.setenv("QWEN3LAB_SECRET", "1")
    code = (
        "import os, sys\ndef f(): return [name for name in os.environ if 'QWEN' in name],"
        " os.listdir(), 'numpy' in sys.modules, sys.flags.isolated"
    )
    assert sandbox.run(code, ["assert f() == ([], [], False, 1)"]).passed
    assert sandbox.run("import numpy\n" + RIGHT, TESTS).message.startswith("ModuleNotFoundError")


def test_each_run_starts_anew():
    code = (
        "import os\ndef f():\n    seen = os.path.exists('a')\n    open('a', 'w').close()\n   "
        " return seen"
    )
    for _ in range(2):
        assert sandbox.run(code, ["assert f() == False", "assert f() == True"]).passed


@pytest.mark.parametrize(
    "test",
    [
        "assert f(2)",
        "f(2) == 4",
        "assert f(2) > 3",
        "assert f(2) == g(2)",
        "assert f(2) == 4 == 4",
        "assert f(2) ==",
        "x = 1",
        "",
        "assert f(2) == 4\nassert f(3) == 6",
    ],
)
def test_tests_that_compare_with_no_value_are_refused(test):
    with pytest.raises(Qwen3labError, match="has no value to compare with. Write it as"):
        sandbox.run(RIGHT, [test])


def test_no_tests_prove_nothing():
    with pytest.raises(Qwen3labError, match="There are no tests"):
        sandbox.run(RIGHT, [])


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1000,
        "-" * 50000 + "1",
        "1+" * 50000 + "1",
        "[('gave', '4'), 7]",
        "{[]: 1}",
        "None",
        "[('gave', '[' * 9)]",
        "[('gave', '4')] * 2",
    ],
)
def test_a_broken_report_never_passes_and_never_breaks_us(text):
    assert not sandbox.verdict(text, [("f(2)", 4), ("f(3)", 6)]).passed


def test_a_system_without_sessions_and_limits(monkeypatch):
    """As on Windows: no `resource`, no signals of POSIX, no groups of processes."""
    monkeypatch.setattr(sandbox, "signal", SimpleNamespace())
    monkeypatch.delattr(os, "killpg")
    without = "import sys, os; sys.modules['resource'] = None; del os.O_ACCMODE\n"
    monkeypatch.setattr(sandbox, "WORKER", without + sandbox.WORKER)
    assert sandbox.run(RIGHT, TESTS).passed
    assert sandbox.run("import os\nos.fork()", TESTS).message.endswith("os.fork is refused")
    late = sandbox.run("import time\nwhile True: time.sleep(1)", TESTS, seconds=1)
    assert late.status == "timeout"


def test_windows_gets_the_folder_of_its_system(monkeypatch):
    monkeypatch.setenv("SYSTEMROOT", "C:/Windows")
    assert sandbox.worker_environment() == {}
    monkeypatch.setattr(sandbox, "os", SimpleNamespace(name="nt", environ=os.environ))
    assert sandbox.worker_environment() == {"SYSTEMROOT": "C:/Windows"}
