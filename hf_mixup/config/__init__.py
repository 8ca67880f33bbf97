"""The configuration of a run: fields, recipes in YAML, command line, validation."""

from .config import MixupConfig, parse

__all__ = ["MixupConfig", "parse"]
