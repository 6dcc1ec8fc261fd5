"""The notebooks: they run in fresh kernels, their committed outputs keep the rules, and the tool
that does it is right.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from qwen3lab import models, paths
from qwen3lab.course import notebooks
from qwen3lab.errors import Qwen3labError

NAMES = [
    "01_architecture_and_moe_routing",
    "02_data_preparation",
    "03_lora",
    "04_qlora",
    "05_full_fine_tuning",
    "06_evaluation",
    "07_merge_quantize_deploy",
    "08_rag_knowledge_base",
]
ALL = pytest.mark.parametrize("path", notebooks.find(), ids=lambda path: path.stem)
MAX_SECONDS, MAX_BYTES, MAX_LINES = 60, 3e9, 20
ROOTS = "|".join(["wo" + "rk", "t" + "mp", "ro" + "ot", "home", "Users"])
TRACE = re.compile(
    "|".join([f"(?<![\\w.])/({ROOTS})/", "site-" + "packages", "ipykernel_[0-9]", "0x[0-9a-f]{8,}"])
)


def test_there_are_eight():
    assert [path.stem for path in notebooks.find()] == NAMES


@pytest.fixture(scope="module")
def results(request, tmp_path_factory):
    """What `make course` does with the notebooks that are asked for: each in a fresh kernel, two at
    a time where that is possible.
    """
    asked = [
        item.callspec.params["path"]
        for item in request.session.items
        if getattr(item, "originalname", "") == "test_runs_in_a_fresh_kernel"
    ]
    folder, started = tmp_path_factory.mktemp("notebooks"), time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("QWEN3LAB_PROFILE", raising=False)
        patch.delenv("MPLBACKEND")  # a notebook draws inline
        found = list(
            notebooks.run_all(
                [(path, folder / path.name) for path in asked], notebooks.default_jobs()
            )
        )
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + notebooks.table(found, time.monotonic() - started))
    return {result.name: result for result in found}


@ALL
def test_runs_in_a_fresh_kernel(path, results):
    result = results[path.stem]
    assert result.error == ""
    assert result.peak_bytes < MAX_BYTES
    assert (
        result.seconds < 2 * MAX_SECONDS
    )  # twice the course's own limit, for a machine that does other things too


@ALL
def test_committed_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), (
        "run `make notebooks`"
    )
    outputs = [(cell.id, out) for cell in code for out in cell.outputs]
    assert not [name for name, out in outputs if out.output_type == "error"]
    assert not [
        (name, out.text)
        for name, out in outputs
        if out.output_type == "stream" and out.name == "stderr"
    ]
    shown = [
        (name, kind, str(text))
        for name, kind, text in notebooks.outputs(path)
        if not kind.startswith("image/")
    ]
    assert not [(name, TRACE.search(text)[0]) for name, _, text in shown if TRACE.search(text)]
    assert any(kind == "image/png" for _, kind, _ in notebooks.outputs(path)), "a chart each"


@ALL
def test_form(path):
    notebook = nbformat.read(path, as_version=4)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids) and (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook == notebooks.clean(nbformat.read(path, as_version=4)), (
        "metadata of one machine; run `make notebooks`"
    )
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "qwen3lab.profile().describe()" in code[0].source
    assert not [
        (cell.id, lines) for cell in code if (lines := len(cell.source.splitlines())) > MAX_LINES
    ]


def write(folder: Path, name: str, *sources: str) -> Path:
    cells = [new_code_cell(source, id=f"cell-{number}") for number, source in enumerate(sources)]
    nbformat.write(
        new_notebook(cells=[new_markdown_cell("# title", id="title"), *cells]), folder / name
    )
    return folder / name


CHART = "import matplotlib.pyplot as plt\nplt.plot([1, 2, {}]);"


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """One notebook, run twice by the same interpreter: (first folder, second folder,
    first result)."""
    folder = tmp_path_factory.mktemp("runs")
    source = write(
        folder,
        "01_toy.ipynb",
        "import sys\nfrom qwen3lab import measure, paths\nprint(sys.executable =="
        f" {sys.executable!r})",
        "import time\nx = bytearray(150_000_000)\nx = None\nwith measure.clock('a step'):\n   "
        " print('same')\nmeasure.note(f'now {time.time()}')",
        "%matplotlib inline\n" + CHART.format(3),
    )
    first = notebooks.run(source, folder / "a" / source.name)
    notebooks.run(source, folder / "b" / source.name)
    return folder / "a", folder / "b", first


def test_a_run_uses_this_interpreter_and_measures(two_runs):
    first, _, result = two_runs
    assert result.error == "" and result.name == "01_toy" and result.seconds > 0
    assert notebooks.outputs(first / "01_toy.ipynb")[0] == ("cell-0", "stdout", "True")
    assert 1.5e8 < result.peak_bytes < 1.5e9  # the array is gone before the end, and still counted


def test_two_runs_differ_in_times_only(two_runs):
    first, second, _ = two_runs
    texts = [(folder / "01_toy.ipynb").read_text(encoding="utf-8") for folder in (first, second)]
    assert "time · a step" in texts[0] and '"iopub' not in texts[0] and "image/png" in texts[0]
    assert notebooks.diff(first, second) == []
    assert notebooks.main(["diff", str(first), str(second)]) == 0


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda text: text.replace("same", "other"), "01_toy, cell cell-1: 'same' against 'other'"),
        (
            lambda text: text.replace('"image/png": "', '"image/png": "A'),
            "01_toy, cell cell-2: another image/png picture",
        ),
        (
            lambda text: text.replace('"name": "stdout"', '"name": "stderr"', 1),
            "01_toy: other outputs, ",
        ),
    ],
)
def test_diff_shows_what_changed(two_runs, tmp_path, change, expected, capsys):
    first, _, _ = two_runs
    before = (first / "01_toy.ipynb").read_text(encoding="utf-8")
    (tmp_path / "01_toy.ipynb").write_text(change(before), encoding="utf-8")
    assert (tmp_path / "01_toy.ipynb").read_text(encoding="utf-8") != before
    assert notebooks.main(["diff", str(first), str(tmp_path)]) == 1
    assert expected in capsys.readouterr().out


def test_diff_of_unlike_folders(two_runs, tmp_path):
    first, _, _ = two_runs
    with pytest.raises(Qwen3labError, match="There are no notebooks in 'empty'"):
        (tmp_path / "empty").mkdir()
        notebooks.diff(first, tmp_path / "empty")
    write(tmp_path, "02_other.ipynb", "1")
    assert notebooks.diff(first, tmp_path) == [
        "01_toy: only in one of the folders",
        "02_other: only in one of the folders",
    ]


def test_a_failing_notebook_stops_nothing_and_is_never_written_over_its_source(
    tmp_path, monkeypatch, capsys
):
    bad = write(
        tmp_path,
        "01_bad.ipynb",
        "print('before')",
        "raise ValueError('no such thing')",
        "print('never')",
    )
    write(tmp_path, "02_good.ipynb", "print('good')")
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path)
    before = bad.read_bytes()
    assert notebooks.main(["run", "--in-place"]) == 1
    assert "ValueError: no such thing" in capsys.readouterr().out
    assert bad.read_bytes() == before
    assert notebooks.outputs(tmp_path / "02_good.ipynb") == [("cell-0", "stdout", "good")]


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or models.cpus() < 2,
    reason="needs a system that pins processes, and two CPUs",
)
def test_two_at_once_have_cpus_of_their_own_and_come_in_order(tmp_path, monkeypatch, capsys):
    show = (
        "import os, time\ntime.sleep({})\nprint(sorted(os.sched_getaffinity(0)))\nprint('time · x',"
        " time.time())"
    )
    for name, seconds in (("01_slow.ipynb", 3), ("02_fast.ipynb", 0)):
        write(tmp_path, name, show.format(seconds))
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path)
    before = os.sched_getaffinity(0)
    assert notebooks.main(["run", "--jobs", "2", "--into", str(tmp_path / "out")]) == 0
    assert os.sched_getaffinity(0) == before
    printed = capsys.readouterr().out
    assert printed.index("01_slow: done") < printed.index("02_fast: done")
    slow, fast = (
        set(ast.literal_eval(notebooks.outputs(tmp_path / "out" / name)[0][2]))
        for name in ("01_slow.ipynb", "02_fast.ipynb")
    )
    assert slow | fast == before and not slow & fast


def kernels():
    """Kernels that this process has started and that still run."""
    children = psutil.Process().children(recursive=True)
    return [
        child.pid
        for child in children
        if child.status() != psutil.STATUS_ZOMBIE
        and "ipykernel_launcher" in " ".join(child.cmdline())
    ]


def test_no_kernel_lives_on(tmp_path):
    before = kernels()
    for name, source in (
        ("01_good.ipynb", "1"),
        ("02_bad.ipynb", "1 / 0"),
        ("03_slow.ipynb", "import time\ntime.sleep(60)"),
    ):
        notebooks.run(write(tmp_path, name, source), tmp_path / "out" / name, timeout=2)
    assert kernels() == before


def test_a_cell_that_hangs_and_a_kernel_that_dies_are_reported(tmp_path):
    slow = write(tmp_path, "01_slow.ipynb", "import time\ntime.sleep(60)")
    assert "timed out" in notebooks.run(slow, tmp_path / "out" / slow.name, timeout=2).error
    dead = write(tmp_path, "02_dead.ipynb", "import os\nos._exit(1)")
    assert "died" in notebooks.run(dead, tmp_path / "out" / dead.name).error


def test_names_choose_notebooks(tmp_path):
    for name in ("01_one.ipynb", "02_two.ipynb", "notes.ipynb"):
        write(tmp_path, name, "1")
    assert [path.stem for path in notebooks.find(folder=tmp_path)] == ["01_one", "02_two"]
    assert [path.stem for path in notebooks.find(["02"], tmp_path)] == ["02_two"]
    with pytest.raises(
        Qwen3labError, match="There is no notebook '09'. Choose from: 01_one, 02_two."
    ):
        notebooks.find(["09"], tmp_path)
