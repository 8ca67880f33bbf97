"""AutoMix: a mask generator trained with a momentum encoder (Liu et al., 2022, section 3).

In Swin the features are read before the patch merging that ends a stage (384 channels, 14 x 14 at 224 px); in the
published configurations after it (768 channels, 7 x 7).
"""

import copy
import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from ..mix import Mix
from ..ops.masks import blend, unsqueeze_like
from . import load_nested
from ._base import Method, Net
from ._mixblock import UPSAMPLINGS, MixBlock, hinge, variance

SCHEDULES = ("constant", "cosine")
TINY = 1e-6  # smallest share of an image in a pixel; 1 - TINY is below 1 in float32


def automix(x: Tensor, mask: Tensor, lam: Tensor, partner: Tensor, margin: float) -> tuple[Tensor, Mix]:
    """Images mixed by `mask` (B, 1, H, W), or uniformly by `lam` in rows where lam is within `margin` of 0 or 1.

    `lam` (B,) is also the weight of the labels, even where the mean of the mask differs from it.
    """
    lam = lam.to(x.device, torch.float32, non_blocking=True)
    extreme = torch.minimum(lam, 1 - lam) <= margin
    mask = torch.where(unsqueeze_like(extreme, mask), unsqueeze_like(lam, mask), mask)
    return blend(x, partner, mask), Mix.pair(partner, lam, mask)


def rescale_mask(mask: Tensor, lam: Tensor) -> Tensor:
    """Masks (B, 1, H, W) rescaled to a mean of `lam` (B,): the image with too large a share is scaled down."""
    mask = mask.clamp(TINY, 1 - TINY)
    lam, mean = unsqueeze_like(lam.to(mask.device, non_blocking=True), mask), mask.mean((1, 2, 3), keepdim=True)
    return torch.where(mean > lam, mask * lam / mean, 1 - (1 - mask) * (1 - lam) / (1 - mean))


def cosine_decay(progress: float) -> float:
    """Cosine decay from 1 at `progress` 0 to 0 at `progress` 1."""
    return (math.cos(math.pi * progress) + 1) / 2


def momentum_at(step: int, total_steps: int, first: float, final: float, warmup: float) -> float:
    """Momentum of an optimizer step: `first` during the share `warmup` of training, then a cosine to `final`.

    The cosine starts at step 0, so momentum jumps a little at the end of the warmup, as in the authors' code.
    """
    if step < int(warmup * total_steps):
        return first
    return final - (final - first) * cosine_decay(min(step / total_steps, 1.0))


