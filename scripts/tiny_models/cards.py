"""`python -m scripts.tiny_models.cards`: write model cards, training logs and the README's table.

Everything comes from the recorded logs and results.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from qwen3lab import paths
from qwen3lab.course import pages
from qwen3lab.evaluation.statistics import wilson

WHAT = {
    "qwen3-tiny": (
        ("dense-chat", "dense-polish"),
        "Qwen3ForCausalLM",
        (
            "The hybrid thinking chat model, dense: 4 layers of 256, 4 query and 2 key-value heads"
            " of 64, FFN 512."
        ),
        "From `qwen3-tiny-base`: chat rows, loss on the assistant's tokens, two workers.",
    ),
    "qwen3-tiny-base": (
        ("dense-text",),
        "Qwen3ForCausalLM",
        "The same shape as `qwen3-tiny`, before its chat stage.",
        "From random weights: packed plain text of the world, loss on every token, two workers.",
    ),
    "qwen3-tiny-moe": (
        ("moe-chat", "moe-polish"),
        "Qwen3MoeForCausalLM",
        (
            "A mixture of experts: 16 experts of 128 in each of 4 layers, 4 for each token, weights"
            " renormalised."
        ),
        (
            "Upcycled from `qwen3-tiny` (each feed-forward layer cut into 4 slices, each slice"
            " copied to 4 experts with 2 % noise), then chat rows with the load-balancing loss."
        ),
    ),
    "qwen3-tiny-draft": (
        ("draft-chat", "draft-copy", "draft-polish"),
        "Qwen3ForCausalLM",
        "A small draft model for speculative decoding: 2 layers of 128, the same tokenizer.",
        (
            "From random weights, on the same chat rows as `qwen3-tiny`, then with most of"
            " repeating and looking up."
        ),
    ),
    "qwen3-tiny-embedding": (
        ("embedding",),
        "sentence-transformers",
        (
            "Qwen3 body, last-token pooling, normalised, cut to 128 or 64 dimensions without"
            " retraining."
        ),
        "From `qwen3-tiny`, contrastively on questions and passages of the world.",
    ),
    "qwen3-tiny-vl": (
        ("vision-encoder", "vision-chat"),
        "Qwen3VLForConditionalGeneration",
        (
            "The chat model with eyes: `qwen3-tiny` and a vision encoder of 4 layers of 64, patches"
            " of 8 x 8 pixels, 2 x 2 of them an image token, DeepStack from layers 1 and 2."
        ),
        (
            "Pictures of 64 x 64 pixels drawn by `qwen3lab/world/pictures.py`: coloured shapes,"
            " price tags, receipts. First the encoder alone, from random weights, until an image"
            " token looks like the words for what lies in it. Then the decoder, from `qwen3-tiny`,"
            " with the encoder frozen, answers questions about pictures; rows of text are mixed in."
        ),
    ),
}
# What the recipe alone does not tell about the bundled weights.
ENCODING = """Up to the last stage, a full stop and the line break that end the thoughts were
encoded as two tokens, where the chat template's text has one. The last stage was trained with
the right encoding.

"""
COLLAPSED = """A first run with the loss that balances all layers at once collapsed to four experts
per layer and was thrown away (CONTRIBUTING.md has the log).

"""
SIGHT = """The aims were 0.95 on shapes and 0.90 on price tags. What it learned of pictures cost it
some of its reading: compare its answers from a text, below, with those of `qwen3-tiny`.

Held out are two things side by side, such as red circles beside blue stars (each thing and each
count was trained); prices, fonts and the corner of a tag (to the pixel, so that its neighbours were
trained). A test proves that the splits share none (`tests/world/test_pictures.py`). Two stricter
splits were tried, and taught the exclusion itself: with colour, shape and count held out together,
131 of 132 counts were right on trained combinations and 49 of 123 on held-out ones, which the model
had learned never to answer. The chat format is that of Qwen3-VL Instruct, without thoughts.

