"""Retrieval: a PDF becomes pages, chapters and chunks; an index finds the chunks for a question; the model answers from them."""

from __future__ import annotations

from .answering import Answer, answer, answer_all, cite, context, fitting, language_of, prompt, source
from .chunks import Chunk, chunk
from .fusion import fuse
from .index import Hit, Index, Keywords, key_terms
from .marking import choose_threshold, cited, codes, grade, marks, readable, tells, with_threshold
from .measures import first_ranks, mrr, recall_at_k, relevant_chunks, search_marks
from .pdf import Chapter, Line, Page, chapters, read_pdf
from .rerank import Reader, Reranker
from .vectors import embed, plain_ids

__all__ = ["Answer", "Chapter", "Chunk", "Hit", "Index", "Keywords", "Line", "Page", "Reader", "Reranker", "answer", "answer_all", "chapters",
           "choose_threshold", "chunk", "cite", "cited", "codes", "context", "embed", "first_ranks", "fitting", "fuse", "grade",
           "key_terms", "language_of", "marks", "mrr", "plain_ids", "prompt", "read_pdf", "readable", "recall_at_k", "relevant_chunks", "search_marks", "source",
           "tells", "with_threshold"]
