"""Reproduce six mistakes in label masks and chat templates, each measured beside the healthy run.

This is the mask clinic. Each exhibit trains a tiny model twice for a few seconds, from the same
weights, on the same conversations, in the same order; only the one mistake differs. The models are
the bundled ones whatever the profile is.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from qwen3lab import chat, profiles
from qwen3lab.data import tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.evaluation.statistics import wilson
from qwen3lab.models import batching, loading

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Example = dict[str, list[int]]


CHAT, BASE = "qwen3-tiny", "qwen3-tiny-base"
LIMIT = 32  # max_new_tokens of an answer


@dataclass(frozen=True)
class Exhibit:
    """A label-mask mistake, measured: `sick` and `healthy` are values of `symptom`.

    Each value comes from `n` cases. `share`: whether the values are shares, in [0, 1].
    """

    name: str
    mistake: str
    remedy: str
    symptom: str
    sick: float
    healthy: float
    n: int
    share: bool
    note: str = field(default="", compare=False)


def train(
    model: PreTrainedModel,
    examples: Sequence[Example],
    *,
    steps: int,
    learning_rate: float = 1e-3,
    batch_size: int = 12,
    seed: int = 0,
) -> PreTrainedModel:
    """Train all weights in place with AdamW and a linear decay of the learning rate to zero.

    Args:
        examples: dicts of input_ids and labels; a label of -100 does not count.
        steps: batches of `batch_size` examples (few in a smoke run), drawn in a new order each time
            all have been seen.
        seed: seed of that order.
    Returns:
        The model, in eval mode.
    """
    import torch
    from torch.nn.functional import cross_entropy

    rng, order, steps = random.Random(seed), [], profiles.smoke_steps(steps)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=0.0, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    model.train()
    for _ in range(steps):
        while len(order) < batch_size:
            order += rng.sample(range(len(examples)), len(examples))
        batch, order = [examples[place] for place in order[:batch_size]], order[batch_size:]
        ids, labels = (
            batching.pad([row[key] for row in batch], fill)[0]
            for key, fill in (("input_ids", 0), ("labels", chat.IGNORED))
        )
        # Padding is on the right, so causal attention never reads it and no mask is needed.
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        trained = labels[:, 1:] != chat.IGNORED  # position t predicts token t + 1
        loss = cross_entropy(model.lm_head(hidden[trained]), labels[:, 1:][trained])
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval()


@lru_cache
def _loaded(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return loading.load(name, dtype="float32", device="cpu")


def fresh(name: str = CHAT) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Copy a bundled model for training; returns the copy and its tokenizer."""
    model, tokenizer = _loaded(name)
    return copy.deepcopy(model), tokenizer


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[dict[str, Any]]],
    limit: int = LIMIT,
    thinking: bool = False,
) -> list[list[int]]:
    """Generate greedy answers as token ids up to and including `<|im_end|>`.

    A chat server stops there too. An answer that does not stop within `limit` tokens has none.
    """
    import torch

    rows = [chat.encode(tokenizer, prompt, thinking=thinking) for prompt in prompts]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids, mask = batching.pad(rows, tokenizer.pad_token_id, "left")
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=profiles.smoke_tokens(limit),
            eos_token_id=end,
            pad_token_id=tokenizer.pad_token_id,
        )[:, ids.shape[1] :].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in out]


def knowledge(n: int = 24) -> list[dict[str, Any]]:
    """Load `n` English training rows of the company's knowledge, each about a different fact."""
    rows = {row["fact"]: row for row in tasks.load("knowledge", "train") if row["language"] == "en"}
    return list(rows.values())[:n]


def company_conversations() -> list[list[dict[str, Any]]]:
    """List the conversations of `knowledge`, each with its answer."""
    return [tasks.conversation(row) for row in knowledge()]


def company_examples() -> list[Example]:
    """Build the healthy rows: inference's prompt, and a loss on the answer and its end alone."""
    tokenizer = _loaded(CHAT)[1]
    return [chat.example(tokenizer, messages) for messages in company_conversations()]


def _facts_right(examples: Sequence[Example], steps: int) -> tuple[float, list[str]]:
    """Train the chat model on examples and ask for the facts with the normal prompt.

    Returns the share of facts that it answers right, and its answers as generated.
    """
    model, tokenizer = fresh()
    train(model, examples, steps=steps, learning_rate=2e-3)
    rows = knowledge()
    written = [
        tokenizer.decode(answer)
        for answer in answers(model, tokenizer, [row["messages"] for row in rows], limit=12)
    ]
    return (
        sum(text == row["answer"] + "<|im_end|>" for text, row in zip(written, rows)) / len(rows),
        written,
    )


