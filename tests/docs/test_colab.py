"""The page on Colab and Kaggle: its table is the planner's, its packages are enough, its cell
runs.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from contextlib import suppress

import pytest

from qwen3lab import memory, paths
from qwen3lab.course import cli
from qwen3lab.errors import Qwen3labError
from qwen3lab.memory import gpus

PAGE = paths.ROOT / "docs" / "colab.md"
LIGHT = paths.ROOT / "requirements-training.txt"


@pytest.fixture(scope="module")
def colab():
    """docs/colab.py as a module."""
    spec = importlib.util.spec_from_file_location("colab", paths.ROOT / "docs" / "colab.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def light() -> list[str]:
    """The lines of the light installation."""
    lines = LIGHT.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_the_page_is_up_to_date(colab):
    text = PAGE.read_text(encoding="utf-8")
    assert colab.fill(text) == text, "run `python docs/colab.py`"
    with pytest.raises(Qwen3labError, match="The page has no place for 't4'"):
        colab.fill(text.replace("<!-- t4 -->", ""))


def test_the_table_by_hand(colab):
    lines = {
        tuple(cells[:2]): cells[2:]
        for cells in (
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in colab.table().splitlines()[2:]
        )
    }
    assert len(lines) == 5 * 3
    # Notebook 01 counts the parameters: 16 bytes each for all weights in float32.
    assert lines["Qwen3-0.6B", "full fine-tuning"][0] == f"{16 * 596_049_920 / 1e9:.2f}"
    # 2 bytes a weight, 16 a weight of the adapter.
    assert lines["Qwen3-4B", "LoRA"][0] == f"{(2 * 4_022_468_096 + 16 * 33_030_144) / 1e9:.2f}"
    for (model, method), (static, step, share, longest) in lines.items():
        method = {label: name for name, label in memory.LABELS.items()}[method]
        assert float(static) < float(step)
        fits = gpus.CARDS["T4 16 GB"].share(
            memory.plan(model.removeprefix("Qwen3-"), method, float16=True, batch=1, length=1024)
        )
        assert share == f"{fits:.0%}"
        assert (longest == "does not fit") == (fits > 1)


def test_the_command_of_the_page(capsys):
    command = re.search(r"`qwen3lab (plan [^`]+)`", PAGE.read_text(encoding="utf-8"))[1]
    assert cli.main(command.split()) == 0
    assert "fits:         T4 16 GB" in capsys.readouterr().out


def test_the_light_installation_is_a_part_of_the_whole():
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    whole = [re.sub(r"\s", "", line) for line in project["dependencies"]]
    assert len(light()) == len(set(light())) and set(light()) <= set(whole)
    assert not any(line.startswith(("torch", "ipython", "jupyter")) for line in light())


# Every other library of the course is made to look absent, as it is there.
HIDE = """
import importlib, importlib.metadata, importlib.util, json, re, sys

hidden = set(json.loads(sys.argv[1]))
plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()
modules = {
    module
    for module, owners in importlib.metadata.packages_distributions().items()
    if {plain(owner) for owner in owners} <= hidden
}
version, find_spec = importlib.metadata.version, importlib.util.find_spec

def no_version(name):
    if plain(name) in hidden:
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

importlib.metadata.version = no_version
importlib.util.find_spec = lambda name, package=None: (
    None if name.split(".")[0] in modules else find_spec(name, package)
)
sys.meta_path.insert(0, Hide())
assert {"faiss", "xllamacpp", "lm_eval", "jupyterlab"} <= modules, modules
"""


def test_the_training_cell_runs_with_the_light_packages_alone(tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    (cell,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is the code of room {n}?"},
                {"role": "assistant", "content": f"It is {7 * n}."},
            ]
        }
        for n in range(28)
    ]
    (tmp_path / "my_rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(lines):
        return {re.split(r"[<>=;\[ ]", line)[0].replace("_", "-").lower() for line in lines}

    def with_their_own(wanted):
        """Those names, and what they bring along."""
        found, left = set(), list(wanted)
        while left:
            if (name := left.pop()) not in found:
                found.add(name)
                with suppress(importlib.metadata.PackageNotFoundError):
                    needed = importlib.metadata.requires(name) or []
                    left += names(line for line in needed if "extra ==" not in line)
        return found

    # scikit-learn is what transformers itself looks for in a way that cannot be faked.
    hidden = names(project["dependencies"]) - with_their_own(names(light()))
    hidden -= {"torch", "scikit-learn"}
    done = subprocess.run(
        [sys.executable, "-c", HIDE + cell, json.dumps(sorted(hidden))],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("lora: 262,144 of 3,672,832 parameters trained (7.1%), 3 steps")
    assert "loss on 20 rows that were held out: " in done.stdout
    assert (tmp_path / "my-adapter" / "adapter_model.safetensors").is_file()


def environment() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": str(paths.ROOT), "QWEN3LAB_PROFILE": "tiny"}
