"""Algorithms built by hand, each equal to the library's own result.

Of the course, these files import only `family` and `errors`.
"""
