"""SaliencyMix: CutMix with the box around what is most salient in the partner (Uddin et al., 2021, section 3).

The detector sees the grey 8-bit image, as the paper means it; the authors' code hands it the bytes of normalised
floats.
As there, the first row's partner has a box for the whole batch; with `per_image` each partner has its own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.masks import boxes
from ..ops.saliency import SPECTRAL_SIDE, fine_grained, grey, peak, shrunk, spectral_residual
from ._base import Method
from ._statistics import check_channels, check_statistics
from .cutmix import cut

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

    `x` (B, C, H, W), `lam` (B,) in [0, 1], `partner` (B,). `saliency(images)`: (N, h, w) map of images (N, C, H, W).
    `shared`: one box for all rows, that of the first.
    """
    chosen, size = partner.to(x.device, non_blocking=True), x.shape[-2:]
    if shared:
        centre = peak(saliency(x.index_select(0, chosen[:1])), size)
    else:
        centre = peak(saliency(x), size).index_select(0, chosen)
    return cut(x, partner, boxes(size, lam[: len(centre)], centre), out)


@dataclass(eq=False)
class SaliencyMix(Method):
    """`alpha`: of the Beta distribution of lam before clipping. `detector`: "fine_grained" is the paper's, "spectral"
    is many times faster. `mean`, `std`: those the images were normalised with, one number a channel; without them the
    detector sees each image's own range of brightness as 0 to 255.
    """

    paper = "2006.01791"
    title = "SaliencyMix"
    alpha: float = 1.0
    detector: str = "fine_grained"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.detector not in DETECTORS:
            known = ", ".join(DETECTORS)
            raise ValueError(f"SaliencyMix has no detector {self.detector!r}. Choose one of: {known}.")
        check_statistics(self)

    def check(self, x, y):
        super().check(x, y)
        check_channels(self, x)

    def mix_batch(self, net, x, y, rng, out=None):
        return saliencymix(x, *self.draw(x, self.alpha, rng), self.saliency, not self.per_image, out)

    @torch.no_grad()
    def saliency(self, x: Tensor) -> Tensor:
        """(B, h, w) map of images `x` (B, C, H, W), by the detector that was chosen."""
        if self.detector == "spectral":
            return spectral_residual(grey(shrunk(x, SPECTRAL_SIDE), self.mean, self.std))
        return fine_grained(grey(x, self.mean, self.std))
