"""MixupStep: one training step as one module, which accelerate wraps (DDP, autocast)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..methods import Method
from ..net import Net
from ..net.calling import further_outputs, outputs_of
from ..ops.sampling import generator
from ..tasks import Task, load_task
from .task_results import (
    checked_batch,
    checked_evaluation,
    checked_losses,
    checked_targets,
    explained,
    explained_batchnorm,
)

Augment = Callable[[Tensor, torch.Generator], Tensor]


class MixupStep(nn.Module):
    """Network, method and task as one module; its forward turns a batch into named losses.

    `augment(x, rng)` turns uint8 images into the network's input with random crops and flips, `normalise(x)`
    without them; batches of floats are used unchanged. `frozen`: modules of the network that stay in eval mode.
    """

    def __init__(
        self,
        net: Net,
        method: Method,
        task: str | Task | Callable,
        augment: Augment | None = None,
        normalise: Callable[[Tensor], Tensor] | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
        frozen: Sequence[nn.Module] = (),
    ):
        super().__init__()
        self.net, self.method, self.task = net, method, load_task(task)
        self.task.transform = self.prepare
        self.augment, self.normalise, self.memory_format = augment, normalise, memory_format
        parts = method.named_modules(prefix="method")
        self.private = [f"{name}.{key}" for name, part in parts for key in getattr(part, "private", ())]
        # DDP would broadcast these buffers of the first rank to all ranks; torch has no public option to exclude them
        self._ddp_params_and_buffers_to_ignore = self.private
        self.mixing, self.frozen = True, frozen
        self.further: dict = {}  # outputs of the network beside logits, for the last batch that was evaluated

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; the `frozen` modules stay in eval mode."""
        super().train(mode)
        for module in self.frozen:
            module.training = False
        return self

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
        with self._precision(batch), explained_batchnorm(self.net):
            net, x, y = self._targets(batch, task_rng)
            losses = self.method(net, x, y, method_rng) if self.mixing else {"mix": net.loss(net(x), y)}
            return self._with_all_parameters(checked_losses(self.method, losses))

    def _targets(self, batch: dict, rng: torch.Generator) -> tuple[Net, Tensor, Tensor]:
        """Network, images and targets of a training batch."""
        with explained(self.task, batch):
            result = self.task(self.net, checked_batch(self.task, self.task.prepare(batch, rng)), rng)
        return checked_targets(self.task, result)

    @torch.no_grad()
    def evaluate(self, **batch: Tensor) -> tuple[Tensor, Any]:
        """Loss (B,) of a batch, and the outputs that the task's metrics need: not mixed, augmented or smoothed."""
        with self._precision(batch), self._passes() as passes:
            with explained(self.task, batch):
                prepared = checked_batch(self.task, self.task.prepare(batch, None))
                result = self.task.evaluate(self.net, prepared)
            self.further = further_outputs(passes[-1][0]) if passes else {}
            return checked_evaluation(self.task, result)

    @torch.no_grad()
    def predict(self, pixel_values: Tensor, **_) -> Tensor:
        """Outputs of the network for a batch without labels."""
        with self._precision({"pixel_values": pixel_values}), self._passes() as passes:
            outputs = self.net(self.prepare(pixel_values))
        self.further = further_outputs(passes[-1][0]) if passes else {}
        return outputs

    @contextmanager
    def _precision(self, batch: dict) -> Iterator[None]:
        """Switch autocast off for task and method; only the network's passes use it, in the present precision."""
        device = next(value for value in batch.values() if isinstance(value, Tensor)).device.type
        self.net.precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, enabled=False):
            yield

    @contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """A list that at the end holds the outputs of each pass of the network in training mode, with gradient."""
        recorded: list[Tensor] = []
        with self._passes() as passes:
            yield recorded
            trained = [outputs_of(returned) for returned, training in passes if training]
            recorded += [output for output in trained if output.requires_grad]

    @contextmanager
    def _passes(self) -> Iterator[list]:
        """A list to which what the network returns in each pass, and whether in training mode, is appended."""
        passes = []
        handle = self.net.model.register_forward_hook(
            lambda model, args, returned: passes.append((returned, any(m.training for m in model.modules())))
        )
        try:
            yield passes
        finally:
            handle.remove()

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

    def _with_all_parameters(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """`losses` plus 0 times each trained parameter: DDP waits for gradients of those that a rank does not use."""
        parameters = [*self.method.parameters(), *self.task.parameters()]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # not for FSDP, which does not require this: the sum of a sharded parameter would communicate
            parameters = [p for p in self.parameters() if not isinstance(p, DTensor)]
        sums = [p.sum() for p in parameters if p.requires_grad]
        if sums:
            name = next(iter(losses))
            losses[name] = losses[name] + 0 * torch.stack(sums).sum()
        return losses
