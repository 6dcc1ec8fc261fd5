"""Rerank search hits with a causal language model, as Qwen3-Reranker does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qwen3lab import chat
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import batching, generation, loading
from qwen3lab.prompts import REFUSAL, context_prompt
from qwen3lab.retrieval.answering import language_of
from qwen3lab.retrieval.index import Hit

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Qwen3-Reranker was trained with this wording (github.com/QwenLM/Qwen3-Embedding, README); other
# wordings change the scores.
SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct"
    ' provided. Note that the answer can only be "yes" or "no".'
)
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


class Reranker:
    """A pointwise reranker: scores (question, passage) pairs in [0, 1] with a chat model.

    The model reads the pair after the system message, with an empty think block at the end. The
    score is the softmax over the two logits of "yes" and "no" at the last position, taken at "yes".
    If the vocabulary has no single token for a word, the word's first token is used.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        instruction: str = INSTRUCTION,
    ):
        self.model, self.tokenizer, self.instruction = model, tokenizer, instruction
        self.yes, self.no = (
            tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("yes", "no")
        )
        if self.yes == self.no:
            raise Qwen3labError(
                '"yes" and "no" begin with the same token here, so their logits cannot be told'
                " apart. Use a model with another tokenizer."
            )

    @classmethod
    def load(cls, model_id: str | Path, instruction: str = INSTRUCTION) -> Reranker:
        """Load any causal model by name or folder, for example "Qwen/Qwen3-Reranker-0.6B".

        Raises as `models.load`.
        """
        return cls(*loading.load(model_id), instruction)

    def ids(self, question: str, passage: str) -> list[int]:
        """Encode a (question, passage) pair as the model reads it.

        Control tokens come from the chat template alone, whatever the question and the passage
        contain.
        """
        body = f"<Instruct>: {self.instruction}\n<Query>: {question}\n<Document>: {passage}"
        return chat.encode(
            self.tokenizer,
            [{"role": "system", "content": SYSTEM}, {"role": "user", "content": body}],
        )

    def logits(self, pairs: Sequence[tuple[str, str]], batch_size: int = 32) -> torch.Tensor:
        """Compute the logits `[N, vocabulary]` at the last position of each (question, passage)."""
        import torch

        rows = [self.ids(*pair) for pair in pairs]
        out: list[torch.Tensor] = [torch.empty(0)] * len(rows)
        with batching.reading(self.model, most_threads=2 if len(rows) >= 8 else 1):
            for batch, ids, mask in batching.batches(
                rows,
                batch_size,
                order="longest first",
                fill=generation.pad_token(self.tokenizer),
                side="left",
                device=self.model.device,
            ):
                last = self.model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=batching.positions(mask),
                    logits_to_keep=1,
                ).logits[:, -1]
                for place, line in zip(batch, last.float().cpu()):
                    out[place] = line
        return torch.stack(out)

    def score(self, pairs: Sequence[tuple[str, str]], batch_size: int = 32) -> list[float]:
        """Compute the probability of "yes" against "no" for each (question, passage)."""
        return (
            self.logits(pairs, batch_size)[:, [self.yes, self.no]].softmax(-1)[:, 0].tolist()
            if pairs
            else []
        )

    def rerank(
        self, questions: Sequence[str], found: Sequence[Sequence[Hit]], k: int = 3
    ) -> list[list[Hit]]:
        """Sort the hits of each question by this model's score and return the best `k`.

        Ties keep the search's order.
        """
        scores = iter(
            self.score(
                [
                    (question, hit.chunk.text)
                    for question, hits in zip(questions, found, strict=True)
                    for hit in hits
                ]
            )
        )
        fresh = [[Hit(hit.chunk, next(scores)) for hit in hits] for hits in found]
        return [sorted(hits, key=lambda hit: -hit.score)[:k] for hits in fresh]

    def row(self, question: str, passage: str, fits: bool) -> dict[str, list[int]]:
        """Build a training row for `training.fine_tune` with a loss on "yes" or "no" alone."""
        ids, word = self.ids(question, passage), self.yes if fits else self.no
        return {"input_ids": [*ids, word], "labels": [chat.IGNORED] * len(ids) + [word]}


class Reader(Reranker):
    """A zero-shot reranker: 1 minus the probability that the model's reply begins with a refusal.

    For a model trained to answer from a text or to say that the text does not contain the answer,
    such as the tiny chat model. It needs no training of its own and reads the pair in the prompt of
    `prompts.context_prompt`.
    """

    def ids(self, question: str, passage: str) -> list[int]:
        """Encode the passage as the text with the question below it."""
        return chat.encode(
            self.tokenizer,
            [{"role": "user", "content": context_prompt(passage, question, language_of(question))}],
        )

    def score(self, pairs: Sequence[tuple[str, str]], batch_size: int = 32) -> list[float]:
        """Compute, per (question, passage), 1 minus the probability of a refusal's first token."""
        if not pairs:
            return []
        refusals = [
            self.tokenizer(REFUSAL[language_of(question)], add_special_tokens=False).input_ids[0]
            for question, _ in pairs
        ]
        likely = self.logits(pairs, batch_size).softmax(-1)
        return [1 - float(likely[i, token]) for i, token in enumerate(refusals)]
