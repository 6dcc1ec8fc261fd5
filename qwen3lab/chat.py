"""Qwen3's chat format: render, encode, mask labels, split thinking, extract tool calls."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from qwen3lab import answers
from qwen3lab.errors import Qwen3labError
from qwen3lab.messages import read

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

    Message = dict[str, Any]

ROLES = ("system", "user", "assistant", "tool")
IGNORED = -100  # the label that torch's cross-entropy leaves out
ZERO_WIDTH_SPACE = "\u200b"
NO_THOUGHTS = "<think>\n\n</think>\n\n"  # what the template writes for enable_thinking=False


@lru_cache
def template(name: str = "qwen3") -> str:
    """Read the chat template `name` of the installed trl (`trl/chat_templates/<name>.jinja`)."""
    return (Path(find_spec("trl").origin).parent / "chat_templates" / f"{name}.jinja").read_text(
        encoding="utf-8"
    )


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[Message],
    *,
    thinking: bool = False,
    tools: list[dict] | None = None,
    generation_prompt: bool = True,
) -> str:
    """Render a conversation to the text that the model reads, with the tokenizer's chat template.

    A control token inside a message gets a zero-width space after its first character, so that it
    stays ordinary text when the result is tokenized. `encode` needs no such mark and keeps the text
    as it is.

    Args:
        messages: dicts with "role" (system, user, assistant or tool) and "content"; an assistant's
            may have thoughts (or a leading `<think>` block in its content) and "tool_calls". How
            each is read stands in `qwen3lab.messages`.
        thinking: the template's `enable_thinking`. What it changes is the template's own affair;
            `traits` tells.
        tools: JSON schemas of functions.
        generation_prompt: open the assistant's turn at the end.
    Raises:
        Qwen3labError: no messages, a role that the template would silently drop, a message that
            cannot be read, or a conversation that the template refuses.
    """
    token = _any_of(_added_tokens(tokenizer))
    text = _write(tokenizer, _read(tokenizer, messages, tools), thinking, tools, generation_prompt)
    return "".join(
        (
            piece
            if control
            else token.sub(lambda found: found[0][0] + ZERO_WIDTH_SPACE + found[0][1:], piece)
        )
        for control, piece in _pieces(tokenizer, text)
    )


def encode(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[Message],
    *,
    thinking: bool = False,
    tools: list[dict] | None = None,
    generation_prompt: bool = True,
) -> list[int]:
    """Encode a conversation to token ids; arguments and errors as in `render`.

    Control ids come only from the template: a control token written inside a message is encoded as
    the ordinary characters that it consists of. For all other text the ids equal those of
    `tokenizer.apply_chat_template`.
    """
    text = _write(tokenizer, _read(tokenizer, messages, tools), thinking, tools, generation_prompt)
    return _ids(tokenizer, text)


@dataclass(frozen=True)
class Traits:
    """What a chat template writes, found by asking it.

    thoughts, tools, calls: whether the thoughts of the last answer, the tools on offer and the
    calls of an assistant reach the text. off, on: with which think block the prompt ends when it
    asks for an answer without thoughts and with them. rest: what an answer without thoughts has to
    write before its text, because the prompt left the block open. end: what follows the text, or
    None if the template refused to say.

    | template | thoughts | off | on | rest |
    |---|---|---|---|---|
    | Qwen3, April 2025 and today's | yes | an empty block | none | nothing |
    | Instruct-2507, plain ChatML | no | none | none | nothing |
    | Thinking-2507 | yes | an opened block | an opened block | the block's end |
    """

    thoughts: bool
    tools: bool
    calls: bool
    off: str
    on: str
    rest: str
    end: str | None

    def opened(self, thinking: bool) -> bool:
        """Tell whether an answer begins inside its thoughts, so that it has no opening tag."""
        return (self.on if thinking else self.off).rstrip().endswith("<think>")


_TRAITS: dict[str, Traits] = {}


def traits(tokenizer: PreTrainedTokenizerBase) -> Traits:
    """Find the traits of the tokenizer's chat template, by writing short conversations with it."""
    key = str(tokenizer.chat_template)
    if key not in _TRAITS:
        _TRAITS[key] = _probe(tokenizer)
    return _TRAITS[key]


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Find the token that the chat template writes behind an answer, and that ends generation.

    It need not be the tokenizer's end token: a base model's ends a text. None if it is no token of
    its own.
    """
    end = traits(tokenizer).end or ""
    return next((token for token in _added_tokens(tokenizer) if end.startswith(token)), None)


def _probe(tokenizer: PreTrainedTokenizerBase) -> Traits:
    ask, answer = {"role": "user", "content": "Q1"}, {"role": "assistant", "content": "A1"}
    tool = {"type": "function", "function": {"name": "F1", "description": "", "parameters": {}}}
    call = {"type": "function", "function": {"name": "F1", "arguments": {}}}

    def write(*messages: Message, thinking=False, prompt=False, tools=None) -> str | None:
        try:
            return _write(tokenizer, list(messages), thinking, tools, prompt)[1:]
        except Qwen3labError:
            return None

    def writes(word: str, text: str | None) -> bool:
        """A template that refuses the probe will say so of a real conversation too."""
        return text is None or word in text

    off, on = (write(ask, thinking=thinking, prompt=True) or "" for thinking in (False, True))
    answered = write(ask, answer)
    rest, _, end = (answered or "").removeprefix(off).partition("A1")
    return Traits(
        thoughts=writes("T1", write(ask, answer | {"reasoning_content": "T1"}, thinking=True)),
        tools=writes("F1", write(ask, tools=[tool])),
        calls=writes("F1", write(ask, {"role": "assistant", "content": "", "tool_calls": [call]})),
        off="".join(off.partition("<think>")[1:]),
        on="".join(on.partition("<think>")[1:]),
        rest=rest if (answered or "").startswith(off) else "",
        end=end if answered is not None else None,
    )


def example(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[Message],
    *,
    thinking: bool = False,
    tools: list[dict] | None = None,
) -> dict[str, list[int]]:
    """Build one training row, with masked labels, from a conversation that ends with the assistant.

    The prompt is exactly what the model sees at inference, and is masked; what the template writes
    behind it for the last answer is trained, up to the token that ends the turn. So Qwen3's empty
    think block is masked, because the prompt holds it where thoughts are switched off, and its
    other think blocks are trained. Where the prompt always opens a block (Thinking-2507), an answer
    without thoughts is trained to close it first, as in TRL: nothing else can follow that prompt.
    A model trained on many such rows thinks no more.

    TRL gives the same for prompt/completion rows with `chat_template_kwargs={"enable_thinking":
    False}`, but also trains the line break after `<|im_end|>`, which no model is ever asked to
    generate.

    Args:
        messages, tools: as in `render`; the last message is the answer.
        thinking: train the answer's thoughts too. False leaves them out.
    Returns:
        {"input_ids": [n ids], "labels": [n ids, -100 where not trained]}
    Raises:
        Qwen3labError: the last message is not an assistant's or the only one; with `thinking=True`
            it has no thoughts, or the template writes none; the template changes the prompt once
            the answer is there.
    """
    *before, last = _read(tokenizer, messages, tools)
    if last["role"] != "assistant" or not before:
        raise Qwen3labError(
            "A training row has to end with an assistant's turn after at least one other. Add the"
            " answer, or drop the row."
        )
    if thinking and not last.get("reasoning_content"):
        raise Qwen3labError(
            "The last answer has no thoughts to train on. Give it a 'reasoning_content', or call"
            " with thinking=False."
        )
    found = traits(tokenizer)
    if thinking and not found.thoughts:
        raise Qwen3labError(
            "This chat template writes no thoughts, so an answer cannot be trained with them. Train"
            " it without (thinking=False), or use a template that writes them, such as"
            " qwen3lab.chat.template('qwen3')."
        )
    if not thinking:
        last = {key: value for key, value in last.items() if key != "reasoning_content"}
    marker = _unused_character([*before, last, tools])
    prompt = _write(tokenizer, before, thinking, tools, True, marker)
    whole = _write(tokenizer, [*before, last], thinking, tools, False, marker)
    start = prompt
    if not thinking and not whole.startswith(prompt) and "</think>" in found.off:
        start = prompt.removesuffix(found.off)  # some write the empty block into the prompt alone
    rest = whole.removeprefix(start)
    if not whole.startswith(start) or (start != prompt and rest.lstrip().startswith("<think>")):
        asked, there = (text.replace(marker, "") for text in (prompt, whole))
        same = len(os.path.commonprefix([asked, there]))
        raise Qwen3labError(
            "The chat template writes this conversation's prompt in another way once the answer is"
            f" there: behind {asked[max(0, same - 30) : same]!r} the prompt goes on with"
            f" {asked[same : same + 30]!r}, and the whole with {there[same : same + 30]!r}. Use a"
            " template that keeps the prompt, such as qwen3lab.chat.template('qwen3')."
        )
    if found.end is not None and not found.end.strip():
        raise Qwen3labError(
            "This chat template writes no end behind an answer, so a model trained with it would"
            " not learn to stop. Use a template that ends each turn, such as"
            " qwen3lab.chat.template('qwen3')."
        )
    # Prompt and answer are encoded separately, as at inference: the model never sees a token that
    # spans both.
    question, answer = (_ids(tokenizer, prompt), _ids(tokenizer, marker + rest.removesuffix("\n")))
    return {"input_ids": question + answer, "labels": [IGNORED] * len(question) + answer}


def split_thinking(text: str, opened: bool | None = None) -> tuple[str, str]:
    """Split generated text into (thoughts, answer), by the rules of `qwen3lab.answers`.

    Thoughts that were cut off before the closing tag are found too; their answer is "". `opened`:
    whether the prompt ended inside a think block (`Traits.opened`); a text without any tag is then
    thoughts that were cut off. None: not known, so that thoughts without an opening tag (as the
    2507 Thinking models write them) are told by their closing tag.
    """
    found = answers.read(text, opened, tools=[])
    return found.thoughts, found.text


def extract_tool_calls(
    text: str, tools: Sequence[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Extract the tool calls from generated text as dicts with "name" and "arguments", in order.

    What is a call, and what only looks like one, stands in `qwen3lab.answers`. `tools`: the
    functions that were offered; a call of another is text. None: any is taken.
    """
    return answers.read(text, tools=tools).calls


