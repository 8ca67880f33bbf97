"""Co-Mixup: mix a batch jointly for high saliency and diversity (Kim et al., 2021, sections 3, 4).

Differences from the authors' code: labellings are optimised by annealing (`ops/potts.py`), which reaches a lower
energy than their graph cuts; the number of sweeps is fixed, where theirs stop when the objective does not change; a
batch that `part` does not divide is split into groups of nearly equal size; saliency is computed in a separate pass in
eval mode that leaves no gradients; the loss is soft cross-entropy, where theirs is binary cross-entropy of softmax
outputs.
"""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.masks import blend_with
from ..ops.potts import labelling
from ..ops.saliency import block_shares
from ..ops.sampling import dirichlet, integers
from ._base import Method, Net

TINY = 1e-8  # lower bound of a logarithm's argument
FORBIDDEN = 1e3  # cost of a label that must not be used; larger than all other costs together
HALF_DISCOUNT = 5e-4  # reduction of the cost of a label with two images, as in the authors' code
HALF_COST = 0.25  # pairwise cost of neighbours: a cell with one image, a cell with half of that image
PEAK_SIDE = 8  # side in pixels of the square whose mean saliency defines an image's peak


class Groups(NamedTuple):
    """Groups of a batch: `rows` (P, m) row indices of each group, `valid` (P, m) bool, false for padding."""

    rows: Tensor
    valid: Tensor


