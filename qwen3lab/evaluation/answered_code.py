"""Find the Python program in a model's answer.

The rule: of the fenced blocks, the first that defines what the tests call is the program, with the
blocks of imports and definitions before it; if none does, the first one marked as Python, then the
first without a mark, then any. Without a fence it is the whole answer if that is Python, else code
within the line, else the lines of code between the prose. A program is taken as it is written: it
is never mended, and white space is changed only where all of it is indented.
"""

from __future__ import annotations

import ast
import builtins
import doctest
import re
import textwrap
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from qwen3lab import chat

SPACES = "[ \\t\\u00a0\\u3000\\ufeff\\u200b]*"
# Three or more of either sign, also of full width, behind white space, quote signs, list marks ...
OPENING = re.compile(
    rf"(?P<lead>{SPACES}(?:(?:>|[-*+]|\d+[.)、]){SPACES})*)(?P<mark>[`｀]{{3,}}|~{{3,}})"
    r"(?P<info>[^`｀]*)"
)
# ... or behind text that leads up to it.
LED_UP_TO = re.compile(r"(?P<lead>[^`]*\S[ \t]*)(?P<mark>`{3,})(?P<info>[ \t]*[\w.+{}-]*[ \t]*)")
PYTHON = re.compile(r"(?:i?python|py)(?!tb)", re.IGNORECASE)
STARTS_CODE = re.compile(r"(?:def|class|async def|import|from|@)\b|@")
BUILTINS = frozenset(dir(builtins))
# What may stand before a program as a part of it: it defines, and does nothing else.
DEFINING = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class _Block:
    """A fenced block: the first word of its mark, in lower case, and its text."""

    mark: str
    code: str


def called(tests: Iterable[str]) -> set[str]:
    """Collect the names of the functions that lines of tests call, other than Python's own."""
    names: set[str] = set()
    for test in tests:
        for node in ast.walk(_parsed(test) or ast.Module([], [])):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names.add(node.func.id)
    return names - BUILTINS


def code_of(answer: str, tests: Iterable[str] = ()) -> str:
    """Extract the Python program of an answer; thoughts are left out.

    Args:
        tests: lines that call the program's functions; without them any function counts.
    """
    text = re.sub(r"\r\n?", "\n", chat.split_thinking(answer)[1])
    wanted = called(tests)
    strict = _chosen(_blocks(text), wanted)
    if strict is None:
        return _unfenced(text, wanted)
    if _parsed(strict) is None:  # the fence may be closed at the end of a line of code
        loose = _chosen(_blocks(text, loose=True), wanted)
        if loose is not None and _parsed(loose) is not None:
            return loose
    return strict


