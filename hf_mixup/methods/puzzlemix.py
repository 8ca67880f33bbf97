"""PuzzleMix: blocks of two images, chosen by saliency and moved to where they show (Kim et al., 2020, sections 3, 4).

As the authors' code, but for this: the labelling is solved exactly (theirs stops at a local minimum and truncates costs
to whole numbers), so masks may differ, at equal or less energy; a place to which no block moves keeps its own block;
looking at the saliency leaves no gradients behind.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.graphcut import minimise
from ..ops.resize import enlarged
from ..ops.saliency import pooled
from ..ops.sampling import integers
from ..ops.transport import compose, places
from ._adversarial import Pixels, attack
from ._base import Method

TINY = 1e-8  # least share whose logarithm is taken
BETA_UNIT = 16  # beta counts in sixteenths, per block of a side, as in the authors' code
OPTIONS = ("beta", "gamma", "eta", "neigh_size", "n_labels", "transport", "t_eps", "t_size", "std")


def puzzlemix(
    x: Tensor,
    saliency: Tensor,
    lam: Tensor,
    partner: Tensor,
    blocks: int,
    *,
    beta: float = 1.2,
    gamma: float = 0.5,
    eta: float = 0.2,
    neigh_size: int = 4,
    n_labels: int = 3,
    transport: bool = True,
    t_eps: float = 0.8,
    t_size: int | None = None,
    std: tuple[float, ...] | None = None,
    sources: tuple[Tensor, Tensor] | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Mix]:
    """Each image's salient blocks beside its partner's; lam becomes the mean of the mask, whose levels are 0, .5 and 1.

    `x` (B, C, H, W); `saliency` (B, h, w) not negative; `lam` (B,) or (1,) the share asked for; `partner` (B,);
    `blocks` a side divide height and width. Options as in `PuzzleMix`. Blocks move, so pixels are not blends in place,
    and `out` may not be `x`. `sources`: like `x`, where blocks of the own and of the partner's image are taken from, if
    not from `x`.
    """
    lam, partner = (draw.to(x.device, non_blocking=True) for draw in (lam.expand(len(x)), partner))
    with torch.no_grad():
        keep, give, down, right = costs(x, pooled(saliency, blocks), partner, beta, gamma, neigh_size, std)
        mask = choose(keep, give, down, right, lam, eta, n_labels)
        parts = blocks * splits(x.shape, blocks, t_size if transport else None)
        shown = enlarged(mask[:, None], (parts, parts))[:, 0]
        own, other = places(shown, pooled(saliency, len(shown[0])), partner, t_eps if transport else None)
    mine, theirs = sources or (x, x)
    mixed = compose(mine, partner, shown, own, other, theirs, out)
    return mixed, Mix.pair(partner, mask.mean((1, 2)), enlarged(mask[:, None], x.shape[-2:]))


def costs(
    x: Tensor,
    worth: Tensor,
    partner: Tensor,
    beta: float,
    gamma: float,
    neigh_size: int,
    std: tuple[float, ...] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What it costs to keep (B, n, n) and to give away each block; and unlike neighbours: below, (B, n-1, n), beside.

    `worth` (B, n, n) saliency of each block. To keep a block loses what the partner's is worth, and conversely; where
    two images meet, the difference of their pixels counts too, `gamma` times. The rest is as in `puzzlemix`.
    """
    blocks = worth.shape[1]
    beta = beta / blocks / BETA_UNIT
    keep, give = worth.index_select(0, partner), worth.clone()
    down = _add_seams(keep, give, beta * gamma * seams(x, partner, blocks, neigh_size, std))
    # beside is below in the image turned over its diagonal
    across = beta * gamma * seams(x.transpose(2, 3), partner, blocks, neigh_size, std)
    right = _add_seams(keep.transpose(1, 2), give.transpose(1, 2), across)
    return keep, give, beta + down, beta + right.transpose(1, 2)


