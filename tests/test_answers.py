"""What a model wrote is read the same whole and streamed, and nothing of it is lost."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3lab import answers
from qwen3lab.answers import Answer

F = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
GOOD = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
CALL = {"name": "f", "arguments": {"x": 1}}

# Text, and what it says to one who knows how the prompt ended (not opened, `f` was offered).
READ = {
    "text": ("just 4 < 5\n", Answer("", "just 4 < 5\n", [])),
    "thoughts": ("<think>\na\nb\n</think>\n\n5", Answer("a\nb", "5", [])),
    "white space stays": ("<think>\n  a \n</think>\n\n 5 \n", Answer("  a ", " 5 \n", [])),
    "no thoughts": ("<think>\n\n</think>\n\n5", Answer("", "5", [])),
    "on one line": ("<think>4 or 5?</think>8 euros", Answer("4 or 5?", "8 euros", [])),
    "cut off": ("<think>\nno end <", Answer("no end <", "", [])),
    "later": ("a <think> later </think>", Answer("", "a <think> later </think>", [])),
    "twice": ("<think></think><think>", Answer("", "<think>", [])),
    "never opened": ("</think>4", Answer("", "</think>4", [])),
    "half a tag": ("<thi", Answer("", "<thi", [])),
    "end in code": (
        "<think>\nI end with `</think>`.\n</think>\n\n5",
        Answer("I end with `</think>`.", "5", []),
    ),
    "end in prose": (
        "<think>\nI end with </think> later.\n</think>\n\n5",
        Answer("I end with </think> later.", "5", []),
    ),
    "end in quotes, cut off": ("<think>\nthe '</think>' tag", Answer("the '</think>' tag", "", [])),
    "only an end amid a line": ("<think>I say 4 </think> 5", Answer("I say 4 ", " 5", [])),
    "thoughts with a call": (f"<think>\n{GOOD}\n</think>\n\n5", Answer(GOOD, "5", [])),
    "a call": (GOOD, Answer("", "", [CALL])),
    "text around": (f"Wait.\n{GOOD}\nDone.", Answer("", "Wait.\nDone.", [CALL])),
    "text between": (f"A\n{GOOD}\nB\n{GOOD}\nC", Answer("", "A\nB\nC", [CALL, CALL])),
    "calls in a row": (f"A {GOOD}{GOOD}\n{GOOD}", Answer("", "A ", [CALL] * 3)),
    "after thoughts": (f"<think>\na\n</think>\n\n{GOOD}", Answer("a", "", [CALL])),
    "a broken one beside": (
        f"{GOOD}\n<tool_call>{{broken</tool_call>\n{GOOD}",
        Answer("", "<tool_call>{broken</tool_call>", [CALL, CALL]),
    ),
    "an open quote beside": (
        f'<tool_call>{{"name": "f}}</tool_call>\n{GOOD}',
        Answer("", '<tool_call>{"name": "f}</tool_call>', [CALL]),
    ),
    "cut off in a call": (GOOD[:-20], Answer("", GOOD[:-20], [])),
    "not offered": (GOOD.replace("f", "g", 1), Answer("", GOOD.replace("f", "g", 1), [])),
    "mentioned": ("Use the <tool_call> tag.", Answer("", "Use the <tool_call> tag.", [])),
    "in prose": (f"Write {GOOD} to call.", Answer("", f"Write {GOOD} to call.", [])),
    "in code": (f"`{GOOD}`", Answer("", f"`{GOOD}`", [])),
    "in a fence": (f"So:\n```xml\n{GOOD}\n```", Answer("", f"So:\n```xml\n{GOOD}\n```", [])),
    "behind a fence": (f"```\nx\n```\n{GOOD}", Answer("", "```\nx\n```", [CALL])),
    "a tag in a text": (
        '<tool_call>{"name": "f", "arguments": {"x": "</tool_call>"}}</tool_call>',
        Answer("", "", [{"name": "f", "arguments": {"x": "</tool_call>"}}]),
    ),
}


def pieces(cut: list[str], opened: bool = False, tools=F) -> list[answers.Piece]:
    reader = answers.Reader(opened, tools)
    found = [piece for part in cut for piece in reader.add(part)]
    return found + reader.add("", last=True)


def in_all_cuts(text: str, opened: bool, tools) -> None:
    """The split of the whole is that of every cut, and of single characters."""
    whole = answers.Reader(opened, tools).add(text, last=True)
    for cut in [list(text), *([text[:at], text[at:]] for at in range(len(text) + 1))]:
        found = pieces(cut, opened, tools)
        assert answers.joined(found) == answers.joined(whole), cut
        assert "".join(piece.text for piece in found) == text


@pytest.mark.parametrize("name", READ)
def test_reading(name):
    text, wanted = READ[name]
    assert answers.read(text, False, F) == wanted
    in_all_cuts(text, False, F)


@pytest.mark.parametrize("name", READ)
def test_reading_what_the_prompt_has_opened(name):
    """Thinking-2507: without its opening tag a text has the same thoughts, whole and streamed."""
    text, wanted = READ[name]
    if text.startswith("<think>"):
        assert answers.read(text.removeprefix("<think>"), True, F) == wanted
        in_all_cuts(text.removeprefix("<think>"), True, F)
        assert answers.read(text, True, F) == wanted  # some write the tag once more
        in_all_cuts(text, True, F)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a</think>\n5", ("a", "5")),
        ("4 or 5?</think>8 euros", ("4 or 5?", "8 euros")),
        ("</think>4", ("", "4")),
        ("It closes with </think> then.", ("", "It closes with </think> then.")),
        ("It closes with `</think>`.", ("", "It closes with `</think>`.")),
        ("a <think> b\n</think>\nc", ("", "a <think> b\n</think>\nc")),
    ],
)
def test_how_it_was_opened_need_not_be_known(text, wanted):
    found = answers.read(text)
    assert (found.thoughts, found.text) == wanted


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"name": "f", "parameters": {"x": 1}}', {"x": 1}),
        ('{"name": "f", "arguments": "{\\"x\\": 1}"}', {"x": 1}),
        ('{"function": {"name": "f", "arguments": {"x": 1}}, "type": "function"}', {"x": 1}),
        ('{"name": "f"}', {}),
        ('{"name": "f", "arguments": null}', {}),
        ('{"name": "f", "arguments": {}, "id": "1"}', {}),
        ('{"name": "f", "arguments": {"x": 1}, "parameters": null}', {"x": 1}),
        # What would lose something, or is no JSON, is no call.
        ('{"name": "f", "x": 1}', None),
        ('{"name": "f", "arguments": {"x": 1}, "parameters": {"y": 1}}', None),
        ('{"name": "f", "arguments": [1]}', None),
        ('{"name": "f", "arguments": "x"}', None),
        ('{"name": "f", "arguments": {"x": NaN}}', None),
        ('{"name": "f", "arguments": {"x": "\\ud800"}}', None),
        ('{"name": "", "arguments": {}}', None),
        ('{"name": ["f"]}', None),
        ("{'name': 'f'}", None),
        ("[1]", None),
        ("", None),
        ('{"name": "f", "arguments": ' + '{"x": ' * 5000 + "1" + "}" * 5001, None),
    ],
)
def test_arguments(body, arguments):
    text = f"<tool_call>{body}</tool_call>"
    found = answers.read(text)
    if arguments is None:
        assert found == Answer("", text, [])
    else:
        assert found == Answer("", "", [{"name": "f", "arguments": arguments}])


def test_any_function_is_taken_where_the_offer_is_not_known():
    assert answers.read(GOOD).calls == [CALL]
    assert answers.read(GOOD, tools=[]) == Answer("", GOOD, [])
    assert answers.read(GOOD, tools=[{"name": "f"}]).calls == [CALL]


def test_a_stream_holds_back_no_more_than_a_tag():
    said = "A long answer with a < b, `code`, <thinking> and <tool_calls>."
    reader, told = answers.Reader(tools=F), ""
    for place, sign in enumerate(said, 1):
        told += "".join(piece.text for piece in reader.add(sign))
        assert len(told) >= place - len("<tool_call>")
    assert told == said


PARTS = st.sampled_from(
    [
        *("<think>", "</think>", "<tool_call>", "</tool_call>", "\n</think>\n\n", " </think> "),
        *("\n", " ", "\r\n", "a", "词", "`", "```", "```\n", "~~~\n", '"', "(", ".", "<thi", "</"),
        *(GOOD, '{"name": "f"}', '{"name": "f}', '{"name": "g"}', "{", "}"),
        json.dumps({"name": "f", "parameters": {"x": "</tool_call> <tool_call>"}}),
    ]
)


@settings(max_examples=120, deadline=None)
@given(st.lists(PARTS, max_size=12).map("".join), st.booleans(), st.sampled_from([None, [], F]))
def test_every_cut_gives_the_same_split(text, opened, tools):
    in_all_cuts(text, opened, tools)


@settings(max_examples=120, deadline=None)
@given(st.lists(PARTS, max_size=12), st.data())
def test_many_cuts_give_the_same_split(parts, data):
    text = "".join(parts)
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    cut = [text[a:b] for a, b in zip([0, *places], [*places, len(text)])]
    assert answers.joined(pieces(cut)) == answers.read(text, False, F)


TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")


@settings(max_examples=120, deadline=None)
@given(st.lists(PARTS, max_size=12).map("".join), st.booleans())
def test_nothing_is_lost(text, opened):
    """What is neither thoughts nor text nor a call is a tag or white space beside one."""
    found = answers.Reader(opened, F).add(text, last=True)
    assert "".join(piece.text for piece in found) == text
    for piece in found:
        if piece.kind == "mark":
            rest = piece.text
            for tag in TAGS:
                rest = rest.replace(tag, "", 1)
            assert not rest.strip()
        if piece.kind == "call":
            told = json.loads(piece.text)
            assert piece.call["name"] == told["name"] == "f"
            assert piece.call["arguments"] == told.get("arguments", told.get("parameters", {}))
