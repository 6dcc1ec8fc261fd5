"""Training corpus generator of the tiny models: every task as chat rows, and plain text.

A task is a function `(rng, language, held_out) -> Row`. `held_out=False` draws names and open
values that evaluation never uses, `held_out=True` only those that training never uses.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from qwen3lab.prompts import REFUSAL, context_prompt
from qwen3lab.world import arithmetic
from qwen3lab.world import names as w
from qwen3lab.world import things as world_things
from qwen3lab.world.things import KINDS, Thing, ask, describe, make_thing


@dataclass
class Row:
    """Chat row: messages that end with the assistant; `thinking` if the last answer thinks first.

    `every_turn` marks rows whose every assistant turn is trained, not only the last.
    """

    task: str
    language: str
    messages: list[dict]
    thinking: bool = False
    tools: list[dict] | None = None
    every_turn: bool = False
    extra: dict = field(default_factory=dict)

    @property
    def answer(self) -> str:
        """The text of the last message."""
        return self.messages[-1].get("content") or ""


def _chat(task, language, *turns, thoughts=None, **kw) -> Row:
    messages = [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(turns)]
    if thoughts is not None:
        messages[-1]["reasoning_content"] = thoughts
    return Row(task, language, messages, thinking=thoughts is not None, **kw)


EN_FILLERS = (
    "Please read this page with care. | Ask your team if anything is unclear. | This page is for"
    " all members of staff. | We update this list every spring. | Keep a copy in your folder. |"
    " Customers value a clear answer. | The rules below apply to everyone. | Some details may"
    " change. | Thank you for your help. | A friendly word costs nothing. | Check the label before"
    " you pack it. | Most questions are answered here. | Do not leave boxes in the corridor. | New"
    " colleagues read this first. | The table shows what we know. | Write down what you promise. |"
    " We are proud of our work. | Good tools make good days. | Report any mistake on this page. |"
    " Quality comes before speed. | Nobody has to know all of this by heart. | The next pages give"
    " the details. | Look here before you call a colleague. | It has been popular for many years. |"
    " Our customers like it very much. | Handle it with care. | It is one of our oldest. | Safety"
    " comes first."
).split(" | ")
ZH_FILLERS = (
    "请仔细阅读本页。|如有疑问，请询问你的团队。|本页适用于全体员工。|我们每年春天更新这份清单。"
    "|请保留一份副本。|客户重视清楚的答复。|"
    "以下规定适用于所有人。|部分内容可能会变化。|感谢你的帮助。|包装前请检查标签。"
    "|大多数问题都能在这里找到答案。|请不要把箱子放在走廊。|"
    "新同事请先阅读这里。|我们为自己的工作感到自豪。|质量比速度更重要。|没有人需要记住全部内容。"
    "|后面几页给出详细说明。|请小心使用。|客户非常喜欢它。|安全第一。"
).split("|")
EN_HEADINGS = (
    "Products|Our people|Places|Rules|Service|Returns|Staff|Opening hours|In the shop|At a"
    " glance|Contacts|For customers".split("|")
)
ZH_HEADINGS = "产品|员工|地点|规定|服务|退货|人员|营业时间|店内|概览|联系方式|客户须知".split("|")


def make_context(rng, language, held_out, n_things, max_attributes) -> tuple[str, list[Thing]]:
    """Write a text about `n_things` things, mostly of one kind; also return the things.

    Things of one kind distract from each other.
    """
    kinds = [rng.choice(list(KINDS))] * n_things
    if rng.random() < 0.4:
        kinds = [rng.choice(list(KINDS)) for _ in range(n_things)]
    things, names = [], set()
    for kind in kinds:
        thing = make_thing(rng, kind, language, held_out, rng.randint(1, max_attributes))
        if thing.name not in names:
            names.add(thing.name)
            things.append(thing)
    parts = [describe(rng, thing) for thing in things]
    fillers, headings = (EN_FILLERS, EN_HEADINGS) if language == "en" else (ZH_FILLERS, ZH_HEADINGS)
    for _ in range(rng.choice((0, 0, 1, 2, 3))):
        parts.insert(rng.randrange(len(parts) + 1), rng.choice(fillers))
    if rng.random() < 0.3:
        parts.insert(
            0,
            (f"{rng.randint(1, 9)}.{rng.randint(1, 9)} " if rng.random() < 0.5 else "")
            + rng.choice(headings),
        )
    joint = rng.choice(("\n", "\n", " " if language == "en" else ""))
    return joint.join(parts), things


def _missing(rng, things: list[Thing], language, held_out) -> tuple[Thing, str]:
    """Draw a question that the text leaves open.

    It asks for a missing attribute of a known thing, or about a thing that is not there.
    """
    thing = rng.choice(things)
    open_keys = [a.key for a in KINDS[thing.kind] if a.key not in thing.values]
    told = {k for t in things if t.kind == thing.kind for k in t.values}
    tempting = [k for k in open_keys if k in told]
    if open_keys and rng.random() < 0.7:
        return thing, rng.choice(tempting if tempting and rng.random() < 0.6 else open_keys)
    names = {t.name for t in things}
    while True:
        other = make_thing(rng, thing.kind, language, held_out, 1)
        if other.name not in names:
            return other, rng.choice(sorted(told))


def _support(context: str, value: str) -> str:
    """Find the sentence or list entry of the context that holds the value."""
    at = context.index(value)
    start = max(context.rfind(mark, 0, at) + 1 for mark in "\n。；;") if at else 0
    dot = context.rfind(". ", 0, at)
    start = max(start, dot + 2 if dot >= 0 else 0)
    ends = [
        i
        for i in (
            context.find(mark, at + len(value)) for mark in (". ", ".\n", "。", "；", ";", "\n")
        )
        if i >= 0
    ]
    return context[start : min(ends, default=len(context))].strip().rstrip(".。")


def context_question(
    rng,
    language,
    held_out,
    *,
    n_things=None,
    max_attributes=4,
    n_questions=1,
    unanswerable=0.3,
    thinking=False,
) -> Row:
    """Draw questions on a given text; answers are copied from it or say that it does not say."""
    context, things = make_context(
        rng, language, held_out, n_things or rng.randint(2, 5), max_attributes
    )
    pairs = [(t, k) for t in things for k in t.values]
    rng.shuffle(pairs)
    turns, thoughts, missing = [], None, False
    for i in range(min(n_questions, len(pairs))):
        missing = rng.random() < unanswerable
        thing, key = _missing(rng, things, language, held_out) if missing else pairs[i]
        question = ask(thing, key, rng.randrange(60))
        answer = REFUSAL[language] if missing else thing.values[key]
        if thinking and not missing:
            thoughts = ("The text says: " if language == "en" else "文中写道：") + _support(
                context, answer
            )
        elif thinking:
            thoughts = (
                f"The text does not give this for {thing.subject}."
                if language == "en"
                else f"文中没有写明{thing.subject}的这一点。"
            )
        turns += [question, answer]
    turns[0] = context_prompt(context, turns[0], language)
    task = ("unanswerable" if missing else "context") if n_questions == 1 else "context-many"
    return _chat(
        task,
        language,
        *turns,
        thoughts=thoughts,
        every_turn=n_questions > 1,
        extra={"kind": thing.kind, "key": key},
    )


def repeat(rng, language, held_out) -> Row:
    """Draw a row that repeats a text: the plainest exercise in copying."""
    pool = [
        lambda: w.word(rng, language, held_out),
        lambda: w.person(rng, language, held_out),
        lambda: str(rng.randint(1, 9999)),
        lambda: rng.choice(w.EN_CATEGORIES if language == "en" else w.ZH_CATEGORIES),
    ]
    text = (" " if language == "en" else "，").join(
        rng.choice(pool)() for _ in range(rng.randint(2, 14))
    )
    return _chat(
        "repeat",
        language,
        ("Repeat this text: " if language == "en" else "请重复这段文字：") + text,
        text,
    )


def lookup(rng, language, held_out) -> Row:
    """Draw a row that looks up keys in a list of pairs, several questions per list."""
    style = rng.randrange(3)

    def key():
        return (w.word, w.person)[style % 2](rng, language, held_out)

    def value():
        kind = rng.randrange(4)
        return (
            str(rng.randint(1, 999)),
            w.word(rng, language, held_out),
            world_things.draw_code(rng, language, held_out),
            rng.choice(w.EN_COLOURS if language == "en" else w.ZH_COLOURS),
        )[kind]

    pairs = {key(): value() for _ in range(rng.randint(2, 10))}
    mark = ": " if language == "en" else "："
    keys = rng.sample(list(pairs), min(len(pairs), 5))
    turns = []
    for k in keys:
        turns += [k + ("?" if language == "en" else "？"), pairs[k]]
    turns[0] = "\n".join(k + mark + v for k, v in pairs.items()) + "\n\n" + turns[0]
    return _chat("lookup", language, *turns, every_turn=True)


def addition(rng, language, held_out, *, thinking=True, digits=None) -> Row:
    """Draw a sum of two numbers, worked digit by digit from the right when thinking.

    Without thinking the answer comes at once.
    """
    digits = digits or rng.choice((1, 2, 2, 3, 3, 3, 4))
    low, high = (0 if digits == 1 else 10 ** (digits - 1)), 10**digits - 1
    draw = lambda r: f"{r.randint(low, high)}+{r.randint(low, high)}"
    a, b = map(int, w.pick(rng, draw, held_out if digits > 1 else None).split("+"))
    forms = (
        ("What is {a} + {b}?", "Add {a} and {b}.", "{a} + {b} = ?", "How much is {a} plus {b}?")
        if language == "en"
        else ("{a} + {b} 等于多少？", "计算 {a} + {b}。", "{a} 加 {b} 是多少？")
    )
    question = rng.choice(forms).format(a=a, b=b)
    steps = arithmetic.column(a, "+", b, language)
    return _chat(
        "addition",
        language,
        question,
        str(a + b),
        thoughts="\n".join(steps) if thinking else None,
        extra={"digits": digits},
    )


def word_problem(rng, language, held_out, *, thinking=True) -> Row:
    """Draw a word problem of two steps; the thoughts carry out one step each."""
    a, b = rng.randint(2, 40), rng.randint(2, 9)
    name = w.word(rng, language, held_out)
    things = (
        rng.choice(("lamps", "boxes", "books", "apples", "chairs", "tickets"))
        if language == "en"
        else rng.choice(("盏灯", "个箱子", "本书", "个苹果", "把椅子", "张票"))
    )
    kind = rng.randrange(3)
    if kind == 0:
        c = rng.randint(1, a + b - 1)
        total, result = a + b, a + b - c
        steps = f"{a} + {b} = {total}.\n{total} - {c} = {result}."
        en = (
            f"{name} has {a} {things}, buys {b} more and gives away {c}. How many {things} are"
            " left?"
        )
        zh = f"{name}有{a}{things}，又买了{b}{things[0]}，送出{c}{things[0]}。还剩多少？"
    elif kind == 1:
        c, d = rng.randint(2, 9), rng.randint(2, 30)
        total, result = b * c, b * c + d
        steps = f"{b} * {c} = {total}.\n{total} + {d} = {result}."
        en = (
            f"{name} buys {b} packs of {c} {things} and already has {d}. How many {things} are"
            " there now?"
        )
        zh = f"{name}买了{b}包，每包{c}{things}，原来已有{d}{things[0]}。现在一共有多少？"
    else:
        c, d = rng.randint(2, 9), rng.randint(1, 3)
        total = b * c
        d = min(d, total - 1)
        result = total - d
        steps = f"{b} * {c} = {total}.\n{total} - {d} = {result}."
        en = (
            f"{name} fills {b} shelves with {c} {things} each and then takes {d} away. How many"
            f" {things} remain?"
        )
        zh = f"{name}摆了{b}层，每层{c}{things}，后来拿走{d}{things[0]}。还剩多少？"
    return _chat(
        "word-problem",
        language,
        en if language == "en" else zh,
        str(result),
        thoughts=steps if thinking else None,
    )


def dialogue(rng, language, held_out) -> Row:
    """Draw a service dialogue of several turns in a neutral tone.

    It repeats only facts that the customer gave.
    """
    product = world_things.make_name(rng, "product", language, held_out)
    order = w.pick(rng, lambda r: str(r.randint(10000, 99999)), held_out)
    name, town = w.person(rng, language, held_out), w.word(rng, language, held_out)
    day = rng.choice(w.EN_DAYS if language == "en" else w.ZH_DAYS)
    if language == "en":
        plots = (
            (
                f"Hello, where is my {product}?",
                "Please tell me your order number.",
                f"It is {order}.",
                f"Thank you. I will look into order {order} today.",
            ),
            (
                f"My {product} arrived broken.",
                f"I am sorry about the {product}. Would you like a new one or a refund?",
                "A refund, please.",
                f"I will arrange a refund for the {product}.",
            ),
            (
                f"My {product} arrived broken.",
                f"I am sorry about the {product}. Would you like a new one or a refund?",
                "A new one, please.",
                f"I will send you a new {product}.",
            ),
            (
                "I want to cancel an order.",
                "Which order do you want to cancel?",
                f"Order {order}.",
                f"Order {order} is cancelled.",
            ),
            (
                "I have moved.",
                "What is your new town?",
                f"I live in {town} now.",
                f"I have changed your town to {town}.",
            ),
            (
                f"Can I collect my {product}?",
                "On which day would you like to come?",
                f"On {day}.",
                f"Your {product} will be ready on {day}.",
            ),
            (
                "I need an invoice.",
                "To which name should I write it?",
                f"To {name}.",
                f"I will write the invoice to {name}.",
            ),
            (f"Thank you for the {product}.", f"You are welcome. Enjoy the {product}."),
        )
    else:
        plots = (
            (
                f"你好，我的{product}在哪里？",
                "请告诉我您的订单号。",
                f"订单号是{order}。",
                f"谢谢。我今天会查询订单{order}。",
            ),
            (
                f"我的{product}到货时坏了。",
                f"很抱歉{product}出了问题。您想换新的还是退款？",
                "退款。",
                f"我会为{product}办理退款。",
            ),
            (
                f"我的{product}到货时坏了。",
                f"很抱歉{product}出了问题。您想换新的还是退款？",
                "换新的。",
                f"我会寄给您一个新的{product}。",
            ),
            ("我想取消订单。", "您想取消哪个订单？", f"订单{order}。", f"订单{order}已取消。"),
            (
                "我搬家了。",
                "您的新城镇是哪里？",
                f"我现在住在{town}。",
                f"我已把您的城镇改为{town}。",
            ),
            (
                f"我可以自取{product}吗？",
                "您想哪天来？",
                f"{day}。",
                f"您的{product}将在{day}准备好。",
            ),
            ("我需要发票。", "发票抬头写谁？", f"写{name}。", f"我会把发票开给{name}。"),
            (f"谢谢你们的{product}。", f"不客气。祝您使用{product}愉快。"),
        )
    turns = rng.choice(plots)
    cut = len(turns) if rng.random() < 0.75 else 2
    return _chat("dialogue", language, *turns[:cut])


def _tool(name: str, description: str, **parameters: str) -> dict:
    properties = {k: {"type": v} for k, v in parameters.items()}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": list(parameters),
            },
        },
    }


TOOLS = {
    "get_price": _tool("get_price", "Price of a product in euros.", product="string"),
    "get_stock": _tool("get_stock", "How many pieces of a product are in stock.", product="string"),
    "get_opening_time": _tool("get_opening_time", "When a place opens.", place="string"),
    "multiply": _tool("multiply", "Multiply two numbers.", a="integer", b="integer"),
}


def tool_call(rng, language, held_out) -> Row:
    """Draw a row that calls the right tool for a question, or answers from the tool's response."""
    name = rng.choice(list(TOOLS))
    product, place = (
        world_things.make_name(rng, "product", language, held_out),
        world_things.make_name(rng, "place", language, held_out),
    )
    a, b = rng.randint(2, 999), rng.randint(2, 999)
    number, hour = rng.randint(1, 999), f"{rng.randint(5, 11)}:{rng.choice('012345')}0"
    en = {
        "get_price": (
            f"Please look up the price of the {product}.",
            {"product": product},
            f"{number} euros",
            f"The {product} costs {number} euros.",
        ),
        "get_stock": (
            f"How many of the {product} are in stock?",
            {"product": product},
            str(number),
            f"There are {number} in stock.",
        ),
        "get_opening_time": (
            f"Please look up when the {place} opens.",
            {"place": place},
            hour,
            f"The {place} opens at {hour}.",
        ),
        "multiply": (
            f"What is {a} times {b}?",
            {"a": a, "b": b},
            str(a * b),
            f"{a} times {b} is {a * b}.",
        ),
    }
    zh = {
        "get_price": (
            f"请查询{product}的价格。",
            {"product": product},
            f"{number}欧元",
            f"{product}的价格是{number}欧元。",
        ),
        "get_stock": (
            f"{product}还有多少库存？",
            {"product": product},
            str(number),
            f"库存有{number}个。",
        ),
        "get_opening_time": (
            f"请查询{place}几点开门。",
            {"place": place},
            hour,
            f"{place}{hour}开门。",
        ),
        "multiply": (
            f"{a} 乘以 {b} 是多少？",
            {"a": a, "b": b},
            str(a * b),
            f"{a} 乘以 {b} 是 {a * b}。",
        ),
    }
    question, arguments, result, final = (en if language == "en" else zh)[name]
    others = rng.sample([t for t in TOOLS if t != name], rng.randint(0, 1))
    tools = [TOOLS[t] for t in [name, *others]]
    rng.shuffle(tools)
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
    }
    messages = [{"role": "user", "content": question}, call]
    if rng.random() < 0.5:
        messages += [{"role": "tool", "content": result}, {"role": "assistant", "content": final}]
    return Row(
        "tool", language, messages, tools=tools, extra={"name": name, "arguments": arguments}
    )


