"""TokenMix: blocks of patches of the partner, labels by what shows of each image's map (Liu et al., 2022, section 3).

As the authors', but for this: the maps are the network's attention to the clean images, where they store a teacher's
maps of the label; the number of cells is a share of the grid, so that any grid serves; label smoothing takes a share of
each weight, where theirs takes half the smoothing from either, whatever it is.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.masks import blend, once
from ..ops.sampling import integers, partners, uniform
from ._base import Method

TRIES = 10  # places tried for a block before a mask is done, as in BEiT
ASPECT = 0.3  # least height over width of a block; the largest is its inverse


def tokenmix(x: Tensor, attention: Tensor, partner: Tensor, taken: Tensor) -> tuple[Tensor, Mix]:
    """Each image with cells of its partner; weights are the shares of each image's own attention that show.

    `x` (B, C, H, W), `attention` (B, h, w) summing to one, `partner` (B,), `taken` (B or 1, h, w) one where the
    partner shows. The two weights of a row need not sum to one.
    """
    taken, partner = (draw.to(x.device, non_blocking=True) for draw in (taken.float(), partner))
    # by what is hidden, so that an image of which nothing is counts exactly one
    own = (1 - (taken * attention).sum((1, 2))).clamp(min=0)
    other = (taken * attention.index_select(0, partner)).sum((1, 2))
    mask = F.interpolate(1 - taken[:, None], size=x.shape[-2:], mode="nearest")
    index = torch.stack([torch.arange(len(x), device=x.device), partner], 1)
    return blend(x, partner, mask), Mix(index, torch.stack([own, other.clamp(max=1)], 1), mask)


def blocks(grid: tuple[int, int], target: int, count: int, rng: torch.Generator) -> Tensor:
    """(count, h, w) bool on the CPU: overlapping blocks on a grid, at most `target` cells (BEiT, arXiv 2106.08254)."""
    taken, failed = torch.zeros(count, *grid, dtype=torch.bool), torch.zeros(count, dtype=torch.long)
    row, column = torch.arange(grid[0])[:, None], torch.arange(grid[1])
    while True:
        left = target - taken.sum((1, 2))
        done = (left <= 0) | (failed >= TRIES)
        if done.all():
            return taken
        area = 1 + (left - 1).clamp(min=0) * uniform(0, 1, count, rng)
        aspect = uniform(math.log(ASPECT), -math.log(ASPECT), count, rng).exp()
        height, width = ((area * ratio).sqrt().round().long() for ratio in (aspect, 1 / aspect))
        fits = (height < grid[0]) & (width < grid[1]) & ~done
        top, start = (integers((n - side + 1).clamp(min=1), count, rng) for n, side in zip(grid, (height, width)))
        low, high, first, last = (edge[:, None, None] for edge in (top, top + height, start, start + width))
        block = (row >= low) & (row < high) & (column >= first) & (column < last)
        new = (block & ~taken).sum((1, 2))
        accepted = fits & (new >= 1) & (new <= left)
        taken |= block & accepted[:, None, None]
        failed = torch.where(accepted, 0, failed + 1)


@dataclass(eq=False)
class TokenMix(Method):
    """`ratio`: largest share of patches taken from the partner; 4/7 is the authors' 112 of 196, half and 14 more.

    The authors take turns with Mixup (alpha 0.8), evenly: a `choice`. The loss they use is the binary one.
    """

    paper = "2207.08409"
    title = "TokenMix"
    group = "attention"
    free_weights = True
    needs = "a ViT's attention"
    needs_net = True
    ratio: float = 4 / 7

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"TokenMix's ratio is {self.ratio!r}: give a share of patches from 0 to 1.")

    def build(self, net):
        with net.watching(for_method="tokenmix"):
            pass

    def mix_batch(self, net, x, y, rng):
        attention = net.attention(x)
        grid = tuple(attention.shape[-2:])
        taken = blocks(grid, round(self.ratio * grid[0] * grid[1]), self.draws(x), rng)
        return tokenmix(x, attention, partners(len(x), self.pairing, rng), once(taken))
