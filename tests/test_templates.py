"""Every chat template that a Qwen3 checkpoint may carry: what is trained is what is asked, the
answer and its end, word for word as the template writes it.
"""

from __future__ import annotations

import copy
import json
import shutil

import pytest
from chat_templates import templates
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_masks import ADD, ASK, CALL, CASES, RESULT, trained

from qwen3lab import chat, messages, models, paths, training
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import evaluate_tasks, perplexity
from qwen3lab.models.generation import generate
from qwen3lab.training import thinking as recipes

THOUGHT = {"role": "assistant", "reasoning_content": "2 + 3 = 5.", "content": "5"}
AGAIN = {"role": "user", "content": "And 4 more?"}
TWICE = CALL | {"content": "I add twice.", "tool_calls": CALL["tool_calls"] * 2}
# name -> (messages, thinking, tools): those of the mask tests, and more of what histories hold.
TABLE = {name: case[:3] for name, case in CASES.items()} | {
    "thoughts before": ([ASK, THOUGHT, AGAIN, THOUGHT | {"content": "9"}], False, None),
    "a call without content": (
        [ASK, {key: CALL[key] for key in ("role", "tool_calls")}, RESULT, THOUGHT],
        False,
        [ADD],
    ),
    "two calls, two results": (
        [{"role": "system", "content": "Be brief."}, ASK, TWICE, RESULT, RESULT, THOUGHT],
        False,
        [ADD],
    ),
    "two calls, two results, thinking": ([ASK, TWICE, RESULT, RESULT, THOUGHT], True, [ADD]),
    "a second call, thinking": (
        [ASK, CALL | {"reasoning_content": "I add."}, RESULT, TWICE | {"reasoning_content": "So."}],
        True,
        [ADD],
    ),
    "a call in an earlier turn": (
        [ASK, CALL, RESULT, THOUGHT, AGAIN, {"role": "assistant", "content": " 9\n"}],
        False,
        None,
    ),
    "markup": (
        [
            {"role": "user", "content": "a < b?\n\n你好 & <b>"},
            {"role": "assistant", "content": "<"},
        ],
        False,
        None,
    ),
}


@pytest.fixture(scope="module")
def qwen():
    return models.load_tokenizer(paths.MODELS / "qwen3-tiny")


@pytest.fixture()
def tokenizer(qwen, name):
    found = copy.deepcopy(qwen)
    found.chat_template = templates()[name]
    return found


def written(tokenizer, messages, thinking, tools, prompt):
    """What transformers writes with this template, given the empty content that early ones want."""
    return tokenizer.apply_chat_template(
        [{"content": ""} | message for message in messages],
        chat_template=tokenizer.chat_template or chat.template(),
        tools=tools,
        tokenize=False,
        add_generation_prompt=prompt,
        enable_thinking=thinking,
    )


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def refused(name, messages, thinking, tools):
    """What a template cannot write, and says so."""
    if name == "chatml" and (tools or any("tool_calls" in message for message in messages)):
        return "writes no tool"
    silent = name == "chatml" or name.startswith(("qwen3_instruct", "qwen3_vl", "qwen2_5"))
    return "writes no thoughts" if thinking and silent else None


