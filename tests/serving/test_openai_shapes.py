"""Chat requests as OpenAI's clients send them: null, replayed messages, streams, tools, choices."""

from __future__ import annotations

import json

import openai
import pytest
from chat_requests import ADD, HELLO, post
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen3lab import chat
from qwen3lab.serving import chat_server, completions, engines, openai_shapes

SAID = HELLO["messages"]
CALLS = (
    'Wait.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n<tool_call>\n'
    '{"name": "add", "parameters": "{\\"b\\": 2}"}\n</tool_call>\nDone.'
)


def prompt(door: chat_server.Guard, messages: list, **more: object) -> list[int]:
    body = json.dumps({"messages": messages} | more).encode()
    return door.translate(openai_shapes.read(body))["prompt"]


def sent(door: chat_server.Guard, **more: object) -> dict:
    return door.translate(openai_shapes.read(json.dumps(HELLO | more).encode()))


@pytest.mark.parametrize("key", sorted(set(openai_shapes.ChatRequest.model_fields) - {"messages"}))
def test_null_is_the_default_of_every_field(key):
    body = {"messages": SAID}
    read = [openai_shapes.read(json.dumps(one).encode()) for one in (body, body | {key: None})]
    assert read[0] == read[1]


def test_null_inside_options_and_messages(doors):
    door, *_ = doors
    options = {"stream_options": {"include_usage": None}, "stream": True}
    assert sent(door, **options) == sent(door, stream=True)
    assert sent(door, chat_template_kwargs={"enable_thinking": None}) == sent(door)
    keys = set(openai_shapes.Message.model_fields) - {"role", "content"}
    message = SAID[0] | dict.fromkeys(keys)
    assert prompt(door, [message]) == prompt(door, SAID)


def test_a_message_of_the_client_is_sent_back(fake):
    """`model_dump()` of what it got: text, thoughts and calls are read as the template has them."""
    door, engine = fake
    engine.says = [f"<think>\nI add.\n</think>\n\n{CALLS}"]
    with engines.client(door.address) as client:
        message = client.chat.completions.create(model="m", messages=SAID, tools=ADD).choices[0]
    dumped = message.message.model_dump()
    assert {"refusal", "annotations", "audio", "function_call"} <= set(dumped)
    result = {"role": "tool", "content": "3", "tool_call_id": dumped["tool_calls"][0]["id"]}
    calls = [{"name": "add", "arguments": {"a": 1}}, {"name": "add", "arguments": {"b": 2}}]
    wanted = {
        "role": "assistant",
        "content": "Wait.\nDone.",
        "reasoning_content": "I add.",
        "tool_calls": [{"type": "function", "function": call} for call in calls],
    }
    plain = [*SAID, wanted, {"role": "tool", "content": "3"}]
    ids = chat.encode(door.tokenizer, plain, tools=ADD)
    assert prompt(door, [*SAID, dumped, result], tools=ADD) == ids


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"role": "developer", "content": "Be kind."}, {"role": "system", "content": "Be kind."}),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]},
            {"role": "user", "content": "a\nb"},
        ),
        (
            {"role": "assistant", "content": None, "refusal": "I cannot."},
            {"role": "assistant", "content": "I cannot."},
        ),
        (
            {"role": "assistant", "content": "5", "reasoning": "2 + 3"},
            {"role": "assistant", "content": "5", "reasoning_content": "2 + 3"},
        ),
        (
            {"role": "tool", "name": "add", "tool_call_id": "x", "content": {"sum": 5}},
            {"role": "tool", "content": '{"sum": 5}'},
        ),
    ],
)
def test_spellings_of_messages(doors, given, plain):
    door, *_ = doors
    assert prompt(door, [*SAID, given]) == chat.encode(door.tokenizer, [*SAID, plain])


