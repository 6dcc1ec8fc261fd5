"""Data augmentation by synonyms, insertion and templates, and a check that meaning is preserved.

Synonym replacement and random insertion were made for text classification (Wei and Zou 2019,
"EDA"), where a label stays right when a word changes. A row of fine-tuning *is* its words: they are
what the model learns to read and to write.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from qwen3lab.data.rows import course
from qwen3lab.errors import Qwen3labError
from qwen3lab.world.things import ATTRIBUTES, Thing

# A row of data/tasks: messages up to the user, answer, language; for `rephrase` also fact, kind and
# key.
Row = dict[str, Any]


def _table(colon: str, comma: str, text: str) -> dict[str, tuple[str, ...]]:
    """Read a word list with one word and its substitutes per line."""
    lines = (line.strip().partition(colon) for line in text.strip().splitlines())
    return {word: tuple(others.split(comma)) for word, _, others in lines}


# What a thesaurus lists under these words, regardless of the sentence they stand in: that is how
# such lists are used.
SYNONYMS: dict[str, dict[str, tuple[str, ...]]] = {
    "en": _table(
        ": ",
        ", ",
        """
        price: cost, charge
        cost: price, expense
        pay: spend, settle
        sell: market, trade
        fee: charge, toll
        charge: load, fee
        long: lengthy, tall
        heavy: weighty, massive
        weight: mass, load
        large: big, huge
        big: large, great
        time: hour, moment
        open: begin, unlock
        close: shut, near
        closed: shut, sealed
        begin: start, open
        stop: halt, end
        find: discover, locate
        look: glance, gaze
        tell: inform, narrate
        ask: inquire, beg
        write: compose, pen
        made: created, produced
        make: build, create
        produced: made, yielded
        designed: planned, drawn
        designer: stylist, planner
        work: labour, job
        job: work, task
        role: part, character
        runs: operates, sprints
        run: operate, sprint
        manager: boss, director
        manages: directs, handles
        head: chief, top
        leads: guides, conducts
        contact: touch, connection
        office: bureau, agency
        room: chamber, space
        extension: addition, annex
        language: tongue, speech
        day: date, light
        year: twelvemonth, season
        town: city, village
        floor: ground, storey
        area: region, zone
        form: shape, sheet
        code: cipher, number
        order: command, sequence
        shelf: ledge, rack
        colour: hue, tint
        material: stuff, fabric
        warranty: guarantee, pledge
        lantern: lamp, light
        canoe: boat, kayak
        paddle: oar, blade
        tent: marquee, canopy
        backpack: rucksack, knapsack
        stove: cooker, oven
        kettle: pot, boiler
        blanket: cover, rug
        knife: blade, cutter
        mug: cup, beaker
        pan: pot, skillet
        cooler: icebox, fridge
        jacket: coat, blazer
        bicycle: bike, cycle
        battery: cell, accumulator
        bottle: flask, jar
        radio: wireless, receiver
        workshop: studio, shop
        store: shop, depot
        warehouse: depot, storehouse
        depot: warehouse, station
        cafe: bistro, bar
        repair: mend, fix
        refund: repayment, rebate
        exchange: swap, trade
        delivery: shipment, transport
        trip: journey, tour
        training: coaching, drill
        course: path, class
        key: clue, button
        card: ticket, pass
        visitor: guest, caller
        pass: permit, ticket
        sick: ill, unwell
        leave: departure, permission
        oak: wood, timber
        steel: iron, metal
        copper: bronze, metal
        wool: fleece, yarn
        cotton: cloth, fabric
        linen: cloth, flax
        glass: crystal, pane
        bamboo: cane, reed
        ceramic: pottery, clay
        red: scarlet, crimson
        blue: azure, navy
        green: emerald, lime
        yellow: golden, amber
        orange: tangerine, amber
        pink: rose, salmon
        white: ivory, pale
        silver: grey, metallic
        turquoise: teal, aqua
        engineer: technician, builder
        trainer: coach, instructor
        receptionist: clerk, secretary
        driver: chauffeur, motorist
        accountant: bookkeeper, auditor
        mechanic: fitter, repairman
        buyer: purchaser, shopper
        planner: organiser, scheduler
        lawyer: attorney, solicitor
        librarian: archivist, curator
        editor: reviser, publisher
        officer: official, agent
        kilograms: kilos, kg
        """,
    ),
    "zh": _table(
        "：",
        "、",
        """
        价格：价钱、标价
        售价：价钱、定价
        多少：几多、几何
        什么：何种、啥
        哪里：何处、哪儿
        时间：时刻、光阴
        开门：开张、启门
        关门：打烊、停业
        管理：掌管、看管
        负责：主管、担当
        设计：策划、构思
        设计师：策划师、美工
        制成：做成、造成
        材料：原料、素材
        颜色：色彩、色泽
        重量：分量、体重
        保修：包修、质保
        订购：预订、采购
        编号：序号、号码
        货架：架子、柜台
        生产：制造、出产
        办公室：工作室、写字间
        房间：屋子、包间
        工作：劳动、活儿
        职务：职位、岗位
        工程师：技术员、技师
        销售主管：销售经理、卖场领班
        会计：出纳、财务
        技工：工匠、工人
        接待员：前台、服务员
        上级：领导、上司
        语言：言语、话语
        德语：德文、日耳曼语
        韩语：韩文、朝鲜语
        商店：店铺、铺子
        仓库：库房、货栈
        展厅：展馆、大厅
        咖啡馆：咖啡店、茶馆
        帐篷：篷子、大棚
        背包：书包、挎包
        灯笼：台灯、灯盏
        水壶：茶壶、水瓶
        炉子：火炉、灶台
        独木舟：小船、皮划艇
        毛毯：毯子、地毯
        指南针：罗盘、指北针
        水瓶：瓶子、水壶
        收音机：无线电、录音机
        红色：赤色、朱红
        灰色：银色、暗色
        紫色：紫红、青莲
        青色：蓝绿、绿色
        棉布：布料、麻布
        竹子：毛竹、竹竿
        退款：退钱、返款
        维修：修理、检修
        换货：调换、退货
        门卡：钥匙、房卡
        病假：事假、休假
        费用：开支、花销
        申请：请求、申报
        期限：时限、限期
        办理：处理、经办
        表格：单据、清单
        联系人：负责人、中间人
        休息：歇息、睡觉
        面积：大小、占地
        """,
    ),
}
# Templates that ask for the {label} of the subject {s}; {S} begins a sentence. The label is the
# attribute's name in the world.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "en": (
        "{S}: {label}?",
        "I need the {label} of {s}.",
        "A customer wants to know the {label} of {s}.",
        "Do you know the {label} of {s}?",
        "Look up the {label} of {s} for me.",
        "Give me the {label} of {s}, please.",
        "About {s}: which {label}?",
        "I forgot the {label} of {s}.",
    ),
    "zh": (
        "{s}：{label}？",
        "我想知道{s}的{label}。",
        "客户在问{s}的{label}。",
        "帮我查一下{s}的{label}。",
        "你知道{s}的{label}吗？",
        "我忘了{s}的{label}。",
    ),
}
SHARE = 0.1  # share of a text's words to change (at least one word); the value that EDA recommends
_WORD = {"en": re.compile(r"[^\W_]+"), "zh": re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+")}
_EXACT = re.compile(r"[A-Z]+-?\d[\d-]*|\d+(?:[.:,]\d+)*")  # codes and numbers


def replace_synonyms(
    text: str, rng: random.Random, language: str = "en", share: float = SHARE
) -> str:
    """Replace a share of a text's words (at least one) by synonyms, drawn from those in the list.

    A text without a listed word comes back unchanged. Chinese needs no word segmentation: the
    list's longest matching entry is the word.
    """
    places = _listed(text, language)
    for found in sorted(
        rng.sample(places, min(len(places), _number(text, language, share))),
        key=lambda found: -found.start(),
    ):
        text = text[: found.start()] + _synonym(found[0], rng, language) + text[found.end() :]
    return text


def insert_words(text: str, rng: random.Random, language: str = "en", share: float = SHARE) -> str:
    """Insert synonyms of a text's own words at random positions between its words.

    It inserts as many words as `replace_synonyms` replaces.
    """
    places = _listed(text, language)
    for _ in range(_number(text, language, share) if places else 0):
        word = _synonym(rng.choice(places)[0], rng, language).lower()
        starts = [found.start() for found in _WORD[language].finditer(text)]
        place = rng.choice([*starts, len(text.rstrip("?.!。？！"))])
        space = " " * (language == "en")
        text = text[:place] + (word + space if place in starts else space + word) + text[place:]
    return text


def rephrase(row: Row, rng: random.Random) -> str:
    """Rephrase a row's question by a template that asks for the same fact.

    The thing's name stays whole, and the answer need not change. This needs what a table of facts
    has and a bare text lacks: which thing and which attribute the row asks for.

    Raises:
        Qwen3labError: the row does not name its fact, kind and key.
    """
    if not row.get("fact") or (row.get("kind"), row.get("key")) not in ATTRIBUTES:
        raise Qwen3labError(
            f"The row {row.get('id')!r} does not say which fact it asks for. Give it 'fact', 'kind'"
            " and 'key', as data/tasks/knowledge has."
        )
    subject = Thing(row["kind"], row["language"], row["fact"].split("/")[1]).subject
    label = ATTRIBUTES[row["kind"], row["key"]].label[row["language"]]
    form = rng.choice(TEMPLATES[row["language"]])
    return form.format(s=subject, S=subject[0].upper() + subject[1:], label=label)


def _by_words(change: Callable[..., str]) -> Callable[[Row, random.Random], Row]:
    """Apply a text change to a row's last question and its answer, as the usual recipes do."""

    def make(row: Row, rng: random.Random) -> Row:
        question = change(row["messages"][-1]["content"], rng, row["language"])
        return row | {
            "messages": [*row["messages"][:-1], {"role": "user", "content": question}],
            "answer": change(row["answer"], rng, row["language"]),
        }

    return make


