"""`mean` and `std` of methods that need real pixels: what images were normalised with, one number a channel."""

import math

from torch import Tensor

from ._base import Method


def check_statistics(method: Method) -> None:
    """Raise unless a method has as many of `mean` as of `std`, finite and above 0, or neither."""
    mean, std, name = method.mean, method.std, type(method).__name__
    if (mean is None) != (std is None) or (mean and len(mean) != len(std)):
        raise ValueError(f"{name}'s mean is {mean!r} and std {std!r}: give one of each a channel.")
    if mean and not all(math.isfinite(m) and 0 < s < math.inf for m, s in zip(mean, std, strict=True)):
        raise ValueError(f"{name}'s mean is {mean!r} and std {std!r}: give finite ones, std above 0.")


def check_channels(method: Method, x: Tensor) -> None:
    """Raise unless the images `x` (B, C, H, W) have as many channels as the `mean` of a method, if it has one."""
    if method.mean is not None and len(method.mean) != x.shape[1]:
        raise ValueError(
            f"{type(method).__name__}'s mean has {len(method.mean)} channels, the images {x.shape[1]}: give as many."
        )
