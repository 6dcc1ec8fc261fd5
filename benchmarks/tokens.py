"""Measure characters per token of the released Qwen3 tokenizer and the tiny one, by language.

`python benchmarks/tokens.py PATH/qwen.tiktoken`. The vocabulary file is part of the package
`dashscope` (`dashscope/resources/qwen.tiktoken`); get it with `pip download --no-deps dashscope`.
Writes `data/benchmarks/tokens.json`.
"""

from __future__ import annotations

import argparse
import base64
import json
from datetime import date
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from qwen3lab import models, paths
from qwen3lab.data import formats, tasks
from qwen3lab.data.lengths import characters_per_token


def halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Find the last BPE merge of a token: encoding it with only earlier merges leaves two parts."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        place = min(
            range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], len(ranks))
        )
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts[0], parts[1]


def released(path: Path) -> PreTrainedTokenizerFast:
    """Build the released models' tokenizer without its control tokens.

    The pre-tokenization rules are those of the tiny one, which are Qwen's.
    """
    ranks = {
        base64.b64decode(token): int(rank)
        for token, rank in map(str.split, path.read_text().splitlines())
    }
    letter = bytes_to_unicode()

    def write(token: bytes) -> str:
        return "".join(letter[byte] for byte in token)

    fields = json.loads(models.load_tokenizer("qwen3-tiny").backend_tokenizer.to_str())
    fields |= {"added_tokens": [], "post_processor": None}
    fields["model"] |= {
        "vocab": {write(token): rank for token, rank in ranks.items()},
        "merges": [list(map(write, halves(token, ranks))) for token in ranks if len(token) > 1],
    }
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(fields)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vocabulary", type=Path)
    args = parser.parse_args()
    rows = {
        "samples": [
            row
            for name, file in formats.SAMPLES.items()
            for row in formats.convert(formats.read_raw(paths.DATA / "samples" / file), name).rows
        ],
        "handbook questions": tasks.load("handbook", "test"),
    }
    texts = {
        f"{source} {language}": [
            message["content"]
            for row in part
            if row["language"] == language
            for message in row["messages"]
            if message["content"]
        ]
        for source, part in rows.items()
        for language in ("en", "zh")
    }
    tables = {
        "released": characters_per_token(released(args.vocabulary), texts),
        "tiny": characters_per_token(models.load_tokenizer("qwen3-tiny"), texts),
    }
    result = {
        name: json.loads(table.round(3).to_json(orient="index")) for name, table in tables.items()
    }
    result["measured"] = {
        "date": date.today().isoformat(),
        "command": "python benchmarks/tokens.py qwen.tiktoken",
        "vocabulary": "dashscope 2.0.2, 151,643 entries",
    }
    out = paths.DATA / "benchmarks" / "tokens.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(out.read_text())


if __name__ == "__main__":
    main()
