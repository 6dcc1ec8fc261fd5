"""Run the notebooks, time their sections, check claims, and the command line."""
