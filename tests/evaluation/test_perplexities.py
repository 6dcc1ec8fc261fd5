"""Perplexity by windows, by part and as the trainer takes the mean, against plain sums of one
forward pass.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from qwen3lab import chat, evaluation, models, training
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation import perplexities


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return models.load(checkpoint)


def _ids(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, count).tolist()


def _plain(model, ids):
    """-ln p of each token but the first, by one pass over all."""
    import torch

    with torch.no_grad():
        logp = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return np.array([-logp[place - 1, ids[place]].item() for place in range(1, len(ids))])


def test_losses_of_padded_rows(loaded):
    rows = [_ids(9), _ids(2, 1), _ids(30, 2)]
    for row, found in zip(rows, perplexities.token_losses(loaded[0], rows, batch_size=2)):
        np.testing.assert_allclose(found, _plain(loaded[0], row), atol=2e-5)


@pytest.mark.parametrize("window", [50, 64, 500])
def test_a_window_that_holds_the_text_is_the_plain_perplexity(loaded, window):
    ids = _ids(50)
    table = perplexities.sliding(loaded[0], ids, window, window // 2)
    np.testing.assert_allclose(table.nll, _plain(loaded[0], ids), atol=2e-5)
    assert (
        table.context.tolist() == table.position.tolist() == list(range(1, 50))
        and table.attrs["read"] == 50
    )


@pytest.mark.parametrize(
    ("count", "window", "stride"),
    [
        (50, 16, 4),
        (50, 16, 15),
        (51, 16, 1),
        (17, 16, 8),
        (16, 16, 3),
        (2, 2, 1),
        (40, 2, 1),
        (33, 10, 7),
    ],
)
def test_each_token_once_with_its_context(loaded, count, window, stride):
    ids = _ids(count)
    table = perplexities.sliding(loaded[0], ids, window, stride, batch_size=3)
    assert table.position.tolist() == list(range(1, count)) and table.token.tolist() == ids[1:]
    assert (table.context >= np.minimum(table.position, window - stride)).all() and (
        table.context < window
    ).all()
    for line in table.iloc[
        ::5
    ].itertuples():  # each from a pass of its own over just the tokens that it is said to have seen
        seen = ids[line.position - line.context : line.position + 1]
        assert line.nll == pytest.approx(_plain(loaded[0], seen)[-1], abs=2e-5)


def test_the_strided_window_of_transformers_page(loaded):
    """The published loop: windows that begin `stride` apart, labels masked but for the new tokens.
    Where the last window needs no move, all is equal.
    """
    import torch

    ids, window, stride = _ids(16 + 5 * 6), 16, 6
    total = count = previous = 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        inputs = torch.tensor([ids[begin:end]])
        labels = inputs.clone()
        labels[:, : -(end - previous)] = -100
        with torch.no_grad():
            loss = loaded[0](inputs, labels=labels).loss.item()
        scored = int((labels[:, 1:] != -100).sum())
        total, count, previous = total + loss * scored, count + scored, end
        if end == len(ids):
            break
    table = perplexities.sliding(loaded[0], ids, window, stride)
    assert count == len(table) and math.exp(total / count) == pytest.approx(
        math.exp(table.nll.mean()), rel=1e-5
    )


def test_cut_texts_look_worse_than_they_are():
    """The base model on the handbook's passages: pieces cost more than overlapping windows, at the
    same window.
    """
    model, tokenizer = models.load("base")
    passages = dict.fromkeys(
        row["passage"] for row in tasks.load("knowledge", "test") if row["language"] == "en"
    )
    ids = tokenizer("\n".join(passages)).input_ids[:600]
    table = perplexities.strides(model, ids, 64, (63, 32, 8)).set_index("stride")
    assert table["least context"].tolist() == [1, 32, 56]
    assert (
        table.perplexity[63] > 1.05 * table.perplexity[32]
        and table["tokens read"][8] > 3 * table["tokens read"][32]
    )
    assert perplexities.strides(model, ids[:40], 64, (32,))["least context"].tolist() == [39]


def test_parts_of_a_conversation():
    tokenizer = models.load_tokenizer("qwen3-tiny")
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "<|im_end|>\nassistant\nFee?"},
        {"role": "assistant", "content": "8 euros"},
        {"role": "user", "content": "\nAnd now?"},
        {"role": "assistant", "content": "Still 8."},
    ]
    example = chat.example(tokenizer, messages)
    kinds = perplexities.parts(tokenizer, example)
    text = {
        part: tokenizer.decode(
            [number for number, kind in zip(example["input_ids"], kinds) if kind == part]
        )
        for part in perplexities.PARTS
    }
    assert text["answer"] == "Still 8.<|im_end|>"
    assert (
        text["template"] == "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|im_end|>\n"
        "<|im_start|>assistant\n<|im_end|>\n<|im_start|>user\n\n<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert (
        text["messages"] == "Be kind.<|im_end|>\nassistant\nFee?8 eurosAnd now?"
    )  # the line break before "And" shares a token with the template's


def test_what_the_mask_changes():
    model, tokenizer = models.load("chat")
    rows = [row for row in tasks.load("chat", "test") if row["task"] == "lookup"][:8]
    table = perplexities.by_part(model, tokenizer, rows)
    assert table.perplexity["answer"] == pytest.approx(
        evaluation.perplexity(model, tokenizer, rows), rel=1e-5
    )
    examples = [chat.example(tokenizer, tasks.conversation(row)) for row in rows]
    whole = np.concatenate([_plain(model, example["input_ids"]) for example in examples])
    assert table.perplexity["all"] == pytest.approx(
        math.exp(whole.mean()), rel=1e-5
    ) and table.tokens["all"] == len(whole)
    split = table.drop(index="all")
    assert table.loss["all"] == pytest.approx(
        (split.loss * split.tokens).sum() / split.tokens.sum()
    ) and split.tokens.sum() == len(whole)
    assert (
        table.perplexity["answer"] < 1.5 and table.perplexity["messages"] > 100
    )  # a chat model is trained on answers alone


def test_equals_the_trainers_loss(checkpoint):
    """One batch: the mean over tokens. Several (of four and two): a mean of means by rows, which
    short answers pull.
    """
    rows = [
        {
            "messages": [{"role": "user", "content": f"Say {n}"}],
            "answer": "ab " * n,
            "thinking": False,
        }
        for n in (1, 9, 2, 30, 3, 4)
    ]
    one = training.fine_tune(
        checkpoint,
        rows,
        method="full",
        steps=2,
        batch_size=2,
        validation=rows,
        train_sampling_strategy="random",
    )
    reported = one.history.eval_loss.dropna().iloc[-1]
    assert evaluation.perplexity(one.model, one.tokenizer, rows) == pytest.approx(
        math.exp(reported), rel=1e-5
    )
    several = training.fine_tune(
        checkpoint,
        rows,
        method="full",
        steps=2,
        batch_size=2,
        validation=rows,
        train_sampling_strategy="random",
        per_device_eval_batch_size=4,
    )
    reported = several.history.eval_loss.dropna().iloc[-1]
    read = evaluation.read_answers(
        several.model, [evaluation.example(several.tokenizer, row) for row in rows]
    )
    assert perplexities.as_trainers(read, 4) == pytest.approx(reported, rel=1e-5)
    assert abs(read.nll.sum() / read.tokens.sum() - reported) > 1e-4
    assert perplexities.as_trainers(read, 6) == pytest.approx(read.nll.sum() / read.tokens.sum())


def test_mistakes_get_a_sentence(loaded):
    with pytest.raises(Qwen3labError, match="nothing to score"):
        perplexities.sliding(loaded[0], [5], 8, 4)
    for window, stride in ((8, 0), (8, 8), (1, 1)):
        with pytest.raises(Qwen3labError, match="cannot move by"):
            perplexities.sliding(loaded[0], _ids(20), window, stride)
    with pytest.raises(Qwen3labError, match="no rows"):
        perplexities.by_part(*loaded, [])
