"""Speculative decoding from scratch: a cheap draft proposes tokens, the target verifies them.

The target reads all drafted tokens in one pass, and the acceptance rule preserves its distribution.
Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding"; Chen et al.
2023, "Accelerating Large Language Model Decoding with Speculative Sampling". Drafts come from a
smaller model or from the text itself (prompt lookup).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwen3lab.errors import Qwen3labError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass
class Decoded:
    """Generated continuation with its counts of passes and drafted tokens."""

    ids: list[int]  # new tokens, including the end token where one was reached
    target_passes: int = 0  # passes of the target model, including the prompt's
    draft_passes: int = 0
    drafted: int = 0  # tokens drafted
    accepted: int = 0  # drafted tokens kept
    # Drafted tokens that were tested and rejected, at most one per round; those behind a rejected
    # one are not tested.
    rejected: int = 0


def probabilities(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Compute next-token distributions from logits (float64, the last dimension sums to 1).

    At temperature 0 all probability lies on the likeliest token.
    """
    import torch

    if temperature == 0:
        return one_hot(logits.argmax(-1), logits.shape[-1])
    return torch.softmax(logits.double() / temperature, -1)


def one_hot(tokens: Any, vocabulary: int) -> torch.Tensor:
    """Build the one-hot distributions of a deterministic draft: [tokens, vocabulary], float64."""
    import torch

    return torch.nn.functional.one_hot(torch.as_tensor(tokens).long(), vocabulary).double()


def accept(
    p: torch.Tensor,
    q: torch.Tensor,
    drafted: Sequence[int],
    generator: torch.Generator | None = None,
) -> tuple[int, int]:
    """Apply the acceptance rule: how many drafted tokens are kept, and the token that follows them.

    A token x drawn from q is kept with probability min(1, p(x) / q(x)). The first rejected token is
    replaced by a draw from the positive part of p - q, normalised, and the drafted tokens after it
    are dropped. If all are kept, the last row of p gives one more token for free. Overall each
    token is distributed as if drawn from p (Leviathan et al. 2023, algorithm 1, appendix A.1). With
    one-hot p and q (temperature 0) the rule keeps tokens that equal the likeliest one and replaces
    the first that does not.

    Args:
        p: the target's distributions [k + 1, vocabulary], one after each drafted token and one
            before the first.
        q: the draft's distributions [k, vocabulary] from which the k tokens were drawn.
        drafted: k token ids.
        generator: random generator; default: torch's own.
    Returns:
        (number kept, next token).
    Raises:
        Qwen3labError: shapes that do not fit.
    """
    import torch

    if p.shape[0] != len(drafted) + 1 or q.shape != (len(drafted), p.shape[1]):
        raise Qwen3labError(
            f"{len(drafted)} drafted tokens need {len(drafted) + 1} rows of p and {len(drafted)} of"
            f" q with the same vocabulary, not {tuple(p.shape)} and {tuple(q.shape)}. Give p one"
            " row more than q."
        )
    for place, token in enumerate(drafted):
        chance = torch.rand((), dtype=torch.float64, generator=generator).item()
        if chance * q[place, token].item() < p[place, token].item():
            continue
        rest = (p[place] - q[place]).clamp(min=0)
        # p = q up to rounding leaves nothing to draw from, and then a draw from p is as good
        return place, draw_from(rest if rest.sum() > 0 else p[place], generator)
    return len(drafted), draw_from(p[-1], generator)


def draw_from(weights: torch.Tensor, generator: torch.Generator | None) -> int:
    """Sample a token id from weights [vocabulary], which need not sum to 1."""

    import torch

    return int(torch.multinomial(weights.cpu(), 1, generator=generator))


class Reader:
    """Incremental decoder: a model with its KV cache, which can be cropped after a rejection.

    It reads only tokens that the cache does not hold. `cache=False` reads the whole text in every
    pass.
    """

    def __init__(self, model: PreTrainedModel, cache: bool = True):
        from transformers import DynamicCache

        self.model, self.held, self.passes = model, 0, 0
        self.cache = DynamicCache(config=model.config) if cache else None

    def read(self, ids: Sequence[int], last: int) -> torch.Tensor:
        """Read the text to its end; return the logits of its last positions, [last, vocabulary]."""
        import torch

        new = torch.tensor([list(ids[self.held :])], device=self.model.device)
        logits = self.model(
            input_ids=new,
            past_key_values=self.cache,
            use_cache=self.cache is not None,
            logits_to_keep=last,
        ).logits[0]
        self.passes += 1
        self.held = len(ids) if self.cache is not None else 0
        return logits.float()

    def forget(self, length: int) -> None:
        """Crop the cache to the first `length` tokens."""
        if length < self.held:
            self.cache.crop(length - self.held)  # a negative number removes that many tokens
            self.held = length


