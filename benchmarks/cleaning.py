"""Benchmark data cleaning: rows per second of `cleaning.clean_rows` against `datasets.map`.

`python benchmarks/cleaning.py`; the steps in `datasets.map` are those that popular guides show. The
rows are generated from a seed: short conversations in English and Chinese, with exact copies (half
of them written with other characters), near-duplicates, personal data and words of a word list.
Writes `data/benchmarks/cleaning.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import tempfile
import time
import unicodedata
from pathlib import Path
from typing import Any

import record

from qwen3lab import measure, models, paths
from qwen3lab.data import cleaning, deduplication, splits

WORDS = ("casino", "赌场")
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


def guide(rows: list[dict[str, Any]], tokenizer: Any, processes: int) -> dict[str, Any]:
    """Run the cleaning steps of popular guides with `datasets`, one Python function per row.

    The phone pattern with word boundaries, an MD5 sum and a set of those seen, a tokenizer call and
    the rule "at least 50 tokens". Returns the seconds and the rows left after each step.
    """
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()

    def tidy(example):
        text = " ".join(message["content"] for message in example["messages"])
        text = re.sub(r"\s+", " ", text).strip()
        text = re.sub(r"\b1[3-9]\d{9}\b", "[PHONE]", text)
        return {"text": text, "md5": hashlib.md5(text.encode("utf-8")).hexdigest()}

    def is_new(example):
        new = example["md5"] not in seen
        seen.add(example["md5"])
        return new

    def is_long_enough(example):
        return len(tokenizer(example["text"])["input_ids"]) >= 50

    data, seconds, left, options = (
        Dataset.from_list(rows),
        {},
        {},
        {"num_proc": processes if processes > 1 else None},
    )
    seen: set[str] = set()
    for name, work in (
        ("phone and MD5", lambda data: data.map(tidy, **options)),
        ("copies", lambda data: data.filter(is_new, **options)),
        ("50 tokens", lambda data: data.filter(is_long_enough, **options)),
    ):
        began = time.perf_counter()
        data = work(data)
        seconds[name], left[name] = time.perf_counter() - began, len(data)
    return {"seconds": {name: round(value, 2) for name, value in seconds.items()}, "left": left}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--note", default="", help="for example that others used the machine")
    parser.add_argument("--out", type=Path, default=paths.DATA / "benchmarks" / "cleaning.json")
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    rows, copies = make_rows(args.rows)
    tokenizer = models.load_tokenizer("qwen3-tiny")
    ours(rows[:100], 1)  # untimed imports; the other side's imports are not timed either
    seconds, kept, report = ours(rows, args.processes)
    alone, kept_alone, _ = ours(rows, 1)
    assert kept == kept_alone, "the number of processes changed the result"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = folder
        theirs = {str(count): guide(rows, tokenizer, count) for count in (1, args.processes)}
    os.environ[
        "TOKENIZERS_PARALLELISM"
        # From here on nothing forks after the tokenizer. The guide's one call per row gains nothing
        # from it.
    ] = "true"
    counted, _, _ = ours(rows, args.processes, tokenizer=tokenizer, min_tokens=0)
    total = {count: sum(result["seconds"].values()) for count, result in theirs.items()}
    result = record.write(
        args.out,
        {
            "rows": args.rows,
            "seed": 7,
            "ours": {
                "processes": args.processes,
                "seconds": round(seconds, 2),
                "rows_a_second": round(args.rows / seconds),
                "one process": round(alone, 2),
                "with token counts": round(counted, 2),
                "left": len(kept),
                "steps": report.table()[["changed", "dropped"]].to_dict("index"),
                "injected copies found": found_copies(rows, copies, kept),
            },
            "guide": {
                count: (
                    found
                    | {
                        "total": round(total[count], 2),
                        "rows_a_second": round(args.rows / total[count]),
                    }
                )
                for count, found in theirs.items()
            },
            # Both sides count tokens in the first two, neither in the last two. Ours also detects
            # four more kinds of personal data, listed words and near-duplicates, and normalises.
            "times as fast": {
                "with token counts, guide in 1 process": round(total["1"] / counted, 2),
                f"with token counts, guide in {args.processes} processes": round(
                    total[str(args.processes)] / counted, 2
                ),
                "without token counts, guide in 1 process": round(
                    (total["1"] - theirs["1"]["seconds"]["50 tokens"]) / seconds, 2
                ),
                f"without token counts, guide in {args.processes} processes": round(
                    (
                        total[str(args.processes)]
                        - theirs[str(args.processes)]["seconds"]["50 tokens"]
                    )
                    / seconds,
                    2,
                ),
            },
        },
        "cleaning.py",
        ("datasets", "datasketch", "numpy", "tokenizers"),
        args.note,
    )
    measure.note(
        f"ours {seconds:.1f} s ({args.rows / seconds:,.0f} rows/s), with token counts {counted:.1f}"
        f" s; the guide's steps {total['1']:.1f} s in one process ({args.rows / total['1']:,.0f}"
        f" rows/s): {total['1'] / counted:.2f} times as fast, token counts on both sides"
    )
    print(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
