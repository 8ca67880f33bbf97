"""CutMix: paste a box of the partner (Yun et al., 2019, section 3.1)."""

from dataclasses import dataclass

from torch import Tensor

from ..mix import Mix
from ..ops.masks import boxes, outside, paste
from ..ops.sampling import points
from ._base import Method


def cutmix(x: Tensor, lam: Tensor, partner: Tensor, centre: Tensor) -> tuple[Tensor, Mix]:
    """Each image with one box of its partner; lam becomes the share of pixels kept, counted after clipping.

    `x` (B, C, H, W), `lam` (B,) in [0, 1], `partner` (B,), `centre` (B or 1, 2) row and column of the box.
    """
    corners = boxes(x.shape[-2:], lam, centre)
    mask = outside(corners, x.shape[-2:], x.device)
    return paste(x, partner, corners, mask), Mix.pair(partner, mask.mean((1, 2, 3)), mask)


@dataclass(eq=False)
class CutMix(Method):
    """`alpha`: both parameters of the Beta distribution of lam before clipping."""

    paper = "1905.04899"
    title = "CutMix"
    alpha: float = 1.0

    def mix_batch(self, net, x, y, rng):
        lam, partner = self.draw(x, self.alpha, rng)
        return cutmix(x, lam, partner, points(x.shape[-2:], self.draws(x), rng))