METHODS: dict[str, Callable[[Row, random.Random], Row]] = {
    "synonyms": _by_words(replace_synonyms),
    "insertion": _by_words(insert_words),
    "templates": (
        lambda row, rng: (
            row
            | {"messages": [*row["messages"][:-1], {"role": "user", "content": rephrase(row, rng)}]}
        )
    ),
}


def augment(rows: Sequence[Row], method: str, *, copies: int = 1, seed: int = 0) -> list[Row]:
    """Augment each row with `copies` new rows by one of METHODS; the originals are not returned.

    A new row has its own id and says in "augmented" which method made it. The same seed gives the
    same rows.

    Raises:
        Qwen3labError: an unknown method.
    """
    if method not in METHODS:
        raise Qwen3labError(
            f"There is no augmentation {method!r}. Use one of: {', '.join(METHODS)}."
        )
    rng = random.Random(f"{method}-{seed}")
    return [
        METHODS[method](row, rng) | {"id": f"{row['id']}.{method}.{copy}", "augmented": method}
        for row in map(course, rows)
        for copy in range(1, copies + 1)
    ]


def lost(row: Row, new: Row) -> list[str]:
    """List what `new` no longer says although `row` did; empty when the facts are whole.

    It checks, in the question, the name of the thing (from "fact", where the row has it), numbers
    and codes; and the answer as a whole, because a model is scored by it. Other changes of meaning
    go unnoticed.
    """
    before, after = (r["messages"][-1]["content"] for r in (row, new))
    names = [row["fact"].split("/")[1]] if row.get("fact") else []
    kept = [thing for thing in [*names, *_EXACT.findall(before)] if thing.lower() in before.lower()]
    return [thing for thing in kept if thing.lower() not in after.lower()] + [row["answer"]] * (
        row["answer"] != new["answer"]
    )


