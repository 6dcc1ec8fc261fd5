"""One model, 50 prompts, and the same token ids from every engine."""

from __future__ import annotations

import json
import shutil
from itertools import product

import pytest
from helpers import ended

from qwen3lab import chat, models, paths, quantization, serving, training
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.models.generation import generate_ids
from qwen3lab.results import records, tables
from qwen3lab.serving import chat_server, engines, vllm

TINY = paths.MODELS / "qwen3-tiny"
pytestmark = pytest.mark.skipif(
    not (TINY / "config.json").is_file(), reason="the bundled chat model is not there"
)


@pytest.fixture(scope="module")
def fifty():
    """Tokenizer, prompts, and transformers' answers to them in float32."""
    model, tokenizer = models.load(TINY, dtype="float32")
    prompts = engines.prompts(tokenizer)
    answers = generate_ids(model, tokenizer, prompts, max_new_tokens=64)
    assert len(prompts) == 50 and sum(map(len, answers)) > 1000
    return tokenizer, prompts, answers


@pytest.fixture(scope="module")
def server(fifty, tmp_path_factory):
    path = quantization.to_gguf(TINY, tmp_path_factory.mktemp("engines") / "tiny.gguf", "f32")
    with serving.LlamaServer(path, fifty[0], exact=True, slots=4) as server:
        yield server


def test_llama_cpp_in_process(fifty, server):
    tokenizer, prompts, answers = fifty
    assert engines.in_process(server, prompts) == answers
    assert [server.complete(prompt).ids for prompt in prompts[::5]] == answers[::5]


def test_llama_cpp_over_http(fifty, server):
    tokenizer, prompts, answers = fifty
    assert engines.over_http(server.address, prompts, tokenizer) == answers


def test_messages_through_the_guard(fifty, server):
    """The guard gives text, not ids: the text of the same ids, thoughts and tool calls in fields of
    their own.
    """
    tokenizer, prompts, answers = fifty
    with (
        chat_server.Guard(server.address, tokenizer, context=server.context) as door,
        engines.client(door.address) as client,
    ):
        for row, prompt, answer in list(zip(engines.rows(), prompts, answers))[::3]:
            tools = {"tools": row["tools"]} if row.get("tools") else {}
            reply = client.chat.completions.create(
                model="any",
                messages=row["messages"],
                temperature=0,
                max_tokens=64,
                **tools,
                extra_body={"chat_template_kwargs": {"enable_thinking": row["thinking"]}},
            )
            message, written = (
                reply.choices[0].message,
                tokenizer.decode(answer, skip_special_tokens=True),
            )
            assert reply.usage.prompt_tokens == len(prompt)
            thoughts = getattr(message, "reasoning_content", None)
            if message.tool_calls:
                name, arguments = (
                    getattr(message.tool_calls[0].function, field)
                    for field in ("name", "arguments")
                )
                assert json.loads(written.split("<tool_call>")[1].split("</tool_call>")[0]) == {
                    "name": name,
                    "arguments": json.loads(arguments),
                }
            else:
                assert (
                    f"<think>\n{thoughts}\n</think>\n\n" if thoughts else ""
                ) + message.content == written.strip()


def test_vllm(fifty, tmp_path):
    """By `make vllm`."""
    if not vllm.VLLM.is_file():
        pytest.skip("vLLM is not installed; `make vllm` gives it an environment of its own")
    tokenizer, prompts, answers = fifty
    with vllm.Vllm(TINY, log=tmp_path / "log") as server:
        assert engines.over_http(server.address, prompts, tokenizer) == answers


def test_vllm_serves_an_adapter_beside_its_base(tmp_path):
    """The command of notebook 07, by `make vllm`: base and adapter give transformers' token ids,
    thoughts and tool calls have fields of their own.
    """
    if not vllm.VLLM.is_file():
        pytest.skip("vLLM is not installed; `make vllm` gives it an environment of its own")
    folder = tmp_path / "adapter"
    shutil.copytree(paths.DATA / "adapters" / "qlora", folder)
    model, tokenizer = models.load(TINY, dtype="float32")
    tokenizer.save_pretrained(folder)  # the template of the training
    company = [
        chat.encode(tokenizer, row["messages"]) for row in tasks.load("knowledge", "test")[:12]
    ]
    wanted = {"base": generate_ids(model, tokenizer, company, max_new_tokens=24)}
    adapted = training.load_adapter(folder, model)[0].eval()
    wanted["wildon"] = generate_ids(adapted, tokenizer, company, max_new_tokens=24)
    parsers = ["--reasoning-parser", "qwen3", "--tool-call-parser", "hermes"]
    options = ["--tokenizer", str(folder), "--enable-auto-tool-choice", *parsers]
    adapters = {"wildon": folder}
    with vllm.Vllm(
        TINY, name="base", adapters=adapters, options=options, log=tmp_path / "log"
    ) as server:
        for name, ids in wanted.items():
            found = engines.over_http(
                server.address, company, tokenizer, max_new_tokens=24, model=name
            )
            assert found == ids
        assert wanted["base"] != wanted["wildon"]
        with engines.client(server.address) as client:
            row = tasks.load("addition", "test")[0]
            ask = {"model": "base", "temperature": 0, "max_tokens": 200}
            reply = client.chat.completions.create(messages=row["messages"], **ask)
            assert reply.choices[0].message.content.strip() == row["answer"]
            assert "carry" in reply.choices[0].message.reasoning
            row = next(row for row in tasks.load("chat", "test") if row["task"] == "tool")
            off = {"chat_template_kwargs": {"enable_thinking": False}}
            reply = client.chat.completions.create(
                messages=row["messages"], tools=row["tools"], extra_body=off, **ask
            )
            (call,) = reply.choices[0].message.tool_calls
            assert json.loads(call.function.arguments) and call.function.name in row["answer"]


