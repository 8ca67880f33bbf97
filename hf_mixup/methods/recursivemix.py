"""RecursiveMix: paste the previous batch, resized, into a box of the current batch (Yang et al., 2022, section 3).

Images and targets of the previous batch are themselves mixed. The mean of the last map over a box is exact, where the
authors sample points. An empty box mixes nothing. If the batch is larger than the previous one, the previous rows are
repeated. Bilinear resizing has `align_corners=False`; the authors' has True.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..mix import Mix
from ..ops.losses import soft_cross_entropy
from ..ops.masks import boxes, unsqueeze_like
from ..ops.resize import INTERPOLATIONS, box_mean, paste_resized
from ..ops.sampling import points, uniform
from ._base import Method, Net

HISTORY = ("images", "targets", "logits")


def recursivemix(
    x: Tensor, y: Tensor, images: Tensor, targets: Tensor, corners: Tensor, interpolation: str = "nearest"
) -> tuple[Tensor, Tensor, Tensor]:
    """`x` with previous `images` resized into boxes, mixed targets, and `lam` (B or 1,), the share of `x` kept.

    `x` (B, C, H, W), `images` (B, C, h, w), `y` and previous `targets` (B, ...), `corners` (B, 4) half-open top,
    bottom, left, right on the CPU.
    """
    mixed = paste_resized(x, images, corners, interpolation)
    area = (corners[:, 1] - corners[:, 0]) * (corners[:, 3] - corners[:, 2])
    lam = (1 - area / math.prod(x.shape[-2:])).to(x.device, torch.float32, non_blocking=True)
    return mixed, torch.lerp(targets.float(), y.float(), unsqueeze_like(lam, y)), lam


@dataclass(eq=False)
class RecursiveMix(Method):
    """`max_area`: largest share of the image in the box before clipping, 0 to 1 (the authors' alpha). `omega`: weight
    of the loss between the predictions for the box, from a separate head, and the previous predictions for that image;
    0.1 on CIFAR, 0 for no such loss. `interpolation`: how images are resized into boxes, "nearest" or "bilinear".
    `pairing`: only "previous", the partner is the image in the same place of the previous batch.

    `mix` has no previous batch and mixes nothing; the method works in `forward`.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.max_area <= 1:
            raise ValueError(f"RecursiveMix's max_area is {self.max_area!r}: give a number from 0 to 1.")
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

    @property
    def requires(self) -> frozenset[str]:
        return frozenset(("classifier", *(("softmax",) if self.omega else ())))

    def build(self, net: Net) -> None:
        if self.omega > 0:
            self.head = nn.Linear(net.layers(for_method="recursivemix")[-1].channels, net.num_classes)

    def mix_batch(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Mix]:
        return x, Mix.none(x)

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        self.check(x, y)
        if len(x) == 1 or not self.training:
            return {"mix": net.loss(net(x), y)}
        if self.skips(x, rng) or len(self.images) == 0:
            logits = net(x)
            self.store_batch(x.clone(), y.clone(), logits)
            return {"mix": net.loss(logits, y)}
        row = torch.arange(len(x), device=x.device) % len(self.images)
        images, targets, previous_logits = (getattr(self, name).index_select(0, row) for name in HISTORY)
        corners = self.boxes(x, rng)
        mixed, target, lam = recursivemix(x, y, images, targets, corners, self.interpolation)
        logits, box_logits = self.outputs(net, mixed, corners)
        self.store_batch(mixed, target, logits)
        losses = {"mix": net.loss(logits, target)}
        if box_logits is not None:
            rows = soft_cross_entropy(box_logits, previous_logits.softmax(-1))
            losses["box"] = self.omega * ((1 - lam) * rows).mean()
        return losses

    def boxes(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """(B or 1, 4) corners of boxes with shares up to `max_area`, empty in rows that `prob` skips."""
        lam = 1 - uniform(0.0, self.max_area, self.draws(x), rng)
        return boxes(x.shape[-2:], self.skip_rows(lam, rng), points(x.shape[-2:], self.draws(x), rng))

    def outputs(self, net: Net, x: Tensor, corners: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, K) of the images and, if there is a head, of the boxes."""
        if self.head is None:
            return net(x), None
        logits, _, tokens = net.outputs(x)
        return logits, self.head(box_mean(tokens, corners.to(x.device, non_blocking=True), x.shape[-2:]))

    def store_batch(self, images: Tensor, targets: Tensor, logits: Tensor) -> None:
        """Store the batch for the next step, in buffers that are saved in checkpoints."""
        self.images, self.targets, self.logits = images.detach(), targets.detach(), logits.detach()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in HISTORY:  # resize the buffers to the stored batch
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *args)