def test_streams_with_tools(fake):
    """Cut at every character: the pieces of OpenAI's client give the message of the whole."""
    door, engine = fake
    engine.says = list(f"<think>\nI add.\n</think>\n\n{CALLS}")
    whole = post(door.address, HELLO | {"tools": ADD})[1]["choices"][0]
    with engines.client(door.address) as client:
        parts = list(
            client.chat.completions.create(
                model="m",
                messages=SAID,
                tools=ADD,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    deltas = [part.choices[0].delta for part in parts if part.choices]
    message: dict = {"role": "assistant"}
    for field in ("content", "reasoning_content"):
        message[field] = "".join(getattr(delta, field, None) or "" for delta in deltas)
    calls = [call.model_dump() for delta in deltas for call in delta.tool_calls or []]
    assert [call.pop("index") for call in calls] == [0, 1]
    assert all(call["id"].startswith("call_") for call in calls)
    for call in [*calls, *whole["message"]["tool_calls"]]:
        call.pop("id")
    assert message | {"tool_calls": calls} == whole["message"]
    assert calls[1]["function"] == {"name": "add", "arguments": '{"b": 2}'}
    ends = [part.choices[0].finish_reason for part in parts if part.choices]
    assert [end for end in ends if end] == ["tool_calls"] == [whole["finish_reason"]]
    assert parts[-1].usage.completion_tokens == len(engine.says)


def test_calls_that_nobody_offered_are_text(fake):
    door, engine = fake
    engine.says = [CALLS]
    other = [{"type": "function", "function": {"name": "other"}}]
    for more in ({}, {"tools": []}, {"tools": ADD, "tool_choice": "none"}, {"tools": other}):
        choice = post(door.address, HELLO | more)[1]["choices"][0]
        assert choice["message"] == {"role": "assistant", "content": CALLS}
        assert choice["finish_reason"] == "stop"
    assert prompt(door, SAID, tools=ADD, tool_choice="none") == prompt(door, SAID)


def test_one_call_at_a_time(fake):
    door, engine = fake
    engine.says = [CALLS]
    body = HELLO | {"tools": ADD, "parallel_tool_calls": False}
    message = post(door.address, body)[1]["choices"][0]["message"]
    assert message["content"] == "Wait."
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == ['{"a": 1}']


def test_an_answer_that_was_cut_off_says_so(fake):
    door, engine = fake
    engine.says, engine.ended = [CALLS[:-40]], "length"
    choice = post(door.address, HELLO | {"tools": ADD})[1]["choices"][0]
    assert choice["finish_reason"] == "length" and len(choice["message"]["tool_calls"]) == 1


def test_what_both_engines_take_is_passed_on(doors):
    options = {
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.1,
        "top_k": 20,
        "min_p": 0.1,
        "logit_bias": {"5": -100},
        "n": 2,
        "stop": "x",
    }
    told = sent(doors[0], **options, logprobs=True, top_logprobs=3)
    assert {key: told[key] for key in options} == options
    assert (told["logprobs"], told["repeat_penalty"]) == (3, 1.1)
    assert sent(doors[0], logprobs=True)["logprobs"] == 1
    assert not {"n", "logprobs", "top_k", "repeat_penalty"} & set(sent(doors[0]))


def test_labels_change_nothing(doors):
    labels = {
        "user": "u",
        "metadata": {"a": "b"},
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "store": False,
        "service_tier": "auto",
        "modalities": ["text"],
    }
    assert sent(doors[0], **labels) == sent(doors[0])


def test_several_answers_with_their_chances(doors):
    """From llama.cpp: as many answers as asked for, whole and streamed, and the tokens of all."""
    door, server, _ = doors
    options = {"n": 3, "seed": 1, "temperature": 1.0, "max_tokens": 4, "logprobs": True}
    options |= {"top_logprobs": 2, "logit_bias": {"258": -100}}  # so that none ends early
    with engines.client(door.address) as client:
        whole = client.chat.completions.create(model="m", messages=SAID, **options)
        parts = list(
            client.chat.completions.create(
                model="m",
                messages=SAID,
                stream=True,
                stream_options={"include_usage": True},
                **options,
            )
        )
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert whole.usage.completion_tokens == parts[-1].usage.completion_tokens == 12
    told = [part.choices[0] for part in parts if part.choices]
    assert {part.index for part in told if part.delta.content} == {0, 1, 2}
    assert sorted(part.index for part in told if part.finish_reason == "length") == [0, 1, 2]
    assert len({choice.message.content for choice in whole.choices}) > 1
    # llama.cpp leaves out tokens of a stream that are a part of a character.
    for entries in (
        [entry for choice in whole.choices for entry in choice.logprobs.content],
        [entry for part in told if part.logprobs for entry in part.logprobs.content],
    ):
        assert entries and all(len(entry.top_logprobs) == 2 for entry in entries)
        assert all(entry.logprob <= 0 and entry.bytes for entry in entries)
    greedy = HELLO | {"logprobs": True}
    logprobs = post(door.address, greedy)[1]["choices"][0]["logprobs"]["content"]
    assert [entry["top_logprobs"] for entry in logprobs] == [[]] * 3
    best = post(door.address, greedy | {"top_logprobs": 1})[1]["choices"][0]["logprobs"]
    for entry in best["content"]:  # greedy: the likeliest was taken
        first = {key: entry[key] for key in ("token", "logprob", "bytes")}
        assert entry["top_logprobs"] == [first]


def test_penalties_and_biases_reach_llama_cpp(doors):
    door, *_ = doors
    plain = post(door.address, HELLO)[1]["choices"][0]["message"]["content"]
    first = door.tokenizer(plain, add_special_tokens=False).input_ids[0]
    banned = post(door.address, HELLO | {"logit_bias": {str(first): -100}})[1]
    assert banned["choices"][0]["message"]["content"][:1] != plain[:1]


SCHEMA = {
    "type": "object",
    "properties": {
        "yes": {"type": "boolean"},
        "kind": {"enum": ["a", "b"]},
        "part": {"$ref": "#/$defs/part"},
    },
    "required": ["yes", "kind", "part"],
    "additionalProperties": False,
    "$defs": {"part": {"type": "array", "items": {"type": "null"}, "maxItems": 2}},
}


def form(schema: object) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def test_an_answer_in_the_form_asked_for(doors):
    """By llama.cpp: random weights write JSON of the schema, whole and streamed."""
    door, *_ = doors
    biased = {"max_tokens": 400, "logit_bias": {str(ord(" ")): -100}, "repetition_penalty": 1.5}
    with engines.client(door.address) as client:
        options = {"model": "m", "messages": SAID, "response_format": form(SCHEMA)}
        options |= {"max_tokens": 400, "seed": 3, "extra_body": {"repetition_penalty": 1.2}}
        choice = client.chat.completions.create(**options).choices[0]
        parts = client.chat.completions.create(**options, stream=True)
        told = "".join(part.choices[0].delta.content or "" for part in parts)
    for text in (choice.message.content, told):
        found = json.loads(text)
        assert set(found) == {"yes", "kind", "part"} and found["kind"] in ("a", "b")
        assert isinstance(found["yes"], bool) and found["part"] in ([], [None], [None, None])
    body = HELLO | biased | {"response_format": {"type": "json_object"}}
    assert post(door.address, body)[1]["choices"][0]["message"]["content"][0] == "{"


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "nonsense"}, "The schema is none"),
        ({"type": "object", "properties": [1]}, "The schema is none"),
        ({"$ref": "#/$defs/none"}, "'#/$defs/none' is nowhere in the schema"),
        ({"$ref": "https://example.com/x.json"}, "is nowhere in the schema"),
        ({"type": "string", "pattern": "^(a+)+$"}, "'pattern'"),
        ({"items": {"not": {}}}, "'not'"),
        ({"type": "array", "maxItems": 10**9}, "'maxItems' of the schema is above 1,000"),
        ({"anyOf": [{"type": "string", "format": "odd"}]}, "The format 'odd' is not known"),
        ({"anyOf": [{"type": "null"}] * 3000}, "more than 1,000 parts"),
        (5, "response_format.json_schema.schema: Input should be a valid dictionary"),
    ],
)
def test_schemas_that_no_engine_may_hold_to(fake, schema, reason):
    status, reply = post(fake[0].address, HELLO | {"response_format": form(schema)})
    assert status == 400 and reason in reply["error"]["message"]


