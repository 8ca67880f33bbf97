"""Decoding of images, the evaluation transform, and random transforms of single images, all to uint8 tensors.

All functions use PIL, as timm's evaluation transform and transformers' pipeline do: another decoder or another resize
differs by a few grey levels, which can change a prediction.
"""

import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets import DownloadConfig
from datasets.utils.file_utils import xopen
from huggingface_hub import constants
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from timm.data import create_transform, resolve_data_config
from timm.data.auto_augment import LEVEL_TO_ARG, posterize, rand_augment_transform
from timm.data.transforms import str_to_interp_mode, str_to_pil_interp
from torch import Tensor
from torchvision import transforms

from ..errors import DataError

Transform = Callable[[Image.Image], Tensor]

# timm's limit of RandAugment's translations: share of the image's side.
TRANSLATE_SHARE, MAX_MAGNITUDE = 0.45, 30
IMAGENET_MEAN = (0.485, 0.456, 0.406)


class ImageDecodeError(Exception):
    """An image that cannot be decoded; the caller raises a DataError that names split and row."""


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB, with its EXIF orientation applied.

    As in `transformers.pipeline`, PIL's `convert("RGB")` drops an alpha channel and does not composite on a background.
    One exception: 16-bit grey (PIL modes I;16 and I) is scaled to 8 bits, because PIL would clip every value above 255
    to white.
    """
    # Load now, so that a broken file raises inside `decode`. Steps that change nothing are skipped: PIL would copy.
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation) is not None:
        image = ImageOps.exif_transpose(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        # convert("RGB") alone gives the same pixels, but PIL warns.
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def decode(value: dict | None, home: str | None = None) -> Image.Image:
    """The RGB image of one encoded cell `{"bytes", "path"}` of an Image column. Raises ImageDecodeError.

    With `home`, a path outside it raises a DataError: see `read_image_file`.
    """
    if not value or (value.get("bytes") is None and value.get("path") is None):
        raise ImageDecodeError("the cell is empty")
    content = value["bytes"] if value.get("bytes") is not None else read_image_file(value["path"], home)
    try:
        return to_rgb(Image.open(BytesIO(content)))
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise ImageDecodeError(f"{len(content)} bytes in no known image format") from error
    except (
        Exception
    ) as error:  # PIL raises nearly any exception on broken files: OSError, SyntaxError, struct.error ...
        raise ImageDecodeError(f"{type(error).__name__}: {error}") from error


def read_image_file(path: str, home: str | None = None) -> bytes:
    """The content of a local or remote file. ImageDecodeError if it does not exist; network errors are raised as is.

    `home` is the URL prefix of all files of a Hub data set. Its image column may hold paths of these files and of files
    that `datasets` downloaded; any other local path or URL raises a DataError, because the data set may be malicious.
    """
    if home is not None and not _is_allowed(path, home):
        raise DataError(
            f"The image column holds the path {path!r}, which is not a file of the data set: do not use this data set."
        )
    try:
        with xopen(path, "rb", download_config=DownloadConfig()) as file:
            return file.read()
    except FileNotFoundError as error:
        raise ImageDecodeError(f"{path} does not exist") from error


def _is_allowed(path: str, home: str) -> bool:
    """Whether a path is below `home`, in an archive below `home`, or in a cache of downloaded files."""
    outermost = path.rpartition("::")[2]
    if "://" in outermost:
        return outermost.startswith(home) and ".." not in outermost.split("/")
    caches = (constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH)
    return any(Path(outermost).resolve().is_relative_to(Path(cache).resolve()) for cache in caches)


def eval_transform(pretrained_cfg: dict) -> Transform:
    """A callable from a PIL image of any mode to uint8 (3, H, W): timm's evaluation transform before normalisation.

    `pretrained_cfg` is timm's (input_size, interpolation, crop_pct, crop_mode, mean), which is saved with the model. So
    `normalise(eval_transform(cfg)(image), mean, std)` equals the input that `transformers.pipeline` makes.
    """
    steps = create_transform(**resolve_data_config(pretrained_cfg), is_training=False, normalize=False)
    return transforms.Compose([to_rgb, *steps.transforms])


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
