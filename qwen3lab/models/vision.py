"""Ask a Qwen3-VL about pictures, with the library's classes and without torchvision.

`AutoProcessor` needs torchvision for a Qwen3-VL, because of videos. Its image processor and its
tokenizer do not, and what it does beyond them is one step: write an image token for every merged
patch. `encode` does that, and keeps text of users from becoming control tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import chat
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import batching, loading
from qwen3lab.quiet import quiet

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

BUNDLED = "qwen3-tiny-vl"


def load(
    model_id: str | Path = BUNDLED, dtype: str = "float32"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, BaseImageProcessor]:
    """Load a Qwen3-VL with its tokenizer and its image processor for Pillow and numpy.

    Raises:
        Qwen3labError: as `loading.folder`; or a checkpoint of another kind.
    """
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer, Qwen3VLForConditionalGeneration

    folder = loading.folder(model_id)
    kind = loading.config(folder).get("model_type")
    if kind != "qwen3_vl":
        raise Qwen3labError(
            f"{folder.name!r} is of type {kind!r} and sees no pictures. Give a Qwen3-VL, such as"
            f" {BUNDLED}."
        )
    loading.check_folder(folder)
    quiet()
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, dtype))
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return model.eval(), AutoTokenizer.from_pretrained(folder), processor


def encode(tokenizer: PreTrainedTokenizerBase, question: str, tokens: int) -> list[int]:
    """Encode a question about one picture of so many image tokens, as far as the answer.

    Equal to the chat template of Qwen3-VL with the picture before the text, but for control tokens
    that the question holds: they stay ordinary text.
    """
    opened = chat.encode(tokenizer, [{"role": "user", "content": ""}])
    head = opened.index(tokenizer.convert_tokens_to_ids("<|im_end|>"))
    start, image, end = tokenizer.convert_tokens_to_ids(
        ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>"]
    )
    picture = [start, *[image] * tokens, end] if tokens else []
    return [*opened[:head], *picture, *chat.plain_ids(tokenizer, question), *opened[head:]]


def inputs(
    tokenizer: PreTrainedTokenizerBase,
    processor: BaseImageProcessor,
    pictures: Sequence[Image],
    questions: Sequence[str],
) -> dict[str, Any]:
    """Prepare a batch for `model.generate`, a question a picture, padded on the left.

    Returns:
        input_ids, attention_mask and mm_token_type_ids (1 for image tokens), int64
        [questions, tokens]; pixel_values [patches of all pictures, values]; image_grid_thw
        [pictures, 3].
    Raises:
        Qwen3labError: not as many questions as pictures, or none.
    """
    if len(pictures) != len(questions) or not len(questions):
        raise Qwen3labError(
            f"There are {len(pictures)} pictures and {len(questions)} questions. Give one question"
            " a picture; repeat a picture that is asked about twice."
        )
    rows, seen = _prompts(tokenizer, processor, pictures, questions)
    return _batch(tokenizer, rows, "left") | seen


def _prompts(
    tokenizer, processor, pictures: Sequence[Image], questions: Sequence[str]
) -> tuple[list[list[int]], dict[str, Any]]:
    """Encode a question a picture; return the ids and what the processor makes of the pictures."""
    seen = processor(images=list(pictures), return_tensors="pt")
    rows = [
        encode(tokenizer, question, int(grid.prod()) // processor.merge_size**2)
        for question, grid in zip(questions, seen["image_grid_thw"])
    ]
    return rows, dict(seen)


def _batch(tokenizer, rows: list[list[int]], side: str) -> dict[str, Any]:
    """Pad rows of ids and mark the image tokens among them."""
    ids, mask = batching.pad(rows, tokenizer.pad_token_id, side=side)
    image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": (ids == image).long()}


def training_batch(
    tokenizer: PreTrainedTokenizerBase,
    processor: BaseImageProcessor,
    rows: Sequence[tuple[Image, str, str]],
) -> dict[str, Any]:
    """Prepare rows of (picture, question, answer) for training, padded on the right.

    Returns:
        As `inputs`, with labels: the answer and its end token, all else -100.
    """
    pictures, questions, answers = zip(*rows)
    prompts, seen = _prompts(tokenizer, processor, pictures, questions)
    told = [[*chat.plain_ids(tokenizer, text), tokenizer.eos_token_id] for text in answers]
    labels = [[chat.IGNORED] * len(prompt) + said for prompt, said in zip(prompts, told)]
    ids = [prompt + said for prompt, said in zip(prompts, told)]
    labelled = {"labels": batching.pad(labels, chat.IGNORED)[0]}
    return _batch(tokenizer, ids, "right") | labelled | seen


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    processor: BaseImageProcessor,
    pictures: Sequence[Image],
    questions: Sequence[str],
    *,
    max_new_tokens: int = 12,
    batch_size: int = 64,
) -> list[str]:
    """Answer one question a picture greedily, in batches. Raises as `inputs`."""
    return [
        text
        for start in range(0, max(len(questions), 1), batch_size)
        for text in _answers(
            model,
            tokenizer,
            inputs(
                tokenizer,
                processor,
                pictures[start : start + batch_size],
                questions[start : start + batch_size],
            ),
            max_new_tokens,
        )
    ]


def _answers(model, tokenizer, batch: dict[str, Any], max_new_tokens: int) -> Iterator[str]:
    with batching.reading(model):
        written = model.generate(
            **{name: value.to(model.device) for name, value in batch.items()},
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
    for row in written[:, batch["input_ids"].shape[1] :]:
        yield tokenizer.decode(row, skip_special_tokens=True).strip()
