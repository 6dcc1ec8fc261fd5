"""Synthetic world that the tiny models know, and the company that is held out from it."""
