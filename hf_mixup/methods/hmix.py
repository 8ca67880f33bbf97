"""HMix: CutMix inside a box and Mixup outside it (Park et al., 2022).

If the border clips the box, the partner's weight outside the box increases, so that lam stays as drawn.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.masks import blend, box_mask, boxes, unexpand, unsqueeze_like
from ..ops.sampling import points
from ._base import Method, Net


def hmix(
    x: Tensor, lam: Tensor, partner: Tensor, centre: Tensor, ratio: float = 0.5, out: Tensor | None = None
) -> tuple[Tensor, Mix]:
    """Each image with a box of its partner, and mixed with its partner outside the box; the own share is `lam`.

    The share of the box is `ratio * (1 - lam)` before clipping. `x` (B, C, H, W), `lam` (B,) in [0, 1], `partner` (B,),
    `centre` (B or 1, 2) row and column of the box.
    """
    size, lam = x.shape[-2:], unexpand(lam)
    mask = box_mask(boxes(size, 1 - ratio * (1 - lam.double()), centre), size, x.device)
    share = lam.to(x.device, non_blocking=True)
    # for lam 0 the box may be the whole image
    own_weight = unsqueeze_like(share, mask) / mask.mean((2, 3), keepdim=True).clamp(min=1 / mask[0].numel())
    mask = mask * own_weight.clamp(max=1)
    return blend(x, partner, mask, out), Mix.pair(partner, mask.mean((1, 2, 3)), mask)


@dataclass(eq=False)
class HMix(Method):
    """`alpha`: both parameters of the Beta distribution of lam, the image's own share; 0 for no mixing. `ratio`: part
    of the partner's share that is a box, 0 to 1; the rest is mixed outside of it; 0 is Mixup, 1 CutMix.
    """

    paper = "2208.09913"
    title = "HMix"
    alpha: float = 1.0
    ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"HMix's ratio is {self.ratio!r}: give a number from 0 (Mixup) to 1 (CutMix).")

    def mix_batch(
        self, net: Net | None, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        lam, partner = self.draw(x, self.alpha, rng)
        return hmix(x, lam, partner, points(x.shape[-2:], self.draws(x), rng), self.ratio, out)
