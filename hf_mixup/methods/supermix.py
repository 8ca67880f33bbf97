"""SuperMix: masks are sought until a supervisor sees every image that was mixed (Dabouei et al., 2021).

As the authors' code, but for this: they make a data set beforehand, out of those images that came out well, where here
each batch is mixed as it comes and an image that failed stays as it is; shares are one draw for the batch unless
`per_image`, and partners any that `pairing` says; two images of one class have that class alone to show.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.flags import evaluating
from ..ops.sampling import dirichlet, partners
from ._base import Method
from .adautomix import combine

STEPS = 1e-4, 2000.0  # least and largest length of a step
TINY = 1e-10  # added to the divisor of a step's length
WINDOW = 5  # the blur reaches over as many standard deviations
Look = Callable[[Tensor], tuple[Tensor, Tensor]]


def supermix(
    x: Tensor,
    lam: Tensor,
    index: Tensor,
    supervisor: Callable[[Tensor], Tensor],
    *,
    side: int = 16,
    iterations: int = 10,
    sigma: float = 1.0,
    sparsity: float = 25.0,
    only_success: bool = True,
) -> tuple[Tensor, Mix]:
    """Each row of K images, shared out so that the supervisor's classes are theirs by `lam`, which stays the label.

    `x` (B, C, H, W), `lam` (B, K) sums to one, `index` (B, K) the row itself and others; `supervisor` gives logits of
    images. Options as in `SuperMix`.
    """
    lam, index = (draw.to(x.device, non_blocking=True) for draw in (lam, index))

    def look(grid):
        shares = shares_of(grid, x.shape[-2:])
        return shares, supervisor(combine(x.float(), shares, lam, index)[0])

    with torch.no_grad():
        seen = supervisor(x)
        wanted = (lam[:, :, None] * F.one_hot(seen.argmax(1), seen.shape[1])[index]).sum(1)
    grid = search(torch.zeros(*index.shape, side, side, device=x.device), look, wanted, iterations, sigma, sparsity)
    with torch.no_grad():
        shares, logits = look(grid)
    if only_success:
        alone = F.one_hot(torch.zeros_like(index[:, 0]), index.shape[1]).float()
        right = shows(logits, wanted)[:, None]
        lam = torch.where(right, lam, alone)
        shares = torch.where(right[..., None, None], shares, alone[..., None, None])
    return combine(x, shares, lam, index)


def search(grid: Tensor, look: Look, wanted: Tensor, iterations: int, sigma: float, sparsity: float) -> Tensor:
    """`grid` (B, K, side, side) after so many steps of `descent`; a row rests once its logits show what is wanted."""
    missing = torch.ones(len(grid), 1, 1, 1, dtype=torch.bool, device=grid.device)
    for step in range(iterations):
        logits, change = descent(grid, look, wanted, sigma, sparsity)
        if step:
            missing = missing & ~shows(logits, wanted)[:, None, None, None]
        if grid.device.type == "cpu" and not missing.any():  # to ask costs nothing there
            break
        grid = torch.where(missing, grid + change, grid)
    return grid


def shares_of(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, K, *size) shares of K images, which sum to one, from any numbers `grid` (B, K, side, side)."""
    height = F.interpolate(grid, size, mode="bilinear", align_corners=False).sigmoid()
    return height / height.sum(1, keepdim=True)


def shows(logits: Tensor, wanted: Tensor) -> Tensor:
    """(B,) whether all classes that are `wanted` (B, C) are above all others."""
    least = logits.masked_fill(wanted == 0, torch.inf).amin(1)
    return least > logits.masked_fill(wanted > 0, -torch.inf).amax(1)


