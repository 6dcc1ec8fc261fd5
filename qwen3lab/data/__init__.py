"""Data preparation: task files, public formats, cleaning, deduplication, splits, packing, PDF."""
