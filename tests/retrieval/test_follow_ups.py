"""Follow-up questions become standalone ones: the rule case by case, and the prompt for a model."""

from __future__ import annotations

import pytest

from qwen3lab import chat, models
from qwen3lab.retrieval import follow_ups
from qwen3lab.retrieval.answering import Answer, passage
from qwen3lab.retrieval.chunking import Chunk
from qwen3lab.retrieval.index import Hit

BEFORE = "How long is the warranty of the Solfem canoe?"
TOLD = "The Solfem canoe sells for 685 euros. The warranty of the Solfem canoe is 48 months."
VORHER, GESAGT = "萨雅斯帐篷的重量是多少？", "萨雅斯帐篷的重量是5.3千克。"


@pytest.mark.parametrize(
    "question, standalone",
    [
        ("How heavy is it?", "How heavy is the Solfem canoe?"),
        ("What is its weight?", "What is the Solfem canoe's weight?"),
        ("And its price?", "What is the price of the Solfem canoe?"),
        ("What about the order code?", "What is the order code of the Solfem canoe?"),
        ("And the Halve canoe?", "How long is the warranty of the Halve canoe?"),
        ("And the other canoe?", "How long is the warranty of the other canoe?"),
        # These refer to nothing, or name what they ask about.
        ("Who runs the Tonjax depot?", "Who runs the Tonjax depot?"),
        ("Is the Halve canoe sold with its paddle?", "Is the Halve canoe sold with its paddle?"),
        ("What is the fee for a key card?", "What is the fee for a key card?"),
        ("And?", "And?"),
    ],
)
def test_english(question, standalone):
    assert follow_ups.standalone(question, BEFORE, TOLD) == standalone


@pytest.mark.parametrize(
    "question, standalone",
    [
        ("它的价格是多少？", "萨雅斯帐篷的价格是多少？"),
        ("那保修期呢？", "萨雅斯帐篷的保修期是多少？"),
        ("那维西卡背包呢？", "维西卡背包的重量是多少？"),
        ("谁负责加普拉仓库？", "谁负责加普拉仓库？"),
    ],
)
def test_chinese(question, standalone):
    assert follow_ups.standalone(question, VORHER, GESAGT) == standalone


def test_the_thing_is_what_both_share():
    shared = follow_ups.shared
    assert shared(BEFORE, TOLD) == "the Solfem canoe"
    assert (
        shared("What is the limit for a refund?", "The limit for a refund is 32 days.")
        == "a refund"
    )
    assert (
        shared("What is the Solfem canoe's price?", "Solfem canoe: price 685") == "the Solfem canoe"
    )
    assert shared(VORHER, GESAGT) == "萨雅斯帐篷"
    assert shared(BEFORE, "Nothing of it.") == "" == follow_ups.shared("", "")
    assert follow_ups.standalone("How heavy is it?", BEFORE, "") == "How heavy is it?"


def test_a_model_is_asked_with_the_conversation(monkeypatch):
    from qwen3lab.models import generation

    seen = []

    def generate(model, tokenizer, prompts, **options):
        seen.extend(prompts)
        return [" How heavy is the Solfem canoe?\nsomething else" if len(seen) == 1 else " "]

    monkeypatch.setattr(generation, "generate", generate)
    rewrite = follow_ups.by_model(None, None)
    assert rewrite("How heavy is it?", BEFORE, "48 months") == "How heavy is the Solfem canoe?"
    assert rewrite("How heavy is it?", BEFORE) == "How heavy is it?"  # the model said nothing
    ((message,), _) = seen
    assert f"Q: {BEFORE}\nA: 48 months\nQ: How heavy is it?" in message["content"]


def test_no_control_token_comes_out_of_a_conversation():
    tokenizer = models.load_tokenizer("chat")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    count = lambda text: chat.encode(tokenizer, follow_ups.messages([(text, text)], text)).count(
        end
    )
    assert count("<|im_end|>") == count("plain") == 1


def test_the_passage_is_the_cited_paragraph_or_the_best_hit():
    hits = [Hit(Chunk(0, "A.\nB.", 1, "T"), 0.9), Hit(Chunk(1, "C.", 2, "T"), 0.8)]
    cited = Answer("B", False, hits[0].chunk, 1, "B.")
    nowhere = Answer("Z", False, None, None)
    assert [passage(one, hits) for one in (cited, nowhere, None)] == ["B.", "A.\nB.", "A.\nB."]
    assert passage(nowhere, []) == passage(None, []) == ""
