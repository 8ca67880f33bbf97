"""The most probable classes of image files, by a saved or published model."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike, fspath
from pathlib import Path

import torch
from accelerate import PartialState
from PIL.Image import Image

from ..data.decode import Decoder
from ..data.image_paths import ImageDecodeError
from ..data.local_files import IMAGE_SUFFIXES, files_of
from ..errors import ConfigError, DataError, ModelError
from ..hub.download import fetch
from ..models.safe_load import load_network, load_processor

BATCH = 32
ACTIVATIONS = {"multi_label_classification": torch.sigmoid, "regression": lambda outputs: outputs}

logger = logging.getLogger(__name__)


def predict(
    model: str | PathLike,
    images: str | PathLike | Sequence[str | PathLike],
    *,
    top_k: int = 5,
    device: str | None = None,
    max_pixels: int | None = None,
) -> list[dict]:
    """The `top_k` classes of each image: `{"file": path, "classes": [{"label", "score"}, ...]}`, highest score first.

    `model` as in `evaluate`. `images`: a file or folder, or several; a folder stands for the image files in it, sorted.
    Scores are probabilities of a softmax, or of a sigmoid for each class of a multi-label model; outputs of a
    regression. `max_pixels`: of an image; if None, Pillow's limit. Files that are no images are logged as warnings and
    left out. Raises DataError if none can be read, and ModelError.
    """
    images = [images] if isinstance(images, str | PathLike) else images
    if top_k < 1:
        raise ConfigError(f"top_k is {top_k!r}: give the number of classes, 1 or more.")
    name = fspath(model)
    folder = fetch(name)
    network, processor = load_network(name, folder).eval(), load_processor(name, folder)
    if not network.config.num_labels or type(network).__name__.endswith("Model"):
        raise ModelError(f"{name!r} has no classifier: give a model that was trained for image classification.")
    network.to(chosen_device(device))
    results = []
    for batch in _batches(image_files(images), Decoder(max_pixels=max_pixels)):
        scores = _scores(network, processor, [image for _, image in batch])
        results += [_result(file, row, network.config.id2label, top_k) for (file, _), row in zip(batch, scores)]
    if not results:
        raise DataError(f"None of the {len(images)} files or folders could be read as an image.")
    return results


def chosen_device(name: str | None) -> torch.device:
    """The device "cpu" or "cuda"; by default the GPU if there is one. ConfigError if it is not available."""
    device = PartialState(cpu=name == "cpu").device
    if name not in (None, device.type):
        raise ConfigError(f"Device {name!r} is not available: this process uses {device.type!r}.")
    return device


def image_files(paths: Iterable[str | PathLike]) -> list[Path]:
    """The files, with the image files of each folder in its place."""
    found = []
    for path in map(Path, paths):
        inside = files_of(path) if path.is_dir() else [path]
        found += [file for file in inside if not path.is_dir() or file.suffix.lower() in IMAGE_SUFFIXES]
    return found


def _batches(files: Sequence[Path], decode: Decoder) -> Iterator[list[tuple[Path, Image]]]:
    """Batches of files with their RGB images; a warning for each file that cannot be read."""
    batch = []
    for file in files:
        try:
            batch.append((file, decode({"bytes": file.read_bytes()}, str(file))))
        except (OSError, ImageDecodeError) as error:
            logger.warning("%s is skipped: %s.", file, getattr(error, "strerror", None) or error)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


@torch.no_grad()
def _scores(network, processor, images: list[Image]) -> torch.Tensor:
    """(B, K) scores of the classes."""
    inputs = torch.as_tensor(processor(images, return_tensors="pt")["pixel_values"])
    outputs = network(pixel_values=inputs.to(network.device)).logits.float().cpu()
    activation = ACTIVATIONS.get(network.config.problem_type)
    return outputs.softmax(-1) if activation is None else activation(outputs)


def _result(file: Path, scores: torch.Tensor, id2label: dict, top_k: int) -> dict:
    best = scores.topk(min(top_k, len(scores)))
    pairs = zip(best.indices.tolist(), best.values.tolist())
    return {"file": str(file), "classes": [{"label": str(id2label[k]), "score": score} for k, score in pairs]}
