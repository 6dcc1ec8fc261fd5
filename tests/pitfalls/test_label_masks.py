"""The mask clinic in a shorter form: each mistake shows its symptom, and the healthy
run does not."""

from __future__ import annotations

import pytest
from charts import bars, heights

from qwen3lab import chat, models, plots
from qwen3lab.errors import Qwen3labError
from qwen3lab.pitfalls import label_masks

QUICK = {
    "loss on user text": 8,
    "pad = eos": 9,
    "no end label": 7,
    "empty think block": 4,
    "human and gpt": 0,
    "double template": 8,
}


@pytest.fixture(scope="module")
def exhibits():
    return {name: label_masks.run(name, steps=steps) for name, steps in QUICK.items()}


@pytest.mark.parametrize(
    "name", ["loss on user text", "pad = eos", "empty think block", "double template"]
)
def test_the_mistake_lowers_a_share(exhibits, name):
    exhibit = exhibits[name]
    assert exhibit.share and exhibit.n >= 24 and 0 <= exhibit.sick < exhibit.healthy <= 1
    assert exhibit.healthy - exhibit.sick > 0.3, exhibit


def test_without_the_end_label_answers_do_not_stop(exhibits):
    exhibit = exhibits["no end label"]
    assert (
        exhibit.sick == label_masks.LIMIT
        and exhibit.healthy < 0.6 * label_masks.LIMIT
        and "0.00 with the mistake" in exhibit.note
    )


def test_unknown_roles_leave_nothing_to_train(exhibits):
    exhibit = exhibits["human and gpt"]
    assert (
        exhibit.sick == 0
        and exhibit.healthy
        == sum(
            label != chat.IGNORED
            for row in label_masks.company_examples()
            for label in row["labels"]
        )
        > 100
    )
    assert exhibit.note.startswith("24 of 24")


def test_the_notes_name_the_cause(exhibits):
    assert (
        "labels that are <|im_end|>: 0 with the mistake, 48 without" in exhibits["pad = eos"].note
    )
    tokenizer = models.load_tokenizer(label_masks.CHAT)
    rows = [chat.example(tokenizer, messages) for messages in label_masks.company_conversations()]
    share = sum(label != -100 for row in rows for label in row["labels"]) / sum(
        len(row["labels"]) for row in rows
    )
    assert f"{share:.0%} of the trained tokens" in exhibits["loss on user text"].note


def test_table_and_chart(exhibits):
    table = label_masks.table(exhibits.values())
    assert list(table.index) == list(label_masks.EXHIBITS) == list(QUICK)
    shares = table[table.share]
    assert (
        (shares["sick low"] <= shares.sick).all()
        and (shares.sick <= shares["sick high"]).all()
        and (shares["healthy high"] <= 1).all()
    )
    counts = table[~table.share]
    assert (counts["sick low"] == counts.sick).all() and (
        counts["healthy high"] == counts.healthy
    ).all()
    figure = plots.clinic_bars(table)
    assert len(figure.axes) == 6 and [ax.get_ylabel() for ax in figure.axes] == list(table.symptom)
    assert [heights(bars(ax)[0]) for ax in figure.axes] == table[
        ["sick", "healthy"]
    ].values.tolist()


def test_train_counts_only_labels_and_gives_the_same_weights_twice():
    import torch

    model, _ = label_masks.fresh()
    rows = label_masks.company_examples()[:6]
    once, again = (
        label_masks.train(label_masks.fresh()[0], rows, steps=2, batch_size=6) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), again.parameters()))
    assert not torch.equal(once.lm_head.weight, model.lm_head.weight) and not once.training
    untouched, _ = label_masks.fresh()
    assert torch.equal(
        untouched.lm_head.weight, model.lm_head.weight
    )  # training did not reach the model that is kept
    nothing = [row | {"labels": [-100] * len(row["labels"])} for row in rows[:1]] + rows[1:]
    other = label_masks.train(label_masks.fresh()[0], nothing, steps=2, batch_size=6)
    assert not all(torch.equal(a, b) for a, b in zip(once.parameters(), other.parameters()))


def test_train_takes_the_step_of_the_library():
    """One step of the bare loop is one step on the loss that transformers computes from the same
    labels.
    """
    import torch

    rows = label_masks.company_examples()[:4]
    ours = label_masks.train(label_masks.fresh()[0], rows, steps=1, batch_size=4)
    model, tokenizer = label_masks.fresh()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    width = max(len(row["labels"]) for row in rows)
    ids, labels = (
        torch.tensor([row[key] + [fill] * (width - len(row[key])) for row in rows])
        for key, fill in (("input_ids", tokenizer.pad_token_id), ("labels", -100))
    )
    model.train()(
        input_ids=ids, attention_mask=(ids != tokenizer.pad_token_id).long(), labels=labels
    ).loss.backward()
    optimizer.step()
    apart = torch.cat(
        [(a - b).detach().abs().flatten() for a, b in zip(ours.parameters(), model.parameters())]
    )
    # Each weight moves by the learning rate, up or down. Where a gradient is nearly 0, rounding
    # may choose the other way, so a few may lie two steps apart.
    assert (apart < 1e-5).float().mean() > 0.999


def test_collated_labels_are_the_collators():
    tokenizer = models.load_tokenizer(label_masks.BASE)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    healthy, sick = label_masks.collated("<|endoftext|>"), label_masks.collated("<|im_end|>")
    for row, broken, example in zip(healthy, sick, label_masks.company_examples(), strict=True):
        n = len(example["input_ids"])
        assert row["labels"][:n] == row["input_ids"][:n] == example["input_ids"] and set(
            row["labels"][n:]
        ) <= {-100}
        assert broken["labels"][:n] == [
            -100 if token == end else token for token in example["input_ids"]
        ]


def test_unknown_exhibit():
    with pytest.raises(Qwen3labError, match="no exhibit 'fever'"):
        label_masks.run("fever")
