"""AdAutoMix: AutoMix of several images, by a block that every second step works against the network (Qin et al., 2024,
section 3).

As the authors' code, but for this: the encoder sees clean images once instead of once for each image that is mixed, and
only where it works against the network. There as here the block seeks masks that make the encoder's outputs unlike
those of the clean images, while the paper's text asks for the contrary: `cosine_sign=-1`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.sampling import beta, integers, partners
from ._mixblock import ShareBlock
from .automix import AutoMix


def adautomix(x: Tensor, shares: Tensor, lam: Tensor, index: Tensor, margin: float) -> tuple[Tensor, Mix]:
    """Images mixed by `shares` (B, K, H, W), or evenly by `lam` where the first is at most `margin` from 0 or 1.

    `lam` (B, K) sums to one and stays what was drawn; `index` (B, K) rows, the first of them the row itself.
    """
    lam = lam.to(x.device, torch.float32, non_blocking=True)
    extreme = torch.minimum(lam[:, 0], 1 - lam[:, 0]) <= margin
    shares = torch.where(extreme[:, None, None, None], lam[:, :, None, None], shares)
    return combine(x, shares, lam, index)


def combine(x: Tensor, shares: Tensor, lam: Tensor, index: Tensor) -> tuple[Tensor, Mix]:
    """The sum of the rows `index` (B, K) of `x` times their `shares` (B, K, H or 1, W or 1); `lam` for the labels."""
    lam, index = lam.to(x.device, non_blocking=True), index.to(x.device, non_blocking=True)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    images = (wide.index_select(0, column) for column in index.unbind(1))
    mixed = sum(image * shares[:, k : k + 1] for k, image in enumerate(images))
    return mixed.to(x.dtype), Mix(index, lam, shares[:, :-1])


def likeness(mixed: Tensor, clean: Tensor, mix: Mix) -> Tensor:
    """Mean cosine, -1 to 1, between logits `mixed` (B, C) and the `clean` ones of what was mixed, weighed as it was."""
    cosines = F.cosine_similarity(mixed[:, None], clean[mix.index], dim=-1)
    return (mix.weight * cosines).sum(1).mean()


@dataclass(eq=False)
class AdAutoMix(AutoMix):
    """As `automix`, but for this. `images`: how many are mixed, 2 on ImageNet; with `random_images` any number from 2
    to that. `adversarial_every`: steps from one in which the block works against the network to the next.
    `adversarial_weight`: of the encoder's loss then, against likeness to the clean images; 0.1 on ImageNet.
    `linear_weight`: share of plain Mixup of as many images in the clean images' loss, for three and more. `lam_channel`
    is on for ImageNet and CUB. A `mask_weight` above 0 adds AutoMix's mask loss, which this method has not.
    """

    paper = "2312.11954"
    title = "AdAutoMix"
    pairings = ("shift", "permutation", "derangement")  # each image but the first has a draw of its own
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

    def __post_init__(self):
        super().__post_init__()
        for key, least in (("images", 2), ("adversarial_every", 1)):
            if getattr(self, key) < least:
                raise ValueError(f"AdAutoMix's {key} is {getattr(self, key)!r}: give {least} or more.")
        for key in ("adversarial_weight", "linear_weight"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"AdAutoMix's {key} is {getattr(self, key)!r}: give a number from 0 to 1.")
        if self.mask_adjust:
            raise ValueError(f"AdAutoMix's mask_adjust is {self.mask_adjust!r}: its masks of many images allow only 0.")
        if self.cosine_sign not in (-1, 1):
            raise ValueError(f"AdAutoMix's cosine_sign is {self.cosine_sign!r}: choose 1 or -1.")

    def new_generator(self, channels):
        return ShareBlock(channels, self.lam_channel, self.upsample)

    def count(self, rng: torch.Generator) -> int:
        """How many images are mixed; alike on all processes, since it decides which networks run."""
        if not self.random_images:
            return self.images
        return 2 + int(integers(self.images - 1, 1, self.common_rng or rng))

    def draw_shares(self, x: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """(B, count) shares that sum to one: Beta draws over their sum, or lam and the rest of a pair."""
        lam = beta(self.alpha, self.draws(x) * (1 if count == 2 else count), rng).reshape(self.draws(x), -1)
        if count > 2:
            total = lam.sum(1, keepdim=True)
            alone = (total == 0) | (self.alpha == 0)  # very small draws may all be zero
            lam = torch.where(alone, F.one_hot(torch.tensor(0), count), lam / total)[:, :-1]
        return torch.cat([lam, (1 - lam.sum(1, keepdim=True)).clamp(min=0)], 1).expand(len(x), -1)

    def draw_index(self, x: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """(B, count) rows: each row itself and as many partners as are missing, which may be alike."""
        own = torch.arange(len(x))
        return torch.stack([own, *(partners(len(x), self.pairing, rng) for _ in range(count - 1))], 1)

    def mix_batch(self, net, x, y, rng):
        count = self.count(rng)
        lam, index = self.draw_shares(x, count, rng), self.draw_index(x, count, rng)
        return self.mix_for_net(x, self.look(net, x), lam, index, rng)

    def mix_for_net(self, x, z, lam, partner, rng):
        with torch.no_grad():
            shares = self.make_mask(z, lam, partner, x.shape[-2:], rng)
        return adautomix(x, shares, lam, partner, self.lam_margin)

    def forward(self, net, x, y, rng):
        self.check(x, y)
        if self.skips(x, self.common_rng or rng):
            return {"mix": net.loss(net(x), y)}
        z, count = self.look(net, x), self.count(rng)
        lam, index = self.draw_shares(x, count, rng), self.draw_index(x, count, rng)
        spared = self.spare_rows(torch.zeros(len(x)), rng)[:, None]
        lam_for_net = spared * F.one_hot(torch.tensor(0), count) + (1 - spared) * lam
        mixed, mix = self.mix_for_net(x, z, lam_for_net, index, rng)
        losses = {"mix": net.loss(net(mixed), mix(y)), "onehot": self.onehot_loss(net, x, y, rng)}
        if count > 2:
            mixed, mix = combine(x, mix.weight[:, :, None, None], lam_for_net, index)
            losses["onehot"] = (1 - self.linear_weight) * losses["onehot"]
            losses["linear"] = self.linear_weight * net.loss(net(mixed), mix(y))
        if self.frozen:
            return losses
        lam = self.draw_shares(x, 2, rng) if count == 2 else lam  # drawn anew for pairs only, as in the authors' code
        return losses | self.teach_block(net, x, y, z, lam, rng)

    def teach_block(self, net, x, y, z, lam: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """The block's losses, for partners of their own; the encoder is passed through, and learns nothing."""
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
                losses["generator"] = self.against(losses["generator"], logits, x, mix)
        return losses

    def against(self, loss: Tensor, logits: Tensor, x: Tensor, mix: Mix) -> Tensor:
        """What the block minimises where it works against the network, from the encoder's `loss` and `logits`."""
        with torch.no_grad():
            clean = self.encoder(x)
        alike = self.cosine_sign * likeness(logits, clean, mix)
        return (1 - self.adversarial_weight) * alike - self.adversarial_weight * loss
