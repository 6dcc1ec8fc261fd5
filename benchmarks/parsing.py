"""Benchmark PDF parsing: read and chunk 1,000 pages, and count what becomes of corrupted PDFs.

`python benchmarks/parsing.py`. The book of 1,000 pages is the handbook, copied until it has as
many: English and Chinese, headings, tables, footers. Wall-clock and CPU seconds are both recorded,
since the machine may be busy. Corrupted files: every kind of `retrieval.damaged_pdf` with the exact
message that a user sees, and random corruptions of an excerpt: read whole, read with text missing
or changed (with or without the warning), refused in one sentence, or anything else, which would be
a bug. Writes `data/benchmarks/parsing.json`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import record
from pypdf import PdfReader, PdfWriter

from qwen3lab import chat, models, paths, retrieval
from qwen3lab.data.pdf import read_pdf
from qwen3lab.errors import Qwen3labError
from qwen3lab.retrieval import damaged_pdf

LIMITS = ((100, 0), (500, 50))  # tokens of a chunk, overlap
EXCERPT = {"English": range(5, 9), "Chinese": range(23, 26)}


def long_book(path: Path, pages: int) -> Path:
    """Repeat the handbook, without its cover and contents, until it has `pages` pages.

    Each copy has its own objects.
    """
    writer, usable = PdfWriter(), len(PdfReader(paths.HANDBOOK).pages) - 2
    for start in range(0, pages, usable):
        writer.append(
            str(paths.HANDBOOK), pages=(2, 2 + min(usable, pages - start)), import_outline=False
        )
    writer.write(path)
    return path


def timed(make) -> tuple[Any, dict[str, float]]:
    clock, cpu = time.perf_counter(), time.process_time()
    result = make()
    return result, {
        "seconds": round(time.perf_counter() - clock, 2),
        "cpu seconds": round(time.process_time() - cpu, 2),
    }


def outcome(path: Path, whole: list[str]) -> tuple[str, str]:
    """Classify the outcome of reading a file, and collect what the user is told.

    `whole` is the text of each page of the intact file.
    """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            texts = [page.text for page in read_pdf(path)]
        except Qwen3labError as error:
            return (
                "refused"
                if str(error).count(". ") == 1 and "\n" not in str(error)
                else "refused in other words"
            ), str(error)
        except Exception as error:  # must not happen; it is counted
            return "other error", type(error).__name__
    kept = "whole" if texts == whole else "with other text"
    return f"read {kept}{', with a warning' if told else ''}", "; ".join(
        str(warning.message) for warning in told
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=1000)
    parser.add_argument(
        "--damages",
        type=int,
        default=400,
        help="damages by chance, half of them of English and half of Chinese pages",
    )
    parser.add_argument("--note", default="", help="for example what else the machine was doing")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "parsing.json")
    args = parser.parse_args()
    tokenizer = models.load_tokenizer(paths.MODELS / "qwen3-tiny")
    with tempfile.TemporaryDirectory() as folder:
        book = long_book(Path(folder) / "long.pdf", args.pages)
        pages, reading = timed(lambda: read_pdf(book))
        result: dict[str, Any] = {
            "pages": len(pages),
            "megabytes": round(book.stat().st_size / 1e6, 1),
            "reading": reading,
            "chunking": [],
        }
        for most, overlap in LIMITS:
            chunks, spent = timed(lambda: retrieval.chunk(pages, tokenizer, most, overlap))
            longest = max(len(chat.plain_ids(tokenizer, chunk.text)) for chunk in chunks)
            result["chunking"].append(
                {
                    "most": most,
                    "overlap": overlap,
                    "chunks": len(chunks),
                    "longest": longest,
                    **spent,
                }
            )
        result["seconds in all"] = round(
            reading["seconds"] + max(part["seconds"] for part in result["chunking"]), 1
        )
        print(result, flush=True)

        path = Path(folder) / "book.pdf"
        result["kinds"], counts, slowest = [], Counter(), 0.0
        for language, places in EXCERPT.items():
            data = damaged_pdf.excerpt(paths.HANDBOOK, places)
            path.write_bytes(data)
            whole = [page.text for page in read_pdf(path)]
            path.unlink()
            if language == "English":
                for kind in ("missing", *damaged_pdf.KINDS):
                    found, told = outcome(damaged_pdf.make(kind, data, path), whole)
                    result["kinds"].append({"kind": kind, "outcome": found, "told": told})
                    path.unlink(missing_ok=True)
            for kind, changed in damaged_pdf.damaged(data, args.damages // 2):
                path.write_bytes(changed)
                (found, _), spent = timed(lambda: outcome(path, whole))
                counts[kind, found] += 1
                slowest = max(slowest, spent["seconds"])
        result["damages"] = [
            {"damage": kind, "outcome": found, "n": n}
            for (kind, found), n in sorted(counts.items())
        ]
        result["slowest seconds"] = slowest
    print(*result["kinds"], *result["damages"], sep="\n")
    record.write(args.out, result, "parsing.py", ("pypdf", "tokenizers"), args.note)


if __name__ == "__main__":
    main()
