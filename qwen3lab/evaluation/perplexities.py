"""Compute perplexity: with a sliding window, by part of a row, and as a trainer reports it.

A perplexity depends on how it is counted: which tokens are scored, how much context each of them
has, and how the mean is taken. Values from two ways of counting cannot be compared. The sliding
window is for texts longer than the model's context.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab import chat
from qwen3lab.data.rows import encoded
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import batching

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


PARTS = ("answer", "messages", "template")


def token_losses(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], batch_size: int = 16
) -> list[np.ndarray]:
    """Compute -ln p of every token of each row but its first, given the tokens before it.

    Returns float64 arrays [tokens - 1], in the order of the rows.
    """
    from torch.nn.functional import cross_entropy

    found: dict[int, np.ndarray] = {}
    with batching.reading(model):
        for batch, ids, mask in batching.batches(rows, batch_size, device=model.device):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            for place, given, wanted in zip(batch, logits, ids):
                count = len(rows[place]) - 1  # position t predicts token t + 1
                given, wanted = batching.double(given[:count]), wanted[1 : count + 1]
                losses = cross_entropy(given, wanted.to(given.device), reduction="none")
                found[place] = losses.cpu().numpy()
    return [found[place] for place in range(len(rows))]


def sliding(
    model: PreTrainedModel, ids: Sequence[int], window: int, stride: int, batch_size: int = 16
) -> pd.DataFrame:
    """Score a text of any length with a strided sliding window, each token once.

    Each token has at least `window - stride` tokens before it, as far as the text has them. Windows
    begin `stride` tokens apart, and each scores the tokens that no earlier one has scored. The last
    one is moved back so that it is full. `stride = window - 1` cuts the text into pieces: cheap,
    but a token after a cut sees almost nothing. `stride = 1` gives every token all that the window
    holds, at one pass per token. A window that holds the whole text gives the plain perplexity.
    (The "strided sliding window" of transformers' page on the perplexity of fixed-length models.)

    Args:
        ids: token ids of the text; the first is read, not scored.
        window: tokens that the model reads at once.
        stride: tokens from one window to the next, 1 to `window - 1`.
    Returns:
        One row per scored token: position (from 1), token, nll (-ln p), context (tokens before it
        that the model saw). exp of the mean of nll is the perplexity. `attrs["read"]` counts the
        tokens that went through the model.
    Raises:
        Qwen3labError: a text of one token or none, or a stride outside 1 to `window - 1`.
    """
    import numpy as np
    import pandas as pd

    if len(ids) < 2:
        raise Qwen3labError(
            f"A text of {len(ids)} tokens has nothing to score. Give at least two tokens."
        )
    if not 1 <= stride < window:
        raise Qwen3labError(
            f"Windows of {window} tokens cannot move by {stride}. Give a stride from 1 to"
            f" {window - 1}, so that each token has one before it."
        )
    begins = [0]
    while begins[-1] + window < len(ids):
        begins.append(min(begins[-1] + stride, len(ids) - window))
    losses = token_losses(model, [ids[begin : begin + window] for begin in begins], batch_size)
    scored, nll, context = 1, [], []  # the next token to score
    for begin, found in zip(begins, losses):
        end = min(begin + window, len(ids))
        nll.append(found[scored - begin - 1 :])
        context += range(scored - begin, end - begin)
        scored = end
    table = pd.DataFrame(
        {
            "position": range(1, len(ids)),
            "token": list(ids[1:]),
            "nll": np.concatenate(nll),
            "context": context,
        }
    )
    table.attrs["read"] = sum(len(ids[begin : begin + window]) for begin in begins)
    return table


def strides(
    model: PreTrainedModel,
    ids: Sequence[int],
    window: int,
    steps: Sequence[int],
    batch_size: int = 16,
) -> pd.DataFrame:
    """Tabulate the perplexity of one text by stride.

    Columns stride, "least context" (of the tokens past the first window), "tokens read",
    perplexity.
    """
    import pandas as pd

    lines = []
    for stride in steps:
        table = sliding(model, ids, window, stride, batch_size)
        later = table[table.position >= window]
        lines.append(
            {
                "stride": stride,
                "least context": int(later.context.min()) if len(later) else len(ids) - 1,
                "tokens read": table.attrs["read"],
                "perplexity": math.exp(table.nll.mean()),
            }
        )
    return pd.DataFrame(lines)


def parts(tokenizer: PreTrainedTokenizerBase, example: dict[str, list[int]]) -> list[str]:
    """Label each token of a row as trained answer, other messages' text, or template (`PARTS`).

    Args:
        example: as `chat.example` makes it. The template's tokens are recognised by its own control
            tokens, which no message can contain.
    """
    opens, closes = (
        tokenizer.convert_tokens_to_ids("<|im_start|>"),
        tokenizer.convert_tokens_to_ids("<|im_end|>"),
    )
    ids, labels = example["input_ids"], example["labels"]
    last = len(ids) - ids[::-1].index(
        opens
    )  # after it comes the requested turn: the answer, and the empty think block before it
    kinds, inside, header = [], False, ""
    for place, (number, label) in enumerate(zip(ids, labels)):
        if number in (opens, closes):
            inside, header = False, ""
        kinds.append(
            "answer"
            if label != chat.IGNORED
            else "messages"
            if inside and place < last
            else "template"
        )
        if (
            not inside
            # The role's name, up to its line break, belongs to the template; between turns there is
            # no name.
        ):
            header = "" if number == closes else header + tokenizer.decode([number])
            inside = header.startswith("<|im_start|>") and header.endswith("\n")
    return kinds


def by_part(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[dict[str, Any]],
    batch_size: int = 16,
) -> pd.DataFrame:
    """Compute perplexity separately for answer, other messages, template and all tokens.

    The answer is what the course trains. Rows are of any kind that `fine_tune` takes.

    Returns:
        Index part ("answer", "messages", "template", "all"); columns tokens, loss (mean -ln p in
        nats), perplexity. "all" is the mean of the others weighted by tokens; "answer" equals
        `evaluation.perplexity`.
    Raises:
        Qwen3labError: no rows.
    """
    import numpy as np
    import pandas as pd

    examples = encoded(tokenizer, rows)
    if not examples:
        raise Qwen3labError("There are no rows to score. Give at least one.")
    losses = np.concatenate(
        token_losses(model, [example["input_ids"] for example in examples], batch_size)
    )
    kinds = np.concatenate([parts(tokenizer, example)[1:] for example in examples])
    lines = {kind: losses[kinds == kind] for kind in PARTS if (kinds == kind).any()} | {
        "all": losses
    }
    return (
        pd.DataFrame(
            {
                kind: {
                    "tokens": len(found),
                    "loss": found.mean(),
                    "perplexity": math.exp(found.mean()),
                }
                for kind, found in lines.items()
            }
        )
        .T.astype({"tokens": int})
        .rename_axis("part")
    )


def as_trainers(read: pd.DataFrame, batch_size: int) -> float:
    """Compute the loss that transformers' `Trainer` reports as `eval_loss`.

    It is the mean of the batches' means, each weighted by its number of rows. It equals the mean
    over tokens only if all rows are in one batch or have equally many answer tokens: otherwise
    tokens in short answers get more weight.

    Args:
        read: as `evaluation.read_answers` returns it, in the order of the rows.
        batch_size: rows per evaluation batch (`per_device_eval_batch_size`).
    """
    batches = [read[start : start + batch_size] for start in range(0, len(read), batch_size)]
    return sum(len(batch) * batch.nll.sum() / batch.tokens.sum() for batch in batches) / len(read)
