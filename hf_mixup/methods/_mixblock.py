"""Mask generators: networks of the methods that learn to mix."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.masks import unsqueeze_like
from ..ops.sampling import on_device

UPSAMPLINGS = ("nearest", "bilinear")


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(N, 1, h, w) scaled dot-product attention over positions.

    `query` and `key` (N, D, h, w), `value` (N, 1, h, w).
    """
    similarity = query.flatten(2).transpose(1, 2) @ key.flatten(2) / query.shape[1] ** 0.5
    averaged = similarity.softmax(-1) @ value.flatten(2).transpose(1, 2)
    return averaged.transpose(1, 2).reshape(value.shape)


def append_channel(z: Tensor, share: Tensor) -> Tensor:
    """(N, C + 1, h, w) features `z` (N, C, h, w) with an additional constant channel `share` (N,)."""
    return torch.cat([z, unsqueeze_like(share, z).expand(-1, 1, *z.shape[2:])], 1)


def gather_pairs(z: Tensor, lam: Tensor, partner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, C, h, w) of each row, those of its partner, and `lam` (N,), in float32 on the device of `z`."""
    lam = lam.to(z.device, torch.float32, non_blocking=True).expand(len(z))
    own = z.float()
    return own, own.index_select(0, partner.to(z.device, non_blocking=True)), lam


def resize_masks(logits: Tensor, size: tuple[int, int], upsample: str) -> Tensor:
    """(N, K, H, W) mask logits `logits` (N, K, h, w) upsampled to the images' `size`."""
    return F.interpolate(logits, size=tuple(size), mode=upsample)


def init_small(block: nn.Module) -> None:
    """Initialise the convolutions of `block` with small weights and zero biases: masks are nearly uniform at first."""
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def hinge(mask: Tensor, lam: Tensor, margin: float) -> Tensor:
    """Hinge loss `max(|mean(mask) - lam| - margin, 0)`, 0 to 1.

    `mask` (N, 1, H, W). One `lam` (1,) is compared with the mean over the whole batch, as in the paper; `lam` (N,) with
    the mean of each row.
    """
    share = mask.mean() if len(lam) == 1 else mask.mean((1, 2, 3))
    return ((share - lam.to(mask.device, non_blocking=True)).abs() - margin).clamp(min=0).mean()


def variance(mask: Tensor, lam: Tensor) -> Tensor:
    """Variance of mask pixels, 0 to 1/4, largest for binary masks.

    `mask` (N, 1, H, W). The mean is that of the whole batch for one `lam` (1,), that of each row for `lam` (N,).
    """
    mean = mask.mean() if len(lam) == 1 else mask.mean((1, 2, 3), keepdim=True)
    return (mask - mean).square().mean()


def lam_curve(lam: Tensor, k: float) -> Tensor:
    """`lam` in [0, 1] moved towards 1/2, more for a smaller `k`; 0, 1/2 and 1 do not change, nor does a negative `k`.

    SAMix, section 4 (arXiv 2111.15454).
    """
    return lam if k < 0 else (4 / 3 * lam**3 - 2 * lam**2 + (k + 1) * lam) / (k + 1 / 3)


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A context without autocast on `device`."""
    if not torch.amp.is_autocast_available(device.type):  # e.g. the meta device
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


class MixBlock(nn.Module):
    """AutoMix's mask generator (section 3.2, arXiv 2103.13027).

    `channels` of the features; `lam_channel`: append lam to the features as a channel; `upsample` nearest or bilinear.
    """

    def __init__(self, channels: int, lam_channel: bool = False, upsample: str = "nearest") -> None:
        super().__init__()
        self.lam_channel, self.upsample = lam_channel, upsample
        width = channels + 1 if lam_channel else channels
        self.query = nn.Conv2d(width, max(channels // 2, 1), 1)  # also the key
        self.value = nn.Conv2d(width, 1, 1)
        init_small(self)

    def forward(self, z: Tensor, lam: Tensor, partner: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, 1, H, W) float32 mask in (0, 1) for images of `size`, near one where the row's own image is visible.

        `z` (N, C, h, w) features of the batch, `lam` (N,) or (1,), `partner` (N,).
        """
        # products overflow in float16; rounding to bfloat16 removes the effect of lam
        with without_autocast(z.device):
            own, other, lam = gather_pairs(z, lam, partner)
            if self.lam_channel:
                own, other = append_channel(own, lam), append_channel(other, 1 - lam)
            logits = attend(self.query(own), self.query(other), self.value(other))
            # upsample before the sigmoid, as in the paper; bilinear results differ
            return 1 - resize_masks(logits, size, self.upsample).sigmoid()


