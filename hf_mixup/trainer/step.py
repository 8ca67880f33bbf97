"""MixupStep: one training step as one module, which is what accelerate wraps."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..methods import Method
from ..net import Net
from ..ops.sampling import generator
from ..tasks.classification import targets

Prepare = Callable[[Tensor, torch.Generator], Tensor]


class MixupStep(nn.Module):
    """The network, the method's own networks and one forward a step, from a batch to named losses.

    `augment(x, rng)` turns uint8 images into the network's floats with random crops and flips, `normalise(x)`
    without; batches of floats are taken as they are.
    """

    def __init__(
        self,
        net: Net,
        method: Method,
        task: Callable,
        augment: Prepare | None = None,
        normalise: Callable[[Tensor], Tensor] | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
    ):
        super().__init__()
        self.net, self.method, self.task = net, method, task
        self.augment, self.normalise, self.memory_format = augment, normalise, memory_format
        parts = method.named_modules(prefix="method")
        self.private = [f"{name}.{key}" for name, part in parts for key in getattr(part, "private", ())]
        # else DDP gives every process the first one's; torch has no public name for it
        self._ddp_params_and_buffers_to_ignore = self.private
        self.mixing = True
        self.normalises_batch = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())

    def forward(self, seed: tuple[int, int, int, int], **batch: Tensor) -> dict[str, Tensor]:
        """Named losses of a batch; their sum is to be minimised.

        `seed` is run seed, step, micro-batch and process. Task and method have streams of their own, so that another
        method sees the same crops; a third is alike on all processes.
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
            return self._touch(losses)

    @torch.no_grad()
    def evaluate(self, pixel_values: Tensor, labels: Tensor, **_) -> tuple[Tensor, Tensor]:
        """Mean loss and logits (B, K) of a batch, unmixed, without augmentation, on targets that are not smoothed."""
        device = pixel_values.device.type
        self.net.precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, enabled=False):
            logits = self.net(self.prepare(pixel_values))
            return self.net.row_loss(logits, targets(labels, self.net.num_classes)).mean(), logits

    def prepare(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """The network's input: uint8 images augmented with `rng`, normalised without one, floats as they are."""
        if x.dtype == torch.uint8:
            change = self.normalise if rng is None else self.augment
            if change is None:
                raise ValueError(
                    "uint8 images: give the trainer a processing_class with mean and std, or normalised floats."
                )
            x = change(x) if rng is None else change(x, rng)
        return x.contiguous(memory_format=self.memory_format)

    def _check(self, x: Tensor) -> None:
        if len(x) == 1 and self.training and self.normalises_batch:
            raise ValueError(
                f"A training batch of one image, and {self.net.name} has BatchNorm, which needs two: raise "
                "per_device_train_batch_size, or drop the last incomplete batch."
            )

    def _touch(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """`losses` with every trained parameter in the graph, so that a branch skipped on a rank does not stop DDP."""
        parameters = list(self.method.parameters())
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # not those of a network in parts, whose gradients need no such help and whose sums are other processes' too
            parameters = [p for p in self.parameters() if not isinstance(p, DTensor)]
        used = [p.sum() for p in parameters if p.requires_grad]
        if used:
            name = next(iter(losses))
            losses[name] = losses[name] + 0 * torch.stack(used).sum()
        return losses
