"""SMMix: paste the window with the most attention over the one with the least attention (Chen et al., 2023, section 3).

Attention is that between patches in the last block, without the class token. Differences from the authors' code: the
additional head has as input the last block's tokens after a LayerNorm without weights (the head is linear, so weights
would be redundant); rows that `prob` skips have the plain loss only; the patch grid need not be square.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..mix import Mix
from ..ops.precision import widened
from ..ops.sampling import integers, partners
from ._base import Method, Net


def smmix(x: Tensor, attention: Tensor, partner: Tensor, side: Tensor) -> tuple[Tensor, Mix]:
    """Each image with its least attended window replaced by its partner's most attended one; lam is the share kept.

    `x` (B, C, H, W), `attention` (B, h, w) of its patches, `partner` (B,), `side` (B or 1,) of the windows in patches,
    1 to the shorter side of the grid. Windows are moved by whole patches, not resized.
    """
    partner, side = (draw.to(x.device, non_blocking=True) for draw in (partner, side.expand(len(x))))
    target = find_windows(attention, side, largest=False)
    source = find_windows(attention, side, largest=True).index_select(0, partner)
    inside, places = [], []
    for axis, (pixels, cells) in enumerate(zip(x.shape[-2:], attention.shape[-2:])):
        pixel = torch.arange(pixels, device=x.device)
        cell, low = pixel * cells // pixels, target[:, axis, None]
        inside.append((cell >= low) & (cell < low + side[:, None]))
        shift = (source[:, axis, None] - low) * pixels // cells
        places.append((pixel + shift).clamp(0, pixels - 1))
    mask = 1 - (inside[0][:, None, :, None] & inside[1][:, None, None, :]).float()
    # indices of rows and of columns broadcast to (B, H, W, C), without an index per pixel
    pasted = x[partner[:, None, None], :, places[0][:, :, None], places[1][:, None, :]].permute(0, 3, 1, 2)
    return torch.where(mask == 1, x, pasted), Mix.pair(partner, mask.mean((1, 2, 3)), mask)


def find_windows(attention: Tensor, side: Tensor, largest: bool) -> Tensor:
    """(B, 2) first row and column of the window with the largest or smallest sum; the first one of a tie.

    `attention` (B, h, w), `side` (B,) of each image's square window.
    """
    height, width = attention.shape[-2:]
    # window sums from the integral image, in float64 if possible, because they are differences
    integral = F.pad(widened(attention), (1, 0, 1, 0)).cumsum(1).cumsum(2).flatten(1)
    low = torch.arange(height * width, device=attention.device)
    top, left = low // width, low % width
    bottom, right = top + side[:, None], left + side[:, None]
    outside = (bottom > height) | (right > width)

    def at(row: Tensor, column: Tensor) -> Tensor:
        return integral.gather(1, (row.clamp(max=height) * (width + 1) + column.clamp(max=width)).expand(len(side), -1))

    total = at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left)
    best = (total if largest else -total).float().masked_fill(outside, -math.inf).argmax(1)
    return torch.stack([best // width, best % width], 1)


@contextmanager
def recording_logits(net: Net) -> Iterator[list[Tensor]]:
    """A list to which the logits of each pass of `net` inside the context are appended."""
    recorded: list[Tensor] = []
    handle = net.register_forward_hook(lambda _, args, logits: recorded.append(logits))
    try:
        yield recorded
    finally:
        handle.remove()


@dataclass(eq=False)
class SMMix(Method):
    """`low`: smallest side of the window, as a share of the shorter side of the patch grid, 0 to 1. `high`: largest
    side of the window, in the same unit. `fine`: weight of the losses of own and of pasted tokens, predicted by a
    separate linear head; 0 for none. `consistency`: weight of the divergence between the predictions for the mixed
    image and for the clean images; 0 for none.

    The authors alternate with Mixup (alpha 0.8): use `choice`.
    """

    paper = "2212.12977"
    title = "SMMix"
    group = "attention"
    needs = "a ViT's attention"
    needs_net = True
    needs_forward = True
    pairing: str = "flip"
    low: float = 0.25
    high: float = 0.75
    fine: float = 0.5
    consistency: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.head = None  # created in `build`
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"SMMix's low is {self.low!r} and high {self.high!r}: give 0 <= low <= high <= 1.")
        for key in ("fine", "consistency"):
            if not (math.isfinite(getattr(self, key)) and getattr(self, key) >= 0):
                raise ValueError(f"SMMix's {key} is {getattr(self, key)!r}: give a finite number, 0 or above.")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset([*(["classifier"] if self.fine else []), *(["softmax"] if self.consistency else [])])

    def build(self, net: Net) -> None:
        with net.capturing_attention(for_method="smmix"):
            pass
        if self.fine:
            channels = net.layers(for_method="smmix")[-1].channels
            self.head = nn.Linear(channels, net.num_classes).to(net.classifier.weight.device)
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def skips(self, x: Tensor, rng: torch.Generator) -> bool:
        return super().skips(x, self.common_rng or rng)  # equal on all ranks: it decides whether the head runs

    def mix_batch(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Mix]:
        attention = net.attention(x, by_patches=True)
        return smmix(x, attention, partners(len(x), self.pairing, rng), self.sides(x, attention.shape[-2:], rng))

    def sides(self, x: Tensor, grid: tuple[int, int], rng: torch.Generator) -> Tensor:
        """(B or 1,) random sides of windows in patches, on the CPU."""
        low, high = (max(1, int(share * min(grid))) for share in (self.low, self.high))
        return low + integers(high - low + 1, self.draws(x), rng)

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        with recording_logits(net) as clean:
            mixed, mix = self.mix(net, x, y, rng)
        if mix.mask is None:
            return {"mix": net.loss(net(mixed), mix(y))}
        if not self.fine:
            return self.losses(net, net(mixed), clean, mix, y)
        out = net.outputs(mixed)
        losses = self.losses(net, out.logits, clean, mix, y)
        return losses | {"fine": self.fine * self.fine_loss(net, out.tokens, mix, y)}

    def losses(self, net: Net, logits: Tensor, clean: list[Tensor], mix: Mix, y: Tensor) -> dict[str, Tensor]:
        """Loss of the mixed batch, and divergence of its `logits` (B, K) from the mixed predictions for clean images.

        `clean[0]` (B, K) are the logits of the clean images.
        """
        losses = {"mix": net.loss(logits, mix(y))}
        if self.consistency:
            rows = F.kl_div(logits.log_softmax(1), mix(clean[0]).softmax(1), reduction="none").sum(1)
            losses["consistency"] = self.consistency * (rows * (mix.lam < 1)).mean()
        return losses

    def fine_loss(self, net: Net, tokens: Tensor, mix: Mix, y: Tensor) -> Tensor:
        """Loss of own tokens with the own label plus loss of pasted tokens with the partner's label.

        `tokens` (B, C, h, w).
        """
        visible = F.interpolate(mix.mask, size=tokens.shape[-2:], mode="nearest")
        tokens = F.layer_norm(tokens.movedim(1, -1), tokens.shape[1:2]).movedim(-1, 1)
        rows = 0
        for k, share in enumerate((visible, 1 - visible)):
            mean = (tokens * share).sum((2, 3)) / share.sum((2, 3)).clamp(min=1)
            rows = rows + net.loss(self.head(mean), y.index_select(0, mix.index[:, k]), "none")
        return (rows * (mix.lam < 1)).mean()
