"""PuzzleMix: blocks of two images, selected by saliency and transported (Kim et al., 2020, sections 3, 4).

Unlike in the authors' code, which stops at a local minimum and truncates costs, the labelling is solved exactly with up
to 8 blocks per side, and nearly with 16. A place to which no block moves keeps its block; saliency leaves no gradients.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.graphcut import minimise
from ..ops.precision import widened
from ..ops.resize import upsample_cells
from ..ops.saliency import block_shares
from ..ops.sampling import integers
from ..ops.transport import block_sources, compose
from ._adversarial import PixelRange, attack
from ._base import Method, Net

TINY = 1e-8  # lower bound of a logarithm's argument
BETA_UNIT = 16  # beta is divided by this and by the blocks per side, as in the authors' code
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
    """Salient blocks of each image and of its partner; lam becomes the mean of the mask, which has levels 0, .5 and 1.

    `x` (B, C, H, W); `saliency` (B, h, w) not negative; `lam` (B,) or (1,) target share; `partner` (B,); `blocks` per
    side must divide height and width. Options as in `PuzzleMix`. Blocks are moved, so `out` must not be `x`. `sources`:
    images like `x` from which the own and the partner's blocks are taken, by default `x`.
    """
    lam, partner = (draw.to(x.device, non_blocking=True) for draw in (lam.expand(len(x)), partner))
    with torch.no_grad():
        keep, give, down, right = costs(x, block_shares(saliency, blocks), partner, beta, gamma, neigh_size, std)
        mask = cut_mask(keep, give, down, right, lam, eta, n_labels)
        parts = blocks * parts_per_block(x.shape, blocks, t_size if transport else None)
        part_mask = upsample_cells(mask[:, None], (parts, parts))[:, 0]
        own, other = block_sources(
            part_mask, block_shares(saliency, len(part_mask[0])), partner, t_eps if transport else None
        )
    own_source, other_source = sources or (x, x)
    mixed = compose(own_source, partner, part_mask, own, other, other_source, out)
    return mixed, Mix.pair(partner, mask.mean((1, 2)), upsample_cells(mask[:, None], x.shape[-2:]))


def costs(
    x: Tensor,
    worth: Tensor,
    partner: Tensor,
    beta: float,
    gamma: float,
    neigh_size: int,
    std: tuple[float, ...] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Costs of keeping and of giving away each block (B, n, n), edge weights down (B, n-1, n) and right (B, n, n-1).

    `worth` (B, n, n) saliency of each block. Keeping a block costs the saliency of the partner's block, and vice versa;
    at boundaries between two images, the pixel difference is added with weight `gamma`. Options as in `puzzlemix`.
    """
    blocks = worth.shape[1]
    beta = beta / blocks / BETA_UNIT
    keep, give = worth.index_select(0, partner), worth.clone()
    down = _add_boundary_costs(keep, give, beta * gamma * boundary_differences(x, partner, blocks, neigh_size, std))
    # right edges are down edges of the transposed image
    across = beta * gamma * boundary_differences(x.transpose(2, 3), partner, blocks, neigh_size, std)
    right = _add_boundary_costs(keep.transpose(1, 2), give.transpose(1, 2), across)
    return keep, give, beta + down, beta + right.transpose(1, 2)


def boundary_differences(
    x: Tensor, partner: Tensor, blocks: int, neigh_size: int, std: tuple[float, ...] | None = None
) -> Tensor:
    """(4, B, n-1, n) mean absolute pixel difference between each block and the block below.

    Along axis 0: own and own; own above partner; partner above own; partner and partner. Pixels are first averaged over
    squares of side `neigh_size`, or the next smaller side that divides the block.
    """
    height, width = x.shape[2] // blocks, x.shape[3] // blocks  # of a block
    size = next(size for size in range(neigh_size, 0, -1) if height % size == 0 and width % size == 0)
    rows = x.unflatten(2, (blocks, height))

    def averaged(rows: Tensor) -> Tensor:
        # sums of slices are faster than a mean over a short last axis
        line = sum(rows[:, :, :, offset].float() for offset in range(size))
        cells = sum(line[..., offset::size] for offset in range(size)) / size**2
        return cells if std is None else cells * torch.tensor(std).to(x.device, non_blocking=True)[:, None, None]

    def difference(above: Tensor, below: Tensor) -> Tensor:
        return (above - below).abs().mean(1).unflatten(2, (blocks, -1)).mean(3)

    above, below = averaged(rows[:, :, :-1, -size:]), averaged(rows[:, :, 1:, :size])
    own = difference(above, below)
    own_above = difference(above, below.index_select(0, partner))
    own_below = difference(above.index_select(0, partner), below)
    return torch.stack([own, own_above, own_below, own.index_select(0, partner)])


def _add_boundary_costs(keep: Tensor, give: Tensor, differences: Tensor) -> Tensor:
    """Add pixel differences to the costs of both blocks, in place, and return the remaining edge weights (B, n-1, n).

    `differences` (4, B, n-1, n) from `boundary_differences`.
    """
    own, own_above, own_below, other = differences / 2
    keep[:, :-1] += own_above + own
    give[:, :-1] += own_below + other
    keep[:, 1:] += own_below + own
    give[:, 1:] += own_above + other
    return own_above + own_below - own - other


