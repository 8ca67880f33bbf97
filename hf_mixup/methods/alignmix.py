"""AlignMix: mix two feature maps after aligning them by optimal transport (Venkataramanan et al., 2022, section 3).

As the authors' code, without the paper's autoencoder. In networks with a class token, patches of the last map do not
influence the logits: the map before the last block is used, and class tokens are mixed without alignment. Batches that
are not aligned use Mixup of the input, as in the authors' code; OpenMixup alternates with Manifold Mixup.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.masks import blend_with, unsqueeze_like
from ..ops.sinkhorn import sinkhorn
from ._base import Method, Net
from ._hidden import editing_map, last_mixable_layer
from .mixup import mixup


def alignmix(
    features: Tensor, lam: Tensor, partner: Tensor, align_partner: Tensor, *, eps: float, rounds: int, threshold: float
) -> tuple[Tensor, Mix]:
    """Feature maps mixed with the aligned map of the partner, with weights `lam` and `1 - lam`.

    `features` (B, C, h, w); `lam` (B,); `partner` (B,); `align_partner` (B,) bool: true aligns the partner's map to the
    own map, false the own map to the partner's. The transport plan has no gradient. `lam` 1 changes nothing.
    """
    draws = lam, partner, align_partner
    lam, partner, align_partner = (draw.to(features.device, non_blocking=True) for draw in draws)
    own = features.flatten(2).transpose(1, 2)
    other = own.index_select(0, partner)
    with torch.no_grad():
        # exact distances, squared: |a|^2 + |b|^2 - 2ab is not accurate enough for eps
        cost = torch.cdist(own, other, compute_mode="donot_use_mm_for_euclid_dist").square()
        plan = sinkhorn(cost, eps, rounds, threshold) * own.shape[1]
    keeps_own = unsqueeze_like(align_partner | (lam == 1), own)
    aligned = torch.where(keeps_own, plan @ other, other)
    mixed = blend_with(torch.where(keeps_own, own, plan.mT @ own), aligned, unsqueeze_like(lam, own))
    return mixed.mT.reshape(features.shape), Mix.pair(partner, lam)


@dataclass(eq=False)
class AlignMix(Method):
    """`alpha`: both parameters of the Beta distribution of lam, the image's own share; 0 for no mixing. `aligned_prob`:
    share of batches in which feature maps are aligned and mixed, 0 to 1; in the others, Mixup of the input. `layer`:
    number or name of the layer whose map is mixed; None for the last one that influences the logits. `eps`: weight of
    the entropy in the transport plan, above 0, in units of squared distances between features; larger values give
    smoother plans. `rounds`: largest number of Sinkhorn iterations for a plan. `threshold`: iterations stop when the
    potentials of the rows change by less than this, summed over positions and averaged over the batch; 0 runs all
    `rounds`.
    """

    paper = "2103.15375"
    title = "AlignMixup"
    group = "hidden"
    needs_net = True
    needs_forward = True
    alpha: float = 2.0
    aligned_prob: float = 0.5
    layer: int | str | None = None
    eps: float = 0.1
    rounds: int = 100
    threshold: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.aligned_prob <= 1:
            raise ValueError(f"AlignMix's aligned_prob is {self.aligned_prob!r}: give a share from 0 to 1.")
        if not self.eps > 0 or self.rounds < 1:
            raise ValueError(
                f"AlignMix got eps {self.eps!r}, rounds {self.rounds!r}: give an eps above 0 and 1 round or more."
            )

    def build(self, net: Net) -> None:
        net.layers(for_method="alignmix")
        self.layer_name = net.layer(last_mixable_layer(net) if self.layer is None else self.layer).name

    def mix_batch(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Mix]:
        """Mixup of the input, as in batches that are not aligned."""
        return mixup(x, *self.draw(x, self.alpha, rng))

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        self.check(x, y)
        if self.skips(x, rng):
            return {"mix": net.loss(net(x), y)}
        aligned = float(torch.rand((), generator=rng)) < self.aligned_prob
        lam, partner = self.draw(x, self.alpha, rng)
        lam = self.skip_rows(lam, rng)
        if not aligned:
            x, mix = mixup(x, lam, partner)
            return {"mix": net.loss(net(x), mix(y))}
        align_partner = (torch.rand(self.draws(x), generator=rng) < 0.5).expand(len(x))

        def edit(features: Tensor) -> Tensor:
            options = {"eps": self.eps, "rounds": self.rounds, "threshold": self.threshold}
            return alignmix(features, lam, partner, align_partner, **options)[0]

        with editing_map(net, self.layer_name, x.shape[-2:], edit, lambda tokens: mixup(tokens, lam, partner)[0]):
            logits = net(x)
        return {"mix": net.loss(logits, Mix.pair(partner, lam, device=x.device)(y))}
