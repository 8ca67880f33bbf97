"""Measurements of speed and accuracy, written to records; no test asserts their values."""
