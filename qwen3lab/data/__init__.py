"""Data preparation: files, public formats, cleaning, deduplication, splits, packing, PDF."""
