"""A picture of a recipe's training images: prepared, augmented and mixed, without training."""

import copy
import errno
import logging
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ..config import MixupConfig, load_config
from ..config.config import SETTABLE
from ..config.parser import check_key, merge
from ..config.types import check_value, convert
from ..data import Data, Images, Labels, borrowed_generators
from ..errors import RunError, SaveError
from ..methods import Method
from ..mix import Mix
from ..ops.flags import evaluating
from ..ops.sampling import generator
from ..runs.images import train_images
from ..runs.output_dir import temporary_output_dir
from ..runs.run import as_run_error, build_trainer, load_run_data
from ..trainer.sample_grid import COLUMNS, MAX_DRAWS, draws, pixel_function, restored, training_batch, unaugmented
from .labelled_grid import Row, labelled_grid

SHOWN_DRAWS = 3
FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)  # errors of a full or failing disk
SEPARATOR, MAX_LINES = ", ", 6  # between the classes of an image; lines of classes below an image
UNTRANSFORMED = {"resize": None, "random_resized_crop": None, "randaugment": None, "randaugment_ops": None}

logger = logging.getLogger(__name__)


def preview(recipe: str | PathLike | MixupConfig, out: str | PathLike | None = None, **fields: Any) -> Image.Image:
    """A grid of training images as the recipe prepares, augments and mixes them; nothing is trained.

    `recipe`: the file or name of a recipe, or a configuration; `fields` override it, as `method="cutmix"` or
    `method_args={"alpha": 0.2}`. `out`: file to save the picture in. Below a mixed image are the weights of the mixed
    images by label, and its mask if the method has one. A method that reads the network gets that of the recipe, random
    or pretrained. Streamed data show rows of the first batch. Equal seeds give equal pictures; `seed` changes images
    and draws. Raises MixupError for what training would refuse.
    """
    config = _configuration(recipe, fields)
    data = load_run_data(config)
    _read_few_rows(config, data)
    with temporary_output_dir(config), borrowed_generators(config.seed):  # the caller's random state does not change
        trainer, processor = build_trainer(config, data)
        with as_run_error():
            rows, note = _rows(trainer, _batches(trainer, processor, config, data), data.labels)
    heading = [_heading(config, trainer)]
    if note:
        logger.warning(note)
        heading.append(note)
    if any(row.title.startswith("mask") for row in rows):
        heading.append("Masks are white where the first image named above them shows.")
    image = labelled_grid(heading, rows)
    if out is not None:
        _save(image, Path(out))
    return image


def _configuration(recipe: str | PathLike | MixupConfig, fields: dict[str, Any]) -> MixupConfig:
    """A new configuration: of a recipe, or a copy of `recipe`, with these fields instead of its own."""
    options = {}
    for key, value in fields.items():
        options[key] = convert(SETTABLE[check_key(key, SETTABLE, "the arguments")], value, "the arguments")
    if not isinstance(recipe, MixupConfig):
        return load_config(fspath(recipe), options)
    config = copy.copy(recipe)
    merged = merge({name: getattr(config, name) for name in SETTABLE}, options, SETTABLE)
    for key, item in SETTABLE.items():
        setattr(config, key, merged.get(key, {}))  # arguments of a component that changed are not in `merged`
        check_value(item, getattr(config, key))
    return config


def _read_few_rows(config: MixupConfig, data: Data) -> None:
    """Set what a run needs and one batch does not: its length, and large batches."""
    config.max_steps, config.dataloader_num_workers, config.aug_repeats = 1, 0, 1
    config.per_device_train_batch_size = min(COLUMNS, data.train_rows or COLUMNS)


def _batches(trainer, processor, config: MixupConfig, data: Data) -> tuple[dict, dict]:
    """A batch of the training data, and the same rows without the transforms of single images."""
    plain = copy.copy(config)
    for name, value in UNTRANSFORMED.items():
        setattr(plain, name, value)
    batches = []
    for images in (trainer.train_dataset, train_images(plain, data, processor)):
        if isinstance(images, Images):
            images.kept = False  # the other images are not read
        trainer.train_dataset = images
        batch = training_batch(trainer, config.seed)
        batches.append({key: value.to(trainer.args.device) for key, value in batch.items()})
    return tuple(batches)


