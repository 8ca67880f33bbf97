"""AugMix: mix an image with chains of augmentations of itself (Hendrycks et al., 2020, section 3, algorithm 1).

The operations are Pillow's on 8-bit images, as in the authors' code, except for rounding: after shearing or contrast
stretching, one pixel in fifty may differ by one level. Images may have any size; the authors' code assumes squares of
one size. The four operations that the paper excludes, because they are test corruptions, are not included. Draws are
always per image: `per_image` only affects `prob`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.losses import jensen_shannon
from ..ops.masks import blend_with, unsqueeze_like, write_out
from ..ops.pixels import affine, autocontrast, black_and_white, equalize, from_levels, posterize, solarize, to_levels
from ..ops.sampling import beta, dirichlet, integers, uniform
from ._base import Method, Net
from ._statistics import check_channels, check_statistics

LEVELWISE = ("autocontrast", "equalize", "posterize", "solarize")
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
OPERATIONS = LEVELWISE + GEOMETRIC
NO_OPERATION = -1  # in place of an operation's index
# largest changes at severity 10: bits removed, levels inverted, degrees, shear factor, share of the side
BITS, INVERTED, DEGREES, SHEAR, SHIFT = 4, 256, 30, 0.3, 1 / 3
MIN_SEVERITY, MAX_SEVERITY = 0.1, 10.0  # range of severities
MAX_DEPTH = 3  # largest number of operations in a chain if `depth` is -1


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
    """`lam` * image + (1 - `lam`) * mean of its augmentation chains, weighted by `weight` (B, chains).

    `x` (B, C, H, W), normalised with `mean` and `std`; `lam` (B,). `operation` (steps, B, chains): indices into
    OPERATIONS, or NO_OPERATION; `severity`: same shape, -10 to 10, the sign is the direction. All draws on the CPU.
    """
    black, white = black_and_white(x, mean, std)
    chains = to_levels(x, black, white).repeat_interleave(weight.shape[1], 0)
    for step in zip(operation.flatten(1), severity.flatten(1)):
        apply_operation_(chains, *step)
    weight = weight.to(x.device, non_blocking=True)[:, :, None, None, None]
    mixture = chains.unflatten(0, weight.shape[:2]).mul_(weight).sum(1)
    return blend_with(x, from_levels(mixture, black, white), unsqueeze_like(lam, x))


def apply_operation_(x: Tensor, operation: Tensor, severity: Tensor) -> None:
    """Apply one operation to each image of levels `x` (N, C, H, W), in place; `operation` and `severity` (N,)."""
    share = severity.abs() / MAX_SEVERITY
    bits, threshold = BITS - (BITS * share).long(), INVERTED - (INVERTED * share).long()
    kinds = {
        autocontrast: (operation == OPERATIONS.index("autocontrast"), ()),
        equalize: (operation == OPERATIONS.index("equalize"), ()),
        posterize: (operation == OPERATIONS.index("posterize"), (bits,)),
        solarize: (operation == OPERATIONS.index("solarize"), (threshold,)),
        affine: (operation >= len(LEVELWISE), (affine_matrices(operation, severity, x.shape[-2:]),)),
    }
    for change, (chosen, arguments) in kinds.items():
        if torch.compiler.is_compiling():  # avoid data-dependent shapes: change all images, then select
            changed = change(x, *(argument.to(x.device, non_blocking=True) for argument in arguments))
            x.copy_(torch.where(unsqueeze_like(chosen, x).to(x.device, non_blocking=True), changed, x))
            continue
        rows = chosen.nonzero()[:, 0]
        if len(rows):
            arguments = [argument[rows].to(x.device, non_blocking=True) for argument in arguments]
            rows = rows.to(x.device, non_blocking=True)
            x.index_copy_(0, rows, change(x.index_select(0, rows), *arguments))


def affine_matrices(operation: Tensor, severity: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, 2, 3) affine matrices for `pixels.affine` and images of `size` (height, width).

    Rotation about the centre, shear from the upper left corner, translation by whole pixels; otherwise the identity.
    """
    height, width = size
    share = severity / MAX_SEVERITY
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
    """Random `lam`, `weight`, `operation` and `severity` of `augmix` for `count` images."""
    lam, weight = beta(alpha, count, rng), dirichlet(alpha, count, width, rng)
    shape = (depth if depth > 0 else MAX_DEPTH, count, width)
    number = math.prod(shape)
    operation = integers(len(OPERATIONS), number, rng).view(shape)
    strength = uniform(MIN_SEVERITY, severity, number, rng).view(shape)
    strength = torch.where(torch.rand(shape, generator=rng) < 0.5, strength, -strength)
    if depth < 0:
        length = 1 + integers(MAX_DEPTH, count * width, rng).view(count, width)
        operation = torch.where(torch.arange(MAX_DEPTH)[:, None, None] < length, operation, NO_OPERATION)
    return lam, weight, operation, strength


