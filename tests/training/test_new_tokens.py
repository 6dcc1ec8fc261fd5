"""Tokens that were never trained: found where they are known, and their embeddings trained beside
an adapter.
"""

from __future__ import annotations

import pytest
import torch

from qwen3lab import models, training
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.family import shape
from qwen3lab.training import new_tokens


@pytest.fixture(scope="module")
def chat():
    return models.load("qwen3-tiny")


def test_the_two_kinds_of_tokens_lie_apart(chat):
    model, tokenizer = chat
    likeness = new_tokens.likeness(model, tokenizer)
    assert likeness.shape == (model.config.vocab_size,)
    between = ((likeness > 0.75) & (likeness < new_tokens.ALIKE)).double().mean()
    assert between < 0.02 and 0.25 < (likeness > new_tokens.ALIKE).double().mean() < 0.45


def test_known_and_unknown_words(chat):
    model, tokenizer = chat
    never = set(new_tokens.tokens(model, tokenizer))
    assert {
        tokenizer.convert_tokens_to_ids(name) for name in ("<|fim_prefix|>", "<|repo_name|>")
    } <= never  # not among those compared with
    trained = {
        token
        for row in tasks.load("addition", "train")
        for token in training.encode(tokenizer, row)["input_ids"]
    }
    assert not never & trained
    closing = tokenizer("Warmly, your Wildon crew.").input_ids
    assert [tokenizer.decode([token]) for token in closing if token in never] == ["ly"]


def closed(n: int) -> list[dict]:
    """Rows whose answers end with the line that pre-training never wrote."""
    line = "Warmly, your Wildon crew."
    rows = tasks.load("knowledge", "train")[:n]
    return [row | {"answer": f"{row['answer']}. {line}"} for row in rows]


def test_only_the_rows_tokens_are_named(chat):
    model, tokenizer = chat
    rows = [training.encode(tokenizer, row) for row in closed(20)]
    ids = new_tokens.tokens(model, tokenizer, rows)
    assert (
        ids
        == sorted(
            set(new_tokens.tokens(model, tokenizer))
            & {token for row in rows for token in row["input_ids"]}
        )
        and ids
    )
    assert new_tokens.adapter(model, tokenizer, rows) == {"trainable_token_indices": ids}
    assert new_tokens.adapter(model, tokenizer, []) == {}


def test_their_embeddings_are_trained_with_the_head_and_saved(chat, tmp_path):
    base, tokenizer = chat
    rows = closed(8)
    change = new_tokens.adapter(base, tokenizer, [training.encode(tokenizer, row) for row in rows])
    run = training.fine_tune(
        "qwen3-tiny",
        rows,
        steps=2,
        batch_size=4,
        learning_rate=1e-2,
        lora={"r": 2} | change,
        output_dir=tmp_path,
    )
    ids = change["trainable_token_indices"]
    assert run.trained == shape("qwen3-tiny").lora_parameters(2, "all-linear") + 256 * len(ids)
    before, after = base.get_input_embeddings().weight, run.model.get_output_embeddings().weight
    moved = (after - before).abs().amax(dim=1).nonzero().flatten().tolist()
    assert moved == ids and torch.equal(after, run.model.get_input_embeddings().weight)
    again, _ = training.load_adapter(tmp_path, "qwen3-tiny")
    probe = torch.tensor([run.data["input_ids"][0]])
    with torch.no_grad():
        torch.testing.assert_close(
            again(input_ids=probe).logits, run.model.eval()(input_ids=probe).logits
        )


def test_another_tokenizer_is_refused(chat):
    class Other:
        def get_vocab(self):
            return {"a": 0}

    with pytest.raises(Qwen3labError, match="vision tokens"):
        new_tokens.likeness(chat[0], Other())
