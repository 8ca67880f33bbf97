"""AugMix: an image mixed with chains of operations on itself (Hendrycks et al., 2020, section 3, algorithm 1).

The operations are Pillow's on 8-bit images, as in the authors' code, but for rounding: one pixel in fifty may be a
level off where an image is sheared or its contrast stretched. Widths and heights are the image's own; the authors' code
takes squares of one size. The four operations that the paper leaves out, since they are also test corruptions, are left
out. Draws are each image's own, always: `per_image` concerns `prob` alone.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.losses import jensen_shannon
from ..ops.masks import mingle, spread, written
from ..ops.pixels import affine, autocontrast, black_and_white, equalize, from_levels, posterize, solarize, to_levels
from ..ops.sampling import beta, dirichlet, integers, uniform
from ._base import Method
from ._statistics import check_channels, check_statistics

LEVELWISE = ("autocontrast", "equalize", "posterize", "solarize")
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
OPERATIONS = LEVELWISE + GEOMETRIC
NONE = -1  # in place of an operation's number
# What severity 10 may do: bits lost, levels turned round, degrees, pixels a pixel, and share of the side.
BITS, TURNED, DEGREES, SHEAR, SHIFT = 4, 256, 30, 0.3, 1 / 3
LEAST, MOST = 0.1, 10.0  # severities
DEPTH = 3  # operations in a chain, at most, where `depth` leaves it open


@torch.no_grad()
def augmix(
    x: Tensor,
    lam: Tensor,
    weight: Tensor,
    operation: Tensor,
    severity: Tensor,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Tensor:
    """`lam` (B,) of each image, and the rest of what its chains make of it, with shares `weight` (B, chains).

    `x` (B, C, H, W), normalised with `mean` and `std`. `operation` (steps, B, chains): numbers of OPERATIONS, or NONE;
    `severity`: alike, up to 10, with the sign of the direction. All draws are on the CPU.
    """
    black, white = black_and_white(x, mean, std)
    chains = to_levels(x, black, white).repeat_interleave(weight.shape[1], 0)
    for step in zip(operation.flatten(1), severity.flatten(1)):
        operate_(chains, *step)
    weight = weight.to(x.device, non_blocking=True)[:, :, None, None, None]
    mixture = chains.unflatten(0, weight.shape[:2]).mul_(weight).sum(1)
    return mingle(x, from_levels(mixture, black, white), spread(lam, x))


def operate_(x: Tensor, operation: Tensor, severity: Tensor) -> None:
    """One operation on each image of levels `x` (N, C, H, W), in place; `operation` and `severity` (N,)."""
    share = severity.abs() / MOST
    bits, threshold = BITS - (BITS * share).long(), TURNED - (TURNED * share).long()
    kinds = {
        autocontrast: (operation == OPERATIONS.index("autocontrast"), ()),
        equalize: (operation == OPERATIONS.index("equalize"), ()),
        posterize: (operation == OPERATIONS.index("posterize"), (bits,)),
        solarize: (operation == OPERATIONS.index("solarize"), (threshold,)),
        affine: (operation >= len(LEVELWISE), (matrices(operation, severity, x.shape[-2:]),)),
    }
    for change, (chosen, arguments) in kinds.items():
        if torch.compiler.is_compiling():  # no shapes that draws decide: all images, then a choice
            changed = change(x, *(argument.to(x.device, non_blocking=True) for argument in arguments))
            x.copy_(torch.where(spread(chosen, x).to(x.device, non_blocking=True), changed, x))
            continue
        rows = chosen.nonzero()[:, 0]
        if len(rows):
            arguments = [argument[rows].to(x.device, non_blocking=True) for argument in arguments]
            rows = rows.to(x.device, non_blocking=True)
            x.index_copy_(0, rows, change(x.index_select(0, rows), *arguments))


def matrices(operation: Tensor, severity: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, 2, 3) where the pixels of images of `size` (height, width) come from; the identity where nothing moves.

    Turned about the middle, sheared from the upper left corner, shifted by whole pixels.
    """
    height, width = size
    share = severity / MOST
    amounts = (DEGREES * share).trunc().deg2rad(), SHEAR * share, SHEAR * share
    amounts += (SHIFT * width * share).trunc(), (SHIFT * height * share).trunc()
    angle, shear_x, shear_y, right, down = (
        torch.where(operation == OPERATIONS.index(name), amount, 0.0) for name, amount in zip(GEOMETRIC, amounts)
    )
    cos, sin = angle.cos(), angle.sin()
    column = [cos, shear_x - sin, (1 - cos) * width / 2 + sin * height / 2 + right]
    row = [shear_y + sin, cos, (1 - cos) * height / 2 - sin * width / 2 + down]
    return torch.stack([torch.stack(column, 1), torch.stack(row, 1)], 1)