def _parsed(code: str) -> ast.Module | None:
    """Parse a program; None if it is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in a string is the answer's affair
            return ast.parse(code)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def _blocks(text: str, loose: bool = False) -> list[_Block]:
    """List the fenced blocks of a text; the last may lack its end.

    `loose`: a fence also ends behind the last line of the code, on that line.
    """
    found: list[_Block] = []
    opened, lines = None, list[str]()
    for line in (*text.split("\n"), None):
        if opened is None:
            opened = line is not None and (
                OPENING.fullmatch(line) or _leads(LED_UP_TO.fullmatch(line))
            )
            opened, lines = opened or None, []
            continue
        mark, quoted = opened["mark"], opened["lead"].count(">")
        if line is None:
            found.append(_block(opened, lines, closed=False))
            break
        bare = re.sub(rf"^(?:\s*>){{0,{quoted}}}", "", line)
        run = rf"([^{re.escape(mark[0])}]*)[{re.escape(mark[0])}]{{{len(mark)},}}"
        if (ends := re.fullmatch(rf"{run}\s*", bare)) and ends[1].strip() == "":
            ends = ends if len(ends[1]) < len(opened["lead"]) + 4 else None
        else:
            ends = re.match(run, bare) if loose else None
            lines += [ends[1]] if ends else []
        if ends:
            found.append(_block(opened, lines))
            opened = None
        else:
            lines.append(bare)
    return found


def _leads(found: re.Match | None) -> re.Match | None:
    """Keep the start of a fence behind text only where it is one: marked, or behind a colon."""
    if found and (PYTHON.match(found["info"].strip()) or found["lead"].rstrip()[-1] in ":："):
        return found
    return None


def _block(opened: re.Match, lines: list[str], closed: bool = True) -> _Block:
    """Make a block of its lines, which stand as far to the right as its fence does."""
    mark = re.split(r"[\s:,;=}]", opened["info"].strip().lstrip("{."), maxsplit=1)[0]
    first = next((line for line in lines if line.strip()), "")
    room = len(opened["lead"]) if opened.re is OPENING else 0
    room = min(room, len(first) - len(first.lstrip()))
    code = "\n".join(re.sub(rf"^\s{{0,{room}}}", "", line) for line in lines)
    return _Block(mark.casefold(), _plain(code + "\n" * closed))


def _plain(code: str) -> str:
    """Take the prompts and the output out of a session, and indentation off a whole program."""
    first = next((line for line in code.split("\n") if line.strip()), "")
    if first.lstrip().startswith(">>>"):
        try:
            examples = doctest.DocTestParser().get_examples(code)
        except ValueError:  # half a session
            return code
        return "".join(example.source for example in examples)
    return textwrap.dedent(code) if first[:1] in (" ", "\t") else code


def _defined(code: str) -> tuple[set[str], set[str]]:
    """Return the names that a program defines, and those of them that are functions or classes."""
    names, functions = set[str](), set[str]()
    for node in getattr(_parsed(code), "body", ()):
        if isinstance(node, DEFINING[2:]):
            functions.add(node.name)
        elif isinstance(node, DEFINING[:2]):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign):
            targets = {t.id for target in node.targets for t in ast.walk(target)
                       if isinstance(t, ast.Name)}  # fmt: skip
            names |= targets
            if isinstance(node.value, ast.Lambda):
                functions |= targets
    return names | functions, functions


def _chosen(blocks: list[_Block], wanted: set[str]) -> str | None:
    """Choose the program among the blocks of an answer, by the rule of this file."""
    defined = [_defined(block.code) for block in blocks]
    for fits in (
        lambda names, functions: wanted and wanted <= names,
        lambda names, functions: wanted & names,
        lambda names, functions: not wanted and functions,
    ):
        place = next((n for n, names in enumerate(defined) if fits(*names)), None)
        if place is not None:
            before = (block.code for block in blocks[:place] if _only_defines(block))
            return "".join([*before, blocks[place].code])
    for fits in (lambda mark: PYTHON.match(mark), lambda mark: not mark, lambda mark: True):
        for block in blocks:
            if fits(block.mark):
                return block.code
    return None


def _only_defines(block: _Block) -> bool:
    """Whether a block is Python that a program behind it may need."""
    tree = _parsed(block.code)
    return (
        (not block.mark or PYTHON.match(block.mark) is not None)
        and tree is not None
        and all(isinstance(node, (*DEFINING, ast.Assign, ast.AnnAssign)) for node in tree.body)
    )


def _unfenced(text: str, wanted: set[str]) -> str:
    """Find a program that stands in an answer without a fence."""
    code = _plain(text)
    if _parsed(code) is not None:
        return code
    for span in re.findall(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", text, re.DOTALL):
        inline = re.sub(r"^(?:python3?|py)\s+", "", span[1].strip())
        names, functions = _defined(inline)
        if wanted & names or (not wanted and functions):
            return inline
    lines = textwrap.dedent(text).split("\n")
    starts = [n for n, line in enumerate(lines) if STARTS_CODE.match(line)]
    for start in starts:
        for end in range(len(lines), start, -1):
            piece = "\n".join(lines[start:end]) + "\n"
            if _defined(piece)[1]:
                return _without_prose(piece)
    sessions = [n for n, line in enumerate(lines) if line.startswith(">>>")]
    if sessions:
        return _plain("\n".join(lines[sessions[0] :]))
    return text


def _without_prose(code: str) -> str:
    """Cut off words behind a program that happen to be Python as well ("Thanks")."""
    kept = [
        node
        for node in ast.parse(code).body
        if not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call)
    ]
    return "\n".join(code.split("\n")[: kept[-1].end_lineno]) + "\n"
