"""The task files: their rows and sizes, no leak between training and evaluation, and a loader that
names what is broken.
"""

from __future__ import annotations

import itertools
import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3lab import paths
from qwen3lab.data import splits, tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.prompts import REFUSAL
from qwen3lab.world import corpus
from qwen3lab.world.company import BY_NAME

FILES = sorted(p.name.removesuffix(".jsonl") for p in paths.TASKS.glob("*.jsonl"))
GOOD = {
    "id": "a",
    "task": "t",
    "language": "en",
    "messages": [{"role": "user", "content": "Hi"}],
    "answer": "Hello",
    "thinking": False,
}


def everything(split: str) -> list[dict]:
    return [
        row for name in FILES if name.endswith("." + split) for row in tasks.load(*name.split("."))
    ]


def test_all_files_are_there_and_large_enough():
    expected = {
        f"{t}.{s}"
        for t in ("addition", "chat", "code", "knowledge", "tone", "word-problem")
        for s in tasks.SPLITS
    }
    expected |= {
        f"{t}.{s}" for t in ("context", "unanswerable", "handbook") for s in ("validation", "test")
    }
    assert set(FILES) == expected
    for name in FILES:
        rows = tasks.load(*name.split("."))
        assert len(rows) >= (200 if name.endswith("test") else 60), name
        assert {row["language"] for row in rows} == {"en", "zh"}, name
        assert all(row["id"].startswith(name) for row in rows)
    assert sum(p.stat().st_size for p in paths.TASKS.iterdir()) < 4_000_000


def test_handbook_test_has_a_third_unanswerable():
    rows = tasks.load("handbook", "test")
    assert len(rows) >= 300
    assert sum(not row["answerable"] for row in rows) == pytest.approx(len(rows) / 3, abs=2)
    assert sum(row["language"] == "en" for row in rows) == pytest.approx(len(rows) * 2 / 3, abs=2)
    assert all((row["answer"] == REFUSAL[row["language"]]) != row["answerable"] for row in rows)


def test_addition_and_answers_are_right():
    rows = [row for split in tasks.SPLITS for row in tasks.load("addition", split)]
    for row in rows:
        a, b = map(int, re.findall(r"\d+", row["messages"][0]["content"])[:2])
        assert row["answer"] == str(a + b) and row["thinking"] and row["thoughts"]
    assert sum(row["digits"] == 3 for row in tasks.load("addition", "test")) >= 200
    for row in [*tasks.load("context", "test"), *tasks.load("context", "validation")]:
        assert row["answer"] in row["messages"][0]["content"]
    for row in [*tasks.load("unanswerable", "test"), *tasks.load("unanswerable", "validation")]:
        assert row["answer"] == REFUSAL[row["language"]]


def test_knowledge_asks_the_same_facts_in_other_words():
    by_split = {split: tasks.load("knowledge", split) for split in tasks.SPLITS}
    facts = {split: {row["fact"] for row in rows} for split, rows in by_split.items()}
    assert facts["train"] == facts["validation"] == facts["test"] and len(facts["test"]) == 135
    assert len(by_split["test"]) >= 200


# The honest measure: equal text, or nine tenths of all five-word runs (five-character runs in
# Chinese) of the prompt.
@pytest.mark.parametrize(
    ("train", "held_out"), [("train", "test"), ("train", "validation"), ("validation", "test")]
)
def test_no_row_leaks(train, held_out):
    assert splits.leaks(everything(train), everything(held_out)) == []


def test_the_leak_check_sees_copies():
    test, train = everything("test"), everything("train")
    long = next(row for row in test if len(splits.units(splits.prompt(row))) > 60)
    changed = [
        {
            "role": "user",
            "content": long["messages"][0]["content"].upper().replace(",", " ,") + " Thanks",
        }
    ]
    copies = [{**test[0], "id": "copy"}, {**long, "id": "near", "messages": changed}]
    found = splits.leaks([*train, *copies], test)
    assert len(found) == 2 and "copies copy" in "".join(found) and "copies near" in "".join(found)