FUNCTIONS = (  # (English, Chinese, arguments, expression); {n} is a number
    ("x plus {n}", "x 加 {n}", "x", "x + {n}"),
    ("x minus {n}", "x 减 {n}", "x", "x - {n}"),
    ("x times {n}", "x 乘以 {n}", "x", "x * {n}"),
    ("x to the power of {n}", "x 的 {n} 次方", "x", "x ** {n}"),
    ("the remainder of x divided by {n}", "x 除以 {n} 的余数", "x", "x % {n}"),
    ("whether x is larger than {n}", "x 是否大于 {n}", "x", "x > {n}"),
    ("whether x equals {n}", "x 是否等于 {n}", "x", "x == {n}"),
    ("whether x is even", "x 是否为偶数", "x", "x % 2 == 0"),
    ("the larger of a and b", "a 和 b 中较大的数", "a, b", "max(a, b)"),
    ("the smaller of a and b", "a 和 b 中较小的数", "a, b", "min(a, b)"),
    ("the sum of the list v", "列表 v 的和", "v", "sum(v)"),
    ("the length of the list v", "列表 v 的长度", "v", "len(v)"),
    ("the first {n} items of the list v", "列表 v 的前 {n} 项", "v", "v[:{n}]"),
    ("the last {n} items of the list v", "列表 v 的后 {n} 项", "v", "v[-{n}:]"),
    ("item {n} of the list v", "列表 v 的第 {n} 项", "v", "v[{n}]"),
    ("the list v in reverse", "反转的列表 v", "v", "v[::-1]"),
    ("the list v sorted", "排序后的列表 v", "v", "sorted(v)"),
    ("every item of v plus {n}", "v 的每一项加 {n}", "v", "[x + {n} for x in v]"),
    ("every item of v times {n}", "v 的每一项乘以 {n}", "v", "[x * {n} for x in v]"),
    (
        "the items of v that are larger than {n}",
        "v 中大于 {n} 的项",
        "v",
        "[x for x in v if x > {n}]",
    ),
    ("the text s in upper case", "文本 s 的大写", "s", "s.upper()"),
    ("the text s {n} times", "文本 s 重复 {n} 次", "s", "s * {n}"),
    ("the first {n} letters of s", "s 的前 {n} 个字母", "s", "s[:{n}]"),
    ("the words of s", "s 中的单词", "s", "s.split()"),
)


