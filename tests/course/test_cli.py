"""The command line: what it prints, its help and its exit codes."""

import os

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from qwen3lab import exercises, paths
from qwen3lab.course import cli, notebooks

ASK = "import os\nprint(os.environ['QWEN3LAB_PROFILE'])"


def stopped(capsys, *arguments: str) -> tuple[int, str, str]:
    """(exit code, what was printed, what went to stderr) of a command that argparse ends."""
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    return end.value.code, *capsys.readouterr()


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of two small notebooks, the second of which fails."""
    for name, sources in (("01_good", [ASK, "1 + 1"]), ("02_bad", ["1 / 0", "print('never')"])):
        cells = [
            new_markdown_cell("# title", id="title"),
            *(new_code_cell(source, id=f"cell-{number}") for number, source in enumerate(sources)),
        ]
        nbformat.write(new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path)
    return tmp_path


def test_doctor_says_what_runs_here(capsys):
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "torch 2.13.0" in printed and "profile  tiny    runs here" in printed


@pytest.mark.parametrize(
    "reported, lines",
    [
        (
            {},
            [
                "device   cpu: 15.8 GB for models and training",
                "         the CPU: torch sees no GPU",
                "         float32: bfloat16 is emulated on most CPUs and slower there",
                "training everything in float32, no autocast",
            ],
        ),
        (
            {"gpu": "NVIDIA L4", "capability": (8, 9)},
            [
                "device   cuda, NVIDIA L4: 15.8 GB for models and training",
                "         the GPU: torch sees NVIDIA L4",
                "         bfloat16: the GPU computes in it and Qwen3 is published in it",
                "training LoRA trains float32 adapters, QLoRA bfloat16 ones (as TRL has them), full"
                " fine-tuning float32 weights; bfloat16 autocast",
            ],
        ),
        (
            {"gpu": "Tesla T4", "capability": (7, 5), "count": 2},
            [
                "device   cuda, Tesla T4: 15.8 GB for models and training",
                "         the GPU: torch sees Tesla T4",
                "         float16: the GPU has no bfloat16 of its own; the loss is scaled, and what"
                " is trained is float32",
                "         float16 ends at 65,504 and Qwen3 was trained in bfloat16, which does not:"
                " a step that overflows is left out and counted",
                "         one of 2: set CUDA_VISIBLE_DEVICES=0 to train on one; for more export the"
                " run and use `accelerate launch` (notebook 05)",
                "training LoRA and QLoRA train float32 adapters on float16 weights, full"
                " fine-tuning float32 weights; float16 autocast, the loss scaled",
            ],
        ),
        (
            {"apple": "Apple M2"},
            [
                "device   mps, Apple M2: 15.8 GB for models and training",
                "         the GPU: torch sees Apple M2 through MPS",
                "         float32: M1 and M2 only emulate bfloat16, and torch had no loss scaling"
                " for float16 on MPS before 2.8",
                "training everything in float32, no autocast",
            ],
        ),
    ],
)
def test_doctor_names_the_device_and_says_why(reported, lines, capsys, monkeypatch):
    from helpers import pretend

    from qwen3lab.memory import planner

    pretend(monkeypatch, **reported)
    if not reported:
        monkeypatch.setattr(planner, "machine_bytes", lambda device="cpu": 15_828_320_256)
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out.splitlines()
    start = printed.index(lines[0])
    assert printed[start : start + len(lines)] == lines
    assert printed[start + len(lines)].startswith("profile  tiny    runs here")


def test_doctor_names_what_only_some_notebooks_need(capsys, monkeypatch):
    import importlib.metadata

    original = importlib.metadata.version

    def version(name):
        if name in ("faiss-cpu", "xllamacpp"):
            raise importlib.metadata.PackageNotFoundError(name)
        return original(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr()
    assert (
        "         faiss-cpu is not installed: the search of notebook 08 needs it\n"
        "         xllamacpp is not installed: the serving of notebook 07 needs it\n"
    ) in printed.out and printed.err == ""


def test_doctor_fails_with_one_sentence_when_the_models_are_missing(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "MODELS", tmp_path)
    assert cli.main(["doctor"]) == 1
    assert (
        "The bundled model qwen3-tiny is missing. Run `git checkout -- data/models`."
        in capsys.readouterr().err
    )


def test_plan_prints_the_planners_figures(capsys):
    assert cli.main(["plan", "8B", "--method", "full"]) == 0
    assert "131.052 GB" in capsys.readouterr().out  # 16 bytes for each of 8,190,735,360 parameters


def test_plan_counts_a_picture_and_the_encoder_of_qwen3_vl(capsys):
    # 1280 x 720 pixels are 40 x 22 tokens of 32 x 32, between two marks
    assert cli.main(["plan", "VL-8B", "--picture", "1280x720", "--length", "100"]) == 0
    told = capsys.readouterr().out
    assert "1 row of 982 tokens" in told and "here 880 tokens and two marks" in told
    assert "weights              17.534 GB" in told  # 2 bytes for each of 8.191 + 0.576 billion


def test_progress_lists_every_exercise(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    assert cli.main(["progress"]) == 0
    printed = capsys.readouterr().out
    assert "1.3, qk_norm" in printed and f"0 of {len(exercises.every())} solved" in printed


def test_run_keeps_an_executed_copy_and_tells_the_time(course, capsys):
    source, out = (course / "01_good.ipynb").read_bytes(), course / "out"
    for folder in (out, course / "again"):
        assert cli.main(["run", "01", "--profile", "Tiny", "--into", str(folder)]) == 0
    told = capsys.readouterr()
    assert "01_good: done in" in told.out and "by the clock" in told.out and told.err == ""
    assert [text for _, _, text in notebooks.outputs(out / "01_good.ipynb")] == ["tiny", "2"]
    copy = nbformat.read(out / "01_good.ipynb", as_version=4)
    assert copy == notebooks.clean(nbformat.read(out / "01_good.ipynb", as_version=4))
    assert [cell.get("execution_count") for cell in copy.cells] == [None, 1, 2]
    assert (course / "01_good.ipynb").read_bytes() == source
    assert [path.name for path in out.iterdir()] == ["01_good.ipynb"]
    assert notebooks.diff(out, course / "again") == []


def test_run_of_all_goes_on_after_a_failure_and_says_so(course, capsys):
    files = {name: course / f"{name}.ipynb" for name in ("01_good", "02_bad")}
    before = files["02_bad"].read_bytes()
    assert cli.main(["run", "--jobs", "2", "--in-place", "--into", str(course / "out")]) == 1
    told = capsys.readouterr().out
    assert "division by zero" in told and "01_good: done" in told and "02_bad: failed in" in told
    # What ran to its end is renewed, what failed is kept for a look at it beside its source.
    assert [text for _, _, text in notebooks.outputs(files["01_good"])] == ["tiny", "2"]
    assert files["02_bad"].read_bytes() == before
    ((_, kind, text),) = notebooks.outputs(course / "out" / "02_bad.ipynb")
    assert (kind, text) == ("error", "ZeroDivisionError: division by zero")


def test_a_kernel_that_dies_leaves_no_outputs_of_an_earlier_run(course, capsys):
    file = course / "02_bad.ipynb"
    old = nbformat.read(file, as_version=4)
    old.cells[1].source = "import os\nos._exit(1)"
    old.cells[1].outputs = [new_output("stream", text="old")]
    nbformat.write(old, file)
    assert cli.main(["run", "02", "--into", str(course / "out")]) == 1
    assert "Kernel died" in capsys.readouterr().out
    assert notebooks.outputs(course / "out" / "02_bad.ipynb") == []


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["run", "09"], "There is no notebook '09'. Choose from: 01_good, 02_bad."),
        (
            ["run", "01", "--profile", "huge"],
            (
                "There is no profile 'huge'. Set QWEN3LAB_PROFILE to one of: tiny, small, medium,"
                " large."
            ),
        ),
        (
            ["run", "01", "--into", "01_good.ipynb/out"],
            "Nothing can be written into the folder 'out' (Not a directory). Give another one.",
        ),
        (
            ["run", "01", "--into", "."],
            "The copies cannot lie in the folder of the notebooks themselves. Give another one",
        ),
        (["bundle", "--check", "09"], "There is no notebook '09'. Choose from: 01_good, 02_bad."),
        (
            ["bundle", "--wheels", "none"],
            "There is no folder 'none' with wheels. Give another one, or leave the option out.",
        ),
        (["plan", "9B"], "9B"),
        (["plan", "8B", "--picture", "64x64"], "8B cannot be given a picture of '64x64'."),
        (["plan", "VL-8B", "--picture", "64"], "and a size in pixels, such as 1280x720."),
    ],
)
def test_a_fault_is_one_sentence_and_code_1(course, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(course)
    assert cli.main(arguments) == 1
    printed = capsys.readouterr()
    assert sentence in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    assert os.environ["QWEN3LAB_PROFILE"] == "tiny" and not (course / "out").exists()


@pytest.mark.parametrize(
    "code, sentence",
    [
        (2, "Stopped before the end.\n"),
        (3, "pytest could not run the notebooks (exit code 3). Look at its lines above.\n"),
    ],
)
def test_a_run_that_comes_to_no_end_is_one_sentence(course, capsys, monkeypatch, code, sentence):
    monkeypatch.setattr(pytest, "main", lambda *_, **__: code)
    assert cli.main(["run", "--into", str(course / "out")]) == 1
    assert capsys.readouterr().err == sentence


@pytest.mark.parametrize(
    "arguments", [[], ["dance"], ["run", "--jobs", "9"], ["plan"], ["doctor", "--loud"]]
)
def test_a_wrong_command_line_is_code_2(capsys, arguments):
    code, out, err = stopped(capsys, *arguments)
    assert code == 2 and out == "" and "usage: qwen3lab" in err


def test_help_shows_examples_and_exit_codes(capsys):
    code, printed, _ = stopped(capsys, "--help")
    assert code == 0 and "exit codes: 0 done; 1" in printed
    for command in cli.COMMANDS:
        name = command.__name__.rsplit(".", 1)[-1]
        assert f"qwen3lab {name}" in printed
        code, own, _ = stopped(capsys, name, "--help")
        assert code == 0 and "examples:\n  qwen3lab " + name in own
