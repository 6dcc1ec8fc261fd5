"""The exercises of notebook 02 and its companion. All need the standard library only."""

from __future__ import annotations

import re
import unicodedata

from qwen3lab.exercises.exercise import REFUSED, case, exercise


@exercise(
    why=(
        "Trained is exactly what the model has to write itself: its words and the token that ends"
        " them."
    ),
    hints=(
        (
            "The loss skips every token whose label is -100. All tokens of a user, a system or a"
            " tool get it."
        ),
        (
            "The header of an assistant's turn is written by the template, so the model need not"
            " learn it."
        ),
        (
            "Of the footer, train the first token (the end of the turn) and not the second (a line"
            " break, which comes when the model has stopped)."
        ),
    ),
)
def answer_labels(turns):
    """The labels of a conversation. Each turn has a "role" and lists of token ids: "header",
    "content" and "footer" (end token, line break).
    """
    result = []
    for turn in turns:
        trained = turn["content"] + turn["footer"][:1]
        if turn["role"] != "assistant":
            trained = [-100] * len(trained)
        result += [-100] * len(turn["header"]) + trained + [-100]
    return result


def _turn(role, *content):
    return {
        "role": role,
        "header": [1, {"system": 70, "user": 71, "assistant": 72, "tool": 73}[role], 10],
        "content": list(content),
        "footer": [2, 10],
    }


@answer_labels.cases
def _():
    no = -100
    yield case(
        [_turn("user", 20, 21), _turn("assistant", 30, 31)],
        note="a question and its answer",
        expect=[no] * 7 + [no] * 3 + [30, 31, 2, no],
    )
    yield case(
        [
            _turn("system", 40),
            _turn("user", 20),
            _turn("assistant", 30),
            _turn("user", 22, 23),
            _turn("assistant", 33, 34, 35),
        ],
        expect=[no] * 12 + [no] * 3 + [30, 2, no] + [no] * 7 + [no] * 3 + [33, 34, 35, 2, no],
        note="two questions behind a system message",
    )
    yield case(
        [_turn("user", 20), _turn("assistant", 50), _turn("tool", 60, 61), _turn("assistant", 30)],
        expect=[no] * 6 + [no] * 3 + [50, 2, no] + [no] * 7 + [no] * 3 + [30, 2, no],
        note="a tool call and its result",
    )


def _label(turns, header=False, end=True, line_break=False, roles=("assistant",)):
    result = []
    for turn in turns:
        parts = (
            (header, turn["header"]),
            (True, turn["content"]),
            (end, turn["footer"][:1]),
            (line_break, turn["footer"][1:]),
        )
        for trained, ids in parts:
            result += ids if trained and turn["role"] in roles else [-100] * len(ids)
    return result


@answer_labels.mistake(
    "The end token is not trained. A model that was never shown where to stop goes on until the"
    " limit."
)
def _never_ends(turns):
    return _label(turns, end=False)


@answer_labels.mistake(
    "You train the header too. The template writes it; the model is never asked for it."
)
def _header_trained(turns):
    return _label(turns, header=True)


@answer_labels.mistake(
    "You mask the user only. Words of the system and results of tools are no answers either: train"
    " the assistant, mask all others."
)
def _all_but_the_user(turns):
    return _label(turns, roles=("assistant", "system", "tool"))


@answer_labels.mistake(
    "You train the line break behind the end token. At use the model has stopped there."
)
def _line_break_trained(turns):
    return _label(turns, line_break=True)


@answer_labels.mistake(
    "You train everything. Most of the loss then goes into guessing what users write."
)
def _everything(turns):
    return _label(
        turns, header=True, line_break=True, roles=("system", "user", "assistant", "tool")
    )


@answer_labels.mistake(
    "Only the last answer is trained. The earlier answers are good examples too."
)
def _last_answer_only(turns):
    result = _label(turns)
    last = len(_label(turns[-1:]))
    return [-100] * (len(result) - last) + result[-last:]


