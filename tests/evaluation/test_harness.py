"""lm-evaluation-harness on our task files gives our numbers: the same items, the same answers, the
same score, without a network.
"""

from __future__ import annotations

import importlib.util
import os
import random
import re
import shlex
import socket
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import torch
import yaml

from qwen3lab import chat, evaluation, models, paths, training
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import harness

installed = pytest.mark.skipif(
    not importlib.util.find_spec("lm_eval"),
    reason="lm-eval is not installed: pip install -c constraints.txt lm-eval",
)


@pytest.fixture(scope="module")
def loaded():
    return models.load("qwen3-tiny")


@pytest.fixture()
def offline(monkeypatch):
    def refuse(*_args):
        raise AssertionError("somebody wants the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@installed
def test_exact_match_is_ours_to_the_last_item(loaded, offline, monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)  # no clone: git would complain, were it asked
    # Questions with a text, which the tiny model can answer, and facts that it never learned; the
    # second half is wrong.
    load = tasks.load
    mixed = [row for task in ("context", "knowledge") for row in load(task, "test")[:24]]
    monkeypatch.setattr(tasks, "load", lambda *_: mixed)
    state = random.getstate(), torch.get_rng_state(), loaded[1].padding_side
    report, own = (
        harness.run(*loaded, "wildon_knowledge", batch_size=10),
        harness.ours(*loaded, "wildon_knowledge"),
    )
    assert (random.getstate(), loaded[1].padding_side) == (state[0], state[2]) and torch.equal(
        torch.get_rng_state(), state[1]
    )
    assert capfd.readouterr().err == ""
    assert report.items.id.tolist() == own.id.tolist() == [row["id"] for row in mixed]
    assert report.items.correct.tolist() == own.correct.tolist() and 15 <= own.correct.sum() <= 30
    assert [evaluation.normalize(text) for text in report.items.prediction] == [
        evaluation.normalize(text) for text in own.prediction
    ]
    assert report.score == pytest.approx(own.correct.mean(), abs=1e-12)
    assert report.stderr == pytest.approx(np.sqrt(report.score * (1 - report.score) / 47)) and str(
        report
    ).startswith("wildon_knowledge: 0.")


@installed
def test_a_trial_run_cuts_both_alike(loaded, offline, monkeypatch):
    """Replies of the tone are longer than a trial run lets anyone write."""
    monkeypatch.setenv("QWEN3LAB_SMOKE", "1")
    crew = training.load_adapter(paths.DATA / "adapters" / "tone", "qwen3-tiny")
    report = harness.run(*crew, "wildon_tone", limit=2)
    own = harness.ours(*crew, "wildon_tone", limit=2)
    assert report.items.prediction.tolist() == own.prediction.tolist()
    assert not own.correct.any() and all(own.prediction)


@installed
def test_likelihoods_are_ours_but_for_the_white_space(loaded, offline):
    model, tokenizer = loaded
    report, own = (
        way(model, tokenizer, "wildon_choice", limit=24) for way in (harness.run, harness.ours)
    )
    assert (
        report.items.id.tolist() == own.id.tolist()
        and report.items.correct.tolist() == own.correct.tolist()
        and 0 < own.correct.sum() < 24
    )
    assert (
        report.items.prediction.tolist() == own.prediction.tolist()
        and report.score == pytest.approx(own.correct.mean())
    )
    theirs, mine = (np.array(items.loglikelihoods.tolist()) for items in (report.items, own))
    assert theirs - theirs[:, :1] == pytest.approx(mine - mine[:, :1], abs=1e-3)
    for row, more in list(
        zip(harness.options(tasks.load("knowledge", "test")), theirs[:, 0] - mine[:, 0])
    )[:3]:
        ids = chat.encode(
            tokenizer, row["messages"]
        )  # ends with the line breaks after the empty think block
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        assert more == pytest.approx(logp[-2, ids[-1]].item(), abs=1e-3)


@installed
def commands() -> list[str]:
    """The lm_eval lines that notebook 06 shows."""
    (path,) = (paths.ROOT / "notebooks").glob("06_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    text = next(cell.source for cell in cells if cell.id == "harness-read").replace("\\\n", " ")
    return re.findall(r"(?m)^lm_eval run .*", text)


def test_the_commands_have_the_recommended_sampling():
    plain, thinking = map(shlex.split, commands())
    assert {"temperature=0.7", "top_p=0.8", "top_k=20"} < set(plain)
    assert {"temperature=0.6", "top_p=0.95", "top_k=20"} < set(thinking)
    for command, thinks in ((plain, "False"), (thinking, "True")):
        assert f"enable_thinking={thinks}" in command[5] and "do_sample=True" in command
        assert command[command.index("--tasks") + 1] == "gsm8k_cot_zeroshot,ifeval"


@installed
@pytest.mark.parametrize("which", [0, 1], ids=["not thinking", "thinking"])
def test_the_commands_run(loaded, tmp_path, which):
    """On the bundled model and a task of the course, two rows and a few tokens each."""
    for part in loaded:
        part.save_pretrained(tmp_path / "model")
    given = shlex.split(commands()[which])[1:]
    given[given.index("--tasks") + 1] = "wildon_tone"
    changes = {
        "pretrained=Qwen/Qwen3-8B": f"pretrained={tmp_path / 'model'}",
        "dtype=bfloat16": "dtype=float32",
    }
    for place, one in enumerate(given):
        for old, new in changes.items():
            one = one.replace(old, new)
        given[place] = re.sub("max_gen_toks=.*", "max_gen_toks=8", one)
    more = ["--include_path", str(harness.FOLDER), "--limit", "2", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *given, *more],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    temperature = ("0.7", "0.6")[which]
    assert "exact_match" in done.stdout and f"'temperature': {temperature}" in done.stdout


def test_task_files_name_what_there_is():
    import lm_eval.tasks

    manager = lm_eval.tasks.TaskManager(include_path=harness.FOLDER, include_defaults=False)
    assert manager.all_tasks == sorted(harness.SCORES)
    for name, task in manager.load(list(harness.SCORES))["tasks"].items():
        sizes = {"wildon_knowledge": 235, "wildon_tone": 216, "wildon_choice": 187}
        assert len(task.test_docs()) == sizes[name]


def test_task_files_can_be_read_without_the_harness():
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor(
        "!function",
        lambda loader, node: getattr(
            harness, loader.construct_scalar(node).removeprefix("qwen3lab.evaluation.harness.")
        ),
    )
    files = {
        path.stem: yaml.load(path.read_text(), Loader) for path in harness.FOLDER.glob("*.yaml")
    }
    assert set(files) == set(harness.SCORES) == {file["task"] for file in files.values()}
    assert {
        name: file["metric_list"][0]["metric"] for name, file in files.items()
    } == harness.SCORES
    assert [
        len(files[name]["custom_dataset"](**files[name]["metadata"])["test"])
        for name in ("wildon_knowledge", "wildon_tone", "wildon_choice")
    ] == [235, 216, 187]
    assert {name: longest for name, (_, longest) in harness.WRITTEN.items()} == {
        name: file["generation_kwargs"]["max_gen_toks"]
        for name, file in files.items()
        if file["output_type"] == "generate_until"
    }


def test_options_are_of_one_kind_and_in_no_order():
    rows = harness.options(tasks.load("knowledge", "test"))
    kinds = {}
    for row in tasks.load("knowledge", "test"):
        kinds.setdefault((row["language"], row["key"]), set()).add(row["answer"])
    assert all(
        len(set(row["options"])) == 3
        and set(row["options"]) <= kinds[row["language"], row["key"]]
        and row["options"][row["right"]] == row["answer"]
        for row in rows
    )
    assert np.bincount([row["right"] for row in rows]) == pytest.approx(
        [187 / 3] * 3, abs=20
    ) and rows == harness.options(tasks.load("knowledge", "test"))


def test_the_score_looks_at_the_answer_alone():
    doc = {"answer": "8 euros"}
    texts = (
        "8 Euros.",
        " 8 euros\n",
        "<think>\n9 euros\n</think>\n\n8 euros",
        "9 euros",
        "8 euros or 9",
    )
    assert [harness.exact_match(doc, [text])["exact_match"] for text in texts] == [1, 1, 1, 0, 0]


def test_what_cannot_be_run(loaded, monkeypatch):
    with pytest.raises(
        Qwen3labError,
        match="no task 'arc' for the harness. Choose one of: wildon_knowledge, wildon_tone, wil",
    ):
        harness.ours(*loaded, "arc")
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(
        Qwen3labError, match="is not installed .*Run `pip install -c constraints.txt lm-eval`"
    ):
        harness.run(*loaded)
