"""The configuration of a run: its fields, recipes in YAML, the command line, and what is refused."""

from .config import MixupConfig, parse

__all__ = ["MixupConfig", "parse"]
