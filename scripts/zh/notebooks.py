"""Keep a catalogue for each notebook in step with its cells, and write the Chinese notebooks."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

import polib

from qwen3lab import paths
from qwen3lab.course import notebooks
from scripts.zh import rules
from scripts.zh.messages import METADATA

ZH = paths.NOTEBOOKS / "zh"
LINK = re.compile(r"(\]\()([^)#:]+)([^):]*\))")  # of a file; an address has a colon


def catalogue_of(name: str, folder: Path = rules.LOCALE) -> Path:
    """Return the path of a notebook's catalogue, as deeper/01_… below the folder."""
    return folder / f"{name}.po"


def cells(path: Path) -> dict[str, str]:
    """Read the markdown cells of a notebook, by id."""
    book = json.loads(path.read_text(encoding="utf-8"))
    return {
        cell["id"]: "".join(cell["source"])
        for cell in book["cells"]
        if cell["cell_type"] == "markdown"
    }


def update(path: Path, file: Path) -> polib.POFile:
    """Bring a catalogue into step with its notebook.

    A new cell gets an empty entry, a changed one becomes fuzzy and keeps the text that was
    translated, and one that is gone leaves.
    """
    old = {entry.msgctxt: entry for entry in polib.pofile(file)} if file.exists() else {}
    new = polib.POFile(wrapwidth=100)
    new.metadata = dict(METADATA)
    for name, source in cells(path).items():
        entry = old.get(name) or polib.POEntry(msgctxt=name, msgid=source)
        if entry.msgid != source:
            if entry.msgstr:
                entry.previous_msgid = entry.previous_msgid or entry.msgid
                entry.flags = ["fuzzy"]
            entry.msgid = source
        new.append(entry)
    return new


def render(path: Path, file: Path) -> str:
    """Write a notebook with its markdown translated; all else stays byte for byte.

    An entry without a translation stays English. The result lies one folder deeper than the
    original, and links that leave the notebooks' folder follow.
    """
    book = json.loads(path.read_text(encoding="utf-8"))
    said = {entry.msgctxt: entry.msgstr for entry in polib.pofile(file)}
    at = posixpath.dirname(notebooks.short(path))
    for cell in book["cells"]:
        if cell["cell_type"] == "markdown":
            text = moved(said.get(cell["id"]) or "".join(cell["source"]), at)
            cell["source"] = text.splitlines(keepends=True)
    return json.dumps(book, ensure_ascii=False, indent=1) + "\n"  # as nbformat writes it


def moved(text: str, at: str = "") -> str:
    """Rewrite the links of a cell for a notebook that lies one folder deeper.

    at: the notebook's folder below notebooks/, "" or "deeper".
    """

    def one(link: re.Match) -> str:
        leaves = posixpath.normpath(posixpath.join(at, link[2])).startswith("..")
        return link[1] + "../" * leaves + link[2] + link[3]

    return LINK.sub(one, text)


def blocks(text: str) -> dict[str, str]:
    """Read the texts of a block file: `@@ id`, then the lines of the cell."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.split("\n"):
        head = re.fullmatch(r"@@ (\S+)\s*", line)
        if head:
            lines = found.setdefault(head[1], [])
        else:
            lines.append(line)
    return {name: "\n".join(said).strip("\n") for name, said in found.items()}


def take(file: Path, said: dict[str, str]) -> list[str]:
    """Put translations into a catalogue; returns the ids that it does not have."""
    catalogue = polib.pofile(file, wrapwidth=100)
    for entry in catalogue:
        if entry.msgctxt in said:
            entry.msgstr, entry.previous_msgid = said[entry.msgctxt], None
            entry.flags = [flag for flag in entry.flags if flag != "fuzzy"]
    catalogue.save()
    return sorted(said.keys() - {entry.msgctxt for entry in catalogue})


def faults(path: Path, file: Path, rendered: Path, terms: dict[str, list[str]]) -> list[str]:
    """Check one notebook's translation: the catalogue, its texts, and the notebook written from it.

    Returns one line per fault.
    """
    if not file.exists():
        return ["there is no catalogue; run `make zh`"]
    sources, catalogue, found = cells(path), polib.pofile(file), []
    names = [entry.msgctxt for entry in catalogue]
    found += [f"{name}: not in the catalogue" for name in sources.keys() - set(names)]
    for entry in catalogue:
        name = entry.msgctxt
        if entry.obsolete or name not in sources:
            found.append(f"{name}: the notebook has no such cell")
        elif entry.msgid != sources[name]:
            found.append(f"{name}: the cell has changed; run `make zh` and translate it")
        elif entry.fuzzy:
            found.append(f"{name}: translated from an older text")
        elif not entry.msgstr:
            found.append(f"{name}: not translated")
        else:
            found += [
                f"{name}: {fault}" for fault in rules.faults(entry.msgid, entry.msgstr, terms)
            ]
    if not rendered.exists() or rendered.read_text(encoding="utf-8") != render(path, file):
        found.append("the Chinese notebook is not the one of the catalogue; run `make zh`")
    return found
