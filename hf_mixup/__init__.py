"""Mixup for image models, native to the Hugging Face ecosystem."""

import sys

from .batch import BatchMixup, MixupCollator, from_timm, soft_loss
from .config import MixupConfig
from .methods import Method, available, load
from .mix import Mix
from .models import architectures as networks
from .net import Net
from .publish.load_pretrained import load_pretrained
from .tasks import Task, available_tasks, load_task
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
    "Task",
    "__version__",
    "available",
    "available_tasks",
    "from_timm",
    "load",
    "load_pretrained",
    "load_task",
    "networks",
    "soft_loss",
]