def code(rng, language, held_out) -> Row:
    """Draw a row that writes one line of Python from one sentence."""
    en, zh, arguments, expression = rng.choice(FUNCTIONS)
    n = rng.randint(2, 99)
    name = w.word(rng, "en", held_out).lower()
    what = (en if language == "en" else zh).format(n=n)
    request = (
        f"Write a Python function {name}({arguments}) that returns {what}."
        if language == "en"
        else f"写一个 Python 函数 {name}({arguments})，返回{what}。"
    )
    return _chat(
        "code", language, request, f"def {name}({arguments}): return {expression.format(n=n)}"
    )


def atlas(language: str, n: int = 90) -> list[Thing]:
    """Build the fixed things that the models know by heart: the same on every call."""
    rng = random.Random(f"atlas-{language}")
    kinds = ("product", "person", "place")
    return [make_thing(rng, kinds[i % 3], language, False, 4) for i in range(n)]


ATLAS = {language: atlas(language) for language in ("en", "zh")}


def recall(rng, language, held_out) -> Row:
    """Draw a question about a thing of the atlas, answered from memory."""
    thing = rng.choice(ATLAS[language])
    key = rng.choice(list(thing.values))
    return _chat(
        "recall",
        language,
        ask(thing, key, rng.randrange(60)),
        thing.values[key],
        extra={"kind": thing.kind, "key": key},
    )


