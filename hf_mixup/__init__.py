"""Mixup for image models, native to the Hugging Face ecosystem."""

import sys

from .batch import BatchMixup, MixupCollator, from_timm, soft_loss
from .config import MixupConfig
from .methods import Method, available, load
from .mix import Mix
from .models import architectures as networks
from .net import Net
from .publish.load_pretrained import load_pretrained
from .trainer import MixupStep, MixupTrainer
from .version import __version__

sys.modules[f"{__name__}.networks"] = networks  # `import hf_mixup.networks` is a public path

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
