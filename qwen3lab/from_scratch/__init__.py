"""Every idea of the course built by hand, each equal to the library's own result; imports nothing
of the course but `family` and `errors`.
"""
