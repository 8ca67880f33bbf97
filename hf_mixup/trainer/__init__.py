"""transformers' Trainer with a mixup method as its training step, and the parts that it is made of."""

from .step import MixupStep
from .trainer import MixupTrainer

__all__ = ["MixupStep", "MixupTrainer"]
