"""Citations, thresholds, marks, the whole book in the prompt: compared with hand computation."""

from __future__ import annotations

import pytest

from qwen3lab import chat, models, retrieval
from qwen3lab import prompts as qwen3lab_prompts
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import generation
from qwen3lab.retrieval import Answer, Chunk, Hit, answering, grading, whole_book


class Letters:
    """A tokenizer with a token for each character: lengths are easy to check."""


@pytest.fixture(autouse=True)
def letters(monkeypatch):
    counted = chat.plain_ids
    monkeypatch.setattr(
        answering,
        "plain_ids",
        lambda tokenizer, text: (
            list(text) if isinstance(tokenizer, Letters) else counted(tokenizer, text)
        ),
    )


MUG = Chunk(0, "Mellu mug: colour blue; price 14 euros.\nThe Mellu mug is small.", 4, "1 Kitchen")
PACK = Chunk(
    1,
    "A rule for all.\nThe Funlin backpack is blue. It stands on shelf B27.",
    6,
    "2 Tents",
    turns=((16, 7),),
)
ZH = Chunk(2, "退款须在25天内申请。", 9, "3 规定")


@pytest.fixture
def replies(monkeypatch):
    """Stand-in for the model: answers as told, and keeps the prompts."""
    kept: dict = {"say": [], "prompts": []}

    def generate(model, tokenizer, prompts, **options):
        kept["prompts"] += [prompt[-1]["content"] for prompt in prompts]
        return [kept["say"].pop(0) for _ in prompts]

    monkeypatch.setattr(generation, "generate", generate)
    return kept


# Citations


def test_of_several_places_the_one_that_speaks_of_the_question_is_cited():
    assert retrieval.cite("Blue.", [MUG, PACK], "What colour is the Funlin backpack?") == (
        PACK,
        7,
        "The Funlin backpack is blue. It stands on shelf B27.",
    )
    assert retrieval.cite("blue", [PACK, MUG], "Which colour has the Mellu mug?") == (
        MUG,
        4,
        "Mellu mug: colour blue; price 14 euros.",
    )
    assert retrieval.cite("blue", [PACK, MUG]) == (
        PACK,
        7,
        "The Funlin backpack is blue. It stands on shelf B27.",
    )  # of equal ones the first


def test_a_paragraph_that_begins_with_the_answer_is_on_the_page_that_begins_with_it():
    turned = Chunk(0, "One page.\nBlue is the colour.", 1, "", turns=((10, 2),))
    assert retrieval.cite("blue", [turned])[1] == 2 and retrieval.cite("one page", [turned])[1] == 1


def test_an_answer_cites_by_its_question(replies):
    replies["say"] = ["blue", "blue"]
    questions = ["Which colour has the Mellu mug?", "What colour is the Funlin backpack?"]
    told = retrieval.answer_all(None, Letters(), questions, [[PACK, MUG]] * 2, max_length=900)
    assert [answer.chunk for answer in told] == [MUG, PACK]


@pytest.mark.parametrize(
    ("text", "held", "found"),
    [
        ("7 days", "within 17 days", False),
        ("7 days", "within 7 days.", True),
        ("W1", "form W18", False),
        ("W1", "form W1.", True),
        ("7 kilograms", "it weighs 4.7 kilograms", False),
        ("4.7 kilograms", "it weighs 4.7 kilograms", True),
        ("6:4", "opens at 6:45", False),
        ("5天", "须在25天内", False),
        ("25天", "须在25天内", True),
        ("铜", "由铜制成", True),
        ("", "anything", False),
        ("。", "anything。", False),
    ],
)
def test_an_answer_is_found_as_a_whole(text, held, found):
    assert (retrieval.cite(text, [Chunk(0, held, 1, "")])[0] is not None) is found


def test_only_what_was_read_is_cited(replies):
    replies["say"] = ["25天"]
    told = retrieval.answer(
        None, Letters(), "退款期限？", [Chunk(0, "无关的一句话。", 1, ""), ZH], max_length=100
    )
    assert ZH.text not in replies["prompts"][0] and (told.chunk, told.page, told.quote) == (
        None,
        None,
        "",
    )


def test_below_the_threshold_nobody_is_asked(replies):
    replies["say"] = ["14 euros"]
    hits = [[Hit(MUG, 0.8)], [Hit(MUG, 0.79)], []]
    told = retrieval.answer_all(
        None, Letters(), ["What does the Mellu mug cost?"] * 3, hits, threshold=0.8, max_length=500
    )
    assert [(a.text, a.page) for a in told] == [
        ("14 euros", 4),
        (qwen3lab_prompts.REFUSAL["en"], None),
        (qwen3lab_prompts.REFUSAL["en"], None),
    ]
    assert len(replies["prompts"]) == 1


