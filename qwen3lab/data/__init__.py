"""Data of the course: task files and how they are split and checked for leaks."""
