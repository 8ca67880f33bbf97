"""The version, in a file that needs nothing installed."""

__version__ = "0.1.0"
