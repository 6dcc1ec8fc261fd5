"""Set the tiny profile for all tests, and a limit of memory for notebooks run as tests."""

from __future__ import annotations

import os

# Before the course is imported: it reads these once, and kernels inherit them.
for name in ("PROFILE", "MODELS", "HOME", "SMOKE"):
    os.environ.pop(f"QWEN3LAB_{name}", None)
os.environ.setdefault("QWEN3LAB_LANG", "en")  # whatever the machine speaks

import pytest  # noqa: E402

pytest_plugins = ["qwen3lab.course.kernels"]
MAX_BYTES = 3e9  # seconds are not limited: on a busy machine they say nothing


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Fail a notebook whose kernel takes too much memory."""
    from qwen3lab.course import kernels  # not above: pytest is the first to import a plugin

    report = yield
    peak = kernels.peak(report)
    if report.passed and peak is not None and peak > MAX_BYTES:
        report.outcome = "failed"
        report.longrepr = (
            f"The kernel took {peak / 1e9:.2f} GB; a notebook may take {MAX_BYTES / 1e9:.2f} GB."
            " Make its cells smaller."
        )
    return report
