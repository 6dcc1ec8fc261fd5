"""What lies beside an adapter is used: loaded, merged, as GGUF, served and in a conversation.

Each line of the table makes a folder of its own kind, and in each form the prompt's ids, the
answer, its end, the chat template and the logits are those of the model that was trained.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import pytest
import torch
from helpers import servable_checkpoint
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from qwen3lab import chat, models, paths, quantization, serving, training
from qwen3lab.errors import Qwen3labError
from qwen3lab.models.generation import end_tokens, generate_ids
from qwen3lab.quantization import variants
from qwen3lab.tuning import comparing, conversation

OTHER = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
OTHER += "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
ASK = [{"role": "user", "content": "the code"}]
NEW = [AddedToken("<|new|>", special=True), AddedToken("Basdru")]  # ids 261 and 262 of 264 rows
PROBE = "x<|new|>y Basdru the"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return servable_checkpoint(tmp_path_factory.mktemp("base") / "base", "0.6B")


@dataclass
class Kind:
    """A kind of adapter folder: how many embeddings, PEFT's settings, tokenizer, other files."""

    rows: int = 264
    lora: dict[str, Any] | None = None
    template: str | dict[str, str] | None = None
    new: bool = False
    padding: str = "right"
    files: dict[str, str] | None = None
    saved: bool = True  # whether the tokenizer is saved beside the adapter
    folder: str = "adapter"
    end: bool = False  # whether generation settings name an end token of their own


both = ["embed_tokens", "lm_head"]
TABLE = {
    "nothing": Kind(saved=False),
    "a template": Kind(template=OTHER),
    "templates by name": Kind(template={"default": OTHER, "tool_use": OTHER + "{# tools #}"}),
    "a template without a tokenizer": Kind(
        template=OTHER, saved=False, files={"chat_template.jinja": OTHER}
    ),
    "tokens within the table": Kind(new=True, padding="left"),
    "trained tokens": Kind(new=True, lora={"trainable_token_indices": [261, 262]}),
    "a larger table": Kind(rows=272, new=True),
    "a larger table, trained tokens": Kind(
        rows=272, new=True, lora={"trainable_token_indices": [261, 262]}
    ),
    "a smaller table": Kind(rows=263, new=True),
    "trained tables": Kind(rows=272, new=True, lora={"modules_to_save": both}),
    "trained embeddings, tied": Kind(
        rows=272, new=True, lora={"modules_to_save": both[:1], "ensure_weight_tying": True}
    ),
    "trained embeddings, untied by it": Kind(new=True, lora={"modules_to_save": both[:1]}),
    "an update of the embeddings": Kind(rows=272, new=True, lora={"target_modules": both[:1]}),
    "an update of the head": Kind(lora={"target_modules": both[1:]}),
    "an end": Kind(end=True),
    "a checkpoint of a run": Kind(template=OTHER, new=True, end=True, folder="run/checkpoint-12"),
}


