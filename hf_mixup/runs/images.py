"""The splits of a run as uint8 images, prepared as the saved image processor prepares them."""

from functools import partial

from ..config import MixupConfig
from ..config.validation import size_in_bytes
from ..data import Data, Images, Stream, Transform, eval_transform, to_rgb, train_transform


def eval_images(config: MixupConfig, data: Data, processor) -> Images | None:
    """The evaluation split as uint8 images, resized and cropped as by the saved image processor; None without one."""
    if data.eval is None:
        return None
    columns = (data.image_column, data.label_column, config.eval_image_size or config.image_size)
    return Images(data.eval, *columns, prepare=prepare(processor), **_options(config, data))


def _options(config: MixupConfig, data: Data) -> dict:
    reading = {"skip_corrupt": config.skip_corrupt, "max_pixels": config.max_pixels}
    return reading | {"labels": data.labels, "home": data.home, "deep": data.deep}


def prepare(processor, size: int | None = None):
    """A function that resizes and crops a PIL image to uint8 (3, H, W) as `processor` does, or to `size` instead."""
    if hasattr(processor, "data_config"):
        return eval_transform(processor.data_config | ({"input_size": (3, size, size)} if size else {}))
    return partial(_processed, processor=processor)  # can be pickled, for workers that are spawned


def _processed(image, processor):
    return processor(to_rgb(image), do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"][0]


def image_transform(config: MixupConfig) -> Transform | None:
    """The transform of single training images, None if the recipe sets none."""
    return train_transform(
        config.image_size,
        scale=config.random_resized_crop,
        interpolation=config.train_interpolation or config.interpolation or "bilinear",
        randaugment=config.randaugment,
        operations=config.randaugment_ops,
        resize=config.resize,
        **({} if config.mean is None else {"mean": tuple(config.mean)}),
    )


def train_images(config: MixupConfig, data: Data, processor, views: int = 1) -> Images | Stream:
    """The training split as uint8 batches, with transforms of single images only if the recipe sets them."""
    transform = image_transform(config)
    shared = _options(config, data) | {"transform": transform, "views": views}
    shared["prepare"] = None if transform else prepare(processor, config.eval_image_size and config.image_size)
    columns = (data.image_column, data.label_column, config.image_size)
    if not config.streaming:
        return Images(data.train, *columns, **shared)
    memory, space = (size_in_bytes(name, getattr(config, name)) for name in ("shuffle_memory", "stream_cache_size"))
    cache = config.stream_cache and (config.stream_cache, space)
    return Stream(
        data.train, *columns, rows=data.train_rows, memory=memory, cache=cache, eval_classes=data.eval_classes, **shared
    )
