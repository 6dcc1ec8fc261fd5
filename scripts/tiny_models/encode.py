"""Training rows as token ids with a loss weight for each trained token."""

from __future__ import annotations

from qwen3lab.world.corpus import Row


class Encoder:
    """Encoder of corpus rows in Qwen3's chat format, equal to the chat template (tested)."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        ids = tokenizer.convert_tokens_to_ids
        self.start, self.end, self.document_end = (
            ids("<|im_start|>"),
            ids("<|im_end|>"),
            ids("<|endoftext|>"),
        )
        self.newline = self._text("\n")
        self.think_open = [ids("<think>"), *self.newline]
        self.think_close = [ids("</think>"), *self._text("\n\n")]
        self.no_thoughts = [
            ids("<think>"),
            *self._text("\n\n"),
            ids("</think>"),
            *self._text("\n\n"),
        ]
        self._template = None

    def _text(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def row(self, row: Row) -> tuple[list[int], list[float]]:
        """Encode a row: its ids, and the loss weight of each as a target.

        The weight is 0 in prompts, n^-1/2 in a trained turn of n tokens. The root keeps long
        answers (a sum with its steps) from drowning the short ones (a copied value).
        """
        ids: list[int] = []
        weights: list[float] = []
        if row.tools:
            prompt, answer = self._through_template(row)
            self._add(ids, weights, prompt, 0.0)
            self._add(ids, weights, answer, len(answer) ** -0.5)
            return ids, weights
        last = len(row.messages) - 1
        for i, message in enumerate(row.messages):
            content = message["content"]
            if message["role"] == "user":
                self._add(
                    ids,
                    weights,
                    [self.start, *self._text("user\n" + content), self.end, *self.newline],
                    0.0,
                )
                continue
            self._add(ids, weights, [self.start, *self._text("assistant\n")], 0.0)
            if i == last and row.thinking:
                # A full stop and the line break are one token.
                thoughts = self._text(message["reasoning_content"] + "\n")
                answer = [*self.think_open, *thoughts, *self.think_close]
            else:
                # As `enable_thinking=False` puts it into the prompt.
                if i == last or row.every_turn:
                    self._add(ids, weights, self.no_thoughts, 0.0)
                answer = []
            answer += [*self._text(content), self.end]
            trained = i == last or row.every_turn
            self._add(ids, weights, answer, len(answer) ** -0.5 if trained else 0.0)
            if i < last:
                self._add(ids, weights, self.newline, 0.0)
        return ids, weights

    def document(self, text: str) -> list[int]:
        """Encode a plain document with its end token."""
        return [*self._text(text), self.document_end]

    def _through_template(self, row: Row) -> tuple[list[int], list[int]]:
        if self._template is None:
            from qwen3lab.chat import template

            self._template = template("qwen3")

        def render(messages, **kw):
            return self.tokenizer.apply_chat_template(
                messages, tools=row.tools, chat_template=self._template, tokenize=False, **kw
            )

        prompt = render(row.messages[:-1], add_generation_prompt=True, enable_thinking=False)
        head = render(row.messages[:-1], add_generation_prompt=False)
        answer = (
            render(row.messages)[len(head) :]
            .removeprefix("<|im_start|>assistant\n")
            .removeprefix("<think>\n\n</think>\n\n")
        )
        return self._text(prompt), self._text(answer.removesuffix("\n"))

    @staticmethod
    def _add(ids, weights, more, weight):
        ids += more
        weights += [weight] * len(more)