def seams(x: Tensor, partner: Tensor, blocks: int, neigh_size: int, std: tuple[float, ...] | None = None) -> Tensor:
    """(4, B, n-1, n) mean difference of pixels between each block and the one below.

    In order: all of the own image; the own above the partner's; the partner's above the own; all of the partner's.
    Pixels are first averaged over squares of `neigh_size`, or the next smaller that tile a block.
    """
    tall, wide = x.shape[2] // blocks, x.shape[3] // blocks
    size = next(size for size in range(neigh_size, 0, -1) if tall % size == 0 and wide % size == 0)
    rows = x.unflatten(2, (blocks, tall))

    def line(rows):
        # sums of slices, since a mean over a short last axis is slow
        line = sum(rows[:, :, :, offset].float() for offset in range(size))
        cells = sum(line[..., offset::size] for offset in range(size)) / size**2
        return cells if std is None else cells * torch.tensor(std).to(x.device, non_blocking=True)[:, None, None]

    def difference(above, below):
        return (above - below).abs().mean(1).unflatten(2, (blocks, -1)).mean(3)

    above, below = line(rows[:, :, :-1, -size:]), line(rows[:, :, 1:, :size])
    own = difference(above, below)
    own_above = difference(above, below.index_select(0, partner))
    own_below = difference(above.index_select(0, partner), below)
    return torch.stack([own, own_above, own_below, own.index_select(0, partner)])


def _add_seams(keep: Tensor, give: Tensor, differences: Tensor) -> Tensor:
    """Share differences between the blocks above and below, in place; what is left (B, n-1, n) to unlike neighbours.

    `differences` (4, B, n-1, n) as from `seams`.
    """
    own, own_above, own_below, other = differences / 2
    keep[:, :-1] += own_above + own
    give[:, :-1] += own_below + other
    keep[:, 1:] += own_below + own
    give[:, 1:] += own_above + other
    return own_above + own_below - own - other


def choose(keep: Tensor, give: Tensor, down: Tensor, right: Tensor, lam: Tensor, eta: float, n_labels: int) -> Tensor:
    """(B, n, n) mask of least energy: levels 0, 1 or, with three labels, 0, .5, 1; one keeps a row's own block.

    `eta` weighs the prior: how likely a block has each level if `lam` (B,) is the chance to keep it.
    """
    last = n_labels - 1
    safe = lam.double().clamp(TINY, 1 - TINY)
    unary = []
    for level in range(n_labels):
        prior = (last - level) * safe.log() + level * (1 - safe).log() + math.log(math.comb(last, level))
        prior = (-eta / keep[0].numel() * prior).float()[:, None, None]
        unary.append(torch.lerp(keep, give, level / last) + prior)
    mask = 1 - minimise(torch.stack(unary, 1), down, right) / last
    # the prior of lam 0 and 1 has no bound: such rows are the partner and the image itself
    return torch.where(((lam == 0) | (lam == 1))[:, None, None], lam[:, None, None].float(), mask)


