"""Networks that make masks, for the methods that learn how to mix."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.masks import spread
from ..ops.sampling import on_device

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


def partners_of(z: Tensor, lam: Tensor, partner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, C, h, w) of each row and of its partner, and `lam` (N,), all float32 on the device of `z`."""
    lam = lam.to(z.device, torch.float32, non_blocking=True).expand(len(z))
    own = z.float()
    return own, own.index_select(0, partner.to(z.device, non_blocking=True)), lam


def enlarge(shown: Tensor, size: tuple[int, int], upsample: str) -> Tensor:
    """(N, K, H, W) maps `shown` (N, K, h, w) at the images' `size`; before what turns them into shares."""
    return F.interpolate(shown, size=tuple(size), mode=upsample)


def start_small(block: nn.Module) -> None:
    """Small weights and no biases in the convolutions of `block`: masks are nearly even at first."""
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def hinge(mask: Tensor, lam: Tensor, margin: float) -> Tensor:
    """How much more than `margin` the mask's share is away from lam, 0 to 1.

    `mask` (N, 1, H, W). One `lam` (1,) is held against the share of the whole batch, as in the paper; `lam` (N,)
    against each row's own.
    """
    share = mask.mean() if len(lam) == 1 else mask.mean((1, 2, 3))
    return ((share - lam.to(mask.device, non_blocking=True)).abs() - margin).clamp(min=0).mean()


def variance(mask: Tensor, lam: Tensor) -> Tensor:
    """How far pixels are from their mean share, squared, 0 to 1/4: most for masks of zeros and ones.

    `mask` (N, 1, H, W). About the mean of the whole batch for one `lam` (1,), about each row's own for `lam` (N,).
    """
    mean = mask.mean() if len(lam) == 1 else mask.mean((1, 2, 3), keepdim=True)
    return (mask - mean).square().mean()


def lam_curve(lam: Tensor, k: float) -> Tensor:
    """`lam` in [0, 1] bent towards a half where `k` is small, as it is for a negative `k`; 0, 1/2 and 1 stay.

    SAMix, section 4 (arXiv 2111.15454).
    """
    return lam if k < 0 else (4 / 3 * lam**3 - 2 * lam**2 + (k + 1) * lam) / (k + 1 / 3)


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
        start_small(self)

    def forward(self, z: Tensor, lam: Tensor, partner: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, 1, H, W) float32 mask in (0, 1) for images of `size`, one where the row's own image shows.

        `z` (N, C, h, w) features of the batch, `lam` (N,) or one number, `partner` (N,).
        """
        # in float16 the products overflow, and in bfloat16 lam is lost in the sums
        with without_autocast(z.device):
            own, other, lam = partners_of(z, lam, partner)
            if self.lam_channel:
                own, other = with_channel(own, lam), with_channel(other, 1 - lam)
            shown = attend(self.query(own), self.query(other), self.value(other))
            # before the sigmoid, as in the paper: it matters for bilinear
            return 1 - enlarge(shown, size, self.upsample).sigmoid()


class SceneBlock(nn.Module):
    """Where a row's own image shows; query and key see both images (SAMix, section 4, arXiv 2111.15454).

    `channels` of the features, which lam, bent by `lam_curve` with `k`, makes stronger; `dropout` of values at places.
    """

    def __init__(self, channels: int, k: float = 0.25, dropout: float = 0.0, upsample: str = "bilinear"):
        super().__init__()
        self.k, self.dropout, self.upsample = k, dropout, upsample
        width = max(channels // 2, 1)
        self.query, self.key = nn.Conv2d(2 * channels, width, 1), nn.Conv2d(2 * channels, width, 1)
        # no biases, and its own BatchNorm, as in the authors' code
        hidden = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ELU()
        self.value = nn.Sequential(*hidden, nn.Conv2d(width, 1, 1, bias=False))
        start_small(self)

    def forward(
        self, z: Tensor, lam: Tensor, partner: Tensor, size: tuple[int, int], rng: torch.Generator | None = None
    ) -> Tensor:
        """(N, 1, H, W) float32 mask, as `MixBlock` gives it; `rng` draws what is dropped in training."""
        with without_autocast(z.device):
            own, other, lam = partners_of(z, lam, partner)
            strength = spread(lam_curve(lam, self.k), own)
            own, other = own * (1 + strength), other * (2 - strength)
            both, value = torch.cat([own, other], 1), self.value(other)
            if self.training and self.dropout > 0:
                value = self.drop(value, rng)
            shown = attend(self.query(both), self.key(both), value)
            return 1 - enlarge(shown, size, self.upsample).sigmoid()

    def drop(self, value: Tensor, rng: torch.Generator) -> Tensor:
        """`value` with zeros at random places, the others scaled so that the mean stays."""
        kept = torch.rand(value.shape, generator=on_device(rng, value.device), device=value.device) >= self.dropout
        return value * kept / (1 - self.dropout)


class ShareBlock(nn.Module):
    """What share of each pixel each of several images has (AdAutoMix, section 3, arXiv 2312.11954).

    `channels` of the features; `lam_channel` tells the block each image's share by one channel more.
    """

    def __init__(self, channels: int, lam_channel: bool = False, upsample: str = "bilinear"):
        super().__init__()
        self.lam_channel, self.upsample = lam_channel, upsample
        width = channels + 1 if lam_channel else channels
        self.query, self.key = (nn.Conv2d(width, max(channels // 2, 1), 1) for _ in range(2))
        self.value = nn.Conv2d(width, 1, 1)
        start_small(self)

    def forward(self, z: Tensor, lam: Tensor, index: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, K, H, W) float32 shares, summing to one over K, for images of `size`.

        `z` (N, C, h, w) features of the batch, `lam` and `index` (N, K) shares and rows of the images.
        """
        lam, index = (draw.to(z.device, non_blocking=True) for draw in (lam.float(), index))
        with without_autocast(z.device):
            images = [z.float().index_select(0, column) for column in index.unbind(1)]
            if self.lam_channel:
                images = [with_channel(image, share) for image, share in zip(images, lam.unbind(1))]
            queries, keys, values = ([layer(image) for image in images] for layer in (self.query, self.key, self.value))
            keys = [key.relu() for key in keys]
            all_keys = sum(keys)  # products with the others' keys, summed, are those with the sum of these keys
            parts = [attend(q.relu(), all_keys - k, v) for q, k, v in zip(queries, keys, values)]
            return enlarge(torch.cat(parts, 1), size, self.upsample).softmax(1)
