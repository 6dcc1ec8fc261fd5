"""What the tests share: no network, one thread, and tiny checkpoints with random weights."""

from __future__ import annotations

import gc
import importlib.util
import os
from pathlib import Path

# Before any library is imported: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["QWEN3LAB_LANG"] = "en"

import pytest  # noqa: E402
from helpers import make_checkpoint  # noqa: E402


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense checkpoint. Tests must not change it; copy it first."""
    return make_checkpoint(tmp_path_factory.mktemp("dense") / "dense-checkpoint")


@pytest.fixture(scope="session")
def moe_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of experts. Tests must not change it; copy it first."""
    return make_checkpoint(tmp_path_factory.mktemp("moe") / "moe", "30B-A3B")


@pytest.fixture(scope="module", autouse=True)
def _nothing_old_is_searched():
    """What lives before a module's first test is mostly libraries: half a million objects, which
    each training's garbage collection would look through again.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _one_cpu_a_worker():
    """Of several workers each takes one CPU: a second thread would wait for the other worker.

    From the first fixture of a module on, in which much is trained and answered. Gives the function
    that counts all CPUs.
    """
    from qwen3lab.models import loading

    counts = loading.cpus
    with pytest.MonkeyPatch.context() as patch:
        if "PYTEST_XDIST_WORKER" in os.environ:
            patch.setattr(loading, "cpus", lambda: 1)
        yield counts


@pytest.fixture(autouse=True)
def _own_profile(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _one_cpu_a_worker
) -> None:
    """Each test starts with the default profile, and the environment is put back after it."""
    monkeypatch.setenv("QWEN3LAB_PROFILE", "tiny")
    if request.node.get_closest_marker("all_cpus"):
        from qwen3lab.models import loading

        monkeypatch.setattr(loading, "cpus", _one_cpu_a_worker)


@pytest.fixture()
def script(monkeypatch):
    """Load a file of the folder benchmarks."""
    from qwen3lab import paths

    monkeypatch.syspath_prepend(str(paths.ROOT / "benchmarks"))

    def load(name):
        spec = importlib.util.spec_from_file_location(
            f"benchmark_{name}", paths.ROOT / "benchmarks" / f"{name}.py"
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


# With the trainings of the longest files first, two workers end at nearly the same time.
LONGEST = (
    *("tuning/test_checks", "training/test_export", "course/test_kernels", "test_templates"),
    *("scripts/test_tiny_models", "training/test_sft", "evaluation/test_harness", "test_package"),
    *("pitfalls/test_training", "course/test_cli", "pitfalls/test_label_masks"),
    *("tuning/test_pipeline", "training/test_checkpointing", "evaluation/test_report_card"),
    "training/test_speed",
)


def pytest_collection_modifyitems(items):
    """Put the longest files first, in their order."""
    place = {f"tests/{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.split("::")[0], len(place)))


def pytest_make_parametrize_id(val, argname):
    """Name bytes by their argument: packed data holds the time, and workers must agree on names."""
    return argname if isinstance(val, bytes) else None


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    """Print what was run on other models: notebook, profile, cells, seconds."""
    reports = [
        (report, *dict(report.user_properties)["dial"])
        for kind in ("passed", "failed")
        for report in terminalreporter.getreports(kind)
        if "dial" in dict(report.user_properties)
    ]
    for report, name, cells, seconds in sorted(reports, key=lambda entry: entry[1]):
        state = "0 failures" if report.passed else "failed"
        terminalreporter.write_line(f"{name:<24} {cells:>3} cells, {state}, {seconds:6.1f} s")
    if reports:
        whole = sum(seconds for *_, seconds in reports)
        cells = sum(entry[2] for entry in reports)
        terminalreporter.write_line(f"{'all':<24} {cells:>3} cells, {whole:.1f} s")
