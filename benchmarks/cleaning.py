"""Benchmark data cleaning: seconds of `cleaning.clean_rows` against `datasets.map`, and memory.

`python benchmarks/cleaning.py`; the steps in `datasets.map` are those that popular guides show:
once as they show them, with a call for each row, and once as a practitioner writes them, in
batches. All sides take turns, on the same number of processes. The rows are generated from a seed:
short conversations in English and Chinese, with exact copies (half of them written with other
characters), near-duplicates, personal data and words of a word list. Memory is the peak of a
process of its own that cleans a file, read on Linux. Writes `data/benchmarks/cleaning.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata
from functools import partial
from pathlib import Path
from typing import Any

import record

from qwen3lab import models, paths
from qwen3lab.data import cleaning, deduplication, splits

WORDS = ("casino", "赌场")
MIN_TOKENS = 50  # the rule of the guides
EN = {
    "who": (
        (
            "my sister|the driver|our neighbour|a colleague|the teacher|an old friend|the baker|my"
            " landlord|the new nurse|a visitor|the gardener|somebody from the office"
        ).split("|")
    ),
    "did": (
        (
            "ordered|returned|found|repaired|forgot|painted|sold|borrowed|washed|carried|photographed|measured|hid|unpacked|recommended|complained"
            " about"
        ).split("|")
    ),
    "what": (
        (
            "a kettle|the blue lamp|two chairs|a bicycle|the heavy parcel|an umbrella|the garden"
            " table|a pair of boots|the small radio|a wool blanket|the coffee machine|an old map|a"
            " ladder|the round mirror|three tickets|a cake tin|the spare key|a suitcase|the wall"
            " clock|a toolbox"
        ).split("|")
    ),
    "where": (
        (
            "at the station|behind the library|in the cellar|near the harbour|on the second"
            " floor|at the market|in front of the school|beside the bakery|in the waiting"
            " room|under the bridge"
        ).split("|")
    ),
    "when": (
        (
            "yesterday|last Tuesday|before lunch|in early March|after the concert|this morning|on a"
            " rainy evening|during the holidays|shortly before noon|two weeks ago"
        ).split("|")
    ),
    "why": (
        (
            "because it was cheap|although nobody asked|since the shop was closed|so that we could"
            " leave early|because the old one broke|without telling anyone|after a long talk|for no"
            " clear reason"
        ).split("|")
    ),
}
ZH = {
    "who": (
        "我姐姐|司机|邻居|一位同事|老师|老朋友|面包师|房东|新来的护士|一位访客|园丁|办公室的人"
    ).split("|"),
    "did": (
        "订了|退回了|找到了|修好了|忘了带|刷了|卖掉了|"
        "借走了|洗了|搬走了|拍下了|量了|藏起了|拆开了|推荐了|抱怨过"
    ).split("|"),
    "what": (
        (
            "一个水壶|那盏蓝色的灯|两把椅子|一辆自行车|那个很重的包裹|一把雨伞|花园里的桌子|一双靴子|小收音机|一条羊毛毯|"
            "咖啡机|一张旧地图|一架梯子|那面圆镜子|三张票|一个蛋糕模|备用钥匙|一只行李箱|挂钟|工具箱"
        ).split("|")
    ),
    "where": (
        "在车站|在图书馆后面|在地下室|在港口附近|在二楼|"
        "在市场上|在学校门口|在面包店旁边|在候诊室里|在桥下"
    ).split("|"),
    "when": (
        "昨天|上星期二|午饭前|三月初|音乐会之后|"
        "今天早上|一个下雨的晚上|放假的时候|快到中午时|两个星期前"
    ).split("|"),
    "why": (
        "因为很便宜|虽然没有人要求|因为商店关门了|"
        "好让我们早点走|因为旧的坏了|没有告诉任何人|谈了很久以后|没有什么理由"
    ).split("|"),
}
PERSONAL = ("16{0:09d}", "u{0}@mail.example.org", "203.0.113.{1}", "16{2:01d}-{3:04d}-{4:04d}")


def sentence(rng: random.Random, chinese: bool) -> str:
    w = {slot: rng.choice(choices) for slot, choices in (ZH if chinese else EN).items()}
    if chinese:
        return f"{w['when']}{w['who']}{w['where']}{w['did']}{w['what']}，{w['why']}。"
    return (
        f"{w['when'][0].upper()}{w['when'][1:]} {w['who']} {w['did']} {w['what']} {w['where']},"
        f" {w['why']}."
    )


def conversation(rng: random.Random) -> dict[str, Any]:
    """Generate a question of one to three sentences, some with personal data, and an answer.

    The answer has one or two sentences.
    """
    chinese = rng.random() < 0.5
    glue = "" if chinese else " "
    question, answer = (
        glue.join(sentence(rng, chinese) for _ in range(rng.randint(1, most))) for most in (3, 2)
    )
    if rng.random() < 0.1:
        number = rng.choice(PERSONAL).format(
            rng.randrange(10**8),
            rng.randint(1, 254),
            rng.randrange(10),
            rng.randrange(10**4),
            rng.randrange(10**4),
        )
        question += f"请联系{number}。" if chinese else f" Please reply to {number}."
    if rng.random() < 0.01:
        question += "就在赌场旁边。" if chinese else " It is beside the casino."
    return {
        "language": "zh" if chinese else "en",
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ],
    }


def respelled(rng: random.Random, text: str) -> str:
    """Change a text invisibly: decomposed accents, a zero-width character, or a line end."""
    return rng.choice(
        (
            unicodedata.normalize("NFD", text) + "\u200b",
            text[:3] + "\u200b" + text[3:],
            text + " \r\n",
        )
    )


def retouched(text: str) -> str:
    """Change a text slightly: other case and punctuation, and a word at the end."""
    return text.upper().replace(",", ";").replace("，", "；") + (" OK" if text.isascii() else "好")


def make_rows(
    count: int, seed: int = 7, exact: float = 0.1, nearly: float = 0.05
) -> tuple[list[dict[str, Any]], dict[int, tuple[str, int]]]:
    """Generate seeded rows with known duplicates.

    Returns:
        The rows, and by position which of them repeat an earlier one: ("exact", "respelled" or
        "near", its position).
    """
    rng, rows, copies = random.Random(seed), [], {}
    for place in range(count):
        chance = rng.random()
        if place < 100 or chance >= exact + nearly:
            rows.append(conversation(rng))
        else:
            kind = (
                "near"
                if chance < nearly
                else "exact"
                if chance < nearly + exact / 2
                else "respelled"
            )
            change = {
                "near": retouched,
                "exact": str,
                "respelled": lambda text: respelled(rng, text),
            }[kind]
            original = rng.randrange(place)
            rows.append(cleaning.clean(rows[original], change))
            copies[place] = kind, original
    return [row | {"id": f"row.{place:06d}"} for place, row in enumerate(rows)], copies


def guide(
    rows: list[dict[str, Any]], tokenizer: Any, processes: int, batched: bool
) -> tuple[dict[str, float], dict[str, int], set[str], set[str]]:
    """Run the cleaning steps of popular guides with `datasets`.

    The phone pattern with word boundaries, an MD5 sum and a set of those seen, a tokenizer call and
    the rule "at least 50 tokens". The copies are looked for in one process: two would have a set of
    seen sums each, and miss copies.

    Returns:
        The seconds of each step, the rows left after it, the ids left after the copies went, and
        those left at the end.
    """
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    seen: set[str] = set()

    def text_of(messages):
        text = " ".join(message["content"] for message in messages)
        text = re.sub(r"\s+", " ", text).strip()
        return re.sub(r"\b1[3-9]\d{9}\b", "[PHONE]", text)

    def sum_of(text):
        return hashlib.md5(text.encode("utf-8")).hexdigest()

    def unseen(md5):
        new = md5 not in seen
        seen.add(md5)
        return new

    def tidy(example):
        text = text_of(example["messages"])
        return {"text": text, "md5": sum_of(text)}

    def tidy_all(batch):
        texts = [text_of(messages) for messages in batch["messages"]]
        return {"text": texts, "md5": [sum_of(text) for text in texts]}

    def is_new(example):
        return unseen(example["md5"])

    def are_new(batch):
        return [unseen(md5) for md5 in batch["md5"]]

    def is_long_enough(example):
        return len(tokenizer(example["text"])["input_ids"]) >= MIN_TOKENS

    def are_long_enough(batch):
        return [len(ids) >= MIN_TOKENS for ids in tokenizer(batch["text"])["input_ids"]]

    options = {"batched": batched, "load_from_cache_file": False}
    shared = options | {"num_proc": processes if processes > 1 else None}
    data, seconds, left, ids = Dataset.from_list(rows), {}, {}, {}
    for name, work in (
        ("phone and MD5", lambda data: data.map(tidy_all if batched else tidy, **shared)),
        ("copies", lambda data: data.filter(are_new if batched else is_new, **options)),
        (
            "50 tokens",
            lambda data: data.filter(are_long_enough if batched else is_long_enough, **shared),
        ),
    ):
        began = time.perf_counter()
        data = work(data)
        seconds[name], left[name] = time.perf_counter() - began, len(data)
        ids[name] = set(data["id"])
    return seconds, left, ids["copies"], ids["50 tokens"]


def found_copies(
    rows: list[dict[str, Any]], copies: dict[int, tuple[str, int]], kept: set[str]
) -> dict[str, list[int]]:
    """Count removed and injected duplicates by kind.

    Near-duplicates are split by whether they overlap enough to count.
    """
    done: dict[str, list[int]] = {}
    for place, (kind, original) in copies.items():
        if kind == "near":
            one, two = (
                splits.shingles(splits.prompt(cleaning.mask_row(cleaning.clean(rows[i]))[0]))
                for i in (place, original)
            )
            kind += (
                ", overlap"
                f" {'from' if splits.jaccard(one, two) >= deduplication.THRESHOLD else 'below'}"
                f" {deduplication.THRESHOLD}"
            )
        count = done.setdefault(kind, [0, 0])
        count[0] += rows[place]["id"] not in kept
        count[1] += 1
    return done


def ours(
    rows: list[dict[str, Any]], processes: int, **options: Any
) -> tuple[float, set[str], cleaning.Report]:
    began = time.perf_counter()
    kept, report = cleaning.clean_rows(rows, words=WORDS, processes=processes, **options)
    return time.perf_counter() - began, {row["id"] for row in kept}, report


def write_rows(file: Path, count: int) -> None:
    """Write generated rows as JSON Lines, 50,000 of a seed."""
    with file.open("w", encoding="utf-8") as out:
        for seed, start in enumerate(range(0, count, 50_000), start=7):
            for row in make_rows(min(50_000, count - start), seed)[0]:
                out.write(json.dumps(row | {"id": f"{seed}.{row['id']}"}, ensure_ascii=False))
                out.write("\n")


def clean_one(source: Path) -> None:
    """Clean a file in this process and print what it took, as JSON."""
    before = record.peak(os.getpid())
    began = time.perf_counter()
    report = cleaning.clean_file(
        source, source.with_suffix(".kept"), source.with_suffix(".dropped"), words=WORDS
    )
    found = {
        "rows": report.rows,
        "seconds": round(time.perf_counter() - began, 1),
        "left": report.rows - sum(step.dropped for step in report.steps),
        "MB at the beginning": round(before / 1e6),
        "MB at the peak": round(record.peak(os.getpid()) / 1e6),
        "MB of the file": round(source.stat().st_size / 1e6),
    }
    print(json.dumps(found))


def memory(count: int) -> dict[str, float]:
    """Measure the peak memory of cleaning a file of so many rows, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "rows.jsonl"
        for arguments in (["--write", str(count)], []):
            command = [sys.executable, __file__, "--file", str(source), *arguments]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}


