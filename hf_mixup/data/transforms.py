"""From an encoded image to a uint8 tensor: decoding, the evaluation transform, and the random transforms of one image.

Everything goes through PIL, since timm's evaluation transform and transformers' pipeline do: another decoder or another
resize differs by a few grey levels, enough to turn a close decision.
"""

import math
import random
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
from timm.data.auto_augment import LEVEL_TO_ARG, rand_augment_transform
from timm.data.transforms import str_to_interp_mode, str_to_pil_interp
from torch import Tensor
from torchvision import transforms

from ..errors import DataError

Transform = Callable[[Image.Image], Tensor]

# timm's rule for RandAugment's shifts: at most this share of the image's side.
TRANSLATE_SHARE = 0.45
IMAGENET_MEAN = (0.485, 0.456, 0.406)


class Undecodable(Exception):
    """Bytes that are no image; the caller knows split and row and says so in a DataError."""


def to_rgb(image: Image.Image) -> Image.Image:
    """The image upright (EXIF orientation applied) and in three channels.

    As `transformers.pipeline` reads it, by PIL's `convert("RGB")`: an alpha channel is dropped, not composited on a
    background. One exception: 16-bit grey (PIL modes I;16 and I) is scaled to 8 bits, where PIL would clip every value
    above 255 to white and lose the picture.
    """
    # Lazy until here: a broken file has to show in `decode`. PIL's functions copy even where nothing changes.
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation) is not None:
        image = ImageOps.exif_transpose(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        deep = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        # The same pixels as convert("RGB") alone, without PIL's warning about them.
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def decode(value: dict | None, home: str | None = None) -> Image.Image:
    """The RGB image of one undecoded cell `{"bytes", "path"}` of an Image column; Undecodable if it holds none.

    With `home`, a path that leads out of it is a DataError: see `read`.
    """
    if not value or (value.get("bytes") is None and value.get("path") is None):
        raise Undecodable("the cell is empty")
    content = value["bytes"] if value.get("bytes") is not None else read(value["path"], home)
    try:
        return to_rgb(Image.open(BytesIO(content)))
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise Undecodable(f"{len(content)} bytes of no known image format") from error
    except Exception as error:  # PIL raises nearly anything on broken files: OSError, SyntaxError, struct.error ...
        raise Undecodable(f"{type(error).__name__}: {error}") from error


def read(path: str, home: str | None = None) -> bytes:
    """The content of a local or remote file; only a missing file counts as undecodable, a failing network does not.

    `home` is the address that all files of a data set on the Hub begin with. Its cells may name those, and files that
    `datasets` has downloaded, but no other file of this machine and no other address: DataError.
    """
    if home is not None and not _inside(path, home):
        raise DataError(f"A cell names the image {path!r}, which is no file of the data set: do not use this data set.")
    try:
        with xopen(path, "rb", download_config=DownloadConfig()) as file:
            return file.read()
    except FileNotFoundError as error:
        raise Undecodable(f"no file {path}") from error


def _inside(path: str, home: str) -> bool:
    """Whether a path is below `home`, in an archive there, or in a cache of downloaded files."""
    outermost = path.rpartition("::")[2]
    if "://" in outermost:
        return outermost.startswith(home) and ".." not in outermost.split("/")
    caches = (constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH)
    return any(Path(outermost).resolve().is_relative_to(Path(cache).resolve()) for cache in caches)


def eval_transform(pretrained_cfg: dict) -> Transform:
    """A callable from a PIL image of any mode to uint8 (3, H, W): timm's evaluation transform before normalisation.

    `pretrained_cfg` is timm's (input_size, interpolation, crop_pct, crop_mode, mean): what is saved with the model. So
    `normalise(eval_transform(cfg)(image), mean, std)` is what the model gets from `transformers.pipeline`.
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
    """A callable from a PIL image to uint8 (3, size, size), or None where nothing per image is asked for.

    `resize` gives the shorter side that length first; then `scale` asks for a random resized crop of that share of the
    area, and `resize` alone for a random crop. `randaugment` is a timm string such as "rand-m9-mstd0.5-inc1", and
    `operations` names those it chooses from, by timm's names; `mean` fills what they uncover. It draws from the global
    generators: call it under `borrowed_generators`. Flips and erasing: `augment`.
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
    # timm rounds size / crop_pct down, so a share that is a little too small does no harm
    share = math.floor(1e6 * size / resize) / 1e6
    return share if math.floor(size / share) >= resize else share - 1e-6


def _randaugment(
    spec: str | None, operations: Sequence[str] | None, size: int, interpolation: str, mean: tuple[float, ...]
) -> list:
    """A list of timm's RandAugment, with the parameters that timm's own training transform gives it, or of nothing."""
    if spec is None:
        return []
    if not spec.startswith("rand"):
        raise DataError(f"randaugment={spec!r} is not a RandAugment of timm: write for example 'rand-m9-mstd0.5-inc1'.")
    if unknown := sorted({*(operations or ())} - LEVEL_TO_ARG.keys()):
        raise DataError(f"timm's RandAugment has no operation {unknown[0]!r}. Choose from: {', '.join(LEVEL_TO_ARG)}.")
    settings = {
        "translate_const": int(size * TRANSLATE_SHARE),
        "img_mean": tuple(min(255, round(255 * value)) for value in mean),
        "interpolation": str_to_pil_interp(interpolation),
    }
    try:
        return [rand_augment_transform(spec, settings, operations and list(operations))]
    except (AssertionError, ValueError) as error:
        raise DataError(f"randaugment={spec!r} is not one that timm reads: write as 'rand-m9-mstd0.5-inc1'.") from error


@contextmanager
def borrowed_generators(seed: int) -> Iterator[None]:
    """Inside, the global generators of random, numpy and torch (CPU) start at `seed`; after, they are as before.

    torchvision's and timm's transforms of one image draw from these three and take no generator. With them borrowed, an
    augmentation is a function of its seed alone. Not for threads, which share them.
    """
    python, array, tensor = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        # default_generator, because torch.manual_seed would reseed the accelerators as well.
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        torch.default_generator.set_state(tensor)