@pytest.mark.parametrize("case", TABLE)
@pytest.mark.parametrize("name", templates())
def test_what_is_trained_is_what_is_asked_the_answer_and_its_end(tokenizer, name, case):
    messages, thinking, tools = TABLE[case]
    why = refused(name, messages, thinking, tools)
    if why:
        with pytest.raises(Qwen3labError, match=why):
            chat.example(tokenizer, messages, thinking=thinking, tools=tools)
        return
    *before, last = messages
    if not thinking:
        last = {key: value for key, value in last.items() if key != "reasoning_content"}
    prompt = written(tokenizer, before, thinking, tools, True)
    whole = written(tokenizer, [*before, last], thinking, tools, False)
    shared = prompt
    if name == "block in the prompt alone" and not thinking:
        shared = prompt.removesuffix("<think>\n\n</think>\n\n")
    assert whole.startswith(shared) and whole.endswith("<|im_end|>\n")
    question = ids(tokenizer, prompt)
    answer = ids(tokenizer, whole[len(shared) :].removesuffix("\n"))
    row = chat.example(tokenizer, messages, thinking=thinking, tools=tools)
    assert row["input_ids"] == question + answer
    assert row["labels"] == [chat.IGNORED] * len(question) + answer
    assert answer[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert chat.encode(tokenizer, before, thinking=thinking, tools=tools) == question
    encoded = chat.encode(
        tokenizer, [*before, last], thinking=thinking, tools=tools, generation_prompt=False
    )
    assert encoded == ids(tokenizer, whole)


ASKED = "<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n<|im_start|>assistant\n"
TEXT_END = "<|endoftext|>"
EMPTY = "<think>\n\n</think>\n\n"
FULL = "<think>\n2 + 3 = 5.\n</think>\n\n5<|im_end|>"


@pytest.mark.parametrize(
    ("name", "thinking", "end_of_prompt", "answer"),
    [
        ("qwen3", False, EMPTY, "5<|im_end|>"),
        ("qwen3", True, "", FULL),
        ("april 2025", False, EMPTY, "5<|im_end|>"),
        ("april 2025", True, "", FULL),
        ("base", False, EMPTY, "5<|im_end|>"),
        ("base", True, "", FULL),
        ("qwen3_training", False, EMPTY, "5<|im_end|>"),
        ("qwen3_instruct_2507", False, "", "5<|im_end|>"),
        ("qwen3_instruct_2507_training", False, "", "5<|im_end|>"),
        ("chatml", False, "", "5<|im_end|>"),
        ("block in the prompt alone", False, EMPTY, "5<|im_end|>"),
        ("block in the prompt alone", True, "", FULL),
        ("thinking 2507", True, "<think>\n", FULL.removeprefix("<think>\n")),
        # It cannot be asked without thoughts: closing the block is what the answer begins with.
        ("thinking 2507", False, "<think>\n", "\n</think>\n\n5<|im_end|>"),
    ],
)
def test_where_the_think_block_stands(tokenizer, name, thinking, end_of_prompt, answer):
    row = chat.example(tokenizer, [ASK, THOUGHT], thinking=thinking)
    assert trained(tokenizer, row["labels"]) == answer
    assert tokenizer.decode(row["input_ids"]) == ASKED + end_of_prompt + answer


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen3", (True, True, True, EMPTY, "", "")),
        ("april 2025", (True, True, True, EMPTY, "", "")),
        ("base", (True, True, True, EMPTY, "", "")),
        ("qwen3_instruct_2507", (False, True, True, "", "", "")),
        ("thinking 2507", (True, True, True, "<think>\n", "<think>\n", "\n</think>\n\n")),
        ("qwen3_5_think", (True, True, True, EMPTY, "<think>\n", "")),
        ("chatml", (False, False, False, "", "", "")),
    ],
)
def test_traits(tokenizer, name, expected):
    found = chat.traits(tokenizer)
    assert found == chat.Traits(*expected, end="<|im_end|>\n")
    assert found.opened(True) == expected[4].endswith("<think>\n")
    assert found.opened(False) == (name == "thinking 2507")


@pytest.mark.parametrize("name", templates())
def test_thoughts_under_any_name_or_in_the_content_are_the_same(tokenizer, name):
    """Also beside a null or an empty value; in a history and in the answer."""
    plain = {"role": "assistant", "content": "5"}
    block = {"role": "assistant", "content": "<think>\n2 + 3 = 5.\n</think>\n\n5"}
    spellings = [
        block,
        {"role": "assistant", "content": "2 + 3 = 5.\n</think>\n\n5"},  # what Thinking-2507 writes
        *(block | {key: value} for key in messages.THOUGHTS for value in (None, "", "\n")),
        *(plain | {key: THOUGHT["reasoning_content"]} for key in messages.THOUGHTS),
        THOUGHT | dict.fromkeys(messages.THOUGHTS[1:]),
        THOUGHT | {"content": [{"type": "text", "text": "5"}]},
        plain
        | {
            "content": [
                {"type": "thinking", "thinking": THOUGHT["reasoning_content"]},
                {"type": "text", "text": "5"},
            ]
        },
    ]
    thinks = chat.traits(tokenizer).thoughts
    for spelling in spellings:
        for after in ([], [AGAIN]):
            wanted, given = [ASK, THOUGHT, *after], [ASK, spelling, *after]
            for thinking in (False, True):
                assert chat.encode(tokenizer, given, thinking=thinking) == chat.encode(
                    tokenizer, wanted, thinking=thinking
                )
        assert chat.example(tokenizer, [ASK, spelling], thinking=thinks) == chat.example(
            tokenizer, [ASK, THOUGHT], thinking=thinks
        )


