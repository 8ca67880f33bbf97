"""Checks of `mean` and `std`, the normalisation of the images, for methods that need pixel values."""

import math

from torch import Tensor

from ._base import Method


def check_statistics(method: Method) -> None:
    """Raise ValueError unless `mean` and `std` are both None or equally long, finite, with `std` above 0."""
    mean, std, name = method.mean, method.std, type(method).__name__
    if (mean is None) != (std is None) or (mean and len(mean) != len(std)):
        raise ValueError(f"{name}'s mean is {mean!r} and std {std!r}: give both, with one number per channel.")
    if mean and not all(math.isfinite(m) and 0 < s < math.inf for m, s in zip(mean, std, strict=True)):
        raise ValueError(f"{name}'s mean is {mean!r} and std {std!r}: give finite numbers, std above 0.")


def check_channels(method: Method, x: Tensor) -> None:
    """Raise ValueError if `mean` is set and its length is not the number of channels of `x` (B, C, H, W)."""
    if method.mean is not None and len(method.mean) != x.shape[1]:
        raise ValueError(
            f"{type(method).__name__}'s mean has {len(method.mean)} channels, but the images have {x.shape[1]}: "
            "give one number per channel."
        )
