"""Talking to a run's model."""

from __future__ import annotations

import pytest

from qwen3lab.errors import Qwen3labError
from qwen3lab.models import generation, loading
from qwen3lab.training import add_lora
from qwen3lab.tuning import Conversation, SideBySide, conversation

ASK = "Add 160 and 609."


@pytest.fixture(scope="module")
def adapted():
    import torch

    model, tokenizer = loading.load("qwen3-tiny")
    torch.manual_seed(0)
    model = add_lora(model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)  # another model, and not a better one
    return model.eval(), tokenizer


def greedy(adapted, messages, **options):
    (text,) = generation.generate(*adapted, [messages], max_new_tokens=90, **options)
    return text


def test_the_answer_is_the_greedy_one_and_history_counts(adapted):
    talk = Conversation(*adapted, max_new_tokens=90)
    first = "".join(talk.stream(ASK))
    assert first.strip() == greedy(adapted, [{"role": "user", "content": ASK}])
    asked = [*talk.messages, {"role": "user", "content": "And 5 more?"}]
    assert "".join(talk.stream("And 5 more?")).strip() == greedy(adapted, asked)
    assert [m["role"] for m in talk.messages] == ["user", "assistant"] * 2


def test_adapter_off_is_the_base(adapted):
    talk = Conversation(*adapted, max_new_tokens=90)
    assert talk.command("/adapter off") == "adapter off"
    talk.command("/think on")
    base = "".join(talk.stream(ASK)).strip()
    with adapted[0].disable_adapter():
        wanted = greedy(adapted, [{"role": "user", "content": ASK}], thinking=True)
    assert base == wanted and "769" in base
    assert talk.messages[-1]["reasoning_content"] and "<think>" not in talk.messages[-1]["content"]
    talk.command("/adapter")
    talk.command("/reset")
    assert "".join(talk.stream(ASK)).strip() != base


def test_commands(adapted):
    talk = Conversation(*adapted)
    assert talk.command("/think") == "thinking on" and talk.command("/think off") == "thinking off"
    assert talk.command("/think maybe") == "/think takes on or off, not 'maybe'."
    assert talk.command("/system Be brief.") == "system message set"
    assert talk.messages == [{"role": "system", "content": "Be brief."}]
    assert talk.command("/reset") == "forgotten" and len(talk.messages) == 1
    assert talk.command("/system") == "no system message" and talk.messages == []
    assert "There is no command /x" in talk.command("/x") and talk.command("/quit") is None
    plain = Conversation(adapted[0].get_base_model(), adapted[1])
    assert plain.command("/adapter off").startswith("There is no adapter")


def test_an_answer_broken_off_is_kept_and_a_refused_question_is_not(adapted):
    talk = Conversation(*adapted, max_new_tokens=90)
    answer = talk.stream(ASK)
    piece = next(answer)
    answer.close()
    assert talk.messages[-1] == {"role": "assistant", "content": piece.strip()}
    with pytest.raises(Qwen3labError, match="no question"):
        next(talk.stream("  "))
    with pytest.raises(Qwen3labError, match="does not fit"):
        next(talk.stream("word " * 5000))
    assert len(talk.messages) == 2


def test_old_turns_are_left_out_when_the_room_is_short(adapted, monkeypatch):
    talk = Conversation(*adapted, max_new_tokens=8)
    talk.messages = [{"role": "system", "content": "S"}]
    for number in range(6):
        talk.messages += [
            {"role": "user", "content": f"question {number}"},
            {"role": "assistant", "content": "word " * 60},
        ]
    talk.messages.append({"role": "user", "content": "last"})
    monkeypatch.setattr(talk.model.config, "max_position_embeddings", 300)
    text = adapted[1].decode(talk.prompt())
    assert "last" in text and "question 0" not in text and "system\nS" in text
    assert len(talk.prompt()) + 8 <= 300


def test_the_terminal(adapted):
    lines = iter([ASK, "/adapter off", "", "/quit", "never read"])
    told = []
    conversation.talk(
        Conversation(*adapted, max_new_tokens=8), lambda prompt: next(lines), told.append
    )
    assert "adapter off\n" in told and told[0].startswith("Ask")
    assert next(lines) == "never read"

    def interrupted(prompt):
        raise KeyboardInterrupt

    conversation.talk(Conversation(*adapted), interrupted, told.append)
    assert told[-1] == "\n"


def test_side_by_side(adapted):
    talk = Conversation(*adapted, thinking=True, max_new_tokens=90)
    panel = SideBySide(talk, interactive=False)
    pair = panel.ask(ASK)
    with adapted[0].disable_adapter():
        assert pair.base.strip() == greedy(
            adapted, [{"role": "user", "content": ASK}], thinking=True
        )
    assert pair.tuned.strip() == greedy(adapted, [{"role": "user", "content": ASK}], thinking=True)
    assert talk.messages == [] and talk.adapter
    panel.pairs[0].tuned = "<script>"
    assert "&lt;script&gt;" in panel.html() and "<script>" not in panel.html()
    bundle = panel._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    with pytest.raises(Qwen3labError, match="no question"):
        panel.ask(" ")
    assert len(panel.pairs) == 1
    with pytest.raises(Qwen3labError, match="Only an adapter"):
        SideBySide(Conversation(adapted[0].get_base_model(), adapted[1]))


def test_the_widget_asks_both(adapted):
    panel = SideBySide(Conversation(*adapted, max_new_tokens=8), interactive=True)
    table, controls, message = panel.widget().children
    box, button, think = controls.children
    box.value = ASK
    assert len(panel.pairs) == 1 and ASK in table.value and box.value == ""
    think.value = True
    box.value = ASK
    assert panel.conversation.thinking and len(panel.pairs) == 2
