"""The chat templates that a Qwen3 checkpoint may carry, and others of their kind: as trl ships
them, made of those by editing, or written here.
"""

from __future__ import annotations

from functools import lru_cache

from qwen3lab import chat

# Those that trl ships for Qwen's models and that write tools and calls; each has a training twin.
SHIPPED = (
    "qwen3",
    "qwen3_instruct_2507",
    "qwen3_5_think",
    "qwen3_5_nothink",
    "qwen3_6",
    "qwen3_8",
    "qwen3_vl",
    "qwen2_5",
)

# ChatML as models without thoughts and tools have it (SmolLM2, say).
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def edited(text: str, *changes: tuple[str, str]) -> str:
    """The text with each first part replaced by its second; each has to be there."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


def april() -> str:
    """Qwen3's first template, of April 2025: it reads `message.content` without asking."""
    return edited(
        chat.template(),
        ("message.content is string and ", ""),
        (
            "    {%- if message.content is string %}\n"
            "        {%- set content = message.content %}\n"
            "    {%- else %}\n"
            "        {%- set content = '' %}\n"
            "    {%- endif %}\n",
            "    {%- set content = message.content %}\n",
        ),
        (
            "message.reasoning_content is string",
            "message.reasoning_content is defined and message.reasoning_content is not none",
        ),
    )


def thinking_2507() -> str:
    """Thinking-2507: every prompt opens the think block, and there is no switch."""
    text = chat.template()
    start = text.index("{%- if add_generation_prompt %}")
    return text[:start] + (
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
    )


def block_in_the_prompt_alone() -> str:
    """Today's Qwen3, but a think block is written only around thoughts, or to switch them off."""
    return edited(
        chat.template(), ("loop.last or (not loop.last and reasoning_content)", "reasoning_content")
    )


@lru_cache
def templates() -> dict[str, str | None]:
    """Name -> template; None is a base model's tokenizer, which has none."""
    shipped = {
        name: chat.template(name) for plain in SHIPPED for name in (plain, f"{plain}_training")
    }
    return shipped | {
        "april 2025": april(),
        "thinking 2507": thinking_2507(),
        "block in the prompt alone": block_in_the_prompt_alone(),
        "chatml": CHATML,
        "base": None,
    }