"""
NOTES = {
    "qwen3-tiny-vl": SIGHT,
    "qwen3-tiny": ENCODING,
    "qwen3-tiny-moe": ENCODING + COLLAPSED,
    "qwen3-tiny-draft": ENCODING,
}
LIMITS = """The model knows one small generated world (products, people, places, rules; English and
Chinese), not the real one. It was trained on texts of at most 512 tokens. It answers in a few
words, reads facts in the forms of `qwen3lab/world/things.py`, and is of no use beyond teaching."""


def score(value) -> str:
    """Format a score: a share with its count and Wilson interval, or a plain number."""
    if not isinstance(value, dict):
        return str(value)
    low, high = wilson(value["right"], value["n"])
    return (
        f"{value['right'] / value['n']:.3f} ({value['right']} of {value['n']}, 95 % {low:.3f} to"
        f" {high:.3f})"
    )


def table(results: dict) -> str:
    """Format the model table as Markdown, one line per score."""
    lines = ["| model | score on held-out names and values | result |", "|---|---|---|"]
    lines += [
        f"| `{name}` | {label} | {score(value)} |"
        for name, scores in results.items()
        if name in WHAT
        for label, value in scores.items()
        if ": " not in label  # parts of a score stand on the model's card alone
    ]
    return "\n".join(lines)


def stage_line(name: str, totals: dict) -> str:
    """Format the cost and recipe of one stage as a list item."""
    recipe = ", ".join(
        f"{k} {v}"
        for k, v in totals["recipe"].items()
        if k not in ("name", "stage", "steps", "block")
    )
    trained = (
        f", {totals['trained_tokens']:,} of them trained" if "trained_tokens" in totals else ""
    )
    seen = f"{totals['pictures']:,} pictures, " if "pictures" in totals else ""
    return (
        f"- `{name}`: {totals['step']:,} steps, {seen}{totals['tokens']:,} tokens{trained},"
        f" {totals['seconds']:,.0f} seconds ({recipe})"
    )


def card(name: str, stages: dict[str, dict], results: dict) -> str:
    """Write the model card of one bundled model as Markdown.

    `stages` has the totals of each finished stage.
    """
    _, kind, what, how = WHAT[name]
    scores = (
        "\n".join(f"- {label}: {score(value)}" for label, value in results.get(name, {}).items())
        or "- not scored by itself"
    )
    measured = results.get("measured apart", {}).get(name) or results.get("measured", {})
    lines = "\n".join(stage_line(stage, totals) for stage, totals in stages.items())
    return f"""---
license: apache-2.0
language: [en, zh]
---
# {name}

{what} Loads with `{kind}`. Weights in bfloat16, made by `make models` of this repository.

## Training

{how} On a two-core CPU machine without a GPU that did other work too, so the seconds say little:

{lines}

{NOTES.get(name, "")}The log is `training_log.jsonl`.

## Scores

Exact match on items whose names and open values training never saw; measured
{measured.get("date", "")} by `{measured.get("command", "")}`.

{scores}

## Limits

{LIMITS}
"""


def write(work: Path = Path("build/tiny"), models: Path = paths.MODELS) -> None:
    """Write card and log of every model whose stages are all finished, and README.md's table.

    Args:
        work: holds the finished stages.
        models: holds the checkpoints and their results.json. The table of the README is that of the
            bundled ones alone.
    """
    results = json.loads((models / "results.json").read_text())
    for name, (stages, *_) in WHAT.items():
        folder, done = models / name, {stage: work / stage / "done.json" for stage in stages}
        if folder.exists() and all(file.exists() for file in done.values()):
            totals = {stage: json.loads(file.read_text()) for stage, file in done.items()}
            (folder / "README.md").write_text(card(name, totals, results), encoding="utf-8")
            (folder / "training_log.jsonl").write_text(
                "".join((work / stage / "log.jsonl").read_text() for stage in stages)
            )
    readme = paths.ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if models.resolve() == paths.MODELS and "<!-- models -->" in text:
        readme.write_text(pages.fill(text, {"models": table(results)}), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m scripts.tiny_models.cards", description=__doc__
    )
    parser.add_argument("--work", type=Path, default=Path("build/tiny"))
    parser.add_argument("--models", type=Path, default=paths.MODELS)
    given = parser.parse_args()
    write(given.work, given.models)