def harm(rows: Iterable[Row], news: Iterable[Row]) -> dict[str, int]:
    """Count the damage of an augmentation over pairs of a row and its copy.

    Returns counts of rows, unchanged copies, questions that lost a name or number, and changed
    answers.
    """
    counts = {
        "rows": 0,
        "unchanged": 0,
        "questions that lost a name or number": 0,
        "changed answers": 0,
    }
    for row, new in zip(rows, news, strict=True):
        gone = lost(row, new)
        changed = new["answer"] != row["answer"]
        counts["rows"] += 1
        counts["unchanged"] += not changed and new["messages"] == row["messages"]
        counts["questions that lost a name or number"] += len(gone) > changed
        counts["changed answers"] += changed
    return counts


@lru_cache
def pattern_of(language: str) -> re.Pattern[str]:
    """Compile the pattern of a language's words that have listed synonyms."""
    words = "|".join(
        sorted(map(re.escape, SYNONYMS[language]), key=lambda word: (-len(word), word))
    )
    return re.compile(rf"\b(?:{words})\b" if language == "en" else words, re.IGNORECASE)


def _listed(text: str, language: str) -> list[re.Match[str]]:
    """Find the words of a text that have listed synonyms."""
    if language not in SYNONYMS:
        raise Qwen3labError(
            f"There is no word list for the language {language!r}. Use one of:"
            f" {', '.join(SYNONYMS)}."
        )
    return list(pattern_of(language).finditer(text))


def _number(text: str, language: str, share: float) -> int:
    """Compute how many words to change; a Chinese word is taken to have two characters."""
    return max(
        1, round(share * len(_WORD[language].findall(text)) / (1 if language == "en" else 2))
    )


def _synonym(word: str, rng: random.Random, language: str) -> str:
    other = rng.choice(SYNONYMS[language][word.lower()])
    return other[0].upper() + other[1:] if word[0].isupper() else other
