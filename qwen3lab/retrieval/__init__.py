"""Retrieval: a PDF becomes pages, chapters and chunks; an index finds the chunks for a question; the model answers from them."""

from __future__ import annotations

from .answering import Answer, answer, answer_all, context, grade, source
from .chunks import Chunk, chunk
from .index import Hit, Index, Keywords, key_terms, recall_at_k, relevant_chunks
from .pdf import Chapter, Line, Page, chapters, read_pdf

__all__ = ["Answer", "Chapter", "Chunk", "Hit", "Index", "Keywords", "Line", "Page", "answer", "answer_all", "chapters", "chunk",
           "context", "grade", "key_terms", "read_pdf", "recall_at_k", "relevant_chunks", "source"]
