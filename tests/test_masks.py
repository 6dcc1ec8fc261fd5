"""Label masks: built by hand, equal to `chat.example` and to TRL's, exactly the answer and its end;
and what a limit on the length would cut.
"""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3lab import chat, models, paths
from qwen3lab.data import lengths
from qwen3lab.world import corpus

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
ASK = {"role": "user", "content": "What is 2 + 3?"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}
    ],
}
RESULT = {"role": "tool", "content": "5"}
END = "<|im_end|>"
# name -> (messages, thinking, tools, the text that has to be trained)
CASES = {
    "single turn": ([ASK, {"role": "assistant", "content": "It is 5."}], False, None, "It is 5."),
    "several turns": (
        [
            {"role": "system", "content": "请简短回答。"},
            {"role": "user", "content": "你好"},
            {"role": "assistant", "content": "您好。"},
            ASK,
            {"role": "assistant", "content": "5"},
            {"role": "user", "content": "谢谢"},
            {"role": "assistant", "content": "不客气。"},
        ],
        False,
        None,
        "不客气。",
    ),
    "thinking": (
        [ASK, {"role": "assistant", "reasoning_content": "2 + 3 = 5.", "content": "5"}],
        True,
        None,
        "<think>\n2 + 3 = 5.\n</think>\n\n5",
    ),
    "several turns, thinking": (
        [
            ASK,
            {"role": "assistant", "reasoning_content": "2 + 3 = 5.", "content": "5"},
            {"role": "user", "content": "And 4 more?"},
            {"role": "assistant", "reasoning_content": "5 + 4 = 9.", "content": "9"},
        ],
        True,
        None,
        "<think>\n5 + 4 = 9.\n</think>\n\n9",
    ),
    "thoughts left out": (
        [ASK, {"role": "assistant", "reasoning_content": "2 + 3 = 5.", "content": "5"}],
        False,
        None,
        "5",
    ),
    "tool call": (
        [ASK, CALL],
        False,
        [ADD],
        '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>',
    ),
    "tool call, thinking": (
        [ASK, CALL | {"reasoning_content": "I add."}],
        True,
        [ADD],
        (
            '<think>\nI add.\n</think>\n\n<tool_call>\n{"name": "add", "arguments": {"a": 2, "b":'
            " 3}}\n</tool_call>"
        ),
    ),
    "after the tool": (
        [ASK, CALL, RESULT, {"role": "assistant", "content": "It is 5."}],
        False,
        [ADD],
        "It is 5.",
    ),
    "after the tool, thinking": (
        [
            ASK,
            CALL,
            RESULT,
            {"role": "assistant", "reasoning_content": "5.", "content": "It is 5."},
        ],
        True,
        [ADD],
        "<think>\n5.\n</think>\n\nIt is 5.",
    ),
}


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer(paths.MODELS / "qwen3-tiny")


