"""`python -m qwen3lab.tiny.cards`: write the model cards, training logs and the README's table from what was recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from qwen3lab import paths
from qwen3lab.evaluation import wilson

WHAT = {
    "qwen3-tiny": ("dense-chat", "Qwen3ForCausalLM", "The hybrid thinking chat model, dense: 4 layers of 256, 4 query and 2 key-value heads of 64, FFN 512.",
                   "Stage 2 of 2, from `qwen3-tiny-base`: chat rows, loss on the assistant's tokens."),
    "qwen3-tiny-base": ("dense-text", "Qwen3ForCausalLM", "The same shape as `qwen3-tiny`, before its chat stage.",
                        "Stage 1 of 2, from random weights: packed plain text of the world, loss on every token."),
    "qwen3-tiny-moe": ("moe-chat", "Qwen3MoeForCausalLM", "A mixture of experts: 16 experts of 128 in each of 4 layers, 4 for each token, weights renormalised.",
                       "Upcycled from `qwen3-tiny` (each feed-forward layer cut into 4 slices, each slice copied to 4 experts with 2 % noise), then chat rows with the load-balancing loss."),
    "qwen3-tiny-draft": ("draft-copy", "Qwen3ForCausalLM", "A small draft model for speculative decoding: 2 layers of 128, the same tokenizer.",
                         "From random weights: 2,400 steps on the same chat rows as `qwen3-tiny`, then a stage with most of repeating and looking up, of which the numbers here tell."),
    "qwen3-tiny-embedding": ("embedding", "sentence-transformers", "Qwen3 body, last-token pooling, normalised, cut to 128 or 64 dimensions without retraining.",
                             "From `qwen3-tiny`, contrastively on questions and passages of the world."),
}
LIMITS = """The model knows one small generated world (products, people, places, rules; English and Chinese), not the real one. It was trained on
texts of at most 512 tokens. It answers in a few words, reads facts in the forms of `qwen3lab/tiny/world.py`, and is of no use beyond teaching."""


def score(value) -> str:
    """One score as text: a share with its count and Wilson interval, or a plain number."""
    if not isinstance(value, dict):
        return str(value)
    low, high = wilson(value["right"], value["n"])
    return f"{value['right'] / value['n']:.3f} ({value['right']} of {value['n']}, 95 % {low:.3f} to {high:.3f})"


def table(results: dict) -> str:
    """The model table as Markdown, one line a score."""
    lines = ["| model | score on held-out names and values | result |", "|---|---|---|"]
    lines += [f"| `{name}` | {label} | {score(value)} |" for name, scores in results.items() if name in WHAT for label, value in scores.items()]
    return "\n".join(lines)


def card(name: str, totals: dict, results: dict) -> str:
    """The model card of one bundled model as Markdown."""
    _, kind, what, how = WHAT[name]
    scores = "\n".join(f"- {label}: {score(value)}" for label, value in results.get(name, {}).items()) or "- not scored by itself"
    measured = results.get("measured", {})
    recipe = ", ".join(f"{k} {v}" for k, v in totals.get("recipe", {}).items() if k not in ("name", "stage", "block", "start"))
    return f"""---
license: apache-2.0
language: [en, zh]
---
# {name}

{what} Loads with `{kind}`. Weights in bfloat16, made by `make models` of this repository.

## Training

{how} {totals.get('steps', totals.get('step', 0)):,} steps, {totals.get('tokens', 0):,} tokens, of them {totals.get('trained_tokens', 0):,} trained;
{totals.get('seconds', 0):,.0f} seconds on a shared two-core CPU machine without a GPU. {('Recipe: ' + recipe + '.') if recipe else ''}
The log is `training_log.jsonl`.

## Scores

Exact match on items whose names and open values training never saw; measured {measured.get('date', '')} by `{measured.get('command', '')}`.

{scores}

## Limits

{LIMITS}
"""


def write(work: Path = Path("build/tiny")) -> None:
    """Write card and log of every model that has a finished stage in `work`, and the table in README.md."""
    results = json.loads((paths.MODELS / "results.json").read_text())
    for name, (stage, *_) in WHAT.items():
        done, folder = work / stage / "done.json", paths.MODELS / name
        if done.exists() and folder.exists():
            (folder / "README.md").write_text(card(name, json.loads(done.read_text()), results), encoding="utf-8")
            shutil.copyfile(work / stage / "log.jsonl", folder / "training_log.jsonl")
    readme = paths.ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    begin, end = "<!-- models -->\n", "<!-- end of models -->"
    if begin in text:
        head, rest = text.split(begin)
        readme.write_text(head + begin + table(results) + "\n" + end + rest.split(end)[1], encoding="utf-8")


if __name__ == "__main__":
    write()
