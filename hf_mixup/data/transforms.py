"""The evaluation transform and random transforms of single images, from PIL images to uint8 tensors.

All functions use PIL, as timm's evaluation transform and transformers' pipeline do: another decoder or another resize
differs by a few grey levels, which can change a prediction.
"""

import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.data.auto_augment import LEVEL_TO_ARG, posterize, rand_augment_transform
from timm.data.transforms import str_to_interp_mode, str_to_pil_interp
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from ..errors import DataError
from .decode import to_rgb

Transform = Callable[[Image.Image], Tensor]

# timm's limit of RandAugment's translations: share of the image's side.
TRANSLATE_SHARE, MAX_MAGNITUDE = 0.45, 30
IMAGENET_MEAN = (0.485, 0.456, 0.406)


def eval_transform(pretrained_cfg: dict) -> Transform:
    """A callable from a PIL image of any mode to uint8 (3, H, W): timm's evaluation transform before normalisation.

    `pretrained_cfg` is timm's (input_size, interpolation, crop_pct, crop_mode, mean), which is saved with the model. So
    `normalise(eval_transform(cfg)(image), mean, std)` equals the input that `transformers.pipeline` makes.
    """
    steps = create_transform(**resolve_data_config(pretrained_cfg), is_training=False, normalize=False)
    return transforms.Compose([to_rgb, *steps.transforms])


def centre_crop(size: int, resize: int) -> Transform:
    """A callable from a PIL image to uint8 (3, size, size): shorter side resized to `resize`, bicubic; centre crop."""
    if resize < size:
        raise DataError(f"resize={resize} is smaller than the crop: give at least size={size}.")
    steps = [transforms.Resize(resize, InterpolationMode.BICUBIC), transforms.CenterCrop(size)]
    return transforms.Compose([to_rgb, *steps, transforms.PILToTensor()])


def in_views(transform: Transform, views: int) -> Transform:
    """A callable that runs a random transform `views` times on an image: uint8 (views, 3, H, W), or once."""
    return transform if views == 1 else partial(_views, transform, views)


def _views(transform: Transform, views: int, image) -> Tensor:
    return torch.stack([transform(image) for _ in range(views)])


def train_transform(
    size: int,
    *,
    scale: tuple[float, float] | None = None,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: str = "bicubic",
    randaugment: str | None = None,
    operations: Sequence[str] | None = None,
    resize: int | None = None,
    mean: tuple[float, ...] = IMAGENET_MEAN,
) -> Transform | None:
    """A callable from a PIL image to uint8 (3, size, size), or None if no option requires a transform per image.

    `resize`: size of the shorter side before the crop. The crop is a random resized crop if `scale` (smallest and
    largest share of the area) is given, a random crop if only `resize` is given, else a centre crop. `randaugment` is a
    timm string such as "rand-m9-mstd0.5-inc1", `operations` are timm's names of the operations to choose from, and
    `mean` fills the pixels that they leave empty. Random numbers are drawn from the global generators: call the
    transform inside `borrowed_generators`. Flips and erasing: `augment`.
    """
    if scale is None and resize is None and randaugment is None:
        return None
    if resize is not None and scale is None and resize < size:
        raise DataError(f"resize={resize} is smaller than the crop: give at least size={size}.")
    mode = str_to_interp_mode(interpolation)
    steps = [] if resize is None and scale is not None else [transforms.Resize(resize or size, mode)]
    if scale is not None:
        steps.append(transforms.RandomResizedCrop(size, scale, ratio, mode))
    else:
        steps.append(transforms.CenterCrop(size) if resize is None else transforms.RandomCrop(size))
    steps += _randaugment(randaugment, operations, size, interpolation, mean)
    return transforms.Compose([*steps, transforms.PILToTensor()])


def crop_share(size: int, resize: int) -> float:
    """timm's `crop_pct` for a centre crop of `size` pixels from a shorter side of `resize` pixels."""
    # timm rounds size / crop_pct down, so a slightly smaller share gives the same size
    share = math.floor(1e6 * size / resize) / 1e6
    return share if math.floor(size / share) >= resize else share - 1e-6


def _randaugment(
    spec: str | None, operations: Sequence[str] | None, size: int, interpolation: str, mean: tuple[float, ...]
) -> list:
    """timm's RandAugment with the parameters of timm's training transform, in a list; empty without `spec`."""
    if spec is None:
        return []
    if not spec.startswith("rand"):
        raise DataError(f"randaugment={spec!r} is not a RandAugment of timm: give for example 'rand-m9-mstd0.5-inc1'.")
    if unknown := sorted({*(operations or ())} - LEVEL_TO_ARG.keys()):
        raise DataError(f"timm's RandAugment has no operation {unknown[0]!r}. Choose from: {', '.join(LEVEL_TO_ARG)}.")
    settings = {
        "translate_const": int(size * TRANSLATE_SHARE),
        "img_mean": tuple(min(255, round(255 * value)) for value in mean),
        "interpolation": str_to_pil_interp(interpolation),
    }
    if (magnitude := re.search(r"-m(\d+(\.\d+)?)", spec)) and float(magnitude[1]) > MAX_MAGNITUDE:
        raise DataError(f"randaugment={spec!r} has the magnitude {magnitude[1]}: give at most {MAX_MAGNITUDE}, as m9.")
    try:
        transform = rand_augment_transform(spec, settings, operations and list(operations))
    except (AssertionError, ValueError) as error:
        raise DataError(f"timm cannot parse randaugment={spec!r}: give for example 'rand-m9-mstd0.5-inc1'.") from error
    for operation in transform.ops:
        if operation.aug_fn is posterize:
            operation.aug_fn = _posterize
    return [transform]


def _posterize(image: Image.Image, bits: int, **_) -> Image.Image:
    """timm's operation, also for 0 bits, which give a black image and are an error in newer Pillow."""
    return posterize(image, bits) if bits else image.point([0] * 256 * len(image.getbands()))


@contextmanager
def borrowed_generators(seed: int) -> Iterator[None]:
    """Seed the global generators of random, numpy and torch (CPU) with `seed`, and restore their states on exit.

    torchvision's and timm's transforms of single images draw from these three and accept no generator. Inside this
    context their result depends on `seed` alone. Not for threads, which share the generators.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    torch_state = torch.default_generator.get_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        # default_generator, because torch.manual_seed would seed the accelerators as well
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.default_generator.set_state(torch_state)