@pytest.fixture(scope="module", params=TABLE, ids=lambda name: name.replace(" ", "-"))
def made(request, base, tmp_path_factory):
    """An adapter's folder, and what the trained model in memory says."""
    kind, place = TABLE[request.param], tmp_path_factory.mktemp("made")
    model, tokenizer = models.load(base, dtype="float32")
    if kind.new:
        tokenizer.add_tokens(NEW)
    tokenizer.chat_template = kind.template or tokenizer.chat_template
    torch.manual_seed(1)
    if kind.rows != 264:
        model.resize_token_embeddings(kind.rows)
    adapted = training.add_lora(model, r=4, **(kind.lora or {})).eval()
    for name, weight in adapted.named_parameters():
        if weight.requires_grad and ("lora_B" in name or "lora_emb" in name or "lora_" not in name):
            torch.nn.init.normal_(weight, std=0.3)
    folder = place / kind.folder
    adapted.save_pretrained(folder)
    beside = folder.parent if folder.name.startswith("checkpoint") else folder
    if kind.saved:
        tokenizer.save_pretrained(beside)
        config = beside / "tokenizer_config.json"
        fields = json.loads(config.read_text())
        config.write_text(json.dumps(fields | {"padding_side": kind.padding}))
    for name, text in (kind.files or {}).items():
        (beside / name).write_text(text)
    prompt = chat.encode(tokenizer, ASK)
    (answer,) = generate_ids(adapted, tokenizer, [prompt], max_new_tokens=12)
    assert len(answer) == 12
    ends = end_tokens(tokenizer)
    if kind.end:
        answer = answer[: answer.index(answer[4])]
        stop = generate_ids(adapted, tokenizer, [prompt], max_new_tokens=12)[0][len(answer)]
        ends = sorted({*ends, stop})
        fields = {"eos_token_id": [258, stop], "temperature": 0.6, "top_p": 0.9}
        (beside / "generation_config.json").write_text(json.dumps(fields))
    return SimpleNamespace(
        kind=kind,
        folder=folder,
        base=base,
        tokenizer=tokenizer,
        ids=tokenizer(PROBE).input_ids,
        prompt=prompt,
        answer=answer,
        ends=ends,
        logits=logits(adapted, tokenizer(PROBE).input_ids),
        merged=place / "merged",
        file=place / "model.gguf",
    )


def logits(model, ids):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits


def said_by(model, tokenizer, made):
    """Everything that a form says of a prompt, to be compared at once."""
    return {
        "template": tokenizer.chat_template,
        "ids": tokenizer(PROBE).input_ids,
        "prompt": chat.encode(tokenizer, ASK),
        "padding": tokenizer.padding_side,
        "ends": end_tokens(tokenizer, model),
        "answer": generate_ids(model, tokenizer, [made.prompt], max_new_tokens=12)[0],
    }


def wanted(made):
    return {
        "template": made.tokenizer.chat_template,
        "ids": made.ids,
        "prompt": made.prompt,
        "padding": made.kind.padding,
        "ends": made.ends,
        "answer": made.answer,
    }


def test_loaded(made):
    model, tokenizer = training.load_adapter(made.folder, made.base)
    assert said_by(model, tokenizer, made) == wanted(made)
    assert torch.equal(logits(model, made.ids), made.logits)
    if made.kind.new:
        assert made.ids[1] == 261 and 262 in made.ids


@pytest.fixture(scope="module")
def merged(made):
    """The folder of the merged model."""
    quantization.merge(made.base, made.folder, made.merged, dtype="float32")
    return made.merged


def test_merged(made, merged):
    model, tokenizer = models.load(merged, dtype="float32")
    assert said_by(model, tokenizer, made) == wanted(made)
    scale = made.logits.abs().max().item()
    torch.testing.assert_close(logits(model, made.ids), made.logits, rtol=0, atol=1e-5 * scale)
    if made.kind.end:
        stated = json.loads((merged / "generation_config.json").read_text())
        assert (stated["temperature"], stated["top_p"]) == (0.6, 0.9)


def test_gguf_and_served(made, merged):
    quantization.to_gguf(merged, made.file, "f32")
    assert comparing.gguf_template(made.file) == made.tokenizer.chat_template
    _, tokenizer = training.load_adapter(made.folder, made.base)
    with serving.LlamaServer(made.file, tokenizer, context=128, exact=True) as server:
        reply = server.complete(ASK, max_new_tokens=12)
        read = server.post("/tokenize", {"content": PROBE, "parse_special": True})["tokens"]
        assert (reply.ids, reply.finished) == (made.answer, made.kind.end)
        assert server.ends == made.ends and read == made.ids


