"""SaliencyMix: CutMix with a box around the partner's most salient pixel (Uddin et al., 2021, section 3).

Saliency is computed from the grey 8-bit image, as in the paper; the authors' code uses the bytes of normalised floats.
As in the code, the box of the first row's partner is used for the whole batch; with `per_image` each row has its own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.masks import boxes
from ..ops.saliency import SPECTRAL_SIDE, downsample, fine_grained, grey, peak, spectral_residual
from ._base import Method, Net
from ._statistics import check_channels, check_statistics
from .cutmix import cutmix_boxes

DETECTORS = ("fine_grained", "spectral")


def saliencymix(
    x: Tensor,
    lam: Tensor,
    partner: Tensor,
    saliency: Callable[[Tensor], Tensor],
    shared: bool = False,
    out: Tensor | None = None,
) -> tuple[Tensor, Mix]:
    """Each image with a box of its partner around the partner's most salient pixel; lam is the share of pixels kept.

    `x` (B, C, H, W), `lam` (B,) in [0, 1], `partner` (B,). `saliency(images)`: (N, h, w) maps of images (N, C, H, W).
    `shared`: use the first row's box for all rows.
    """
    chosen, size = partner.to(x.device, non_blocking=True), x.shape[-2:]
    if shared:
        centre = peak(saliency(x.index_select(0, chosen[:1])), size)
    else:
        centre = peak(saliency(x), size).index_select(0, chosen)
    return cutmix_boxes(x, partner, boxes(size, lam[: len(centre)], centre), out)


@dataclass(eq=False)
class SaliencyMix(Method):
    """`alpha`: both parameters of the Beta distribution of lam, the image's own share before the box is clipped; 0 for
    no mixing. `detector`: method that finds the salient pixel, "fine_grained" as in the paper, or "spectral", many
    times faster. `mean`, `std`: normalisation of the images, one number per channel, for pixels in 0 to 1; None
    stretches the grey values of each image to 0 to 255.
    """

    paper = "2006.01791"
    title = "SaliencyMix"
    alpha: float = 1.0
    detector: str = "fine_grained"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.detector not in DETECTORS:
            known = ", ".join(DETECTORS)
            raise ValueError(f"Unknown detector {self.detector!r} of SaliencyMix. Choose one of: {known}.")
        check_statistics(self)

    def check(self, x: Tensor, y: Tensor) -> None:
        super().check(x, y)
        check_channels(self, x)

    def mix_batch(
        self, net: Net | None, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        return saliencymix(x, *self.draw(x, self.alpha, rng), self.saliency, not self.per_image, out)

    @torch.no_grad()
    def saliency(self, x: Tensor) -> Tensor:
        """(B, h, w) saliency of images `x` (B, C, H, W) from the chosen detector."""
        if self.detector == "spectral":
            return spectral_residual(grey(downsample(x, SPECTRAL_SIDE), self.mean, self.std))
        return fine_grained(grey(x, self.mean, self.std))
