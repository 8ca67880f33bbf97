"""TokenMix: paste blocks of patches, label by the visible share of each attention map (Liu et al., 2022, section 3).

Differences from the authors' code: maps are the network's attention on clean images, theirs are class activation maps
of a teacher, stored in advance; the number of cells is a share of the grid, for any grid size; label smoothing scales
each weight, theirs subtracts half of the smoothing from both.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.masks import blend, unexpand
from ..ops.resize import upsample_cells
from ..ops.sampling import integers, partners, uniform
from ._base import Method, Net

TRIES = 10  # failed attempts to place a block before a mask is complete, as in BEiT
ASPECT = 0.3  # smallest height / width of a block; the largest is its inverse


def tokenmix(x: Tensor, attention: Tensor, partner: Tensor, taken: Tensor) -> tuple[Tensor, Mix]:
    """Each image with cells of its partner; weights are the visible shares of each image's attention.

    `x` (B, C, H, W), `attention` (B, h, w) sums to one, `partner` (B,), `taken` (B or 1, h, w) one where the partner is
    visible. The two weights of a row need not sum to one.
    """
    taken, partner = (draw.to(x.device, non_blocking=True) for draw in (taken.float(), partner))
    # one minus the hidden share, so that a fully visible image has weight exactly one
    own = (1 - (taken * attention).sum((1, 2))).clamp(min=0)
    other = (taken * attention.index_select(0, partner)).sum((1, 2))
    mask = upsample_cells(1 - taken[:, None], x.shape[-2:])
    index = torch.stack([torch.arange(len(x), device=x.device), partner], 1)
    return blend(x, partner, mask), Mix(index, torch.stack([own, other.clamp(max=1)], 1), mask)


def blocks(grid: tuple[int, int], target: int, count: int, rng: torch.Generator) -> Tensor:
    """(count, h, w) bool masks of overlapping blocks, at most `target` ones, on the CPU (BEiT, arXiv 2106.08254)."""
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
    """`ratio`: largest share of patches from the partner, 0 to 1; 4/7 are 112 of 196 patches, as in the authors' code.

    The authors alternate with Mixup (alpha 0.8) with equal probability: use `choice`. Their loss is binary
    cross-entropy.
    """

    paper = "2207.08409"
    title = "TokenMix"
    group = "attention"
    requires = frozenset(("classes",))  # weights need not sum to one
    free_weights = True
    needs = "a ViT's attention"
    needs_net = True
    ratio: float = 4 / 7

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"TokenMix's ratio is {self.ratio!r}: give a number from 0 to 1.")

    def build(self, net: Net) -> None:
        with net.capturing_attention(for_method="tokenmix"):
            pass

    def mix_batch(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Mix]:
        attention = net.attention(x)
        grid = tuple(attention.shape[-2:])
        taken = blocks(grid, round(self.ratio * grid[0] * grid[1]), self.draws(x), rng)
        return tokenmix(x, attention, partners(len(x), self.pairing, rng), unexpand(taken))
