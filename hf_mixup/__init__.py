"""Mixup for image models, native to the Hugging Face ecosystem."""

from .methods import Method, available, load
from .mix import Mix
from .net import Net

__version__ = "0.1.0"