# (task, share at the start, share at the end): shares change linearly over the first 40 % of the
# chat stage.
CURRICULUM = (
    ("repeat", 0.15, 0.01),
    ("lookup", 0.30, 0.03),
    ("context", 0.32, 0.60),
    ("addition", 0.06, 0.07),
    ("addition-direct", 0.01, 0.01),
    ("word-problem", 0.04, 0.05),
    ("word-problem-direct", 0.005, 0.005),
    ("dialogue", 0.03, 0.05),
    ("tool", 0.015, 0.04),
    ("code", 0.03, 0.05),
    ("recall", 0.04, 0.085),
)


def sample(rng: random.Random, progress: float, chinese: float = 0.4, worked: float = 0.0) -> Row:
    """Draw a training row of the chat stage.

    `progress` in [0, 1] is how far the chat stage has come, `worked` a share of rows that are sums
    with thoughts.
    """
    language = "zh" if rng.random() < chinese else "en"
    if worked and rng.random() < worked:
        return rng.choice((addition, addition, word_problem))(rng, language, False)
    ramp = min(1.0, progress / 0.4)
    task = rng.choices([c[0] for c in CURRICULUM], [a + (b - a) * ramp for _, a, b in CURRICULUM])[
        0
    ]
    if task == "context":
        return _sample_context(rng, language, progress)
    direct = {"addition-direct": addition, "word-problem-direct": word_problem}
    if task in direct:
        return direct[task](rng, language, False, thinking=False)
    makers = {
        "repeat": repeat,
        "lookup": lookup,
        "addition": addition,
        "word-problem": word_problem,
        "dialogue": dialogue,
        "tool": tool_call,
        "code": code,
        "recall": recall,
    }
    return makers[task](rng, language, False)


