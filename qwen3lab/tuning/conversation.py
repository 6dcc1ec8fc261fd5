"""Chat with a tuned model: in the terminal, or in a notebook beside its base."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import chat, measure, profiles
from qwen3lab.errors import Qwen3labError
from qwen3lab.locale import translate
from qwen3lab.retrieval.chat_panel import locally
from qwen3lab.tuning.checks import Run

if TYPE_CHECKING:
    from ipywidgets import Widget
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Message = dict[str, Any]

CELL = "text-align:left;vertical-align:top;white-space:pre-wrap;max-width:22em;padding-right:1em"
HELP = """/think [on|off]     ask with or without thoughts
/adapter [on|off]   answer with the adapter, or as the base does
/system [TEXT]      set the system message, or drop it
/reset              forget the conversation
/help, /quit"""


class Conversation:
    """A conversation with a model, and with its adapter switched on or off.

    Attributes: messages, thinking, adapter (whether it is on), max_new_tokens.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        thinking: bool = False,
        max_new_tokens: int = 256,
    ):
        """Begin an empty conversation; `model` may be a `peft.PeftModel` or any other."""
        self.model, self.tokenizer = model, tokenizer
        self.thinking, self.adapter, self.max_new_tokens = thinking, True, max_new_tokens
        self.messages: list[Message] = []

    @property
    def has_adapter(self) -> bool:
        """Whether there is an adapter to switch off."""
        return hasattr(self.model, "disable_adapter")

    def prompt(self) -> list[int]:
        """Encode the conversation; the oldest turns are left out where it is too long.

        Raises Qwen3labError if not even the last question fits.
        """
        room = min(
            getattr(self.model.config, "max_position_embeddings", 0) or 10**9,
            max(profiles.get().max_length, 4096),
        )
        lead = [m for m in self.messages[:1] if m["role"] == "system"]
        turns = self.messages[len(lead) :]
        while turns:
            ids = chat.encode(self.tokenizer, [*lead, *turns], thinking=self.thinking)
            if len(ids) + self.max_new_tokens <= room:
                return ids
            turns = turns[2:]
        raise Qwen3labError("The question does not fit into the model's context. Shorten it.")

    def stream(self, text: str) -> Iterator[str]:
        """Ask, and stream the answer piece by piece; both become part of the conversation.

        An answer that is broken off by closing the iterator is kept as far as it came.

        Raises Qwen3labError for an empty question, or one that does not fit.
        """
        if not text.strip():
            raise Qwen3labError("There is no question yet. Write one.")
        self.messages.append({"role": "user", "content": text})
        said = ""
        try:
            ids = self.prompt()
            off = self.has_adapter and not self.adapter
            with self.model.disable_adapter() if off else nullcontext():
                for piece in locally(self.model, self.tokenizer, self.max_new_tokens)(ids):
                    said += piece
                    yield piece
        finally:
            if said:
                opened = chat.traits(self.tokenizer).opened(self.thinking)
                thoughts, answer = chat.split_thinking(said, opened or None)
                turn = {"role": "assistant", "content": answer.strip()}
                thought = {"reasoning_content": thoughts} if thoughts else {}
                self.messages.append(turn | thought)
            else:
                self.messages.pop()

    def command(self, line: str) -> str | None:
        """Obey a line that begins with "/"; returns what to print, or None to quit."""
        name, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if name == "/quit":
            return None
        if name in ("/think", "/adapter"):
            which = "thinking" if name == "/think" else "adapter"
            if which == "adapter" and not self.has_adapter:
                return "There is no adapter: all weights of this model were trained."
            if rest not in ("", "on", "off"):
                return f"{name} takes on or off, not {rest!r}."
            wanted = not getattr(self, which) if not rest else rest == "on"
            setattr(self, which, wanted)
            return f"{which} {'on' if wanted else 'off'}"
        if name == "/system":
            self.messages = [m for m in self.messages if m["role"] != "system"]
            if rest:
                self.messages.insert(0, {"role": "system", "content": rest})
            return "system message set" if rest else "no system message"
        if name == "/reset":
            self.messages = [m for m in self.messages if m["role"] == "system"]
            return "forgotten"
        return HELP if name == "/help" else f"There is no command {name}.\n{HELP}"


def open_run(path: str | Path, model: str | None = None, **options: Any) -> Conversation:
    """Open a conversation with a run's model.

    Args:
        path: a folder of `qwen3lab tune`, or any with an adapter or a model.
        model: the base; default: the one that the run names.
        options: of `Conversation`.
    """
    run = Run(path, model)
    return Conversation(run.model, run.tokenizer, **options)