def test_chat(made):
    talk = conversation.open_run(made.folder, str(made.base), max_new_tokens=12)
    talk.messages = list(ASK)
    assert talk.prompt() == made.prompt
    talk.messages = []
    text = "".join(talk.stream(ASK[0]["content"]))
    # Streamed is what is whole so far: an answer may end within a character.
    assert made.tokenizer.decode(made.answer, skip_special_tokens=True).startswith(text)
    assert not made.kind.end or len(text) <= len(made.tokenizer.decode(made.answer))


@pytest.fixture(scope="module")
def plain(base, tmp_path_factory):
    """A small adapter without a tokenizer."""
    folder = tmp_path_factory.mktemp("plain") / "plain"
    training.add_lora(models.load(base, dtype="float32")[0], r=2).save_pretrained(folder)
    return folder


text = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=40)
TOKENS = st.lists(
    st.tuples(
        st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=2), st.booleans()
    ),
    max_size=3,
    unique_by=lambda pair: pair[0],
)


@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # an example takes a while, so none is made smaller
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(template=text, tokens=TOKENS)
@example(template="", tokens=[])
@example(template="{{ '\"' }}\n\n  你好 {#", tokens=[("名字", False), ("<end>", True)])
def test_any_template_and_any_tokens_reach_every_form(base, plain, template, tokens):
    """Templates and tokens are texts; whatever they are, each form has the same ones."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(plain, Path(scratch) / "adapter"))
        tokenizer = models.load_tokenizer(base)
        tokenizer.add_tokens([AddedToken(name, special=special) for name, special in tokens])
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        words = f"x{'y '.join(name for name, _ in tokens)} the"
        ids, known = tokenizer(words).input_ids, tokenizer.get_vocab()
        rows = max(known.values()) + 1
        if rows > 264:
            with pytest.raises(Qwen3labError, match="more than there are embeddings"):
                training.load_adapter(folder, base)
            return
        _, loaded = training.load_adapter(folder, base)
        found = quantization.merge(base, folder, Path(scratch) / "merged")
        merged = models.load_tokenizer(found.path)
        for other in (loaded, merged):
            assert (other.chat_template, other(words).input_ids) == (template, ids)
            assert other.get_vocab() == known
        reader = gguf.GGUFReader(quantization.to_gguf(found.path, Path(scratch) / "m.gguf", "f32"))
        field = reader.get_field("tokenizer.chat_template")
        assert (field.contents() if field else "") == template
        listed = reader.get_field("tokenizer.ggml.tokens").contents()
        assert [listed[known[name]] for name, _ in tokens] == [name for name, _ in tokens]


def test_kept_forms_are_made_anew_when_the_template_changes(base, plain, tmp_path, monkeypatch):
    """The weights alone would name the kept form of another template."""
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    folder = Path(shutil.copytree(plain, tmp_path / "adapter"))
    places = []
    for template in ("one", "two"):
        (folder / "chat_template.jinja").write_text(template)
        merged = variants.merged(base, folder, "float32")
        file = variants.gguf(merged, "f16")
        places.append((merged, file))
        assert models.load_tokenizer(merged).chat_template == template
        assert comparing.gguf_template(file) == template
    assert len({place for pair in places for place in pair}) == 4
    assert (variants.merged(base, folder, "float32"), file) == places[1]


def test_more_ends_than_a_gguf_file_can_name(base, tmp_path):
    folder = Path(shutil.copytree(base, tmp_path / "m"))
    (folder / "generation_config.json").write_text('{"eos_token_id": [97, 98, 99, 260]}')
    with pytest.raises(Qwen3labError, match="'m' states 4 tokens that end an answer, and a GGUF"):
        quantization.to_gguf(folder, tmp_path / "m.gguf")


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_settings_beside_packed_weights(method):
    model, tokenizer = quantization.load_gptq(variants.COMPANY[method])
    stated = json.loads((variants.COMPANY[method] / "generation_config.json").read_text())
    assert model.generation_config.eos_token_id == stated["eos_token_id"]
    assert set(stated["eos_token_id"]) <= set(end_tokens(tokenizer, model))