def mask_by_hand(tokenizer, messages, thinking, tools):
    """Render the whole conversation as one text, find the answer in it by its characters, and train
    the tokens that lie there.
    """
    *before, last = messages
    if not thinking:
        last = {key: value for key, value in last.items() if key != "reasoning_content"}
    prompt = tokenizer.apply_chat_template(
        before, tools=tools, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    whole = tokenizer.apply_chat_template([*before, last], tools=tools, tokenize=False)
    assert whole.startswith(prompt)
    stop = whole.rindex(END) + len(END)
    encoded = tokenizer(whole[:stop], add_special_tokens=False, return_offsets_mapping=True)
    return {
        "input_ids": encoded.input_ids,
        "labels": [
            token if start >= len(prompt) else -100
            for token, (start, _) in zip(encoded.input_ids, encoded.offset_mapping)
        ],
    }


def trained(tokenizer, labels):
    return tokenizer.decode([label for label in labels if label != -100])


@pytest.mark.parametrize("case", CASES)
def test_hand_made_mask_equals_example(tokenizer, case):
    messages, thinking, tools, answer = CASES[case]
    row = chat.example(tokenizer, messages, thinking=thinking, tools=tools)
    assert row == mask_by_hand(tokenizer, messages, thinking, tools)
    assert trained(tokenizer, row["labels"]) == answer + END
    first = next(place for place, label in enumerate(row["labels"]) if label != -100)
    assert row["labels"][first:] == row["input_ids"][first:]  # one piece, to the end of the row
    prompt = chat.encode(tokenizer, messages[:-1], thinking=thinking, tools=tools)
    assert (
        row["input_ids"][:first] == prompt
    )  # all before it, and only that, is what the model is asked with


def test_hand_made_mask_equals_example_on_the_corpus(tokenizer):
    rng, kinds = random.Random(11), set()
    for _ in range(300):
        row = corpus.sample(rng, 1.0)
        kinds.add((row.thinking, bool(row.tools), len(row.messages) > 2))
        assert chat.example(
            tokenizer, row.messages, thinking=row.thinking, tools=row.tools
        ) == mask_by_hand(tokenizer, row.messages, row.thinking, row.tools)
    assert len(kinds) >= 4


def prepared(tokenizer, checkpoint, folder, rows, **options):
    """The rows as TRL's trainer makes them ready, without training."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, vocab_size=4096, ignore_mismatched_sizes=True
    )
    settings = {
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "max_length": None,
    } | options
    data = Dataset.from_list(rows)
    return SFTTrainer(
        model,
        SFTConfig(output_dir=str(folder), **settings),
        train_dataset=data,
        processing_class=tokenizer,
    ).train_dataset


@pytest.mark.parametrize("tools", [None, [ADD]])
def test_example_equals_trl_with_prompt_and_completion(tokenizer, checkpoint, tmp_path, tools):
    """TRL trains one token more: the line break behind the end token, which no model is ever asked
    for.
    """
    cases = [case for case in CASES.values() if case[2] == tools]
    rows = [
        {
            "prompt": messages[:-1],
            "completion": [
                (
                    message
                    if thinking
                    else {
                        key: value for key, value in message.items() if key != "reasoning_content"
                    }
                )
                for message in messages[-1:]
            ],
            "chat_template_kwargs": {"enable_thinking": thinking},
        }
        | ({"tools": json.dumps(tools)} if tools else {})
        for messages, thinking, *_ in cases
    ]
    line_break = tokenizer("\n").input_ids
    for theirs, (messages, thinking, *_) in zip(
        prepared(tokenizer, checkpoint, tmp_path, rows), cases, strict=True
    ):
        ours = chat.example(tokenizer, messages, thinking=thinking, tools=tools)
        assert theirs["input_ids"] == ours["input_ids"] + line_break
        assert theirs["labels"] == ours["labels"] + line_break


def test_assistant_only_loss_trains_every_turn_and_the_empty_think_block(
    tokenizer, checkpoint, tmp_path
):
    """With thoughts in a single turn TRL's mask is ours. Without, it trains to write the empty
    block; and it trains earlier turns too.
    """
    names = ("thinking", "single turn", "several turns")
    with_thoughts, without, several = prepared(
        tokenizer,
        checkpoint,
        tmp_path,
        [{"messages": CASES[name][0]} for name in names],
        assistant_only_loss=True,
    )
    line_break = tokenizer("\n").input_ids
    ours = chat.example(tokenizer, CASES["thinking"][0], thinking=True)
    assert (
        with_thoughts["input_ids"] == ours["input_ids"] + line_break
        and with_thoughts["labels"] == ours["labels"] + line_break
    )
    ours = chat.example(tokenizer, CASES["single turn"][0])
    assert without["input_ids"] == ours["input_ids"] + line_break
    assert (
        trained(tokenizer, without["labels"])
        == chat.NO_THOUGHTS + trained(tokenizer, ours["labels"]) + "\n"
    )
    messages = CASES["several turns"][0]
    contents = [message["content"] for message in messages if message["role"] == "assistant"]
    assert trained(tokenizer, several["labels"]) == "".join(
        f"{chat.NO_THOUGHTS}{content}{END}\n" for content in contents
    )
    unfolded = [
        chat.example(tokenizer, messages[: end + 1])
        for end, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    assert [trained(tokenizer, row["labels"]) for row in unfolded] == [
        content + END for content in contents
    ]


def test_default_loss_on_messages_trains_the_user_too(tokenizer, checkpoint, tmp_path):
    (row,) = prepared(tokenizer, checkpoint, tmp_path, [{"messages": CASES["single turn"][0]}])
    assert row["labels"] == row["input_ids"]


def test_a_dataset_of_messages_gives_every_call_the_arguments_of_all_others(tokenizer):
    """The trap: `datasets` stores the arguments as one struct, so a call gets another's argument as
    null. Encoded rows, or arguments as a JSON string, are safe.
    """
    from datasets import Dataset

    def conversation(arguments):
        return [
            ASK,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"type": "function", "function": {"name": "f", "arguments": arguments}}
                ],
            },
        ]

    rows = [conversation({"x": 1}), conversation({"y": "z"})]
    wanted = [trained(tokenizer, chat.example(tokenizer, row)["labels"]) for row in rows]
    assert "null" not in "".join(wanted)
    through = Dataset.from_list([{"messages": row} for row in rows])
    assert '"y": null' in trained(
        tokenizer, chat.example(tokenizer, through[0]["messages"])["labels"]
    )
    as_text = Dataset.from_list(
        [
            {"messages": conversation(json.dumps(row[1]["tool_calls"][0]["function"]["arguments"]))}
            for row in rows
        ]
    )
    assert [
        trained(tokenizer, chat.example(tokenizer, row["messages"])["labels"]) for row in as_text
    ] == wanted
    encoded = Dataset.from_list([chat.example(tokenizer, row) for row in rows])
    assert [trained(tokenizer, row["labels"]) for row in encoded] == wanted


def many(tokenizer):
    """Twenty rows with questions of growing length."""
    return [
        chat.example(
            tokenizer,
            [
                {"role": "user", "content": "why? " * n},
                {"role": "assistant", "content": "Because it is so."},
            ],
        )
        for n in range(1, 21)
    ]


@pytest.mark.parametrize("max_length", [12, 20, 27, 40, 1000])
def test_truncation_names_what_trl_drops_and_cuts(tokenizer, checkpoint, tmp_path, max_length):
    examples = many(tokenizer)
    report = lengths.truncation(examples, max_length, [f"r{n}" for n in range(20)])
    if max_length == 12:  # TRL would be left with nothing at all
        assert report.whole == 0 and len(report.lost) == 20
        return
    theirs = prepared(tokenizer, checkpoint, tmp_path, examples, max_length=max_length)
    assert len(theirs) == 20 - len(report.lost)
    assert sum(row["labels"][-1] != tokenizer.eos_token_id for row in theirs) == len(
        report.shortened
    )
    for cut in report.cut:
        assert (
            cut.tokens == len(examples[cut.place]["labels"]) > max_length and cut.left < cut.trained
        )
        assert (
            cut.left == sum(label != -100 for label in examples[cut.place]["labels"][:max_length])
            and cut.name == f"r{cut.place}"
        )
    assert report.whole + len(report.shortened) + len(report.lost) == report.rows == 20


def test_truncation_says_it_in_words(tokenizer):
    examples = many(tokenizer)
    text = str(lengths.truncation(examples, 27))
    assert (
        text.splitlines()[0].startswith("limit 27 tokens: ")
        and "lose the end of the answer: row " in text
        and "lose the whole answer: row " in text
    )
    assert str(lengths.truncation(examples, 1000)) == "limit 1000 tokens: 20 of 20 rows fit"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), max_size=20), st.integers(1, 70))
def test_truncation_counts(rows, limit):
    examples = [
        {"input_ids": [1] * (prompt + answer), "labels": [-100] * prompt + [1] * answer}
        for prompt, answer in rows
    ]
    report = lengths.truncation(examples, limit)
    assert report.whole == sum(prompt + answer <= limit for prompt, answer in rows)
    assert len(report.lost) == sum(prompt >= limit for prompt, answer in rows)
    assert [row.left for row in report.cut] == [
        max(0, limit - prompt) for prompt, answer in rows if prompt + answer > limit
    ]


def test_characters_per_token(tokenizer):
    texts = {"en": ["The price is 8 euros.", "Yes."], "zh": ["价格是8欧元。"], "none": []}
    table = lengths.characters_per_token(tokenizer, texts)
    assert list(table.index) == ["en", "zh", "none"]
    for name, group in texts.items():
        assert table.characters[name] == sum(map(len, group)) and table.tokens[name] == sum(
            len(tokenizer(text).input_ids) for text in group
        )
    assert (
        table["characters a token"]["en"]
        > table["characters a token"]["zh"]
        > 0
        == table["characters a token"]["none"]
    )
