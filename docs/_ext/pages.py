"""Stage the site's sources: docs/ with tables filled in, executed notebooks, module pages."""

from __future__ import annotations

import ast
import base64
import copy
import html
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

from qwen3lab import paths
from qwen3lab.course import claims
from qwen3lab.course import notebooks as course_notebooks

DOCS = Path(__file__).resolve().parent.parent
PACKAGE = paths.ROOT / "qwen3lab"
CHINESE = "zh/"  # the folder of the Chinese edition below notebooks/
SHARED = ("title", "profile")  # the names of cells that a companion has as well
MUSEUM = (
    ("deeper/03_experts_and_failures", "museum", "museum-table"),
    ("deeper/05_schedules_failures_speed", "museum", "museum-table"),
)  # notebook, chart, text


def anchor(notebook: str, cell: str) -> str:
    """Return the label of a cell: anchor("03_lora", "build") is nb03-build. A companion has its
    notebook's number, and but for SHARED, which get its name, no cell of the one has the name of a
    cell of the other.
    """
    edition = "zh-" if notebook.startswith(CHINESE) else ""
    companion = "/" in notebook.removeprefix(CHINESE) and cell in SHARED
    own = notebook.rpartition("/")[2][3:].replace("_", "-") + "-" if companion else ""
    return f"{edition}nb{number(notebook)}-{own}{cell}"


def number(notebook: str) -> str:
    """Return a notebook's number as two digits, of deeper/01_... too."""
    return notebook.rpartition("/")[2][:2]


def notebooks(edition: str = "") -> dict[str, Any]:
    """Read the committed notebooks and their companions, by the path below notebooks/ without its
    ending. `edition`: CHINESE for the translated ones.
    """
    return {
        edition + course_notebooks.short(path): nbformat.read(path, as_version=4)
        for path in course_notebooks.every(paths.NOTEBOOKS / edition)
    }


def summary(text: str | None) -> str:
    """Extract the first paragraph of a docstring as one line."""
    return " ".join((text or "").split("\n\n")[0].split())


def charts() -> dict[str, str]:
    """Describe each chart function, by its name: the first paragraph of its docstring."""
    found = {}
    for path in (PACKAGE / "plots").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
                found[node.name] = summary(ast.get_docstring(node))
    return found