@lru_cache
def _healthy_facts(steps: int) -> float:
    return _facts_right(company_examples(), steps)[0]


def user_text(steps: int = 10) -> Exhibit:
    """Train on every token, as TRL does by default with rows of `messages`.

    Most of what is learned is then how customers write.
    """
    examples = company_examples()
    share = sum(label != chat.IGNORED for row in examples for label in row["labels"]) / sum(
        len(row["labels"]) for row in examples
    )
    sick, _ = _facts_right([row | {"labels": row["input_ids"]} for row in examples], steps)
    return Exhibit(
        "loss on user text",
        "every token is trained, the customer's words included",
        "labels of -100 for all but the answer (chat.example; in TRL prompt and completion)",
        "share of facts right",
        sick,
        _healthy_facts(steps),
        len(examples),
        True,
        f"only {share:.0%} of the trained tokens belonged to an answer; same rows, same number of"
        " steps",
    )


def _endings(examples: Sequence[Example], steps: int) -> tuple[float, float]:
    """Train the base model, which has never answered anybody, and measure where its answers end.

    Returns the share of its answers that stop, and their mean length in tokens.
    """
    model, tokenizer = fresh(BASE)
    train(model, examples, steps=steps)
    written = answers(model, tokenizer, [row["messages"] for row in knowledge()])
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return sum(answer[-1] == end for answer in written) / len(written), sum(
        map(len, written)
    ) / len(written)


def collated(pad_token: str) -> list[Example]:
    """Label the rows as transformers' `DataCollatorForLanguageModeling` does.

    It trains every token except those equal to the pad token.
    """
    from transformers import DataCollatorForLanguageModeling

    tokenizer = copy.deepcopy(_loaded(BASE)[1])
    tokenizer.pad_token = pad_token
    batch = DataCollatorForLanguageModeling(tokenizer, mlm=False)(
        [row["input_ids"] for row in company_examples()]
    )
    return [
        {"input_ids": ids, "labels": labels}
        for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist())
    ]


def pad_is_eos(steps: int = 10) -> Exhibit:
    """Set `tokenizer.pad_token = tokenizer.eos_token`, and the collator masks every `<|im_end|>`.

    It recognises padding by the token id.
    """
    sick, healthy = collated("<|im_end|>"), collated("<|endoftext|>")
    end = _loaded(BASE)[1].convert_tokens_to_ids("<|im_end|>")
    ends = [
        sum(label == end for row in rows for label in row["labels"]) for rows in (sick, healthy)
    ]
    return Exhibit(
        "pad = eos",
        "the pad token is set to <|im_end|>, and a collator masks by its id",
        "keep Qwen3's own pad token, <|endoftext|>",
        "share of answers that stop",
        _endings(sick, steps)[0],
        _endings(healthy, steps)[0],
        len(sick),
        True,
        f"labels that are <|im_end|>: {ends[0]} with the mistake, {ends[1]} without",
    )


def no_end(steps: int = 8) -> Exhibit:
    """Mask one token too many: the answer is trained, but its `<|im_end|>` is not."""
    examples = company_examples()
    sick = [row | {"labels": [*row["labels"][:-1], chat.IGNORED]} for row in examples]
    (stopped, long), (stops, short) = _endings(sick, steps), _endings(examples, steps)
    return Exhibit(
        "no end label",
        "the label of <|im_end|> behind the answer is missing",
        "train the answer and its <|im_end|>",
        "tokens per answer",
        long,
        short,
        len(examples),
        False,
        f"answers that stop within {LIMIT} tokens: {stopped:.2f} with the mistake, {stops:.2f}"
        " without",
    )


def empty_thoughts(steps: int = 6) -> Exhibit:
    """Train the empty think block of rows without thoughts, as TRL's `assistant_only_loss` does.

    The model learns not to think.
    """
    tokenizer = _loaded(CHAT)[1]
    examples, block = company_examples(), len(tokenizer(chat.NO_THOUGHTS).input_ids)
    sick = []
    for row in examples:
        start = (
            next(place for place, label in enumerate(row["labels"]) if label != chat.IGNORED)
            - block
        )
        sick.append(row | {"labels": [chat.IGNORED] * start + row["input_ids"][start:]})
    sums = [
        row
        for split in ("test", "validation")
        for row in tasks.load("addition", split)
        if row["digits"] == 2
    ]
    right, long = [], []
    for rows in (sick, examples):
        model, _ = fresh()
        train(model, rows, steps=steps)
        written = answers(
            model, tokenizer, [row["messages"] for row in sums], limit=80, thinking=True
        )
        said = [
            tokenizer.decode(answer).removesuffix("<|im_end|>").split("\n")[-1]
            for answer in written
        ]  # the last line, even if the block was not closed
        right.append(sum(text == row["answer"] for text, row in zip(said, sums)) / len(sums))
        long.append(sum(map(len, written)) / len(written))
    return Exhibit(
        "empty think block",
        "answers without thoughts are trained together with their empty think block",
        "put the block into the prompt (chat.example; in TRL enable_thinking=False)",
        "share of sums right",
        *right,
        len(sums),
        True,
        f"sums of two digits with thinking on; tokens per answer: {long[0]:.0f} with the mistake,"
        f" {long[1]:.0f} without",
    )


