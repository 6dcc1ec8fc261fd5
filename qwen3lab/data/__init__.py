"""Data of the course: task files, public forms read into one schema, cleaning, personal data,
copies, splits, packing, PDF files.
"""
