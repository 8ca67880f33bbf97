"""What an image processor says of mean and deviation, for the training step and for methods that need real pixels."""

from functools import partial

from ..data import augment, normalise
from ..methods import Method

AUGMENTATIONS = ("crop_padding", "crop_mode", "flip", "erasing")  # fields of MixupConfig


def preparation(args, processor) -> tuple:
    """`augment` and `normalise` for uint8 batches; None without a preprocessor to say mean and deviation."""
    mean, std = _statistics(processor)
    if mean is None or std is None:
        return None, None
    chosen = {name: getattr(args, name) for name in AUGMENTATIONS if hasattr(args, name)}
    return partial(augment, mean=mean, std=std, **chosen), partial(normalise, mean=mean, std=std)


def _statistics(processor) -> tuple:
    """Mean and deviation of each channel that a preprocessor normalises with; None where it does not say."""
    config = getattr(processor, "data_config", None) or vars(processor or object)
    return tuple(config.get(name, config.get(f"image_{name}")) for name in ("mean", "std"))


def tell_pixels(method: Method, processor) -> None:
    """Methods that need real pixels, and were not told how they are normalised, take the preprocessor's word."""
    for part in method.modules():
        for name, values in zip(("mean", "std"), _statistics(processor)):
            if getattr(part, name, values) is None:
                setattr(part, name, values)
