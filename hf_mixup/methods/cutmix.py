"""CutMix: paste a box of the partner (Yun et al., 2019, section 3.1).

Boxes have even sides, as in the authors' code; timm also uses odd sides.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.masks import box_mask, boxes, paste, share_outside
from ..ops.sampling import integers, partners, points, uniform
from ._base import Method, Net


def cutmix(x: Tensor, lam: Tensor, partner: Tensor, centre: Tensor, out: Tensor | None = None) -> tuple[Tensor, Mix]:
    """Each image with one box of its partner; lam becomes the share of pixels kept, after clipping.

    `x` (B, C, H, W), `lam` (B,) in [0, 1], `partner` (B,), `centre` (B or 1, 2) row and column of the box.
    """
    return cutmix_boxes(x, partner, boxes(x.shape[-2:], lam, centre), out)


def cutmix_boxes(x: Tensor, partner: Tensor, corners: Tensor, out: Tensor | None = None) -> tuple[Tensor, Mix]:
    """Each image with the box `corners` (B or 1, 4; half-open top, bottom, left, right) of its partner."""
    size = x.shape[-2:]
    mix = Mix.pair(partner, share_outside(corners, size), partial(box_mask, corners, size, x.device), x.device)
    return paste(x, partner, corners, out), mix


@dataclass(eq=False)
class CutMix(Method):
    """`alpha`: both parameters of the Beta distribution of lam, the image's own share before the box is clipped; 0 for
    no mixing. `minmax`: smallest and largest side of the box, as shares of the image's sides; the sides are then drawn
    uniformly, and the box lies inside the image, as in timm; None for a box with the share 1 - lam of the pixels.
    `correct_lam`: set lam to the share of pixels kept after clipping; False keeps the lam that was drawn.
    """

    paper = "1905.04899"
    title = "CutMix"
    alpha: float = 1.0
    minmax: tuple[float, float] | None = None
    correct_lam: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minmax is not None and not 0 <= self.minmax[0] <= self.minmax[1] <= 1:
            raise ValueError(f"CutMix's minmax is {self.minmax!r}: give a smallest and a largest side, 0 to 1.")

    def mix_batch(
        self, net: Net | None, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        if self.minmax is not None:
            partner = partners(len(x), self.pairing, rng)
            return cutmix_boxes(x, partner, self.inner_boxes(x, rng), out)
        lam, partner = self.draw(x, self.alpha, rng)
        mixed, mix = cutmix(x, lam, partner, points(x.shape[-2:], self.draws(x), rng), out)
        return mixed, mix if self.correct_lam else Mix.pair(partner, lam, mix.mask, device=x.device)

    def inner_boxes(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """(B or 1, 4) corners of boxes inside the image, with sides from `minmax`."""
        corners = []
        for size in x.shape[-2:]:
            side = (size * uniform(*self.minmax, self.draws(x), rng)).long()
            low = integers(size - side + 1, self.draws(x), rng)
            corners += [low, low + side]
        return torch.stack(corners, 1)
