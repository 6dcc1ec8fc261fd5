"""PDF to answers: text and its place, chunk bounds, exact search, what is refused, and the training
of the embedding model.
"""

from __future__ import annotations

import json
import math
import random
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3lab import chat, models, paths, retrieval
from qwen3lab import prompts as qwen3lab_prompts
from qwen3lab.data import pdf as data_pdf
from qwen3lab.data.pdf import Chapter, Line, Page, chapters, read_pdf
from qwen3lab.errors import Qwen3labError
from qwen3lab.retrieval import Chunk, Hit, Index, Keywords
from qwen3lab.world import passages as world_passages
from scripts.tiny_models import embedding


def make_pdf(
    path: Path,
    chapters: list[tuple[str, list[str]]],
    foot: str = "Hollin handbook, page {}",
    **encryption,
) -> Path:
    """A PDF with a title in large print, paragraphs in small print and a foot on each page."""
    from fpdf import FPDF

    class Book(FPDF):
        def footer(self):
            self.set_y(-15)
            self.set_font("helvetica", size=8)
            self.cell(0, 10, foot.format(self.page_no()))

    book = Book(format=(120, 100))
    book.set_auto_page_break(True, 20)
    for title, paragraphs in chapters:
        book.add_page()
        book.set_font("helvetica", size=16)
        book.multi_cell(0, 9, title, new_x="LMARGIN", new_y="NEXT")
        book.set_font("helvetica", size=10)
        for paragraph in paragraphs:
            book.multi_cell(0, 5, paragraph, new_x="LMARGIN", new_y="NEXT")
            book.ln(2)
    if encryption:
        book.set_encryption(**encryption)
    book.output(str(path))
    return path


LAMP = (
    "The Corvel lamp costs 45 euros. It weighs 3.2 kilograms and it is made of oak, which our own"
    " workshop dries for a whole year."
)
KETTLE = "The Brunla kettle costs 19 euros."
BOOK = [
    (
        "1 Products",
        [
            LAMP,
            KETTLE,
            *[
                f"Item {n} stands on shelf A{n + 10}, next to the door of the old store."
                for n in range(12)
            ],
        ],
    ),
    ("2 Rules", ["Ask for a refund within 14 days."]),
]


@pytest.fixture(scope="module")
def pdf(tmp_path_factory) -> Path:
    return make_pdf(tmp_path_factory.mktemp("pdf") / "handbook.pdf", BOOK)


# PDF


def test_pages_carry_their_numbers_and_no_foot(pdf):
    pages = read_pdf(pdf)
    assert [page.number for page in pages] == [1, 2, 3]
    assert "14 days" in pages[2].text
    assert not any("handbook" in page.text for page in pages)
    assert len(pages[0].lines) > len(BOOK[0][1][:3])  # the first paragraph needs several lines


def test_paragraphs_come_back_as_they_were_written_with_chapter_and_page(pdf):
    first, second = chapters(read_pdf(pdf))
    assert (first.title, second.title) == ("1 Products", "2 Rules")
    assert [text for text, _ in first.paragraphs] == BOOK[0][1]
    assert first.paragraphs[0][1] == 1 and first.paragraphs[-1][1] == 2
    assert second.paragraphs == ((BOOK[1][1][0], 3),)


@pytest.mark.parametrize(
    ("a", "b", "joined"),
    [
        ("The lamp is", "made of oak.", "The lamp is made of oak."),
        ("保修期是十二", "个月。", "保修期是十二个月。"),
        ("订货号是", "GV-688。", "订货号是GV-688。"),
        ("a well-known sen-", "tence", "a well-known sentence"),
        ("order code GV-", "688", "order code GV-688"),
        ("the ware\u00ad", "house", "the warehouse"),
    ],
)
def test_lines_join_by_their_script(a, b, joined):
    assert data_pdf.join(a, b) == joined