@exercise(
    why=(
        "Every name is mapped on purpose, and an unknown one stops the program instead of vanishing"
        " in the template."
    ),
    hints=(
        "A dict from their names to ours does most of it.",
        (
            "Read the dict so that an unknown name is not let through: roles[name] raises,"
            " roles.get(name, name) does not."
        ),
        "Nothing is guessed from the place of a turn: a system turn shifts the places.",
    ),
)
def map_roles(row):
    """Turn a ShareGPT row into messages: human is the user, gpt the assistant, observation a tool;
    system stays. Others raise ValueError.
    """
    roles = {"human": "user", "gpt": "assistant", "observation": "tool", "system": "system"}
    messages = []
    for turn in row["conversations"]:
        if turn["from"] not in roles:
            raise ValueError(f"unknown role {turn['from']!r}")
        messages.append({"role": roles[turn["from"]], "content": turn["value"]})
    return messages


def _row(*turns):
    return {"conversations": [{"from": role, "value": text} for role, text in turns]}


def _messages(*turns):
    return [{"role": role, "content": text} for role, text in turns]


@map_roles.cases
def _():
    yield case(
        _row(("human", "Is the shop open?"), ("gpt", "Until six.")),
        note="a question and an answer",
        expect=_messages(("user", "Is the shop open?"), ("assistant", "Until six.")),
    )
    yield case(
        _row(("system", "Be brief."), ("human", "几点关门？"), ("gpt", "六点。")),
        note="a row with a system turn",
        expect=_messages(("system", "Be brief."), ("user", "几点关门？"), ("assistant", "六点。")),
    )
    yield case(
        _row(
            ("human", "Add 2 and 3."),
            ("gpt", "I ask the tool."),
            ("observation", "5"),
            ("gpt", "It is 5."),
        ),
        note="a row with an observation",
        expect=_messages(
            ("user", "Add 2 and 3."),
            ("assistant", "I ask the tool."),
            ("tool", "5"),
            ("assistant", "It is 5."),
        ),
    )
    yield case(
        _row(("human", "Hello."), ("narrator", "A door opens."), ("gpt", "Hi.")),
        expect=REFUSED,
        note="a turn from 'narrator'",
    )


_ROLES = {"human": "user", "gpt": "assistant", "observation": "tool", "system": "system"}


@map_roles.mistake(
    "The roles are still called human and gpt. The chat template knows neither and writes nothing"
    " for them."
)
def _names_kept(row):
    return [{"role": turn["from"], "content": turn["value"]} for turn in row["conversations"]]


@map_roles.mistake(
    "An unknown role went through under its own name. The template would drop the turn without a"
    " word: raise a ValueError."
)
def _unknown_let_through(row):
    return [
        {"role": _ROLES.get(turn["from"], turn["from"]), "content": turn["value"]}
        for turn in row["conversations"]
    ]


@map_roles.mistake(
    "A turn with an unknown role was left out. Nobody would notice that words are missing: raise a"
    " ValueError."
)
def _unknown_left_out(row):
    return [
        {"role": _ROLES[turn["from"]], "content": turn["value"]}
        for turn in row["conversations"]
        if turn["from"] in _ROLES
    ]


@map_roles.mistake(
    "You gave out roles by place, in turns. A system turn or a tool's result shifts the places;"
    " read the name."
)
def _by_place(row):
    return [
        {"role": ("user", "assistant")[place % 2], "content": turn["value"]}
        for place, turn in enumerate(row["conversations"])
    ]


@exercise(
    ask=lambda answer, row: row in {str(letter).strip().upper() for letter in answer},
    why=(
        "What counts is a question first, known roles, and an answer at the end; a tool may answer"
        " several calls in a row."
    ),
    hints=(
        "Ask of each row: is there an answer at the end that could be learned?",
        "Does the template know each of the roles? It knows system, user, assistant and tool.",
        "System stands first or nowhere. Tool results may follow each other.",
    ),
)
def trainable_rows():
    """Which of the four rows A, B, C and D can be trained on? The letters, as a string."""
    return "B"


