"""Which room may import which: one list, no circles, and no private name crosses a file."""

from __future__ import annotations

import ast
import graphlib
import importlib
from pathlib import Path

import pytest

from qwen3lab import paths

# Each group may import the groups before it; rooms of one group do not import each other.
ORDER = """
locale < errors quiet prompts measure < paths messages answers < chat < family cache world
< data from_scratch memory plots < profiles < models < evaluation < training
< quantization serving < retrieval pitfalls < tuning < results exercises < course
< scripts < benchmarks docs
"""
GROUPS = [group.split() for group in ORDER.split("<")]
GROUP = {room: place for place, group in enumerate(GROUPS) for room in group}
ALLOWED = {"from_scratch": {"errors", "family"}}  # rooms that import less than the order lets them
SOURCES = sorted(
    path
    for folder in ("qwen3lab", "scripts", "benchmarks", "docs")
    for path in (paths.ROOT / folder).rglob("*.py")
    if path != paths.ROOT / "qwen3lab" / "__init__.py"
)


def room(path: Path) -> str:
    """The room of a file: the folder or module below qwen3lab, or the folder at the top."""
    parts = path.relative_to(paths.ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "qwen3lab" else parts[0]


def imported(source: str, own: str = "") -> list[tuple[str, str]]:
    """(module, name or "") of everything of the course that a source imports, wherever it does so.

    `own` is the dotted package of the source, to which relative imports refer.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = own.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [base])])
            found += [(base, alias.name) for alias in node.names]
    return [entry for entry in found if entry[0].split(".")[0] in ("qwen3lab", "scripts")]


def arrows(path: Path) -> set[str]:
    """The rooms that a file imports, its own left out."""
    own = ".".join(path.relative_to(paths.ROOT).parent.parts)
    found = set()
    for module, name in imported(path.read_text(encoding="utf-8"), own):
        parts = module.split(".")
        if parts[0] == "scripts":
            found.add("scripts")
        elif len(parts) > 1:
            found.add(parts[1])
        elif name in GROUP:
            found.add(name)
    return found - {room(path)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(paths.ROOT)))
def test_only_leftwards(path):
    mine = room(path)
    assert mine in GROUP, f"{mine} is in no group yet: add it to ORDER"
    wrong = {other for other in arrows(path) if GROUP[other] >= GROUP[mine]}
    assert not wrong, f"{mine} imports {sorted(wrong)}, which are not to the left of it"
    assert arrows(path) <= ALLOWED.get(mine, set(GROUP)), f"{mine} may import {ALLOWED[mine]} alone"


def test_no_circle_of_rooms():
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        graph.setdefault(room(path), set()).update(arrows(path))
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError and names the circle


def test_every_room_of_the_list_is_there():
    rooms = {room(path) for path in SOURCES}
    assert rooms == set(GROUP)
    modules = [path for path in (paths.ROOT / "qwen3lab").glob("*.py")]
    assert len(modules) <= 12


@pytest.mark.parametrize(
    "path",
    [*SOURCES, *sorted((paths.ROOT / "tests").rglob("*.py"))],
    ids=lambda path: str(path.relative_to(paths.ROOT)),
)
def test_no_private_name_crosses_a_file(path):
    source = path.read_text(encoding="utf-8")
    own = ".".join(path.relative_to(paths.ROOT).parent.parts)
    entries = imported(source, own)
    names = {name for _, name in entries}
    assert not [name for name in names if name.startswith("_") and not name.startswith("__")]
    aliases = {
        alias.asname or alias.name.rsplit(".", 1)[-1]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith(("qwen3lab", "scripts"))
        for alias in node.names
    }
    crossing = [
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in aliases
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
    ]
    assert not crossing


FACES = [
    "models",
    "training",
    "evaluation",
    "memory",
    "quantization",
    "serving",
    "retrieval",
    "plots",
]


@pytest.mark.parametrize("name", FACES)
def test_a_face_hands_on_names_that_exist_and_are_no_submodules(name):
    package = importlib.import_module(f"qwen3lab.{name}")
    folder = paths.ROOT / "qwen3lab" / name
    submodules = {path.stem for path in folder.glob("*.py")} | {
        path.parent.name for path in folder.glob("*/__init__.py")
    }
    assert package.__all__ and not set(package.__all__) & submodules
    for handed_on in package.__all__:
        assert getattr(package, handed_on) is not None
