"""Mixup for image models, native to the Hugging Face ecosystem."""

from . import networks
from .batch import BatchMixup, MixupCollator, from_timm, soft_loss
from .config import MixupConfig
from .methods import Method, available, load
from .mix import Mix
from .net import Net
from .pretrained import load_pretrained
from .step import MixupStep
from .trainer import MixupTrainer
from .version import __version__

__all__ = [
    "BatchMixup",
    "Method",
    "Mix",
    "MixupCollator",
    "MixupConfig",
    "MixupStep",
    "MixupTrainer",
    "Net",
    "__version__",
    "available",
    "from_timm",
    "load",
    "load_pretrained",
    "networks",
    "soft_loss",
]
