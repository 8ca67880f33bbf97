"""RecursiveMix: each batch gets a box with the whole batch before it, made small (Yang et al., 2022, section 3).

What was in the box last time is in the box's box this time, in images and in targets. Where the authors sample the last
map for a box, its mean over the box is exact. A box without pixels mixes nothing; a batch larger than the one before
takes its rows again, from the first on. Their "bilinear" puts the outermost pixels on the corners, ours is torch's own.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..mix import Mix
from ..ops.losses import soft_cross_entropy
from ..ops.masks import boxes, spread
from ..ops.resize import INTERPOLATIONS, box_mean, paste_resized
from ..ops.sampling import points, uniform
from ._base import Method

HISTORY = ("images", "targets", "logits")


def recursivemix(
    x: Tensor, y: Tensor, images: Tensor, targets: Tensor, corners: Tensor, interpolation: str = "nearest"
) -> tuple[Tensor, Tensor, Tensor]:
    """Images with `images` (B, C, h, w) resized into their boxes, mixed targets, and `lam` (B or 1,) the share kept.

    `x` (B, C, H, W), `y` and `targets` (B, ...), `corners` (B, 4) half-open top, bottom, left, right on the CPU.
    """
    mixed = paste_resized(x, images, corners, interpolation)
    area = (corners[:, 1] - corners[:, 0]) * (corners[:, 3] - corners[:, 2])
    lam = (1 - area / math.prod(x.shape[-2:])).to(x.device, torch.float32, non_blocking=True)
    return mixed, torch.lerp(targets.float(), y.float(), spread(lam, y)), lam


@dataclass(eq=False)
class RecursiveMix(Method):
    """`max_area`: largest share of the image that the box takes before clipping (the authors' alpha). `omega`: weight
    of the loss of the box, which a head of its own reads, against what the network took the batch before for; 0.1 on
    CIFAR, 0 is none. `interpolation`: of the images put into boxes.

    `mix` alone has no batch before it and mixes nothing: the method works inside a training step.
    """

    paper = "2203.06844"
    title = "RecursiveMix"
    pairings = ("previous",)
    private = HISTORY
    needs_forward = True
    max_area: float = 0.5
    omega: float = 0.5
    interpolation: str = "nearest"
    pairing: str = "previous"

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.max_area <= 1:
            raise ValueError(f"RecursiveMix's max_area is {self.max_area!r}: give a share from 0 to 1.")
        if not (math.isfinite(self.omega) and self.omega >= 0):
            raise ValueError(
                f"RecursiveMix's omega is {self.omega!r}: give a finite number, 0 (no such loss) or above."
            )
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise ValueError(f"Unknown interpolation {self.interpolation!r}. Choose one of: {known}.")
        self.head = None
        for name in HISTORY:
            self.register_buffer(name, torch.empty(0))

    def build(self, net):
        if self.omega > 0:
            self.head = nn.Linear(net.layers(for_method="recursivemix")[-1].channels, net.num_classes)

    def mix_batch(self, net, x, y, rng):
        return x, Mix.none(x)

    def forward(self, net, x, y, rng):
        self.check(x, y)
        if len(x) == 1 or not self.training:
            return {"mix": net.loss(net(x), y)}
        if self.skips(x, rng) or len(self.images) == 0:
            logits = net(x)
            self.remember(x.clone(), y.clone(), logits)
            return {"mix": net.loss(logits, y)}
        row = torch.arange(len(x), device=x.device) % len(self.images)
        images, targets, before = (getattr(self, name).index_select(0, row) for name in HISTORY)
        corners = self.boxes(x, rng)
        mixed, target, lam = recursivemix(x, y, images, targets, corners, self.interpolation)
        logits, seen = self.look(net, mixed, corners)
        self.remember(mixed, target, logits)
        losses = {"mix": net.loss(logits, target)}
        if seen is not None:
            rows = soft_cross_entropy(seen, before.softmax(-1))
            losses["box"] = self.omega * ((1 - lam) * rows).mean()
        return losses

    def boxes(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """(B or 1, 4) corners of boxes of a share up to `max_area`, empty for rows that `prob` spares."""
        lam = 1 - uniform(0.0, self.max_area, self.draws(x), rng)
        return boxes(x.shape[-2:], self.spare_rows(lam, rng), points(x.shape[-2:], self.draws(x), rng))

    def look(self, net, x: Tensor, corners: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, K) of the images and, with a head, of their boxes."""
        if self.head is None:
            return net(x), None
        logits, _, tokens = net.outputs(x)
        return logits, self.head(box_mean(tokens, corners.to(x.device, non_blocking=True), x.shape[-2:]))

    def remember(self, images: Tensor, targets: Tensor, logits: Tensor) -> None:
        """Keep a batch for the next step; it is part of the state that checkpoints hold."""
        self.images, self.targets, self.logits = images.detach(), targets.detach(), logits.detach()

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name in HISTORY:  # of whatever size the batch had
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *args)
