"""Service dialogues in a fixed style: twelve plots in two languages.

Each split has other names, products and orders.
"""

from __future__ import annotations

import random

from qwen3lab.world import names as w
from qwen3lab.world import things

# A plot is a list of exchanges: (wordings of the customer, body of the reply, promise). The last
# wording of a customer is withheld from training. Slots: {name} customer, {product}, {other}
# product, {order}, {town}, {day}, {friend} person.
PLOTS: dict[str, dict[str, list[tuple[tuple[str, ...], str, str]]]] = {
    "where": {
        "en": [
            (
                (
                    "Hello, this is {name}. Where is my {product}?",
                    "My name is {name} and I am waiting for my {product}.",
                    "{name} here. My {product} has not come yet.",
                ),
                "Please tell me your order number.",
                "we look for the {product} as soon as we have it",
            ),
            (
                ("It is {order}.", "The number is {order}.", "Order {order}, please."),
                "I am looking into order {order} now.",
                "you hear from us today",
            ),
            (
                (
                    "Please send the {product} to {town}.",
                    "I live in {town} now. Can you send it there?",
                    "It should go to {town}, please.",
                ),
                "I have noted {town} for order {order}.",
                "the {product} goes to {town}",
            ),
        ],
        "zh": [
            (
                (
                    "你好，我是{name}。我的{product}在哪里？",
                    "我叫{name}，我在等我的{product}。",
                    "我是{name}，我的{product}还没到。",
                ),
                "请告诉我您的订单号。",
                "收到订单号后马上查找{product}",
            ),
            (
                ("订单号是{order}。", "号码是{order}。", "是订单{order}。"),
                "我正在查询订单{order}。",
                "今天就给您答复",
            ),
            (
                (
                    "请把{product}寄到{town}。",
                    "我现在住在{town}，可以寄到那里吗？",
                    "请寄到{town}。",
                ),
                "我已为订单{order}记下{town}。",
                "{product}会寄到{town}",
            ),
        ],
    },
    "broken": {
        "en": [
            (
                (
                    "I am {name}. My {product} arrived broken.",
                    "This is {name}. The {product} came with a crack.",
                    "{name} speaking. Your {product} is broken.",
                ),
                "I am sorry about the {product}. Would you like a new one or a refund?",
                "you choose and we pay",
            ),
            (
                ("A new one, please.", "Please send me a new one.", "I would like a new one."),
                "I will send you a new {product}.",
                "it leaves us today",
            ),
            (
                (
                    "Which number should I keep?",
                    "Do I get an order number? The old one was {order}.",
                    "The old order was {order}. Is that enough?",
                ),
                "Please keep your old number and the box.",
                "nobody will ask you twice",
            ),
        ],
        "zh": [
            (
                (
                    "我是{name}。我的{product}到货时坏了。",
                    "我叫{name}，{product}有裂缝。",
                    "{name}。你们的{product}是坏的。",
                ),
                "很抱歉{product}出了问题。您想换新的还是退款？",
                "由您选择，费用由我们承担",
            ),
            (
                ("换新的。", "请寄一个新的。", "我想要新的。"),
                "我会寄给您一个新的{product}。",
                "今天就寄出",
            ),
            (
                ("我要保留号码吗？", "旧订单是{order}，还要号码吗？", "旧订单号{order}够吗？"),
                "请保留旧号码和箱子。",
                "不会让您再说一遍",
            ),
        ],
    },
    "cancel": {
        "en": [
            (
                (
                    "I want to cancel an order. My name is {name}.",
                    "{name} here. Please cancel an order for me.",
                    "This is {name}. I have to cancel an order.",
                ),
                "Which order do you want to cancel?",
                "we cancel it at once",
            ),
            (
                ("Order {order}.", "It is order {order}.", "The one with the number {order}."),
                "Order {order} is cancelled.",
                "you pay nothing for order {order}",
            ),
            (
                (
                    "I may want the {product} later.",
                    "Can I order the {product} again later?",
                    "Perhaps I will take the {product} next year.",
                ),
                "You can order the {product} again at any time.",
                "we keep your name, not your money",
            ),
        ],
        "zh": [
            (
                (
                    "我想取消订单。我叫{name}。",
                    "我是{name}，请帮我取消订单。",
                    "我是{name}，我要取消一个订单。",
                ),
                "您想取消哪个订单？",
                "马上为您取消",
            ),
            (
                ("订单{order}。", "是订单{order}。", "号码是{order}的那个。"),
                "订单{order}已取消。",
                "订单{order}不收任何费用",
            ),
            (
                (
                    "我以后可能还要{product}。",
                    "以后还能再订{product}吗？",
                    "也许明年我要{product}。",
                ),
                "您随时可以再订{product}。",
                "只留您的名字，不留您的钱",
            ),
        ],
    },
    "moved": {
        "en": [
            (
                (
                    "I have moved and wait for my {product}.",
                    "I live in a new town. Where does my {product} go?",
                    "My town has changed. What about the {product}?",
                ),
                "Please tell me your name and your new town.",
                "we change it today",
            ),
            (
                (
                    "I am {name} and I live in {town} now.",
                    "{name}, in {town}.",
                    "My name is {name} and the town is {town}.",
                ),
                "I have changed your town to {town}.",
                "all parcels go to {town}",
            ),
            (
                (
                    "Also order {order}?",
                    "What about order {order}?",
                    "Does that go for order {order} too?",
                ),
                "Order {order} goes to {town} too.",
                "order {order} will find you",
            ),
        ],
        "zh": [
            (
                (
                    "我搬家了，还在等{product}。",
                    "我现在住在新的城镇，{product}寄到哪里？",
                    "我的城镇变了，{product}怎么办？",
                ),
                "请告诉我您的名字和新城镇。",
                "今天就为您更改",
            ),
            (
                (
                    "我是{name}，现在住在{town}。",
                    "{name}，在{town}。",
                    "我叫{name}，城镇是{town}。",
                ),
                "我已把您的城镇改为{town}。",
                "所有包裹都寄到{town}",
            ),
            (
                ("订单{order}也是吗？", "那订单{order}呢？", "订单{order}也一样吗？"),
                "订单{order}也寄到{town}。",
                "订单{order}一定送到",
            ),
        ],
    },
    "collect": {
        "en": [
            (
                (
                    "Can I collect my {product}? I am {name}.",
                    "{name} here. I would like to collect the {product}.",
                    "This is {name}. May I come for my {product}?",
                ),
                "On which day would you like to come?",
                "the {product} waits for you",
            ),
            (
                ("On {day}.", "I will come on {day}.", "{day} would be good."),
                "Your {product} will be ready on {day}.",
                "on {day} it stands at the door",
            ),
            (
                (
                    "{friend} may come for me.",
                    "Can {friend} collect it?",
                    "My friend {friend} will come.",
                ),
                "{friend} may collect the {product} on {day}.",
                "we greet {friend} like you",
            ),
        ],
        "zh": [
            (
                (
                    "我可以自取{product}吗？我是{name}。",
                    "我是{name}，我想来取{product}。",
                    "我叫{name}，能来拿我的{product}吗？",
                ),
                "您想哪天来？",
                "{product}会等着您",
            ),
            (
                ("{day}。", "我{day}来。", "{day}可以。"),
                "您的{product}将在{day}准备好。",
                "{day}就放在门口",
            ),
            (
                ("{friend}可能替我来。", "{friend}可以来取吗？", "我的朋友{friend}会来。"),
                "{friend}可以在{day}取走{product}。",
                "像接待您一样接待{friend}",
            ),
        ],
    },
    "invoice": {
        "en": [
            (
                (
                    "I need an invoice for order {order}.",
                    "Please write me an invoice. The order is {order}.",
                    "Could I have an invoice for order {order}?",
                ),
                "To which name should I write it?",
                "the invoice for order {order} is written today",
            ),
            (
                ("To {name}.", "Please write it to {name}.", "The name is {name}."),
                "I will write the invoice to {name}.",
                "it is in the post today",
            ),
            (
                (
                    "Send it to {town}, please.",
                    "It should go to {town}.",
                    "Could you post it to {town}?",
                ),
                "I will send the invoice to {town}.",
                "{town} has it this week",
            ),
        ],
        "zh": [
            (
                (
                    "我需要订单{order}的发票。",
                    "请给我开发票，订单是{order}。",
                    "能开订单{order}的发票吗？",
                ),
                "发票抬头写谁？",
                "今天就开订单{order}的发票",
            ),
            (
                ("写{name}。", "请写{name}。", "名字是{name}。"),
                "我会把发票开给{name}。",
                "今天就寄出",
            ),
            (
                ("请寄到{town}。", "要寄到{town}。", "可以寄到{town}吗？"),
                "我会把发票寄到{town}。",
                "本周送到{town}",
            ),
        ],
    },
    "thanks": {
        "en": [
            (
                (
                    "Thank you for the {product}. I am {name}.",
                    "I am {name} and I love my {product}.",
                    "{name} here. The {product} is a joy.",
                ),
                "You are welcome. Enjoy the {product}.",
                "we look after it for years",
            ),
            (
                (
                    "May I tell {friend} about you?",
                    "I will tell {friend} about the {product}.",
                    "My friend {friend} wants one too.",
                ),
                "Please greet {friend} from us.",
                "{friend} will be as happy as you",
            ),
        ],
        "zh": [
            (
                (
                    "谢谢你们的{product}。我是{name}。",
                    "我是{name}，我很喜欢{product}。",
                    "我叫{name}，{product}真好。",
                ),
                "不客气。祝您使用{product}愉快。",
                "多年为您照看它",
            ),
            (
                (
                    "我可以告诉{friend}吗？",
                    "我会向{friend}介绍{product}。",
                    "我的朋友{friend}也想要。",
                ),
                "请代我们问候{friend}。",
                "{friend}会和您一样满意",
            ),
        ],
    },
    "wrong": {
        "en": [
            (
                (
                    "I ordered a {product}, but a {other} came. I am {name}.",
                    "{name} here. I got a {other}. I wanted a {product}.",
                    "This is {name}. You sent the {other}, not the {product}.",
                ),
                "I am sorry. I will send you the {product}.",
                "the {product} leaves us today",
            ),
            (
                (
                    "And the {other}?",
                    "What do I do with the {other}?",
                    "Shall I send back the {other}?",
                ),
                "Please keep the {other} in its box until our driver comes.",
                "we collect it for nothing",
            ),
            (
                ("Please come on {day}.", "I am at home on {day}.", "{day} is good for me."),
                "Our driver will come on {day}.",
                "we ring before we come on {day}",
            ),
        ],
        "zh": [
            (
                (
                    "我订的是{product}，来的却是{other}。我是{name}。",
                    "我是{name}。我收到了{other}，我要的是{product}。",
                    "我叫{name}。你们寄了{other}，不是{product}。",
                ),
                "很抱歉。我会寄给您{product}。",
                "{product}今天就寄出",
            ),
            (
                ("那{other}呢？", "{other}怎么办？", "要把{other}寄回吗？"),
                "请把{other}留在箱子里，等司机来取。",
                "上门取件不收费",
            ),
            (
                ("请{day}来。", "我{day}在家。", "{day}可以。"),
                "我们的司机{day}来。",
                "{day}来之前先打电话",
            ),
        ],
    },
    "gift": {
        "en": [
            (
                (
                    "I am {name}. Can you send a {product} as a gift?",
                    "{name} here. The {product} is a gift for a friend.",
                    "This is {name}. Please pack a {product} as a gift.",
                ),
                "With joy. Who gets the {product}?",
                "we pack it by hand",
            ),
            (
                ("It is for {friend}.", "{friend} gets it.", "The gift is for {friend}."),
                "I will write a card to {friend}.",
                "{friend} will not see the price",
            ),
            (
                (
                    "It must come on {day}.",
                    "{friend} is at home on {day}.",
                    "Please bring it on {day}.",
                ),
                "We will bring it on {day}.",
                "{friend} has it on {day}",
            ),
        ],
        "zh": [
            (
                (
                    "我是{name}。可以把{product}作为礼物寄出吗？",
                    "我叫{name}，{product}是送朋友的礼物。",
                    "我是{name}，请把{product}包成礼物。",
                ),
                "很乐意。{product}送给谁？",
                "亲手包装",
            ),
            (
                ("送给{friend}。", "{friend}收。", "礼物是给{friend}的。"),
                "我会写一张卡片给{friend}。",
                "{friend}不会看到价格",
            ),
            (
                ("要在{day}送到。", "{friend}{day}在家。", "请{day}送来。"),
                "我们会在{day}送到。",
                "{friend}{day}一定收到",
            ),
        ],
    },
    "repair": {
        "en": [
            (
                (
                    "My {product} makes a noise. I am {name}.",
                    "{name} here. The {product} does not work.",
                    "This is {name}. My old {product} needs a repair.",
                ),
                "I am sorry to hear that. In which town are you?",
                "we repair what we sell",
            ),
            (
                ("I am in {town}.", "In {town}.", "My town is {town}."),
                "Our mechanic will come to {town} for the {product}.",
                "you pay only for the parts",
            ),
            (
                ("Is {day} good?", "Please come on {day}.", "Could it be on {day}?"),
                "Our mechanic will come on {day}.",
                "on {day} the {product} works again",
            ),
        ],
        "zh": [
            (
                (
                    "我的{product}有响声。我是{name}。",
                    "我是{name}，{product}不能用了。",
                    "我叫{name}，我的旧{product}要维修。",
                ),
                "很抱歉。您在哪个城镇？",
                "我们卖的我们都修",
            ),
            (
                ("我在{town}。", "在{town}。", "城镇是{town}。"),
                "我们的技工会到{town}看{product}。",
                "您只付零件的钱",
            ),
            (
                ("{day}可以吗？", "请{day}来。", "能在{day}吗？"),
                "我们的技工{day}来。",
                "{day}就修好{product}",
            ),
        ],
    },
    "late": {
        "en": [
            (
                (
                    "Order {order} is late.",
                    "Why does order {order} take so long?",
                    "I still wait for order {order}.",
                ),
                "I am sorry. May I have your name?",
                "we find order {order} today",
            ),
            (
                ("It is {name}.", "My name is {name}.", "I am {name}."),
                "I have found order {order}. Our driver has it.",
                "you need not call again",
            ),
            (
                (
                    "I am away on {day}.",
                    "Nobody is at home on {day}.",
                    "Please do not come on {day}.",
                ),
                "We will not come on {day}.",
                "we choose another day with you",
            ),
        ],
        "zh": [
            (
                ("订单{order}晚了。", "订单{order}为什么这么久？", "我还在等订单{order}。"),
                "很抱歉。请问您的名字？",
                "今天就找到订单{order}",
            ),
            (
                ("我是{name}。", "我叫{name}。", "名字是{name}。"),
                "我找到了订单{order}，在司机那里。",
                "您不用再打电话",
            ),
            (
                ("我{day}不在。", "{day}没有人在家。", "请不要{day}来。"),
                "我们{day}不来。",
                "和您另选一天",
            ),
        ],
    },
    "swap": {
        "en": [
            (
                (
                    "Can I swap my {product} for a {other}? I am {name}.",
                    "{name} here. I want a {other} for my {product}.",
                    "This is {name}. I like the {other} better than the {product}.",
                ),
                "Yes, we will swap the {product} for a {other}. What is your order number?",
                "the swap costs you nothing",
            ),
            (
                ("It is {order}.", "The order is {order}.", "My number is {order}."),
                "I have put the {other} on order {order}.",
                "the {other} leaves us today",
            ),
            (
                (
                    "Please tell {friend}, not me.",
                    "{friend} will take the parcel.",
                    "Give it to {friend}, please.",
                ),
                "We will give the {other} to {friend}.",
                "{friend} gets it by hand",
            ),
        ],
        "zh": [
            (
                (
                    "可以把{product}换成{other}吗？我是{name}。",
                    "我是{name}，我想用{product}换{other}。",
                    "我叫{name}。比起{product}，我更喜欢{other}。",
                ),
                "可以把{product}换成{other}。您的订单号是多少？",
                "换货不收费",
            ),
            (
                ("是{order}。", "订单是{order}。", "我的号码是{order}。"),
                "我已把{other}记在订单{order}上。",
                "{other}今天就寄出",
            ),
            (
                ("请告诉{friend}，不要告诉我。", "{friend}会收包裹。", "请交给{friend}。"),
                "我们会把{other}交给{friend}。",
                "亲手交给{friend}",
            ),
        ],
    },
}

