"""`python -m scripts.tiny_models.report`: score the bundled models on held-out items.

It writes `data/models/results.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from datetime import date
from pathlib import Path

from qwen3lab import paths
from qwen3lab.chat import encode, split_thinking
from qwen3lab.data import tasks
from qwen3lab.models import loading, routing
from qwen3lab.models.generation import generate, generate_ids

QUESTIONS = (("context", "en"), ("context", "zh"), ("unanswerable", "en"), ("unanswerable", "zh"))
DRAFTED = 4  # tokens drafted before each check


def exact(
    model, tokenizer, rows: list[dict], thinking: bool | None = None, max_new_tokens: int = 160
) -> dict:
    """Score exact match of the answer after the thoughts: {"right", "n"}.

    `thinking=None` takes each row's own setting.
    """
    switches = [row["thinking"] if thinking is None else thinking for row in rows]
    texts = generate(
        model,
        tokenizer,
        [row["messages"] for row in rows],
        thinking=switches,
        max_new_tokens=max_new_tokens,
    )
    right = sum(
        split_thinking(text)[1].strip() == row["answer"].strip() for text, row in zip(texts, rows)
    )
    return {"right": right, "n": len(rows)}


def questions(model, tokenizer, limit: int | None = None) -> dict:
    """Score exact match on context questions, answerable and not, by language."""
    return {
        f"{task} {language}": exact(
            model,
            tokenizer,
            [r for r in tasks.load(task, "test") if r["language"] == language][:limit],
            thinking=False,
            max_new_tokens=32,
        )
        for task, language in QUESTIONS
    }


def additions(model, tokenizer, limit: int | None = None) -> dict:
    """Score exact match on sums of three-digit numbers with and without thinking."""
    rows = [row for row in tasks.load("addition", "test") if row["digits"] == 3][:limit]
    return {
        f"addition {label}": exact(model, tokenizer, rows, thinking=on)
        for label, on in (("thinking", True), ("direct", False))
    }


def experts(model, tokenizer, limit: int | None = None) -> dict:
    """Measure expert load (smallest and largest, in fair shares) and how much token kinds explain.

    The share (bits over entropy) is that of the worst layer.
    """
    rows = [
        encode(
            tokenizer,
            tasks.conversation(row),
            thinking=row["thinking"],
            tools=row.get("tools"),
            generation_prompt=False,
        )
        for row in tasks.load("chat", "test")[:limit]
    ]
    routed = routing.record(model, rows)
    kinds = [kind for row in rows for kind in routing.token_kinds(tokenizer, row)]
    load, told = routing.load(routed), routing.information(routed, kinds)
    return {
        "least load": round(float(load.min()), 3),
        "largest load": round(float(load.max()), 3),
        "tokens": len(routed.ids),
        "information share": round(float(told["share"].min()), 3),
    }


def acceptance(target, draft, tokenizer, limit: int | None = None, drafted: int = DRAFTED) -> dict:
    """Measure the acceptance rate of greedy speculative decoding on the chat set.

    Returns {"right", "n", "passes"}. The target's own greedy answer is the only thing it can
    accept, so both can be found without a speculative loop: the draft's best token at every
    position of that answer, then runs of agreement of at most `drafted`.
    """
    import torch

    rows = tasks.load("chat", "test")[:limit]
    prompts = [encode(tokenizer, row["messages"], thinking=row["thinking"]) for row in rows]
    answers = [
        answer + [tokenizer.eos_token_id]
        for answer in generate_ids(target, tokenizer, prompts, max_new_tokens=160)
    ]
    accepted = proposed = passes = 0
    for prompt, answer in zip(prompts, answers):
        with torch.inference_mode():
            guesses = (
                draft(torch.tensor([prompt + answer]))
                .logits[0, len(prompt) - 1 : -1]
                .argmax(-1)
                .tolist()
            )
        agree, at = [g == a for g, a in zip(guesses, answer)], 0
        while at < len(answer):
            tries = agree[at : at + drafted]
            run = tries.index(False) if False in tries else len(tries)
            accepted, proposed, passes, at = (
                accepted + run,
                proposed + len(tries),
                passes + 1,
                at + run + 1,
            )
    return {"right": accepted, "n": proposed, "tokens": sum(map(len, answers)), "passes": passes}


def retrieval_recall(folder: Path = paths.MODELS) -> dict:
    """Measure recall@3 over the handbook's chunks, by the embedding model and by BM25.

    The questions are the handbook's answerable test questions.
    """
    from qwen3lab.data import pdf
    from qwen3lab.retrieval import chunking, index, metrics

    parts = chunking.chunk(
        pdf.read_pdf(paths.HANDBOOK), loading.load_tokenizer(folder / "qwen3-tiny")
    )
    rows = [row for row in tasks.load("handbook", "test") if row["answerable"]]
    relevant = [
        metrics.relevant_chunks(parts, row["answer"], row["pages"], row["fact"].split("/")[1])
        for row in rows
    ]
    searches = {
        "recall@3": index.Index.build(
            parts, loading.load_embedding(folder / "qwen3-tiny-embedding")
        ),
        "recall@3 of BM25": index.Keywords(parts),
    }
    found = {}
    for name, search in searches.items():
        hits = search.search([row["messages"][0]["content"] for row in rows], 3)
        found[name] = {
            "right": sum(
                any(hit.chunk.id in right for hit in row) for row, right in zip(hits, relevant)
            ),
            "n": len(rows),
        }
    return found | {"chunks": len(parts)}


def sight(folder: Path, limit: int | None = None) -> dict:
    """Score exact match on pictures of the test split, by kind, and on the chat model's old tasks.

    The old tasks are asked in Qwen3-VL's own chat format, without a picture.
    """
    from qwen3lab.models import vision
    from qwen3lab.world import pictures

    model, tokenizer, processor = vision.load(folder)
    scores = {}
    for kind, label in (
        ("scene", "shapes of held-out combinations"),
        ("tag", "price tags, held-out prices, fonts and positions"),
        ("receipt", "totals of receipts, the same held out"),
    ):
        exam = pictures.exam(kind, limit or 400)
        seen = [picture.image for picture, _ in exam]
        written = vision.answer(model, tokenizer, processor, seen, [q.text for _, q in exam])
        right = [text == question.answer for text, (_, question) in zip(written, exam)]
        scores[label] = {"right": sum(right), "n": len(right)}
        if kind == "scene":
            for asked in dict.fromkeys(question.kind for _, question in exam):
                own = [ok for ok, (_, question) in zip(right, exam) if question.kind == asked]
                scores[f"{label}: {asked}"] = {"right": sum(own), "n": len(own)}
    return scores | questions(model, tokenizer, limit)


def measure(
    names: list[str], folder: Path = paths.MODELS, limit: int | None = None
) -> dict[str, dict]:
    """Score the named models: `{model: {score: {"right", "n"} or a number}}`.

    Args:
        folder: where their checkpoints lie.
        limit: the first so many rows of each score; default: all.
    """
    results: dict = {}
    if {"qwen3-tiny", "qwen3-tiny-draft"} & set(names):
        target, tokenizer = loading.load(folder / "qwen3-tiny")
    for name in ("qwen3-tiny", "qwen3-tiny-moe"):
        if name in names:
            model, tokenizer = loading.load(folder / name)
            results[name] = questions(model, tokenizer, limit) | additions(model, tokenizer, limit)
            if name == "qwen3-tiny-moe":
                results[name] |= experts(model, tokenizer, limit)
    if "qwen3-tiny-draft" in names:
        draft, _ = loading.load(folder / "qwen3-tiny-draft")
        results["qwen3-tiny-draft"] = {"accepted": acceptance(target, draft, tokenizer, limit)}
    if "qwen3-tiny-embedding" in names:
        results["qwen3-tiny-embedding"] = retrieval_recall(folder)
    if "qwen3-tiny-vl" in names:
        results["qwen3-tiny-vl"] = sight(folder / "qwen3-tiny-vl", limit)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.tiny_models.report", description=__doc__
    )
    parser.add_argument("names", nargs="*", help="default: every model of the folder")
    parser.add_argument("--models", type=Path, default=paths.MODELS, help="their folder")
    parser.add_argument("--limit", type=int, help="the first so many rows of each score, for a try")
    args = parser.parse_args()
    names = args.names or [path.parent.name for path in sorted(args.models.glob("*/config.json"))]
    out, began = args.models / "results.json", time.time()
    results = json.loads(out.read_text()) if out.exists() else {}
    results |= measure(names, args.models, args.limit)
    told = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, one CPU thread",
        "command": " ".join(["python -m scripts.tiny_models.report", *args.names])
        + (f" --limit {args.limit}" if args.limit else ""),
    }
    if args.names:  # those of the others stay as they were
        results["measured apart"] = results.get("measured apart", {}) | dict.fromkeys(names, told)
    else:
        results["measured"] = told
        results.pop("measured apart", None)
    out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(results, indent=1, ensure_ascii=False))
    print(f"time · {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