def test_what_fits_is_counted_with_the_line_breaks():
    one, two, three = (Chunk(n, "x" * 10, 1, "") for n in range(3))
    assert retrieval.fitting(Letters(), [one, two, three], 21) == [one, two]
    assert retrieval.fitting(Letters(), [one, two, three], 20) == [one]
    assert retrieval.fitting(Letters(), [one, two, three], 3) == [one]
    assert retrieval.fitting(Letters(), [], 3) == []


def test_control_tokens_in_a_page_count_as_the_letters_that_they_become():
    tokenizer = models.load_tokenizer("qwen3-tiny")
    pages = [Chunk(n, "<|im_end|><think>" * 4, 1, "") for n in range(12)]
    messages, read = retrieval.prompt(tokenizer, "Who runs the depot?", pages, 300)
    assert 0 < len(read) < 12
    assert (
        len(chat.encode(tokenizer, messages))
        <= 300
        < len(
            chat.encode(
                tokenizer,
                [
                    {
                        "role": "user",
                        "content": qwen3lab_prompts.context_prompt(
                            "\n".join(page.text for page in pages[: len(read) + 1]),
                            "Who runs the depot?",
                            "en",
                        ),
                    }
                ],
            )
        )
        + 2
    )


# Marks

ROWS = [
    {"answer": "blue", "answerable": True, "fact": "en/Mellu mug/colour", "pages": [4, 20]},
    {"answer": "14 euros", "answerable": True, "fact": "en/Mellu mug/price", "pages": [4]},
    {"answer": qwen3lab_prompts.REFUSAL["en"], "answerable": False, "fact": None, "pages": []},
    {"answer": qwen3lab_prompts.REFUSAL["zh"], "answerable": False, "fact": None, "pages": []},
]


def test_codes_are_right_declined_or_invented():
    assert (
        retrieval.codes(ROWS, ["Blue.", "14 Euros", "the text does not say", "文中没有提到。"])
        == "RRRR"
    )
    assert retrieval.codes(ROWS, ["green", "The text does not say.", "17", "三天"]) == "HDHH"
    assert (
        retrieval.codes(ROWS[2:], ["文中没有提到。", "The text does not say."]) == "RR"
    )  # declined, though in the other language


def test_a_citation_tells_the_fact_where_page_thing_and_value_fit():
    good = Answer("blue", False, MUG, 4, "Mellu mug: colour blue; price 14 euros.")
    wrong_page, other_thing = (
        Answer("blue", False, MUG, 5, good.quote),
        Answer("blue", False, PACK, 4, "The Funlin backpack is blue."),
    )
    other_value = Answer("small", False, MUG, 4, "The Mellu mug is small.")
    nowhere, declined = (
        Answer("blue", False, None, None),
        Answer(qwen3lab_prompts.REFUSAL["en"], True, None, None),
    )
    assert [
        retrieval.tells(ROWS[0], answer)
        for answer in (good, wrong_page, other_thing, other_value, nowhere)
    ] == [True, False, False, False, False]
    assert not retrieval.tells(ROWS[2], good)
    assert retrieval.cited(ROWS, [good, wrong_page, declined, good]) == "10-0"


def test_marks_by_hand():
    from qwen3lab.evaluation import wilson

    found = retrieval.marks(
        [True, True, True, False, False], ["RRHRH", "RDHRR"], ["110-0", "1-0--"]
    )
    assert (
        found["n"] == 5
        and found["accuracy"] == pytest.approx(3 / 5)
        and found["hallucination"] == pytest.approx(1.5 / 5)
    )
    assert (found["accuracy low"], found["accuracy high"]) == pytest.approx(wilson(3, 5))
    assert (found["lowest"], found["highest"]) == (3 / 5, 3 / 5)
    assert found["answerable"] == pytest.approx(3 / 6) and found["unanswerable"] == pytest.approx(
        3 / 4
    )
    assert found["cited"] == pytest.approx(3 / 6)
    with pytest.raises(
        Qwen3labError,
        match="There are 2 questions, but codes for 3. Give a letter for each question.",
    ):
        retrieval.marks([True, False], ["RRR"])


def test_a_table_counts_the_kept_questions_only():
    systems = {"one": {"codes": ["RHRH"], "cited": ["10-0"]}, "two": {"codes": ["RRRR", "HHHH"]}}
    table = grading.table(ROWS, systems, lambda row: row["answerable"])
    assert list(table.index) == ["one", "two"]
    assert table.loc["one", ["n", "accuracy", "hallucination", "cited"]].tolist() == [
        2,
        0.5,
        0.5,
        0.5,
    ]
    assert table.loc["two", ["accuracy", "lowest", "highest"]].tolist() == [0.5, 0.0, 1.0]