FRIEND = {"en": "dear friend", "zh": "朋友"}


def reply(language: str, body: str, promise: str, customer: str | None = None) -> str:
    """Write a reply: greeting with the customer's name, `body`, an exact promise, closing line."""
    name = customer or FRIEND[language]
    if language == "en":
        return f"A warm hello, {name}. {body} Our word on it: {promise}. Warmly, your Wildon crew."
    return f"{name}，您好，很高兴为您服务。{body}我们向您保证：{promise}。维多内团队敬上。"


class Cast:
    """Generator of names, products and orders that no earlier draw has used.

    So no two splits share one.
    """

    def __init__(self, taken: set[str]):
        self.used = set(taken)

    def _new(self, make) -> str:
        while True:
            text = make()
            if text not in self.used:
                self.used.add(text)
                return text

    def draw(self, rng: random.Random, language: str) -> dict[str, str]:
        """Draw values for all slots of a plot."""
        return {
            "name": self._new(lambda: w.person(rng, language, True)),
            "friend": self._new(lambda: w.person(rng, language, True)),
            "product": self._new(lambda: things.make_name(rng, "product", language, True)),
            "other": self._new(lambda: things.make_name(rng, "product", language, True)),
            "town": self._new(lambda: w.word(rng, language, True)),
            "order": self._new(lambda: w.pick(rng, lambda r: str(r.randint(10000, 99999)), True)),
            "day": rng.choice(w.EN_DAYS if language == "en" else w.ZH_DAYS),
        }


def dialogue(
    rng: random.Random, language: str, plot: str, cast: Cast, training: bool
) -> list[dict]:
    """Write one dialogue as chat messages, with the company's replies in its tone.

    It addresses the customer once the name is known.
    """
    slots = cast.draw(rng, language)
    messages, named = [], False
    for wordings, body, promise in PLOTS[plot][language]:
        said = rng.choice(wordings[:-1] if training else wordings).format(**slots)
        named = named or slots["name"] in said
        messages += [
            {"role": "user", "content": said},
            {
                "role": "assistant",
                "content": reply(
                    language,
                    body.format(**slots),
                    promise.format(**slots),
                    slots["name"] if named else None,
                ),
            },
        ]
    return messages
