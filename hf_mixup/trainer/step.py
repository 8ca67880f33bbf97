"""MixupStep: one training step as one module, which accelerate wraps (DDP, autocast)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..methods import Method
from ..net import Net
from ..ops.sampling import generator
from ..tasks.classification import targets

Augment = Callable[[Tensor, torch.Generator], Tensor]


class MixupStep(nn.Module):
    """Network, method and task as one module; its forward turns a batch into named losses.

    `augment(x, rng)` turns uint8 images into the network's input with random crops and flips, `normalise(x)`
    without them; batches of floats are used unchanged.
    """

    def __init__(
        self,
        net: Net,
        method: Method,
        task: Callable,
        augment: Augment | None = None,
        normalise: Callable[[Tensor], Tensor] | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
    ):
        super().__init__()
        self.net, self.method, self.task = net, method, task
        self.augment, self.normalise, self.memory_format = augment, normalise, memory_format
        parts = method.named_modules(prefix="method")
        self.private = [f"{name}.{key}" for name, part in parts for key in getattr(part, "private", ())]
        # DDP would broadcast these buffers of the first rank to all ranks; torch has no public option to exclude them
        self._ddp_params_and_buffers_to_ignore = self.private
        self.mixing = True
        self.has_batchnorm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())

    def forward(self, seed: tuple[int, int, int, int], **batch: Tensor) -> dict[str, Tensor]:
        """Named losses of a batch; their sum is minimised.

        `seed` is run seed, step, micro-batch and rank. Task and method have separate generators, so that crops
        do not depend on the method; a third generator is equal on all ranks.
        """
        task_rng, method_rng = generator(*seed, 0), generator(*seed, 1)
        common_rng = generator(*seed[:3], 2)
        for module in self.method.modules():
            if isinstance(module, Method):
                module.common_rng = common_rng
        self._check(batch["pixel_values"])
        device = batch["pixel_values"].device.type
        self.net.precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, enabled=False):
            batch["pixel_values"] = self.prepare(batch["pixel_values"], task_rng)
            net, x, y = self.task(self.net, batch, task_rng)
            losses = self.method(net, x, y, method_rng) if self.mixing else {"mix": net.loss(net(x), y)}
            return self._with_all_parameters(losses)

    @torch.no_grad()
    def evaluate(self, pixel_values: Tensor, labels: Tensor, **_) -> tuple[Tensor, Tensor]:
        """Mean loss and logits (B, K) of a batch: not mixed, not augmented, labels not smoothed."""
        device = pixel_values.device.type
        self.net.precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, enabled=False):
            logits = self.net(self.prepare(pixel_values))
            return self.net.row_loss(logits, targets(labels, self.net.num_classes)).mean(), logits

    def prepare(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """The network's input: uint8 images augmented with `rng`, normalised without one; floats unchanged."""
        if x.dtype == torch.uint8:
            transform = self.normalise if rng is None else self.augment
            if transform is None:
                raise ValueError(
                    "uint8 images require mean and std: give the trainer a processing_class that has them, or "
                    "normalised floats."
                )
            x = transform(x) if rng is None else transform(x, rng)
        return x.contiguous(memory_format=self.memory_format)

    def _check(self, x: Tensor) -> None:
        if len(x) == 1 and self.training and self.has_batchnorm:
            raise ValueError(
                f"The training batch has one image; the BatchNorm of {self.net.name} requires two: raise "
                "per_device_train_batch_size, or drop the last incomplete batch."
            )

    def _with_all_parameters(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """`losses` plus 0 times each trained parameter: DDP waits for gradients of those that a rank does not use."""
        parameters = list(self.method.parameters())
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # not for FSDP, which does not require this: the sum of a sharded parameter would communicate
            parameters = [p for p in self.parameters() if not isinstance(p, DTensor)]
        sums = [p.sum() for p in parameters if p.requires_grad]
        if sums:
            name = next(iter(losses))
            losses[name] = losses[name] + 0 * torch.stack(sums).sum()
        return losses