def descent(grid: Tensor, look: Look, wanted: Tensor, sigma: float, sparsity: float) -> tuple[Tensor, Tensor]:
    """The supervisor's logits of the images mixed by `grid`, and a step down its blurred slope.

    `look(grid)` gives shares and logits. The loss of a row is the divergence of its logits from `wanted`, and
    `sparsity` times what its shares are from 0 and 1; a step is as long as would end at zero if the slope stayed.
    """
    with torch.enable_grad():
        grid = grid.detach().requires_grad_()
        shares, logits = look(grid)
        divergence = torch.xlogy(wanted, wanted) - wanted * logits.log_softmax(1)
        loss = divergence.sum(1) + sparsity * (shares * (1 - shares)).mean((1, 2, 3))
        [slope] = torch.autograd.grad(loss.sum(), grid)
    across = blur_matrix(grid.shape[-1], sigma, grid.device)
    blurred = across @ slope @ across.T
    length = loss.detach() / ((slope * blurred).sum((1, 2, 3)) + TINY)
    return logits.detach(), -length.clamp(*STEPS)[:, None, None, None] * blurred


@lru_cache(maxsize=16)
def blur_matrix(side: int, sigma: float, device: torch.device) -> Tensor:
    """(side, side) what blurs a line by `sigma` cells, zero outside of it; not to be written to."""
    count = int(WINDOW * sigma)
    if count == 0:
        return torch.eye(side, device=device)
    far = torch.arange(count) - (count - 1) / 2
    bell = (-0.5 * (WINDOW * far / count).square()).exp()
    cell = torch.arange(side)
    place = cell - cell[:, None] + (count - 1) // 2
    inside = (place >= 0) & (place < count)
    return torch.where(inside, (bell / bell.sum())[place.clamp(0, count - 1)], 0.0).to(device)


@dataclass(eq=False)
class SuperMix(Method):
    """`alpha`: all parameters of the Dirichlet distribution of shares. `images`: how many are mixed. `teacher`: the
    supervisor, a timm name, a folder or a Hub id, seen at `teacher_size` pixels a side (None: at the images' own);
    None is the trained network itself as it is when training starts, frozen, which is of use if that is trained
    already. `teacher_pretrained`: False gives a timm name random weights. `iterations`: steps of the search, one pass
    there and back each; the authors stop at 50, or as soon as three images in ten came out well. `side`: cells a side
    of the masks; `sigma`: cells by which slopes are blurred; `sparsity`: weight of shares that are neither 0 nor 1.
    `only_success`: an image in which the supervisor does not see all that was mixed, before all else, stays unmixed.
    """

    paper = "2003.05034"
    title = "SuperMix"
    group = "saliency"
    needs = "a teacher"
    needs_net = True
    alpha: float = 3.0
    images: int = 2
    teacher: str | None = "resnet50"
    teacher_pretrained: bool = True
    teacher_size: int | None = None
    side: int = 16
    iterations: int = 10
    sigma: float = 1.0
    sparsity: float = 25.0
    only_success: bool = True

    def __post_init__(self):
        super().__post_init__()
        self.eye = None  # the supervisor's Net, from `build` on
        for key, least in (("images", 2), ("side", 1), ("iterations", 1), ("teacher_size", 1)):
            if getattr(self, key) is not None and getattr(self, key) < least:
                raise ValueError(f"SuperMix's {key} is {getattr(self, key)!r}: give {least} or more.")
        for key in ("sigma", "sparsity"):
            if not (math.isfinite(getattr(self, key)) and getattr(self, key) >= 0):
                raise ValueError(f"SuperMix's {key} is {getattr(self, key)!r}: give a finite number, 0 or above.")

    def build(self, net):
        self.eye = net.copy() if self.teacher is None else net.teacher(self.teacher, self.teacher_pretrained)

    def mix_batch(self, net, x, y, rng):
        lam = dirichlet(self.alpha, self.draws(x), self.images, rng).expand(len(x), -1)
        partner = partners(len(x), self.pairing, rng)
        rows = [torch.arange(len(x))]
        for _ in range(self.images - 1):
            rows.append(partner[rows[-1]])
        self.eye.precision = net.precision
        options = {key: getattr(self, key) for key in ("side", "iterations", "sigma", "sparsity", "only_success")}
        with evaluating(self.eye):
            return supermix(x, lam, torch.stack(rows, 1), self.supervise, **options)

    def supervise(self, x: Tensor) -> Tensor:
        """(B, C) the supervisor's logits."""
        if self.teacher_size is not None:
            x = F.interpolate(x.float(), size=(self.teacher_size, self.teacher_size), mode="bilinear")
        return self.eye(x)
