"""Every public chart is drawn by a test of this folder, in the file named after its module."""

from __future__ import annotations

import ast

import pytest

from qwen3lab import paths, plots

MODULES = sorted(
    path
    for path in (paths.ROOT / "qwen3lab" / "plots").glob("*.py")
    if path.stem not in ("__init__", "style")
)


def charts(path) -> set[str]:
    """The public functions of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


def drawn(source: str, module: str) -> set[str]:
    """What a source calls as `plots.name(...)` or as `module.name(...)` inside of a test, or of a
    function that one of its tests calls.
    """
    functions = {
        node.name: [each.func for each in ast.walk(node) if isinstance(each, ast.Call)]
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
    }
    waiting, seen, found = [name for name in functions if name.startswith("test_")], set(), set()
    while waiting:
        seen.add(name := waiting.pop())
        for called in functions[name]:
            if isinstance(called, ast.Name) and called.id in functions.keys() - seen:
                waiting.append(called.id)
            if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
                if called.value.id in ("plots", module):
                    found.add(called.attr)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_chart_is_drawn_by_a_test_of_its_module(path):
    file = paths.ROOT / "tests" / "plots" / f"test_{path.stem}.py"
    assert charts(path)
    assert not charts(path) - drawn(file.read_text(encoding="utf-8"), path.stem)


def test_the_package_hands_on_every_chart():
    names = set().union(*map(charts, MODULES)) - {"architecture"}  # called by way of its module
    assert names == {name for name in plots.__all__ if name.islower()}
    assert all(getattr(plots, name).__name__ == name for name in names)


def test_only_a_call_in_a_test_counts():
    source = """
def helper():
    return plots.by_helper()

def unused():
    return plots.by_nobody()

def test_it():
    helper()
    plots.in_a_test(table).axes
    model.by_module()
    other.elsewhere()
    "plots.in_a_text()"
    plots.not_called
"""
    assert drawn(source, "model") == {"by_helper", "in_a_test", "by_module"}