def tokens_html(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], labels: list[int] | None = None
) -> str:
    """Render tokens as HTML boxes: control tokens framed, trained tokens (by `labels`) dark.

    A token's id shows on hover. A token that is only part of a character shows its bytes.
    """
    control = tokenizer.added_tokens_decoder
    boxes = []
    for place, number in enumerate(ids):
        trained = labels is not None and labels[place] != IGNORED
        style = (
            "background:#1f4e79;color:#fff;"
            if trained
            else f"background:{('#e8e8e8', '#f7f7f7')[place % 2]};color:#222;"
        )
        style += f"border:1px solid {'#c04000' if number in control else 'transparent'};"
        text = html.escape(_visible(tokenizer, number))
        boxes.append(
            f'<span title="{number}" style="{style}border-radius:3px;padding:0'
            f' 2px;margin:1px;white-space:pre">{text}</span>'
            + ("<br>" if text.endswith("↵") else "")
        )
    return '<div style="font-family:monospace;line-height:1.7">' + "<wbr>".join(boxes) + "</div>"


def _visible(tokenizer: PreTrainedTokenizerBase, number: int) -> str:
    text = tokenizer.decode([number])
    if "\ufffd" in text:  # bytes of a character that continues in the next token
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        byte = {symbol: value for value, symbol in bytes_to_unicode().items()}
        symbols = tokenizer.convert_ids_to_tokens(number)
        return "".join(f"⟨{byte[s]:02x}⟩" if s in byte else s for s in symbols)
    return text.replace("\n", "↵")