def compare(count: int, processes: int, repeats: int) -> dict[str, Any]:
    """Clean generated rows by all sides in turn; the results of all repeats must be equal."""
    rows, copies = make_rows(count)
    tokenizer = models.load_tokenizer("qwen3-tiny")
    limits = {"tokenizer": tokenizer, "min_tokens": MIN_TOKENS}
    ours(rows[:100], 1, **limits)  # untimed imports; the other side's are not timed either
    _, kept_alone, alone = ours(rows, 1, **limits)
    own: list[float] = []
    theirs: dict[str, list[tuple]] = {"a call for each row": [], "batched": []}
    sides = ["ours", "batched"]
    for turn in range(repeats):
        for side in sides if turn % 2 == 0 else reversed(sides):
            if side == "ours":
                seconds, kept, report = ours(rows, processes, **limits)
                own.append(seconds)
                assert (kept, report) == (kept_alone, alone), "a run changed the result"
            else:
                theirs[side].append(guide(rows, tokenizer, processes, True))
                seconds = sum(theirs[side][-1][0].values())
            print(side, round(seconds, 1), flush=True)
    # Far behind, so once is enough.
    theirs["a call for each row"].append(guide(rows, tokenizer, processes, False))
    results = [run[1:] for runs in theirs.values() for run in runs]
    assert all(result == results[0] for result in results), "the guide's results differ"
    left, unseen, _ = results[0]
    ids = {row["id"] for row in rows}
    ours_median = statistics.median(own)
    totals = {
        side: statistics.median(sum(run[0].values()) for run in runs)
        for side, runs in theirs.items()
    }
    return {
        "rows": count,
        "seed": 7,
        "processes": processes,
        "repeats": repeats,
        "ours": {
            "seconds": round(ours_median, 2),
            "runs": [round(value, 2) for value in own],
            "rows_a_second": round(count / ours_median),
            "left": len(kept_alone),
            "steps": alone.table()[["changed", "dropped"]].to_dict("index"),
            "injected copies found": found_copies(rows, copies, kept_alone),
            # The guide's text joins the messages and has other marks for personal data.
            "copies of the guide that stay": len(kept_alone & (ids - unseen)),
        },
        "guide": {
            side: {
                "seconds": round(totals[side], 2),
                "runs": [round(sum(run[0].values()), 2) for run in runs],
                "steps": medians([run[0] for run in runs]),
                "rows_a_second": round(count / totals[side]),
                "left": left,
            }
            for side, runs in theirs.items()
        },
        # Ours also normalises, detects four more kinds of personal data, listed words and
        # near-duplicates. Both sides count the tokens of each row.
        "times as fast": {side: round(totals[side] / ours_median, 2) for side in theirs},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--memory", type=int, nargs="*", default=[50_000, 100_000, 200_000, 400_000, 1_000_000]
    )
    parser.add_argument("--note", default="", help="for example that others used the machine")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "cleaning.json")
    parser.add_argument("--file", type=Path, help="clean this file, for the memory it takes")
    parser.add_argument("--write", type=int, help="write so many rows to the file instead")
    args = parser.parse_args()
    if args.file:
        write_rows(args.file, args.write) if args.write else clean_one(args.file)
        return
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # both sides fork
    parts = record.Parts("cleaning")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = folder
        result = parts.once(
            f"rows {args.rows}", lambda: compare(args.rows, args.processes, args.repeats)
        )
    curve = [parts.once(f"memory {count}", partial(memory, count)) for count in args.memory]
    result = record.write(
        args.out,
        result | {"memory": curve},
        "cleaning.py",
        ("datasets", "datasketch", "numpy", "tokenizers"),
        args.note,
    )
    parts.drop()
    print(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
