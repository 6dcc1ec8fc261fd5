"""Charts, one function each: takes plain data, returns a matplotlib `Figure`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "data": [
            "clinic_bars",
            "grouped_shares",
            "packed_rows",
            "precision_and_recall",
            "row_funnel",
            "token_lengths",
        ],
        "deployment": ["calibrations", "engine_load", "ladder", "low_bits", "speculative_gain"],
        "evaluation": ["coverage", "judged_orders", "paired_differences", "wording_dots"],
        "model": [
            "by_digits",
            "by_position",
            "cache_sizes",
            "expert_load",
            "expert_speed",
            "family_parameters",
            "memory_bars",
            "planned_against",
            "routing_changes",
            "routing_heatmap",
            "routing_information",
        ],
        "retrieval": [
            "answer_shares",
            "answers_by_kind",
            "ranking_marks",
            "search_trade_off",
            "size_and_k",
            "threshold_curve",
            "waiting_bars",
        ],
        "style": ["COLOURS", "HATCHES", "LINES", "MARKERS"],
        "training": [
            "ablation",
            "block_errors",
            "code_book",
            "failures",
            "learned_and_forgotten",
            "loss_curves",
            "schedules",
            "score_bars",
            "share_dots",
            "spectra",
            "speed_ratios",
            "time_to_loss",
            "training_curves",
        ],
        "vision": ["captioned", "patch_grid", "token_positions"],
    },
)
