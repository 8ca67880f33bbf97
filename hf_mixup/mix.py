"""Mix: mixing indices, weights and masks of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(init=False, eq=False)  # for `repr` and `dataclasses.replace`
class Mix:
    """Row i of a mixed batch is `sum_k weight[i, k] * row index[i, k]`. Immutable.

    `index`: (B, K) long; column 0 is the row itself in methods that mix pairs.
    `weight`: (B, K) float32; rows sum to one unless the method declares `free_weights`.
    `mask`: (B or 1, K-1, H, W) in [0, 1], the shares of images 0..K-2 in each pixel (image K-1 has the rest); None if
    the method has no mask. For pairs it is one where the row's own image is visible.
    A mask may be given as a function, which is called when `mask` is first read.
    """

    __slots__ = ("_index", "_weight", "_mask", "_partner", "_lam")

    index: Tensor
    weight: Tensor
    mask: Tensor | None

    def __init__(
        self, index: Tensor | None, weight: Tensor | None, mask: Tensor | Callable[[], Tensor] | None = None
    ) -> None:
        self._index, self._weight, self._mask = index, weight, mask
        self._partner: Tensor | None = None
        self._lam: Tensor | None = None

    @classmethod
    def pair(
        cls,
        partner: Tensor,
        lam: Tensor,
        mask: Tensor | Callable[[], Tensor] | None = None,
        device: torch.device | None = None,
    ) -> Mix:
        """The `Mix` of each row with one partner; `lam` (B,) or (1,) is the row's own share, `partner` (B,) indices.

        `device` of the result, by default the device of `lam`. `index` and `weight` are built when they are first read.
        """
        device = device or lam.device
        mix = cls(None, None, mask)
        mix._partner = partner.to(device, non_blocking=True)
        mix._lam = lam.to(device, torch.float32, non_blocking=True).expand(len(partner))
        return mix

    @classmethod
    def none(cls, x: Tensor) -> Mix:
        """The `Mix` of a batch `x` (B, ...) that is not mixed: each row has weight one."""
        own = torch.arange(len(x), device=x.device)
        return cls(own[:, None], torch.ones(len(x), 1, device=x.device))

    @property
    def index(self) -> Tensor:
        if self._index is None:
            own = torch.arange(len(self._partner), device=self._partner.device)
            self._index = torch.stack([own, self._partner], 1)
        return self._index

    @property
    def weight(self) -> Tensor:
        if self._weight is None:
            self._weight = torch.stack([self._lam, 1 - self._lam], 1)
        return self._weight

    @property
    def mask(self) -> Tensor | None:
        if callable(self._mask):
            self._mask = self._mask()
        return self._mask

    @property
    def lam(self) -> Tensor:
        """(B,) weight of column 0."""
        return self.weight[:, 0] if self._lam is None else self._lam

    @property
    def partner(self) -> Tensor:
        """(B,) index of column 1."""
        return self.index[:, 1] if self._partner is None else self._partner

    def __call__(self, y: Tensor) -> Tensor:
        """(B, ...) mixed rows of `y`, `sum_k weight[:, k] * y[index[:, k]]`, in float32 or wider.

        Raises TypeError if `y` is not floating point.
        """
        if not y.is_floating_point():
            raise TypeError(
                f"Targets of type {y.dtype} cannot be mixed: class indices have no average. "
                "Give one row of floats per image, e.g. torch.nn.functional.one_hot(labels, num_classes).float()."
            )
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        if self._partner is not None:
            lam = self._lam.to(y.dtype).reshape(-1, *[1] * (y.dim() - 1))
            return torch.lerp(y.index_select(0, self._partner), y, lam)
        rows = y.flatten(1) if y.dim() > 1 else y[:, None]
        mixed = F.embedding_bag(self.index, rows, per_sample_weights=self.weight.to(y.dtype), mode="sum")
        return mixed.view(len(self.index), *y.shape[1:])
