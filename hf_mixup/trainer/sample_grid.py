"""The picture of mixed samples: a grid of training images, and of the same images mixed by a method."""

import io
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.utils import make_grid

from ..data import Images, collate
from ..methods import Method
from ..mix import Mix
from ..net import Net
from ..ops.flags import evaluating
from ..ops.sampling import generator

NAME = "mixed.png"
COLUMNS, DRAWS, MAX_DRAWS = 8, 2, 20  # images in a row; draws shown; draws tried, since some change no image
CANDIDATES = 1000  # rows from which images of different classes are chosen
SIDE, MAX_BYTES = 96, 200_000  # pixels of one image; size of the file
MARGIN = 2  # pixels between images

logger = logging.getLogger(__name__)


def write_picture(folder: Path, trainer) -> None:
    """Write mixed.png for a trained run, unless its method does not mix pixels; an error is logged as a warning.

    It shows training images after preprocessing, and the same images mixed by the method in its state after training.
    """
    try:
        if needs_all_ranks(trainer):
            return
        content = picture(trainer.method, trainer.step, training_batch(trainer))
        if content is not None:
            (folder / NAME).write_bytes(content)
    except Exception as error:
        logger.warning("The card has no picture of mixed samples (%s: %s).", type(error).__name__, error)


def needs_all_ranks(trainer) -> bool:
    """Whether a forward pass needs the other ranks, which do not run this code."""
    if trainer.args.world_size == 1:
        return False
    sharded = trainer.sharded is not None or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    return sharded or any(isinstance(module, nn.SyncBatchNorm) for module in trainer.step.modules())


def training_batch(trainer, *seed: int) -> dict:
    """Up to COLUMNS rows of the training data, of different classes if possible; equal for equal seeds."""
    data = trainer.train_dataset
    if isinstance(data, Images):
        return collate([data[row, row] for row in _rows(len(data), data.labels, generator(*(seed or (0,))))])
    batch = next(iter(trainer.get_train_dataloader()))
    return {key: value[:COLUMNS] for key, value in batch.items()}


def _rows(count: int, labels: Tensor | None, rng: torch.Generator) -> list[int]:
    order = torch.randperm(count, generator=rng)[:CANDIDATES].tolist()
    if labels is None or labels.dim() > 1 or labels.is_floating_point():
        return order[:COLUMNS]
    first = {int(labels[row]): row for row in reversed(order)}
    different = [row for row in order if first[int(labels[row])] == row]
    return (different + [row for row in order if row not in different])[:COLUMNS]


def picture(method: Method, step: nn.Module, batch: dict) -> bytes | None:
    """PNG with a row of images, and for each of two draws a row of mixed images and a row of masks.

    None if the method does not mix pixels. The state of model, method and task is restored.
    """
    return grid(step, batch, *draw(method, step, batch, DRAWS))


def draw(method: Method, step: nn.Module, batch: dict, count: int, *key: int) -> tuple[Tensor, list]:
    """The batch's images (B, C, H, W) after preprocessing, and `count` draws of mixed images and mix by the seed `key`.

    Fewer draws if few of them change the images, none if the method does not mix pixels. The state of model, method
    and task is restored.
    """
    batch = on_device(step, batch)
    with restored(method), restored(step.task), evaluating(step.net):
        net, x, y = step.task(step.net, unaugmented(step, batch), generator(0))
        method.train()
        hidden = method.group == "hidden"  # these mix features; mixing the input is only one of their cases
        return x, [] if hidden else list(draws(method, net, x, y, *key, count=count))


def on_device(step: nn.Module, batch: dict) -> dict:
    """The batch on the network's device."""
    device = next(step.net.parameters()).device
    return {name: value.to(device) for name, value in batch.items()}


