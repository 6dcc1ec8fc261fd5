"""Tell what two texts must share, besides their words, to be called copies of each other.

Words alone do not tell "12 + 30" from "12 - 30", C from C#, or a loop's body from what follows it.
In prose a reader also needs the numbers, operators and other signs but punctuation, emoji, the
negations, and the case of single letters. In code every sign, name and string counts as it is
spelled, and how deep a line stands; comments are prose.
Spaces and line breaks, empty lines, the width of an indent, punctuation, the case of words, marks
of lists and headings, and full-width against half-width forms are left out: nobody would call two
texts different for them. Where this is in doubt, texts are different.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

# Signs, symbols and emoji, for a class of a pattern: ASCII's signs that are no punctuation, and
# Unicode's blocks of currencies, arrows, operators, shapes and pictures.
SYMBOL = (
    "%$#@&/\\\\^~|<>=+¢£¤¥§¬°±×÷\u2030\u2044\u20a0-\u20cf\u2190-\u23ff\u2500-\u27bf\u2900-\u2bff"
    "\U0001f000-\U0001faff"
)
# A letter or digit of a script with spaces between words; a name may stand among Chinese letters.
_W = "[^\\W_\u3400-\u9fff]"
_NAME = "[B-HJ-Zb-hj-z](?![A-Za-z])"  # a single letter that is no word
_PIECE = re.compile(
    r"\d+(?:[.:]\d+)*"
    rf"|{_W}+(?:['’.]{_W}+|-{_W}{{2,}})*"
    "|[不没沒無无未勿]|(?<![特区分级告])别(?!人|的)|非(?!常|洲)|否(?!则)"
    rf"|[{SYMBOL}]"
    # A star or a dash beside a number or a single letter; elsewhere they stress or part words.
    r"|(?<=\d)[ ]*(?:\*+|-)|-[ ]*(?=\d)"
    rf"|(?<=[)\]])[ ]*[-*](?=[ ]*(?:[\d(]|{_NAME}))|-[ ]+(?={_NAME})"
    r"|(?<![A-Za-z]{2})(?<=[B-HJ-Zb-hj-z])[ ]*[-*](?!\*|[A-Za-z]{2})"
    r"|(?<![A-Za-z]{2})(?<=[AaIi])\*(?!\*)"
    r"|(?<=[\d)\]])!(?=\s*[-+*/=^)?,])|(?<![^\s(])!(?=[A-Za-z(])|!(?==)"  # factorial, not
    r"|\((?=[^()\n]*(?:[+/^=<>×÷√]|\d[ ]*[-*]|[-*][ ]*[\d(]))|\[(?=\d)"
)
# Chinese characters that no alternative above names: a run of them says no more than one.
SILENT = re.compile("[^\x00-\u33ff\ua000-\U0010ffff不没沒無无未勿别非否特区分级告人的常洲则]{2,}")
_NOT = {
    *("not", "never", "none", "nobody", "nothing", "neither", "nor", "no", "without", "cannot"),
    *("unless", "except", "hardly", "rarely"),
}
_SHORT_NOT = re.compile(
    r"\w+n['’]t|(?:do|does|did|is|are|was|were|wo|ca|could|would|should|has|have|had|must|need)nt"
)
_OTHER_WORDS = {"US", "IT", "WHO"}  # that are other words in small letters
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_RAISED = re.compile("[⁰¹²³⁴-⁹⁺⁻ⁿ]+")  # compatibility forms would make 10² the number 102
_BULLET = re.compile(r"^[ \t]*(?:#{1,6}|>|[-*+•●○▪■◦])[ \t]+(?!\d)", re.MULTILINE)
# Dashes are one sign, and an emoji's skin and shape do not count.
_LIKE = dict.fromkeys((*range(0x2010, 0x2016), 0x2212), "-") | dict.fromkeys(
    (0xFE0F, *range(0x1F3FB, 0x1F400))
)

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)
_LEFT = r"(?:[A-Za-z_]\w*[ \t]+){0,2}[A-Za-z_][\w.'\"\[\](),]*(?:,[ \t]*[A-Za-z_][\w.\[\]]*)*"
_CODE = re.compile(
    r"^[ \t]*(?:"
    # the head of a block, of a function or a class
    r"(?:def|class|if|elif|else|for|while|try|except|finally|with|async|match|case)\b.*:"
    r"|(?:async[ ])?(?:def|class|function|func|fn)[ ]\w+[ ]?[(:<{].*"
    # a line that ends as a statement or a block does
    r"|.*[{}]\)?[;,]?|[^;\n]*(?:=|\w[(\[])[^;\n]*;"
    # an assignment or a comparison, a call
    rf"|{_LEFT}[ \t]*(?:[-+*/%|&^]|//|\*\*|:|[!=<>]|<<|>>)?=.*"
    r"|@?[A-Za-z_][\w.]*\(.*\)[;,{:]?"
    r"|(?:return|raise|yield|del|assert|import)[ ]\S+|(?:pass|break|continue|return);?"
    r"|from[ ]\S+[ ]import[ ].*|\#(?:include|define|ifn?def|if|endif|pragma)\b.*"
    r")[ \t]*(?:\#[ ].*)?$",
    re.MULTILINE,
)
# Every alternative of `_CODE` needs one of these signs or words; most prose has none of them.
_CODE_SIGN = re.compile("[:;(<{}=#]")
_CODE_WORD = re.compile("return|raise|yield|del|assert|import|pass|break|continue")
_COMMENT = re.compile(
    r"^[ \t]*(?:#(?!!|include|define|if|endif|pragma)|//|--[ ])|[ \t]#[ ]|(?<=[;{},)])[ \t]*//"
)
_TOKEN = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|`[^`]*`|\w+|[^\w\s]")


def marks(text: str) -> str:
    """List what carries meaning in a text besides its words; equal for copies of each other."""
    if not text.isascii():
        text = _RAISED.sub(lambda found: f"^{found[0]}", text.translate(_LIKE))
        text = unicodedata.normalize("NFKC", text)
    if not (_FENCE.search(text) or (may_be_code(text) and _CODE.search(text))):
        return _prose(text)
    found: list[str] = []
    depths, fenced, before = [0], False, False
    for line in text.split("\n"):
        if not line.strip():
            continue
        if _FENCE.match(line):
            fenced = before = not fenced
            continue
        code, comment = line, ""
        start = _COMMENT.search(line)
        if start and all(line[: start.start()].count(quote) % 2 == 0 for quote in "\"'"):
            code, comment = line[: start.start()], line[start.end() :]
        if code.strip():
            before = fenced or bool(_CODE.match(code)) or (before and line[0] in " \t")
            found.append(_code(code, depths) if before else _prose(code))
        found.append(_prose(comment))
    return " ".join(filter(None, found))


def digest(text: str) -> int:
    """Hash a text's marks to 64 bits, the same in every process; 0 for a text without any."""
    found = marks(text)
    if not found:
        return 0
    sum_of = hashlib.blake2b(found.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(sum_of.digest(), "big")


def holds(longer: Sequence[str], shorter: Sequence[str]) -> bool:
    """Tell whether one list of words is the other with some left out, in the same order."""
    rest = iter(longer)
    return all(word in rest for word in shorter)


def _prose(text: str) -> str:
    if re.search(r"\d,\d", text):
        text = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    if text.isupper():
        text = text.replace("IT", "it").replace("WHO", "who").replace("US", "us")
    text = SILENT.sub("一", _BULLET.sub("", text))
    return " ".join(filter(None, map(_mark, _PIECE.findall(text))))


def may_be_code(text: str) -> bool:
    """Tell fast whether a text could have a line of code; most prose could not."""
    return bool(_CODE_SIGN.search(text) or _CODE_WORD.search(text))


@lru_cache(maxsize=1 << 16)
def _mark(piece: str) -> str:
    """Write a piece of prose as its mark, "" for a word that is none."""
    if not piece[-1].isalpha():
        return piece.strip().lower()
    if len(piece) == 1:
        return "" if piece in "aAiI" else piece
    word = piece.lower()
    if word in _NOT or _SHORT_NOT.fullmatch(word):
        return "not" if word not in _NOT - {"cannot"} else word
    return piece if piece in _OTHER_WORDS else word if any(map(str.isdigit, word)) else ""


def _code(line: str, depths: list[int]) -> str:
    """Write a line of code as its depth and tokens; `depths` are the open indents, as columns."""
    line = line.expandtabs(8)
    column = len(line) - len(line.lstrip())
    while column < depths[-1]:
        depths.pop()
    if column > depths[-1]:
        depths.append(column)
    return " ".join([f"\n{len(depths) - 1}", *_TOKEN.findall(line)])