def described(source: str, known: dict[str, str]) -> str:
    """Join the descriptions of the chart functions that a cell calls, in order; empty if none."""
    code = re.sub(r"(?m)^\s*[%!].*$", "", source)
    names = [
        node.func.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    return " ".join(dict.fromkeys(known[name] for name in names if name in known))


def stage_notebook(name: str, notebook: Any, known: dict[str, str]) -> Any:
    """Copy a notebook with a label before each cell and alt text for each chart."""
    staged, heading = copy.deepcopy(notebook), name
    cells = []
    for cell in staged.cells:
        label = f"({anchor(name, cell.id)})=\n"
        if cell.cell_type == "markdown":
            heading = next(reversed(re.findall(r"(?m)^#+ (.+)$", cell.source)), heading)
            cell.source = label + re.sub(r"\]\(((?:\.\./)+)docs/", r"](\1", cell.source)
        else:
            cells.append(nbformat.v4.new_markdown_cell(label))
            if any(
                kind.startswith("image/") for out in cell.outputs for kind in out.get("data", {})
            ):
                said = (
                    f"“{heading}”一节的图。"
                    if name.startswith(CHINESE)
                    else (f"Chart of the section “{heading}”.")
                )
                text = f"{described(cell.source, known)} {said}".strip()
                cell.metadata["mystnb"] = {"image": {"alt": text.replace('"', "'")}}
        cells.append(cell)
    staged.cells = cells
    return staged


def cell_of(notebook: Any, name: str) -> Any:
    """Return one cell of a notebook by its id."""
    return next(cell for cell in notebook.cells if cell.id == name)


def row(*cells: str) -> str:
    """Format a line of a Markdown table."""
    return (
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
    )


def claims_table(books: dict[str, Any]) -> str:
    """Tabulate the claims, each with its bounds and a link to the cell that checks it."""
    lines = [row("guides say", "here"), row("---", "---")]
    for claim in claims.load().values():
        value = f"{claim.low:g}" if claim.low == claim.high else f"{claim.low:g} to {claim.high:g}"
        places = [
            f"[notebook {number(name)}](#{anchor(name, cell.id)})"
            for name, book in books.items()
            for cell in book.cells
            if cell.cell_type == "code"
            and re.search(rf"claims\.check\(\s*[\"']{re.escape(claim.id)}[\"']", cell.source)
        ]
        lines.append(
            row(
                f"[{html.escape(claim.guide)}]{{#claim-{claim.id}}}",
                f"{claim.ours}: **{value}{claim.unit and ' ' + claim.unit}** →"
                f" {', '.join(places) or 'tests'}, from `{claim.source}`",
            )
        )
    return "\n".join(lines)


def museum(books: dict[str, Any], known: dict[str, str], folder: Path) -> str:
    """Render the failure museum: the exhibits with their charts, out of the notebooks."""
    docs = {
        node.name: ast.get_docstring(node)
        for node in ast.parse(
            (PACKAGE / "pitfalls" / "training.py").read_text(encoding="utf-8")
        ).body
        if isinstance(node, ast.FunctionDef)
    }
    functions = dict(
        re.findall(
            r'"([^"]+)": (\w+)',
            (PACKAGE / "pitfalls" / "training.py")
            .read_text(encoding="utf-8")
            .split("EXHIBITS", 1)[1],
        )
    )
    text = []
    for name, chart, told in MUSEUM:
        said = "".join(
            out.text for out in cell_of(books[name], told).outputs if out.output_type == "stream"
        )
        for title, cause, symptom, sees, remedy in re.findall(
            r"(?m)^(\S.*?): (.*)\n  (.*)\n  you see: (.*)\n  do this: (.*)$", said
        ):
            text.append(
                f"## {title[0].upper()}{title[1:]}\n\n{docs[functions[title]]}\n\n- **Cause**:"
                f" {cause}.\n- **Measured**: {symptom}.\n- **You see** {sees}.\n- **Do this**:"
                f" {remedy}."
            )
        picture = next(
            out.data["image/png"]
            for out in cell_of(books[name], chart).outputs
            if "image/png" in out.get("data", {})
        )
        (folder / f"museum-{number(name)}.png").write_bytes(base64.b64decode(picture))
        text.append(
            "The charts of these exhibits, from [notebook"
            f" {number(name)}](#{anchor(name, chart)}):\n\n!["
            f"{described(cell_of(books[name], chart).source, known)}](museum-{number(name)}.png)"
        )
    return "\n\n".join(text)


def guide_map() -> dict[str, Any]:
    """Read docs/guide_map.toml: the sections of the guide and what answers each of its claims."""
    return tomllib.loads((DOCS / "guide_map.toml").read_text(encoding="utf-8"))


def place(where: str) -> str:
    """Format a link to one entry of the guide map.

    "03:build" is a cell of a notebook, "claim:full-30b" a row of the claims, "page:sources#about" a
    heading, "file:Makefile" a file.
    """
    kind, _, what = where.partition(":")
    if kind == "claim":
        return f"[claim {what}](#claim-{what})"
    if kind == "file":
        return f"`{what}`"
    if kind == "page":
        return f"[{what.partition('#')[0]}]({what.replace('#', '.md#')})"
    return f"[{kind} {what}](#{anchor(kind, what)})"


def guide_table() -> str:
    """Render the guide map, one table per section of the guide."""

    def see(entry: dict[str, Any]) -> str:
        return ", ".join(place(where) for where in entry["see"])

    text = []
    for section in guide_map()["section"]:
        text.append(
            f"## {section['title']}"
            + (f"\n\nHere it is about this in {see(section)}." if section["see"] else "")
        )
        lines = [row("", "the guide", "here"), row("---:", "---", "---")]
        lines += [
            row(
                claim["number"],
                claim["guide"],
                f"**{claim['verdict'].capitalize()}.** {claim['answer']} → {see(claim)}",
            )
            for claim in section.get("claim", [])
        ]
        lines += [
            row("", template["guide"], f"{template['answer']} → {see(template)}")
            for template in section.get("template", [])
        ]
        text.append("\n".join(lines))
    return "\n\n".join(text)


def modules() -> Iterator[tuple[str, str]]:
    """Yield (dotted name, summary) of every public module, except the exercises' solutions."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        text = path.read_text(encoding="utf-8")
        if (
            text
            and not any(part.startswith("_") for part in parts)
            and not re.fullmatch(r"ex\d\d", parts[-1])
        ):
            yield ".".join(parts), summary(ast.get_docstring(ast.parse(text)))


def stage(folder: Path, only: list[str] | None = None) -> None:
    """Write the sources of the site into an empty folder.

    `only`: modules that get a page; default: all.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "api").mkdir(parents=True)
    (folder / "notebooks").mkdir()
    known, books = charts(), notebooks()
    for name, book in (books | notebooks(CHINESE)).items():
        staged = folder / "notebooks" / f"{name}.ipynb"
        staged.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(stage_notebook(name, book, known), staged)
    public = {name: text for name, text in modules() if only is None or name in only}
    for name in public:
        # Not in the menu, which would list all of them on every page.
        text = (
            f":orphan:\n\n{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n  "
            " :members:\n\n:doc:`All modules </api>`\n"
        )
        (folder / "api" / f"{name}.rst").write_text(text, encoding="utf-8")
    tables = {
        "claims": claims_table(books),
        "museum": museum(books, known, folder),
        "guide map": guide_table(),
        "modules": "\n".join(
            [
                row("module", "what it does"),
                row("---", "---"),
                *(row(f"[{name}](api/{name}.rst)", text) for name, text in public.items()),
            ]
        ),
    }
    for path in DOCS.glob("*.md"):
        text = path.read_text(encoding="utf-8").replace("](../notebooks/", "](notebooks/")
        text = re.sub(
            r"<!-- (claims|museum|guide map|modules) -->", lambda found: tables[found[1]], text
        )
        (folder / path.name).write_text(text, encoding="utf-8")
    for path in DOCS.glob("*.png"):
        shutil.copy(path, folder)