@dataclass(eq=False)
class AugMix(Method):
    """`alpha`: parameter of the Beta distribution of the original image's share and of the Dirichlet distribution of
    the chains' weights; 0 does not change images. `jsd_weight`: weight of the Jensen-Shannon divergence between the
    predictions for the image and two views, added to the loss of the image; 0 trains on one view instead, which also
    works in a collator. `width`: number of chains of operations per view. `depth`: operations per chain; -1 for a
    random number from 1 to 3. `severity`: largest strength of an operation, 0.1 to 10. `mean`, `std`: normalisation of
    the images, one number per channel, for pixels in 0 to 1; None takes the minimum and maximum of each image as black
    and white. `pairing`: not used, images have no partners.

    Integer images have levels 0 to 255.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_statistics(self)
        if not (math.isfinite(self.jsd_weight) and self.jsd_weight >= 0):
            raise ValueError(f"AugMix's jsd_weight is {self.jsd_weight!r}: give a number, 0 (no divergence) or above.")
        if self.width < 1:
            raise ValueError(f"AugMix's width is {self.width!r}: give a number of chains, 1 or more.")
        if self.depth != -1 and self.depth < 1:
            raise ValueError(f"AugMix's depth is {self.depth!r}: give a number, or -1 for 1 to {MAX_DEPTH}.")
        if not MIN_SEVERITY <= self.severity <= MAX_SEVERITY:
            raise ValueError(f"AugMix's severity is {self.severity!r}: give {MIN_SEVERITY} to {MAX_SEVERITY:g}.")

    @property
    def needs_forward(self) -> bool:
        return self.jsd_weight > 0

    @property
    def requires(self) -> frozenset[str]:
        return frozenset(("softmax",) if self.jsd_weight else ())

    def check(self, x: Tensor, y: Tensor) -> None:
        super().check(x, y)
        check_channels(self, x)

    def view(self, x: Tensor, skipped: Tensor, rng: torch.Generator) -> Tensor:
        """Augmented images (B, C, H, W); rows where `skipped` (B,) is one are not changed."""
        lam, *chains = draw_chains(len(x), rng, self.width, self.depth, self.severity, self.alpha)
        return augmix(x, torch.maximum(lam, skipped), *chains, self.mean, self.std)

    def mix_batch(
        self, net: Net | None, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        return write_out(self.view(x, torch.zeros(len(x)), rng), out), Mix.none(x)

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        if not self.needs_forward:
            return super().forward(net, x, y, rng)
        self.check(x, y)
        if self.skips(x, rng):
            return {"clean": net.loss(net(x), y)}
        skipped = self.skip_rows(torch.zeros(len(x)), rng)
        views = [self.view(x, skipped, rng) for _ in range(2)]
        clean, *others = net(torch.cat([x, *views])).chunk(3)
        divergence = jensen_shannon(clean, *others) * (1 - skipped).to(x.device, non_blocking=True)
        return {"clean": net.loss(clean, y), "jsd": self.jsd_weight * divergence.mean()}