@pytest.mark.parametrize(
    "more",
    [
        {"tools": ADD},
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "grammar"}},
    ],
)
def test_forms_that_cannot_be_had(fake, more):
    body = HELLO | {"response_format": form(SCHEMA)} | more
    status, reply = post(fake[0].address, body)
    assert status == 400 and "response_format" in reply["error"]["message"]


def test_an_engine_that_does_not_hold_to_a_form(fake):
    """llama.cpp says nothing when it cannot; an answer that was cut off is told."""
    door, engine = fake
    engine.says = ["5"]
    body = HELLO | {"response_format": form(SCHEMA)}
    status, reply = post(door.address, body)
    assert status == 400 and "could not hold to" in reply["error"]["message"]
    with engines.client(door.address) as client, pytest.raises(openai.APIError, match="not hold"):
        list(
            client.chat.completions.create(
                model="m", messages=SAID, stream=True, response_format=form(SCHEMA)
            )
        )
    engine.ended = "length"
    assert post(door.address, body)[1]["choices"][0]["message"]["content"] == "5"
    engine.says, engine.ended = ['{"yes": true, "kind": "a", "part": []}'], "stop"
    assert post(door.address, body)[0] == 200
    assert engine.asked["json_schema"] == SCHEMA and engine.asked["response_format"] == form(SCHEMA)