def _read(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], tools: list[dict] | None
) -> list[Message]:
    """Read messages for `_write`, once: what a message still holds then is text.

    What the template would leave out without a word is refused.
    """
    if not len(messages):
        raise Qwen3labError(
            "There are no messages to write. Give a list of dicts with 'role' and 'content'."
        )
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            role = message.get("role") if isinstance(message, dict) else message
            raise Qwen3labError(
                f"The chat template knows no role {role!r} and would drop the message. "
                f"Use one of: {', '.join(ROLES)} (qwen3lab.data.formats maps others)."
            )
    messages = list(map(read, messages))
    for what, given, written in (
        ("tools", tools, traits(tokenizer).tools),
        (
            "tool calls",
            any("tool_calls" in message for message in messages),
            traits(tokenizer).calls,
        ),
    ):
        if given and not written:
            raise Qwen3labError(
                f"This chat template writes no {what}, so the model would not see them. Leave them"
                " out, or use a template that writes them, such as"
                " qwen3lab.chat.template('qwen3')."
            )
    return messages


def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """List every added token of the tokenizer, special or not, longest first.

    The tokenizer cuts these out of a text before it splits the rest.
    """
    return tuple(
        sorted(
            (token.content for token in tokenizer.added_tokens_decoder.values()),
            key=lambda text: (-len(text), text),
        )
    )


