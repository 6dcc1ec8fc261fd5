"""Fine-tuning and evaluation sets: the contents of every file and split, from fixed seeds."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable

from qwen3lab import prompts
from qwen3lab.world import corpus, things, tone
from qwen3lab.world import names as w
from qwen3lab.world.company import BY_NAME, FACTS, Fact, questions
from scripts.company import programs

KNOWLEDGE = {"en": 100, "zh": 35}  # facts of the closed-book task
TRAIN_FORMS = 4  # wordings of a fact's question in training
# fact id -> {"page": first page, "pages": all pages, "statement": sentence}
Pages = dict[str, dict]


def row(
    task: str,
    language: str,
    messages: list[dict] | str,
    answer: str,
    *,
    thinking: bool = False,
    **extras,
) -> dict:
    """Build a task row without its id; a plain question may stand for the messages."""
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    return {
        "id": "",
        "task": task,
        "language": language,
        "messages": messages,
        "answer": answer,
        "thinking": thinking,
        **extras,
    }


def from_corpus(sample: corpus.Row, task: str | None = None, **extras) -> dict:
    """Convert a row of the pre-training corpus to a task row.

    Thoughts and tools become extras, a tool call becomes text.
    """
    last = sample.messages[-1]
    answer = last["content"]
    if last.get("tool_calls"):
        call = last["tool_calls"][0]["function"]
        answer = (
            "<tool_call>\n"
            + json.dumps({"name": call["name"], "arguments": call["arguments"]}, ensure_ascii=False)
            + "\n</tool_call>"
        )
    if sample.thinking:
        extras["thoughts"] = last["reasoning_content"]
    if sample.tools:
        extras["tools"] = sample.tools
    return row(
        task or sample.task,
        sample.language,
        sample.messages[:-1],
        answer,
        thinking=sample.thinking,
        **extras,
    )


def _draw(make, counts: dict[str, int], seed: str, asked: set[str], **kw) -> list[dict]:
    """Draw `counts[language]` rows of `make(rng, language, **kw)` with prompts not yet `asked`."""
    rows = []
    for language, n in counts.items():
        rng = random.Random(f"{seed}-{language}")
        wanted = len(rows) + n
        while len(rows) < wanted:
            new = make(rng, language, **kw)
            key = "\n".join(m["content"] for m in new["messages"])
            if key not in asked:
                asked.add(key)
                rows.append(new)
    return rows


def context_sets() -> dict[str, list[dict]]:
    """Build questions on a text about things with unseen names, answerable and not."""
    sets, asked = {}, set()
    for task, share, test, validation in (
        ("context", 0.0, {"en": 300, "zh": 200}, {"en": 60, "zh": 40}),
        ("unanswerable", 1.0, {"en": 200, "zh": 100}, {"en": 40, "zh": 20}),
    ):

        def make(rng, language):
            sample = corpus.context_question(rng, language, True, unanswerable=share)
            return from_corpus(sample, task, **sample.extra)

        for split, counts in (("test", test), ("validation", validation)):
            sets[f"{task}.{split}"] = _draw(make, counts, f"{task}-{split}", asked)
    return sets


def sum_sets() -> dict[str, list[dict]]:
    """Build additions and word problems, with thoughts.

    Test and validation use operands or names that pre-training never has.
    """
    sets, asked = {}, set()

    def addition(rng, language, held_out, digits):
        sample = corpus.addition(rng, language, held_out, digits=rng.choice(digits))
        return from_corpus(sample, **sample.extra)

    def problem(rng, language, held_out):
        return from_corpus(corpus.word_problem(rng, language, held_out))

    def mixed(split, counts, digits):
        return _draw(
            addition, counts, f"addition-{split}", asked, held_out=split != "train", digits=digits
        )

    sets["addition.test"] = mixed("test", {"en": 140, "zh": 70}, (3,)) + mixed(
        "test-short", {"en": 20, "zh": 10}, (2, 4)
    )
    sets["addition.validation"] = mixed("validation", {"en": 40, "zh": 20}, (3,)) + mixed(
        "validation-short", {"en": 14, "zh": 6}, (2, 4)
    )
    sets["addition.train"] = mixed("train", {"en": 400, "zh": 200}, (1, 2, 2, 3, 3, 3, 4))
    for split, counts in (
        ("test", {"en": 135, "zh": 65}),
        ("validation", {"en": 40, "zh": 20}),
        ("train", {"en": 270, "zh": 130}),
    ):
        sets[f"word-problem.{split}"] = _draw(
            problem, counts, f"word-problem-{split}", asked, held_out=split != "train"
        )
    return sets


def wordings(fact: Fact) -> dict[str, list[str]]:
    """Split the questions for a fact by wording, the world's forms shuffled by the fact's id.

    English: 2 for test, 1 for validation; Chinese, with fewer forms: 1 and 1. The rest, then our
    extra forms, up to TRAIN_FORMS in total, go to training.
    """
    forms = questions(fact.thing, fact.key)
    random.Random(f"wordings-{fact.id}").shuffle(forms)
    n_test = 2 if fact.thing.language == "en" else 1
    train = forms[n_test + 1 :] + questions(fact.thing, fact.key, extra=True)
    return {
        "test": forms[:n_test],
        "validation": forms[n_test : n_test + 1],
        "train": train[:TRAIN_FORMS],
    }


def known_facts() -> list[Fact]:
    """Choose the facts of the closed-book task by a fixed seed."""
    chosen = []
    for language, n in KNOWLEDGE.items():
        facts = [f for f in FACTS if f.thing.language == language]
        chosen += random.Random(f"known-{language}").sample(facts, n)
    return chosen


def _extras(fact: Fact, pages: Pages) -> dict:
    return {"fact": fact.id, "kind": fact.thing.kind, "key": fact.key, **pages[fact.id]}


def knowledge_sets(pages: Pages) -> dict[str, list[dict]]:
    """Build closed-book questions on the handbook: the same facts in every split, reworded."""
    sets = defaultdict(list)
    for fact in known_facts():
        for split, forms in wordings(fact).items():
            sets[f"knowledge.{split}"] += [
                row("knowledge", fact.thing.language, q, fact.value, **_extras(fact, pages))
                for q in forms
            ]
    for name, rows in sets.items():
        random.Random(f"order-{name}").shuffle(rows)
    return dict(sets)


_POWERED = ("lantern", "radio", "cooler", "charger", "battery", "灯笼", "收音机")
_FREE = (
    "sick leave",
    "a business trip",
    "a training course",
    "remote work",
    "a refund",
    "an exchange",
    "病假",
    "退款",
    "换货",
)


def _askable(thing: things.Thing, key: str) -> bool:
    """Tell whether a person would ask this: no battery life of a mug, no fee for being ill."""
    if key == "runtime":
        return thing.name.endswith(_POWERED)
    return not (key == "fee" and thing.name in _FREE)


def _unanswerable(
    language: str, n_gaps: int, n_strangers: int, seed: str, asked: set[str]
) -> list[dict]:
    """Draw questions that the handbook leaves open.

    They ask about a gap of a thing it describes, or about a thing that is not in it.
    """
    gaps = [
        (t, a.key)
        for t in BY_NAME.values()
        if t.language == language
        for a in things.KINDS[t.kind]
        if a.key not in t.values and _askable(t, a.key)
    ]
    rules = [r for r in (w.EN_RULES if language == "en" else w.ZH_RULES) if r not in BY_NAME]

    def stranger(rng, _):
        model, key = rng.choice([(f.thing, f.key) for f in FACTS if f.thing.language == language])
        thing = things.Thing(model.kind, language, rng.choice(rules))
        if model.kind == "person":
            thing.name = w.person(rng, language, True)
        elif model.kind != "rule":  # a new name on a noun that the handbook knows
            nouns = (
                (w.EN_CATEGORIES + w.EN_SITES)
                if language == "en"
                else (w.ZH_CATEGORIES + w.ZH_SITES)
            )
            noun = max((n for n in nouns if model.name.endswith(n)), key=len)
            thing.name = w.word(rng, language, True) + " " * (language == "en") + noun
        return _open_row(rng, thing, key, "stranger")

    def gap(rng, _):
        return _open_row(rng, *rng.choice(gaps), "gap")

    return _draw(gap, {language: n_gaps}, f"gap-{seed}", asked) + _draw(
        stranger, {language: n_strangers}, f"stranger-{seed}", asked
    )


def _open_row(rng, thing, key, reason) -> dict:
    return row(
        "handbook",
        thing.language,
        rng.choice(questions(thing, key)),
        prompts.REFUSAL[thing.language],
        answerable=False,
        fact=None,
        kind=thing.kind,
        key=key,
        page=None,
        pages=[],
        statement=None,
        reason=reason,
    )


def handbook_sets(pages: Pages) -> dict[str, list[dict]]:
    """Build questions for retrieval, two thirds of them answered by the handbook.

    None is worded as in the closed-book training. Facts of the closed-book task are asked in its
    test or validation wordings and marked `"taught": true`.
    """
    sets, asked = {"handbook.validation": [], "handbook.test": []}, set()
    known = set(known_facts())
    sizes = {
        "en": {"test": (70, 70, 40, 30), "validation": (26, 14, 12, 8)},
        "zh": {"test": (35, 35, 21, 14), "validation": (12, 8, 6, 4)},
    }
    for language, splits in sizes.items():
        rng = random.Random(f"handbook-{language}")
        taught = [f for f in FACTS if f in known and f.thing.language == language]
        others = [f for f in FACTS if f not in known and f.thing.language == language]
        rng.shuffle(taught), rng.shuffle(others)
        for split, (n_taught, n_other, n_gaps, n_strangers) in splits.items():
            picked = [
                (f, wordings(f)[split][0])
                for f in (taught[:n_taught] if split == "test" else taught[-n_taught:])
            ]
            picked += [(f, rng.choice(questions(f.thing, f.key))) for f in others[:n_other]]
            others = others[n_other:]
            for fact, question in picked:
                asked.add(question)
                sets[f"handbook.{split}"].append(
                    row(
                        "handbook",
                        language,
                        question,
                        fact.value,
                        answerable=True,
                        **_extras(fact, pages),
                        taught=fact in known,
                    )
                )
            sets[f"handbook.{split}"] += _unanswerable(language, n_gaps, n_strangers, split, asked)
    for name, rows in sets.items():
        random.Random(f"order-{name}").shuffle(rows)
    return sets


# Old tasks, and how many of each batch of rehearsal rows; questions on a text are the ones that a
# new tone is most easily mixed up with.
REHEARSED = {"context": 4, "unanswerable": 3}


def chat_sets() -> dict[str, list[dict]]:
    """Build the old tasks: all tasks of the little world, plus recall of the atlas.

    The atlas is what pre-training taught. Validation and test have unseen names; training, for
    rehearsal, names that pre-training may have had.
    """

    def makers(held_out: bool) -> dict[str, Callable]:
        def context(unanswerable):
            return lambda r, l: corpus.context_question(
                r, l, held_out, n_things=2, unanswerable=unanswerable
            )

        return {
            "context": context(0.0),
            "unanswerable": context(1.0),
            "addition": lambda r, l: corpus.addition(r, l, held_out, digits=r.choice((2, 3))),
            "word-problem": lambda r, l: corpus.word_problem(r, l, held_out),
            "dialogue": lambda r, l: corpus.dialogue(r, l, held_out),
            "tool": lambda r, l: corpus.tool_call(r, l, held_out),
            "code": lambda r, l: corpus.code(r, l, held_out),
            "recall": lambda r, l: corpus.recall(r, l, None),
            "lookup": lambda r, l: corpus.lookup(r, l, held_out),
            "repeat": lambda r, l: corpus.repeat(r, l, held_out),
        }

    sets, asked = {}, set()
    for split, counts in (
        ("test", {"en": 16, "zh": 8}),
        ("validation", {"en": 8, "zh": 4}),
        ("train", {"en": 24, "zh": 12}),
    ):
        rows, seed = [], "chat" if split == "test" else f"chat-{split}"
        for task, maker in makers(split != "train").items():

            def make(rng, language):
                while True:
                    sample = maker(rng, language)
                    if sample.messages[-2]["role"] == "user":
                        return from_corpus(sample, task)

            times = REHEARSED.get(task, 1) if split == "train" else 1
            wanted = {language: n * times for language, n in counts.items()}
            rows += _draw(make, wanted, f"{seed}-{task}", asked)
        random.Random(f"order-{seed}").shuffle(rows)
        sets[f"chat.{split}"] = rows
    return sets


def tone_sets() -> dict[str, list[dict]]:
    """Build tickets, questions on a text with the customer's name, and replies in Wildon's tone.

    A fifth has no answer in the text. Validation and test have unseen names.
    """
    sets, asked = {}, set()

    def make(rng, language, held_out):
        sample = corpus.context_question(
            rng, language, held_out, n_things=rng.randint(1, 3), unanswerable=0.2
        )
        text, question = prompts.split_context(sample.messages[0]["content"], language)
        customer = w.person(rng, language, held_out)
        return row(
            "tone",
            language,
            tone.ticket(language, text, question, customer),
            tone.reply(language, sample.answer, customer),
            customer=customer,
            inside=sample.answer,
            answerable=sample.task == "context",
        )

    for split, counts in (
        ("test", {"en": 144, "zh": 72}),
        ("validation", {"en": 54, "zh": 26}),
        ("train", {"en": 400, "zh": 200}),
    ):
        rows = _draw(make, counts, f"tone-{split}", asked, held_out=split != "train")
        random.Random(f"order-tone-{split}").shuffle(rows)
        sets[f"tone.{split}"] = rows
    return sets


def code_sets() -> dict[str, list[dict]]:
    """Build programming tasks: functions of two operations, each row with its tests.

    No function, numbers included, and no name is in two splits. Half of the validation and of the
    test rows combine operations as no row of another split does (`"unseen": true`); the others have
    a combination of training with other numbers.
    """
    dealt = {
        kind: programs.deal(kind, {"test": 0.25, "validation": 0.15}, "train")
        for kind in programs.BODIES
    }
    sets, names, functions = {}, set(), set()
    for split, counts in (
        ("train", {"en": 200, "zh": 100}),
        ("validation", {"en": 40, "zh": 20}),
        ("test", {"en": 134, "zh": 66}),
    ):
        rows = []
        for language, n in counts.items():
            rng = random.Random(f"code-{split}-{language}")
            for i in range(n):
                kind, unseen = list(programs.BODIES)[i % 3], split != "train" and i // 3 % 2 == 0
                pool = dealt[kind][split if unseen else "train"]
                # In turn, so that training has them all.
                program = programs.draw(rng, language, kind, pool[i // 3 % len(pool)])
                while program is None or program.code in functions:
                    program = programs.draw(rng, language, kind, rng.choice(pool))
                while (name := w.word(rng, "en", split != "train").lower()) in names:
                    pass
                names.add(name), functions.add(program.code)
                rows.append(
                    row(
                        "code",
                        language,
                        program.request.format(name=name),
                        program.code.format(name=name),
                        kind=kind,
                        operations=list(program.operations),
                        unseen=unseen,
                        tests=[
                            f"assert {name}({value!r}) == {wanted!r}"
                            for value, wanted in program.tests
                        ],
                    )
                )
        random.Random(f"order-code-{split}").shuffle(rows)
        sets[f"code.{split}"] = rows
    return sets


def build(pages: Pages) -> dict[str, list[dict]]:
    """Build all sets by file name (`<task>.<split>`), rows with ids.

    `pages` says where the handbook states each fact.
    """
    sets = {
        **context_sets(),
        **sum_sets(),
        **knowledge_sets(pages),
        **handbook_sets(pages),
        **chat_sets(),
        **code_sets(),
        **tone_sets(),
    }
    for name, rows in sets.items():
        for i, new in enumerate(rows, start=1):
            new["id"] = f"{name}.{i:03d}"
    return dict(sorted(sets.items()))