def cut_mask(keep: Tensor, give: Tensor, down: Tensor, right: Tensor, lam: Tensor, eta: float, n_labels: int) -> Tensor:
    """(B, n, n) mask of minimum energy: levels 0, 1 or, with three labels, 0, .5, 1; one is the row's own block.

    `eta`: weight of the prior, the binomial distribution of levels with success probability `lam` (B,).
    """
    last, scale = n_labels - 1, -eta / keep[0].numel()
    own, other = (share.clamp(TINY, 1 - TINY).log() for share in (widened(lam), 1 - widened(lam)))
    unary = []
    for level in range(n_labels):
        prior = (last - level) * own + level * other + math.log(math.comb(last, level))
        unary.append(torch.lerp(keep, give, level / last) + (scale * prior).float()[:, None, None])
    mask = 1 - minimise(torch.stack(unary, 1), down, right) / last
    # for lam 0 and 1 the prior is infinite: return the partner and the image itself
    return torch.where(((lam == 0) | (lam == 1))[:, None, None], lam[:, None, None].float(), mask)


def parts_per_block(shape: torch.Size, blocks: int, t_size: int | None) -> int:
    """Number of parts per side of a block that are moved separately: parts of `t_size` rows, or 1 for None."""
    height, width = shape[-2] // blocks, shape[-1] // blocks
    if t_size is None or t_size >= height:
        return 1
    if height % t_size or width % (height // t_size):
        raise ValueError(
            f"Blocks of {height}x{width} pixels cannot be divided into parts of {t_size}: give a t_size that divides."
        )
    return height // t_size


@dataclass(eq=False)
class PuzzleMix(Method):
    """`alpha`: both parameters of the Beta distribution of lam, the image's own share; 0 for no mixing. `beta`: weight
    of different labels of neighbouring blocks. `gamma`: weight of pixel differences between blocks, relative to `beta`.
    `eta`: weight of the prior, which keeps the mask near lam. `neigh_size`: side in pixels of squares averaged before
    pixel differences, smaller if it does not divide a block. `n_labels`: levels of a block in the mask: 2 for own or
    partner's, 3 also for the mean of both. `transport`: move salient blocks to where they are visible. `t_eps`: cost of
    moving a block across the image, in shares of saliency. `t_size`: side in pixels of the parts that move, None for
    whole blocks. `grids`: blocks per side, one drawn per batch from those that divide the image. `saliency_scale`:
    factor that resizes images for the gradient; 0.5 takes a quarter of the time. `mean`: channel means of the
    normalisation, for `adv_prob`. `std`: channel standard deviations of the normalisation, for `adv_prob` and pixel
    differences in 0 to 1. `adv_prob`: probability of adversarial noise, separately for own images and partners; 0.1 in
    the authors' code; requires `mean` and `std`. `adv_eps`: largest adversarial noise, for pixels in 0 to 1.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_labels not in (2, 3):
            raise ValueError(f"PuzzleMix's n_labels is {self.n_labels!r}: choose 2 or 3.")
        if not self.saliency_scale > 0:
            raise ValueError(
                f"PuzzleMix's saliency_scale is {self.saliency_scale!r}: give a factor above 0, such as 0.5."
            )
        if self.neigh_size < 1 or (self.t_size is not None and self.t_size < 1):
            raise ValueError(f"PuzzleMix got neigh_size {self.neigh_size!r}, t_size {self.t_size!r}: give 1 or more.")
        if not self.grids or min(self.grids) < 2:
            raise ValueError(f"PuzzleMix's grids are {self.grids!r}: give numbers of blocks per side, 2 or more.")
        if not 0 <= self.adv_prob <= 1 or not 0 <= self.adv_eps <= 1:
            raise ValueError(f"PuzzleMix got adv_prob {self.adv_prob!r}, adv_eps {self.adv_eps!r}: give 0 to 1.")
        if self.adv_prob and (self.mean is None or self.std is None or self.saliency_scale != 1):
            raise ValueError("PuzzleMix's adv_prob requires mean and std of the images and a saliency_scale of 1.")

    def mix_batch(
        self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        lam, partner = self.draw(x, self.alpha, rng)
        blocks = self.grid(x.shape[-2:], rng)
        options = {name: getattr(self, name) for name in OPTIONS}
        saliency, sources = self.saliency_and_sources(net, x, y, rng)
        return puzzlemix(x, saliency, lam, partner, blocks, **options, sources=sources, out=out)

    def saliency_and_sources(
        self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, h, w) saliency, and the source images of own and of partners' blocks, possibly with adversarial noise."""
        use_noise = torch.rand(2, self.draws(x), generator=rng) < self.adv_prob if self.adv_prob else torch.zeros(2, 1)
        if not use_noise.any():
            return self.saliency(net, x, y), (x, x)
        pixels = PixelRange(self.mean, self.std, x)
        noisy, gradient = attack(x, lambda x: net.gradient(x, y), pixels, self.adv_eps, rng)
        own, other = (
            torch.where(row, noisy, x) for row in use_noise.to(x.device, non_blocking=True)[:, :, None, None, None]
        )
        return gradient.square().sum(1).sqrt(), (own, other)

    def grid(self, size: tuple[int, int], rng: torch.Generator) -> int:
        """Draw the blocks per side from the grids that divide an image of `size` (height, width)."""
        usable = [blocks for blocks in self.grids if size[0] % blocks == 0 and size[1] % blocks == 0]
        if not usable:
            raise ValueError(
                f"Images of {size[0]}x{size[1]} pixels cannot be divided into {' or '.join(map(str, self.grids))} "
                "blocks per side: resize them, or give `grids` that divide both sides."
            )
        return usable[int(integers(len(usable), 1, rng))]

    def saliency(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        """(B, h, w) norm of the loss gradient at each pixel."""
        if self.saliency_scale != 1:
            x = F.interpolate(x.float(), scale_factor=self.saliency_scale, mode="area")
        return net.saliency(x, y)
