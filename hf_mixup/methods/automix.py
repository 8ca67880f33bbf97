"""AutoMix: a block that learns where to mix, taught by a momentum encoder (Liu et al., 2022, section 3)."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..mix import Mix
from ..ops.masks import blend, spread
from . import within
from ._base import Method
from ._mixblock import UPSAMPLINGS, MixBlock, hinge, variance

SCHEDULES = ("constant", "cosine")
TINY = 1e-6  # least share of an image in a pixel; 1 less it is not 1 in float32


def automix(x: Tensor, mask: Tensor, lam: Tensor, partner: Tensor, margin: float) -> tuple[Tensor, Mix]:
    """Images mixed by `mask` (B, 1, H, W), or evenly where lam is at most `margin` away from 0 or 1.

    `lam` (B,) stays the share that was drawn, also where the mask shows more or less of the row's own image.
    """
    lam = lam.to(x.device, torch.float32, non_blocking=True)
    extreme = torch.minimum(lam, 1 - lam) <= margin
    mask = torch.where(spread(extreme, mask), spread(lam, mask), mask)
    return blend(x, partner, mask), Mix.pair(partner, lam, mask)


def adjusted(mask: Tensor, lam: Tensor) -> Tensor:
    """Masks (B, 1, H, W) whose means are `lam` (B,): the image that shows too much is thinned out evenly."""
    mask = mask.clamp(TINY, 1 - TINY)
    lam, mean = spread(lam.to(mask.device, non_blocking=True), mask), mask.mean((1, 2, 3), keepdim=True)
    return torch.where(mean > lam, mask * lam / mean, 1 - (1 - mask) * (1 - lam) / (1 - mean))


def falling(progress: float) -> float:
    """Half a cosine, from 1 at the start of the training to 0 at its end."""
    return (math.cos(math.pi * progress) + 1) / 2


def momentum_at(step: int, total_steps: int, first: float, final: float, warmup: float) -> float:
    """The momentum of one optimizer step, `first` to `final`: `first` for the share `warmup` of the training.

    The cosine after it counts from the start of the training, so it sets in with a small jump, as in the authors' code.
    """
    if step < int(warmup * total_steps):
        return first
    return final - (final - first) * falling(min(step / total_steps, 1.0))


@dataclass(eq=False)
class AutoMix(Method):
    """`alpha`: of Beta(alpha, alpha). `layer`: whose features the block sees, a number or name; by default the last
    stage but one, or the middle block of a ViT. `lam_margin`: up to it, and from one minus it, the network gets plain
    Mixup. `mask_weight`, `mask_margin`, `mask_schedule` (constant, or cosine to zero): of the loss that keeps the
    masks' share near lam. `variance_weight`: how much that loss asks for masks of zeros and ones, 2 for ResNeXt-50
    on CUB. `momentum`, `final_momentum`, `momentum_warmup`: of the encoder; from a momentum of 1 on, encoder and block
    are those of a loaded state and stay as they are. `lam_channel`, `upsample`: see `MixBlock`. `update_prob`: share of
    steps in which the block learns from the encoder's loss. `generator_lr`, `generator_min_lr`, `generator_momentum`:
    the block's own learning rates and momentum; None takes the network's. `mask_adjust`: share of batches in which the
    network's masks are scaled to show lam of the own image. `onehot_mix`: the loss beside is of images mixed by Mixup
    or CutMix, in place of clean ones.

    The network's classifier learns from mixed images, `head` from clean ones. The encoder runs in train mode and
    keeps its own BatchNorm statistics, as in the authors' code; behind `layer` they see mixed images only.
    """

    paper = "2103.13027"
    title = "AutoMix"
    group = "learned"
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

    def __post_init__(self):
        super().__post_init__()
        self.beside = within(self, "choice") if self.onehot_mix else None
        self.generator = self.encoder = self.head = self.encoder_head = None  # until `build`
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
                f"{self.title}'s momentum goes from {self.momentum!r} to {self.final_momentum!r}: "
                "give 0 <= momentum <= final_momentum <= 1, or a momentum of 1 for a block that is fixed."
            )

    @property
    def frozen(self) -> bool:
        """Whether block and encoder stay as they were loaded."""
        return self.momentum >= 1

    def build(self, net):
        layers = net.layers(for_method=self.name)
        if self.layer is None:
            blocks = len({known.reduction for known in layers}) == 1  # a ViT's maps are all of one size
            self.chosen = layers[(len(layers) - 1) // 2 if blocks else -2]
        else:
            self.chosen = next(known for known in layers if known.name == net.layer(self.layer).name)
        device = net.classifier.weight.device
        self.generator = self.new_generator(self.chosen.channels).to(device).requires_grad_(not self.frozen)
        self.encoder = net.copy()
        # a copy of the classifier: no draw, and for a fine-tuned network the better start
        self.head = copy.deepcopy(net.classifier)
        self.encoder_head = copy.deepcopy(self.head).requires_grad_(False)
        self.train(self.training)

    def new_generator(self, channels: int) -> nn.Module:
        """The block that makes masks from features of `channels`."""
        return MixBlock(channels, self.lam_channel, self.upsample)

    def train(self, mode: bool = True):
        super().train(mode)
        if self.frozen and self.encoder is not None:
            self.encoder.eval()
            self.generator.eval()
        return self

    def mix_batch(self, net, x, y, rng):
        return self.mix_for_net(x, self.look(net, x), *self.draw(x, self.alpha, rng), rng)

    def forward(self, net, x, y, rng):
        self.check(x, y)
        if self.skips(x, self.common_rng or rng):  # common, as it decides which networks run
            return {"mix": net.loss(net(x), y)}
        z = self.look(net, x)
        lam, partner = self.draw(x, self.alpha, rng)
        mixed, mix = self.mix_for_net(x, z, self.spare_rows(lam, rng), partner, rng)
        losses = {
            "mix": net.loss(net(mixed), mix(y)),
            "onehot": self.onehot_loss(net, x, y, rng),
        }
        return losses if self.frozen else losses | self.teach(net, x, y, z, rng)

    def onehot_loss(self, net, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The loss of the method's own head on clean images, or on those that Mixup or CutMix mixed."""
        if self.beside is not None:
            x, mix = self.beside.mix(net, x, y, rng)
            y = mix(y)
        return net.loss(self.head(net.outputs(x).pooled), y)

    @torch.no_grad()
    def look(self, net, x: Tensor) -> Tensor:
        """(B, C, h, w) the encoder's features of clean images, without gradient."""
        self.encoder.precision = net.precision
        return self.encoder.features(x, self.chosen.name)

    def make_mask(self, z: Tensor, lam: Tensor, partner: Tensor, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """What the block makes of features `z`; `rng` is for blocks that draw."""
        return self.generator(z, lam, partner, size)

    def mix_for_net(
        self, x: Tensor, z: Tensor, lam: Tensor, partner: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Mix]:
        """Images that the network learns from, and how they were mixed: nothing of it reaches the block."""
        with torch.no_grad():
            mask = self.make_mask(z, lam, partner, x.shape[-2:], rng)
        if self.mask_adjust and float(torch.rand((), generator=rng)) < self.mask_adjust:
            mask = adjusted(mask, lam)
        return automix(x, mask, lam, partner, self.lam_margin)

    def teach(self, net, x: Tensor, y: Tensor, z: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """The block's losses, by masks of a draw of their own; the encoder is passed through, and learns nothing."""
        lam, partner = self.draw(x, self.alpha, rng)
        mask = self.make_mask(z, lam, partner, x.shape[-2:], rng)
        losses = {"mask": self.mask_loss(mask, lam[: self.draws(x)])}
        if self.update_prob == 1 or float(torch.rand((), generator=self.common_rng or rng)) < self.update_prob:
            mix = Mix.pair(partner, lam, mask, x.device)
            losses["generator"] = net.loss(self.encoder(blend(x, partner, mask)), mix(y))
        return losses

    def mask_loss(self, mask: Tensor, lam: Tensor) -> Tensor:
        """The weighted loss of masks (B, 1, H, W): share near `lam` (1,) or (B,), and little between 0 and 1."""
        loss = hinge(mask, lam, self.mask_margin)
        if self.variance_weight:
            loss = loss - self.variance_weight * variance(mask, lam)
        return self.mask_weight_now * loss

    @property
    def mask_weight_now(self) -> float:
        """The weight of the mask loss at this step."""
        return self.mask_weight * (falling(self.progress) if self.mask_schedule == "cosine" else 1)

    @torch.no_grad()
    def after_step(self, net):
        if self.frozen:
            return
        momentum = momentum_at(self.step, self.total_steps, self.momentum, self.final_momentum, self.momentum_warmup)
        slow = [*self.encoder.model.parameters(), *self.encoder_head.parameters()]
        fast = [*net.model.parameters(), *self.head.parameters()]
        torch._foreach_lerp_(slow, fast, 1 - momentum)