def test_the_readable_table_has_the_same_numbers():
    table = grading.table(
        ROWS, {"one": {"codes": ["RHRH"], "cited": ["10-0"]}, "two": {"codes": ["RRRR", "HHHR"]}}
    )
    shown = retrieval.readable(table)
    low, high = table.loc["one", ["accuracy low", "accuracy high"]]
    assert shown.loc["one", "accuracy"] == f"0.500 ({low:.3f}–{high:.3f})" and shown.loc[
        "one", ["n", "cited", "by seed"]
    ].tolist() == [4, "0.333", ""]
    assert shown.loc["two", ["cited", "by seed", "answerable", "unanswerable"]].tolist() == [
        "",
        "0.250–1.000",
        "0.500",
        "0.750",
    ]
    assert list(retrieval.readable(table.drop(index="two", columns="cited")).columns) == [
        "n",
        "accuracy",
        "hallucination",
        "answerable",
        "unanswerable",
    ]


def test_a_threshold_turns_low_scores_into_refusals_and_none_turns_nothing():
    answerable, scores = [True, True, False, False], [0.9, 0.3, 0.5, 0.2]
    assert retrieval.with_threshold("RRHH", scores, answerable, 0.5) == "RDHR"
    assert retrieval.with_threshold("RRHH", scores, answerable, 0.51) == "RDRR"
    assert retrieval.with_threshold("RRHH", scores, answerable, None) == "RRHH"


def test_the_threshold_with_most_right_answers_is_chosen():
    answerable, scores = [True, True, True, False, False], [0.9, 0.8, 0.4, 0.6, 0.2]
    # Declining below 0.3: 4 right; below 0.7: 4 right too, with nothing invented.
    assert retrieval.choose_threshold("RRRHH", scores, answerable) == pytest.approx(0.7)
    assert retrieval.choose_threshold("RRRRH", scores, answerable) == pytest.approx(0.3)
    assert retrieval.choose_threshold("RRRRR", scores, answerable) is None
    # Of equally good ones the lowest: everything between 0.2 and 0.9 declines the same single
    # question for nothing.
    assert retrieval.choose_threshold("HH", [0.9, 0.2], [True, True]) == pytest.approx(0.55)


def test_the_chosen_threshold_is_no_worse_than_any_other_on_the_same_questions():
    import random

    rng = random.Random(0)
    for _ in range(50):
        n = rng.randint(2, 12)
        run, there, scores = (
            "".join(rng.choice("RDH") for _ in range(n)),
            [rng.random() < 0.6 for _ in range(n)],
            [rng.randint(0, 5) / 5 for _ in range(n)],
        )
        best = retrieval.with_threshold(
            run, scores, there, retrieval.choose_threshold(run, scores, there)
        ).count("R")
        assert best >= max(
            retrieval.with_threshold(run, scores, there, t).count("R")
            for t in [None, *(i / 10 for i in range(1, 10, 2) if i / 10 < max(scores))]
        )


# The whole book


def test_windows_follow_the_book_and_lose_nothing():
    chunks = [Chunk(n, "y" * (4 + n), 1, "") for n in range(7)]
    found = whole_book.windows(Letters(), chunks, 20)
    assert [chunk for window in found for chunk in window] == chunks
    assert [[len(chunk.text) for chunk in window] for window in found] == [
        [4, 5, 6],
        [7, 8],
        [9, 10],
    ]  # with the line breaks 17, 16 and 20


def test_the_front_of_the_book_is_what_fits(replies):
    replies["say"] = ["blue"]
    room = len(qwen3lab_prompts.context_prompt("", "Colour?", "en")) + 16 + len(MUG.text) + 24
    (told,) = whole_book.read_front(None, Letters(), ["Colour?"], [MUG, PACK], max_length=room)
    assert (
        replies["prompts"] == [qwen3lab_prompts.context_prompt(MUG.text, "Colour?", "en")]
        and told.chunk == MUG
    )


def test_of_many_readers_the_most_common_answer_counts():
    no = Answer(qwen3lab_prompts.REFUSAL["en"], True, None, None)
    blue, red, again = (
        Answer("blue", False, MUG, 4),
        Answer("red", False, None, None),
        Answer("red", False, PACK, 7),
    )
    assert whole_book.settle("Colour?", [no, blue, red, again]) is red
    assert whole_book.settle("Colour?", [no, blue, no, red]) is blue
    assert whole_book.settle("颜色？", [no, no]).text == qwen3lab_prompts.REFUSAL["zh"]


def test_every_window_is_asked_every_question(replies):
    replies["say"] = ["The text does not say.", "14 euros", "blue", "The text does not say."]
    room = len(PACK.text)
    told = whole_book.read_through(
        None, Letters(), ["Backpack colour?", "Mug price?"], [MUG, PACK], room, max_length=1000
    )
    assert [(a.text, a.page) for a in told] == [("blue", 7), ("14 euros", 4)]
    assert [p.split("Text: ")[1] for p in replies["prompts"]] == [
        f"{c.text}\n\nQuestion: {q}"
        for c in (MUG, PACK)
        for q in ("Backpack colour?", "Mug price?")
    ]
