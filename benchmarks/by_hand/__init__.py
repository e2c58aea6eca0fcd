"""The steps of the examples, written by hand for each backend: what `lines_of_code.py` counts."""