@trainable_rows.cases
def _():
    for letter, valid in (("A", False), ("B", True), ("C", False), ("D", False)):
        yield case(letter, expect=valid)


@trainable_rows.mistake(
    "B is fine. Roles need not alternate strictly: an assistant may call two tools, and both"
    " results follow before it speaks again."
)
def _strictly_alternating():
    return ""


@trainable_rows.mistake(
    "A ends with the user. There is no answer to learn from the last question; drop the turn or the"
    " row."
)
def _without_an_answer():
    return "AB"


@trainable_rows.mistake(
    "C has the roles human and gpt. Once mapped it would be fine; as it stands the template writes"
    " nothing at all."
)
def _unmapped_roles():
    return "BC"


@trainable_rows.mistake(
    "D has a system message in the middle. The model knows it as the first message only."
)
def _late_system():
    return "BD"


def _found(pattern, text):
    return [match.group() for match in re.finditer(pattern, text)]


@exercise(
    ask=_found,
    why="Only digits are forbidden as neighbours; letters and Chinese characters may stand there.",
    hints=(
        "Where does \\b see no edge? Between two word characters, and 电 is one, like a letter.",
        "What must not stand beside the number is another digit.",
        "Look behind with (?<!\\d) and ahead with (?!\\d).",
    ),
)
def phone_pattern():
    """A pattern that finds Chinese mobile numbers (1, then 3 to 9, then nine digits) in any text,
    but not inside longer numbers.
    """
    return r"(?<!\d)1[3-9]\d{9}(?!\d)"


@phone_pattern.cases
def _():
    for text, numbers, words in (
        ("Call 13812345678 after six.", ["13812345678"], "an English sentence"),
        ("请致电13912345678联系我们。", ["13912345678"], "a Chinese sentence"),
        ("订单号2013812345678901", [], "a long order number"),
        ("Fax:Tel15912345678x", ["15912345678"], "a number between letters"),
        ("电话17012345678、18812345678", ["17012345678", "18812345678"], "two numbers"),
        ("编号12812345678", [], "eleven digits that begin with 12"),
    ):
        yield case(text, expect=numbers, note=f"the text {text!r} ({words})")


@phone_pattern.mistake(
    "\\b is an edge between a word character and another, and a Chinese character is a word"
    " character: beside it nothing is found."
)
def _word_edge():
    return r"\b1[3-9]\d{9}\b"


@phone_pattern.mistake(
    "This also finds eleven digits inside a longer number. Forbid a digit on either side."
)
def _no_border():
    return r"1[3-9]\d{9}"


@phone_pattern.mistake(
    "With ASCII edges Chinese works, but a letter beside the number still hides it. Forbid digits,"
    " not letters."
)
def _ascii_edge():
    return r"(?a:\b)1[3-9]\d{9}(?a:\b)"


@phone_pattern.mistake("The number is seldom the whole text. ^ and $ only match where it is.")
def _whole_text():
    return r"^1[3-9]\d{9}$"


@phone_pattern.mistake(
    "The second digit goes from 3 to 9. Yours lets through numbers that begin with 10, 11 or 12."
)
def _any_second_digit():
    return r"(?<!\d)1\d{10}(?!\d)"


@exercise(
    why=(
        "Questions are compared by their letters and digits in one spelling, so neither a comma,"
        " nor an accent, nor another answer hides a copy."
    ),
    hints=(
        (
            "Make a key of each question: one Unicode form, lower case, letters and digits only."
            " Copies have equal keys."
        ),
        (
            "unicodedata.normalize('NFKC', text) joins an e and its accent; casefold() is a"
            " thorough lower()."
        ),
        (
            "character.isalnum() is true for Chinese characters too; a pattern such as [a-z0-9] is"
            " not made for them."
        ),
    ),
)
def leaked_ids(train, validation):
    """The ids of the validation rows whose question stands in train, whatever its case, spaces,
    punctuation and accents are made of.
    """
    import unicodedata

    def key(row):
        text = unicodedata.normalize("NFKC", row["question"]).casefold()
        return "".join(character for character in text if character.isalnum())

    seen = {key(row) for row in train}
    return [row["id"] for row in validation if key(row) in seen]


