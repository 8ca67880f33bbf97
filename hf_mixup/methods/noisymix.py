"""Noisy feature mixup: Manifold Mixup, then noise on what was mixed (Lim et al., 2022, section 3).

With `sparsity` the noise of NoisyMix (Erichson et al., 2022, arXiv 2202.01263), which is not all of that method: its
loss over augmented views of each image needs three views of a batch, and is left out.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.sampling import on_device
from ._base import Method
from ._hidden import check_layers, check_stages
from .mixup import mixup

LEVELS = (2.0, 5.0)  # of the Beta distribution that noise levels are drawn from


def noisymix(h: Tensor, lam: Tensor, partner: Tensor, added: Tensor, scaled: Tensor) -> tuple[Tensor, Mix]:
    """`(1 + scaled) * (lam * h + (1 - lam) * h[partner]) + added`, of the type of `h`; `lam` and `partner` (B,)."""
    mixed, mix = mixup(h.float(), lam, partner)
    return torch.addcmul(mixed + added, mixed, scaled).to(h.dtype), mix


def levels(count: int, rng: torch.Generator) -> Tensor:
    """(count, 2) draws from Beta(2, 5): of the noise that is added, and of that which scales."""
    return torch._sample_dirichlet(torch.tensor(LEVELS).expand(count, 2, 2), generator=rng)[..., 0]


def sparse(noise: Tensor, level: Tensor, sparsity: float, rng: torch.Generator) -> Tensor:
    """`noise` (B, ...) at `level` (B,), zero at a share of `sparsity`; `rng` is on the device of `noise`."""
    noise = noise * level.to(noise.device, non_blocking=True).reshape(-1, *[1] * (noise.dim() - 1))
    if sparsity == 0:
        return noise
    return noise * (torch.rand(noise.shape, generator=rng, device=noise.device) >= sparsity)


@dataclass(eq=False)
class NoisyMix(Method):
    """`alpha`: of Beta(alpha, alpha); 0 is noise alone. `layers`: drawn from these; 0 is the input, k follows stage
    (block) k. `add_noise`, `mult_noise`: the highest levels; one draw from Beta(2, 5) of each a batch is the level.
    `sparsity`: share of entries without noise. NoisyMix has 0.5, 0.5 and 0.65 on CIFAR-100.
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

    def __post_init__(self):
        super().__post_init__()
        for key in ("add_noise", "mult_noise"):
            if not (math.isfinite(getattr(self, key)) and getattr(self, key) >= 0):
                raise ValueError(f"NoisyMix's {key} is {getattr(self, key)!r}: give a level, 0 (none) or above.")
        if not 0 <= self.sparsity <= 1:
            raise ValueError(f"NoisyMix's sparsity is {self.sparsity!r}: give a share from 0 to 1.")
        check_layers(self)

    def build(self, net):
        check_stages(self, net)

    def mix_batch(self, net, x, y, rng):
        """Mixup of the input and noise: what layer 0 does."""
        lam, partner = self.draw(x, self.alpha, rng)
        return noisymix(x, lam, partner, *self.noise(x, levels(self.draws(x), rng), on_device(rng, x.device)))

    def forward(self, net, x, y, rng):
        self.check(x, y)
        if self.skips(x, rng):
            return {"mix": net.loss(net(x), y)}
        layer = self.layers[int(torch.randint(len(self.layers), (), generator=rng))]
        lam, partner = self.draw(x, self.alpha, rng)
        spared = self.spare_rows(torch.zeros(len(x)), rng)
        lam, level = torch.maximum(lam, spared), levels(self.draws(x), rng) * (1 - spared)[:, None]
        rng = on_device(rng, x.device)

        def edit(hidden):
            return noisymix(hidden, lam, partner, *self.noise(hidden, level, rng))[0]

        if layer == 0:
            logits = net(edit(x))
        else:
            with net.editing(layer - 1, edit):
                logits = net(x)
        return {"mix": net.loss(logits, Mix.pair(partner, lam, device=x.device)(y))}

    def noise(self, h: Tensor, level: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """What is added to `h` and what it is scaled by, less one; `level` (B or 1, 2), `rng` on the device of `h`."""
        normal = torch.randn(h.shape, generator=rng, device=h.device)
        uniform = 2 * torch.rand(h.shape, generator=rng, device=h.device) - 1
        added = sparse(normal, self.add_noise * level[:, 0], self.sparsity, rng)
        return added, sparse(uniform, self.mult_noise * level[:, 1], self.sparsity, rng)