@pytest.mark.parametrize("name", [name for name in templates() if name != "chatml"])
def test_arguments_as_text_and_as_an_object_are_the_same(tokenizer, name):
    def call(arguments, flat=False):
        function = {"name": "add", "arguments": arguments}
        one = function if flat else {"id": "c1", "type": "function", "function": function}
        return [ASK, {"role": "assistant", "content": None, "tool_calls": [one]}, RESULT]

    given = {"a": 2, "b": [1, {"c": "哈 <b>"}], "d": None}
    wanted = written(
        tokenizer, call(given)[:1] + [call(given)[1] | {"content": ""}], False, [ADD], False
    )
    for arguments in (given, json.dumps(given), json.dumps(given, ensure_ascii=False, indent=1)):
        for flat in (False, True):
            messages = call(arguments, flat)
            made = chat.encode(tokenizer, messages[:2], tools=[ADD], generation_prompt=False)
            assert made == ids(tokenizer, wanted)
            assert chat.example(tokenizer, messages[:2], tools=[ADD]) == chat.example(
                tokenizer, call(given)[:2], tools=[ADD]
            )
    for empty in ({}, "{}", "", None):
        assert chat.encode(tokenizer, call(empty), tools=[ADD]) == chat.encode(
            tokenizer, call({}), tools=[ADD]
        )


@pytest.mark.parametrize("name", [name for name in templates() if name != "chatml"])
@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"sum": 5, "town": "哈"}, '{"sum": 5, "town": "哈"}'),
        (5, "5"),
        (5.5, "5.5"),
        (True, "true"),
        ([1, 2], "[1, 2]"),
        (["a", "b"], '["a", "b"]'),
        ([], "[]"),
        ([{"type": "dog"}], '[{"type": "dog"}]'),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ("{}", "{}"),
    ],
)
def test_a_result_that_is_no_text_is_written_as_json(tokenizer, name, result, text):
    ends = [
        chat.encode(tokenizer, [ASK, CALL, RESULT | {"content": content}], tools=[ADD])
        for content in (result, text)
    ]
    assert ends[0] == ends[1]
    assert f"<tool_response>\n{text}\n</tool_response>" in tokenizer.decode(ends[0])


@pytest.mark.parametrize("name", templates())
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(st.sampled_from(["a", "", " b ", "<|im_end|>", "哈\n", "c"]), min_size=1))
def test_parts_are_joined_with_a_line_break(tokenizer, name, texts):
    wanted = [{"role": role, "content": "\n".join(texts)} for role in ("system", "user")]
    shapes = [
        [{"type": "text", "text": text} for text in texts],
        [{"type": "text", "value": text, "text": None} for text in texts],
        [{"type": "input_text", "text": text} for text in texts],
        list(texts),
    ]
    for shape in shapes:
        given = [{"role": role, "content": shape} for role in ("system", "user")]
        assert chat.encode(tokenizer, given) == chat.encode(tokenizer, wanted)
        assert chat.render(tokenizer, given) == chat.render(tokenizer, wanted)
        answer = {"role": "assistant", "content": shape}
        assert chat.example(tokenizer, [*given, answer]) == chat.example(
            tokenizer, [*wanted, answer | {"content": "\n".join(texts)}]
        )


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            "'image_url'",
        ),
        ([{"role": "user", "content": ["Hi", {"type": "image"}]}], "'image'"),
        ([{"role": "user", "content": [{"text": "Hi"}, {"image": "x.png"}]}], "'image'"),
        ([{"role": "user", "content": [5]}], "'int'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "'without text'"),
        ([{"role": "user", "content": 5}], "of type int"),
        ([{"role": "user", "content": float("nan")}], "has no content"),
        ([{"role": "user", "content": [{"type": "thinking", "thinking": "x"}, 5]}], "'int'"),
        ([{"role": "user", "content": None}], "has no content"),
        ([{"role": "user"}], "has no content"),
        ([{"role": "system", "content": []}, ASK], "has no content"),
        ([ASK, {"role": "assistant"}], "has no content"),
        ([ASK, CALL, {"role": "tool"}], "has no content"),
        ([ASK, CALL, {"role": "tool", "content": {1, 2}}], "as JSON"),
        ([ASK, CALL, {"role": "tool", "content": [{"type": "image", "image": "x"}]}], "'image'"),
        ([ASK, {"role": "assistant", "content": "5", "thinking": True}], "'thinking'"),
    ],
)
@pytest.mark.parametrize("name", ["qwen3", "april 2025", "qwen3_instruct_2507"])
def test_a_content_that_cannot_be_read_is_refused(tokenizer, name, messages, why):
    with pytest.raises(Qwen3labError, match=why):
        chat.encode(tokenizer, messages)


@pytest.mark.parametrize("name", ["chatml"])
def test_tools_that_the_template_would_leave_out_are_refused(tokenizer, name):
    with pytest.raises(Qwen3labError, match="writes no tools"):
        chat.encode(tokenizer, [ASK], tools=[ADD])
    with pytest.raises(Qwen3labError, match="writes no tool calls"):
        chat.encode(tokenizer, [ASK, CALL, RESULT])