@leaked_ids.cases
def _():
    train = [
        {"id": f"t{number}", "question": question, "answer": answer}
        for number, (question, answer) in enumerate(
            (
                ("Where is the café?", "In Mill Lane."),
                ("Add 27 and 45.", "72"),
                ("商店几点开门？", "八点。"),
                ("Is it open?", "Yes."),
            )
        )
    ]

    def held_out(*rows):
        return [
            {"id": f"v{number}", "question": question, "answer": answer}
            for number, (question, answer) in enumerate(rows)
        ]

    yield case(
        train,
        held_out(("Add 27 and 45.", "72"), ("Add 27 and 54.", "81")),
        expect=["v0"],
        note="a row that stands in both",
    )
    yield case(
        train,
        held_out(("Is it open?", "Until six."), ("Is it new?", "Yes.")),
        expect=["v0"],
        note="a known question with another answer",
    )
    yield case(
        train,
        held_out(("is it  OPEN", "Yes."), ("add 27 and 45!", "72")),
        expect=["v0", "v1"],
        note="other case, spaces and punctuation",
    )
    yield case(
        train,
        held_out(("Where is the cafe\u0301?", "In Mill Lane.")),
        expect=["v0"],
        note="an é that is written as e and an accent",
    )
    yield case(
        train,
        held_out(("商店几点关门？", "六点。"), ("商店几点开门?", "八点。")),
        expect=["v1"],
        note="Chinese questions",
    )


def _letters(text):
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def _leaks_by(train, validation, key):
    seen = {key(row) for row in train}
    return [row["id"] for row in validation if key(row) in seen]


@leaked_ids.mistake(
    "You compared texts as they are. A capital, a blank or a comma more, and the copy goes unseen."
)
def _exact(train, validation):
    return _leaks_by(train, validation, lambda row: row["question"])


@leaked_ids.mistake(
    "You compared whole rows. A known question with another answer leaks just as well: the model"
    " has seen what it is asked."
)
def _with_the_answer(train, validation):
    return _leaks_by(
        train, validation, lambda row: _letters(row["question"]) + _letters(row["answer"])
    )


@leaked_ids.mistake(
    "You kept a to z and 0 to 9 only. Of a Chinese question nothing is left, and all of them look"
    " alike."
)
def _latin_only(train, validation):
    return _leaks_by(
        train, validation, lambda row: re.sub(r"[^a-z0-9]", "", _letters(row["question"]))
    )


@leaked_ids.mistake(
    "An é can be one character, or an e and an accent. Bring both into one form with"
    " unicodedata.normalize first."
)
def _not_normalised(train, validation):
    return _leaks_by(
        train, validation, lambda row: "".join(c for c in row["question"].casefold() if c.isalnum())
    )


@exercise(
    why=(
        "The cut is at a question, whatever tool calls lie between, so no answer stands without"
        " what it answers."
    ),
    hints=(
        "A turn begins with a message of the user. Collect the places of these.",
        "The last `turns` of these places: everything from the first of them on is kept.",
        (
            "A system message at the beginning is kept in any case, and a conversation that is"
            " short enough stays whole."
        ),
    ),
)
def last_turns(messages, turns):
    """Keep the last `turns` turns (a user's message and all that follows it up to the next) and the
    system message.
    """
    system = [message for message in messages[:1] if message["role"] == "system"]
    begins = [place for place, message in enumerate(messages) if message["role"] == "user"]
    if len(begins) <= turns:
        return messages
    return system + messages[begins[-turns] :]