@dataclass(eq=False)
class AutoMix(Method):
    """`alpha`: both parameters of the Beta distribution of lam, the image's own share; 0 for no mixing. `layer`: number
    or name of the layer whose features are the generator's input; None for the last stage but one, or the middle block
    of a ViT. `lam_margin`: plain Mixup if lam is within this distance of 0 or 1. `mask_weight`: weight of the mask
    loss, which keeps the mean of the masks near lam. `mask_margin`: difference between the mean of the masks and lam
    that the mask loss tolerates, 0 to 1. `mask_schedule`: weight of the mask loss during training, "constant" or
    "cosine" (decreasing to 0). `variance_weight`: weight of the masks' variance in the mask loss, which favours pixels
    near 0 and 1; 2 for ResNeXt-50 on CUB. `momentum`: share of its weights that the encoder, a moving average of the
    network, keeps in each step, 0 to 1; with 1, encoder and generator are frozen in their loaded state.
    `final_momentum`: the encoder's momentum at the end of training, reached by a cosine. `momentum_warmup`: share of
    training, at its start, in which the encoder's momentum is constant, 0 to 1. `lam_channel`: append lam to the
    generator's input as a channel, as in the paper on ImageNet, CUB and for ViTs. `upsample`: interpolation of masks to
    the size of the images, "nearest" or "bilinear". `update_prob`: share of steps in which the generator is trained
    with the encoder's loss of mixed images, 0 to 1. `generator_lr`: initial learning rate of the generator; None for
    the network's. `generator_min_lr`: final learning rate of the generator; None for the network's.
    `generator_momentum`: momentum of the generator, for optimizers that have one; None for the network's.
    `mask_adjust`: share of batches in which masks are rescaled to a mean of lam, 0 to 1. `onehot_mix`: train the second
    classifier, `head`, on images mixed by Mixup or CutMix instead of on clean images.

    The network's classifier is trained on mixed images, `head` on clean images. The encoder runs in train mode with its
    own BatchNorm statistics, as in the authors' code; its layers after `layer` run on mixed images only.
    """

    paper = "2103.13027"
    title = "AutoMix"
    group = "learned"
    requires = frozenset(("classifier",))
    needs_net = True
    needs_forward = True
    alpha: float = 2.0
    layer: int | str | None = None
    lam_margin: float = 0.08
    mask_weight: float = 0.1
    mask_margin: float = 0.1
    mask_schedule: str = "constant"
    variance_weight: float = 0.0
    momentum: float = 0.999
    final_momentum: float = 0.999999
    momentum_warmup: float = 0.1
    lam_channel: bool = False
    upsample: str = "nearest"
    update_prob: float = 1.0
    generator_lr: float | None = None
    generator_min_lr: float | None = None
    generator_momentum: float | None = None
    mask_adjust: float = 0.0
    onehot_mix: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.onehot_method = load_nested(self, "choice") if self.onehot_mix else None
        self.generator = self.encoder = self.head = self.encoder_head = None  # created in `build`
        for key, known in (("mask_schedule", SCHEDULES), ("upsample", UPSAMPLINGS)):
            if getattr(self, key) not in known:
                raise ValueError(f"{self.title}'s {key} is {getattr(self, key)!r}. Choose one of: {', '.join(known)}.")
        for key in ("update_prob", "momentum_warmup", "lam_margin", "mask_margin", "mask_adjust"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{self.title}'s {key} is {getattr(self, key)!r}: give a number from 0 to 1.")
        if not math.isfinite(self.variance_weight):
            raise ValueError(f"{self.title}'s variance_weight is {self.variance_weight!r}: give a finite number.")
        if not 0 <= self.momentum or not (self.frozen or self.momentum <= self.final_momentum <= 1):
            raise ValueError(
                f"{self.title}'s momentum is {self.momentum!r} and final_momentum {self.final_momentum!r}: "
                "give 0 <= momentum <= final_momentum <= 1, or a momentum of 1 for a frozen generator."
            )

    @property
    def frozen(self) -> bool:
        """Whether generator and encoder are not trained."""
        return self.momentum >= 1

    def build(self, net: Net) -> None:
        layers = net.layers(for_method=self.name)
        if self.layer is None:
            is_vit = len({layer.reduction for layer in layers}) == 1  # all maps have one size
            self.layer_info = layers[(len(layers) - 1) // 2 if is_vit else -2]
        else:
            self.layer_info = next(layer for layer in layers if layer.name == net.layer(self.layer).name)
        device = net.classifier.weight.device
        self.generator = self.new_generator(self.layer_info.channels).to(device).requires_grad_(not self.frozen)
        self.encoder = net.copy()
        # copy the classifier: no random draw, and a better start for fine-tuning
        self.head = copy.deepcopy(net.classifier)
        self.encoder_head = copy.deepcopy(self.head).requires_grad_(False)
        self.train(self.training)

    def new_generator(self, channels: int) -> nn.Module:
        """The mask generator for features of `channels`."""
        return MixBlock(channels, self.lam_channel, self.upsample)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen and self.encoder is not None:
            self.encoder.eval()
            self.generator.eval()
        return self

    def mix_batch(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Mix]:
        return self.mix_for_net(x, self.encode(net, x), *self.draw(x, self.alpha, rng), rng)

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        self.check(x, y)
        if self.skips(x, self.common_rng or rng):  # equal on all ranks: it decides which networks run
            return {"mix": net.loss(net(x), y)}
        z = self.encode(net, x)
        lam, partner = self.draw(x, self.alpha, rng)
        mixed, mix = self.mix_for_net(x, z, self.skip_rows(lam, rng), partner, rng)
        losses = {
            "mix": net.loss(net(mixed), mix(y)),
            "onehot": self.onehot_loss(net, x, y, rng),
        }
        return losses if self.frozen else losses | self.generator_losses(net, x, y, z, rng)

    def onehot_loss(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """Loss of `head` on clean images or, with `onehot_mix`, on images mixed by Mixup or CutMix."""
        if self.onehot_method is not None:
            x, mix = self.onehot_method.mix(net, x, y, rng)
            y = mix(y)
        return net.loss(self.head(net.outputs(x).pooled), y)

    @torch.no_grad()
    def encode(self, net: Net, x: Tensor) -> Tensor:
        """(B, C, h, w) features of the encoder for clean images, without gradient."""
        self.encoder.precision = net.precision
        return self.encoder.features(x, self.layer_info.name)

    def make_mask(self, z: Tensor, lam: Tensor, partner: Tensor, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """(B, 1, H, W) mask of the generator for features `z` (B, C, h, w); `rng` is for generators with dropout."""
        return self.generator(z, lam, partner, size)

    def mix_for_net(
        self, x: Tensor, z: Tensor, lam: Tensor, partner: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Mix]:
        """Mixed images for training the network; no gradient reaches the generator."""
        with torch.no_grad():
            mask = self.make_mask(z, lam, partner, x.shape[-2:], rng)
        if self.mask_adjust and float(torch.rand((), generator=rng)) < self.mask_adjust:
            mask = rescale_mask(mask, lam)
        return automix(x, mask, lam, partner, self.lam_margin)

    def generator_losses(self, net: Net, x: Tensor, y: Tensor, z: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Losses of the mask generator, with new draws of lam and partner; the encoder is not trained."""
        lam, partner = self.draw(x, self.alpha, rng)
        mask = self.make_mask(z, lam, partner, x.shape[-2:], rng)
        losses = {"mask": self.mask_loss(mask, lam[: self.draws(x)])}
        if self.update_prob == 1 or float(torch.rand((), generator=self.common_rng or rng)) < self.update_prob:
            mix = Mix.pair(partner, lam, mask, x.device)
            losses["generator"] = net.loss(self.encoder(blend(x, partner, mask)), mix(y))
        return losses

    def mask_loss(self, mask: Tensor, lam: Tensor) -> Tensor:
        """Weighted loss of masks (B, 1, H, W): mean near `lam` (1,) or (B,), and values near 0 and 1."""
        loss = hinge(mask, lam, self.mask_margin)
        if self.variance_weight:
            loss = loss - self.variance_weight * variance(mask, lam)
        return self.mask_weight_now * loss

    @property
    def mask_weight_now(self) -> float:
        """The weight of the mask loss at the current step."""
        return self.mask_weight * (cosine_decay(self.progress) if self.mask_schedule == "cosine" else 1)

    @torch.no_grad()
    def after_step(self, net: Net) -> None:
        if self.frozen:
            return
        momentum = momentum_at(self.step, self.total_steps, self.momentum, self.final_momentum, self.momentum_warmup)
        slow = [*self.encoder.model.parameters(), *self.encoder_head.parameters()]
        fast = [*net.model.parameters(), *self.head.parameters()]
        torch._foreach_lerp_(slow, fast, 1 - momentum)