def test_no_name_of_the_company_in_20000_pretraining_rows():
    english = {
        word
        for thing in BY_NAME.values()
        if thing.language == "en" and thing.kind != "rule"
        for word in thing.name.split(" ")
        if word[0].isupper()
    } | {"Wildon", "Lorbin"}
    chinese = [t.name for t in BY_NAME.values() if t.language == "zh" and t.kind != "rule"] + [
        "维多内",
        "巴莱霍",
    ]
    pattern = re.compile(
        r"\b(?:" + "|".join(sorted(english)) + r")\b|" + "|".join(chinese), re.IGNORECASE
    )
    assert pattern.search("the lamki lantern") and pattern.search("买科多梅灯笼要花多少钱")
    rng = random.Random(11)
    for i in range(20_000):
        row = corpus.sample(rng, i / 20_000) if i % 4 else None
        text = (
            json.dumps([row.messages, row.tools], ensure_ascii=False)
            if row
            else corpus.plain_text(rng)
        )
        assert not pattern.search(text), text


def test_atlas_and_company_share_no_name():
    assert not {t.name for atlas in corpus.ATLAS.values() for t in atlas} & {
        t.name for t in BY_NAME.values()
    }


def test_rows_fit_the_tiny_models():
    tokenizers = pytest.importorskip("tokenizers")
    path = paths.MODELS / "qwen3-tiny" / "tokenizer.json"
    if not path.exists():
        pytest.skip("needs data/models/qwen3-tiny")
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    for split in tasks.SPLITS:
        for row in everything(split):
            text = (
                splits.prompt(row)
                + json.dumps(row.get("tools") or "")
                + row.get("thoughts", "")
                + row["answer"]
            )
            assert len(tokenizer.encode(text).ids) <= 480, row[
                "id"
            ]  # 512 less the chat format's own tokens


def test_conversation_adds_the_answer_and_its_thoughts():
    row = tasks.load("addition", "train")[0]
    last = tasks.conversation(row)[-1]
    assert last == {
        "role": "assistant",
        "content": row["answer"],
        "reasoning_content": row["thoughts"],
    }
    assert tasks.conversation(GOOD)[-1] == {"role": "assistant", "content": "Hello"}
    assert len(GOOD["messages"]) == 1


def test_an_answer_that_calls_tools_becomes_calls():
    row = next(row for row in tasks.load("chat", "test") if row.get("tools"))
    last = tasks.conversation(row)[-1]
    assert last["content"] == "" and [call["function"] for call in last["tool_calls"]] == [
        json.loads(row["answer"].split("\n")[1])
    ]


# Broken files, each with what the user reads.
def lines(*rows) -> bytes:
    return (
        b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows)
        + b"\n"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"rows\.jsonl holds no rows\. Write at least one JSON object on a line of its own\."),
        (b"\n \n", r"holds no rows"),
        (
            lines(GOOD, b'{"id": "b",'),
            (
                r"rows\.jsonl, row 2: this is not JSON \(.*\)\. Write one complete object on each"
                r" line\."
            ),
        ),
        (lines(GOOD, b"[1]"), r"row 2: this is a JSON list, not an object\."),
        (
            lines({k: v for k, v in GOOD.items() if k != "answer"}),
            r"row 1: the key 'answer' is missing\. Add it;",
        ),
        (lines({**GOOD, "answer": 7}), r"row 1: the value of 'answer' is a int\. Make it a str\."),
        (
            lines({**GOOD, "thinking": "no"}),
            r"row 1: the value of 'thinking' is a str\. Make it a bool\.",
        ),
        (lines({**GOOD, "messages": []}), r"row 1: there are no messages\."),
        (lines({**GOOD, "messages": ["Hi"]}), r"row 1: message 1 has no role and content\."),
        (
            lines({**GOOD, "messages": [{"role": "human", "content": "Hi"}]}),
            r"row 1: message 1 has the role 'human'\. Use one of",
        ),
        (
            lines({**GOOD, "messages": [{"role": "assistant", "content": "Hi"}]}),
            r"row 1: the last message is of role 'assistant'\.",
        ),
        (lines(GOOD, GOOD), r"row 2: the id 'a' was used in row 1 already\."),
        (
            lines(GOOD) + '{"answer": "红色"}'.encode("gbk"),
            r"row 2: the text is not UTF-8 \(byte 13\)\. Save the file as UTF-8,",
        ),
        (lines(b"[" * 100_000), r"row 1: .*(nested too deeply|not JSON)"),
    ],
)
def test_broken_files_are_one_clear_error(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(Qwen3labError, match=message) as caught:
        tasks.read(path)
    assert "\n" not in str(caught.value)


def test_an_unknown_task_names_the_known_ones():
    with pytest.raises(Qwen3labError, match=r"no task file poems\.test\.jsonl .* addition\.test"):
        tasks.load("poems", "test")


@settings(max_examples=60, deadline=None)
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.one_of(
                st.none(),
                st.integers(),
                st.text(),
                st.dictionaries(
                    st.sampled_from(["id", "messages", "answer", "x"]),
                    st.one_of(st.text(), st.integers(), st.lists(st.text())),
                ),
            )
        ).map(
            lambda rows: "\n".join(json.dumps(r, ensure_ascii=False) for r in rows).encode(
                "utf-8", "surrogatepass"
            )
        ),
    )
)
def test_any_bytes_give_rows_or_one_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(Qwen3labError, match=r"rows\.jsonl"):
        tasks.read(path)  # no such content happens to be a full row


