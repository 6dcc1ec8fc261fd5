"""Tell the encoding of a text by its bytes, only as far as they are certain."""

from __future__ import annotations

import codecs
import re

# UTF-32's marks begin with UTF-16's and are tried first.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_HIGH = re.compile(rb"[\x80-\xff]+")


def wide(head: bytes) -> str | None:
    """Return "utf-16" or "utf-32" where a text begins with that encoding's mark, else None."""
    return next((name for mark, name in MARKS.items() if head.startswith(mark)), None)


def guess(data: bytes) -> str | None:
    """Guess what a text that is not UTF-8 is encoded in, by the names of `iconv`; None if unsure.

    UTF-16 without a mark has a null byte in every second place of its ASCII characters. GBK writes
    a Chinese character as two bytes of 0x80 and above, nearly always from GB 2312's common ones,
    so such bytes come in even runs; CP1252 writes a letter with an accent, or a curly quote, as one
    such byte among ASCII letters.
    """
    nulls = [data[place::2].count(0) for place in (0, 1)]
    if max(nulls) > len(data) / 8 and min(nulls) <= max(nulls) / 20:
        return ("UTF-16BE", "UTF-16LE")[nulls.index(max(nulls))]
    chinese = western = 0.0
    for run in _HIGH.finditer(data):
        before, after = data[run.start() - 1 : run.start()], data[run.end() : run.end() + 1]
        size = len(run[0])
        if size % 2 or (size == 2 and (before + after).isalpha()):
            western += 1
        else:
            chinese += size / 2
    if chinese > western and _is_chinese(data):
        return "GBK"
    if western > chinese and _decodes(data, "cp1252"):
        return "CP1252"
    return None


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _is_chinese(data: bytes) -> bool:
    """Check that a text reads as GBK, most of it in the characters of GB 2312."""
    # The data may be cut within its last character.
    text = next(
        (data[:end].decode("gb18030") for end in (None, -1) if _decodes(data[:end], "gb18030")), ""
    )
    foreign = [character for character in text if not character.isascii()]
    common = 0
    for character in foreign:
        try:
            common += len(character.encode("gb2312")) == 2
        except UnicodeEncodeError:
            continue
    return bool(foreign) and common >= 0.8 * len(foreign)
