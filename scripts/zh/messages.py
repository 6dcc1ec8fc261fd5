"""Collect the package's messages from its source, and compile their translations.

A message is a string or an f-string that goes to a learner: an error, a text of an exercise, a
text of the command line, a word of a chart. An f-string becomes a template with named holes.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import polib

from qwen3lab import locale, paths
from scripts.zh import rules

PO = paths.ROOT / "locales" / "zh_CN" / "qwen3lab.po"
KINDS = ("exercise", "error", "command", "chart")
ERRORS = {"Qwen3labError", "OutOfMemory", "Unusable"}
LABELS = {"label", "title", "xlabel", "ylabel", "suptitle", "labels", "name"}
DRAWN = {
    *("set_title", "set_xlabel", "set_ylabel", "text", "annotate", "suptitle", "set_xticks"),
    *("set_yticks", "supxlabel", "supylabel", "legend", "bar", "barh", "set", "plot", "box"),
}
# Places of a legend and columns of tables, which are no words of a chart.
COLUMN = re.compile(r"^(?:outside )?(?:upper|lower|right|left)\b| (?:low|high|p95|points)$")
CODE = re.compile(r"# your| at 0x| {2}solution$")  # a stub, an address, a table's head
COMMAND = re.compile(
    r"^ *-|^qwen3lab (?:\S+ ?)*$|^qwen3lab \S+ +\S+$"
)  # options and plain command lines
HOLE = "\ue000"  # of the area for private use
METADATA = {
    "Language": "zh_CN",
    "MIME-Version": "1.0",
    "Content-Type": "text/plain; charset=utf-8",
    "Content-Transfer-Encoding": "8bit",
}


def collect(package: Path = paths.ROOT / "qwen3lab") -> dict[tuple[str, str], str]:
    """Collect the messages: {(kind, template): the first file that has it}, in their order."""
    found: dict[tuple[str, str], str] = {}
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        where = path.relative_to(package.parent).as_posix()
        for kind, text in _messages(tree, where):
            if _is_text(text):
                found.setdefault((kind, text), where)
    return {key: found[key] for kind in KINDS for key in found if key[0] == kind}


def update(file: Path = PO, found: dict[tuple[str, str], str] | None = None) -> polib.POFile:
    """Bring the catalogue into step with the source: new messages are empty, gone ones leave."""
    old = (
        {(entry.msgctxt, entry.msgid): entry for entry in polib.pofile(file)}
        if (file.exists())
        else {}
    )
    new = polib.POFile(wrapwidth=100)
    new.metadata = dict(METADATA)
    for (kind, text), where in (collect() if found is None else found).items():
        kept = old.get((kind, text))
        new.append(
            polib.POEntry(
                msgctxt=kind,
                msgid=text,
                msgstr=kept.msgstr if kept else "",
                flags=["python-brace-format"] if locale.pattern(text).groups else [],
                occurrences=[(where, "")],
            )
        )
    return new


def compiled(file: Path = PO) -> bytes:
    """Compile a catalogue to the bytes of its .mo file."""
    return polib.pofile(file).to_binary()


def faults(
    file: Path = PO, mo: Path = locale.CATALOGUE, found: dict[tuple[str, str], str] | None = None
) -> list[str]:
    """Check the catalogue of the package's messages against its source; one line per fault."""
    wrong: list[str] = []
    expected = update(file, found)
    there = {(entry.msgctxt, entry.msgid): entry for entry in polib.pofile(file)}
    wanted = {(entry.msgctxt, entry.msgid) for entry in expected}
    wrong += [f"{text!r}: not in the catalogue; run `make zh`" for _, text in wanted - there.keys()]
    wrong += [f"{text!r}: no longer a message; run `make zh`" for _, text in there.keys() - wanted]
    for (_, text), entry in there.items():
        if entry.obsolete or entry.fuzzy or not entry.msgstr:
            wrong.append(f"{text!r}: not translated")
            continue
        wrong += [f"{text!r}: {fault}" for fault in _changed(text, entry.msgstr)]
        english, chinese = _spoken(text), _spoken(entry.msgstr)
        wrong += [f"{text!r}: {fault}" for fault in rules.faults(english, chinese)]
    if not mo.exists() or mo.read_bytes() != compiled(file):
        wrong.append(f"{mo.name} is not compiled from {file.name}; run `make zh`")
    return wrong


def _changed(english: str, chinese: str) -> list[str]:
    """Compare the holes of two templates; only an English ending may be left out."""
    mine, theirs = (Counter(_names(text)) for text in (english, chinese))
    lost = {hole for hole in mine - theirs if not hole.startswith("plural")}
    return [f"holes: lost {sorted(lost)}, new {sorted(theirs - mine)}"] * bool(
        lost or theirs - mine
    )


def _names(template: str) -> list[str]:
    """List the holes of a template, and what argparse fills in."""
    named = [hole for _, hole, *_ in Formatter().parse(template) if hole is not None]
    return named + re.findall(r"%\(\w+\)s", template)