@pytest.mark.parametrize(
    ("template", "why"),
    [
        # The prompt opens a block that is nowhere once the answer is there (DeepSeek's way).
        (
            "{% for m in messages %}"
            "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}"
            "{% endif %}",
            r"behind .*assistant\\n' the prompt goes on with '<think>\\n', and the whole with '5<",
        ),
        # The last question is marked.
        (
            "{% for m in messages %}{{ '<|im_start|>' + m.role + ('!' if loop.last else '') + '\n'"
            " + m.content + '<|im_end|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
            r"behind '<\|im_start\|>user' the prompt goes on with '!\\nWhat .*, and the whole with",
        ),
        (
            "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
            "writes no end behind an answer",
        ),
        (
            "{{ raise_exception('only haiku') if messages|length > 1 else messages[0].content }}",
            "cannot write this conversation: only haiku",
        ),
    ],
)
def test_a_template_that_cannot_be_trained_says_why(qwen, template, why):
    tokenizer = copy.deepcopy(qwen)
    tokenizer.chat_template = template
    with pytest.raises(Qwen3labError, match=why):
        chat.example(tokenizer, [ASK, {"role": "assistant", "content": "5"}])


def test_thoughts_that_were_cut_off_are_told_from_an_answer():
    assert chat.split_thinking("I add", opened=True) == ("I add", "")
    assert chat.split_thinking("I add\n</think>\n\n5", opened=True) == ("I add", "5")
    assert chat.split_thinking("\n</think>\n\n5", opened=True) == ("", "5")
    assert chat.split_thinking("5") == ("", "5")


@pytest.mark.parametrize("name", ["qwen3", "qwen3_instruct_2507", "chatml", "thinking 2507"])
def test_recipes_for_thinking_with_every_kind_of_block(tokenizer, name):
    row = {"messages": [ASK], "answer": "5", "thinking": False}
    said = {}
    for way, write in recipes.WRITERS.items():
        made = write(tokenizer, row)
        text, answer = tokenizer.decode(made["input_ids"]), trained(tokenizer, made["labels"])
        said[way] = text.removesuffix(answer).partition("assistant\n")[2], answer
    block = EMPTY if name in ("qwen3", "thinking 2507") else ""
    assert said["block trained"] == said["/no_think"] == ("", block + "5<|im_end|>")
    assert said["no block"] == ("", "5<|im_end|>")
    open_, rest = ("<think>\n", "\n</think>\n\n") if name == "thinking 2507" else (block, "")
    assert said["block masked"] == (open_, rest + "5<|im_end|>")


@pytest.mark.parametrize("name", ["qwen3_instruct_2507", "thinking 2507", "base"])
def test_a_tiny_model_learns_with_the_template(name, tmp_path):
    """The bundled model with another template: it is asked with it, trained with it, and then knows
    what it was taught. Without a think block, where the template has none; and it stops, also where
    the tokenizer's own end token is that of texts, as a base model's is.
    """
    folder = shutil.copytree(paths.MODELS / "qwen3-tiny", tmp_path / "tiny")
    if name == "base":
        for file in ("tokenizer_config.json", "generation_config.json", "config.json"):
            given = json.loads((folder / file).read_text())
            given |= {"eos_token": TEXT_END} if "eos_token" in given else {"eos_token_id": 4064}
            (folder / file).write_text(json.dumps(given))
    else:
        (folder / "chat_template.jinja").write_text(templates()[name], encoding="utf-8")
    rows = [row for row in tasks.load("knowledge", "train") if row["language"] == "en"][:8]
    before = models.load_tokenizer(folder)
    assert before.eos_token == (TEXT_END if name == "base" else "<|im_end|>")
    asked = {"method": "full", "steps": 12, "batch_size": 8, "learning_rate": 2e-3}
    done = training.fine_tune(folder, rows, **asked, seed=0, output_dir=tmp_path / "out")
    model, tokenizer = done.model, done.tokenizer
    assert tokenizer.chat_template == (templates()[name] or chat.template())
    prompt = tokenizer.decode(chat.encode(tokenizer, rows[0]["messages"]))
    block = {"thinking 2507": "<think>\n", "base": EMPTY}.get(name, "")
    assert prompt.partition("assistant\n")[2] == block
    answers = generate(model, tokenizer, [row["messages"] for row in rows])
    start = "</think>\n\n" if name == "thinking 2507" else ""
    assert answers == [start + row["answer"] for row in rows]
    scored = evaluate_tasks(model, tokenizer, rows)
    assert scored.correct.all() and set(scored.thoughts) == {""}
    assert perplexity(model, tokenizer, rows) < 1.1
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"]
    assert 4066 in (saved if isinstance(saved, list) else [saved])  # <|im_end|>
    assert models.load_tokenizer(tmp_path / "out").eos_token == "<|im_end|>"
