"""SuperMix: optimise masks until a teacher predicts the classes of all mixed images (Dabouei et al., 2021).

Differences from the authors' code: they build a data set of successful mixtures in advance, here each batch is mixed
online, and images for which the masks fail are not mixed; shares are one draw per batch unless `per_image`; partners
follow `pairing`; for two images of one class the target is that class.
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
from ._base import Method, Net
from .adautomix import combine

STEP_RANGE = 1e-4, 2000.0  # smallest and largest step size
TINY = 1e-10  # added to the denominator of the step size
WINDOW = 5  # width of the blur in standard deviations
Predict = Callable[[Tensor], tuple[Tensor, Tensor]]


def supermix(
    x: Tensor,
    lam: Tensor,
    index: Tensor,
    teacher: Callable[[Tensor], Tensor],
    *,
    side: int = 16,
    iterations: int = 10,
    sigma: float = 1.0,
    sparsity: float = 25.0,
    only_success: bool = True,
) -> tuple[Tensor, Mix]:
    """K images per row, mixed by masks optimised so that the teacher predicts their classes with weights `lam`.

    `x` (B, C, H, W), `lam` (B, K) sums to one and weights the labels, `index` (B, K) rows, the first is the row itself;
    `teacher` returns logits. Options as in `SuperMix`.
    """
    lam, index = (draw.to(x.device, non_blocking=True) for draw in (lam, index))

    def predict(grid: Tensor) -> tuple[Tensor, Tensor]:
        shares = to_shares(grid, x.shape[-2:])
        return shares, teacher(combine(x.float(), shares, lam, index)[0])

    with torch.no_grad():
        predicted = teacher(x)
        target = (lam[:, :, None] * F.one_hot(predicted.argmax(1), predicted.shape[1])[index]).sum(1)
    grid = search(torch.zeros(*index.shape, side, side, device=x.device), predict, target, iterations, sigma, sparsity)
    with torch.no_grad():
        shares, logits = predict(grid)
    if only_success:
        unmixed = F.one_hot(torch.zeros_like(index[:, 0]), index.shape[1]).float()
        success = predicts_all(logits, target)[:, None]
        lam = torch.where(success, lam, unmixed)
        shares = torch.where(success[..., None, None], shares, unmixed[..., None, None])
    return combine(x, shares, lam, index)


def search(grid: Tensor, predict: Predict, target: Tensor, iterations: int, sigma: float, sparsity: float) -> Tensor:
    """`grid` (B, K, side, side) after at most `iterations` gradient steps; a row stops once its target is predicted."""
    running = torch.ones(len(grid), 1, 1, 1, dtype=torch.bool, device=grid.device)
    for step in range(iterations):
        logits, change = gradient_step(grid, predict, target, sigma, sparsity)
        if step:
            running = running & ~predicts_all(logits, target)[:, None, None, None]
        if grid.device.type == "cpu" and not running.any():  # reading it on a GPU would synchronise
            break
        grid = torch.where(running, grid + change, grid)
    return grid


def to_shares(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, K, *size) shares of K images, summing to one, from mask logits `grid` (B, K, side, side)."""
    weight = F.interpolate(grid, size, mode="bilinear", align_corners=False).sigmoid()
    return weight / weight.sum(1, keepdim=True)


def predicts_all(logits: Tensor, target: Tensor) -> Tensor:
    """(B,) whether the logits of all classes with positive `target` (B, C) are above all other logits."""
    least = logits.masked_fill(target == 0, torch.inf).amin(1)
    return least > logits.masked_fill(target > 0, -torch.inf).amax(1)


