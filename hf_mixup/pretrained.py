"""What was published, back again: network, preprocessor and method from a folder or the Hub."""

from pathlib import Path

from huggingface_hub import snapshot_download
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from . import record
from .methods import Method, load
from .net import Net
from .saving import METHOD, load_method


def load_pretrained(
    repo: str, revision: str | None = None
) -> tuple[PreTrainedModel, BaseImageProcessor, Method | None]:
    """Network, preprocessor and method (None if the run has no record) of a run's folder or Hub repository."""
    folder = Path(repo) if Path(repo).is_dir() else Path(snapshot_download(repo, revision=revision))
    model = AutoModelForImageClassification.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    run = record.read(folder)
    if run is None:
        return model, processor, None
    method = load(run["method"]["name"], **run["method"]["args"])
    method.build(Net(model))
    if (folder / METHOD).is_file():
        load_method(folder, method)
    return model, processor, method
