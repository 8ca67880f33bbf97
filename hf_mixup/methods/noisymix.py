"""Noisy feature mixup: Manifold Mixup, then noise on the mixed states (Lim et al., 2022, section 3).

With `jsd_weight` and `sparsity` this is NoisyMix (Erichson et al., 2022, arXiv 2202.01263, section 3): two AugMix views
are mixed in the same way, with two and three times the additive noise, and a consistency loss is added.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.losses import jensen_shannon
from ..ops.sampling import on_device
from ._base import Method, Net
from ._hidden import check_layers, check_stages
from ._statistics import check_channels, check_statistics
from .augmix import augmix, draw_chains
from .mixup import mixup

LEVELS = (2.0, 5.0)  # parameters of the Beta distribution of noise levels
VIEWS = 3  # the image and two AugMix views


def noisymix(h: Tensor, lam: Tensor, partner: Tensor, additive: Tensor, multiplicative: Tensor) -> tuple[Tensor, Mix]:
    """`(1 + multiplicative) * mixup(h) + additive`; noise and result are like `h`, `lam` and `partner` (B,)."""
    mixed, mix = mixup(h.to(torch.promote_types(h.dtype, torch.float32)), lam, partner)
    return torch.addcmul(mixed + additive, mixed, multiplicative).to(h.dtype), mix


def draw_levels(count: int, rng: torch.Generator) -> Tensor:
    """(count, 2) draws from Beta(2, 5): levels of additive and of multiplicative noise."""
    return torch._sample_dirichlet(torch.tensor(LEVELS).expand(count, 2, 2), generator=rng)[..., 0]


def scale_view_levels(level: Tensor) -> Tensor:
    """`level` (views, B, 2) with the additive level multiplied by 1, 2, 3 in the first, second, third view."""
    factor = torch.ones(len(level), 1, 2)
    factor[:, 0, 0] += torch.arange(len(level))
    return level * factor


def sparse_noise(noise: Tensor, level: Tensor, sparsity: float, rng: torch.Generator) -> Tensor:
    """`noise` (B, ...) times `level` (B,), zeroed with probability `sparsity`; `rng` is on the device of `noise`."""
    noise = noise * level.to(noise.device, non_blocking=True).reshape(-1, *[1] * (noise.dim() - 1))
    if sparsity == 0:
        return noise
    return noise * (torch.rand(noise.shape, generator=rng, device=noise.device) >= sparsity)


@dataclass(eq=False)
class NoisyMix(Method):
    """`alpha`: both parameters of the Beta distribution of lam, the image's own share; 0 only adds noise. `layers`:
    numbers of the layers to mix, one is drawn per batch: 0 for the input, k for the output of stage k. `add_noise`:
    factor of the additive noise, whose level is drawn from Beta(2, 5) once per batch; 0 for none. `mult_noise`: factor
    of the multiplicative noise, whose level is drawn from Beta(2, 5) once per batch; 0 for none. `sparsity`: share of
    entries without noise, 0 to 1. `jsd_weight`: weight of the Jensen-Shannon divergence between the predictions for the
    image and two AugMix views; 0 uses no views. `mean`, `std`: normalisation of the images, one number per channel, for
    pixels in 0 to 1, for the views; None takes the minimum and maximum of each image as black and white.

    NoisyMix uses 0.5, 0.5, 0.65 and 12 for `add_noise`, `mult_noise`, `sparsity` and `jsd_weight` on CIFAR-100.
    """

    paper = "2110.02180"
    title = "Noisy Feature Mixup"
    group = "hidden"
    needs_net = True
    needs_forward = True
    alpha: float = 1.0
    layers: tuple[int, ...] = (0, 1, 2, 3)
    add_noise: float = 0.4
    mult_noise: float = 0.2
    sparsity: float = 0.0
    jsd_weight: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_statistics(self)
        for key in ("add_noise", "mult_noise", "jsd_weight"):
            if not (math.isfinite(getattr(self, key)) and getattr(self, key) >= 0):
                raise ValueError(f"NoisyMix's {key} is {getattr(self, key)!r}: give a number, 0 (none) or above.")
        if not 0 <= self.sparsity <= 1:
            raise ValueError(f"NoisyMix's sparsity is {self.sparsity!r}: give a number from 0 to 1.")
        check_layers(self)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset(("softmax",) if self.jsd_weight else ())

    def build(self, net: Net) -> None:
        check_stages(self, net)

    def mix_batch(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Mix]:
        """Mixup and noise on the input, as for layer 0."""
        lam, partner = self.draw(x, self.alpha, rng)
        return noisymix(x, lam, partner, *self.noise(x, draw_levels(self.draws(x), rng), on_device(rng, x.device)))

    def check(self, x: Tensor, y: Tensor) -> None:
        super().check(x, y)
        if self.jsd_weight:
            check_channels(self, x)

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        self.check(x, y)
        if self.skips(x, rng):
            return {"mix": net.loss(net(x), y)}
        layer = self.layers[int(torch.randint(len(self.layers), (), generator=rng))]
        lam, partner = self.draw(x, self.alpha, rng)
        skipped = self.skip_rows(torch.zeros(len(x)), rng)
        lam = torch.maximum(lam, skipped)
        views = VIEWS if self.jsd_weight else 1
        x = self.views(x, skipped, views, rng)
        logits = self.mixed_logits(net, x, layer, lam, partner, skipped, rng).chunk(views)
        losses = {"mix": net.loss(logits[0], Mix.pair(partner, lam, device=x.device)(y))}
        if self.jsd_weight:
            divergence = jensen_shannon(*logits) * (1 - skipped).to(x.device, non_blocking=True)
            losses["jsd"] = self.jsd_weight * divergence.mean()
        return losses

    def views(self, x: Tensor, skipped: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """(count * B, C, H, W) the images, then their AugMix views; rows with `skipped` (B,) one are not changed."""
        views = [x]
        for _ in range(count - 1):
            lam, *chains = draw_chains(len(x), rng)
            views.append(augmix(x, torch.maximum(lam, skipped), *chains, self.mean, self.std))
        return x if count == 1 else torch.cat(views)

    def mixed_logits(
        self, net: Net, x: Tensor, layer: int, lam: Tensor, partner: Tensor, skipped: Tensor, rng: torch.Generator
    ) -> Tensor:
        """Logits of views `x` (views * B, C, H, W) mixed after stage `layer`: the same mixing, different noise."""
        count = len(lam)
        views, draws = len(x) // count, count if self.per_image else 1
        level = draw_levels(views * draws, rng).view(views, draws, 2) * (1 - skipped)[:, None]
        level = scale_view_levels(level).flatten(0, 1)
        partner = (partner + count * torch.arange(views)[:, None]).flatten()
        lam, rng = lam.repeat(views), on_device(rng, x.device)

        def edit(hidden: Tensor) -> Tensor:
            return noisymix(hidden, lam, partner, *self.noise(hidden, level, rng))[0]

        if layer == 0:
            return net(edit(x))
        with net.editing(layer - 1, edit):
            return net(x)

    def noise(self, h: Tensor, level: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Additive and multiplicative noise for `h`; `level` (B or 1, 2), `rng` on the device of `h`."""
        normal = torch.randn(h.shape, generator=rng, device=h.device)
        uniform = 2 * torch.rand(h.shape, generator=rng, device=h.device) - 1
        additive = sparse_noise(normal, self.add_noise * level[:, 0], self.sparsity, rng)
        return additive, sparse_noise(uniform, self.mult_noise * level[:, 1], self.sparsity, rng)
