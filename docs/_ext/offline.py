"""Extend Sphinx for offline use: MathML, an English and Chinese search index, docstrings."""

from __future__ import annotations

import re

from docutils import nodes
from docutils.core import publish_doctree
from docutils.utils import SystemMessage
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.search.en import SearchEnglish

CJK = "\u3400-\u9fff"


class SearchBoth(SearchEnglish):
    """A search language for English and Chinese.

    English is indexed as Sphinx does it. Chinese text has no spaces, so each pair of neighbouring
    characters is a term, in the index and in a query.
    """

    js_splitter_code = """
var splitQuery = (query) =>
  (query.match(/[%(cjk)s]+|(?:(?![%(cjk)s])[\\p{Letter}\\p{Number}_])+/gu) || []).flatMap((run) =>
    !/[%(cjk)s]/.test(run) || run.length < 3
      ? [run] : [...run].slice(1).map((next, at) => run[at] + next));
""" % {"cjk": r"\u3400-\u9fff"}  # noqa: UP031 (the braces are JavaScript's)

    def split(self, input: str) -> list[str]:
        """Split a text into search terms: words, and pairs of Chinese characters.

        A single Chinese character is a term only if it stands alone.
        """
        words = []
        for run in re.findall(rf"[{CJK}]+|[^\W{CJK}]+", input):
            pairs = re.match(rf"[{CJK}]", run) and len(run) > 2
            words += [run[at : at + 2] for at in range(len(run) - 1)] if pairs else [run]
        return words


def formula(self, node: nodes.math) -> None:
    """Render an inline formula as MathML, which browsers draw themselves."""
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def display(self, node: nodes.math_block) -> None:
    """Render a display formula as MathML."""
    self.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def plain_text(
    app: Sphinx, what: str, name: str, of: object, options: object, lines: list[str]
) -> None:
    """Convert a docstring to reStructuredText in place.

    Text between backticks becomes code, everything else stays as it is written, and indented lines
    become a code block.
    """
    pieces = re.split(r"(`[^`]+`)", "\n".join(lines))
    pieces = [
        (
            f"\\ ``{' '.join(piece.strip('`').split())}``\\ "
            if piece.startswith("`")
            else re.sub(r"([*|_\\`])", r"\\\1", piece)
        )
        for piece in pieces
    ]
    lines[:] = re.sub(r"\n\n(?= {4})", "\n\n::\n\n", "".join(pieces)).split("\n")


def fault(docstrings: list[str]) -> str:
    """Return Sphinx's complaint about a file's docstrings; empty if there is none.

    Builds no page, so it is quick enough for a test of all files.
    """
    texts = []
    for docstring in docstrings:
        lines = docstring.split("\n")
        plain_text(None, "", "", None, None, lines)
        texts.append(str(GoogleDocstring(lines)))
    try:
        publish_doctree("\n\n".join(texts), settings_overrides={"halt_level": 2, "report_level": 5})
    except SystemMessage as error:
        return str(error)
    return ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the formulas, the search language and the docstring conversion with Sphinx."""
    app.add_html_math_renderer(
        "mathml", inline_renderers=(formula, None), block_renderers=(display, None)
    )
    app.add_search_language(SearchBoth)
    app.connect(
        "autodoc-process-docstring", plain_text, priority=100
    )  # before napoleon, which reads the sections
    return {"parallel_read_safe": True, "parallel_write_safe": True}
