"""Networks and image processors by name, and the format in which they are published."""

from .build import base_model, build_model
from .save import save_published

__all__ = ["base_model", "build_model", "save_published"]