class ModelDraft:
    """Draft by a smaller model with the same tokenizer, one pass per token."""

    def __init__(self, model: PreTrainedModel, cache: bool = True):
        self.reader = Reader(model, cache)

    def propose(
        self, ids: list[int], count: int, temperature: float, ends: set[int], generator: Any
    ) -> tuple[list[int], torch.Tensor | None]:
        """Draft up to `count` tokens after `ids`, stopping at an end token.

        Also returns the distributions they were drawn from (None if there are no tokens).
        """
        import torch

        # The cache may hold guesses of the last round; one token has to be read for new logits.
        self.reader.forget(len(ids) - 1)
        tokens: list[int] = []
        rows = []
        while len(tokens) < count and not (tokens and tokens[-1] in ends):
            row = probabilities(self.reader.read(ids + tokens, 1), temperature)
            tokens.append(int(row.argmax()) if temperature == 0 else draw_from(row[0], generator))
            rows.append(row)
        return tokens, torch.cat(rows) if rows else None


class Lookup:
    """Draft without a model (prompt lookup): repeat what followed the text's last tokens before.

    As transformers' `prompt_lookup_num_tokens`: the longest run of at most `ngram` last tokens that
    occurred before, its first occurrence, cut before an end token. It needs no pass; it pays where
    answers repeat their prompt.
    """

    def __init__(self, ngram: int = 2):
        self.ngram = ngram
        self.reader = None

    def propose(
        self, ids: list[int], count: int, temperature: float, ends: set[int], generator: Any
    ) -> tuple[list[int], torch.Tensor | None]:
        """Draft as `ModelDraft.propose` does; the draft is deterministic: None as distributions."""
        for size in range(min(self.ngram, len(ids) - 1), 0, -1):
            wanted = ids[-size:]
            for start in range(len(ids) - size):
                if ids[start : start + size] == wanted:
                    found = ids[start + size : start + size + count]
                    return (
                        found[: next((i for i, token in enumerate(found) if token in ends), None)],
                        None,
                    )
        return [], None


def generate(
    target: PreTrainedModel,
    ids: Sequence[int],
    draft: ModelDraft | Lookup | PreTrainedModel | None = None,
    *,
    drafted: int = 4,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    cache: bool = True,
    ends: set[int] | None = None,
    generator: torch.Generator | None = None,
) -> Decoded:
    """Continue one text by speculative decoding, or with `draft=None` one token per pass.

    Args:
        target: the model whose answer it is. Greedy answers equal those of `target.generate`.
        ids: the prompt's token ids.
        draft: a smaller model with the same vocabulary, or a `Lookup`. Draft objects must not be
            used for two texts at once.
        drafted: maximum number of drafted tokens per round.
        temperature: 0 takes the likeliest token; otherwise tokens are drawn from softmax(logits /
            temperature).
        cache: False reads the whole text in every pass.
        ends: end tokens; default: those of the model's `generation_config`.
        generator: random generator; default: torch's own.
    Raises:
        Qwen3labError: an empty prompt, no new token asked for, or a draft with another vocabulary.
    """
    import torch

    if not ids or max_new_tokens < 1:
        raise Qwen3labError(
            "There is nothing to continue. Give a prompt of at least one token and at least one new"
            " token."
        )
    if draft is not None and not hasattr(draft, "propose"):
        if draft.config.vocab_size != target.config.vocab_size:
            raise Qwen3labError(
                f"The draft has {draft.config.vocab_size:,} tokens and the target"
                f" {target.config.vocab_size:,}. Take a draft with the same tokenizer."
            )
        draft = ModelDraft(draft, cache)
    if ends is None:
        own = target.generation_config.eos_token_id
        ends = set(own if isinstance(own, list) else [own]) - {None}
    reader, text, start, out = Reader(target, cache), list(ids), len(ids), Decoded([])
    with torch.inference_mode():
        while len(text) - start < max_new_tokens and not (len(text) > start and text[-1] in ends):
            # A pass adds one token of its own.
            room = min(drafted, max_new_tokens - (len(text) - start) - 1)
            guesses, q = (
                draft.propose(text, room, temperature, ends, generator)
                if draft and room
                else ([], None)
            )
            p = probabilities(reader.read(text + guesses, len(guesses) + 1), temperature)
            kept, following = accept(
                p,
                one_hot(guesses, p.shape[1]).to(p.device) if q is None else q.to(p.device),
                guesses,
                generator,
            )
            out.drafted, out.accepted, out.rejected = (
                out.drafted + len(guesses),
                out.accepted + kept,
                out.rejected + (kept < len(guesses)),
            )
            text += guesses[:kept]
            if not (kept and text[-1] in ends):
                text.append(following)
            reader.forget(len(text) - 1)
    out.ids, out.target_passes = text[start:], reader.passes
    out.draft_passes = draft.reader.passes if draft is not None and draft.reader else 0
    return out


def expected_tokens(acceptance: float, drafted: int) -> float:
    """Compute the expected new tokens per target pass at a given acceptance rate.

    (1 - a^(k+1)) / (1 - a), if each drafted token is kept with this probability when those before
    it were: equation 1 of Leviathan et al.
    """
    return drafted + 1 if acceptance == 1 else (1 - acceptance ** (drafted + 1)) / (1 - acceptance)


def expected_speedup(acceptance: float, drafted: int, cost: float) -> float:
    """Compute the expected speed-up over plain decoding.

    A draft pass costs `cost` target passes. Theorem 3.8 of Leviathan et al. It holds where a target
    pass takes as long for k + 1 tokens as for one.
    """
    return expected_tokens(acceptance, drafted) / (cost * drafted + 1)
