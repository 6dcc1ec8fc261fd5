"""Mistakes that are often made, each reproduced beside its healthy twin."""