def _spoken(template: str) -> str:
    """Write a mark for each hole that is no letter: what fills it may be of either language."""
    pieces = Formatter().parse(re.sub(r"%\(\w+\)s", HOLE, template))
    return "".join(text + HOLE * (hole is not None) for text, hole, *_ in pieces)


def _is_text(template: str) -> bool:
    """Check that a template says something: a word, and enough of it to be told from others."""
    words = re.findall(r"[A-Za-z]{2,}", locale.fixed(template))
    if template.startswith(" "):  # what is added to a sentence
        return bool(words)
    if locale.pattern(template).groups:
        enough = len(words) > 1 or any(len(word) > 2 for word in words)
        return len(locale.fixed(template).strip()) >= 5 and enough
    return bool(words)


def _messages(tree: ast.Module, where: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, template) of a file, in the order of its lines."""
    room = where.split("/")[1:]
    if re.fullmatch(r"ex\d\d\.py", room[-1]):
        yield from (("exercise", text) for text in _of_exercises(tree))
    elif room[0] == "exercises" and room[-1] != "answer_sheet.py":
        told = (text for text in _all(tree) if " " in text and not CODE.search(text))
        yield from (("exercise", text) for text in told)
    elif room[0] == "course" and (room[1] == "commands" or room[1] == "cli.py"):
        told = (text for text in _all(tree, ERRORS) if " " in text.strip() or text[-1:] == ":")
        yield from (("command", text) for text in told if not COMMAND.search(text))
    elif room[0] == "tuning":  # the lines of `tune` and `audit`
        yield from (("command", text) for text in _of_calls(tree, {"Line", "say"}))
        if room[-1] == "conversation.py":
            told = (text for text in _all(tree, ERRORS) if " " in text and "<" not in text)
            yield from (("command", text) for text in told)
    elif where.endswith("memory/devices.py"):  # `qwen3lab doctor` prints its reasons
        yield from (("command", text) for text in _all(tree) if text.count(" ") > 2)
    elif room[0] == "plots" and room[-1] != "style.py":
        yield from (("chart", text) for text in _of_charts(tree))
    if where.endswith("data/validation.py"):  # the reasons why a row is refused
        yield from (("error", text) for text in _all(tree) if " " in text.strip())
    yield from (("error", text) for text in _of_errors(tree))


def _name(call: ast.Call) -> str:
    return getattr(call.func, "id", "") or getattr(call.func, "attr", "")


def _of_errors(tree: ast.Module) -> Iterator[str]:
    """Yield what errors say: their arguments, and what the names in these were assigned before."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    told: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node) in ERRORS:
            told += node.args
        elif isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} & ERRORS:
            calls = (one for one in ast.walk(node) if isinstance(one, ast.Call))
            told += [call.args[0] for call in calls if _name(call) == "__init__"]
    found: list[tuple[int, ast.AST]] = []
    for node in told:
        around = [one for one in functions if one.lineno <= node.lineno <= one.end_lineno]
        names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
        found += [(place, value) for place, value in _assigned(names, [*around, *tree.body])]
        found.append((node.lineno, node))
    for _, node in sorted(found, key=lambda one: one[0]):
        yield from (text for text in texts(node) if " " in text.strip())