def test_ligatures_and_soft_hyphens_become_letters(tmp_path):
    from fpdf import FPDF

    page = FPDF()
    page.add_page()
    page.set_font("helvetica", size=11)
    page.text(20, 20, "The ware\u00adhouse of the shop is large, and it is never opened be\u00ad")
    page.text(20, 25, "fore noon.")
    page.output(str(tmp_path / "soft.pdf"))
    (part,) = chapters(read_pdf(tmp_path / "soft.pdf"))
    assert part.paragraphs == (
        ("The warehouse of the shop is large, and it is never opened before noon.", 1),
    )
    assert "of\ufb01ce \ufb02at e\ufb00ort".translate(data_pdf.LIGATURES) == "office flat effort"


def test_a_foot_that_the_file_holds_before_the_text_is_dropped():
    feet = [Line(f"Hollin handbook, page {n}", 8, 20) for n in (1, 2, 3)]
    pages = [
        Page(n, (foot, Line("一二三"[n - 1], 10, 400), Line("四五六"[n - 1], 10, 388)))
        for n, foot in enumerate(feet, start=1)
    ]
    assert [page.text for page in data_pdf.without_furniture(pages)] == [
        "一\n四",
        "二\n五",
        "三\n六",
    ]
    hidden = [
        Page(4, (*pages[0].lines, Line("below the foot", 10, -30)))
    ]  # a line below it does not keep it
    assert data_pdf.without_furniture(pages + hidden)[3].text == "一\n四\nbelow the foot"


def test_chinese_paragraph_is_joined_without_spaces_and_chapters_without_fonts_go_by_numbers():
    lines = [
        ("第一章 产品", 10),
        ("科尔维台灯售价45欧元。它由橡木制成，木材在我们", 10),
        ("自己的车间里干燥一年。", 10),
        ("2 规定", 10),
        ("退款须在14天内申请。", 10),
    ]
    page = Page(7, tuple(Line(text, size, 500 - 12.0 * n) for n, (text, size) in enumerate(lines)))
    first, second = chapters([page])
    assert first.paragraphs == (
        ("科尔维台灯售价45欧元。它由橡木制成，木材在我们自己的车间里干燥一年。", 7),
    )
    assert second == Chapter("2 规定", (("退款须在14天内申请。", 7),))


def test_the_rows_of_a_table_become_sentences_with_the_names_of_its_columns():
    cells = [
        ("Product", "Price", "Shelf"),
        ("Corvel lamp", "45 euros", "A12"),
        ("Brunla kettle", "19 euros", "B27"),
    ]
    rows = [
        Line(" ".join(row), 9, 400 - 15.0 * n, tuple(zip((30, 120, 200), row)))
        for n, row in enumerate(cells)
    ]
    before, after = (
        Line("Here are the prices.", 10, 420, ((30, "Here are the prices."),)),
        Line("Ask us.", 10, 350, ((30, "Ask us."),)),
    )
    (part,) = chapters([Page(1, (before, *rows, after))])
    assert [text for text, _ in part.paragraphs] == [
        "Here are the prices.",
        "Corvel lamp: price 45 euros; shelf A12.",
        "Brunla kettle: price 19 euros; shelf B27.",
        "Ask us.",
    ]


def test_a_section_stands_behind_the_title_of_its_chapter():
    sizes = {"1 Goods": 20, "1.1 Lamps": 12.5, "1.2 Pots": 12.5, "2 Rules": 19}
    texts = [
        "1 Goods",
        "We sell.",
        "1.1 Lamps",
        "They glow.",
        "1.2 Pots",
        "They boil.",
        "2 Rules",
        "Be kind, and write down what you promise.",
    ]
    page = Page(
        1, tuple(Line(text, sizes.get(text, 11.5), 500 - 30.0 * n) for n, text in enumerate(texts))
    )
    assert [part.title for part in chapters([page])] == [
        "1 Goods",
        "1 Goods / 1.1 Lamps",
        "1 Goods / 1.2 Pots",
        "2 Rules",
    ]