def _talk(*roles):
    return [{"role": role, "content": f"{role} {place}"} for place, role in enumerate(roles)]


@last_turns.cases
def _():
    pair, call = ("user", "assistant"), ("user", "assistant", "tool", "assistant")
    plain, guided, tools = (
        _talk(*pair * 7),
        _talk("system", *pair * 7),
        _talk("system", *call * 2, *pair, *call, *pair * 2),
    )
    yield case(
        plain, 5, expect=plain[4:], note="seven turns without a system message, five to keep,"
    )
    yield case(
        guided,
        5,
        expect=guided[:1] + guided[5:],
        note="seven turns behind a system message, five to keep,",
    )
    yield case(
        tools, 3, expect=tools[:1] + tools[11:], note="turns with tool calls, three to keep,"
    )
    yield case(guided[:5], 5, expect=guided[:5], note="a conversation of two turns, five to keep,")


@last_turns.mistake(
    "You counted messages. A turn has at least two, and cut in its middle an answer loses its"
    " question."
)
def _messages_not_turns(messages, turns):
    return messages[-turns:]


@last_turns.mistake(
    "You took two messages for a turn. With a tool call a turn has more, and your cut falls into"
    " its middle: look for the user's messages."
)
def _two_a_turn(messages, turns):
    system = [message for message in messages[:1] if message["role"] == "system"]
    return system + messages[len(system) :][-2 * turns :]


@last_turns.mistake(
    "You kept twice as many messages as turns. A tool call makes a turn longer, and the system"
    " message falls off: look for the user's messages."
)
def _twice_as_many_messages(messages, turns):
    return messages[-2 * turns :]


@last_turns.mistake(
    "The system message is gone. It tells the assistant how to answer, so it stays."
)
def _system_lost(messages, turns):
    begins = [place for place, message in enumerate(messages) if message["role"] == "user"]
    return messages if len(begins) <= turns else messages[begins[-turns] :]


@last_turns.mistake(
    "You kept the first turns. What a new answer depends on most stands at the end."
)
def _first_turns(messages, turns):
    begins = [place for place, message in enumerate(messages) if message["role"] == "user"]
    return messages if len(begins) <= turns else messages[: begins[turns]]


@exercise(
    why=(
        "The last digit makes the sum a multiple of ten, so nine of ten random numbers are told"
        " from a card's."
    ),
    hints=(
        "Go from the right: number[::-1].",
        (
            "Digits at the places 1, 3, 5 ... from the right, counted from 0, are doubled; the last"
            " digit is not."
        ),
        (
            "A doubled digit above nine loses nine (14 becomes 5). The number is good if the sum is"
            " a multiple of ten."
        ),
    ),
)
def card_number_ok(number):
    """Is this string of digits a possible card number? From the right, double every second digit,
    less 9 if above 9; the sum has to end in 0.
    """
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


@card_number_ok.cases
def _():
    # The numbers that payment systems publish for tests; no one's card.
    for number, good in (
        ("4111111111111111", True),
        ("378282246310005", True),
        ("5555555555554444", True),
        ("6011000990139424", True),
        ("30569309025904", True),
        ("4111111111111112", False),
        ("378282246310006", False),
        ("5555555555554445", False),
        ("6011000990139442", False),
        ("1234567890123456", False),
        ("123456789012345", False),
        ("4539148803436468", False),
    ):
        yield case(number, expect=good, note=f"the number {number}")


def _sum(digits, first, less_nine=True):
    doubled = [int(digit) * (2 if place % 2 == first else 1) for place, digit in enumerate(digits)]
    return sum(value - 9 if value > 9 and less_nine else value for value in doubled)


@card_number_ok.mistake(
    "You doubled from the left. That is right for sixteen digits by luck; cards with fifteen digits"
    " show that one counts from the right."
)
def _from_the_left(number):
    return _sum(number, 0) % 10 == 0


