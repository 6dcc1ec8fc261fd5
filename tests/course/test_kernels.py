"""nbmake runs notebooks as the README says: in a folder of somebody's own, and here with the
plugin beside it. Every run is a process of its own.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from qwen3lab import models, paths
from qwen3lab.course import kernels, notebooks
from qwen3lab.models import loading

SAY = """
import os, sys, time
from qwen3lab import paths
names = "MPLBACKEND", "QWEN3LAB_PROFILE", "JPY_SESSION_NAME"
print([sys.executable, str(paths.ROOT), os.getcwd(), *map(os.environ.get, names)])
"""
PIN = "import os, time\ntime.sleep(1)\nprint(sorted(os.sched_getaffinity(0)))"
BIG = "import time\nx = bytearray(400_000_000)\nx = None\ntime.sleep(0.6)"


def write(folder: Path, **sources: str) -> None:
    """A notebook for each name, with a cell for each part of its source between blank lines."""
    for name, source in sources.items():
        cells = [new_code_cell(part) for part in source.split("\n\n")]
        nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")


def nbmake(folder: Path, *options: str, **environment: str) -> tuple[int, str]:
    """(exit code, what was printed) of `pytest --nbmake` in a folder, without colours.

    No kernel may be left, and without --overwrite no file may have changed.
    """
    leave = ("MPLBACKEND", "QWEN3LAB_PROFILE", "PYTEST_XDIST_WORKER")
    env = {key: value for key, value in os.environ.items() if key not in leave}
    env |= {"PYTHONPATH": str(paths.ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    command = [sys.executable, "-m", "pytest", "--nbmake", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert "--overwrite" in options or after == before
    assert not [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if process.info["cwd"] == str(folder)
        and "ipykernel_launcher" in (process.info["cmdline"] or [])
    ]
    return done.returncode, re.sub(r"\x1b\[[\d;]*m", "", done.stdout)


def printed(path: Path) -> list:
    """The value that a notebook's first output shows."""
    return ast.literal_eval(notebooks.outputs(path)[0][2])


def test_a_notebook_alone_in_a_folder_of_its_own_passes(tmp_path):
    shutil.copy(paths.NOTEBOOKS / "02_data_preparation.ipynb", tmp_path)
    code, told = nbmake(tmp_path)
    assert code == 0 and re.search(r"^=* ?1 passed in ", told, re.MULTILINE)


def test_a_failing_cell_is_red_with_its_traceback(tmp_path):
    write(tmp_path, good="1 + 1", bad="x = 3\n\nassert 1 + 1 == x, 'not the sum'\n\nprint('never')")
    code, told = nbmake(tmp_path)
    assert code == 1 and "1 failed, 1 passed in " in told
    assert "----> 1 assert 1 + 1 == x, 'not the sum'" in told
    assert "AssertionError: not the sum" in told and "never" not in told


@pytest.fixture
def ours(tmp_path):
    """A folder with the conftest.py of the clone, and a machine's own kernel python3 that fails."""
    shutil.copy(paths.ROOT / "conftest.py", tmp_path)
    spec = tmp_path / "machine" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text('{"argv": ["false"], "language": "python", "display_name": "another"}')
    return tmp_path


def test_a_kernel_is_this_interpreter_and_inherits_no_settings_of_the_tests(ours):
    write(ours, say=SAY, big=BIG)
    settings = {"MPLBACKEND": "Agg", "QWEN3LAB_PROFILE": "small", "JPY_SESSION_NAME": "lab"}
    settings["JUPYTER_PATH"] = str(ours / "machine")
    code, told = nbmake(ours, "--overwrite", **settings)
    assert code == 0 and re.search(r"say: done in \d+\.\d s$", told, re.MULTILINE)
    interpreter, root, folder, backend, profile, session = printed(ours / "say.ipynb")
    assert (interpreter, root, folder) == (sys.executable, str(paths.ROOT), str(ours))
    assert "inline" in backend and profile is None and session == ""
    # The table is in order, and the array, gone before the end, is counted.
    big, say = re.findall(r"^(?:big|say) +\d+\.\d +(\d\.\d\d)$", told, re.MULTILINE)
    assert 0.4 < float(big) < 1 and 0 < float(say) < 0.4
    assert re.search(r"^all, by the clock +\d+\.\d$", told, re.MULTILINE)


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or models.cpus() < 2,
    reason="needs a system that pins processes, and two CPUs",
)
def test_two_workers_have_cpus_of_their_own(ours):
    write(ours, a=PIN, b=PIN)
    code, told = nbmake(ours, "-n", "2", "--overwrite")
    assert code == 0 and "2 passed in" in told
    first, second = (set(printed(ours / name)) for name in ("a.ipynb", "b.ipynb"))
    assert first | second == os.sched_getaffinity(0) and not first & second


def test_what_goes_wrong_fails_its_notebook_alone(ours):
    sleep = "import time\ntime.sleep(60)"
    write(ours, bad="1 / 0", dead="import os\nos._exit(1)", good="1", slow=sleep)
    code, told = nbmake(ours, "--nbmake-timeout", "2")
    assert code == 1 and "3 failed, 1 passed in" in told
    assert "ZeroDivisionError" in told and "Kernel died" in told and "timed out while it" in told
    assert re.search(r"slow: failed in .* s$", told, re.MULTILINE)


def test_a_notebook_that_takes_too_much_memory_fails(ours):
    write(ours, good=BIG)
    with (ours / "conftest.py").open("a") as file:
        file.write("\nMAX_BYTES = 4e8\n")
    code, told = nbmake(ours)
    assert code == 1 and "a notebook may take 0.40 GB. Make its cells smaller." in told


def test_the_peak_is_found_where_there_is_no_proc():
    sizes = SimpleNamespace(rss=5, peak_wset=7)
    assert kernels.own_peak(SimpleNamespace(pid="none", memory_info=lambda: sizes)) == 7
    del sizes.peak_wset  # then the largest of the sizes seen counts
    assert kernels.own_peak(SimpleNamespace(pid="none", memory_info=lambda: sizes)) == 0


@pytest.mark.parametrize(
    "cpus, free, expected", [(1, 64e9, 1), (2, 5e9, 1), (2, 7e9, 2), (64, 7e9, 2)]
)
def test_how_many_run_at_once(monkeypatch, cpus, free, expected):
    monkeypatch.setattr(loading, "cpus", lambda: cpus)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    assert kernels.jobs() == expected