def test_every_answer_of_the_handbook_has_its_chunk():
    from qwen3lab.data import tasks

    chunks = retrieval.chunk(
        read_pdf(paths.HANDBOOK), models.load_tokenizer(paths.MODELS / "qwen3-tiny"), 100
    )
    rows = [
        row
        for split in ("validation", "test")
        for row in tasks.load("handbook", split)
        if row["answerable"]
    ]
    assert len(rows) >= 200
    lost = [
        row["id"]
        for row in rows
        if not retrieval.relevant_chunks(
            chunks, row["answer"], row["pages"], row["fact"].split("/")[1]
        )
    ]
    assert lost == []


def test_a_year_on_the_last_line_stays_where_only_numbers_alone_are_page_numbers():
    page = Page(
        1, (Line("Founded in", 10, 100), Line("1987 by two sisters.", 10, 88), Line("12", 10, 20))
    )
    assert data_pdf.without_furniture([page])[0].text == "Founded in\n1987 by two sisters."


# Chunks


@lru_cache
def Words():
    """A tokenizer with a token for each character: lengths are easy to check."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    core.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="?")


sentences = st.text("abc 好.。", min_size=1, max_size=30).map(lambda s: s.strip()).filter(bool)
books = st.lists(
    st.tuples(
        st.text("XYZ", min_size=1, max_size=3),
        st.lists(st.tuples(sentences, st.integers(1, 4)), min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=4,
)


@given(books, st.integers(1, 40), st.integers(0, 10))
@settings(max_examples=150, deadline=None)
def test_chunks_keep_their_bounds(book, most, overlap):
    parts = [
        Chapter(f"{n} {title}", tuple(sorted(paragraphs, key=lambda p: p[1])))
        for n, (title, paragraphs) in enumerate(book)
    ]
    overlap = min(overlap, most - 1)
    chunks = retrieval.chunk(parts, Words(), most, overlap)
    assert [c.id for c in chunks] == list(range(len(chunks)))
    assert all(0 < len(c.text) <= most for c in chunks)
    bare = lambda text: "".join(text.split())
    for part in parts:
        mine = [c for c in chunks if c.chapter == part.title]
        assert all(c.page in {page for _, page in part.paragraphs} for c in mine)
        if not overlap:  # nothing is lost, doubled or carried over to another chapter
            assert bare("".join(c.text for c in mine)) == bare(
                "".join(text for text, _ in part.paragraphs)
            )
        for text, page in part.paragraphs:
            if len(text) <= most:  # a paragraph that fits is never cut, and its page is known
                assert any(text in c.text and c.stands_on(page) for c in mine)


@given(
    st.lists(st.lists(st.integers(1, 25), min_size=1, max_size=6), min_size=1, max_size=4),
    st.integers(4, 40),
    st.integers(1, 12),
)
@settings(max_examples=80, deadline=None)
def test_an_overlap_repeats_at_most_what_was_asked_for_and_loses_nothing(book, most, overlap):
    letters = iter(
        map(chr, range(0x4E00, 0x9000))
    )  # every character once, so that a place is a place
    parts = [
        Chapter(
            str(n),
            tuple(
                ("".join(next(letters) if i % 7 else "。" for i in range(1, size + 1)), 1)
                for size in sizes
            ),
        )
        for n, sizes in enumerate(book)
    ]
    overlap = min(overlap, most - 1)
    chunks = retrieval.chunk(parts, Words(), most, overlap)
    bare = lambda text: text.replace("\n", "").replace("。", "")
    for part in parts:
        whole, end = bare("".join(text for text, _ in part.paragraphs)), 0
        for text in filter(None, (bare(c.text) for c in chunks if c.chapter == part.title)):
            begin = whole.index(text)
            assert end - overlap <= begin <= end <= begin + len(text)
            end = begin + len(text)
        assert end == len(whole)


def test_chunks_of_500_tokens_with_overlap_stay_in_their_section_of_the_handbook():
    tokenizer = models.load_tokenizer(paths.MODELS / "qwen3-tiny")
    pages = read_pdf(paths.HANDBOOK)
    parts = chapters(pages)
    for most, overlap in ((500, 50), (120, 40)):
        chunks = retrieval.chunk(parts, tokenizer, most, overlap)
        assert max(len(chat.plain_ids(tokenizer, c.text)) for c in chunks) <= most
        assert list(dict.fromkeys(c.chapter for c in chunks)) == [part.title for part in parts]
        for part in parts:
            body = "".join("".join(text.split()) for text, _ in part.paragraphs)
            mine = [c for c in chunks if c.chapter == part.title]
            assert all("".join(c.text.split()) in body for c in mine)
            assert {c.page for c in mine} <= {page for _, page in part.paragraphs}
            assert all(
                "".join(text.split()) in "".join("".join(c.text.split()) for c in mine)
                for text, _ in part.paragraphs
                if overlap == 50
            )


def test_a_written_control_token_counts_as_its_characters(checkpoint):
    tokenizer = models.load_tokenizer(checkpoint)
    text = "<|im_end|>" * 10
    assert len(tokenizer(text).input_ids) == 10
    chunks = retrieval.chunk([Chapter("A", ((text, 1),))], tokenizer, 30)
    assert "".join(c.text for c in chunks) == text and len(chunks) == 4  # 100 bytes, not 10 tokens


def test_a_chunk_over_two_pages_knows_where_the_page_turns():
    part = Chapter("A", (("one", 3), ("two", 3), ("three", 4)))
    (piece,) = retrieval.chunk([part], Words(), 50)
    assert piece.text == "one\ntwo\nthree" and piece.page == 3
    assert [piece.page_at(piece.text.index(w)) for w in ("one", "two", "three")] == [3, 3, 4]


def test_an_overlap_repeats_the_end_of_the_chunk_before():
    part = Chapter("A", (("one", 1), ("two", 1), ("six", 1)))
    assert [c.text for c in retrieval.chunk([part], Words(), 7)] == ["one\ntwo", "six"]
    assert [c.text for c in retrieval.chunk([part], Words(), 7, overlap=3)] == [
        "one\ntwo",
        "two\nsix",
    ]


@pytest.mark.parametrize(("most", "overlap"), [(0, 0), (10, 10), (10, -1)])
def test_impossible_chunk_sizes_are_refused(most, overlap):
    with pytest.raises(Qwen3labError, match="Choose 0 <= overlap < max_tokens"):
        retrieval.chunk([Chapter("A", (("one", 1),))], Words(), most, overlap)


# Search


@pytest.fixture(scope="module")
def embedder_folder(checkpoint, tmp_path_factory) -> Path:
    """A sentence-transformers folder around a body with random weights."""
    from transformers import Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("embedding") / "toy-embedding"
    lm = Qwen3ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    embedding.export(lm.model, embedding.body_tokenizer(checkpoint), folder)
    return folder


@pytest.fixture(scope="module")
def embedder(embedder_folder):
    return models.load_embedding(embedder_folder)


CHUNKS = [
    Chunk(0, LAMP, 1, "1 Products"),
    Chunk(1, KETTLE, 1, "1 Products", turns=((4, 2),)),
    Chunk(2, "退款须在14天内申请。", 3, "2 Rules"),
]


def test_the_search_is_the_inner_product_of_normalised_vectors_with_the_query_prompt(embedder):
    index = Index.build(CHUNKS, embedder)
    question = "What does the Brunla kettle cost?"
    query = embedder.encode(
        "Instruct: Given a question, retrieve the passage that answers it\nQuery:" + question
    )
    passages = embedder.encode([c.text for c in CHUNKS])
    by_hand = passages @ query
    (hits,) = index.search([question], k=9)
    assert [hit.chunk.id for hit in hits] == list(np.argsort(-by_hand))
    np.testing.assert_allclose(
        [hit.score for hit in hits], sorted(by_hand, reverse=True), atol=1e-6
    )
    np.testing.assert_allclose(
        np.linalg.norm(index.faiss.reconstruct_n(0, 3), axis=1), 1, atol=1e-6
    )


def test_a_cut_vector_has_length_one_again(embedder):
    index = Index.build(CHUNKS, embedder, dimension=8)
    whole = embedder.encode([c.text for c in CHUNKS])[:, :8]
    np.testing.assert_allclose(
        index.faiss.reconstruct_n(0, 3),
        whole / np.linalg.norm(whole, axis=1, keepdims=True),
        atol=1e-6,
    )


def test_a_saved_index_finds_the_same(embedder, tmp_path):
    index = Index.build(CHUNKS, embedder, dimension=16)
    again = Index.load(index.save(tmp_path / "index"), embedder)
    assert again.chunks == CHUNKS and again.dimension == 16
    assert again.search(["refund?"]) == index.search(["refund?"])
    assert (
        json.loads((tmp_path / "index" / "settings.json").read_text())["model"] == "toy-embedding"
    )
    assert not list((tmp_path / "index").glob("*.pkl"))


def test_an_index_of_another_model_dimension_or_half_an_index_is_refused(
    embedder, embedder_folder, tmp_path
):
    folder = Index.build(CHUNKS, embedder).save(tmp_path / "index")
    other = models.load_embedding(embedder_folder)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1).add_(0.01)
    with pytest.raises(
        Qwen3labError, match="was made with another version of toy-embedding than the one given"
    ):
        Index.load(folder, other)
    other.truncate_dim = 16
    with pytest.raises(
        Qwen3labError,
        match="has vectors of 32 numbers .from toy-embedding., but toy-embedding makes 16",
    ):
        Index.load(folder, other)
    (folder / "chunks.jsonl").write_text(
        (folder / "chunks.jsonl").read_text().split("\n")[0] + "\n"
    )
    with pytest.raises(Qwen3labError, match="do not belong together"):
        Index.load(folder, embedder)
    (folder / "index.faiss").write_bytes(b"nonsense")
    with pytest.raises(Qwen3labError, match="holds no whole index"):
        Index.load(folder, embedder)
    with pytest.raises(Qwen3labError, match="holds no whole index"):
        Index.load(tmp_path / "nowhere", embedder)


def test_no_chunks_and_impossible_cuts_are_refused(embedder):
    for build in (lambda: Index.build([], embedder), lambda: Keywords([])):
        with pytest.raises(Qwen3labError, match="no chunks to index"):
            build()
    with pytest.raises(Qwen3labError, match="Choose a dimension from 1 to 32"):
        Index.build(CHUNKS, embedder, dimension=33)


def test_key_terms_are_lower_cased_words_codes_and_pairs_of_characters():
    assert retrieval.key_terms("The Corvel lamp: GV-688, 3.2 kg, 6:35!") == [
        "the",
        "corvel",
        "lamp",
        "gv-688",
        "3.2",
        "kg",
        "6:35",
    ]
    assert retrieval.key_terms("台灯售价45欧元。是") == ["45", "台灯", "灯售", "售价", "欧元", "是"]


def test_keywords_score_by_bm25():
    texts = ["red lamp", "blue lamp lamp", "old chair", "red table", "green door"]
    keywords = Keywords([Chunk(n, text, 1, "") for n, text in enumerate(texts)])
    (hits,) = keywords.search(["Red lamp?"], k=2)
    lengths = [2, 3, 2, 2, 2]

    def term(
        count: int, documents: int, length: int
    ) -> float:  # Robertson's formula with k1 = 1.5, b = 0.75
        idf = math.log((5 - documents + 0.5) / (documents + 0.5))
        return idf * count * 2.5 / (count + 1.5 * (0.25 + 0.75 * length / (sum(lengths) / 5)))

    assert [hit.chunk.id for hit in hits] == [0, 3] or [hit.chunk.id for hit in hits] == [0, 1]
    assert hits[0].score == pytest.approx(2 * term(1, 2, 2))


def test_an_index_of_another_model_is_refused_by_both_names(embedder, embedder_folder, tmp_path):
    folder = Index.build(CHUNKS, embedder).save(tmp_path / "index")
    settings_file = folder / "settings.json"
    settings_file.write_text(settings_file.read_text().replace("toy-embedding", "old-embedding"))
    other = models.load_embedding(embedder_folder)
    with torch.no_grad():
        other[0].auto_model.norm.weight *= torch.linspace(0.5, 1.5, 32)
    with pytest.raises(
        Qwen3labError, match="another model .old-embedding. than the one given .toy-embedding."
    ):
        Index.load(folder, other)


def test_grades_tell_a_wrong_answer_from_a_declined_one():
    rows = [
        {"answer": "45 euros", "answerable": True},
        {"answer": "oak", "answerable": True},
        {"answer": "oak", "answerable": True},
        {"answer": qwen3lab_prompts.REFUSAL["en"], "answerable": False},
        {"answer": qwen3lab_prompts.REFUSAL["zh"], "answerable": False},
    ]
    marks = retrieval.grade(
        rows, ["45 Euros.", "steel", "The text does not say", "The text does not say.", "三天"]
    )
    assert (marks["n"], marks["accuracy"], marks["hallucination"]) == (5, 2 / 5, 2 / 5)
    assert (marks["answerable"], marks["unanswerable"]) == (1 / 3, 1 / 2)
    assert marks["accuracy low"] < 2 / 5 < marks["accuracy high"]


def test_recall_counts_questions_whose_chunk_is_among_the_first():
    found = [[Hit(CHUNKS[i], 1.0) for i in order] for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0])]
    relevant = [{0}, {0, 2}, {0}]
    assert [retrieval.recall_at_k(found, relevant, k) for k in (1, 2, 3)] == [1 / 3, 2 / 3, 1.0]
    with pytest.raises(Qwen3labError, match="1 questions have no relevant chunk"):
        retrieval.recall_at_k(found, [{0}, set(), {1}], 1)
    with pytest.raises(Qwen3labError, match="3 results do not match 1 questions"):
        retrieval.recall_at_k(found, [{0}], 1)


def test_relevant_is_what_holds_answer_and_name_on_a_page_that_tells_it():
    assert retrieval.relevant_chunks(CHUNKS, "19 euros", [2]) == {1}
    assert retrieval.relevant_chunks(CHUNKS, "19 euros", [3]) == set()
    assert retrieval.relevant_chunks(CHUNKS, "euros", [1, 3]) == {0, 1}
    assert retrieval.relevant_chunks(CHUNKS, "euros", [1], name="corvel lamp") == {0}


# Answers


@pytest.fixture
def replies(monkeypatch):
    """Stand-in for the model: answers as told, and keeps the prompts."""
    from qwen3lab.models import generation

    kept: dict = {"say": [], "prompts": []}

    def generate(model, tokenizer, prompts, **options):
        kept["prompts"] = [prompt[-1]["content"] for prompt in prompts]
        return kept["say"]

    monkeypatch.setattr(generation, "generate", generate)
    return kept


def test_an_answer_cites_the_page_that_holds_it(replies):
    replies["say"] = ["19 Euros.", "the text does not say", "900 euros"]
    hits = [Hit(chunk, 0.5) for chunk in CHUNKS[:2]]
    told = retrieval.answer_all(
        None, Words(), ["How much?", "Who?", "What?"], [hits, hits, CHUNKS[:2]]
    )
    assert [(a.refused, a.page) for a in told] == [(False, 2), (True, None), (False, None)]
    assert [str(a) for a in told] == ["19 Euros. (page 2)", "the text does not say", "900 euros"]
    assert replies["prompts"][0] == qwen3lab_prompts.context_prompt(
        LAMP + "\n" + KETTLE, "How much?", "en"
    )


def test_chunks_that_do_not_fit_are_left_out_and_the_language_follows_the_question(replies):
    replies["say"] = ["14天"]
    told = retrieval.answer(None, Words(), "几天？", [CHUNKS[2], CHUNKS[0]], max_length=150)
    assert replies["prompts"] == [qwen3lab_prompts.context_prompt(CHUNKS[2].text, "几天？", "zh")]
    assert (told.text, told.page) == ("14天", 3)


def test_without_chunks_the_model_is_not_asked(replies):
    told = retrieval.answer(None, Words(), "几天？", [])
    assert told.refused and told.text == qwen3lab_prompts.REFUSAL["zh"] and not replies["prompts"]


# The embedding model and its training


def test_vectors_are_those_of_sentence_transformers_on_either_padding_side(embedder, checkpoint):
    tokenizer = embedding.body_tokenizer(checkpoint)
    texts = ["short", LAMP, "退款须在14天内申请。"]
    rows = tokenizer(texts).input_ids
    assert all(row[-1] == tokenizer.convert_tokens_to_ids("<|endoftext|>") for row in rows)
    assert embedder.tokenizer.chat_template is None
    with torch.no_grad():
        mine = torch.nn.functional.normalize(
            embedding.vectors(embedder[0].auto_model, rows, tokenizer.pad_token_id), dim=-1
        )
    for side in ("left", "right"):
        embedder.tokenizer.padding_side = side
        np.testing.assert_allclose(embedder.encode_document(texts), mine, atol=1e-6)


def test_a_shared_prefix_changes_nothing(embedder, checkpoint):
    body, tokenizer = embedder[0].auto_model, embedding.body_tokenizer(checkpoint)
    rows, prefix = (
        tokenizer(["one", "two or three"]).input_ids,
        tokenizer("Query: ", add_special_tokens=False).input_ids,
    )
    lent = embedding.vectors(body, rows, tokenizer.pad_token_id, prefix)
    plain = embedding.vectors(body, [prefix + row for row in rows], tokenizer.pad_token_id)
    torch.testing.assert_close(lent, plain, atol=1e-5, rtol=1e-5)


def test_contrastive_loss_is_the_mean_over_the_cuts():
    torch.manual_seed(0)
    queries, passages, targets = torch.randn(3, 8), torch.randn(5, 8), torch.tensor([4, 0, 2])
    expected = 0.0
    for size in (8, 4):
        for i, target in enumerate(targets):
            cosines = [
                float(torch.cosine_similarity(queries[i, :size], p[:size], dim=0)) / 0.1
                for p in passages
            ]
            expected += math.log(sum(math.exp(c) for c in cosines)) - cosines[target]
    assert embedding.contrastive_loss(
        queries, passages, targets, (8, 4), 0.1
    ).item() == pytest.approx(expected / 6, abs=1e-5)


def test_every_question_is_answered_by_its_target_alone_and_negatives_are_near():
    count = lambda text: len(text) // 3
    shared = 0
    for seed in range(6):
        texts, asked, targets = world_passages.draw(random.Random(seed), "en", False, 900, count)
        assert len(asked) == len(targets) and max(targets) < len(texts)
        for question, target in zip(asked, targets):
            name = next(
                (
                    w
                    for w in question.replace("?", "").split()
                    if w[0].isupper() and w in texts[target]
                ),
                None,
            )
            shared += name is not None and sum(name in text for text in texts) > 1
    assert shared > 20  # the name alone does not tell the passage
    same = world_passages.draw(random.Random(3), "zh", False, 900, count)
    assert same == world_passages.draw(random.Random(3), "zh", False, 900, count)


def test_training_runs_resumes_exactly_and_loads_without_our_code(checkpoint, tmp_path):
    from safetensors.torch import load_file
    from sentence_transformers import SentenceTransformer

    whole = embedding.train_embedding(
        checkpoint, tmp_path / "whole", tmp_path / "work", steps=3, smoke=True
    )
    assert whole["step"] == 3 and whole["tokens"] > 0
    (line,) = (tmp_path / "work" / "log.jsonl").read_text().splitlines()
    assert math.isfinite(json.loads(line)["loss"])
    embedding.train_embedding(
        checkpoint, tmp_path / "half", tmp_path / "work2", steps=3, smoke=True, stop_after=2
    )
    embedding.train_embedding(
        checkpoint, tmp_path / "half", tmp_path / "work2", steps=3, smoke=True
    )
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "half"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["embed_tokens.weight"], torch.zeros_like(a["embed_tokens.weight"]))
    model = SentenceTransformer(str(tmp_path / "half"), device="cpu")
    assert model.prompts["query"].startswith("Instruct: ") and model.prompts["query"].endswith(
        "\nQuery:"
    )
    assert next(model.parameters()).dtype == torch.float32
    assert np.linalg.norm(model.encode_query("How much?")) == pytest.approx(1, abs=1e-5)
