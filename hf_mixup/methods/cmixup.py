"""C-Mixup: partners with near targets, for regression (Yao et al., 2022, section 3).

Partners are looked for in the batch, as the authors do for their largest data set; elsewhere they search all images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.sampling import beta
from ._base import Method
from .mixup import mixup


def near_partners(y: Tensor, chance: Tensor, bandwidth: float) -> Tensor:
    """(B,) a row for each row, itself included, drawn with probability in proportion to exp(-d^2 / (2 bandwidth^2)).

    d is the distance of the targets `y` (B,) or (B, ...); `chance` (B,) in [0, 1) draws.
    """
    y = (y.flatten(1) if y.dim() > 1 else y[:, None]) / bandwidth
    distance = torch.cdist(y, y, compute_mode="donot_use_mm_for_euclid_dist")
    reached = torch.softmax(-0.5 * distance.square(), 1).cumsum(1)
    drawn = chance.to(y.device, non_blocking=True)[:, None] * reached[:, -1:]
    return (reached <= drawn).sum(1).clamp(max=len(y) - 1)


@dataclass(eq=False)
class CMixup(Method):
    """`alpha`: both parameters of the Beta distribution of lam. `bandwidth`: how far targets may be apart, in their own
    units; inf is Mixup. The authors take 0.05 to 10, for targets that are normalised.
    """

    paper = "2210.05775"
    title = "C-Mixup"
    pairings = ("label",)
    alpha: float = 2.0
    bandwidth: float = 1.0
    pairing: str = "label"

    def __post_init__(self):
        super().__post_init__()
        if not self.bandwidth > 0:
            raise ValueError(f"CMixup's bandwidth is {self.bandwidth!r}: give a distance of targets above 0.")

    def mix_batch(self, net, x, y, rng, out=None):
        lam = beta(self.alpha, self.draws(x), rng).expand(len(x))
        partner = near_partners(y.float(), torch.rand(len(x), generator=rng), self.bandwidth)
        return mixup(x, lam, partner, out)
