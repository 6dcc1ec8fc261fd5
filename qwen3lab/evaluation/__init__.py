"""Evaluate models: scores with intervals, judges, ratings, contamination, a report card."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "scoring": [
            "evaluate_tasks",
            "exact_match",
            "example",
            "is_refusal",
            "negative_log_likelihood",
            "normalize",
            "perplexity",
            "read_answers",
            "summary",
        ],
        "statistics": ["Z95", "wilson"],
    },
)
