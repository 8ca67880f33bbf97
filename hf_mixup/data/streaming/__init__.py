"""Streamed splits: their files, the order in which rows are read, and the loaders that read them."""
