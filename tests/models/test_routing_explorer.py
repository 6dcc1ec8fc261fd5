"""The routing explorer: what it shows, its sliders, and that a run without a front end leaves the
same plain HTML each time.
"""

from __future__ import annotations

import html
import re

import numpy as np
import pytest

from qwen3lab import models, paths
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import routing, routing_explorer

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer(paths.MODELS / "qwen3-tiny")


def made(layers=2):
    rng = np.random.default_rng(0)
    experts = np.stack(
        [[rng.choice(16, 2, replace=False) for _ in range(5)] for _ in range(layers)]
    )
    weights = np.tile([0.75, 0.25], (layers, 5, 1))
    return routing.Routing(
        np.array([300, 301, 302, 303, 304]), np.array([0, 0, 1, 1, 1]), experts, weights, 16
    )


def test_it_shows_the_experts_of_the_token(tokenizer):
    seen = made()
    page = routing_explorer.RoutingExplorer(seen, tokenizer, row=1, token=-1).html()
    # Token 2 of text 1 is token 4 of all.
    wanted = [
        (int(e), w) for layer in range(2) for e, w in zip(seen.experts[layer, 4], ("0.75", "0.25"))
    ]
    found = [(int(e), w) for e, w in re.findall(r"expert +(\d+) <span[^>]*></span> ([\d.]+)", page)]
    assert found == wanted and "experts of token 2" in page and page.count("width:75px") == 2
    dark = re.findall(r'<span title="(\d+)" style="background:#1f4e79', page)
    assert dark == ["304"] and "layer 0" in page and "layer 1" in page


def test_many_layers_are_thinned_out(tokenizer):
    page = routing_explorer.RoutingExplorer(made(48), tokenizer).html()
    assert re.findall(r"layer (\d+)", page) == ["0", "16", "31", "47"]


def test_text_of_documents_is_escaped(tokenizer):
    ids = tokenizer("<script>").input_ids
    n = len(ids)
    seen = routing.Routing(
        np.array(ids), np.zeros(n, int), np.zeros((1, n, 1), int), np.ones((1, n, 1)), 4
    )
    page = routing_explorer.RoutingExplorer(seen, tokenizer).html()
    pieces = [tokenizer.decode([token]) for token in ids]
    assert "<" in pieces[0] and "".join(pieces) == "<script>"
    shown = re.findall(r'<span title="\d+"[^>]*>(.*?)</span>', page)
    assert shown == [html.escape(piece) for piece in pieces]


def test_without_a_front_end_there_is_html_and_nothing_random(tokenizer, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    one, two = (
        routing_explorer.RoutingExplorer(made(), tokenizer)._repr_mimebundle_() for _ in range(2)
    )
    assert one == two and set(one) == {"text/plain", "text/html"}
    assert (
        one["text/plain"].startswith("experts of token 0")
        and "layer 1: expert" in one["text/plain"]
    )


def test_a_live_notebook_gets_sliders_that_move_the_picture(tokenizer, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "01.ipynb")
    explorer = routing_explorer.RoutingExplorer(made(), tokenizer, row=1)
    bundle = explorer._repr_mimebundle_()
    assert {WIDGET, "text/html"} <= set(bundle)
    layer, token, view = explorer.widget().children
    assert (layer.max, token.max) == (1, 2) and view.value == explorer.html(0, [0])
    token.value = 2
    assert view.value == explorer.html(2, [0]) != explorer.html(0, [0])
    layer.value = 1
    assert view.value == explorer.html(2, [1]) != explorer.html(2, [0])
    assert (
        WIDGET
        not in routing_explorer.RoutingExplorer(
            made(), tokenizer, interactive=False
        )._repr_mimebundle_()
    )


def test_texts_and_tokens_that_are_not_there(tokenizer):
    with pytest.raises(Qwen3labError, match="no text 2. Choose a number from 0 to 1"):
        routing_explorer.RoutingExplorer(made(), tokenizer, row=2)
    for token in (3, -4):
        with pytest.raises(Qwen3labError, match=f"no token {token}. Choose a number from 0 to 2"):
            routing_explorer.RoutingExplorer(made(), tokenizer, row=1, token=token)