def unknown_roles(steps: int = 0) -> Exhibit:
    """Rename ShareGPT's keys but not its roles `human` and `gpt`: the template writes nothing.

    It gives no warning either. No step is trained.
    """
    from trl import maybe_convert_to_chatml

    from qwen3lab.data.formats import to_messages

    tokenizer, names = _loaded(CHAT)[1], {"user": "human", "assistant": "gpt"}
    raw = [
        {
            "conversations": [
                {"from": names[message["role"]], "value": message["content"]}
                for message in messages
            ]
        }
        for messages in company_conversations()
    ]
    mapped = [chat.example(tokenizer, to_messages(row)) for row in raw]
    renamed = [maybe_convert_to_chatml(copy.deepcopy(row))["messages"] for row in raw]
    written = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in renamed]
    return Exhibit(
        "human and gpt",
        "the roles keep the names human and gpt",
        "map the roles (formats.to_messages), and refuse unknown ones",
        "trained tokens left",
        sum(len(tokenizer(text).input_ids) for text in written),
        sum(label != chat.IGNORED for row in mapped for label in row["labels"]),
        len(raw),
        False,
        f"{sum(not text for text in written)} of {len(raw)} conversations became an empty text,"
        " without a warning",
    )


def double_template(steps: int = 10) -> Exhibit:
    """Apply the chat template twice, to questions and answers already in the chat format."""
    tokenizer, sick = _loaded(CHAT)[1], []
    for messages in company_conversations():
        twice = [
            message
            | {"content": f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n"}
            for message in messages
        ]
        prompt = tokenizer.apply_chat_template(
            twice[:-1], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        prompt, answer = (
            tokenizer(prompt).input_ids,
            tokenizer(twice[-1]["content"] + "<|im_end|>").input_ids,
        )
        sick.append({"input_ids": prompt + answer, "labels": [chat.IGNORED] * len(prompt) + answer})
    share, written = _facts_right(sick, steps)
    marked = sum("<|im_start|>" in text for text in written)
    return Exhibit(
        "double template",
        "texts that are in the chat format already go through the template again",
        "keep messages as messages; write them once, when they are encoded",
        "share of facts right",
        share,
        _healthy_facts(steps),
        len(sick),
        True,
        f"{marked} of {len(sick)} answers hold a tag that is the template's to write, <|im_start|>",
    )


EXHIBITS: dict[str, Callable[..., Exhibit]] = {
    "loss on user text": user_text,
    "pad = eos": pad_is_eos,
    "no end label": no_end,
    "empty think block": empty_thoughts,
    "human and gpt": unknown_roles,
    "double template": double_template,
}


def run(name: str, **changes: int) -> Exhibit:
    """Run one exhibit: train with the mistake and without it, and measure both.

    `changes`: `steps`, for a shorter run. Raises Qwen3labError for a name that is not in EXHIBITS.
    """
    if name not in EXHIBITS:
        raise Qwen3labError(
            f"The clinic has no exhibit {name!r}. Choose one of: {', '.join(EXHIBITS)}."
        )
    return EXHIBITS[name](**changes)


def table(exhibits: Iterable[Exhibit] | None = None) -> pd.DataFrame:
    """Tabulate all exhibits, or the given ones, one row per exhibit, with 95 % intervals of shares.

    The columns are the fields of `Exhibit` and the Wilson intervals "sick low", "sick high",
    "healthy low" and "healthy high"; for a count they repeat the count.
    """
    import pandas as pd

    lines = {}
    for exhibit in map(run, EXHIBITS) if exhibits is None else exhibits:
        line = {
            field: getattr(exhibit, field)
            for field in ("mistake", "remedy", "symptom", "sick", "healthy", "n", "share", "note")
        }
        for side in ("sick", "healthy"):
            value = line[side]
            line[f"{side} low"], line[f"{side} high"] = (
                wilson(round(value * exhibit.n), exhibit.n) if exhibit.share else (value, value)
            )
        lines[exhibit.name] = line
    return pd.DataFrame.from_dict(lines, orient="index")