def test_vllm_gets_the_adapters_and_options_that_were_asked_for():
    one, two = (paths.DATA / "adapters" / name for name in ("qlora", "tone"))  # both of rank 16
    server = vllm.Vllm(TINY, name="base", adapters={"a": one, "b": two}, options=["--x", "1"])
    words = server._command(8000)
    assert words[words.index("--served-model-name") + 1] == "base"
    assert words[words.index("--enable-lora") :] == (
        ["--enable-lora", "--max-lora-rank", "16", "--lora-modules", f"a={one}", f"b={two}"]
        + ["--x", "1"]
    )
    assert "--enable-lora" not in vllm.Vllm(TINY)._command(8000)


def test_vllm_that_is_not_there_or_does_not_start(tmp_path):
    with pytest.raises(Qwen3labError, match="Run `make vllm`"):
        vllm.Vllm(TINY, python=tmp_path / "none").__enter__()
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such module; exit 3\n")
    broken.chmod(0o755)
    server = vllm.Vllm(TINY, python=broken, log=tmp_path / "log")
    with pytest.raises(Qwen3labError, match="code 3"):
        server.__enter__()
    assert (tmp_path / "log").read_text() == "no such module\n"


def test_vllm_is_refused_where_it_does_not_run(tmp_path, monkeypatch):
    monkeypatch.delattr(vllm.os, "killpg")
    with pytest.raises(Qwen3labError, match="does not run on Windows. Take llama.cpp"):
        vllm.Vllm(TINY, python=tmp_path / "none").__enter__()


def test_vllm_leaves_no_process(tmp_path, monkeypatch):
    """What does not open in time is ended, with all that it started."""
    stuck = tmp_path / "python"
    stuck.write_text('#!/bin/sh\nsleep 1000 & echo $! > "$0.child"; wait\n')
    stuck.chmod(0o755)
    monkeypatch.setattr(vllm, "START", 1)
    with pytest.raises(Qwen3labError, match="within 1 s"):
        vllm.Vllm(TINY, python=stuck).__enter__()
    child = int((tmp_path / "python.child").read_text())
    assert ended(child)


def test_ids_of_both_ways_of_telling_them():
    assert engines.ids_of({"token_ids": [3, 4], "logprobs": None}) == [3, 4]
    assert engines.ids_of({"logprobs": {"content": [{"id": 5}, {"id": 6}]}}) == [5, 6]
    assert engines.ids_of({"token_ids": None, "logprobs": None}) == []


@pytest.mark.parametrize("kind", ["checkpoint", "moe_checkpoint"])
def test_old_names_stand_beside_the_new(kind, request, tmp_path):
    """The values are those that the configuration class has, and the folder loads as before."""
    from transformers import AutoConfig

    folder = tmp_path / "model"
    shutil.copytree(request.getfixturevalue(kind), folder)
    raw = json.loads((folder / "config.json").read_text())
    assert "rope_theta" not in raw and "num_experts" not in raw
    before, written = AutoConfig.from_pretrained(folder), vllm.add_old_names(folder)
    assert (
        written["rope_theta"] == before.rope_parameters["rope_theta"] == 1_000_000
        and written["torch_dtype"] == "float32"
    )
    assert (
        written.get("num_experts") == getattr(before, "num_experts", None)
        and "rope_scaling" not in written
    )
    assert AutoConfig.from_pretrained(folder).to_dict() == before.to_dict()


def test_old_names_of_long_context(tmp_path):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    (tmp_path / "config.json").write_text(
        json.dumps({"rope_parameters": yarn | {"rope_theta": 1e6}})
    )
    assert vllm.add_old_names(tmp_path)["rope_scaling"] == yarn


def test_equal_counts_answers_not_tokens():
    first = [[1, 2], [3], [], [4]]
    assert engines.equal({"a": first, "b": [[1, 2], [3, 3], [], [5]]}) == {"a": 4, "b": 2}
    with pytest.raises(Qwen3labError, match="unlike numbers"):
        engines.equal({"a": first, "b": first[:2]})


def test_speed_counts_tokens_by_the_clock(monkeypatch):
    clock = iter([10.0, 14.0])
    monkeypatch.setattr(engines.time, "perf_counter", lambda: next(clock))
    assert engines.speed(len, [[1, 2, 3], [4, 5, 6, 7, 8]]) == 8 / 4


def test_record_holds_what_the_course_says():
    """Every engine's 50 answers are the same, and the table has a line for each engine
    and level."""
    record = records.read("serving")
    assert (
        engines.equal(
            {name: [line.split() for line in rows] for name, rows in record["answers"].items()}
        )
        == record["equal answers"]
    )
    table = tables.engine_speeds(record)
    assert (
        set(record["equal answers"].values()) == {record["prompts"]} == {50}
        and len(record["equal answers"]) == 4
    )
    assert sum(len(line.split()) for line in record["answers"]["vLLM"]) == record["answer tokens"]
    assert set(table["equal texts"]) == {50}
    assert list(table.index) == list(product(record["engines"], (1, 8, 32)))
    assert (table["latency p50, ms"] <= table["latency p95, ms"]).all() and (table.n >= 150).all()
    assert (
        table["core used"].between(0.95, 1.05).all()
    )  # else others had the core, and the speeds say little
    plain = table["tokens a second"]["transformers generate", 1]
    assert (
        table["tokens a second"]["llama.cpp in process", 1] > 3 * plain
        and table["tokens a second"]["llama.cpp over HTTP", 1] > 3 * plain
    )
