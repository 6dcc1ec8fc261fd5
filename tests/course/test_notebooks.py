"""The notebooks: their committed outputs keep the rules, and the tools that clean and compare them
are right. `pytest --nbmake notebooks` runs them.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

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
ALL = pytest.mark.parametrize("path", notebooks.every(), ids=notebooks.short)
MAX_LINES = 20  # of a code cell
MAX_COLUMNS = 100
# One sitting. Companions are not counted: they are read a section at a time.
MAX_WORDS, MAX_CELLS = 2800, 45
ROOTS = "|".join(["wo" + "rk", "t" + "mp", "ro" + "ot", "home", "Users"])
TRACE = re.compile(
    "|".join([f"(?<![\\w.])/({ROOTS})/", "site-" + "packages", "ipykernel_[0-9]", "0x[0-9a-f]{8,}"])
)


def test_there_are_eight():
    assert [path.stem for path in notebooks.find()] == NAMES


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


@ALL
def test_length(path):
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    words = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    wide = [
        (cell.id, line)
        for cell in code
        for line in cell.source.splitlines()
        if len(line) > MAX_COLUMNS
    ]
    assert not wide
    if "/" not in notebooks.short(path):
        assert words <= MAX_WORDS and len(code) <= MAX_CELLS, (words, len(code))


def test_a_companion_shares_no_cell_with_its_notebook():
    """Links and the guide map name a cell by the number of its notebook, and its own name."""
    named = [
        (path.name[:2], cell.id)
        for path in notebooks.every()
        for cell in nbformat.read(path, as_version=4).cells
        if cell.id not in ("title", "profile")
    ]
    assert len(set(named)) == len(named)


def write(folder: Path, name: str, *cells) -> Path:
    folder.mkdir(exist_ok=True)
    nbformat.write(
        new_notebook(cells=[new_markdown_cell("# title", id="title"), *cells]), folder / name
    )
    return folder / name


def stream(text: str, name: str = "stdout"):
    return new_output("stream", name=name, text=text)


@pytest.fixture
def first(tmp_path):
    """A folder with one notebook as a run leaves it."""
    chart = new_output("display_data", {"image/png": "iVBORw0K", "text/plain": "<Figure>"})
    outputs = ([stream("same\ntime · a step 0.1 s\n")], [stream("time · now\n"), chart])
    cells = (new_code_cell("", id=f"cell-{n}", outputs=out) for n, out in enumerate(outputs))
    return write(tmp_path / "first", "01_toy.ipynb", *cells).parent


def test_clean_keeps_what_two_runs_have_in_common():
    pieces = [stream("a\n"), stream("w\n", "stderr"), stream("b\n"), new_output("error", ename="E")]
    times = {"execution": {"shell.execute_reply": "now"}, "tags": ["long"]}
    cell = new_code_cell("1", id="cell", execution_count=3, outputs=pieces, metadata=times)
    cleaned = notebooks.clean(new_notebook(cells=[cell], metadata={"widgets": {}}))
    assert cleaned.cells[0].outputs == [stream("a\nb\n"), stream("w\n", "stderr"), pieces[3]]
    assert (cleaned.cells[0].metadata, cleaned.cells[0].execution_count) == ({"tags": ["long"]}, 3)
    assert cleaned.metadata.kernelspec.name == "python3" and "widgets" not in cleaned.metadata


def test_outputs_leave_out_times(first):
    assert notebooks.outputs(first / "01_toy.ipynb") == [
        ("cell-0", "stdout", "same"),
        ("cell-1", "image/png", "iVBORw0K"),
        ("cell-1", "text/plain", "<Figure>"),
    ]


def test_runs_that_differ_in_times_only_are_equal(first, tmp_path, capsys):
    text = (first / "01_toy.ipynb").read_text(encoding="utf-8")
    write(tmp_path / "second", "01_toy.ipynb").write_text(text.replace("0.1 s", "0.2 s"))
    assert notebooks.main(["diff", str(first), str(tmp_path / "second")]) == 0
    assert capsys.readouterr().out == "The outputs are equal but for times.\n"


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda text: text.replace("same", "other"), "01_toy, cell cell-0: 'same' against 'other'"),
        (
            lambda text: text.replace('"image/png": "', '"image/png": "A'),
            "01_toy, cell cell-1: another image/png picture",
        ),
        (
            lambda text: text.replace('"name": "stdout"', '"name": "stderr"', 1),
            "01_toy: other outputs, ",
        ),
    ],
)
def test_diff_shows_what_changed(first, tmp_path, change, expected, capsys):
    before = (first / "01_toy.ipynb").read_text(encoding="utf-8")
    (tmp_path / "01_toy.ipynb").write_text(change(before), encoding="utf-8")
    assert (tmp_path / "01_toy.ipynb").read_text(encoding="utf-8") != before
    assert notebooks.main(["diff", str(first), str(tmp_path)]) == 1
    assert expected in capsys.readouterr().out


def test_diff_of_unlike_folders(first, tmp_path):
    with pytest.raises(Qwen3labError, match="There are no notebooks in 'empty'"):
        (tmp_path / "empty").mkdir()
        notebooks.diff(first, tmp_path / "empty")
    write(tmp_path, "02_other.ipynb")
    assert notebooks.diff(first, tmp_path) == [
        "01_toy: only in one of the folders",
        "02_other: only in one of the folders",
    ]


def test_names_choose_notebooks(tmp_path):
    for name in ("01_one.ipynb", "02_two.ipynb", "notes.ipynb"):
        write(tmp_path, name)
    assert [path.stem for path in notebooks.find(folder=tmp_path)] == ["01_one", "02_two"]
    assert [path.stem for path in notebooks.find(["02"], tmp_path)] == ["02_two"]
    for name in ("01_more.ipynb", "02_much.ipynb"):
        write(tmp_path / "deeper", name)
    assert [path.name for path in notebooks.find(folder=tmp_path)] == [
        "01_one.ipynb",
        "02_two.ipynb",
    ]
    for names, expected in (
        (["01"], ["01_one"]),
        (["notebooks/deeper/01_more.ipynb"], ["deeper/01_more"]),
        (["02", "deeper/02"], ["02_two", "deeper/02_much"]),
        (["deeper"], ["deeper/01_more", "deeper/02_much"]),
        (["deeper/"], ["deeper/01_more", "deeper/02_much"]),
    ):
        assert [notebooks.short(path) for path in notebooks.find(names, tmp_path)] == expected
    message = (
        "There is no notebook '09'. Choose from: 01_one, 02_two, deeper/01_more, deeper/02_much."
    )
    with pytest.raises(Qwen3labError, match=message):
        notebooks.find(["09"], tmp_path)
