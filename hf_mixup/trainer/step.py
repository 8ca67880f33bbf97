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
    """The network, the method's own networks and one forward a step, from a batch to named losses.

    `augment(x, rng)` turns uint8 images into the network's floats with random crops and flips, `normalise(x)`
    without; batches of floats are used unchanged.
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
        # DDP would broadcast the first rank's buffers to all ranks; torch has no public name for the exception
        self._ddp_params_and_buffers_to_ignore = self.private
        self.mixing = True
        self.has_batchnorm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())

    def forward(self, seed: tuple[int, int, int, int], **batch: Tensor) -> dict[str, Tensor]:
        """Named losses of a batch; their sum is minimised.

        `seed` is run seed, step, micro-batch and rank. Task and method have generators of their own, so that another
        method gets the same crops; a third generator is equal on all ranks.
        """
        for_task, for_method = generator(*seed, 0), generator(*seed, 1)
        common = generator(*seed[:3], 2)
        for module in self.method.modules():
            if isinstance(module, Method):
                module.common_rng = common
        self._check(batch["pixel_values"])
        device = batch["pixel_values"].device.type
        self.net.precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, enabled=False):
            batch["pixel_values"] = self.prepare(batch["pixel_values"], for_task)
            net, x, y = self.task(self.net, batch, for_task)
            losses = self.method(net, x, y, for_method) if self.mixing else {"mix": net.loss(net(x), y)}
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
        """`losses` with every trained parameter in the graph: DDP waits for those that a rank does not use."""
        parameters = list(self.method.parameters())
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # without sharded parameters: FSDP does not require it, and their sum would communicate
            parameters = [p for p in self.parameters() if not isinstance(p, DTensor)]
        used = [p.sum() for p in parameters if p.requires_grad]
        if used:
            name = next(iter(losses))
            losses[name] = losses[name] + 0 * torch.stack(used).sum()
        return losses
