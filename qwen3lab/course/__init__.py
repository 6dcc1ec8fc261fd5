"""Run the notebooks, time their sections, check claims, and provide the command line."""
