"""Facts about Wildon, the company of the fine-tuning and retrieval notebooks, as data.

Every name is made of words that are held out by `names.is_held_out`, so pre-training can never have
drawn one. Things and attributes are those of the little world, because the tiny models have read no
other forms of statement and question.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from qwen3lab.world import things
from qwen3lab.world.things import ATTRIBUTES, Thing

COMPANY = {"en": "Wildon", "zh": "维多内"}
HOME = {"en": "Lorbin", "zh": "巴莱霍"}


def _product(name: str, **values: str) -> Thing:
    return Thing("product", "en", name, values)


def _person(name: str, **values: str) -> Thing:
    return Thing("person", "en", name, values)


def _place(name: str, **values: str) -> Thing:
    return Thing("place", "en", name, values)


def _rule(name: str, **values: str) -> Thing:
    return Thing("rule", "en", name, values)


ENGLISH: tuple[Thing, ...] = (
    _product(
        "Halve canoe",
        price="940 euros",
        material="oak",
        weight="31.5 kilograms",
        designer="Tomor Lasfel",
    ),
    _product(
        "Solfem canoe",
        price="685 euros",
        colour="turquoise",
        warranty="48 months",
        origin="Storwil",
    ),
    _product("Stiwel paddle", price="58 euros", material="bamboo", shelf="P14"),
    _product("Lamki lantern", price="46 euros", runtime="38 hours", code="LK-415", origin="Lorbin"),
    _product("Rojal lantern", price="83 euros", colour="silver", runtime="71 hours"),
    _product(
        "Pinfer tent",
        price="312 euros",
        colour="orange",
        weight="4.7 kilograms",
        warranty="30 months",
    ),
    _product(
        "Tarwus tent",
        price="527 euros",
        material="cotton",
        weight="11.2 kilograms",
        origin="Fladrol",
    ),
    _product(
        "Funlin backpack", price="129 euros", colour="blue", designer="Jeti Larkon", shelf="B27"
    ),
    _product("Gemnir backpack", price="174 euros", weight="2.3 kilograms", code="GN-206"),
    _product("Tallix stove", price="97 euros", material="steel", warranty="36 months"),
    _product("Fumdem kettle", price="34 euros", material="copper", designer="Boge Stinir"),
    _product("Warmi blanket", price="72 euros", material="wool", origin="Basgir", shelf="H62"),
    _product("Norkom compass", price="29 euros", warranty="60 months", code="NK-738"),
    _product("Suzar knife", price="41 euros", designer="Tomor Lasfel", shelf="K18"),
    _product("Mellu mug", price="14 euros", colour="white", material="ceramic"),
    _product("Nolma pan", price="38 euros", weight="1.8 kilograms", code="NP-559"),
    _product(
        "Boxbro cooler",
        price="156 euros",
        colour="yellow",
        runtime="19 hours",
        warranty="18 months",
    ),
    _product(
        "Telvos jacket", price="148 euros", colour="green", material="linen", designer="Sidi Vurhel"
    ),
    _product("Dinsta helmet", price="64 euros", colour="red", shelf="T33"),
    _product(
        "Trishir bicycle",
        price="879 euros",
        weight="16.4 kilograms",
        warranty="42 months",
        origin="Dunwam",
    ),
    _product("Zedral charger", price="53 euros", code="ZD-184", shelf="C71"),
    _product("Brantom battery", price="118 euros", weight="3.6 kilograms", warranty="24 months"),
    _product("Murkawa bottle", price="22 euros", colour="pink", material="glass", code="MW-367"),
    _product(
        "Rummal radio", price="91 euros", runtime="54 hours", designer="Boge Stinir", shelf="R45"
    ),
    _person("Tomor Lasfel", role="head of sales", room="room 318", phone="4471", since="1994"),
    _person("Jeti Larkon", role="designer", room="room 204", manager="Tomor Lasfel"),
    _person("Boge Stinir", role="engineer", phone="5926", since="2003"),
    _person("Sidi Vurhel", role="trainer", language="Spanish", room="room 127"),
    _person("Zesi Morjun", role="receptionist", phone="1008", language="French"),
    _person("Jisko Drikum", role="driver", since="2016", manager="Rogar Stonlo"),
    _person("Lelix Gildral", role="accountant", room="room 341", phone="7350"),
    _person("Kenju Folbrix", role="mechanic", room="room 112", since="2011"),
    _person("Lilax Humlem", role="buyer", language="Italian", phone="6284"),
    _person("Rogar Stonlo", role="planner", phone="2793", since="1987"),
    _person("Gaman Tosflan", role="safety officer", room="room 159", manager="Suhul Plimfor"),
    _person("Suhul Plimfor", role="lawyer", room="room 366", language="Dutch"),
    _person("Sunlo Mandrar", role="librarian", since="2008", language="Polish"),
    _person("Falne Wirban", role="editor", room="room 230", manager="Lelix Gildral"),
    _place("Kamax workshop", town="Lorbin", opens="6:45", closes="17:10", head="Kenju Folbrix"),
    _place("Lamdam store", town="Lorbin", opens="9:20", closes="18:35", rest="Monday"),
    _place(
        "Pengex warehouse",
        town="Dunwam",
        opens="5:50",
        head="Rogar Stonlo",
        area="865 square metres",
    ),
    _place("Silkros office", town="Lorbin", founded="1931", area="420 square metres"),
    _place("Vahor showroom", town="Basgir", opens="10:15", rest="Tuesday", head="Jeti Larkon"),
    _place("Mimmor cafe", opens="7:25", closes="16:40", rest="Sunday", area="95 square metres"),
    _place("Tonjax depot", town="Storwil", closes="21:05", head="Jisko Drikum"),
    _place(
        "Galkrum museum", town="Fladrol", founded="1976", head="Sunlo Mandrar", rest="Wednesday"
    ),
    _rule(
        "a refund", limit="32 days", form="R19", duration="6 working days", contact="Lelix Gildral"
    ),
    _rule("a repair", fee="27 euros", form="W84", duration="11 working days"),
    _rule("home delivery", fee="13 euros", duration="4 working days"),
    _rule("an exchange", limit="45 days", form="E52", contact="Zesi Morjun"),
    _rule("sick leave", limit="3 days", form="S16", contact="Suhul Plimfor"),
    _rule("a business trip", limit="14 days", form="B93"),
    _rule("a training course", limit="21 days", contact="Sidi Vurhel", duration="9 working days"),
    _rule("remote work", form="M38", duration="7 working days"),
    _rule("a key card", fee="8 euros", duration="2 working days", contact="Gaman Tosflan"),
    _rule("a visitor pass", form="V65", fee="5 euros"),
)

CHINESE: tuple[Thing, ...] = tuple(
    Thing(kind, "zh", name, values)
    for kind, name, values in (
        ("product", "科多梅灯笼", {"price": "49欧元", "runtime": "42小时", "colour": "红色"}),
        (
            "product",
            "萨雅斯帐篷",
            {"price": "286欧元", "weight": "5.3千克", "material": "棉布", "warranty": "28个月"},
        ),
        ("product", "维西卡背包", {"price": "137欧元", "colour": "青色", "designer": "林华玉"}),
        ("product", "维诺塞水壶", {"price": "31欧元", "material": "铜", "code": "LM-842"}),
        ("product", "普莱瑞炉子", {"price": "108欧元", "warranty": "40个月", "origin": "达纳托"}),
        (
            "product",
            "雅莫格独木舟",
            {"price": "760欧元", "material": "竹子", "weight": "24.6千克", "designer": "李琼涛"},
        ),
        ("product", "德西菲毛毯", {"price": "68欧元", "colour": "灰色", "shelf": "M27"}),
        ("product", "米菲佐指南针", {"price": "26欧元", "code": "MF-513", "shelf": "D45"}),
        ("product", "瓦伊菲水瓶", {"price": "19欧元", "colour": "紫色", "origin": "瓦内里"}),
        ("product", "拉伊奇收音机", {"price": "95欧元", "runtime": "63小时", "weight": "1.2千克"}),
        ("person", "林华玉", {"role": "设计师", "room": "216室", "since": "2009年"}),
        ("person", "赵素华", {"role": "销售主管", "phone": "3857", "room": "305室"}),
        ("person", "李琼涛", {"role": "工程师", "since": "2014年", "manager": "赵素华"}),
        ("person", "徐丽莲", {"role": "会计", "phone": "6142", "language": "德语"}),
        ("person", "陈静平", {"role": "技工", "room": "118室", "since": "2002年"}),
        ("person", "孙琼静", {"role": "接待员", "phone": "9075", "language": "韩语"}),
        (
            "place",
            "迪里波商店",
            {"town": "巴莱霍", "opens": "8:40", "closes": "19:25", "rest": "星期二"},
        ),
        (
            "place",
            "加普拉仓库",
            {"town": "达纳托", "opens": "6:15", "head": "陈静平", "area": "730平方米"},
        ),
        ("place", "梅帕纳展厅", {"town": "巴莱霍", "closes": "17:50", "founded": "1998年"}),
        ("place", "托莫佩咖啡馆", {"opens": "7:35", "rest": "星期四", "head": "孙琼静"}),
        ("rule", "退款", {"limit": "25天", "form": "T68", "contact": "徐丽莲"}),
        ("rule", "维修", {"fee": "23欧元", "duration": "8个工作日", "form": "W27"}),
        ("rule", "送货上门", {"fee": "11欧元", "duration": "3个工作日"}),
        ("rule", "换货", {"limit": "36天", "contact": "孙琼静"}),
        ("rule", "病假", {"limit": "2天", "form": "B41"}),
        ("rule", "门卡", {"fee": "6欧元", "duration": "5个工作日", "contact": "陈静平"}),
    )
)
THINGS: tuple[Thing, ...] = (*ENGLISH, *CHINESE)
BY_NAME: dict[str, Thing] = {thing.name: thing for thing in THINGS}


@dataclass(frozen=True)
class Fact:
    """Fact: one attribute of one thing, with a stable id such as `en/Lamki lantern/price`."""

    thing: Thing
    key: str

    @property
    def id(self) -> str:
        """The id of the fact: language, thing and attribute."""
        return f"{self.thing.language}/{self.thing.name}/{self.key}"

    @property
    def value(self) -> str:
        """The value that the fact states."""
        return self.thing.values[self.key]

    def __hash__(self) -> int:
        return hash(self.id)


FACTS: tuple[Fact, ...] = tuple(Fact(thing, key) for thing in THINGS for key in thing.values)


def tell(thing: Thing) -> tuple[str, dict[str, str]]:
    """Write the handbook's paragraph on a thing; also map each attribute to its sentence.

    The styles are those of `things.describe`; but the first sentence always begins with the name,
    so that a chunk cut from the paragraph says what it is about.
    """
    rng = random.Random(f"handbook-{thing.language}-{thing.name}")
    english = thing.language == "en"
    keys = list(thing.values)
    rng.shuffle(keys)
    style = rng.choice(("named", "named", "pronoun", "list"))
    if style == "list":
        mark, joint, stop = (": ", "; ", ".") if english else ("：", "；", "。")
        parts = [
            ATTRIBUTES[thing.kind, k].label[thing.language] + " " * english + thing.values[k]
            for k in keys
        ]
        text = thing.name[0].upper() + thing.name[1:] + mark + joint.join(parts) + stop
        return text, dict.fromkeys(keys, text)
    openers = {k: _opening_forms(thing, k) for k in keys}
    first = next(k for k in keys if openers[k])
    keys.remove(first)
    sentences = {first: things.state(thing, first, rng.choice(openers[first]))}
    pronoun = ("it" if english else "它") if style == "pronoun" and thing.kind != "person" else None
    for key in keys:
        form = rng.randrange(8)
        if english and (thing.kind, key) == ("product", "weight") and form % 4 == 3:
            form = 0  # "is easy to move" would be a strange thing to say of a canoe
        sentences[key] = things.state(thing, key, form, pronoun)
    return (" " if english else "").join(sentences.values()), sentences


def _opening_forms(thing: Thing, key: str) -> list[int]:
    """Find the statement forms of an attribute that begin with the subject."""
    forms = ATTRIBUTES[thing.kind, key].statements[thing.language]
    return [i for i, form in enumerate(forms) if form.lower().startswith("{s}")]


# Question forms beside the world's own, in its vocabulary, for training only: so validation and
# test, which ask in the world's forms, always use other wordings.
EXTRA_QUESTIONS: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {
    ("product", "price"): {
        "en": ("What does {s} cost?", "Please tell me what {s} costs."),
        "zh": ("{s}要多少钱？", "{s}的售价是多少？"),
    },
    ("product", "colour"): {
        "en": ("Please tell me the colour of {s}.", "{S}: which colour is it?"),
        "zh": ("请告诉我{s}的颜色。", "{s}的外观是什么颜色？"),
    },
    ("product", "material"): {
        "en": ("Of what is {s} made?", "{S}: which material is it?"),
        "zh": ("请告诉我{s}的材料。", "{s}用什么材料做成？"),
    },
    ("product", "weight"): {
        "en": ("What weight does {s} have?", "Please tell me how heavy {s} is."),
        "zh": ("请告诉我{s}的重量。", "{s}重多少千克？"),
    },
    ("product", "warranty"): {
        "en": ("How long does the warranty of {s} last?", "{S}: how long is the warranty?"),
        "zh": ("请告诉我{s}的保修期。", "{s}的保修有多长时间？"),
    },
    ("product", "code"): {
        "en": ("What code does {s} have?", "Please tell me the order code of {s}."),
        "zh": ("请告诉我{s}的订货号。", "{s}用什么编号订购？"),
    },
    ("product", "origin"): {
        "en": ("Which town does {s} come from?", "Please tell me where we make {s}."),
        "zh": ("请告诉我{s}的产地。", "{s}是在哪里生产的？"),
    },
    ("product", "designer"): {
        "en": ("Please tell me the designer of {s}.", "{S}: who designed it?"),
        "zh": ("请告诉我{s}的设计者。", "{s}由谁设计？"),
    },
    ("product", "shelf"): {
        "en": ("What is the shelf of {s}?", "{S}: on which shelf is it?"),
        "zh": ("请告诉我{s}的货架号。", "在哪个货架能找到{s}？"),
    },
    ("product", "runtime"): {
        "en": ("How many hours does {s} run on one charge?", "{S}: how long does one charge last?"),
        "zh": ("请告诉我{s}的续航时间。", "{s}的电池能用几小时？"),
    },
    ("person", "role"): {
        "en": ("What job does {s} have?", "Please tell me the role of {s}."),
        "zh": ("请告诉我{s}的职务。", "{s}在这里做什么工作？"),
    },
    ("person", "room"): {
        "en": ("What is the office of {s}?", "In which room does {s} work?"),
        "zh": ("请告诉我{s}的办公室。", "在哪个房间能找到{s}？"),
    },
    ("person", "phone"): {
        "en": ("What extension does {s} have?", "Please tell me the extension of {s}."),
        "zh": ("请告诉我{s}的分机号。", "{s}的电话分机是多少？"),
    },
    ("person", "since"): {
        "en": ("In what year did {s} join us?", "{S}: since when here?"),
        "zh": ("请告诉我{s}的入职年份。", "{s}什么时候入职？"),
    },
    ("person", "language"): {
        "en": ("What second language does {s} speak?", "{S}: which language?"),
        "zh": ("请告诉我{s}的第二语言。", "{s}会哪种语言？"),
    },
    ("person", "manager"): {
        "en": ("Which manager does {s} have?", "{S}: who is the manager?"),
        "zh": ("请告诉我{s}的上级。", "谁是{s}的上级？"),
    },
    ("place", "town"): {
        "en": ("In what town does {s} stand?", "{S}: in which town is it?"),
        "zh": ("请告诉我{s}在哪里。", "{s}设在哪个镇？"),
    },
    ("place", "opens"): {
        "en": ("What is the opening time of {s}?", "{S}: when does it open?"),
        "zh": ("请告诉我{s}的开门时间。", "{s}每天几点开始营业？"),
    },
    ("place", "closes"): {
        "en": ("What is the closing time of {s}?", "{S}: when does it close?"),
        "zh": ("请告诉我{s}的关门时间。", "{s}每天几点停止营业？"),
    },
    ("place", "head"): {
        "en": ("By whom is {s} run?", "{S}: who is in charge?"),
        "zh": ("请告诉我{s}的负责人。", "谁管理{s}？"),
    },
    ("place", "area"): {
        "en": ("How many square metres does {s} cover?", "{S}: how large is it?"),
        "zh": ("请告诉我{s}的面积。", "{s}共有多少平方米？"),
    },
    ("place", "founded"): {
        "en": ("In what year was {s} founded?", "{S}: when was it founded?"),
        "zh": ("请告诉我{s}的成立年份。", "{s}什么时候成立？"),
    },
    ("place", "rest"): {
        "en": ("Which day is the day of rest at {s}?", "{S}: on which day is it closed?"),
        "zh": ("请告诉我{s}的休息日。", "{s}每逢哪天休息？"),
    },
    ("rule", "limit"): {
        "en": ("How many days do I have to ask for {s}?", "{S}: what is the time limit?"),
        "zh": ("请告诉我{s}的申请期限。", "{s}要在几天内申请？"),
    },
    ("rule", "fee"): {
        "en": ("What fee do we charge for {s}?", "{S}: how high is the fee?"),
        "zh": ("请告诉我{s}的费用。", "{s}收费多少？"),
    },
    ("rule", "form"): {
        "en": ("What form is used for {s}?", "{S}: which form is it?"),
        "zh": ("请告诉我{s}的表格。", "{s}要用什么表格？"),
    },
    ("rule", "contact"): {
        "en": ("Whom do I ask about {s}?", "{S}: who is the contact?"),
        "zh": ("请告诉我{s}的联系人。", "{s}的问题由谁决定？"),
    },
    ("rule", "duration"): {
        "en": ("How many working days does {s} take?", "{S}: how long does it take?"),
        "zh": ("请告诉我{s}的办理时间。", "{s}要几个工作日办理？"),
    },
}


def questions(thing: Thing, key: str, extra: bool = False) -> list[str]:
    """Write all question forms for an attribute of a thing: the world's, or the `extra` ones."""
    if extra:
        forms = EXTRA_QUESTIONS[thing.kind, key][thing.language]
        return [things.fill_in(form, thing.subject, "") for form in forms]
    return [
        things.ask(thing, key, i)
        for i in range(len(ATTRIBUTES[thing.kind, key].questions[thing.language]))
    ]