def draw_chains(
    count: int, rng: torch.Generator, width: int = 3, depth: int = -1, severity: float = 3.0, alpha: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`lam`, `weight`, `operation` and `severity` for `augmix`, of `count` images."""
    lam, weight = beta(alpha, count, rng), dirichlet(alpha, count, width, rng)
    shape = (depth if depth > 0 else DEPTH, count, width)
    number = math.prod(shape)
    operation = integers(len(OPERATIONS), number, rng).view(shape)
    strength = uniform(LEAST, severity, number, rng).view(shape)
    strength = torch.where(torch.rand(shape, generator=rng) < 0.5, strength, -strength)
    if depth < 0:
        length = 1 + integers(DEPTH, count * width, rng).view(count, width)
        operation = torch.where(torch.arange(DEPTH)[:, None, None] < length, operation, NONE)
    return lam, weight, operation, strength


@dataclass(eq=False)
class AugMix(Method):
    """`jsd_weight`: of the Jensen-Shannon divergence of an image's and two views' predictions, beside the loss of the
    image; 0 trains on one view instead, which a collator can make. `width`: chains. `depth`: operations in a
    chain, -1 for 1 to 3. `severity`: the highest, 0.1 to 10. `alpha`: of the Beta and Dirichlet distributions; 0 leaves
    images as they are. `mean`, `std`: those the images were normalised with, one number a channel; without them, black
    and white are each image's own lowest and highest value. Whole-number images are taken as 0 to 255.
    """

    paper = "1912.02781"
    title = "AugMix"
    alpha: float = 1.0
    jsd_weight: float = 12.0
    width: int = 3
    depth: int = -1
    severity: float = 3.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self):
        super().__post_init__()
        check_statistics(self)
        if not (math.isfinite(self.jsd_weight) and self.jsd_weight >= 0):
            raise ValueError(f"AugMix's jsd_weight is {self.jsd_weight!r}: give a number, 0 (no divergence) or above.")
        if self.width < 1:
            raise ValueError(f"AugMix's width is {self.width!r}: give a number of chains, 1 or more.")
        if self.depth != -1 and self.depth < 1:
            raise ValueError(f"AugMix's depth is {self.depth!r}: give a number of operations, or -1 for 1 to {DEPTH}.")
        if not LEAST <= self.severity <= MOST:
            raise ValueError(f"AugMix's severity is {self.severity!r}: give a number from {LEAST} to {MOST:g}.")

    @property
    def needs_forward(self):
        return self.jsd_weight > 0

    def check(self, x, y):
        super().check(x, y)
        check_channels(self, x)

    def view(self, x: Tensor, spared: Tensor, rng: torch.Generator) -> Tensor:
        """Augmented images (B, C, H, W), but for those where `spared` (B,) is one."""
        lam, *chains = draw_chains(len(x), rng, self.width, self.depth, self.severity, self.alpha)
        return augmix(x, torch.maximum(lam, spared), *chains, self.mean, self.std)

    def mix_batch(self, net, x, y, rng, out=None):
        return written(self.view(x, torch.zeros(len(x)), rng), out), Mix.none(x)

    def forward(self, net, x, y, rng):
        if not self.needs_forward:
            return super().forward(net, x, y, rng)
        self.check(x, y)
        if self.skips(x, rng):
            return {"clean": net.loss(net(x), y)}
        spared = self.spare_rows(torch.zeros(len(x)), rng)
        views = [self.view(x, spared, rng) for _ in range(2)]
        clean, *others = net(torch.cat([x, *views])).chunk(3)
        apart = jensen_shannon(clean, *others) * (1 - spared).to(x.device, non_blocking=True)
        return {"clean": net.loss(clean, y), "jsd": self.jsd_weight * apart.mean()}
