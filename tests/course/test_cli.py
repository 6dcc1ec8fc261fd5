"""The command line: what it prints, its help and its exit codes."""

import os
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

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


def test_progress_lists_every_exercise(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    assert cli.main(["progress"]) == 0
    printed = capsys.readouterr().out
    assert "1.2, qk_norm" in printed and f"0 of {len(exercises.every())} solved" in printed


def test_run_keeps_an_executed_copy_and_tells_the_time(course, capsys):
    source = (course / "01_good.ipynb").read_bytes()
    assert cli.main(["run", "01", "--profile", "Tiny", "--into", str(course / "out")]) == 0
    printed = capsys.readouterr()
    assert "01_good: done in" in printed.out and "by the clock" in printed.out and printed.err == ""
    assert [text for _, _, text in notebooks.outputs(course / "out" / "01_good.ipynb")] == [
        "tiny",
        "2",
    ]
    assert (course / "01_good.ipynb").read_bytes() == source and not (
        course / "out" / "02_bad.ipynb"
    ).exists()


def test_run_of_all_goes_on_after_a_failure_and_says_so(course, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert cli.main(["run", "--into", str(course / "out")]) == 1
    printed = capsys.readouterr()
    assert "ZeroDivisionError: division by zero" in printed.out and "01_good: done" in printed.out
    assert "3/4" in printed.err and "02_bad" in printed.err  # of four cells the last was never run


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
        (["bundle", "--check", "09"], "There is no notebook '09'. Choose from: 01_good, 02_bad."),
        (
            ["bundle", "--wheels", "none"],
            "There is no folder 'none' with wheels. Give another one, or leave the option out.",
        ),
        (["plan", "9B"], "9B"),
    ],
)
def test_a_fault_is_one_sentence_and_code_1(course, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(course)
    assert cli.main(arguments) == 1
    printed = capsys.readouterr()
    assert sentence in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    assert os.environ["QWEN3LAB_PROFILE"] == "tiny" and not (course / "out").exists()


def test_stopping_by_hand_is_one_sentence(course, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(notebooks, "run_all", interrupted)
    assert cli.main(["run", "--into", str(course / "out")]) == 1
    assert "Stopped before the end.\n" in capsys.readouterr().err


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
