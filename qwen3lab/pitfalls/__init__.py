"""Reproduce common fine-tuning mistakes, each beside its healthy twin."""
