"""k-Mixup: Mixup of groups of k images, each moved to its match in another group (Greenewald et al., 2021).

Groups are matched at the least total of squared distances of pixels, exactly, on the device; the authors' code sums the
distances themselves, and takes a copy to the processor. As there, both groupings are of one batch, so that an image may
meet itself; the images that are left over make a smaller group.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.assignment import assign
from ..ops.sampling import beta
from ._base import Method
from .mixup import mixup


def matched_partners(x: Tensor, order: Tensor, k: int) -> Tensor:
    """(B,) the match of each row: group g of `order` (B,), k rows of it, is assigned to rows g k to g k + k - 1.

    `x` (B, ...); the sum of squared distances of matched rows is the least there is.
    """
    order = order.to(x.device, non_blocking=True)
    flat = x.flatten(1).float()
    whole = len(x) // k * k
    groups = [(slice(0, whole), k), (slice(whole, len(x)), len(x) - whole)]  # and the smaller one that is left over
    return torch.cat([_matches(flat, part, order[part].view(-1, size)) for part, size in groups if flat[part].numel()])


def _matches(flat: Tensor, part: slice, order: Tensor) -> Tensor:
    """(G * k,) the matches of the rows `part` of `flat` (B, D), k by k, among its rows `order` (G, k)."""
    groups = flat[part].view(*order.shape, -1)
    others = flat.index_select(0, order.flatten()).view_as(groups)
    cost = torch.cdist(groups, others, compute_mode="donot_use_mm_for_euclid_dist").square()
    return order.gather(1, assign(cost)).flatten()


@dataclass(eq=False)
class KMixup(Method):
    """`alpha`: both parameters of the Beta distribution of lam. `k`: images in a group; 1 is Mixup."""

    paper = "2106.02933"
    title = "k-Mixup"
    pairings = ("assignment",)
    alpha: float = 1.0
    k: int = 16
    pairing: str = "assignment"

    def __post_init__(self):
        super().__post_init__()
        if self.k < 1:
            raise ValueError(f"KMixup's k is {self.k!r}: give 1 image or more.")

    def mix_batch(self, net, x, y, rng, out=None):
        lam = beta(self.alpha, self.draws(x), rng).expand(len(x))
        return mixup(x, lam, matched_partners(x, torch.randperm(len(x), generator=rng), self.k), out)
