"""Co-Mixup: a batch of mixed images made at once, salient and unlike each other (Kim et al., 2021, sections 3, 4).

As the authors' code, but for this: each labelling is sought by annealing (`ops/potts.py`), which comes nearer to its
minimum than their cuts; all sweeps are made, where theirs end when the objective stands still; a batch that `part` does
not divide goes into parts of nearly one size; the saliency comes from a pass of its own, in eval mode, and leaves no
gradients behind; the losses are soft cross-entropy, where theirs are of softmax outputs by binary cross-entropy.
"""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.masks import mingle
from ..ops.potts import labelling
from ..ops.saliency import pooled
from ..ops.sampling import dirichlet, integers
from ._base import Method

TINY = 1e-8  # least share whose logarithm is taken
NEVER = 1e3  # cost of a label that cannot be had; all others together are smaller
BONUS = 5e-4  # by which half and half of two images is cheaper than their mean, as in the authors' code
NEAR = 0.25  # how unlike a cell of one image is to a cell of half of it
PEAK = 8  # pixels a side of the square whose mean saliency is an image's peak


class Parts(NamedTuple):
    """How a batch is cut: `rows` (P, m) of the batch in each part, `there` (P, m) false for places that are empty."""

    rows: Tensor
    there: Tensor


def parts(count: int, most: int) -> Parts:
    """`count` rows in order, in the fewest parts of at most `most`, whose sizes differ by one at most; on the CPU."""
    number = -(-count // most)
    first = torch.arange(number + 1) * count // number
    sizes = first.diff()
    place = torch.arange(-(-count // number))
    return Parts((first[:-1, None] + place).clamp(max=count - 1), place < sizes[:, None])


def comixup(x: Tensor, shares: Tensor, cut: Parts) -> tuple[Tensor, Mix]:
    """Images put together cell by cell; weights are shares of pixels, of the most used image first.

    `x` (B, C, H, W); `shares` (P, m, n * n, m) of the images of a part in the cells of its outputs: one, or two halves.
    """
    rows, there = (part.to(x.device, non_blocking=True) for part in cut)
    cells = math.isqrt(shares.shape[2])
    outputs = cut.there.flatten().nonzero()[:, 0].to(x.device, non_blocking=True)
    shares = shares.flatten(0, 1).index_select(0, outputs).transpose(1, 2).unflatten(2, (cells, cells))
    index = rows.repeat_interleave(rows.shape[1], 0).index_select(0, outputs)
    order = shares.sum((2, 3)).argsort(dim=1, descending=True, stable=True)
    index, shares = index.gather(1, order), shares.gather(1, order[:, :, None, None].expand_as(shares))
    shown = F.interpolate(shares, size=x.shape[-2:], mode="nearest")
    top, source = shares.topk(min(2, shares.shape[1]), 1)
    source = index.gather(1, source.flatten(1)).view_as(source).float()  # whole numbers, exact up to 2^24 rows
    source = F.interpolate(source, size=x.shape[-2:], mode="nearest").long()
    pixels = [x.gather(0, source[:, k, None].expand_as(x)) for k in (0, -1)]
    most = F.interpolate(top[:, :1], size=x.shape[-2:], mode="nearest")
    return mingle(*pixels, most), Mix(index, shown.mean((2, 3)), shown[:, :-1])


def compatibility(saliency: Tensor, cut: Parts, omega: float) -> Tensor:
    """(P, m, m) how much the use of each image counts for each: the image itself, and `omega` times the far ones.

    `saliency` (B, H, W); far is the way between peaks, down and across, whose sum over a part is the part's size.
    """
    side = min(PEAK, *saliency.shape[1:])
    smooth = F.avg_pool2d(saliency[:, None], side, stride=1)
    peak = smooth.flatten(1).argmax(1)
    place = torch.stack([peak // smooth.shape[-1], peak % smooth.shape[-1]], 1).float()
    rows, there = (part.to(saliency.device, non_blocking=True) for part in cut)
    place = place[rows]
    far = (place[:, :, None] - place[:, None]).abs().sum(-1) * (there[:, :, None] & there[:, None])
    far = far / far.sum((1, 2), keepdim=True).clamp(min=1) * there.sum(1)[:, None, None]
    return torch.lerp(torch.eye(rows.shape[1], device=far.device).expand_as(far), far, omega)


def solve(
    cost: Tensor,
    near: Tensor,
    start: Tensor,
    there: Tensor,
    *,
    beta: float = 0.32,
    gamma: float = 1.0,
    threshold: float = 0.83,
    sweeps: int = 4,
) -> Tensor:
    """(P, m, S, m) shares of each image of a part in each cell of each output: one, or halves of two.

    `cost` (P, 1 or m, S, m) of each image in each cell, for each output; `near` (P, m, m) as from `compatibility`;
    `start` (P, m, S) images in the cells at first; `there` (P, m). Outputs are labelled in turn, given the others, for
    `sweeps` rounds; options as in `CoMixup`.
    """
    (count, size, cells), side = start.shape, math.isqrt(start.shape[2])
    cost = (cost + NEVER * ~there[:, None, None]).expand(-1, size, -1, -1)
    shares = [F.one_hot(start[:, k], size).float() * there[:, k, None, None] for k in range(size)]
    used = sum(share.sum(1) for share in shares)
    banned = torch.zeros(count, size, size, device=cost.device)
    for sweep in range(sweeps):
        for k in range(size):
            own = shares[k].sum(1)
            crowd = torch.bmm(near, (used - own)[:, :, None])[:, :, 0]
            crowd = 2 * crowd * (crowd > threshold * cells) + banned[:, k]
            unary = cost[:, k] + gamma / cells * crowd[:, None]
            unary, clash, content = with_halves(unary, own if sweep else torch.zeros_like(own))
            label = labelling(unary, clash, beta / cells, (side, side))
            shares[k] = torch.bmm(label, content) * there[:, k, None, None]
            used = used - own + shares[k].sum(1)
        if sweep == sweeps - 2:
            banned = resolve(torch.stack(shares, 1).sum(2) > 0)
    return torch.stack(shares, 1)


def with_halves(unary: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(P, S, L), (P, L, L), (P, L, m): costs, unlikeness and content of labels: m images and three pairs, half each.

    `unary` (P, S, m); `own` (P, m) how many cells of this output an image has. Pairs are of the three that have most.
    """
    count, size = own.shape
    amount, image = own.topk(min(3, size), 1)
    pairs = list(combinations(range(amount.shape[1]), 2))
    whole = torch.eye(size, device=own.device)
    top = whole[image]
    pair = torch.stack([(top[:, one] + top[:, other]) / 2 for one, other in pairs], 1)
    never = NEVER * torch.stack([amount[:, other] == 0 for _, other in pairs], 1)  # the other has less than the one
    halves = unary @ pair.mT - BONUS + never[:, None]
    content = torch.cat([whole.expand(count, -1, -1), pair], 1)
    unlike = 1 - (1 - NEAR) * 2 * pair
    among = (1 - whole).expand(count, -1, -1)
    between = (1 - torch.eye(len(pairs), device=own.device)).expand(count, -1, -1)
    clash = torch.cat([torch.cat([among, unlike.mT], 2), torch.cat([unlike, between], 2)], 1)
    return torch.cat([unary, halves], 2), clash, content


def resolve(uses: Tensor) -> Tensor:
    """(P, m, m) one where an output is to do without an image, since another one is made of the same two and more.

    `uses` (P, m, m) whether an output shows an image. The earlier output loses the first image, the later the second.
    """
    rank = uses.cumsum(2) * uses
    alike = (uses[:, :, None] == uses[:, None]).all(3) & (rank == 2).any(2)[:, None]
    earlier = alike.triu(1)
    first = earlier.any(2)[:, :, None] & (rank == 1)
    second = earlier.any(1)[:, :, None] & (rank == 2)
    return (first | second).float()


@dataclass(eq=False)
class CoMixup(Method):
    """Defaults are the authors'.

    `part`: images that are mixed with each other, at most; as many images come out of a part. `alpha`: of the Dirichlet
    distribution of the images' shares, one draw a part (an output, with `per_image`), which count `eta`. `beta`: weight
    of unlike neighbours. `gamma`: what it costs to use images that the other outputs use more than `threshold` times;
    with `omega`, the use of images with far peaks counts too. `grids`: cells a side, one drawn for each batch. `sweeps`
    over the outputs. `clean_weight`: of the loss of the clean images; without it the authors advise a smaller alpha. An
    image that comes out unchanged counts once.
    """

    paper = "2102.03065"
    title = "Co-Mixup"
    group = "saliency"
    needs_net = True
    pairings = ("parts",)
    pairing: str = "parts"

    alpha: float = 2.0
    beta: float = 0.32
    gamma: float = 1.0
    eta: float = 0.05
    omega: float = 0.001
    threshold: float = 0.83
    part: int = 20
    grids: tuple[int, ...] = (4,)
    sweeps: int = 4
    clean_weight: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        for key in ("beta", "gamma", "eta", "omega", "threshold", "clean_weight"):
            if not (math.isfinite(getattr(self, key)) and getattr(self, key) >= 0):
                raise ValueError(f"Co-Mixup's {key} is {getattr(self, key)!r}: give a finite number, 0 or above.")
        if self.alpha == 0:
            raise ValueError("Co-Mixup's alpha is 0: give a number above 0, or prob 0 for no mixing.")
        if self.part < 2 or self.sweeps < 1:
            raise ValueError(f"Co-Mixup got part {self.part!r}, sweeps {self.sweeps!r}: give 2 and 1 or more.")
        if not self.grids or min(self.grids) < 1:
            raise ValueError(f"Co-Mixup's grids are {self.grids!r}: give numbers of cells a side, 1 or more.")

    @property
    def needs_forward(self):
        return self.clean_weight > 0

    def mix_batch(self, net, x, y, rng):
        saliency, cut = net.saliency(x, y), parts(len(x), self.part)
        return comixup(x, self.shares(saliency, cut, rng), cut)

    @torch.no_grad()
    def shares(self, saliency: Tensor, cut: Parts, rng: torch.Generator) -> Tensor:
        """(P, m, n * n, m) what each output of a part is to show, for `saliency` (B, H, W)."""
        side = self.grids[int(integers(len(self.grids), 1, rng))]
        (number, size), cells = cut.rows.shape, side**2
        prior = dirichlet(self.alpha, number * (size if self.per_image else 1), size, rng).view(number, -1, 1, size)
        most = cut.there.sum(1).repeat_interleave(size * cells)
        start = integers(most, len(most), rng).view(number, size, cells)
        rows, there, prior, start = (draw.to(saliency.device, non_blocking=True) for draw in (*cut, prior, start))
        worth = pooled(saliency, side).flatten(1)[rows].mT[:, None]
        cost = -worth - self.eta / cells * (prior + TINY).log()
        near = compatibility(saliency, cut, self.omega)
        options = {name: getattr(self, name) for name in ("beta", "gamma", "threshold", "sweeps")}
        return solve(cost, near, start, there, **options)

    def forward(self, net, x, y, rng):
        mixed, mix = self.mix(net, x, y, rng)
        if mix.mask is None or not self.clean_weight:
            return {"mix": net.loss(net(mixed), mix(y))}
        changed = (mix.lam < 1) | (mix.index[:, 0] != torch.arange(len(x), device=x.device))
        clean = net.loss(net(x), y)
        return {"clean": self.clean_weight * clean, "mix": (net.loss(net(mixed), mix(y), "none") * changed).mean()}
