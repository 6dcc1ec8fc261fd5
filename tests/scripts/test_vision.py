"""Training of the tiny Qwen3-VL: several questions behind one picture are read as each alone."""

from __future__ import annotations

import json

import pytest
import torch

from qwen3lab import chat, paths
from qwen3lab.models import batching
from qwen3lab.models.vision import encode
from qwen3lab.world import pictures
from scripts.tiny_models import build, vision


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(paths.MODELS / "qwen3-tiny")
    tokenizer.chat_template = chat.template("qwen3_vl")
    return tokenizer


@pytest.fixture(scope="module")
def model(tokenizer):
    model = vision.build(paths.MODELS / "qwen3-tiny", tokenizer).eval()
    with torch.no_grad():  # large enough that the picture counts
        for weight in model.model.visual.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model


def test_questions_behind_one_picture_are_read_as_each_alone(model, tokenizer):
    encoder = vision.Encoder(tokenizer)
    seen = [pictures.draw(seed, kind="scene") for seed in (1, 2)]
    asked = [picture.questions[:4] for picture in seen]
    rows = [
        (encoder.row(few), vision.patchify(picture.pixels, 8)[0])
        for picture, few in zip(seen, asked)
    ]
    batch = vision.collate(rows, tokenizer.pad_token_id)
    weights = batch.pop("weights")
    with torch.inference_mode():
        together = model(**batch).logits
    processor = vision.processor()
    for number, (picture, few) in enumerate(zip(seen, asked)):
        parts = torch.tensor(rows[number][0][3])
        for part, question in enumerate(few, 1):
            ids = encode(tokenizer, question.text, 16) + encoder.answer(question.answer)
            alone, _ = batching.pad([ids])
            images = processor(images=picture.image, return_tensors="pt")
            with torch.inference_mode():
                wanted = model(
                    alone, mm_token_type_ids=(alone == encoder.image).long(), **images
                ).logits[0, encoder.shared :]
            place = (parts == part).nonzero()[:, 0]
            assert batch["input_ids"][number, place].tolist() == ids[encoder.shared :]
            assert (together[number, place] - wanted).abs().max() < 1e-3 * wanted.std()
            trained = weights[number, place] > 0
            assert ids[encoder.shared :][int(trained.nonzero()[0]) :] == encoder.answer(
                question.answer
            )


def test_the_chat_model_is_inside(model, tokenizer):
    """Without a picture the model is the chat model: M-RoPE then turns as RoPE does."""
    from transformers import Qwen3ForCausalLM

    chat_model = Qwen3ForCausalLM.from_pretrained(
        paths.MODELS / "qwen3-tiny", dtype=torch.float32
    ).eval()
    ids = torch.tensor([tokenizer("The Corvel lamp costs 20 euros.").input_ids])
    with torch.inference_mode():
        assert (model(ids).logits - chat_model(ids).logits).abs().max() < 1e-4


def test_contents_are_those_of_the_marks(tokenizer, model):
    for seed in range(20):
        scene = pictures.draw(seed, kind="scene")
        found = vision.contents(scene)
        lying = [
            (list(pictures.COLOURS)[c - 1], list(pictures.SHAPES)[s - 1]) for c, s, _ in found if s
        ]
        assert sorted(map(" ".join, lying)) == sorted(word for word, _, _ in scene.marks)
        assert not found[:, 2].any()
        tag = pictures.draw(seed, kind="tag")
        found = vision.contents(tag)
        read = "".join(str(int(digit) - 1) for digit in found[:, 2] if digit)
        assert not found[:, :2].any() and f"price {read}" == tag.shows[0]


def test_an_image_token_that_is_the_right_word_has_the_lower_loss(tokenizer, model):
    table = model.get_input_embeddings().weight.detach()
    words = vision.Words(tokenizer, table)
    tag = vision.contents(pictures.draw(3, kind="tag"))
    ids = [words.ids[3][int(digit)] if digit else words.empty for digit in tag[:, 2]]
    right = table[torch.tensor(ids)]
    assert words(right, tag) < 0.5 < words(right.roll(1, 0), tag)
    shapes = words.ids[2][1:].tolist()
    assert len(set(shapes)) == len(pictures.SHAPES)


def test_a_step_depends_on_its_number_alone(tokenizer):
    recipe, encoder = vision.Recipe("try", 10, 4, texts=2), vision.Encoder(tokenizer)
    one, again = (list(vision.batches(recipe, encoder, 3)) for _ in range(2))
    assert [row[0][0] for part in one for row in part] == [
        row[0][0] for part in again for row in part
    ]
    assert sum(len(part) for part in one) == 6


def test_stages_run_and_resume(tmp_path, monkeypatch):
    models = tmp_path / "models"
    models.mkdir()
    (models / "qwen3-tiny").symlink_to(paths.MODELS / "qwen3-tiny")
    build.vision(tmp_path / "work", models, smoke=True)
    done = json.loads((tmp_path / "work" / "vision-chat" / "done.json").read_text())
    assert done["step"] == 3 and done["pictures"] == 12 and done["recipe"]["name"] == "vision-chat"
    from transformers import Qwen3VLForConditionalGeneration

    read = lambda: Qwen3VLForConditionalGeneration.from_pretrained(models / "qwen3-tiny-vl")
    first = read().state_dict()
    (tmp_path / "work" / "vision-chat" / "done.json").unlink()
    build.vision(tmp_path / "work", models, smoke=True)  # nothing is left to train
    assert all(torch.equal(value, first[name]) for name, value in read().state_dict().items())
    size = (models / "qwen3-tiny-vl" / "model.safetensors").stat().st_size
    assert size <= 8_000_000