def talk(
    conversation: Conversation,
    read: Callable[[str], str] = input,
    write: Callable[[str], Any] = lambda text: print(text, end="", flush=True),
) -> None:
    """Hold a conversation in the terminal until `/quit` or the end of input.

    Ctrl-C stops an answer; at the prompt it ends the conversation.
    """
    begin = translate("Ask, or /help.", "command")
    write(f"{begin}\n")
    while True:
        try:
            line = read("> ")
        except (EOFError, KeyboardInterrupt):
            write("\n")
            return
        if line.startswith("/"):
            told = conversation.command(line)
            if told is None:
                return
            write(f"{translate(told, 'command')}\n")
        elif line.strip():
            answer = conversation.stream(line)
            try:
                for piece in answer:
                    write(piece)
            except KeyboardInterrupt:
                answer.close()
            except Qwen3labError as error:
                write(str(error))
            write("\n")


@dataclass
class Pair:
    """A question with the base's and the tuned model's answer."""

    question: str
    base: str = ""
    tuned: str = ""


class SideBySide:
    """A notebook panel that asks a base and its tuned model the same, and shows both answers.

    Each question is asked on its own. In a live notebook it has a box for the next one.
    """

    def __init__(self, conversation: Conversation, interactive: bool | None = None):
        """Set up an empty panel over an adapter's `Conversation`.

        `interactive`: whether to show a box and a button; default: `measure.is_live()`.
        Raises Qwen3labError for a model without an adapter, which has no base in it.
        """
        if not conversation.has_adapter:
            raise Qwen3labError(
                "Only an adapter can be switched off to ask the base. Open two conversations"
                " instead."
            )
        self.conversation, self.pairs = conversation, []
        self.interactive = measure.is_live() if interactive is None else interactive

    def stream(self, question: str) -> Iterator[Pair]:
        """Ask both; yields the pair each time that one of its answers has grown."""
        talk_ = self.conversation
        pair, kept, was = Pair(question.strip()), talk_.messages, talk_.adapter
        self.pairs.append(pair)
        try:
            for which in ("base", "tuned"):
                talk_.messages = [m for m in kept if m["role"] == "system"]
                talk_.adapter = which == "tuned"
                for piece in talk_.stream(question):
                    setattr(pair, which, getattr(pair, which) + piece)
                    yield pair
        except Qwen3labError:
            self.pairs.remove(pair)
            raise
        finally:
            talk_.messages, talk_.adapter = kept, was

    def ask(self, question: str) -> Pair:
        """Ask both, and return the pair of answers."""
        for _ in self.stream(question):
            pass
        return self.pairs[-1]

    def html(self) -> str:
        """Render the questions and both answers as a table; all text is escaped."""
        rows = "".join(
            "<tr>"
            + "".join(
                f'<td style="{CELL}">{html.escape(text) or "…"}</td>'
                for text in (pair.question, pair.base, pair.tuned)
            )
            + "</tr>"
            for pair in self.pairs
        )
        head = "".join(
            f'<th style="text-align:left">{name}</th>' for name in ("question", "before", "tuned")
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def widget(self) -> Widget:
        """Build the widget: the table, a box, a button, a switch for thinking, and messages."""
        import ipywidgets

        table, message = ipywidgets.HTML(self.html()), ipywidgets.HTML()
        box = ipywidgets.Text(placeholder="a question", layout={"width": "36em"})
        button = ipywidgets.Button(description="ask both", button_style="primary")
        think = ipywidgets.Checkbox(
            self.conversation.thinking, description="thinking", indent=False
        )

        def ask(_event: Any = None) -> None:
            if button.disabled or not box.value.strip():
                return
            button.disabled, message.value = True, ""
            self.conversation.thinking = think.value
            try:
                for _ in self.stream(box.value):
                    table.value = self.html()
            except Qwen3labError as error:
                message.value = f'<span style="color:#c04000">{html.escape(str(error))}</span>'
            finally:
                button.disabled, box.value, table.value = False, "", self.html()

        box.continuous_update = False
        box.observe(ask, "value")
        button.on_click(ask)
        return ipywidgets.VBox([table, ipywidgets.HBox([box, button, think]), message])

    def __repr__(self) -> str:
        return "\n".join(
            f"> {pair.question}\n  before: {pair.base}\n  tuned:  {pair.tuned}"
            for pair in self.pairs
        )

    def _repr_mimebundle_(self, **_options: Any) -> dict[str, Any]:
        # A front end shows the richest format that it supports: HTML if it has no widgets.
        live = self.widget()._repr_mimebundle_() if self.interactive else {}
        return live | {"text/plain": repr(self), "text/html": self.html()}