def gradient_step(
    grid: Tensor, predict: Predict, target: Tensor, sigma: float, sparsity: float
) -> tuple[Tensor, Tensor]:
    """The teacher's logits for the images mixed by `grid`, and the step of `grid` along its blurred gradient.

    `predict(grid)` returns shares and logits. A row's loss is the KL divergence of its logits from `target` plus
    `sparsity` times the mean of share * (1 - share). The step size is that of Newton's method for a root of the loss.
    """
    with torch.enable_grad():
        grid = grid.detach().requires_grad_()
        shares, logits = predict(grid)
        divergence = torch.xlogy(target, target) - target * logits.log_softmax(1)
        loss = divergence.sum(1) + sparsity * (shares * (1 - shares)).mean((1, 2, 3))
        [gradient] = torch.autograd.grad(loss.sum(), grid)
    across = blur_matrix(grid.shape[-1], sigma, grid.device)
    blurred = across @ gradient @ across.T
    step_size = loss.detach() / ((gradient * blurred).sum((1, 2, 3)) + TINY)
    return logits.detach(), -step_size.clamp(*STEP_RANGE)[:, None, None, None] * blurred


@lru_cache(maxsize=16)
def blur_matrix(side: int, sigma: float, device: torch.device) -> Tensor:
    """(side, side) matrix that blurs a line by `sigma` cells, with zero padding; cached, do not modify."""
    count = int(WINDOW * sigma)
    if count == 0:
        return torch.eye(side, device=device)
    offset = torch.arange(count) - (count - 1) / 2
    kernel = (-0.5 * (WINDOW * offset / count).square()).exp()
    cell = torch.arange(side)
    place = cell - cell[:, None] + (count - 1) // 2
    inside = (place >= 0) & (place < count)
    return torch.where(inside, (kernel / kernel.sum())[place.clamp(0, count - 1)], 0.0).to(device, non_blocking=True)


@dataclass(eq=False)
class SuperMix(Method):
    """`alpha`: parameter of the symmetric Dirichlet distribution of the images' shares. `images`: number of images to
    mix, 2 or more. `teacher`: a timm name, a folder or a Hub id; None for a frozen copy of the network from the start
    of training, which should then be pretrained. `teacher_pretrained`: load the pretrained weights of a timm teacher;
    False for random weights. `teacher_size`: height and width in pixels to which mixed images are resized for the
    teacher; None for the images' own size. `side`: cells per side of the masks. `iterations`: largest number of
    gradient steps, one forward and backward pass of the teacher each; the authors stop after 50, or when three images
    in ten are successful. `sigma`: standard deviation of the blur of gradients, in cells. `sparsity`: weight of the
    penalty for shares of a pixel between 0 and 1. `only_success`: do not mix images for which the teacher does not rank
    the mixed classes above all others.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        self.eye = None  # Net of the teacher, created in `build`
        for key, least in (("images", 2), ("side", 1), ("iterations", 1), ("teacher_size", 1)):
            if getattr(self, key) is not None and getattr(self, key) < least:
                raise ValueError(f"SuperMix's {key} is {getattr(self, key)!r}: give {least} or more.")
        for key in ("sigma", "sparsity"):
            if not (math.isfinite(getattr(self, key)) and getattr(self, key) >= 0):
                raise ValueError(f"SuperMix's {key} is {getattr(self, key)!r}: give a finite number, 0 or above.")
        if self.alpha == 0:
            raise ValueError("SuperMix's alpha is 0: give a number above 0, or prob 0 for no mixing.")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset(("softmax", "classifier") if self.teacher is None else ())

    def build(self, net: Net) -> None:
        self.eye = net.copy() if self.teacher is None else net.teacher(self.teacher, self.teacher_pretrained)

    def mix_batch(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Mix]:
        lam = dirichlet(self.alpha, self.draws(x), self.images, rng).expand(len(x), -1)
        partner = partners(len(x), self.pairing, rng)
        rows = [torch.arange(len(x))]
        for _ in range(self.images - 1):
            rows.append(partner[rows[-1]])
        self.eye.precision = net.precision
        options = {key: getattr(self, key) for key in ("side", "iterations", "sigma", "sparsity", "only_success")}
        with evaluating(self.eye):
            return supermix(x, lam, torch.stack(rows, 1), self.teacher_logits, **options)

    def teacher_logits(self, x: Tensor) -> Tensor:
        """(B, C) logits of the teacher."""
        if self.teacher_size is not None:
            x = F.interpolate(x.float(), size=(self.teacher_size, self.teacher_size), mode="bilinear")
        return self.eye(x)
