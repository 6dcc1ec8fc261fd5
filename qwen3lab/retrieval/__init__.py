"""Answer questions from a PDF: chunking, embedding, search, reranking, generation (RAG)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "accounting": ["Account", "account"],
        "answering": [
            "Answer",
            "answer",
            "answer_all",
            "cite",
            "context",
            "fitting",
            "language_of",
            "prompt",
        ],
        "chunking": ["Chunk", "chunk"],
        "embedding": ["embed"],
        "fusion": ["fuse"],
        "knowledge_base": ["KnowledgeBase", "from_folder"],
        "grading": [
            "choose_threshold",
            "cited",
            "codes",
            "grade",
            "marks",
            "readable",
            "tells",
            "with_threshold",
        ],
        "index": ["Hit", "Index", "Keywords", "key_terms"],
        "metrics": ["first_ranks", "mrr", "recall_at_k", "relevant_chunks", "search_marks"],
        "rerank": ["Reader", "Reranker"],
    },
)
