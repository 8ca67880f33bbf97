"""k-Mixup: Mixup of groups of k images with optimally assigned partners (Greenewald et al., 2021).

The assignment minimises the sum of squared pixel distances, exactly, on the device; the authors' code sums distances
and copies to the CPU. As in their code, images and partners are from the same batch, so that an image may be its own
partner; the remaining images form a smaller group.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.assignment import assign
from ..ops.sampling import beta
from ._base import Method, Net
from .mixup import mixup


def matched_partners(x: Tensor, order: Tensor, k: int) -> Tensor:
    """(B,) partner of each row: rows g k to g k + k - 1 are assigned to the rows in that slice of `order` (B,).

    `x` (B, ...); the assignment has the least sum of squared distances.
    """
    order = order.to(x.device, non_blocking=True)
    flat = x.flatten(1).float()
    full = len(x) // k * k
    groups = [(slice(0, full), k), (slice(full, len(x)), len(x) - full)]  # the last group is smaller
    return torch.cat([_matches(flat, part, order[part].view(-1, size)) for part, size in groups if flat[part].numel()])


def _matches(flat: Tensor, part: slice, order: Tensor) -> Tensor:
    """(G * k,) partners of the rows `part` of `flat` (B, D), from the rows `order` (G, k) of each group."""
    groups = flat[part].view(*order.shape, -1)
    others = flat.index_select(0, order.flatten()).view_as(groups)
    cost = torch.cdist(groups, others, compute_mode="donot_use_mm_for_euclid_dist").square()
    return order.gather(1, assign(cost)).flatten()


@dataclass(eq=False)
class KMixup(Method):
    """`alpha`: both parameters of the Beta distribution of lam, the image's own share; 0 for no mixing. `k`: images per
    group; 1 is Mixup. `pairing`: only "assignment", the images of a group get the partners with the least sum of
    squared pixel distances.
    """

    paper = "2106.02933"
    title = "k-Mixup"
    pairings = ("assignment",)
    alpha: float = 1.0
    k: int = 16
    pairing: str = "assignment"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise ValueError(f"KMixup's k is {self.k!r}: give 1 image or more.")

    def mix_batch(
        self, net: Net | None, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        lam = beta(self.alpha, self.draws(x), rng).expand(len(x))
        return mixup(x, lam, matched_partners(x, torch.randperm(len(x), generator=rng), self.k), out)
