"""Mean and standard deviation of the image processor, for the training step and methods that unnormalise images."""

from functools import partial

from ..data import augment, normalise
from ..methods import Method

AUGMENTATIONS = ("crop_padding", "crop_mode", "flip", "erasing")  # fields of MixupConfig


def preprocessing(args, processor) -> tuple:
    """`augment` and `normalise` for uint8 batches; (None, None) if the image processor has no mean and std."""
    mean, std = _statistics(processor)
    if mean is None or std is None:
        return None, None
    chosen = {name: getattr(args, name) for name in AUGMENTATIONS if hasattr(args, name)}
    return partial(augment, mean=mean, std=std, **chosen), partial(normalise, mean=mean, std=std)


def _statistics(processor) -> tuple:
    """Mean and standard deviation per channel of an image processor, each None where it has none."""
    config = getattr(processor, "data_config", None) or vars(processor or object)
    return tuple(config.get(name, config.get(f"image_{name}")) for name in ("mean", "std"))


def fill_mean_and_std(method: Method, processor) -> None:
    """Set `mean` and `std` of each method whose fields of these names are None, from the image processor."""
    for part in method.modules():
        for name, values in zip(("mean", "std"), _statistics(processor)):
            if getattr(part, name, values) is None:
                setattr(part, name, values)
