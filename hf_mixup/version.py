"""The version, in a file that needs nothing installed."""

__version__ = "0.2.0"
