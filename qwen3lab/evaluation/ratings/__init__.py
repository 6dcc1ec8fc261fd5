"""Collect blind human ratings: session, log on disk, notebook form, simulated raters."""