def split_rows(count: int, max_size: int) -> Groups:
    """`count` rows in the fewest groups of up to `max_size` rows, in order; sizes differ by at most one; on the CPU."""
    number = -(-count // max_size)
    first = torch.arange(number + 1) * count // number
    sizes = first.diff()
    offset = torch.arange(-(-count // number))
    return Groups((first[:-1, None] + offset).clamp(max=count - 1), offset < sizes[:, None])


def comixup(x: Tensor, shares: Tensor, groups: Groups) -> tuple[Tensor, Mix]:
    """Images composed cell by cell; weights are shares of pixels, in descending order.

    `x` (B, C, H, W); `shares` (P, m, n * n, m) of a group's m images in each cell of its m outputs: 1, or 1/2 of two.
    """
    rows, valid = (part.to(x.device, non_blocking=True) for part in groups)
    side = math.isqrt(shares.shape[2])
    outputs = groups.valid.flatten().nonzero()[:, 0].to(x.device, non_blocking=True)
    shares = shares.flatten(0, 1).index_select(0, outputs).transpose(1, 2).unflatten(2, (side, side))
    index = rows.repeat_interleave(rows.shape[1], 0).index_select(0, outputs)
    order = shares.sum((2, 3)).argsort(dim=1, descending=True, stable=True)
    index, shares = index.gather(1, order), shares.gather(1, order[:, :, None, None].expand_as(shares))
    masks = F.interpolate(shares, size=x.shape[-2:], mode="nearest")
    top_share, source = shares.topk(min(2, shares.shape[1]), 1)
    source = index.gather(1, source.flatten(1)).view_as(source).float()  # integers, exact up to 2^24 rows
    source = F.interpolate(source, size=x.shape[-2:], mode="nearest").long()
    pixels = [x.gather(0, source[:, k, None].expand_as(x)) for k in (0, -1)]
    share = F.interpolate(top_share[:, :1], size=x.shape[-2:], mode="nearest")
    return blend_with(*pixels, share), Mix(index, masks.mean((2, 3)), masks[:, :-1])


def compatibility(saliency: Tensor, groups: Groups, omega: float) -> Tensor:
    """(P, m, m) penalty between pairs of images: the identity, interpolated by `omega` with the distance of peaks.

    `saliency` (B, H, W). The L1 distance of saliency peaks is scaled so that its sum over a group is the group's size.
    """
    side = min(PEAK_SIDE, *saliency.shape[1:])
    smooth = F.avg_pool2d(saliency[:, None], side, stride=1)
    peak = smooth.flatten(1).argmax(1)
    place = torch.stack([peak // smooth.shape[-1], peak % smooth.shape[-1]], 1).float()
    rows, valid = (part.to(saliency.device, non_blocking=True) for part in groups)
    place = place[rows]
    distance = (place[:, :, None] - place[:, None]).abs().sum(-1) * (valid[:, :, None] & valid[:, None])
    distance = distance / distance.sum((1, 2), keepdim=True).clamp(min=1) * valid.sum(1)[:, None, None]
    return torch.lerp(torch.eye(rows.shape[1], device=distance.device).expand_as(distance), distance, omega)


def solve(
    cost: Tensor,
    compat: Tensor,
    start: Tensor,
    valid: Tensor,
    *,
    beta: float = 0.32,
    gamma: float = 1.0,
    threshold: float = 0.83,
    sweeps: int = 4,
) -> Tensor:
    """(P, m, S, m) shares of a group's images in each cell of each output: one image, or halves of two.

    `cost` (P, 1 or m, S, m) of each image in each cell, for each output; `compat` (P, m, m) from `compatibility`;
    `start` (P, m, S) initial image of each cell; `valid` (P, m). Outputs are labelled in turn, given the others, in
    `sweeps` rounds; options as in `CoMixup`.
    """
    (count, size, cells), side = start.shape, math.isqrt(start.shape[2])
    cost = (cost + FORBIDDEN * ~valid[:, None, None]).expand(-1, size, -1, -1)
    shares = [F.one_hot(start[:, k], size).float() * valid[:, k, None, None] for k in range(size)]
    used = sum(share.sum(1) for share in shares)
    banned = torch.zeros(count, size, size, device=cost.device)
    for sweep in range(sweeps):
        for k in range(size):
            counts = shares[k].sum(1)
            overuse = torch.bmm(compat, (used - counts)[:, :, None])[:, :, 0]
            overuse = 2 * overuse * (overuse > threshold * cells) + banned[:, k]
            unary = cost[:, k] + gamma / cells * overuse[:, None]
            unary, pairwise, content = add_half_labels(unary, counts if sweep else torch.zeros_like(counts))
            label = labelling(unary, pairwise, beta / cells, (side, side))
            shares[k] = torch.bmm(label, content) * valid[:, k, None, None]
            used = used - counts + shares[k].sum(1)
        if sweep == sweeps - 2:
            banned = ban_duplicates(torch.stack(shares, 1).sum(2) > 0)
    return torch.stack(shares, 1)


def add_half_labels(unary: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unary costs (P, S, L), pairwise costs (P, L, L) and shares (P, L, m) of labels: m images, and up to three pairs.

    `unary` (P, S, m); `counts` (P, m) number of this output's cells per image. Pairs are halves of the three images
    with the most cells.
    """
    count, size = counts.shape
    amount, image = counts.topk(min(3, size), 1)
    pairs = list(combinations(range(amount.shape[1]), 2))
    whole = torch.eye(size, device=counts.device)
    top = whole[image]
    pair = torch.stack([(top[:, one] + top[:, other]) / 2 for one, other in pairs], 1)
    # the second image of a pair has fewer cells than the first
    forbidden = FORBIDDEN * torch.stack([amount[:, other] == 0 for _, other in pairs], 1)
    halves = unary @ pair.mT - HALF_DISCOUNT + forbidden[:, None]
    content = torch.cat([whole.expand(count, -1, -1), pair], 1)
    half_cost = 1 - (1 - HALF_COST) * 2 * pair
    whole_cost = (1 - whole).expand(count, -1, -1)
    pair_cost = (1 - torch.eye(len(pairs), device=counts.device)).expand(count, -1, -1)
    pairwise = torch.cat([torch.cat([whole_cost, half_cost.mT], 2), torch.cat([half_cost, pair_cost], 2)], 1)
    return torch.cat([unary, halves], 2), pairwise, content


def ban_duplicates(uses: Tensor) -> Tensor:
    """(P, m, m) one where an output must not use an image, because two outputs use the same two or more images.

    `uses` (P, m, m) whether an output uses an image. The first of these images is banned in the earlier output, the
    second in the later.
    """
    rank = uses.cumsum(2) * uses
    duplicates = (uses[:, :, None] == uses[:, None]).all(3) & (rank == 2).any(2)[:, None]
    earlier = duplicates.triu(1)
    first = earlier.any(2)[:, :, None] & (rank == 1)
    second = earlier.any(1)[:, :, None] & (rank == 2)
    return (first | second).float()


@dataclass(eq=False)
class CoMixup(Method):
    """Defaults are the authors'.

    `alpha`: parameter of the symmetric Dirichlet prior of the images' shares, above 0; one draw per group, with
    `per_image` one per output. `beta`: weight of different labels in neighbouring cells. `gamma`: weight of the penalty
    for images that the other outputs use often. `eta`: weight of the prior. `omega`: weight of the distance between
    saliency peaks in the penalty of weight `gamma`, 0 to 1; 0 counts the uses of the same image only, above 0 also
    those of images with distant peaks. `threshold`: uses by the other outputs from which the penalty of weight `gamma`
    applies, in units of the cells of an output. `part`: largest number of images that are mixed with each other, 2 or
    more. `grids`: numbers of cells per side, one is drawn per batch. `sweeps`: rounds over the outputs; more rounds
    give a better optimum. `clean_weight`: weight of the loss of clean images; 0 for no such loss, the authors then
    recommend a smaller alpha. `pairing`: only "parts", the images of a group are mixed with each other.

    Images that are not changed contribute to the clean loss only.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("beta", "gamma", "eta", "omega", "threshold", "clean_weight"):
            if not (math.isfinite(getattr(self, key)) and getattr(self, key) >= 0):
                raise ValueError(f"Co-Mixup's {key} is {getattr(self, key)!r}: give a finite number, 0 or above.")
        if self.omega > 1:
            raise ValueError(f"Co-Mixup's omega is {self.omega!r}: give a share of the distance, from 0 to 1.")
        if self.alpha == 0:
            raise ValueError("Co-Mixup's alpha is 0: give a number above 0, or prob 0 for no mixing.")
        if self.part < 2 or self.sweeps < 1:
            raise ValueError(
                f"Co-Mixup got part {self.part!r}, sweeps {self.sweeps!r}: give a part of 2 or more, 1 sweep or more."
            )
        if not self.grids or min(self.grids) < 1:
            raise ValueError(f"Co-Mixup's grids are {self.grids!r}: give numbers of cells per side, 1 or more.")

    @property
    def needs_forward(self) -> bool:
        return self.clean_weight > 0

    def mix_batch(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Mix]:
        saliency, groups = net.saliency(x, y), split_rows(len(x), self.part)
        return comixup(x, self.shares(saliency, groups, rng), groups)

    @torch.no_grad()
    def shares(self, saliency: Tensor, groups: Groups, rng: torch.Generator) -> Tensor:
        """(P, m, n * n, m) shares of the images in the cells of each output, for `saliency` (B, H, W)."""
        side = self.grids[int(integers(len(self.grids), 1, rng))]
        (number, size), cells = groups.rows.shape, side**2
        prior = dirichlet(self.alpha, number * (size if self.per_image else 1), size, rng).view(number, -1, 1, size)
        sizes = groups.valid.sum(1).repeat_interleave(size * cells)
        start = integers(sizes, len(sizes), rng).view(number, size, cells)
        rows, valid, prior, start = (draw.to(saliency.device, non_blocking=True) for draw in (*groups, prior, start))
        worth = block_shares(saliency, side).flatten(1)[rows].mT[:, None]
        cost = -worth - self.eta / cells * (prior + TINY).log()
        compat = compatibility(saliency, groups, self.omega)
        options = {name: getattr(self, name) for name in ("beta", "gamma", "threshold", "sweeps")}
        return solve(cost, compat, start, valid, **options)

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        mixed, mix = self.mix(net, x, y, rng)
        if mix.mask is None or not self.clean_weight:
            return {"mix": net.loss(net(mixed), mix(y))}
        changed = (mix.lam < 1) | (mix.index[:, 0] != torch.arange(len(x), device=x.device))
        clean = net.loss(net(x), y)
        return {"clean": self.clean_weight * clean, "mix": (net.loss(net(mixed), mix(y), "none") * changed).mean()}