def _rows(trainer, batches: tuple[dict, dict], labels: Labels) -> tuple[list[Row], str]:
    """The rows of the picture, and a note if the method does not mix the images."""
    method, step, seed = trainer.method, trainer.step, trainer.args.seed
    batch, plain = batches
    with restored(method), restored(step.task), evaluating(step.net):
        method.train()
        prepared = unaugmented(step, plain)
        x = prepared["pixel_values"]
        to_pixels = pixel_function(step, plain["pixel_values"], x)
        names = label_texts(batch.get("labels"), labels, len(x))
        rows = [Row("images", to_pixels(x), [name.split(SEPARATOR)[:MAX_LINES] for name in names])]
        augmented = step.task.prepare(batch, generator(seed, 0))
        views = augmented.get("views", [augmented["pixel_values"]])
        titles = ["augmented"] if len(views) == 1 else [f"view {number}" for number in range(1, len(views) + 1)]
        rows += [Row(title, to_pixels(view)) for title, view in zip(titles, views)]
        net, x, y = step.task(step.net, augmented, generator(seed, 0))
        drawn = [] if method.group == "hidden" else list(draws(method, net, x, y, seed, 1, count=SHOWN_DRAWS))
    for number, (mixed, mix) in enumerate(drawn, 1):
        rows.append(Row(f"mixed {number}", to_pixels(mixed[:COLUMNS]), weight_texts(mix, names, len(x))))
        if mix.mask is not None:
            mask = mix.mask[:COLUMNS, :1].float().clamp(0, 1).cpu()
            rows.append(Row(f"mask {number}", mask.expand(min(len(x), COLUMNS), 3, *x.shape[-2:])))
    return rows, "" if drawn else unmixed_note(method)


def label_texts(labels: Tensor | None, info: Labels, count: int) -> list[str]:
    """The label of each image in words; its number in the picture, as #1, without labels."""
    if labels is None:
        return [f"#{number}" for number in range(1, count + 1)]
    if info.kind == "class":
        return [info.classes[label] if label >= 0 else "no label" for label in labels.tolist()]
    if info.kind == "classes":
        return [SEPARATOR.join(info.classes[k] for k in row.nonzero()[:, 0].tolist()) or "no class" for row in labels]
    return [f"({' '.join(f'{number:.3g}' for number in row.flatten().tolist())})" for row in labels]


def weight_texts(mix: Mix, names: list[str], rows: int) -> list[list[str]]:
    """For each of the first COLUMNS mixed images, a line for each image in it: its weight and label."""
    own = names if len(names) == rows else [f"#{number}" for number in range(1, rows + 1)]
    return [
        [f"{weight:.2f} {own[row]}" for row, weight in zip(indices, weights) if weight > 0]
        for indices, weights in zip(mix.index[:COLUMNS].tolist(), mix.weight[:COLUMNS].tolist())
    ]


def unmixed_note(method: Method) -> str:
    """Why the picture has no mixed images."""
    reason = f"did not change these images in {MAX_DRAWS} draws"
    if method.group == "hidden":
        reason = "mixes hidden states, not pixels"
    elif method.group == "baseline" or type(method).mix_batch is Method.mix_batch:
        reason = "does not mix pixels"
    return f"Method {method.name} {reason}: the picture shows the augmentation only."


def _heading(config: MixupConfig, trainer) -> str:
    weights = "published weights" if config.pretrained else "random weights"
    arguments = ", ".join(f"{key}={value}" for key, value in config.method_args.items())
    method = f"{trainer.method.name} ({arguments})" if arguments else trainer.method.name
    network = f", {config.model} with {weights}" if trainer.method.needs_net and "/" not in config.model else ""
    return f"{config.recipe or 'configuration'}: {method}, task {trainer.task.name}{network}, seed {config.seed}"


def _save(image: Image.Image, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in FULL:
            raise SaveError(f"The picture could not be saved as {str(path)!r} ({error}): make space.") from error
        raise RunError(f"The picture could not be saved as {str(path)!r} ({error}): give out a name.png.") from error
