"""The configuration of a run: fields, recipes in YAML, command line, validation."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import MixupConfig, load_config, parse

__all__ = ["MixupConfig", "load_config", "parse"]


def __getattr__(name: str) -> Any:
    """Import the configuration when it is first used: transformers takes seconds to import, and recipes need it not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".config", __name__), name)
