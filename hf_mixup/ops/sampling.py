"""Draws: shares, partners and points, each from a CPU generator."""

import numpy as np
import torch
from torch import Tensor

TINY = 1e-300  # least number whose logarithm is taken
PAIRINGS = ("shift", "permutation", "derangement", "flip", "halves")


def generator(*key: int) -> torch.Generator:
    """A CPU generator that is a pure function of non-negative numbers; near keys give unrelated streams."""
    word = np.random.SeedSequence([len(key), *key]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word))


def on_device(rng: torch.Generator, device: torch.device) -> torch.Generator:
    """A generator on `device`, seeded by one draw from `rng`: for fields larger than one number an image."""
    seed = torch.randint(2**62, (), generator=rng)
    return torch.Generator(device).manual_seed(int(seed))


def beta(alpha: float, count: int, rng: torch.Generator) -> Tensor:
    """(count,) float32 draws from Beta(alpha, alpha) in [0, 1]; all ones for alpha 0."""
    if alpha == 0:
        return torch.ones(count)
    # logarithms of gamma draws, since both draws of a small alpha are zero: Gamma(a) is Gamma(a + 1) U^(1/a)
    above = torch._standard_gamma(torch.full((count, 2), alpha + 1, dtype=torch.float64), generator=rng).log()
    power = torch.rand(count, 2, generator=rng, dtype=torch.float64).clamp(min=TINY).log() / alpha
    own, other = (above + power).unbind(1)
    return (own - other).sigmoid().float()


def dirichlet(alpha: float, count: int, size: int, rng: torch.Generator) -> Tensor:
    """(count, size) float32 draws from Dirichlet(alpha, ..., alpha), rows summing to one; `alpha` above 0."""
    # as `beta`: a softmax of logarithms of gamma draws
    above = torch._standard_gamma(torch.full((count, size), alpha + 1, dtype=torch.float64), generator=rng).log()
    power = torch.rand(count, size, generator=rng, dtype=torch.float64).clamp(min=TINY).log() / alpha
    return (above + power).softmax(1).float()


def uniform(low: float, high: float, count: int, rng: torch.Generator) -> Tensor:
    """(count,) float32 draws from the uniform distribution on [low, high)."""
    return low + (high - low) * torch.rand(count, generator=rng)


def integers(high: Tensor | int, count: int, rng: torch.Generator) -> Tensor:
    """(count,) whole numbers, uniform in 0..high-1; `high` is a number or one for each draw."""
    if isinstance(high, int):
        return torch.randint(high, (count,), generator=rng)
    return (torch.rand(count, generator=rng, dtype=torch.float64) * high).long().clamp(max=high - 1)


def partners(count: int, pairing: str, rng: torch.Generator) -> Tensor:
    """(count,) the partner of each row.

    `shift` and `derangement` have no fixed point for two rows and more; `permutation` may; `flip` is `count-1-i` and
    `halves` the row half a batch away.
    """
    own = torch.arange(count)
    if count < 2:
        return own
    if pairing == "shift":
        return own.roll(-int(torch.randint(1, count, (), generator=rng)))
    if pairing == "permutation":
        return torch.randperm(count, generator=rng)
    if pairing == "derangement":
        return _cycle(torch.randperm(count, generator=rng))
    if pairing == "flip":
        return own.flip(0)
    if pairing == "halves":
        return own.roll(-(count // 2))
    raise ValueError(f"Unknown pairing {pairing!r}. Choose one of: {', '.join(PAIRINGS)}.")


def _cycle(order: Tensor) -> Tensor:
    """(count,) each row's successor on the circle that `order` goes round: random, without a fixed point."""
    return torch.empty_like(order).scatter_(0, order, order.roll(-1))


def points(size: tuple[int, int], count: int, rng: torch.Generator) -> Tensor:
    """(count, 2) whole row and column of a point, uniform over an image of `size` (height, width)."""
    return torch.stack([integers(side, count, rng) for side in size], 1)
