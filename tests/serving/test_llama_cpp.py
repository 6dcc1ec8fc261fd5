"""llama.cpp and transformers give the same answers from the same weights."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import servable_checkpoint

from qwen3lab import chat, models, paths, quantization, serving
from qwen3lab.errors import Qwen3labError
from qwen3lab.models.generation import generate_ids
from qwen3lab.serving import engines

MOE = paths.MODELS / "qwen3-tiny-moe"
needs_moe = pytest.mark.skipif(
    not (MOE / "config.json").is_file(), reason="the bundled mixture of experts is not there"
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A model with random weights as GGUF, and its tokenizer."""
    folder = tmp_path_factory.mktemp("gguf")
    path = quantization.to_gguf(
        servable_checkpoint(folder / "small", "0.6B"), folder / "small.gguf", "f32"
    )
    return path, models.load_tokenizer(folder / "small")


@needs_moe
def test_mixture_of_experts_answers(tmp_path):
    model, tokenizer = models.load(MOE, dtype="float32")
    prompts = [
        chat.encode(tokenizer, row["messages"], thinking=row["thinking"])
        for row in engines.rows()
        if not row.get("tools")
    ][:12]
    wanted = generate_ids(model, tokenizer, prompts, max_new_tokens=32)
    with serving.LlamaServer(
        quantization.to_gguf(MOE, tmp_path / "moe.gguf", "f32"), tokenizer, exact=True
    ) as server:
        got = [server.complete(prompt, max_new_tokens=32) for prompt in prompts]
    assert [answer.ids for answer in got] == wanted
    assert all(answer.text for answer in got)


@pytest.mark.parametrize("name", ["0.6B", "8B", "30B-A3B"])
def test_random_weights_agree_too(name, tmp_path):
    """Models of other shapes than the bundled ones: with and without a tied head, dense and not."""
    folder = servable_checkpoint(tmp_path / "model", name)
    model, tokenizer = models.load(folder, dtype="float32")
    prompts = [tokenizer(text).input_ids for text in ("Hello", "one two three", "你好")]
    wanted = generate_ids(model, tokenizer, prompts, max_new_tokens=16)
    with serving.LlamaServer(
        quantization.to_gguf(folder, tmp_path / "m.gguf", "f32"), tokenizer, exact=True, context=256
    ) as server:
        assert [server.complete(prompt, max_new_tokens=16).ids for prompt in prompts] == wanted


def test_messages_keep_control_tokens_as_text(small):
    path, tokenizer = small
    message = [{"role": "user", "content": "<|im_end|>"}]
    with serving.LlamaServer(path, tokenizer, context=512) as server:
        answer = server.complete(message, max_new_tokens=2)
        assert answer.prompt_tokens == len(chat.encode(tokenizer, message))
        assert answer.ids == server.complete(chat.encode(tokenizer, message), max_new_tokens=2).ids


def test_http_endpoint_answers(small):
    path, tokenizer = small
    with serving.LlamaServer(path, tokenizer, context=512) as server:
        request = urllib.request.Request(
            server.address + "/v1/chat/completions",
            headers={"Content-Type": "application/json"},
            data=json.dumps(
                {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "temperature": 0}
            ).encode(),
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            assert json.load(reply)["usage"]["completion_tokens"] == 3


def test_several_answers_at_once(small):
    """Four slots: each answer is the one that it would be alone, and each has the whole context."""
    path, tokenizer = small
    prompts = [[place % 256 + 1] * (20 * place + 4) for place in range(12)]
    with serving.LlamaServer(path, tokenizer, context=512, exact=True) as server:
        alone = [server.complete(prompt, max_new_tokens=8).ids for prompt in prompts]
    with (
        serving.LlamaServer(path, tokenizer, context=512, slots=4, exact=True) as server,
        ThreadPoolExecutor(12) as clients,
    ):
        assert (
            list(clients.map(lambda prompt: server.complete(prompt, max_new_tokens=8).ids, prompts))
            == alone
        )
        assert server.call({"prompt": [1] * 500, "max_tokens": 8})["usage"]["prompt_tokens"] == 500


def test_calls_without_http(small):
    path, tokenizer = small
    body = {"prompt": [5, 6, 7], "max_tokens": 4, "temperature": 0.0, "ignore_eos": True}
    with serving.LlamaServer(path, tokenizer, context=64, exact=True) as server:
        reply, parts = server.call(body), []
        last = server.call(body, parts.append)
        assert reply["usage"]["completion_tokens"] == last["usage"]["completion_tokens"] == 4
        assert "".join(part["choices"][0]["text"] for part in parts) == reply["choices"][0]["text"]
        for given in (None, parts.append):
            with pytest.raises(Qwen3labError, match="refused the request"):
                server.call({"prompt": [99_999]}, given)


def test_clients_do_not_learn_the_path(small):
    path, tokenizer = small
    with (
        serving.LlamaServer(path, tokenizer, context=64) as server,
        urllib.request.urlopen(server.address + "/v1/models", timeout=60) as reply,
    ):
        text = reply.read().decode()
    assert '"small"' in text and str(path.parent) not in text


def test_bad_files(small, tmp_path):
    path, tokenizer = small
    whole = path.read_bytes()
    for name, content, message in (
        ("cut.gguf", whole[: len(whole) // 2], "damaged or cut short"),
        ("short.gguf", whole[:40], "damaged or cut short"),
        ("junk.gguf", b"GGUF" + b"\x07" * 500, "damaged or cut short"),
        ("text.gguf", b"hello", "is no GGUF file"),
        ("empty.gguf", b"", "is no GGUF file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Qwen3labError, match=message):
            serving.LlamaServer(tmp_path / name, tokenizer)
    with pytest.raises(Qwen3labError, match="There is no file"):
        serving.LlamaServer(tmp_path / "none.gguf", tokenizer)


def test_file_that_only_llama_cpp_refuses(small, tmp_path):
    """A well-formed file whose architecture nobody has heard of."""
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "alien.gguf", "alien")
    writer.add_context_length(64)
    for step in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        step()
    with pytest.raises(Qwen3labError, match="could not load"):
        serving.LlamaServer(tmp_path / "alien.gguf", small[1]).__enter__()


def test_bad_prompts(small):
    path, tokenizer = small
    server = serving.LlamaServer(path, tokenizer, context=32)
    with pytest.raises(Qwen3labError, match="closed"):
        server.complete([1])
    with server:
        with pytest.raises(Qwen3labError, match="empty"):
            server.complete([])
        with pytest.raises(Qwen3labError, match="40 tokens"):
            server.complete([1] * 40)
    with pytest.raises(Qwen3labError, match="closed"):
        server.complete([1])


def test_a_tokenizer_with_other_control_tokens_is_refused(small, tmp_path):
    """Else its ids would be other tokens of the file, and nobody would see it."""
    path, _ = small
    folder = tmp_path / "more"
    wider = servable_checkpoint(folder, "0.6B")
    tokenizer = models.load_tokenizer(wider)
    tokenizer.add_tokens(["Basdru"])
    with pytest.raises(Qwen3labError) as error:
        serving.LlamaServer(path, tokenizer)
    assert str(error.value).startswith(
        "Token 261 is 'Basdru' in the tokenizer and None in 'small.gguf'."
    )
    tokenizer.save_pretrained(folder)
    file = quantization.to_gguf(folder, tmp_path / "more.gguf", "f32")
    with pytest.raises(Qwen3labError, match="Token 261 is None in the tokenizer and 'Basdru' in"):
        serving.LlamaServer(file, small[1])
    assert serving.LlamaServer(file, tokenizer).ends == [258, 260]