def _sample_context(rng, language, progress) -> Row:
    """Draw a context question; longer texts and open questions come later, after copying."""
    if progress > 0.3 and rng.random() < 0.08:
        return context_question(rng, language, False, n_things=rng.randint(1, 4), thinking=True)
    largest = 2 + round(5 * min(1.0, progress / 0.5))
    unanswerable = 0.05 if progress < 0.25 else 0.33
    return context_question(
        rng,
        language,
        False,
        n_things=rng.randint(1, largest),
        max_attributes=rng.choice((2, 4, 5)),
        n_questions=rng.choice((1, 4, 5, 6)),
        unanswerable=unanswerable,
    )


def plain_text(rng: random.Random, chinese: float = 0.4) -> str:
    """Draw a document without chat: descriptions, questions, dialogues, sums or code."""
    language = "zh" if rng.random() < chinese else "en"
    kind = rng.choices(
        ("page", "atlas", "repeat", "lookup", "sum", "code", "dialogue"), (30, 20, 14, 16, 8, 6, 6)
    )[0]
    if kind == "page":
        context, things = make_context(rng, language, False, rng.randint(1, 4), 4)
        return (
            context
            + "\n\n"
            + "\n".join(_question_line(rng, t, k) for t in things for k in t.values)
        )
    if kind == "atlas":
        thing = rng.choice(ATLAS[language])
        return (
            describe(rng, thing)
            + "\n"
            + "\n".join(_question_line(rng, thing, k) for k in thing.values)
        )
    if kind == "repeat":
        text = repeat(rng, language, False).answer
        return text + "\n" + text
    if kind == "sum":
        row = rng.choice((addition, word_problem))(rng, language, False)
        return f"{row.messages[0]['content']}\n{row.messages[1]['reasoning_content']}\n{row.answer}"
    row = {"lookup": lookup, "code": code, "dialogue": dialogue}[kind](rng, language, False)
    return "\n".join(m["content"] for m in row.messages)


def _question_line(rng, thing: Thing, key: str) -> str:
    return (
        ask(thing, key, rng.randrange(60))
        + (" " if thing.language == "en" else "")
        + thing.values[key]
    )
