"""Networks that make masks, for the methods that learn how to mix."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.masks import spread

UPSAMPLINGS = ("nearest", "bilinear")


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(N, 1, h, w) `value` averaged, for each place of `query`, over the places of `key` that resemble it.

    `query` and `key` (N, D, h, w), `value` (N, 1, h, w); softmax of their products over the square root of D.
    """
    likeness = query.flatten(2).transpose(1, 2) @ key.flatten(2) / query.shape[1] ** 0.5
    averaged = likeness.softmax(-1) @ value.flatten(2).transpose(1, 2)
    return averaged.transpose(1, 2).reshape(value.shape)


def with_channel(z: Tensor, share: Tensor) -> Tensor:
    """(N, C + 1, h, w) features `z` (N, C, h, w) with a constant channel: `share` (N,)."""
    return torch.cat([z, spread(share, z).expand(-1, 1, *z.shape[2:])], 1)


def hinge(mask: Tensor, lam: Tensor, margin: float) -> Tensor:
    """How much more than `margin` the mask's share is away from lam, 0 to 1.

    `mask` (N, 1, H, W). One `lam` (1,) is held against the share of the whole batch, as in the paper; `lam` (N,)
    against each row's own.
    """
    share = mask.mean() if len(lam) == 1 else mask.mean((1, 2, 3))
    return ((share - lam.to(mask.device, non_blocking=True)).abs() - margin).clamp(min=0).mean()


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A context in which operations on `device` keep the type of what they are given."""
    if not torch.amp.is_autocast_available(device.type):  # "meta" knows no autocast to turn off
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


class MixBlock(nn.Module):
    """Where a row's own image shows, from the features of both (AutoMix, section 3.2, arXiv 2103.13027).

    `channels` of the features; `lam_channel` tells the block lam by one channel more; `upsample` nearest or bilinear.
    """

    def __init__(self, channels: int, lam_channel: bool = False, upsample: str = "nearest"):
        super().__init__()
        self.lam_channel, self.upsample = lam_channel, upsample
        width = channels + 1 if lam_channel else channels
        self.query = nn.Conv2d(width, max(channels // 2, 1), 1)  # the key as well
        self.value = nn.Conv2d(width, 1, 1)
        for layer in (self.query, self.value):  # small weights: masks are near a half at first
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, z: Tensor, lam: Tensor, partner: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, 1, H, W) float32 mask in (0, 1) for images of `size`, one where the row's own image shows.

        `z` (N, C, h, w) features of the batch, `lam` (N,) or one number, `partner` (N,).
        """
        lam = lam.to(z.device, torch.float32, non_blocking=True).expand(len(z))
        # in float16 the products overflow, and in bfloat16 lam is lost in the sums
        with without_autocast(z.device):
            own = z.float()
            other = own.index_select(0, partner.to(z.device, non_blocking=True))
            if self.lam_channel:
                own, other = with_channel(own, lam), with_channel(other, 1 - lam)
            shown = attend(self.query(own), self.query(other), self.value(other))
            # before the sigmoid, as in the paper: it matters for bilinear
            return 1 - F.interpolate(shown, size=tuple(size), mode=self.upsample).sigmoid()