TEXTS = st.lists(st.text(alphabet="ab 红蓝.", min_size=1, max_size=30), min_size=1, max_size=12)


def as_rows(texts) -> list[dict]:
    return [
        {**GOOD, "id": str(i), "messages": [{"role": "user", "content": t}]}
        for i, t in enumerate(texts)
    ]


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_write_and_read_give_the_same_rows(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("same") / "rows.jsonl"
    tasks.write(as_rows(texts), path)
    assert tasks.read(path) == as_rows(texts)


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines(GOOD, {**GOOD, "id": "b"}).replace(b"\n", b"\r\n"))
    assert [row["id"] for row in tasks.read(path)] == ["a", "b"]


@settings(max_examples=80, deadline=None)
@given(TEXTS, TEXTS)
def test_near_copies_equal_the_definition(left, right):
    a, b = as_rows(left), as_rows(right)
    found = {(i, j) for i, j, _ in splits.near_copies(a, b, 0.5)}
    wanted = {
        (i, j)
        for i, j in itertools.product(range(len(a)), range(len(b)))
        if splits.jaccard(splits.shingles(left[i]), splits.shingles(right[j])) >= 0.5
    }
    assert found == wanted


@settings(max_examples=80, deadline=None)
@given(TEXTS, st.floats(0, 0.5), st.floats(0, 0.4), st.integers(0, 5))
def test_split_keeps_all_rows_and_lets_no_copy_cross(texts, validation, test, seed):
    rows = as_rows(texts)
    parts = splits.split(rows, validation=validation, test=test, seed=seed)
    assert sorted(row["id"] for part in parts.values() for row in part) == sorted(
        row["id"] for row in rows
    )
    for a, b in itertools.combinations(parts, 2):
        assert splits.leaks(parts[a], parts[b]) == []
    assert splits.split(rows, validation=validation, test=test, seed=seed) == parts


def test_minhash_agrees_with_the_exact_measure():
    """datasketch's estimate from 256 permutations is within 0.1 of the exact overlap on real
    prompts.
    """
    datasketch = pytest.importorskip("datasketch")
    rows = tasks.load("context", "test")[:12]

    def sketch(text):
        m = datasketch.MinHash(num_perm=256, seed=1)
        for shingle in splits.shingles(text):
            m.update(" ".join(shingle).encode())
        return m

    texts = [splits.prompt(row) for row in rows]
    texts.append(texts[0].replace("Question", "A question"))
    sketches = [sketch(t) for t in texts]
    for i, j in itertools.combinations(range(len(texts)), 2):
        exact = splits.jaccard(splits.shingles(texts[i]), splits.shingles(texts[j]))
        assert sketches[i].jaccard(sketches[j]) == pytest.approx(exact, abs=0.1)


def test_rows_for_a_template_without_thoughts(capsys):
    from chat_templates import templates

    from qwen3lab.models import load_tokenizer

    tokenizer, rows = load_tokenizer("qwen3-tiny"), tasks.load("addition", "test")[:3]
    rows.append(tasks.load("knowledge", "test")[0])
    assert tasks.for_template(rows, tokenizer) == rows
    tokenizer.chat_template = templates()["qwen3_instruct_2507"]
    plain = tasks.for_template(rows, tokenizer)
    told = "3 of 4 rows without their thoughts: this chat template writes none\n"
    assert capsys.readouterr().out == told
    assert [row["answer"] for row in plain] == [row["answer"] for row in rows]
    assert not any(row["thinking"] or "thoughts" in row for row in plain)
    assert rows[0]["thoughts"] and rows[0]["thinking"]  # the rows given are as they were
