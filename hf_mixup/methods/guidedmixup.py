"""GuidedMixup: mix pixels by saliency, and pair images with distant saliency maps (Kang and Kim, 2023, section 3).

Differences from the authors' code: the spectral residual of `ops/saliency.py` averages with wrap-around and has a
narrower first blur; the order of the first pair, which is a tie, is drawn at random.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.masks import blend
from ..ops.saliency import downsample, grey, spectral_residual
from ._base import Method, Net

PROBS = {"sr": 0.5, "ap": 0.8}  # default `prob` of each detector, from the authors' code
SPECTRAL_SIDE = 128  # largest side in pixels at which the spectral residual is computed
RADIUS, SIGMA = 3, 3.0  # radius and standard deviation of the blur, in pixels


def guidedmixup(x: Tensor, saliency: Tensor, partner: Tensor, out: Tensor | None = None) -> tuple[Tensor, Mix]:
    """Each pixel of two images weighted by their saliency; lam becomes the mean of the mask.

    `x` (B, C, H, W), `saliency` (B, H, W) not negative, with the same sum for all images; `partner` (B,).
    """
    partner = partner.to(x.device, non_blocking=True)
    total = saliency + saliency.index_select(0, partner)
    mask = torch.where(total > 0, saliency / total, 0.5)[:, None]
    return blend(x, partner, mask, out), Mix.pair(partner, mask.mean((1, 2, 3)), mask)


def greedy_cycle(saliency: Tensor, reverse: bool = False) -> Tensor:
    """(B,) partners with distant maps `saliency` (B, H, W): successors in one cycle through all images.

    Greedy: start with the most distant pair (with `reverse`, from second to first) and append the most distant of the
    remaining images.
    """
    count, maps = len(saliency), saliency.flatten(1)
    distance = torch.cdist(maps, maps, compute_mode="donot_use_mm_for_euclid_dist")
    distance.fill_diagonal_(-torch.inf)
    farthest = distance.argmax()
    order = [farthest % count, farthest // count] if reverse else [farthest // count, farthest % count]
    used = torch.zeros(count, dtype=torch.bool, device=saliency.device)
    used = used.scatter(0, torch.stack(order), True)
    for _ in range(count - 2):
        remaining = distance.index_select(0, order[-1][None])[0].masked_fill(used, -torch.inf)
        order.append(remaining.argmax())
        used = used.scatter(0, order[-1][None], True)
    order = torch.stack(order)
    return torch.empty_like(order).scatter(0, order, order.roll(-1))


def normalise_saliency(saliency: Tensor) -> Tensor:
    """(B, H, W) `saliency` blurred and normalised to a sum of one; uniform if it is all zero."""
    saliency = blur(saliency)
    total = saliency.sum((1, 2), keepdim=True)
    return torch.where((total > 0) & total.isfinite(), saliency / total, 1 / saliency[0].numel())


def blur(maps: Tensor) -> Tensor:
    """(B, H, W) Gaussian blur with 7x7 pixels and reflected borders, or replicated ones in maps of up to 3 pixels."""
    kernel = (-0.5 * (torch.arange(-RADIUS, RADIUS + 1, device=maps.device) / SIGMA).square()).exp()
    kernel = kernel / kernel.sum()
    padded = F.pad(maps[:, None], (RADIUS,) * 4, mode="reflect" if min(maps.shape[1:]) > RADIUS else "replicate")
    return F.conv2d(F.conv2d(padded, kernel[:, None][None, None]), kernel[None, None, None])[:, 0]


@dataclass(eq=False)
class GuidedMixup(Method):
    """`detector`: source of the saliency: "sr", the spectral residual of the pixels, or "ap", the norm of the loss
    gradient, which requires the network and an additional pass. `prob`: share of batches that are mixed, 0 to 1, with
    `per_image` of images; None for the authors' values, 0.5 for "sr" and 0.8 for "ap". `pairing`: only "greedy", images
    with distant saliency maps become partners.
    """

    paper = "2306.16612"
    title = "GuidedMixup"
    group = "saliency"
    pairings = ("greedy",)
    pairing: str = "greedy"
    prob: float | None = None
    detector: str = "sr"

    def __post_init__(self) -> None:
        if self.detector not in PROBS:
            known = ", ".join(PROBS)
            raise ValueError(f"Unknown detector {self.detector!r} of GuidedMixup. Choose one of: {known}.")
        self.prob = PROBS[self.detector] if self.prob is None else self.prob
        super().__post_init__()

    @property
    def needs_net(self) -> bool:
        return self.detector == "ap"

    def mix_batch(
        self, net: Net | None, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        saliency = normalise_saliency(net.saliency(x, y) if self.detector == "ap" else spectral_saliency(x))
        reverse = bool(torch.rand((), generator=rng) < 0.5)
        return guidedmixup(x, saliency, greedy_cycle(saliency, reverse), out)


@torch.no_grad()
def spectral_saliency(x: Tensor) -> Tensor:
    """(B, H, W) spectral residual saliency of images `x` (B, C, H, W)."""
    small = spectral_residual(grey(downsample(x.float(), SPECTRAL_SIDE)))
    return F.interpolate(small[:, None], x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
