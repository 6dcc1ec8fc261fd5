"""The dial: every notebook runs to its end on other models than the bundled ones, under every
profile, as it stands. `make test` runs these two at a time.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from pathlib import Path

import dial
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import qwen3lab
from qwen3lab import chat, exercises, family, models, paths, profiles
from qwen3lab.course import kernels, notebooks

PROFILES = ("small", "medium", "large")
NAMES = [notebooks.short(path) for path in notebooks.every()]
FIRST = Counter(name.partition("_")[0] for name in NAMES)
NUMBERS = [name if FIRST[number := name.partition("_")[0]] > 1 else number for name in NAMES]


@pytest.fixture(scope="session")
def turned(tmp_path_factory):
    """Turn the dial: the environment of a profile, with checkpoints and a course folder of its own
    (what notebooks write must not meet what those of another profile write).
    """
    made: dict[str, dict[str, str]] = {}

    def turn(setting: str) -> dict[str, str]:
        if setting not in made:
            profile, _, whole = setting.partition(", ")
            folder = tmp_path_factory.mktemp(profile)
            ranks = dial.ALL_RANKS if whole else dial.RANKS
            dial.make(profile, folder / "models", dial.TEMPLATES[setting], ranks)
            home = folder / "home"
            home.mkdir()
            for name in ("benchmarks", "data", "docs", "notebooks"):
                (home / name).symlink_to(paths.ROOT / name, target_is_directory=True)
            made[setting] = {
                "QWEN3LAB_PROFILE": profile,
                "QWEN3LAB_MODELS": str(folder / "models"),
                "QWEN3LAB_HOME": str(home),
                "QWEN3LAB_CACHE": str(folder / "cache"),
                "QWEN3LAB_SMOKE": "1",
            }
        return made[setting]

    return turn


def execute(number: str, environment: dict[str, str]) -> tuple[int, float]:
    """Run a notebook in a fresh kernel; returns its code cells and the seconds. A cell that raises
    fails the test with its traceback.
    """
    (path,) = notebooks.find([number])
    notebook = nbformat.read(path, as_version=4)
    folder = Path(environment["QWEN3LAB_HOME"]) / path.parent.relative_to(paths.ROOT)
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    began = time.perf_counter()
    fault = None
    try:
        client.execute(cleanup_kc=True, env=os.environ | environment)
    except CellExecutionError as error:
        fault = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    if fault:
        pytest.fail(fault, pytrace=False)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    return len(cells), time.perf_counter() - began


@pytest.fixture()
def run(request, record_property):
    """Run a notebook on this worker's CPUs, in a kernel of this interpreter, and note the cost."""

    def call(number: str, environment: dict[str, str]) -> None:
        name = re.sub(r".*\[|\]", "", request.node.nodeid)
        with kernels.own(request.config):
            cells, seconds = execute(number, environment)
        record_property("dial", (name, cells, round(seconds, 1)))

    return call


@pytest.mark.dial
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("number", NUMBERS)
def test_every_cell_runs(number, profile, turned, run):
    run(number, turned(profile))


@pytest.mark.dial
@pytest.mark.parametrize("number", ["01-whole", "02-whole"])
def test_every_cell_runs_with_the_whole_vocabulary(number, turned, run):
    run(number[:2], turned("small, whole vocabulary"))


def test_the_vocabulary_is_qwen3s():
    whole, part = dial.tokenizer(dial.ALL_RANKS), dial.tokenizer()
    assert len(whole) == 151_669 and len(part) == 4_090
    assert whole("Hello, world!").input_ids == [9707, 11, 1879, 0]
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "<think>", "</think>")
    ids = [151_643, 151_644, 151_645, 151_657, 151_667, 151_668]
    assert whole.convert_tokens_to_ids(list(names)) == ids
    assert part.convert_tokens_to_ids(list(names)) == [i - 151_643 + 4_064 for i in ids]
    text = "naïve 价格 <think> 12 + 30 = 42\n\n🙂"
    for tokenizer in (whole, part):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_no_two_roles_share_a_width(turned):
    for profile in PROFILES:
        folder = Path(turned(profile)["QWEN3LAB_MODELS"])
        widths = [
            json.loads((path / "config.json").read_text(encoding="utf-8"))["hidden_size"]
            for path in (folder / "Qwen").iterdir()
        ]
        bundled = {family.shape(path.name).hidden for path in paths.MODELS.glob("qwen3-*")}
        assert len(set(widths)) == len(widths) and not bundled & set(widths)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_planner_takes_the_shape_from_the_folder(profile, turned, monkeypatch):
    for name, value in turned(profile).items():
        monkeypatch.setenv(name, value)
    chosen = qwen3lab.profile()  # 8B and 30B-A3B would not fit here
    assert chosen.name == profile
    model, tokenizer = models.load("chat", dtype="float32", device="cpu")
    assert family.shape(chosen.chat).parameters == model.num_parameters()
    assert profiles.needs(chosen, "inference").total < 1e9
    assert chat.encode(tokenizer, [{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize("profile", PROFILES)
def test_solutions_are_right_whatever_the_profile(profile, turned, monkeypatch):
    for name, value in turned(profile).items():
        monkeypatch.setenv(name, value)
    for one in exercises.every():
        verdict = one.judge(one.answer if one.wants_function else one.answer())
        assert verdict.state == "right", one.title