@card_number_ok.mistake(
    "A doubled digit above nine has to lose nine (or become the sum of its two digits)."
)
def _not_less_nine(number):
    return _sum(number[::-1], 1, less_nine=False) % 10 == 0


@card_number_ok.mistake(
    "You doubled the last digit. It is the check digit and counts as it is; begin with the one"
    " before it."
)
def _last_one_too(number):
    return _sum(number[::-1], 0) % 10 == 0


@card_number_ok.mistake(
    "That is the remainder, which is 0 for a good number, and 0 counts as False. Give back whether"
    " it equals 0."
)
def _remainder(number):
    return _sum(number[::-1], 1) % 10


@exercise(
    ask=lambda pack, lengths, size: sorted(sorted(group) for group in pack(lengths, size)),
    why=(
        "The long rows come first and each goes where it fits most tightly, so the short ones fill"
        " the gaps; and no row is cut."
    ),
    hints=(
        "Sort the lengths, the longest first.",
        (
            "Put each into the group that it fits into and that has the least room left, and open a"
            " new group if there is none."
        ),
        "Among the groups with sum(group) + length <= size take max(..., key=sum).",
    ),
)
def best_fit(lengths, size):
    """Group rows so that no group is longer than `size`: the longest first, each into the fullest
    group that still has room (best fit).
    """
    groups = []
    for length in sorted(lengths, reverse=True):
        fitting = [group for group in groups if sum(group) + length <= size]
        if fitting:
            max(fitting, key=sum).append(length)
        else:
            groups.append([length])
    return groups


@best_fit.cases
def _():
    # No two groups are equally full when a row has a choice, so best fit has one result only.
    yield case(
        [9, 1, 1, 6, 11],
        16,
        expect=[[1, 6, 9], [1, 11]],
        note="rows of 9, 1, 1, 6 and 11 tokens, 16 a group,",
    )
    yield case(
        [2, 3, 2, 7, 12, 6],
        16,
        expect=[[2, 2, 12], [3, 6, 7]],
        note="rows of 2, 3, 2, 7, 12 and 6 tokens, 16 a group,",
    )
    yield case(
        [8, 3, 7, 11, 15, 4, 6, 6, 2],
        16,
        expect=[[2, 3, 11], [4, 6, 6], [7, 8], [15]],
        note="nine rows of 2 to 15 tokens, 16 a group,",
    )


@best_fit.mistake(
    "You close a group as soon as one row does not fit. Keep all groups open: a later row may fill"
    " the gap."
)
def _next_fit(lengths, size):
    groups = [[]]
    for length in lengths:
        if sum(groups[-1]) + length > size:
            groups.append([])
        groups[-1].append(length)
    return groups


def _first_fit(lengths, size, choose):
    groups = []
    for length in lengths:
        fitting = [group for group in groups if sum(group) + length <= size]
        if fitting:
            choose(fitting).append(length)
        else:
            groups.append([length])
    return groups


@best_fit.mistake(
    "You took the rows in their order. Short rows then take the room that a long one needs: sort,"
    " the longest first."
)
def _not_sorted(lengths, size):
    return _first_fit(lengths, size, lambda fitting: max(fitting, key=sum))


@best_fit.mistake(
    "You took the first group with room. Best fit takes the fullest one, and keeps the roomy ones"
    " for longer rows."
)
def _first_that_fits(lengths, size):
    return _first_fit(sorted(lengths, reverse=True), size, lambda fitting: fitting[0])


@best_fit.mistake(
    "You cut rows at the end of a group. What follows the cut is read without its beginning; keep"
    " rows whole."
)
def _cut(lengths, size):
    groups, room = [[]], size
    for length in lengths:
        while length:
            part = min(length, room)
            groups[-1].append(part)
            length, room = length - part, room - part
            if not room:
                groups.append([])
                room = size
    return [group for group in groups if group]