def _assigned(names: set[str], places: list[ast.AST]) -> Iterator[tuple[int, ast.AST]]:
    """Yield (line, value) of what is assigned to names, within functions or at the top."""
    for place in places:
        for node in ast.walk(place) if isinstance(place, ast.FunctionDef) else [place]:
            if isinstance(node, (ast.Assign, ast.AugAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(target, ast.Name) and target.id in names for target in targets):
                    yield node.lineno, node.value


def _of_calls(tree: ast.Module, names: set[str]) -> Iterator[str]:
    """Yield what calls of these names are given."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node) in names:
            for given in node.args:
                yield from texts(given)


def _of_exercises(tree: ast.Module) -> Iterator[str]:
    """Yield task, why, hints and known mistakes of each exercise, and the notes of its cases."""
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        for call in (node for node in function.decorator_list if isinstance(node, ast.Call)):
            if _name(call) == "exercise":
                yield " ".join(inspect.cleandoc(ast.get_docstring(function) or "").split())
                for option in call.keywords:
                    if option.arg in ("why", "hints"):
                        yield from texts(option.value)
            elif _name(call) == "mistake":
                yield from texts(call.args[0])
        loops = [
            node for node in ast.walk(function) if isinstance(node, (ast.For, ast.comprehension))
        ]
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            for option in call.keywords if _name(call) == "case" else ():
                if option.arg == "note":
                    yield from texts(option.value)
                    shown = {  # as Python writes it, so no words
                        id(node.value)
                        for node in ast.walk(option.value)
                        if isinstance(node, ast.FormattedValue) and node.conversion == ord("r")
                    }
                    for node in ast.walk(option.value):
                        if isinstance(node, ast.Name) and id(node) not in shown:
                            yield from _looped(node.id, loops, function)


def _looped(name: str, loops: list, function: ast.FunctionDef) -> Iterator[str]:
    """Yield the texts that a name takes in the loops or assignments of a function."""
    for loop in loops:
        target, given = loop.target, loop.iter
        if isinstance(given, ast.Call) and _name(given) == "enumerate":
            target, given = target.elts[1], given.args[0]
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        rows = given.elts if isinstance(given, (ast.Tuple, ast.List)) else []
        for place, target in enumerate(names):
            if isinstance(target, ast.Name) and target.id == name:
                for row in rows:
                    cell = row.elts[place] if isinstance(row, ast.Tuple) else row
                    yield from texts(cell)
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in node.targets
        ):
            yield from texts(node.value)


def _of_charts(tree: ast.Module) -> Iterator[str]:
    """Yield the fixed words of charts: what is given to matplotlib as a text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if _name(node) in DRAWN:
                for given in node.args:
                    yield from texts(given)
            for option in node.keywords:
                if option.arg in LABELS:
                    yield from texts(option.value)
        elif isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
            yield from (text for text in texts(node.iter) if "_" not in text)
    # Longer texts reach a chart by other ways, such as an argument or a dict.
    yield from (text for text in _all(tree) if " " in text and not COLUMN.search(text))


def _docstrings(tree: ast.Module) -> set[int]:
    return {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }


def _all(tree: ast.Module, without: frozenset | set = frozenset()) -> Iterator[str]:
    """Yield every text of a file but for its docstrings and what the calls `without` are given."""
    left_out = _docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node) in without:
            left_out |= {id(one) for one in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, (ast.JoinedStr, ast.BinOp)):
            left_out |= {id(one) for one in ast.walk(node)}
            yield from texts(node)
        elif isinstance(node, ast.Constant):
            yield from texts(node)


def texts(node: ast.AST) -> Iterator[str]:
    """Yield the templates of an expression: its own, those of choices, and those in holes."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield _escaped(node.value)
    elif isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)
    ):
        template = _template(node)
        if template:
            yield template
        for hole in _holes(node):
            yield from texts(hole)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        yield from texts(node.left)
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from texts(value)
    elif isinstance(node, (ast.Tuple, ast.List)):
        for one in node.elts:
            yield from texts(one)
    elif isinstance(node, ast.Dict):
        for one in node.values:
            yield from texts(one)
    elif isinstance(node, ast.Subscript):
        yield from texts(node.value)
    elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "get":
        yield from texts(node.func.value)


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _pieces(node: ast.AST) -> Iterator[str | ast.AST]:
    """Yield an expression's fixed texts as strings and what is filled in as nodes."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        for value in node.values:
            yield from _pieces(value)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from _pieces(node.left)
        yield from _pieces(node.right)
    elif isinstance(node, ast.FormattedValue):
        yield node.value
    else:
        yield node


def _holes(node: ast.AST) -> Iterator[ast.AST]:
    return (piece for piece in _pieces(node) if not isinstance(piece, str))


def _template(node: ast.AST) -> str:
    """Write an f-string or a sum of strings as a template; neighbouring holes become one."""
    text, used, after_hole = "", set(), False
    for piece in _pieces(node):
        if isinstance(piece, str):
            text += _escaped(piece)
            after_hole = after_hole and not piece
        elif not after_hole:
            name = base = _hole(piece)
            number = 2
            while name in used:
                name, number = f"{base}{number}", number + 1
            used.add(name)
            text, after_hole = text + "{" + name + "}", True
    return text


def _hole(node: ast.AST) -> str:
    """Name a hole: "plural" for an ending, else by the last name of its expression."""
    if _is_ending(node):
        return "plural"
    if isinstance(node, ast.Attribute):
        name = node.attr
    elif isinstance(node, ast.Name):
        name = node.id
    elif isinstance(node, ast.Call) and node.args:
        return _hole(node.args[0])
    elif isinstance(node, ast.Call):
        return _hole(node.func)
    elif isinstance(node, ast.Subscript):
        return _hole(node.value)
    else:
        names = [one for one in ast.walk(node) if isinstance(one, (ast.Name, ast.Attribute))]
        return _hole(names[0]) if names else "value"
    return name.strip("_").lower() or "value"


def _is_ending(node: ast.AST) -> bool:
    """Check for an English ending or verb that depends on a number: 's' * (n != 1)."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        ends = [node.left, node.right]
        ends = [one for one in ends if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    elif isinstance(node, ast.IfExp):
        ends = [node.body, node.orelse]
    else:
        return False
    return bool(ends) and all(
        isinstance(one, ast.Constant) and one.value in ("", "s", "es", "is", "are", "it", "them")
        for one in ends
    )