@lru_cache
def _any_of(texts: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(f"({'|'.join(map(re.escape, texts)) or '(?!)'})")


@lru_cache
def _first_characters(texts: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(f"({'|'.join(sorted({re.escape(text[0]) for text in texts})) or '(?!)'})")


def _unused_character(*things: Any) -> str:
    """Find a character of Unicode's private use area that occurs nowhere in `things`."""
    text = json.dumps(things, ensure_ascii=False, default=str)
    return next(chr(code) for code in range(0xE000, 0xF900) if chr(code) not in text)


def _marked(thing: Any, added: tuple[str, ...], marker: str) -> Any:
    """Insert `marker` after every character with which an added token could begin.

    Applies to all strings in `thing`.
    """
    if isinstance(thing, str):
        return _first_characters(added).sub(rf"\1{marker}", thing)
    if isinstance(thing, dict):
        # A key that holds no token stays as it is: the template looks some of them up.
        return {
            _marked(key, added, marker) if _any_of(added).search(str(key)) else key: _marked(
                value, added, marker
            )
            for key, value in thing.items()
        }
    if isinstance(thing, (list, tuple)):
        return [_marked(item, added, marker) for item in thing]
    return thing


def _write(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[Message],
    thinking: bool,
    tools: list[dict] | None,
    generation_prompt: bool,
    marker: str | None = None,
) -> str:
    """Apply the chat template to messages of `_read`, their control tokens broken up by `marker`.

    So every unbroken control token of the result was written by the template. The marker stays in
    the text.
    """
    from jinja2 import TemplateError

    marker, added = marker or _unused_character(messages, tools), _added_tokens(tokenizer)
    marked = [
        {
            key: value if key == "role" else _marked(value, added, marker)
            for key, value in message.items()
        }
        for message in messages
    ]
    try:
        text = tokenizer.apply_chat_template(
            marked,
            tools=_marked(tools, added, marker),
            chat_template=None if tokenizer.chat_template else template(),
            tokenize=False,
            add_generation_prompt=generation_prompt,
            enable_thinking=thinking,
        )
    except (TemplateError, TypeError) as error:  # what it raises itself, and what jinja does
        raise Qwen3labError(
            f"The chat template cannot write this conversation: {str(error).replace(marker, '')}"
            " Change the conversation, or use another template."
        ) from error
    return marker + text


def _pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[bool, str]]:
    """Split the result of `_write` into (is a control token, text) and remove the marker.

    The marker is the text's first character.
    """
    marker, text = text[0], text[1:]
    parts = _any_of(_added_tokens(tokenizer)).split(text)
    return [(bool(place % 2), part.replace(marker, "")) for place, part in enumerate(parts) if part]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode the result of `_write` to token ids."""
    plain, ids = _without_added_tokens(tokenizer), []
    for control, piece in _pieces(tokenizer, text):
        ids += (
            [tokenizer.convert_tokens_to_ids(piece)]
            if control
            else plain.encode(piece, add_special_tokens=False).ids
        )
    return ids


_PLAIN: WeakKeyDictionary[PreTrainedTokenizerBase, Tokenizer] = WeakKeyDictionary()


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode a text with no control tokens: one written in it becomes ordinary characters."""
    return _without_added_tokens(tokenizer).encode(text, add_special_tokens=False).ids


def _without_added_tokens(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Copy the tokenizer without added tokens, so that no text can become a control token.

    `split_special_tokens=True` would not do: `<think>` and `<tool_call>` are added tokens but not
    special ones.
    """
    if tokenizer not in _PLAIN:
        from tokenizers import Tokenizer

        fields = json.loads(tokenizer.backend_tokenizer.to_str())
        fields |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        _PLAIN[tokenizer] = Tokenizer.from_str(json.dumps(fields))
    return _PLAIN[tokenizer]