def splits(shape: torch.Size, blocks: int, t_size: int | None) -> int:
    """Into how many parts a side of each block is cut before parts move: parts of `t_size` rows, or whole blocks."""
    tall, wide = shape[-2] // blocks, shape[-1] // blocks
    if t_size is None or t_size >= tall:
        return 1
    if tall % t_size or wide % (tall // t_size):
        raise ValueError(
            f"Blocks of {tall}x{wide} pixels cannot move in parts of {t_size}: give a t_size that divides."
        )
    return tall // t_size


@dataclass(eq=False)
class PuzzleMix(Method):
    """Defaults are the paper's.

    `alpha`: both parameters of the Beta distribution of lam. `beta`, `gamma`, `eta`: weights of unlike neighbours, of
    their pixels' difference (pooled over `neigh_size` pixels), and of lam. `grids`: blocks a side, one drawn for each
    batch from those that divide the image. `t_eps`: what it costs a block to cross the image, in shares of saliency;
    `t_size`: pixels a side of the parts that move, None for whole blocks. `saliency_scale`: the gradient is taken of
    images resized by it; 0.5 costs a quarter. `std`: of normalised images, so that `gamma` counts in pixel units.
    `adv_prob`: share of batches whose own images, and as many whose partners, get adversarial noise of up to `adv_eps`
    of pixels in 0 to 1, 0.1 in the authors' code; it needs `mean` and `std`.
    """

    paper = "2009.06962"
    title = "PuzzleMix"
    group = "saliency"
    needs_net = True

    alpha: float = 1.0
    beta: float = 1.2
    gamma: float = 0.5
    eta: float = 0.2
    neigh_size: int = 4
    n_labels: int = 3
    transport: bool = True
    t_eps: float = 0.8
    t_size: int | None = None
    grids: tuple[int, ...] = (2, 4, 8, 16)
    saliency_scale: float = 1.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    adv_prob: float = 0.0
    adv_eps: float = 10 / 255

    def __post_init__(self):
        super().__post_init__()
        if self.n_labels not in (2, 3):
            raise ValueError(f"PuzzleMix's n_labels is {self.n_labels!r}: choose 2 or 3.")
        if not self.saliency_scale > 0:
            raise ValueError(
                f"PuzzleMix's saliency_scale is {self.saliency_scale!r}: give a factor above 0, such as 0.5."
            )
        if self.neigh_size < 1 or (self.t_size is not None and self.t_size < 1):
            raise ValueError(
                f"PuzzleMix got neigh_size {self.neigh_size!r}, t_size {self.t_size!r}: give 1 pixel or more."
            )
        if not self.grids or min(self.grids) < 2:
            raise ValueError(f"PuzzleMix's grids are {self.grids!r}: give numbers of blocks a side, 2 or more.")
        if not 0 <= self.adv_prob <= 1 or not 0 <= self.adv_eps <= 1:
            raise ValueError(f"PuzzleMix got adv_prob {self.adv_prob!r}, adv_eps {self.adv_eps!r}: give 0 to 1.")
        if self.adv_prob and (self.mean is None or self.std is None or self.saliency_scale != 1):
            raise ValueError("PuzzleMix's adv_prob needs the images' mean and std, and a saliency_scale of 1.")

    def mix_batch(self, net, x, y, rng, out=None):
        lam, partner = self.draw(x, self.alpha, rng)
        blocks = self.grid(x.shape[-2:], rng)
        options = {name: getattr(self, name) for name in OPTIONS}
        saliency, sources = self.look(net, x, y, rng)
        return puzzlemix(x, saliency, lam, partner, blocks, **options, sources=sources, out=out)

    def look(self, net, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, h, w) saliency, and the images that blocks are taken from: the own, the partners'; some with noise."""
        coins = torch.rand(2, self.draws(x), generator=rng) < self.adv_prob if self.adv_prob else torch.zeros(2, 1)
        if not coins.any():
            return self.saliency(net, x, y), (x, x)
        worse, slope = attack(x, lambda x: net.gradient(x, y), Pixels(self.mean, self.std, x), self.adv_eps, rng)
        mine, theirs = (
            torch.where(coin, worse, x) for coin in coins.to(x.device, non_blocking=True)[:, :, None, None, None]
        )
        return slope.square().sum(1).sqrt(), (mine, theirs)

    def grid(self, size: tuple[int, int], rng: torch.Generator) -> int:
        """Blocks a side: one of the grids that divide an image of `size` (height, width)."""
        usable = [blocks for blocks in self.grids if size[0] % blocks == 0 and size[1] % blocks == 0]
        if not usable:
            raise ValueError(
                f"Images of {size[0]}x{size[1]} pixels cannot be cut into {' or '.join(map(str, self.grids))} blocks "
                "a side: resize them, or give `grids` that divide both sides."
            )
        return usable[int(integers(len(usable), 1, rng))]

    def saliency(self, net, x: Tensor, y: Tensor) -> Tensor:
        """(B, h, w) length of the loss's gradient at each pixel."""
        if self.saliency_scale != 1:
            x = F.interpolate(x.float(), scale_factor=self.saliency_scale, mode="area")
        return net.saliency(x, y)
