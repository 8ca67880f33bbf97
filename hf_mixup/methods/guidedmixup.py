"""GuidedMixup: pixels by their saliency, images paired so that saliency lies apart (Kang and Kim, 2023, section 3).

As the authors' code, but for this: the spectral residual is that of `ops/saliency.py`, whose neighbourhood of a wave
goes round the spectrum and whose first blur is narrower; the farthest two images are so both ways round, and a draw
says which comes first.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.masks import blend
from ..ops.saliency import grey, shrunk, spectral_residual
from ._base import Method

PROBS = {"sr": 0.5, "ap": 0.8}  # the authors' share of mixed batches, by detector
SPECTRAL_SIDE = 128  # pixels a side at which the spectral residual is taken, at most
REACH, WIDTH = 3, 3.0  # pixels to each side, and standard deviation, of the blur


def guidedmixup(x: Tensor, saliency: Tensor, partner: Tensor, out: Tensor | None = None) -> tuple[Tensor, Mix]:
    """Each pixel shared by two images as their saliency is there; lam becomes the mean of the mask.

    `x` (B, C, H, W), `saliency` (B, H, W) not negative, of one sum for all images; `partner` (B,).
    """
    partner = partner.to(x.device, non_blocking=True)
    total = saliency + saliency.index_select(0, partner)
    mask = torch.where(total > 0, saliency / total, 0.5)[:, None]
    return blend(x, partner, mask, out), Mix.pair(partner, mask.mean((1, 2, 3)), mask)


def one_cycle(saliency: Tensor, turned: bool = False) -> Tensor:
    """(B,) partners, far from each other by `saliency` (B, H, W), on one circle through all images.

    Greedy: it starts with the farthest two (`turned`: from the second to the first) and goes on to whatever is farthest
    of those that are left.
    """
    count, maps = len(saliency), saliency.flatten(1)
    distance = torch.cdist(maps, maps, compute_mode="donot_use_mm_for_euclid_dist")
    distance.fill_diagonal_(-torch.inf)
    farthest = distance.argmax()
    order = [farthest % count, farthest // count] if turned else [farthest // count, farthest % count]
    gone = torch.zeros(count, dtype=torch.bool, device=saliency.device)
    gone = gone.scatter(0, torch.stack(order), True)
    for _ in range(count - 2):
        left = distance.index_select(0, order[-1][None])[0].masked_fill(gone, -torch.inf)
        order.append(left.argmax())
        gone = gone.scatter(0, order[-1][None], True)
    order = torch.stack(order)
    return torch.empty_like(order).scatter(0, order, order.roll(-1))


def evened(saliency: Tensor) -> Tensor:
    """(B, H, W) `saliency` blurred, summing to one; even where there is none."""
    saliency = blurred(saliency)
    total = saliency.sum((1, 2), keepdim=True)
    return torch.where((total > 0) & total.isfinite(), saliency / total, 1 / saliency[0].numel())


def blurred(maps: Tensor) -> Tensor:
    """(B, H, W) a Gaussian blur of 7x7 pixels; the border is mirrored, or repeated in maps too small for that."""
    bell = (-0.5 * (torch.arange(-REACH, REACH + 1, device=maps.device) / WIDTH).square()).exp()
    bell = bell / bell.sum()
    padded = F.pad(maps[:, None], (REACH,) * 4, mode="reflect" if min(maps.shape[1:]) > REACH else "replicate")
    return F.conv2d(F.conv2d(padded, bell[:, None][None, None]), bell[None, None, None])[:, 0]


@dataclass(eq=False)
class GuidedMixup(Method):
    """`detector`: "sr", the spectral residual of the pixels, or "ap", the length of the loss's gradient, which costs
    one more pass. `prob`: None is the authors', 0.5 and 0.8.
    """

    paper = "2306.16612"
    title = "GuidedMixup"
    group = "saliency"
    pairings = ("greedy",)
    pairing: str = "greedy"
    prob: float | None = None
    detector: str = "sr"

    def __post_init__(self):
        if self.detector not in PROBS:
            known = ", ".join(PROBS)
            raise ValueError(f"GuidedMixup has no detector {self.detector!r}. Choose one of: {known}.")
        self.prob = PROBS[self.detector] if self.prob is None else self.prob
        super().__post_init__()

    @property
    def needs_net(self):
        return self.detector == "ap"

    def mix_batch(self, net, x, y, rng, out=None):
        saliency = evened(net.saliency(x, y) if self.detector == "ap" else spectral(x))
        turned = bool(torch.rand((), generator=rng) < 0.5)
        return guidedmixup(x, saliency, one_cycle(saliency, turned), out)


@torch.no_grad()
def spectral(x: Tensor) -> Tensor:
    """(B, H, W) spectral residual of images `x` (B, C, H, W)."""
    small = spectral_residual(grey(shrunk(x.float(), SPECTRAL_SIDE)))
    return F.interpolate(small[:, None], x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