def test_log_probabilities_of_vllm():
    given = {
        "tokens": ["é", "b"],
        "token_logprobs": [-0.5, None],
        "top_logprobs": [{"x": -2.0, "é": -0.5, "y": -3.0}, None],
    }

    def entry(token: str, chance: float) -> dict:
        return {"token": token, "logprob": chance, "bytes": list(token.encode())}

    assert completions.log_probabilities(given, 2) == [
        entry("é", -0.5) | {"top_logprobs": [entry("é", -0.5), entry("x", -2.0)]},
        entry("b", -9999.0) | {"top_logprobs": []},
    ]
    assert completions.log_probabilities(None, 2) == []


def test_tokens_are_counted_as_vllm_does():
    """It counts those of all answers once, in an event without one."""
    request = openai_shapes.read(json.dumps(HELLO | {"n": 2}).encode())
    completion = completions.Completion(request, False, "m")
    for place in range(2):
        completion.add({"choices": [{"index": place, "text": "a", "finish_reason": "stop"}]})
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    completion.add({"choices": [], "usage": usage})
    assert completion.whole()["usage"] == usage


def test_line_ends_of_unicode_do_not_end_an_event(fake):
    door, engine = fake
    engine.says = ["a\u2028b\x85c\x0bd\r", "e"]
    with engines.client(door.address) as client:
        parts = client.chat.completions.create(model="m", messages=SAID, stream=True)
        told = "".join(part.choices[0].delta.content or "" for part in parts)
    assert told == "".join(engine.says)


def test_whole_and_streamed_answers_have_the_same_white_space(fake):
    door, engine = fake
    for text in (" a \n", "\n a", "<think>\n a \n</think>\n\n b \n", "\n\n<think>\na"):
        engine.says = [text]
        message = post(door.address, HELLO)[1]["choices"][0]["message"]
        with engines.client(door.address) as client:
            parts = client.chat.completions.create(model="m", messages=SAID, stream=True)
            deltas = [part.choices[0].delta for part in parts]
        for field in ("content", "reasoning_content"):
            told = "".join(getattr(delta, field, None) or "" for delta in deltas)
            assert told == (message.get(field) or "")


# Malformed requests: a value of any kind at any place of a good request.
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
FULL = HELLO | {
    "messages": [
        {"role": "system", "content": "x"},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {
            "role": "assistant",
            "reasoning_content": "x",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "content": "3", "tool_call_id": "1"},
    ],
    "tools": ADD,
    "n": 1,
    "stop": ["x"],
    "logprobs": True,
    "top_logprobs": 1,
    "logit_bias": {"1": 1},
    "stream_options": {"include_usage": True},
    "response_format": {"type": "text"},
    "chat_template_kwargs": {"enable_thinking": True},
}


def places(thing: object, path: tuple = ()) -> list[tuple]:
    """The path to every value inside a request."""
    inner = (
        thing.items()
        if isinstance(thing, dict)
        else enumerate(thing)
        if isinstance(thing, list)
        else []
    )
    return [path] * bool(path) + [
        found for key, value in inner for found in places(value, (*path, key))
    ]


@st.composite
def malformed(draw: st.DrawFn) -> bytes:
    """A request with up to two values replaced, or cut off, or with a byte replaced."""
    body = json.loads(json.dumps(FULL))
    for _ in range(draw(st.integers(0, 2))):
        *path, last = draw(st.sampled_from(places(body)))
        owner = body
        for key in path:
            owner = owner[key]
        owner[last] = draw(ANY)
    text = json.dumps(body).encode()
    match draw(st.integers(0, 3)):
        case 0:
            return text[: draw(st.integers(0, len(text)))]
        case 1:
            place = draw(st.integers(0, len(text) - 1))
            return text[:place] + draw(st.binary(min_size=1, max_size=2)) + text[place + 1 :]
        case _:
            return text


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(malformed())
def test_no_request_is_answered_by_an_error_of_the_server(fake, body):
    door, engine = fake
    engine.says = ["4"]
    status, reply = post(door.address, body)
    assert status == 200 or 400 <= status < 500, reply
    if status != 200:
        error = reply["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", status)
        assert len(error["message"]) > 10
