"""C-Mixup: partners with similar targets, for regression (Yao et al., 2022, section 3).

Partners are drawn from the batch, as in the authors' code for their largest data set; for smaller data sets, the
authors draw from all images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.sampling import beta
from ._base import Method, Net
from .mixup import mixup


def near_partners(y: Tensor, draw: Tensor, bandwidth: float) -> Tensor:
    """(B,) partner of each row, possibly itself, with probability proportional to exp(-d^2 / (2 bandwidth^2)).

    d is the distance between targets `y` (B,) or (B, ...); `draw` (B,) uniform in [0, 1).
    """
    y = (y.flatten(1) if y.dim() > 1 else y[:, None]) / bandwidth
    distance = torch.cdist(y, y, compute_mode="donot_use_mm_for_euclid_dist")
    cumulative = torch.softmax(-0.5 * distance.square(), 1).cumsum(1)
    threshold = draw.to(y.device, non_blocking=True)[:, None] * cumulative[:, -1:]
    return (cumulative <= threshold).sum(1).clamp(max=len(y) - 1)


@dataclass(eq=False)
class CMixup(Method):
    """`alpha`: both parameters of the Beta distribution of lam, the image's own share; 0 for no mixing. `bandwidth`:
    standard deviation of the Gaussian kernel by which partners with near targets are preferred, above 0, in units of
    the targets; inf prefers none, as Mixup; the authors use 0.05 to 10 for normalised targets. `pairing`: only "label",
    partners are drawn from the batch by the distance of their targets.
    """

    paper = "2210.05775"
    title = "C-Mixup"
    pairings = ("label",)
    alpha: float = 2.0
    bandwidth: float = 1.0
    pairing: str = "label"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.bandwidth > 0:
            raise ValueError(f"CMixup's bandwidth is {self.bandwidth!r}: give a number above 0.")

    def mix_batch(
        self, net: Net | None, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        lam = beta(self.alpha, self.draws(x), rng).expand(len(x))
        partner = near_partners(y.float(), torch.rand(len(x), generator=rng), self.bandwidth)
        return mixup(x, lam, partner, out)
