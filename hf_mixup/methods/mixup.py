"""Mixup: the weighted mean of two images (Zhang et al., 2018, section 2)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.masks import blend, unsqueeze_like
from ._base import Method, Net


def mixup(x: Tensor, lam: Tensor, partner: Tensor, out: Tensor | None = None) -> tuple[Tensor, Mix]:
    """`lam * x + (1 - lam) * x[partner]`; `x` (B, ...), `lam` (B,) in [0, 1], `partner` (B,).

    `out`: the tensor to write to, like `x`, or `x` itself; as in all methods.
    """
    return blend(x, partner, unsqueeze_like(lam, x), out), Mix.pair(partner, lam, device=x.device)


@dataclass(eq=False)
class Mixup(Method):
    """`alpha`: both parameters of the Beta distribution of lam, the image's own share; 0 for no mixing; in the paper 1
    on CIFAR, 0.2 on ImageNet.
    """

    paper = "1710.09412"
    title = "Mixup"
    alpha: float = 1.0

    def mix_batch(
        self, net: Net | None, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        return mixup(x, *self.draw(x, self.alpha, rng), out)
