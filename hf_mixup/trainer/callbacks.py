"""The trainer's callbacks: method, data order, losses, training time, optimizer check."""

import time

import torch
from accelerate.utils import find_batch_size
from torch import Tensor
from transformers import TrainerCallback

from ..data import StreamLoader, TrainLoader
from ..methods import Method
from . import fsdp
from .dataloaders import warn_if_not_resumable
from .ema import EMACallback
from .image_log import ImageLogCallback
from .manifest import OWN_STATE, OWN_TIMES
from .memory import peak_mb
from .optimizers import check_optimizer

STATE_OF_0_1 = "MethodCallback"  # the entry of `stateful_callbacks` in checkpoints of version 0.1


class MethodCallback(TrainerCallback):
    """Sets the method's `step` and `total_steps` before each optimizer step; then `after_step` of method and task."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_begin(self, args, state, control, **_):
        step = self.trainer.step
        self.trainer.micro_batch = 0
        for module in step.method.modules():
            if isinstance(module, Method):
                module.step, module.total_steps = state.global_step, state.max_steps
        off = getattr(args, "mixup_off_epoch", 0)
        step.mixing = not off or (state.epoch or 0) < off

    def on_optimizer_step(self, args, state, control, **_):
        step = self.trainer.step
        step.method.after_step(step.net)
        step.task.after_step(step.net)


class DataOrderCallback(TrainerCallback):
    """Sets the epoch of the training loader, and where a resumed epoch continues."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **_):
        warn_if_not_resumable(self.trainer)

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **_):
        # after skipping batches the Trainer holds a wrapped loader, on which it cannot set the epoch
        epoch, start = int(state.epoch or 0), self.trainer.start
        if isinstance(train_dataloader, StreamLoader | TrainLoader) and not args.ignore_data_skip:
            here = start.position.epoch == epoch
            train_dataloader.start(epoch, *((start.empty, start.done, start.left) if here else ()))
        elif hasattr(train_dataloader, "set_epoch"):
            train_dataloader.set_epoch(epoch)


class LossCallback(TrainerCallback):
    """Averages the method's named losses between logs; a checkpoint keeps the losses that are not logged yet."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.sums: dict[str, Tensor] = {}
        self.steps = self.first_step = 0

    def add(self, losses: dict[str, Tensor], accumulated: int) -> None:
        """Add the named losses of one micro-batch, each divided by `accumulated`, the micro-batches of a step."""
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0) + loss.detach() / accumulated

    def averages(self) -> dict[str, float]:
        """Mean of each named loss over the steps since the last call; empty if there is only one loss."""
        sums, steps = self.sums, max(self.steps, 1)
        self.sums, self.steps = {}, 0
        if len(sums) < 2:
            return {}
        means = (torch.stack(list(sums.values())) / steps).tolist()
        return {f"loss_{name}": mean for name, mean in zip(sums, means)}

    def export_state(self, state) -> None:
        """Write the losses that are not logged yet into the trainer's state, for a checkpoint. Every rank calls it."""
        trainer = self.trainer
        last_logged = trainer._globalstep_last_logged
        loss = float(trainer.accelerator.reduce(trainer._tr_loss.clone(), "mean"))
        sums = {name: float(value) for name, value in self.sums.items()}
        unlogged = {"sums": sums, "steps": state.global_step - last_logged, "loss": loss, "logged": last_logged}
        state.stateful_callbacks.pop(STATE_OF_0_1, None)
        state.stateful_callbacks[OWN_STATE] = unlogged

    def on_train_begin(self, args, state, control, **_):
        saved = state.stateful_callbacks
        unlogged = saved.get(OWN_STATE) or saved.get(STATE_OF_0_1) or {"sums": {}, "steps": 0}
        self.sums = {name: torch.tensor(value, device=args.device) for name, value in unlogged["sums"].items()}
        self.steps = unlogged["steps"]
        if unlogged["steps"]:
            # the loss that is logged next is the mean since the last log, which was before the checkpoint
            self.trainer._tr_loss += unlogged["loss"]
            self.trainer._total_loss_scalar -= unlogged["loss"]  # `train_loss` is the mean of the steps of this call
            self.trainer._globalstep_last_logged = unlogged["logged"]
        self.first_step = state.global_step

    def on_optimizer_step(self, args, state, control, **_):
        self.steps += 1

    def on_train_end(self, args, state, control, **_):
        steps = state.global_step - self.trainer._globalstep_last_logged
        if steps and state.global_step == self.first_step:
            # resumed from a checkpoint of the last step: no step was run, and only the log entry is missing
            self.trainer.log({"loss": float(self.trainer._tr_loss) / steps})


class TimeCallback(TrainerCallback):
    """Keeps in the trainer's state, up to the last epoch's end or checkpoint: the seconds of training, without
    evaluation, the images that were seen on all ranks, and the peak memory in MB."""

    def __init__(self, device: torch.device):
        self.device = device
        self.started, self.evaluation_seconds, self.images = time.perf_counter(), 0.0, 0

    def count(self, batch: dict, world_size: int) -> None:
        """Count the images of a micro-batch, which is equally large on all ranks."""
        self.images += (find_batch_size(batch) or 0) * world_size

    def export_state(self, state) -> None:
        """Add the seconds and images since the last call, and the peak memory so far, to the trainer's state."""
        now, before = time.perf_counter(), training_times(state)
        seconds, self.started, self.evaluation_seconds = now - self.started - self.evaluation_seconds, now, 0.0
        state.stateful_callbacks[OWN_TIMES] = {
            "seconds": before["seconds"] + seconds,
            "images": before["images"] + self.images,
            "peak_mb": max(before["peak_mb"], peak_mb(self.device)),
        }
        self.images = 0

    def on_epoch_begin(self, args, state, control, **_):
        self.started, self.evaluation_seconds = time.perf_counter(), 0.0

    def on_evaluate(self, args, state, control, metrics=None, **_):
        self.evaluation_seconds += (metrics or {}).get("eval_runtime", 0)

    def on_epoch_end(self, args, state, control, **_):
        self.export_state(state)


def training_times(state) -> dict[str, float]:
    """What TimeCallback keeps in the trainer's state: "seconds", "images" and "peak_mb"."""
    return state.stateful_callbacks.get(OWN_TIMES) or {"seconds": 0.0, "images": 0, "peak_mb": 0.0}


class OptimizerCheckCallback(TrainerCallback):
    """Checks at the first step that the optimizer holds the parameters that have gradients: see `check_optimizer`."""

    def __init__(self, trainer):
        self.trainer, self.checked = trainer, False

    def on_train_begin(self, args, state, control, **_):
        self.checked = False

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
        if not self.checked:
            self.checked = True
            check_optimizer(optimizer, self.trainer.step, self.trainer.optimizer_given)


def add_callbacks(trainer) -> None:
    """Add the trainer's own callbacks; `trainer.losses` and `trainer.clock` are two of them."""
    trainer.losses, trainer.clock = LossCallback(trainer), TimeCallback(trainer.args.device)
    per_step = [MethodCallback(trainer), EMACallback(trainer), OptimizerCheckCallback(trainer)]
    others = [DataOrderCallback(trainer), trainer.losses, trainer.clock, *fsdp.callbacks(trainer)]
    images = [ImageLogCallback(trainer)] if getattr(trainer.args, "log_images", False) else []
    for callback in (*per_step, *others, *images):
        trainer.add_callback(callback)
