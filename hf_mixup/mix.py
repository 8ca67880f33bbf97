"""Mix: who was mixed with whom, and how much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Mix:
    """Row i of a mixed batch is `weight[i, k]` parts of row `index[i, k]`.

    `index`: (B, K) long; column 0 is the row itself in methods that mix pairs.
    `weight`: (B, K) float32; rows sum to one unless the method declares `free_weights`.
    `mask`: (B or 1, K-1, H, W) in [0, 1], the shares of columns 0..K-2 (the last column gets the rest), so one
    where the row's own image shows; None where the method has no mask.
    """

    index: Tensor
    weight: Tensor
    mask: Tensor | None = None

    @staticmethod
    def pair(
        partner: Tensor,
        lam: Tensor,
        mask: Tensor | Callable[[], Tensor] | None = None,
        device: torch.device | None = None,
    ) -> Mix:
        """Each row with one partner: `lam` (B,) or (1,) is the share of the row itself, `partner` (B,) its row.

        `mask` may be a function that makes it when it is asked for.
        """
        return Pair(partner=partner, lam=lam, mask=mask, device=device or lam.device)

    @classmethod
    def none(cls, x: Tensor) -> Mix:
        """Nobody is mixed: every row of `x` (B, ...) keeps itself."""
        own = torch.arange(len(x), device=x.device)
        return cls(own[:, None], torch.ones(len(x), 1, device=x.device))

    @property
    def lam(self) -> Tensor:
        """(B,) share of column 0."""
        return self.weight[:, 0]

    @property
    def partner(self) -> Tensor:
        """(B,) row of column 1."""
        return self.index[:, 1]

    def __call__(self, y: Tensor) -> Tensor:
        """(B, ...) what the mixed rows are worth: `sum_k weight[:, k] * y[index[:, k]]`, in float32 or wider."""
        y = wide(y)
        rows = y.flatten(1) if y.dim() > 1 else y[:, None]
        mixed = F.embedding_bag(self.index, rows, per_sample_weights=self.weight.to(y.dtype), mode="sum")
        return mixed.view(len(self.index), *y.shape[1:])


class Pair(Mix):
    """A `Mix` of each row with one partner, whose parts are made when they are asked for."""

    def __new__(cls, index: Tensor | None = None, weight: Tensor | None = None, mask: Tensor | None = None, **pair):
        # what dataclasses.replace asks for is no pair any more
        return super().__new__(cls) if index is None else Mix(index, weight, mask)

    def __init__(self, *, partner: Tensor, lam: Tensor, mask, device: torch.device):
        lam = lam.to(device, torch.float32, non_blocking=True).expand(len(partner))
        self.__dict__.update(_partner=partner.to(device, non_blocking=True), _lam=lam, _mask=mask)

    @property
    def index(self) -> Tensor:
        return torch.stack([torch.arange(len(self._partner), device=self._partner.device), self._partner], 1)

    @property
    def weight(self) -> Tensor:
        return torch.stack([self._lam, 1 - self._lam], 1)

    @property
    def mask(self) -> Tensor | None:
        return self._mask() if callable(self._mask) else self._mask

    @property
    def lam(self) -> Tensor:
        return self._lam

    @property
    def partner(self) -> Tensor:
        return self._partner

    def __call__(self, y: Tensor) -> Tensor:
        y = wide(y)
        lam = self._lam.to(y.dtype).reshape(-1, *[1] * (y.dim() - 1))
        return torch.lerp(y.index_select(0, self._partner), y, lam)


def wide(y: Tensor) -> Tensor:
    """`y` in float32 or wider; TypeError if it has class numbers."""
    if not y.is_floating_point():
        raise TypeError(
            f"Targets of type {y.dtype} cannot be mixed: class numbers have no average. "
            "Give one row of floats for each image, e.g. torch.nn.functional.one_hot(labels, num_classes).float()."
        )
    return y.to(torch.promote_types(y.dtype, torch.float32))
