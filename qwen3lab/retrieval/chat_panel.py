"""Chat with a knowledge base in a notebook: streamed answers with page citations."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qwen3lab import chat, measure
from qwen3lab.errors import Qwen3labError
from qwen3lab.models.generation import end_tokens
from qwen3lab.prompts import REFUSAL
from qwen3lab.retrieval.answering import Answer, language_of, made, passage, prompt
from qwen3lab.retrieval.chunking import Chunk
from qwen3lab.retrieval.index import Hit

if TYPE_CHECKING:
    from ipywidgets import Widget
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Writer = Callable[
        [list[int]], Iterator[str]
    ]  # token ids of a prompt to the pieces of the answer


NOT_FOUND = {"en": "The documents do not say.", "zh": "文档中没有提到。"}
LONGEST = 24  # tokens of an answer


def locally(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int = LONGEST
) -> Writer:
    """Create a writer that decodes greedily in this process and streams the text.

    The pieces together are the text of a greedy `model.generate`.
    """
    import torch

    ends = end_tokens(tokenizer, model)

    def write(ids: list[int]) -> Iterator[str]:
        feed, cache, said, shown = torch.tensor([ids], device=model.device), None, [], ""
        for _ in range(max_new_tokens):
            with torch.inference_mode():
                out = model(input_ids=feed, past_key_values=cache, use_cache=True, logits_to_keep=1)
            token = int(out.logits[0, -1].argmax())
            if token in ends:
                break
            said.append(token)
            text = tokenizer.decode(said, skip_special_tokens=True)
            if not text.endswith("\ufffd"):  # an incomplete UTF-8 character
                yield text[len(shown) :]
                shown = text
            feed, cache = torch.tensor([[token]], device=model.device), out.past_key_values

    return write


def over_http(address: str, max_new_tokens: int = LONGEST, model: str = "qwen3") -> Writer:
    """Create a writer that streams from an OpenAI-compatible server (llama.cpp, vLLM).

    The prompt goes to /v1/completions as token ids, through the `openai` package; the address is
    for example `serving.LlamaServer.address`. The chat endpoint would tokenize the text itself and
    would turn control tokens that are spelled out in a document or a question into real ones.
    Raises Qwen3labError, when the first piece is fetched, if no server answers or if it refuses.
    """
    import openai

    from qwen3lab.serving import engines

    client = engines.client(address, timeout=60)

    def write(ids: list[int]) -> Iterator[str]:
        try:
            for event in client.completions.create(
                model=model,
                prompt=[int(token) for token in ids],
                max_tokens=max_new_tokens,
                temperature=0.0,
                stream=True,
            ):
                if event.choices and event.choices[0].text:
                    yield event.choices[0].text
        except openai.APIStatusError as error:
            raise Qwen3labError(
                f"The server refused the request (status {error.status_code}). Check the model's"
                " name and the length of the prompt."
            ) from error
        except openai.APIConnectionError as error:
            raise Qwen3labError(
                f"No server answers at {address}. Start it, or keep its `with` block open while you"
                " ask."
            ) from error

    return write


@dataclass
class Turn:
    """A chat turn: question, search hits and answer (None while streaming: `so_far`)."""

    question: str
    hits: Sequence[Hit]
    answer: Answer | None = None
    so_far: str = ""
    meant: str = ""  # the standalone question that was searched for and asked
    read: Sequence[Any] = field(default_factory=list)  # the chunks that fitted into the prompt

    @property
    def text(self) -> str:
        """Return the text to show; a refusal speaks of the documents, not of a "text"."""
        if self.answer is None:
            return self.so_far
        return NOT_FOUND[language_of(self.question)] if self.answer.refused else self.answer.text


class ChatPanel:
    """A question-answering widget over a knowledge base, with the conversation as its cell output.

    In a live notebook it has a box for the next question. Without `rewrite` each question is
    answered on its own: the search does not see the earlier ones.
    """

    def __init__(
        self,
        search: Any,
        write: Writer,
        tokenizer: PreTrainedTokenizerBase,
        *,
        k: int = 1,
        threshold: float | None = None,
        rewrite: Callable[[str, str, str], str] | None = None,
        max_length: int | None = None,
        title: str = "Ask the handbook",
        interactive: bool | None = None,
    ):
        """Set up an empty conversation.

        Args:
            search: an object with `search(questions, k)`, such as `Index`.
            write: `locally(model, tokenizer)` or `over_http(address)`.
            k: chunks to read.
            threshold: decline if the best hit scores below this.
            rewrite: makes a follow-up question standalone, from the question, the one before and
                the paragraph that was cited for it; for example `follow_ups.standalone`.
            max_length: tokens of prompt and answer; default: the profile's.
            interactive: whether to show a box and a button; default: `measure.is_live()`.
        """
        from qwen3lab import profiles

        self.search, self.write, self.tokenizer, self.k, self.threshold, self.title = (
            search,
            write,
            tokenizer,
            k,
            threshold,
            title,
        )
        self.rewrite = rewrite
        self.room = (max_length or profiles.get().max_length) - LONGEST
        self.turns: list[Turn] = []
        self.interactive = measure.is_live() if interactive is None else interactive

    def stream(self, question: str) -> Iterator[str]:
        """Stream the answer to a question; the turn, with its source, is appended to `turns`.

        Raises Qwen3labError for an empty question, and whatever the writer raises; the conversation
        is then as it was before.
        """
        question = question.strip()
        if not question:
            raise Qwen3labError("There is no question yet. Write one into the box.")
        meant = question
        if self.rewrite and self.turns:
            last = self.turns[-1]
            meant = self.rewrite(question, last.meant, passage(last.answer, last.hits))
        turn = Turn(question, self.search.search([meant], k=self.k)[0], meant=meant)
        self.turns.append(turn)
        try:
            if not turn.hits or (
                self.threshold is not None and turn.hits[0].score < self.threshold
            ):
                turn.answer = Answer(REFUSAL[language_of(question)], True, None, None)
                yield turn.text
                return
            messages, turn.read = prompt(self.tokenizer, meant, turn.hits, self.room)
            for piece in self.write(chat.encode(self.tokenizer, messages)):
                turn.so_far += piece
                yield piece
            turn.answer = made(meant, turn.so_far, turn.read)
        finally:
            if turn.answer is None:
                self.turns.remove(turn)

    def ask(self, question: str) -> Answer:
        """Answer a question; raises as `stream`."""
        for _ in self.stream(question):
            pass
        return self.turns[-1].answer

    def html(self) -> str:
        """Render the conversation: each question, its answer, source and what else was read."""
        return (
            "<div"
            f' style="max-width:52em">'
            f"{''.join(_turn(turn, self.threshold) for turn in self.turns)}</div>"
        )

    def widget(self) -> Widget:
        """Build the widget: the conversation, an input box, two buttons and a line for messages."""
        import ipywidgets

        talk, message = ipywidgets.HTML(self.html()), ipywidgets.HTML()
        box = ipywidgets.Text(
            placeholder="a question in English or Chinese",
            continuous_update=False,
            layout={"width": "36em"},
        )
        button, clear = (
            ipywidgets.Button(description="ask", button_style="primary"),
            ipywidgets.Button(description="clear"),
        )

        def ask(_change: Any = None) -> None:
            question = box.value.strip()
            if not question or box.disabled:
                return
            box.disabled = button.disabled = True
            message.value = ""
            try:
                for _ in self.stream(question):
                    talk.value = self.html()
            except Qwen3labError as error:
                message.value = f'<span style="color:#c04000">{html.escape(str(error))}</span>'
            finally:
                box.disabled = button.disabled = False
                box.value = ""
                talk.value = self.html()

        def forget(_button: Any) -> None:
            self.turns.clear()
            talk.value, message.value = self.html(), ""

        box.observe(
            ask, "value"
        )  # on Enter, and when the box loses the focus, as on a click on the button
        button.on_click(ask)
        clear.on_click(forget)
        return ipywidgets.VBox(
            [
                ipywidgets.HTML(f"<b>{html.escape(self.title)}</b>"),
                talk,
                ipywidgets.HBox([box, button, clear]),
                message,
            ]
        )

    def __repr__(self) -> str:
        lines = [self.title]
        for turn in self.turns:
            place = f" ({turn.answer.where})" if turn.answer and turn.answer.where else ""
            meant = f"  [{turn.meant}]" if turn.meant != turn.question else ""
            lines += [f"> {turn.question}{meant}", f"  {turn.text}{place}"]
        return "\n".join(lines)

    def _repr_mimebundle_(self, **_options: Any) -> dict[str, Any]:
        # A front end shows the richest format that it supports: HTML if it has no widgets.
        live = self.widget()._repr_mimebundle_() if self.interactive else {}
        form = (
            f'<b>{html.escape(self.title)}</b>{self.html()}<p><input disabled size="48"'
            ' placeholder="a question in English or Chinese"> <button disabled>ask</button>'
            " (answers where a notebook is open)</p>"
        )
        return live | {"text/plain": repr(self), "text/html": form}


def _turn(turn: Turn, threshold: float | None) -> str:
    """Render one question and its answer as HTML; all text from outside is escaped."""
    said = html.escape(turn.text) or "…"
    meant = f" <i>{html.escape(turn.meant)}</i>" if turn.meant != turn.question else ""
    lines = [
        '<div style="border-left:3px solid #c04000;padding-left:0.6em;margin-top:0.8em">'
        f"<b>{html.escape(turn.question)}</b>{meant}</div>"
    ]
    where = ""
    if turn.answer and turn.answer.chunk:
        where = (
            f' <span style="opacity:0.75">'
            f"{html.escape(_place(turn.answer.chunk, turn.answer.page))}</span>"
        )
    lines.append(
        '<div style="border-left:3px solid'
        f' #1f4e79;padding-left:0.6em;margin-top:0.2em">{said}{where}'
    )
    if turn.answer and turn.answer.quote:
        lines.append(
            '<blockquote style="margin:0.2em 0 0'
            f' 1em;opacity:0.85">{_marked(turn.answer.quote, turn.answer.text)}</blockquote>'
        )
    if turn.answer and turn.hits:
        lines.append(_sources(turn, threshold))
    return "".join([*lines, "</div>"])


def _place(chunk: Chunk, page: int | None) -> str:
    """Name file, page and headings, as far as there are any."""
    return ", ".join(filter(None, (chunk.file, f"page {page}" if page else "", chunk.chapter)))


def _sources(turn: Turn, threshold: float | None) -> str:
    """Render the hits as a collapsed list: page, chapter, score, whether read, and text."""
    rows = []
    for hit in turn.hits:
        read = (
            "read"
            if hit.chunk in turn.read
            else (
                "below the threshold"
                if threshold is not None and hit.score < threshold
                else "not read"
            )
        )
        rows.append(
            f"<li>{html.escape(_place(hit.chunk, hit.chunk.page))} · score {hit.score:.3f} · {read}"
            "<div"
            f' style="white-space:pre-wrap;opacity:0.75">{html.escape(hit.chunk.text)}</div></li>'
        )
    count = f"{len(rows)} source{'s' if len(rows) > 1 else ''}"
    return (
        f'<details><summary>{count} found</summary><ol style="margin:0.2em'
        f' 0">{"".join(rows)}</ol></details>'
    )


def _marked(quote: str, text: str) -> str:
    """Highlight the answer's words in the quoted paragraph."""
    wanted = text.strip().rstrip(".。")
    at = quote.lower().find(wanted.lower())
    if at < 0:
        return html.escape(quote)
    end = at + len(wanted)
    before, marked, after = map(html.escape, (quote[:at], quote[at:end], quote[end:]))
    return f"{before}<mark>{marked}</mark>{after}"