def grid(step: nn.Module, batch: dict, x: Tensor, drawn: list[tuple[Tensor, Mix]]) -> bytes | None:
    """PNG with a row of images `x`, and for each draw a row of mixed images and a row of masks; None without draws."""
    if not drawn:
        return None
    to_pixels = pixel_function(step, batch["pixel_values"], x)
    rows = [to_pixels(x)]
    for mixed, mix in drawn:
        rows.append(to_pixels(mixed))
        if mix.mask is not None:
            rows.append(mix.mask[:, :1].float().expand(len(x), 3, *x.shape[-2:]).clamp(0, 1).cpu())
    return png(rows)


@torch.no_grad()
def unaugmented(step: nn.Module, batch: dict) -> dict:
    """The batch as the task's `prepare` returns it in training, but with images that are not augmented."""
    task = step.task
    with swapped_transform(task, lambda x, rng: step.prepare(x)):
        return task.prepare(batch, generator(0))


@contextmanager
def swapped_transform(task: nn.Module, transform) -> Iterator[None]:
    """Inside, the task prepares images by `transform`."""
    previous, task.transform = task.transform, transform
    try:
        yield
    finally:
        task.transform = previous


def draws(
    method: Method, net: Net, x: Tensor, y: Tensor, *seed: int, count: int = DRAWS
) -> Iterator[tuple[Tensor, Mix]]:
    """Mixed images and mix of the first `count` draws that change the images `x`."""
    for attempt in range(MAX_DRAWS if len(x) > 1 else 0):
        for part in method.modules():
            if isinstance(part, Method):
                part.common_rng = generator(*seed, attempt, 1)
        try:
            mixed, mix = method.mix(net, x, y, generator(*seed, attempt))
        except TypeError:  # the method has no `mix`
            return
        if not torch.equal(mixed, x):
            count -= 1
            yield mixed.detach(), mix
        if not count:
            return


def pixel_function(step: nn.Module, pixels: Tensor, x: Tensor):
    """The function from preprocessed images to pixels in [0, 1]; `step.prepare` is linear in each channel."""
    if pixels.dtype != torch.uint8:
        low, high = x.amin(), x.amax()
        return lambda z: ((z.float() - low) / (high - low).clamp(min=1e-6)).clamp(0, 1).cpu()
    ends = torch.tensor([0, 255], dtype=torch.uint8, device=x.device)
    black, white = step.prepare(ends[:, None, None, None].expand(2, 3, 1, 1).contiguous()).float()
    return lambda z: ((z.float() - black) / (white - black)).clamp(0, 1).cpu()


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """Restore the module's state and mode at the end."""
    state = {key: value.clone() for key, value in module.state_dict().items()}
    training = module.training
    try:
        yield
    finally:
        module.load_state_dict(state)
        module.train(training)


def png(rows: Iterable[Tensor], side: int = SIDE, limit: int = MAX_BYTES) -> bytes:
    """Rows of images (B, 3, H, W) in [0, 1] as a PNG of at most `limit` bytes, each image about `side` pixels."""
    rows = list(rows)
    columns, size = len(rows[0]), max(rows[0].shape[-2:])
    scale = max(1, side // size) if size <= side else side / size
    while True:
        images = scaled(torch.cat(rows), scale)
        grid = make_grid(images, nrow=columns, padding=MARGIN, pad_value=1)
        content = io.BytesIO()
        Image.fromarray((grid * 255).round().byte().permute(1, 2, 0).numpy()).save(content, "PNG", optimize=True)
        if content.tell() <= limit or scale * size < 8:
            return content.getvalue()
        scale = scale - 1 if scale > 1 else 0.8 * scale


def scaled(x: Tensor, scale: float) -> Tensor:
    """Images (B, C, H, W) with sides `scale` times as long; a scale of one or more is an integer."""
    if scale >= 1:
        return F.interpolate(x, scale_factor=scale, mode="nearest") if scale > 1 else x
    sides = [max(1, round(side * scale)) for side in x.shape[-2:]]
    return F.interpolate(x, sides, mode="bilinear", antialias=True)
