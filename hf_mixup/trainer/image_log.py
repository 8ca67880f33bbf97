"""Sends mixed images and statistics of lam to the trackers of `report_to` at each evaluation."""

import io
import logging
import time

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from .sample_grid import COLUMNS, DRAWS, draw, grid, needs_all_ranks

TITLE = "mixup/images"
LAMS = 8  # draws whose lam is counted; the first DRAWS of them are shown

logger = logging.getLogger(__name__)


class ImageLogCallback(TrainerCallback):
    """At each evaluation, mixes the first training batch of this run anew and sends it to the trackers."""

    def __init__(self, trainer):
        self.trainer, self.batch, self.hook = trainer, None, None

    def on_train_begin(self, args, state, control, **_):
        if not state.is_world_process_zero or self.batch is not None:
            return
        if not _trackers(self.trainer):
            logger.warning("log_images has no effect: report_to names none of tensorboard, wandb and trackio.")
        elif needs_all_ranks(self.trainer):
            logger.warning("log_images has no effect: a forward pass of this network needs all processes.")
        else:
            self.hook = self.trainer.step.register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, step, args, batch: dict) -> None:
        self.hook.remove()
        rows = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        self.batch = {name: value[:COLUMNS].clone() for name, value in rows.items()}

    def on_evaluate(self, args, state, control, **_):
        if self.batch is None:
            return
        started = time.perf_counter()
        try:
            self._send(state.global_step)
        except Exception as error:  # training continues after any error
            logger.warning("No mixed images were logged (%s: %s).", type(error).__name__, error)
        self.trainer.clock.evaluation_seconds += time.perf_counter() - started

    def _send(self, number: int) -> None:
        step, batch = self.trainer.step, self.batch
        device = next(iter(batch.values())).device
        # dropout of the method's networks draws from torch's own generators
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            x, drawn = draw(step.method, step, batch, LAMS, self.trainer.args.seed, number)
        if not drawn:
            logger.warning("log_images has no effect: method %r does not mix pixels.", step.method.name)
            self.batch = None
            return
        image = np.asarray(Image.open(io.BytesIO(grid(step, batch, x, drawn[:DRAWS]))))
        lam = torch.cat([mix.lam for _, mix in drawn])
        numbers = {"mean": lam.mean(), "min": lam.min(), "max": lam.max()}
        for tracker, send in _trackers(self.trainer):
            send(tracker, image, {f"mixup/lam_{name}": float(value) for name, value in numbers.items()}, number)


def _trackers(trainer) -> list[tuple]:
    """The callbacks of the trackers that take images, each with the function that sends them."""
    callbacks = trainer.callback_handler.callbacks
    return [(callback, send) for callback in callbacks for kind, send in SENDERS.items() if isinstance(callback, kind)]


def _to_tensorboard(callback, image: np.ndarray, numbers: dict[str, float], step: int) -> None:
    writer = callback.tb_writer
    if writer is None:  # closed at the end of training
        return
    writer.add_image(TITLE, image, step, dataformats="HWC")
    for name, value in numbers.items():
        writer.add_scalar(name, value, step)


def _to_wandb(callback, image: np.ndarray, numbers: dict[str, float], step: int) -> None:
    _log(callback._wandb, image, numbers, step)


def _to_trackio(callback, image: np.ndarray, numbers: dict[str, float], step: int) -> None:
    if callback._initialized:  # not after the end of training
        _log(callback._trackio, image, numbers, step)


def _log(library, image: np.ndarray, numbers: dict[str, float], step: int) -> None:
    library.log({TITLE: library.Image(image), **numbers, "train/global_step": step})


# transformers has no public access to the writers of its trackers
SENDERS = {TensorBoardCallback: _to_tensorboard, WandbCallback: _to_wandb, TrackioCallback: _to_trackio}
