"""One function a chart: takes plain data, returns a matplotlib `Figure`."""

from __future__ import annotations

from .answers import answer_shares, answers_by_kind, size_and_k, threshold_curve, waiting_bars
from .deployment import calibrations, ladder, speculative_gain
from .evaluation import coverage, intervals, judged_orders, metric_bars, wording_dots
from .model import (
    by_digits,
    by_position,
    cache_sizes,
    expert_load,
    expert_speed,
    family_parameters,
    memory_bars,
    planned_against,
    planned_methods,
    routing_changes,
    routing_heatmap,
    routing_information,
)
from .retrieval import ranking_marks, recall_curves, search_trade_off
from .rows import clinic_bars, grouped_shares, packed_rows, precision_and_recall, row_funnel, token_lengths
from .serving import engine_load
from .style import COLOURS, HATCHES, LINES, MARKERS
from .training import (
    ablation,
    block_errors,
    byte_bars,
    code_book,
    failures,
    loss_curves,
    schedules,
    score_bars,
    share_dots,
    spectra,
    speed_ratios,
    time_to_loss,
    trade_off,
    training_curves,
)
