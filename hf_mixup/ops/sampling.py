"""Random draws of lam, partners and positions from a CPU generator."""

import numpy as np
import torch
from torch import Tensor

TINY = 1e-300  # lower bound of a logarithm's argument
PAIRINGS = ("shift", "permutation", "derangement", "flip", "halves")


def generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by a key of non-negative integers; similar keys give independent streams."""
    word = np.random.SeedSequence([len(key), *key]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word))


def on_device(rng: torch.Generator, device: torch.device) -> torch.Generator:
    """A generator on `device`, seeded by one draw from `rng`: for draws larger than one number per image."""
    seed = torch.randint(2**62, (), generator=rng)
    return torch.Generator(device).manual_seed(int(seed))


def beta(alpha: float, count: int, rng: torch.Generator) -> Tensor:
    """(count,) float32 draws from Beta(alpha, alpha) in [0, 1]; all ones for alpha 0."""
    if alpha == 0:
        return torch.ones(count)
    own, other = _log_gammas(alpha, (count, 2), rng).T
    return torch.from_numpy(np.exp(-np.logaddexp(0, other - own)).astype(np.float32))


def dirichlet(alpha: float, count: int, parts: int, rng: torch.Generator) -> Tensor:
    """(count, parts) float32 draws from the symmetric Dirichlet(alpha), rows sum to one; alpha 0 gives (1, 0, ...)."""
    if alpha == 0:
        return torch.eye(parts)[:1].repeat(count, 1)
    return torch.from_numpy(_log_gammas(alpha, (count, parts), rng)).softmax(1).float()


def _log_gammas(alpha: float, shape: tuple[int, ...], rng: torch.Generator) -> np.ndarray:
    """Logarithms of draws from Gamma(alpha), in float64, because draws for a small alpha would underflow to zero."""
    # Gamma(a) is Gamma(a + 1) U^(1/a)
    gamma = torch._standard_gamma(torch.full(shape, alpha + 1, dtype=torch.float64), generator=rng).numpy()
    u = torch.rand(shape, generator=rng, dtype=torch.float64).numpy()
    # numpy calls have less overhead than torch's for few numbers
    return np.log(gamma) + np.log(np.maximum(u, TINY)) / alpha


def uniform(low: float, high: float, count: int, rng: torch.Generator) -> Tensor:
    """(count,) float32 draws from the uniform distribution on [low, high)."""
    return low + (high - low) * torch.rand(count, generator=rng)


def integers(high: Tensor | int, count: int, rng: torch.Generator) -> Tensor:
    """(count,) integers, uniform in 0..high-1; `high` is one number or a tensor (count,)."""
    if isinstance(high, int):
        return torch.randint(high, (count,), generator=rng)
    return (torch.rand(count, generator=rng, dtype=torch.float64) * high).long().clamp(max=high - 1)


def partners(count: int, pairing: str, rng: torch.Generator) -> Tensor:
    """(count,) partner of each row.

    `shift` and `derangement` have no fixed point for two or more rows, `permutation` may have one. `flip` pairs row i
    with `count - 1 - i`, `halves` with `(i + count // 2) % count`.
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
    """(count,) successor of each row in the cyclic order `order`: no fixed point."""
    return torch.empty_like(order).scatter_(0, order, order.roll(-1))


def points(size: tuple[int, int], count: int, rng: torch.Generator) -> Tensor:
    """(count, 2) integer row and column of random pixels, uniform over an image of `size` (height, width)."""
    return torch.stack([integers(side, count, rng) for side in size], 1)