class SceneBlock(nn.Module):
    """SAMix's mask generator: query and key see the features of both images (section 4, arXiv 2111.15454).

    `channels` of the features, which are scaled by `lam_curve(lam, k)`; `dropout` of the value map.
    """

    def __init__(self, channels: int, k: float = 0.25, dropout: float = 0.0, upsample: str = "bilinear") -> None:
        super().__init__()
        self.k, self.dropout, self.upsample = k, dropout, upsample
        width = max(channels // 2, 1)
        self.query, self.key = nn.Conv2d(2 * channels, width, 1), nn.Conv2d(2 * channels, width, 1)
        # BatchNorm and no biases, as in the authors' code
        hidden = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ELU()
        self.value = nn.Sequential(*hidden, nn.Conv2d(width, 1, 1, bias=False))
        init_small(self)

    def forward(
        self, z: Tensor, lam: Tensor, partner: Tensor, size: tuple[int, int], rng: torch.Generator | None = None
    ) -> Tensor:
        """(N, 1, H, W) float32 mask, as in `MixBlock`; `rng` is for dropout in training mode."""
        with without_autocast(z.device):
            own, other, lam = gather_pairs(z, lam, partner)
            strength = unsqueeze_like(lam_curve(lam, self.k), own)
            own, other = own * (1 + strength), other * (2 - strength)
            both, value = torch.cat([own, other], 1), self.value(other)
            if self.training and self.dropout > 0:
                value = self.drop(value, rng)
            logits = attend(self.query(both), self.key(both), value)
            return 1 - resize_masks(logits, size, self.upsample).sigmoid()

    def drop(self, value: Tensor, rng: torch.Generator) -> Tensor:
        """Dropout of positions of `value` (N, 1, h, w); the expected value does not change."""
        kept = torch.rand(value.shape, generator=on_device(rng, value.device), device=value.device) >= self.dropout
        return value * kept / (1 - self.dropout)


class ShareBlock(nn.Module):
    """AdAutoMix's mask generator for several images (section 3, arXiv 2312.11954).

    `channels` of the features; `lam_channel`: append each image's share to its features as a channel.
    """

    def __init__(self, channels: int, lam_channel: bool = False, upsample: str = "bilinear") -> None:
        super().__init__()
        self.lam_channel, self.upsample = lam_channel, upsample
        width = channels + 1 if lam_channel else channels
        self.query, self.key = (nn.Conv2d(width, max(channels // 2, 1), 1) for _ in range(2))
        self.value = nn.Conv2d(width, 1, 1)
        init_small(self)

    def forward(self, z: Tensor, lam: Tensor, index: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, K, H, W) float32 shares of the K images in each pixel, summing to one, for images of `size`.

        `z` (N, C, h, w) features of the batch, `lam` and `index` (N, K) shares and rows of the K images.
        """
        lam, index = (draw.to(z.device, non_blocking=True) for draw in (lam.float(), index))
        with without_autocast(z.device):
            images = [z.float().index_select(0, column) for column in index.unbind(1)]
            if self.lam_channel:
                images = [append_channel(image, share) for image, share in zip(images, lam.unbind(1))]
            queries, keys, values = ([layer(image) for image in images] for layer in (self.query, self.key, self.value))
            keys = [key.relu() for key in keys]
            all_keys = sum(keys)  # a sum of products with keys is the product with their sum
            logits = [attend(q.relu(), all_keys - k, v) for q, k, v in zip(queries, keys, values)]
            return resize_masks(torch.cat(logits, 1), size, self.upsample).softmax(1)
