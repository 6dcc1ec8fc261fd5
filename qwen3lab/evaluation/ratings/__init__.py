"""Ratings by people: a session without the systems' names, its log on disk, a form for the
notebook, simulated raters.
"""
