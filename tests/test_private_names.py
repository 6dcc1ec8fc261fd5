"""Private names of libraries in use: each stands in CONTRIBUTING.md with its reason."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from qwen3lab import paths

ALLOWED = {
    "qwen3lab/evaluation/report_card.py": {"_repr_png_"},  # IPython's protocol, public by intent
    "qwen3lab/locale/__init__.py": {"_catalog"},
    "qwen3lab/memory/tracking.py": {"torch.utils._python_dispatch", "_cdata"},
    "qwen3lab/pitfalls/gradients_in_4bit.py": {"_convert_weight_packed_for_cpu_inverse"},
    "qwen3lab/quantization/gptq_checkpoints.py": {"_PROJECT_LOG_DIR"},
    "qwen3lab/retrieval/damaged_pdf.py": {"_add_object"},
    "qwen3lab/training/trl_patches.py": {"_use_triton", "_ChunkedLogProbFunction"},
}
HOOKS = (
    "_save",
    "_load",
    "_inner",
    "_prepare",
    "_get",
    "_maybe",
)  # what overriding would begin with
SOURCES = sorted(
    path
    for folder in ("qwen3lab", "scripts", "benchmarks")
    for path in (paths.ROOT / folder).rglob("*.py")
)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names(tree: ast.AST) -> set[str]:
    """What the file defines itself: functions, classes, variables, attributes of self."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                found.add(node.attr)
    return found


def private_uses(source: str) -> set[str]:
    """Private attributes and modules that a source reads and does not define."""
    tree = ast.parse(source)
    own, found = own_names(tree), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if any(map(is_private, node.module.split("."))):
                found.add(node.module)
            found |= {alias.name for alias in node.names if is_private(alias.name)}
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            found |= {name for name in names if any(map(is_private, name.split(".")))}
        elif isinstance(node, ast.ClassDef) and node.bases:
            methods = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
            trainer = any("Trainer" in ast.unparse(base) for base in node.bases)
            found |= {name for name in methods if trainer and name.startswith(HOOKS)}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(paths.ROOT)))
def test_no_other_private_name_is_used(path: Path):
    name = path.relative_to(paths.ROOT).as_posix()
    assert private_uses(path.read_text(encoding="utf-8")) == ALLOWED.get(name, set())


def test_each_has_its_reason():
    text = (paths.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for names in ALLOWED.values():
        for name in names - {"_repr_png_"}:
            assert name in text, f"{name} has no reason in CONTRIBUTING.md"


def test_the_finder_finds():
    assert private_uses("import a._b\nx._c = 1\ny = z._d") == {"a._b", "_c", "_d"}
    assert private_uses("class T(Trainer):\n    def _save(self): ...") == {"_save"}
    assert private_uses("def _own(): ...\nmodule._own()") == set()
