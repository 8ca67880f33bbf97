"""The widest floating-point type of a device."""

import torch
from torch import Tensor

WITHOUT_FLOAT64 = ("mps",)  # types of devices


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has no float64."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def widened(x: Tensor) -> Tensor:
    """`x` in the widest type of its device."""
    return x.to(widest(x.device))
