"""A guard before a model with random weights, and one before an engine that is made up."""

from __future__ import annotations

import threading
from http.server import ThreadingHTTPServer

import pytest
from chat_requests import Fake
from helpers import servable_checkpoint

from qwen3lab import models, quantization, serving
from qwen3lab.serving import chat_server


@pytest.fixture(scope="package")
def doors(tmp_path_factory):
    """A guard before a model with random weights, and the checkpoint's folder."""
    folder = servable_checkpoint(tmp_path_factory.mktemp("guard") / "small", "0.6B")
    path, tokenizer = (
        quantization.to_gguf(folder, folder / "small.gguf", "f32"),
        models.load_tokenizer(folder),
    )
    with (
        serving.LlamaServer(path, tokenizer, context=512, slots=4, exact=True) as server,
        chat_server.Guard(server.address, tokenizer, context=512, name="small") as door,
    ):
        yield door, server, folder


@pytest.fixture
def fake(doors):
    """A guard before `Fake`, and a class that sets what it says."""
    kind = type("Engine", (Fake,), {"left": threading.Event()})
    engine = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=engine.serve_forever, daemon=True).start()
    with chat_server.Guard(
        f"http://127.0.0.1:{engine.server_address[1]}", doors[0].tokenizer, context=4096
    ) as door:
        yield door, kind
    engine.shutdown()
    engine.server_close()
