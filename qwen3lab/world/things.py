"""Little world of things with attributes, told as text and asked about, in English and Chinese.

A `Thing` has a name and values for some attributes of its kind. Every attribute knows how to draw a
value, how to state it and how to ask for it. Names and open values are split by hash
(`names.is_held_out`), so that evaluation can use names and values that training never saw.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from qwen3lab.world import names as w


@dataclass(frozen=True)
class Attribute:
    """Attribute of a kind of thing: how a value is drawn, stated and asked for, by language."""

    key: str
    draw: Callable[[random.Random, str, bool | None], str]
    statements: dict[str, tuple[str, ...]]
    questions: dict[str, tuple[str, ...]]
    label: dict[str, str]


@dataclass
class Thing:
    """Thing of the world in one language: kind, name, and values of some of its attributes."""

    kind: str
    language: str
    name: str
    values: dict[str, str] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """The name as a sentence uses it: with an article where English wants one."""
        return (
            f"the {self.name}"
            if self.language == "en" and self.kind in ("product", "place")
            else self.name
        )


def _number(low: int, high: int, en: str, zh: str, step: int = 1):
    def draw(rng, language, held_out):
        return w.pick(
            rng,
            lambda r: (en if language == "en" else zh).format(r.randrange(low, high + 1, step)),
            held_out,
        )

    return draw


def _decimal(low: int, high: int, en: str, zh: str):
    def draw(rng, language, held_out):
        form = en if language == "en" else zh
        return w.pick(
            rng, lambda r: form.format(f"{r.randint(low, high)}.{r.randint(1, 9)}"), held_out
        )

    return draw


def _choice(en: list[str], zh: list[str]):
    return lambda rng, language, held_out: rng.choice(en if language == "en" else zh)


def draw_code(rng, language, held_out):
    """Draw an order code such as "KV-482"."""
    make = lambda r: "".join(r.choices("ABCDEFGHKLMNPRSTVWXZ", k=2)) + f"-{r.randint(100, 999)}"
    return w.pick(rng, make, held_out)


def _shelf(rng, language, held_out):
    return w.pick(rng, lambda r: r.choice("ABCDEFGHKLMNPRST") + str(r.randint(10, 99)), held_out)


def _time(low: int, high: int):
    def draw(rng, language, held_out):
        return w.pick(
            rng, lambda r: f"{r.randint(low, high)}:{r.choice('012345')}{r.choice('05')}", held_out
        )

    return draw


def _a(key, draw, en_label, zh_label, en_s, en_q, zh_s, zh_q) -> Attribute:
    split = lambda text: tuple(line.strip() for line in text.strip().splitlines())
    return Attribute(
        key,
        draw,
        {"en": split(en_s), "zh": split(zh_s)},
        {"en": split(en_q), "zh": split(zh_q)},
        {"en": en_label, "zh": zh_label},
    )


# In statements and questions {s} is the subject, {S} the same at the start of a sentence, {v} the
# value.
KINDS: dict[str, tuple[Attribute, ...]] = {
    "product": (
        _a(
            "price",
            _number(5, 990, "{} euros", "{}欧元"),
            "price",
            "价格",
            """{S} costs {v}.
           The price of {s} is {v}.
           {S} sells for {v}.
           Customers pay {v} for {s}.""",
            """How much does {s} cost?
           What is the price of {s}?
           What do customers pay for {s}?
           For how much does {s} sell?
           Tell me the price of {s}.
           {S}: what does it cost?""",
            """{s}的价格是{v}。
           {s}售价{v}。
           购买{s}需要{v}。""",
            """{s}的价格是多少？
           {s}卖多少钱？
           买{s}要花多少钱？
           请问{s}的售价是多少？""",
        ),
        _a(
            "colour",
            _choice(w.EN_COLOURS, w.ZH_COLOURS),
            "colour",
            "颜色",
            """{S} is {v}.
           The colour of {s} is {v}.
           {S} comes in {v}.
           {S} is painted {v}.""",
            """What colour is {s}?
           What is the colour of {s}?
           In which colour does {s} come?
           Tell me the colour of {s}.
           Which colour does {s} have?""",
            """{s}的颜色是{v}。
           {s}是{v}的。
           {s}的外观为{v}。""",
            """{s}是什么颜色？
           {s}的颜色是什么？
           请问{s}是哪种颜色？""",
        ),
        _a(
            "material",
            _choice(w.EN_MATERIALS, w.ZH_MATERIALS),
            "material",
            "材料",
            """{S} is made of {v}.
           The material of {s} is {v}.
           We build {s} from {v}.
           The body of {s} is {v}.""",
            """What is {s} made of?
           What is the material of {s}?
           Which material is used for {s}?
           From what do we build {s}?
           Tell me the material of {s}.""",
            """{s}由{v}制成。
           {s}的材料是{v}。
           {s}用{v}做成。""",
            """{s}是用什么做的？
           {s}的材料是什么？
           {s}由什么材料制成？""",
        ),
        _a(
            "weight",
            _decimal(1, 39, "{} kilograms", "{}千克"),
            "weight",
            "重量",
            """{S} weighs {v}.
           The weight of {s} is {v}.
           {S} has a weight of {v}.
           At {v}, {s} is easy to move.""",
            """How heavy is {s}?
           What is the weight of {s}?
           How much does {s} weigh?
           Tell me the weight of {s}.
           {S}: how heavy is it?""",
            """{s}重{v}。
           {s}的重量是{v}。
           {s}的重量为{v}。""",
            """{s}有多重？
           {s}的重量是多少？
           请问{s}重多少？""",
        ),
        _a(
            "warranty",
            _number(2, 60, "{} months", "{}个月"),
            "warranty",
            "保修期",
            """The warranty of {s} lasts {v}.
           {S} has a warranty of {v}.
           {S} is under warranty for {v}.
           We guarantee {s} for {v}.""",
            """How long is the warranty of {s}?
           What warranty does {s} have?
           For how long is {s} under warranty?
           How long do we guarantee {s}?
           Tell me the warranty of {s}.""",
            """{s}的保修期是{v}。
           {s}保修{v}。
           {s}享有{v}的保修。""",
            """{s}的保修期多长？
           {s}保修多久？
           请问{s}的保修期是多少？""",
        ),
        _a(
            "code",
            draw_code,
            "order code",
            "订货号",
            """The order code of {s} is {v}.
           {S} is listed under code {v}.
           Order {s} with the code {v}.
           {S} has the order code {v}.""",
            """What is the order code of {s}?
           Under which code is {s} listed?
           Which code do I use to order {s}?
           Which order code does {s} have?
           Tell me the code of {s}.""",
            """{s}的订货号是{v}。
           订购{s}请使用编号{v}。
           {s}的编号为{v}。""",
            """{s}的订货号是什么？
           订购{s}用哪个编号？
           {s}的编号是多少？""",
        ),
        _a(
            "origin",
            lambda r, l, h: w.word(r, l, h),
            "place of making",
            "产地",
            """{S} is made in {v}.
           {S} comes from {v}.
           We make {s} in {v}.
           {S} is produced in {v}.""",
            """Where is {s} made?
           In which town is {s} produced?
           Where does {s} come from?
           Where do we make {s}?
           Tell me where {s} is made.""",
            """{s}产自{v}。
           {s}在{v}生产。
           {s}的产地是{v}。""",
            """{s}在哪里生产？
           {s}的产地是哪里？
           {s}产自什么地方？""",
        ),
        _a(
            "designer",
            lambda r, l, h: w.person(r, l, h),
            "designer",
            "设计者",
            """{S} was designed by {v}.
           The designer of {s} is {v}.
           {v} designed {s}.
           {s} is the work of {v}.""",
            """Who designed {s}?
           Who is the designer of {s}?
           Whose work is {s}?
           By whom was {s} designed?
           Tell me who designed {s}.""",
            """{s}由{v}设计。
           {s}的设计者是{v}。
           {v}设计了{s}。""",
            """{s}是谁设计的？
           {s}的设计者是谁？
           谁设计了{s}？""",
        ),
        _a(
            "shelf",
            _shelf,
            "shelf",
            "货架",
            """{S} is kept on shelf {v}.
           You find {s} on shelf {v}.
           {S} stands on shelf {v}.
           The shelf of {s} is {v}.""",
            """On which shelf is {s}?
           Where is {s} kept?
           Which shelf holds {s}?
           On what shelf do I find {s}?
           Tell me the shelf of {s}.""",
            """{s}放在货架{v}上。
           {s}在货架{v}。
           {s}的货架号是{v}。""",
            """{s}放在哪个货架上？
           {s}在哪个货架？
           {s}的货架号是多少？""",
        ),
        _a(
            "runtime",
            _number(3, 96, "{} hours", "{}小时"),
            "running time",
            "续航时间",
            """{S} runs for {v} on one charge.
           One charge keeps {s} running for {v}.
           The battery of {s} lasts {v}.
           {S} has a running time of {v}.""",
            """How long does {s} run on one charge?
           How long does the battery of {s} last?
           What is the running time of {s}?
           For how long does one charge last in {s}?
           Tell me the running time of {s}.""",
            """{s}充一次电可用{v}。
           {s}的续航时间是{v}。
           {s}的电池可用{v}。""",
            """{s}充一次电能用多久？
           {s}的续航时间是多少？
           {s}的电池能用多长时间？""",
        ),
    ),
    "person": (
        _a(
            "role",
            _choice(w.EN_ROLES, w.ZH_ROLES),
            "role",
            "职务",
            """{S} works as {v}.
           {S} is our {v}.
           The job of {s} is {v}.
           {S} joined us as {v}.""",
            """What is the job of {s}?
           As what does {s} work?
           What is the role of {s}?
           What does {s} do here?
           Tell me the job of {s}.""",
            """{s}的职务是{v}。
           {s}担任{v}。
           {s}是我们的{v}。""",
            """{s}的职务是什么？
           {s}担任什么工作？
           {s}是做什么的？""",
        ),
        _a(
            "room",
            _number(101, 989, "room {}", "{}室"),
            "office",
            "办公室",
            """{S} sits in {v}.
           You find {s} in {v}.
           The office of {s} is {v}.
           {S} works in {v}.""",
            """Where is the office of {s}?
           In which room does {s} sit?
           Where do I find {s}?
           Which room is the office of {s}?
           Tell me the room of {s}.""",
            """{s}的办公室是{v}。
           {s}在{v}办公。
           {s}坐在{v}。""",
            """{s}的办公室在哪里？
           {s}在哪个房间办公？
           {s}坐在哪个房间？""",
        ),
        _a(
            "phone",
            _number(1000, 9999, "{}", "{}"),
            "extension",
            "分机号",
            """The extension of {s} is {v}.
           Call {s} at extension {v}.
           {S} has extension {v}.
           {S} can be reached at extension {v}.""",
            """What is the extension of {s}?
           At which extension can I call {s}?
           Which extension does {s} have?
           How do I reach {s} by phone?
           Tell me the extension of {s}.""",
            """{s}的分机号是{v}。
           找{s}请拨分机{v}。
           {s}的电话分机为{v}。""",
            """{s}的分机号是多少？
           找{s}要拨哪个分机？
           怎样打电话给{s}？""",
        ),
        _a(
            "since",
            _number(1962, 2025, "{}", "{}年"),
            "start year",
            "入职年份",
            """{S} has been with us since {v}.
           {S} started in {v}.
           {S} joined the company in {v}.
           The first year of {s} here was {v}.""",
            """Since when has {s} been with us?
           In which year did {s} start?
           When did {s} join the company?
           What was the first year of {s} here?
           Tell me when {s} started.""",
            """{s}于{v}入职。
           {s}从{v}开始在这里工作。
           {s}的入职年份是{v}。""",
            """{s}是哪年入职的？
           {s}从哪年开始在这里工作？
           {s}的入职年份是哪年？""",
        ),
        _a(
            "language",
            _choice(w.EN_LANGUAGES, w.ZH_LANGUAGES),
            "language",
            "语言",
            """{S} speaks {v} with customers.
           The second language of {s} is {v}.
           {S} answers letters in {v}.
           {S} is fluent in {v}.""",
            """Which language does {s} speak with customers?
           In which language is {s} fluent?
           What is the second language of {s}?
           In which language does {s} answer letters?
           Tell me the second language of {s}.""",
            """{s}会说{v}。
           {s}的第二语言是{v}。
           {s}用{v}接待客户。""",
            """{s}会说什么语言？
           {s}的第二语言是什么？
           {s}用什么语言接待客户？""",
        ),
        _a(
            "manager",
            lambda r, l, h: w.person(r, l, h),
            "manager",
            "上级",
            """{S} reports to {v}.
           The manager of {s} is {v}.
           {v} leads the team of {s}.
           {S} gets tasks from {v}.""",
            """To whom does {s} report?
           Who is the manager of {s}?
           Who leads the team of {s}?
           From whom does {s} get tasks?
           Tell me the manager of {s}.""",
            """{s}的上级是{v}。
           {s}向{v}汇报。
           {v}领导{s}的团队。""",
            """{s}的上级是谁？
           {s}向谁汇报？
           谁领导{s}的团队？""",
        ),
    ),
    "place": (
        _a(
            "town",
            lambda r, l, h: w.word(r, l, h),
            "town",
            "城镇",
            """{S} is in {v}.
           {S} stands in the town of {v}.
           You find {s} in {v}.
           The town of {s} is {v}.""",
            """In which town is {s}?
           Where is {s}?
           Which town is {s} in?
           Where do I find {s}?
           Tell me the town of {s}.""",
            """{s}位于{v}。
           {s}在{v}镇。
           {s}设在{v}。""",
            """{s}位于哪里？
           {s}在哪个镇？
           {s}设在什么地方？""",
        ),
        _a(
            "opens",
            _time(5, 11),
            "opening time",
            "开门时间",
            """{S} opens at {v}.
           The doors of {s} open at {v}.
           {S} starts the day at {v}.
           Work at {s} begins at {v}.""",
            """When does {s} open?
           At what time does {s} open?
           When do the doors of {s} open?
           When does work at {s} begin?
           Tell me the opening time of {s}.""",
            """{s}{v}开门。
           {s}的开门时间是{v}。
           {s}每天{v}开始营业。""",
            """{s}几点开门？
           {s}的开门时间是几点？
           {s}什么时候开始营业？""",
        ),
        _a(
            "closes",
            _time(16, 23),
            "closing time",
            "关门时间",
            """{S} closes at {v}.
           The doors of {s} close at {v}.
           {S} ends the day at {v}.
           Work at {s} stops at {v}.""",
            """When does {s} close?
           At what time does {s} close?
           When do the doors of {s} close?
           When does work at {s} stop?
           Tell me the closing time of {s}.""",
            """{s}{v}关门。
           {s}的关门时间是{v}。
           {s}每天{v}停止营业。""",
            """{s}几点关门？
           {s}的关门时间是几点？
           {s}什么时候停止营业？""",
        ),
        _a(
            "head",
            lambda r, l, h: w.person(r, l, h),
            "head",
            "负责人",
            """{S} is run by {v}.
           The head of {s} is {v}.
           {v} is in charge of {s}.
           {v} manages {s}.""",
            """Who runs {s}?
           Who is the head of {s}?
           Who is in charge of {s}?
           Who manages {s}?
           Tell me who runs {s}.""",
            """{s}的负责人是{v}。
           {s}由{v}管理。
           {v}负责{s}。""",
            """{s}的负责人是谁？
           {s}由谁管理？
           谁负责{s}？""",
        ),
        _a(
            "area",
            _number(40, 990, "{} square metres", "{}平方米", 5),
            "floor area",
            "面积",
            """{S} has {v} of floor.
           The floor area of {s} is {v}.
           {S} covers {v}.
           There are {v} in {s}.""",
            """How large is {s}?
           What is the floor area of {s}?
           How much floor does {s} have?
           How big is {s}?
           Tell me the floor area of {s}.""",
            """{s}的面积是{v}。
           {s}占地{v}。
           {s}共有{v}。""",
            """{s}有多大？
           {s}的面积是多少？
           {s}占地多少？""",
        ),
        _a(
            "founded",
            _number(1870, 2024, "{}", "{}年"),
            "founding year",
            "成立年份",
            """{S} was founded in {v}.
           {S} first opened in {v}.
           The founding year of {s} is {v}.
           {S} has existed since {v}.""",
            """When was {s} founded?
           In which year did {s} first open?
           What is the founding year of {s}?
           Since when has {s} existed?
           Tell me the founding year of {s}.""",
            """{s}成立于{v}。
           {s}在{v}开业。
           {s}的成立年份是{v}。""",
            """{s}是哪年成立的？
           {s}在哪年开业？
           {s}的成立年份是哪年？""",
        ),
        _a(
            "rest",
            _choice(w.EN_DAYS, w.ZH_DAYS),
            "day of rest",
            "休息日",
            """{S} is closed on {v}.
           The day of rest at {s} is {v}.
           Nobody works at {s} on {v}.
           On {v}, {s} stays closed.""",
            """On which day is {s} closed?
           What is the day of rest at {s}?
           When does nobody work at {s}?
           On what day does {s} stay closed?
           Tell me the day of rest at {s}.""",
            """{s}{v}休息。
           {s}的休息日是{v}。
           {s}每逢{v}不营业。""",
            """{s}星期几休息？
           {s}的休息日是哪天？
           {s}哪天不营业？""",
        ),
    ),
    "rule": (
        _a(
            "limit",
            _number(2, 90, "{} days", "{}天"),
            "time limit",
            "期限",
            """A request for {s} must arrive within {v}.
           Ask for {s} within {v}.
           The time limit for {s} is {v}.
           You have {v} to ask for {s}.""",
            """How long do I have to ask for {s}?
           What is the time limit for {s}?
           Within how many days must I ask for {s}?
           When must a request for {s} arrive?
           Tell me the time limit for {s}.""",
            """申请{s}的期限是{v}。
           {s}须在{v}内申请。
           {s}的申请期限为{v}。""",
            """申请{s}的期限是多久？
           {s}须在多少天内申请？
           {s}的申请期限是多少？""",
        ),
        _a(
            "fee",
            _number(1, 95, "{} euros", "{}欧元"),
            "fee",
            "费用",
            """The fee for {s} is {v}.
           We charge {v} for {s}.
           There is a fee of {v} for {s}.
           Expect to pay {v} for {s}.""",
            """What is the fee for {s}?
           How much do we charge for {s}?
           What does one pay for {s}?
           How high is the fee for {s}?
           Tell me the fee for {s}.""",
            """{s}的费用是{v}。
           办理{s}收取{v}。
           {s}需要支付{v}。""",
            """{s}的费用是多少？
           办理{s}收多少钱？
           {s}需要支付多少？""",
        ),
        _a(
            "form",
            _shelf,
            "form",
            "表格",
            """Use form {v} for {s}.
           The form for {s} is {v}.
           Fill in form {v} to get {s}.
           {S} needs form {v}.""",
            """Which form do I use for {s}?
           What is the form for {s}?
           Which form do I fill in to get {s}?
           Which form does one need for {s}?
           Tell me the form for {s}.""",
            """{s}使用表格{v}。
           办理{s}请填写表格{v}。
           {s}的表格是{v}。""",
            """{s}使用哪个表格？
           办理{s}要填写什么表格？
           {s}的表格是哪个？""",
        ),
        _a(
            "contact",
            lambda r, l, h: w.person(r, l, h),
            "contact",
            "联系人",
            """The contact for {s} is {v}.
           Write to {v} about {s}.
           {v} decides about {s}.
           Questions about {s} go to {v}.""",
            """Who is the contact for {s}?
           To whom do I write about {s}?
           Who decides about {s}?
           Where do questions about {s} go?
           Tell me the contact for {s}.""",
            """{s}的联系人是{v}。
           {s}由{v}决定。
           有关{s}的问题请找{v}。""",
            """{s}的联系人是谁？
           {s}由谁决定？
           有关{s}的问题找谁？""",
        ),
        _a(
            "duration",
            _number(1, 40, "{} working days", "{}个工作日"),
            "handling time",
            "办理时间",
            """{S} takes {v}.
           We handle {s} in {v}.
           The handling time for {s} is {v}.
           Plan {v} for {s}.""",
            """How long does {s} take?
           What is the handling time for {s}?
           In how many working days do we handle {s}?
           How much time should I plan for {s}?
           Tell me the handling time for {s}.""",
            """{s}需要{v}办理。
           {s}的办理时间是{v}。
           办理{s}要{v}。""",
            """{s}需要多久办理？
           {s}的办理时间是多少？
           办理{s}要多长时间？""",
        ),
    ),
}
ATTRIBUTES = {(kind, a.key): a for kind, attributes in KINDS.items() for a in attributes}


def make_name(rng: random.Random, kind: str, language: str, held_out: bool | None) -> str:
    """Draw a new name for a thing; rules have fixed names, since a rule is told by its subject."""
    if kind == "person":
        return w.person(rng, language, held_out)
    if kind == "rule":
        return rng.choice(w.EN_RULES if language == "en" else w.ZH_RULES)
    nouns = {"product": (w.EN_CATEGORIES, w.ZH_CATEGORIES), "place": (w.EN_SITES, w.ZH_SITES)}[kind]
    noun = rng.choice(nouns[0] if language == "en" else nouns[1])
    return w.word(rng, language, held_out) + (" " if language == "en" else "") + noun


def make_thing(
    rng: random.Random, kind: str, language: str, held_out: bool | None, n_attributes: int
) -> Thing:
    """Draw a thing with `n_attributes` random attributes and values."""
    thing = Thing(kind, language, make_name(rng, kind, language, held_out))
    for attribute in rng.sample(KINDS[kind], min(n_attributes, len(KINDS[kind]))):
        thing.values[attribute.key] = attribute.draw(rng, language, held_out)
    return thing


def fill_in(form: str, subject: str, value: str) -> str:
    """Fill a sentence form with subject and value."""
    text = (
        form.replace("{S}", subject[0].upper() + subject[1:])
        .replace("{s}", subject)
        .replace("{v}", value)
    )
    text = re.sub(r"\bThe ([\w ]+?) of it\b", r"Its \1", text)
    return text[0].upper() + text[1:]


def state(thing: Thing, key: str, form: int, subject: str | None = None) -> str:
    """Write the sentence for attribute `key` in form `form` (modulo the number of forms)."""
    forms = ATTRIBUTES[thing.kind, key].statements[thing.language]
    return fill_in(forms[form % len(forms)], subject or thing.subject, thing.values[key])


def ask(thing: Thing, key: str, form: int) -> str:
    """Write the question for attribute `key` in form `form` (modulo the number of forms)."""
    forms = ATTRIBUTES[thing.kind, key].questions[thing.language]
    return fill_in(forms[form % len(forms)], thing.subject, "")


def describe(rng: random.Random, thing: Thing) -> str:
    """Describe a thing in a paragraph or list entry, in one of four random styles."""
    keys = list(thing.values)
    rng.shuffle(keys)
    style = rng.choice(("named", "named", "pronoun", "list"))
    space = " " if thing.language == "en" else ""
    if style == "list":
        mark, stop = (": ", "; ") if thing.language == "en" else ("：", "；")
        labels = [
            ATTRIBUTES[thing.kind, k].label[thing.language]
            + " " * (thing.language == "en")
            + thing.values[k]
            for k in keys
        ]
        return (
            thing.name[0].upper()
            + thing.name[1:]
            + mark
            + stop.join(labels)
            + ("." if space else "。")
        )
    sentences = []
    for i, key in enumerate(keys):
        subject = None
        if i and style == "pronoun" and thing.kind != "person":
            subject = "it" if thing.language == "en" else "它"
        sentences.append(state(thing, key, rng.randrange(8), subject))
    return space.join(sentences)
