"""AdAutoMix: AutoMix of several images with an adversarially trained mask generator (Qin et al., 2024, section 3).

Differences from the authors' code: the encoder runs on clean images once instead of once per mixed image, and only in
adversarial steps. In these steps, as in the code, the generator reduces the similarity of the encoder's outputs to
those of the clean images; in the paper's text it increases the similarity (`cosine_sign=-1`). Masks become constant
where the first image's lam is within `lam_margin` of 0 or 1, as meant; the comparison in OpenMixup is inverted, which
makes nearly all masks of three images constant. The golden values come from the toolbox (OpenMixup), without this
comparison. In Swin the features are read before patch merging, as in `automix`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..mix import Mix
from ..ops.sampling import beta, integers, partners
from ._base import Net
from ._mixblock import ShareBlock
from .automix import AutoMix


def adautomix(x: Tensor, shares: Tensor, lam: Tensor, index: Tensor, margin: float) -> tuple[Tensor, Mix]:
    """Images mixed by `shares` (B, K, H, W), or uniformly by `lam` where lam[:, 0] is within `margin` of 0 or 1.

    `lam` (B, K) sums to one and is also the weight of the labels; `index` (B, K) rows, the first is the row itself.
    """
    lam = lam.to(x.device, torch.float32, non_blocking=True)
    extreme = torch.minimum(lam[:, 0], 1 - lam[:, 0]) <= margin
    shares = torch.where(extreme[:, None, None, None], lam[:, :, None, None], shares)
    return combine(x, shares, lam, index)


def combine(x: Tensor, shares: Tensor, lam: Tensor, index: Tensor) -> tuple[Tensor, Mix]:
    """Rows `index` (B, K) of `x` summed with weights `shares` (B, K, H or 1, W or 1); `lam` (B, K): for labels."""
    lam, index = lam.to(x.device, non_blocking=True), index.to(x.device, non_blocking=True)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    images = (wide.index_select(0, column) for column in index.unbind(1))
    mixed = sum(image * shares[:, k : k + 1] for k, image in enumerate(images))
    return mixed.to(x.dtype), Mix(index, lam, shares[:, :-1])


def weighted_cosine(mixed: Tensor, clean: Tensor, mix: Mix) -> Tensor:
    """Mean cosine similarity, -1 to 1, of logits `mixed` (B, C) and the logits `clean` (B, C) of the mixed images,
    weighted by `mix.weight`."""
    cosines = F.cosine_similarity(mixed[:, None], clean[mix.index], dim=-1)
    return (mix.weight * cosines).sum(1).mean()


@dataclass(eq=False)
class AdAutoMix(AutoMix):
    """The fields of `automix`, some with another meaning, and those for several images and adversarial steps.

    `alpha`: both parameters of the Beta distribution of the images' shares, which are divided by their sum for three or
    more images; 0 for no mixing. `lam_margin`: mix uniformly, by the shares alone, if the first image's share is within
    this distance of 0 or 1. `mask_weight`: weight of AutoMix's mask loss, summed over the images; 0 for no such loss.
    `lam_channel`: append each image's share to the generator's input as a channel, as in the paper on ImageNet and CUB.
    `mask_adjust`: not supported, must be 0. `images`: number of images to mix, 2 or more; 2 on ImageNet.
    `random_images`: draw the number of images for each batch, from 2 to `images`, as the authors do on CUB.
    `adversarial_every`: the generator is trained adversarially in every n-th step, 1 or more. `adversarial_weight`:
    weight of the encoder's loss in adversarial steps, 0 to 1, which the generator then increases; the similarity to the
    clean images has the rest; 0.1 on ImageNet. `cosine_sign`: sign of the similarity to the clean images in adversarial
    steps: 1 reduces the similarity, as in the authors' code; -1 increases it, as in the paper's text. `linear_weight`:
    weight of the loss of images mixed uniformly by their shares, 0 to 1; the loss of clean images has the rest; only
    for three or more images. `pairing`: how each partner is chosen: "shift" (one random offset for all images),
    "permutation" (at random, possibly the image itself) or "derangement" (at random, always another image).
    """

    paper = "2312.11954"
    title = "AdAutoMix"
    requires = frozenset(("classes", "classifier"))  # cosine similarities are of logits of classes
    pairings = ("shift", "permutation", "derangement")  # each partner has its own draw
    alpha: float = 1.0
    lam_margin: float = 0.03
    mask_weight: float = 0.0
    upsample: str = "bilinear"
    images: int = 3
    random_images: bool = False
    adversarial_every: int = 2
    adversarial_weight: float = 0.3
    cosine_sign: int = 1
    linear_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, least in (("images", 2), ("adversarial_every", 1)):
            if getattr(self, key) < least:
                raise ValueError(f"AdAutoMix's {key} is {getattr(self, key)!r}: give {least} or more.")
        for key in ("adversarial_weight", "linear_weight"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"AdAutoMix's {key} is {getattr(self, key)!r}: give a number from 0 to 1.")
        if self.mask_adjust:
            raise ValueError(f"AdAutoMix's mask_adjust is {self.mask_adjust!r}: only 0 is supported.")
        if self.cosine_sign not in (-1, 1):
            raise ValueError(f"AdAutoMix's cosine_sign is {self.cosine_sign!r}: choose 1 or -1.")

    def new_generator(self, channels: int) -> nn.Module:
        return ShareBlock(channels, self.lam_channel, self.upsample)

    def num_images(self, rng: torch.Generator) -> int:
        """Number of images to mix; equal on all ranks, because it decides which networks run."""
        if not self.random_images:
            return self.images
        return 2 + int(integers(self.images - 1, 1, self.common_rng or rng))

    def draw_shares(self, x: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """(B, count) shares that sum to one: normalised Beta draws, or (lam, 1 - lam) for two images."""
        lam = beta(self.alpha, self.draws(x) * (1 if count == 2 else count), rng).reshape(self.draws(x), -1)
        if count > 2:
            total = lam.sum(1, keepdim=True)
            unmixed = (total == 0) | (self.alpha == 0)  # all draws may underflow to zero
            lam = torch.where(unmixed, F.one_hot(torch.tensor(0), count), lam / total)[:, :-1]
        return torch.cat([lam, (1 - lam.sum(1, keepdim=True)).clamp(min=0)], 1).expand(len(x), -1)

    def draw_index(self, x: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """(B, count) rows: the row itself and `count - 1` partners, which may coincide."""
        own = torch.arange(len(x))
        return torch.stack([own, *(partners(len(x), self.pairing, rng) for _ in range(count - 1))], 1)

    def mix_batch(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Mix]:
        count = self.num_images(rng)
        lam, index = self.draw_shares(x, count, rng), self.draw_index(x, count, rng)
        return self.mix_for_net(x, self.encode(net, x), lam, index, rng)

    def mix_for_net(self, x: Tensor, z: Tensor, lam: Tensor, index: Tensor, rng: torch.Generator) -> tuple[Tensor, Mix]:
        with torch.no_grad():
            shares = self.make_mask(z, lam, index, x.shape[-2:], rng)
        return adautomix(x, shares, lam, index, self.lam_margin)

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        self.check(x, y)
        if self.skips(x, self.common_rng or rng):
            return {"mix": net.loss(net(x), y)}
        z, count = self.encode(net, x), self.num_images(rng)
        lam, index = self.draw_shares(x, count, rng), self.draw_index(x, count, rng)
        skipped = self.skip_rows(torch.zeros(len(x)), rng)[:, None]
        lam_for_net = skipped * F.one_hot(torch.tensor(0), count) + (1 - skipped) * lam
        mixed, mix = self.mix_for_net(x, z, lam_for_net, index, rng)
        losses = {"mix": net.loss(net(mixed), mix(y)), "onehot": self.onehot_loss(net, x, y, rng)}
        if count > 2:
            mixed, mix = combine(x, mix.weight[:, :, None, None], lam_for_net, index)
            losses["onehot"] = (1 - self.linear_weight) * losses["onehot"]
            losses["linear"] = self.linear_weight * net.loss(net(mixed), mix(y))
        if self.frozen:
            return losses
        lam = self.draw_shares(x, 2, rng) if count == 2 else lam  # new draws for pairs only, as in the authors' code
        return losses | self.adversarial_generator_losses(net, x, y, z, lam, rng)

    def adversarial_generator_losses(
        self, net: Net, x: Tensor, y: Tensor, z: Tensor, lam: Tensor, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Losses of the mask generator, with newly drawn partners; the encoder is not trained."""
        index = self.draw_index(x, lam.shape[1], rng)
        shares = self.make_mask(z, lam, index, x.shape[-2:], rng)
        losses = {}
        if self.mask_weight > 0:
            parts = zip(shares.split(1, 1), lam[: self.draws(x)].unbind(1))
            losses["mask"] = sum(self.mask_loss(*part) for part in parts)
        if self.update_prob == 1 or float(torch.rand((), generator=self.common_rng or rng)) < self.update_prob:
            mixed, mix = combine(x, shares, lam, index)
            logits = self.encoder(mixed)
            losses["generator"] = net.loss(logits, mix(y))
            if self.step % self.adversarial_every == 0:
                losses["generator"] = self.adversarial_loss(losses["generator"], logits, x, mix)
        return losses

    def adversarial_loss(self, loss: Tensor, logits: Tensor, x: Tensor, mix: Mix) -> Tensor:
        """The generator's loss in adversarial steps, from the encoder's `loss` and `logits` of the mixed images."""
        with torch.no_grad():
            clean = self.encoder(x)
        similarity = self.cosine_sign * weighted_cosine(logits, clean, mix)
        return (1 - self.adversarial_weight) * similarity - self.adversarial_weight * loss
