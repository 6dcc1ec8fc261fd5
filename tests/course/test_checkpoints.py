"""Checkpoints: a saved run comes back whole, folders can be moved, nothing half made counts, and
each stands in for a cell that exists.
"""

import json
import shutil

import nbformat
import pandas as pd
import pytest
import torch
from helpers import code_rows

from qwen3lab import paths, training
from qwen3lab.course import checkpoints, notebooks
from qwen3lab.course.checkpoints import CHECKPOINTS, Checkpoint
from qwen3lab.data import pdf
from qwen3lab.errors import Qwen3labError


@pytest.fixture(scope="module", params=["lora", "qlora", "full"])
def run(request, checkpoint):
    """A short run of each method on the random toy model."""
    return training.fine_tune(
        checkpoint,
        code_rows(),
        method=request.param,
        steps=3,
        batch_size=4,
        learning_rate=1e-2,
        validation=code_rows(4),
    )


@pytest.fixture
def build(tmp_path, monkeypatch):
    """An empty build folder."""
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    return tmp_path


def logits(model):
    with torch.inference_mode():
        return model(input_ids=torch.arange(40, 60)[None]).logits


def test_a_run_comes_back_whole(run, tmp_path):
    wanted, run.best_step = logits(run.model), 2
    checkpoints.save(run, tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    back = checkpoints.load(tmp_path / "there")
    assert torch.equal(logits(back.model), wanted) and not back.model.training
    assert not torch.equal(
        wanted, logits(training.load(run.source, run.method)[0])
    )  # the training has changed something
    pd.testing.assert_frame_equal(back.history, run.history, check_exact=True)
    assert (back.summary(), back.cost()) == (run.summary(), run.cost())
    assert [back.data[:], back.held_out[:]] == [run.data[:], run.held_out[:]]
    for name in (
        "method",
        "steps",
        "tokens",
        "trained",
        "parameters",
        "bytes",
        "best_step",
        "adapter",
        "source",
        "seconds",
        "peak_bytes",
    ):
        assert getattr(back, name) == getattr(run, name), name
    assert back.settings == {
        key: value for key, value in run.settings.items() if key != "output_dir"
    }


def test_an_adapter_of_a_bundled_model_names_no_place(run, tmp_path, monkeypatch, checkpoint):
    monkeypatch.setattr(paths, "MODELS", checkpoint.parent)
    checkpoints.save(run, tmp_path / "run")
    for file in (tmp_path / "run").glob("*.json"):
        places = (tmp_path, checkpoint.parent, run.settings["output_dir"])
        assert not [place for place in places if str(place) in file.read_text()], file.name
    assert json.loads((tmp_path / "run" / "run.json").read_text())["source"] == checkpoint.name
    assert torch.equal(logits(checkpoints.load(tmp_path / "run").model), logits(run.model))


def test_what_is_no_run_is_refused(tmp_path, build):
    with pytest.raises(
        Qwen3labError,
        match=r"'lora' holds no saved run \(FileNotFoundError\). Run `make checkpoints`.",
    ):
        checkpoints.load("lora")
    for function in (checkpoints.merged, checkpoints.gguf):
        with pytest.raises(
            Qwen3labError,
            match=f"The checkpoint '{function.__name__}' is not there. Run `make checkpoints`.",
        ):
            function()
    with pytest.raises(
        Qwen3labError,
        match=(
            "There is no checkpoint 'gold'. Choose one of: lora, qlora, full, merged, gguf, index."
        ),
    ):
        checkpoints.folder("gold")


@pytest.fixture
def toys(monkeypatch, build):
    """Two checkpoints that only write a file, the second of which needs the first; and what was
    made, in order.
    """
    made = []

    def maker(name, fails=()):
        def make(where):
            made.append(name)
            where.mkdir(exist_ok=True)
            (where / "half").write_text(name)
            if made.count(name) in fails:
                raise Qwen3labError("no power")

        return make

    toys = {
        "first": Checkpoint("03", "a", "", "", maker("first")),
        "second": Checkpoint("04", "b", "", "", maker("second", fails=(1,)), ("first",)),
    }
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", toys)
    state = {"rows": "old"}
    monkeypatch.setattr(checkpoints, "_made_from", lambda: dict(state))
    return made, state, build / "checkpoints" / "tiny"


def test_only_what_is_missing_or_old_is_made(toys, capsys):
    made, state, place = toys
    with pytest.raises(Qwen3labError, match="no power"):
        checkpoints.make("second")
    assert made == ["first", "second"] and sorted(path.name for path in place.iterdir()) == [
        "first"
    ]  # no trace of the half
    assert checkpoints.make("second") == (place / "second", True) and made == [
        "first",
        "second",
        "second",
    ]
    assert checkpoints.make("second") == (place / "second", False) and len(made) == 3
    state["rows"] = "new"
    assert checkpoints.main(["second"]) == 0 and made[3:] == ["first", "second"]
    assert "second  made" in capsys.readouterr().out
    assert checkpoints.main([]) == 0 and len(made) == 5
    shutil.rmtree(place / "first")
    assert checkpoints.make("second")[1] and made[5:] == [
        "first",
        "second",
    ]  # what the second was made from is another one


def test_each_stands_in_for_a_cell_of_its_notebook():
    for name, one in CHECKPOINTS.items():
        (path,) = notebooks.find([one.notebook])
        cells = {
            cell.id: cell.source
            for cell in nbformat.read(path, as_version=4).cells
            if cell.cell_type == "code"
        }
        assert one.cell in cells, (
            f"{path.stem} has no cell {one.cell!r} that the checkpoint {name!r} stands in for"
        )
        variable = one.line.split(" = ")[0].split(",")[0]
        assert variable in cells[one.cell], f"{variable} is not what {path.stem}, {one.cell} makes"
        compile(one.line, name, "exec")


def test_the_outcome_is_compared_with_the_notebook(build, monkeypatch):
    (path,) = notebooks.find([CHECKPOINTS["qlora"].notebook])
    printed = next(
        text for cell, _, text in notebooks.outputs(path) if cell == CHECKPOINTS["qlora"].cell
    )
    where = checkpoints.folder("qlora")
    where.mkdir(parents=True)
    assert checkpoints.equals_notebook("qlora") is None
    (where / "run.json").write_text(json.dumps({"summary": printed.splitlines()[0]}))
    assert checkpoints.equals_notebook("qlora") is True
    (where / "run.json").write_text(
        json.dumps({"summary": printed.splitlines()[0].replace("40 steps", "41 steps")})
    )
    assert checkpoints.equals_notebook("qlora") is False


def test_the_handbook_s_index_is_found_again(build, monkeypatch):
    whole = pdf.read_pdf
    monkeypatch.setattr(
        pdf, "read_pdf", lambda path: whole(path)[:6]
    )  # the first pages are enough here
    _, made = checkpoints.make("index")
    index = checkpoints.index()
    longest = max(index.chunks, key=lambda chunk: len(chunk.text))
    (hits,) = index.search([longest.text], k=1)
    assert made and len(index.chunks) > 5 and hits[0].chunk == longest
    assert checkpoints.make("index")[1] is False
