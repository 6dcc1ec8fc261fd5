"""Retrieval training data: passages of prose about the world, with questions that they answer."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from qwen3lab.world import corpus, things

TASK = "Given a question, retrieve the passage that answers it"

# A handbook also chats. Random sentences of these words teach the model to skip irrelevant text.
EN_WORDS = (
    "a about after again all along also always and another any around as ask at away back be"
    " because been before best better between big bring but by call can careful carry children"
    " clean cold come could cover day dear do door down dry each early easily end enough even"
    " evening every everybody eyes family far feel few find fire first flat follow food for foot"
    " forget from front full garden get give glad go good great ground hand hang happy hard has"
    " have hear heavy help here high hold home hot hour how idea if in inside into is it its just"
    " keep kind kitchen know large last late learn leave left letter light like line little live"
    " long look lot make many may mean mind money more morning most much must name near need never"
    " new next nice night no nobody not nothing now of off often old on once one only open or other"
    " our out over own paint pair paper part past people perhaps piece place play please point pull"
    " put question quick quiet quite rain reach read ready rest right river road room round run"
    " safe said same say season see sell send set shop short should show side simple sit skin sleep"
    " slowly small so some something soon spring stand start stay still stone stop story strong"
    " summer sure table take talk tell than thank that their them then there these they thing think"
    " this those three through time to today together too top towards tree true try turn two under"
    " until up use very visit wait walk wall want warm was wash watch water way we wear weather"
    " week well wet what when where which while white who whole why wind winter wish with without"
    " wood word work world would write year yes yet you young your"
).split()
ZH_CHARACTERS = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学"
    "如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将"
    "两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及"
    "比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统"
    "区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共"
    "确传师观清今切院让识候带导争运笔雨雪春夏秋冬红花草木茶饭鱼鸟船桌椅灯屋衣鞋帽酒糖盐油米面包洗晾干湿冷热暖风云星夜晨晚早饿饱睡醒笑哭慢快轻"
)


@dataclass
class Passage:
    """Passage of some paragraphs, with the facts (thing, key) that it tells."""

    text: str
    facts: list[tuple[things.Thing, str]] = field(default_factory=list)


def _name(
    rng: random.Random, kind: str, language: str, held_out: bool | None, names: list[str]
) -> str:
    """Draw a new name; one in four shares its first or last word with an earlier one."""
    name = things.make_name(rng, kind, language, held_out)
    if names and kind != "rule" and language == "en" and rng.random() < 0.25:
        mine, other = name.split(), rng.choice(names).split()
        if len(mine) == len(other) == 2:
            name = (
                f"{other[0]} {mine[1]}"
                if kind != "person" or rng.random() < 0.5
                else f"{mine[0]} {other[1]}"
            )
    return name


def prose(rng: random.Random, language: str, subject: str | None = None) -> str:
    """Write one to three sentences of random words.

    Some begin with `subject`, but say nothing about it that could be asked.
    """
    sentences = []
    for _ in range(rng.randint(1, 3)):
        about = subject if subject and rng.random() < 0.5 else ""
        if language == "en":
            text = " ".join(filter(None, [about, *rng.choices(EN_WORDS, k=rng.randint(4, 14))]))
            sentences.append(text[0].upper() + text[1:] + rng.choice("...!?"))
        else:
            parts = (
                "".join(rng.choices(ZH_CHARACTERS, k=rng.randint(3, 8)))
                for _ in range(rng.randint(1, 2))
            )
            sentences.append(about + "，".join(parts) + "。")
    return (" " if language == "en" else "").join(sentences)


def chapter(
    rng: random.Random, language: str, held_out: bool, taken: set[str], count_tokens
) -> list[Passage]:
    """Write the passages of one chapter about things of one kind (and some of another).

    The things' names are added to `taken`.

    Args:
        count_tokens: text -> number of tokens; a passage is filled up to a random size of 30 to 110
            tokens.
    """
    kind = rng.choice(list(things.KINDS))
    keys = rng.sample(
        [a.key for a in things.KINDS[kind]], min(rng.randint(3, 7), len(things.KINDS[kind]))
    )
    parts: list[tuple[str, list[tuple[things.Thing, str]]]] = []
    names: list[str] = []
    for _ in range(rng.randint(6, 14)):
        mine = kind if rng.random() < 0.9 else rng.choice(list(things.KINDS))
        name = _name(rng, mine, language, held_out, names)
        if name in taken:
            continue
        taken.add(name)
        names.append(name)
        pool = keys if mine == kind else [a.key for a in things.KINDS[mine]]
        chosen = rng.sample(pool, rng.randint(1, min(5, len(pool))))
        values = {k: things.ATTRIBUTES[mine, k].draw(rng, language, held_out) for k in chosen}
        cut = (
            rng.randint(1, len(chosen) - 1)
            if len(chosen) > 1 and rng.random() < 0.35
            else len(chosen)
        )
        for half in (chosen[:cut], chosen[cut:]):
            if half:
                thing = things.Thing(mine, language, name, {k: values[k] for k in half})
                parts.insert(
                    rng.randint(max(0, len(parts) - 6), len(parts)),
                    (things.describe(rng, thing), [(thing, k) for k in half]),
                )
    fillers, headings = (
        (corpus.EN_FILLERS, corpus.EN_HEADINGS)
        if language == "en"
        else (corpus.ZH_FILLERS, corpus.ZH_HEADINGS)
    )
    space = " " if language == "en" else ""
    passages: list[Passage] = []
    room = 0
    if rng.random() < 0.7:
        parts.insert(rng.randint(0, len(parts)), (prose(rng, language), []))
    for text, facts in parts:
        if rng.random() < 0.45:
            subject = facts[0][0].subject if facts else None
            filler = prose(rng, language, subject) if rng.random() < 0.6 else rng.choice(fillers)
            if facts and rng.random() < 0.3:  # on its own: about the thing, but without an answer
                passages.append(Passage(filler))
                room = 0
            else:
                joint = rng.choice(("\n", space))
                text = text + joint + filler if rng.random() < 0.6 else filler + joint + text
        size = count_tokens(text)
        if not passages or size > room:
            head = rng.choice(headings) + "\n" if rng.random() < 0.15 else ""
            passages.append(Passage(head + text, list(facts)))
            room = rng.randint(30, 110) - size
        else:
            passages[-1].text += rng.choice(("\n", "\n", "\n", space)) + text
            passages[-1].facts += facts
            room -= size
    return passages


def draw(
    rng: random.Random, language: str, held_out: bool, budget: int, count_tokens, questions: int = 3
):
    """Draw passages of `budget` tokens in total and questions about them.

    Returns (texts, questions, targets): `targets[i]` is the index of the one text that answers
    question i.
    """
    passages: list[Passage] = []
    taken: set[str] = set()
    while budget > 0:
        for passage in chapter(rng, language, held_out, taken, count_tokens):
            if budget > 0:
                passages.append(passage)
                budget -= count_tokens(passage.text)
    asked, targets = [], []
    for i, passage in enumerate(passages):
        for thing, key in rng.sample(passage.facts, min(questions, len(passage.facts))):
            asked.append(things.ask(thing, key, rng.randrange(60)))
            targets.append(i)
    return [p.text for p in passages], asked, targets
