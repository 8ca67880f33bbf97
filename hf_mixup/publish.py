"""A finished run as others load it: the published folder, the Hub, and back."""

import time
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from . import networks, record
from .cards import model_card
from .methods import Method, load
from .models import save_published
from .net import Net
from .saving import METHOD, load_method, save_extra

TRIES, WAIT = 4, 2.0  # seconds, doubled each time
LEFT_OUT = ["checkpoint-*", "checkpoint-*/**", ".saving/**", ".run.json", "runs/**"]


class PushError(RuntimeError):
    """The folder is complete on disk, but could not be pushed; the message says how to push it later."""


def export(folder: Path, trainer, processor: BaseImageProcessor, config, run: dict) -> None:
    """Write network, preprocessor, method, run record and card into `folder`."""
    if trainer.averaged is None:
        save_published(trainer.model, processor, folder)
    else:
        with trainer.averaged.swapped():
            save_published(trainer.model, processor, folder)
    save_extra(folder, trainer.step, None)
    write_card(folder, config, run, trainer.model)
    record.write(run, folder)


def write_card(folder: Path, config, run: dict, model: PreTrainedModel) -> None:
    """README.md of a finished run."""
    method = load(run["method"]["name"], **run["method"]["args"])
    timm_model = hasattr(model, "timm_model")
    base = config.model if "/" in config.model and not Path(config.model).exists() else None
    if config.pretrained and timm_model and base is None:
        base = f"timm/{config.model}"
    library = "timm" if timm_model else "transformers"
    ours = getattr(model.config, "architecture", None) in networks.__all__
    card = model_card(run, method.title, method.link, base, library, ours)
    card.save(folder / "README.md")


def push(folder: Path, repo: str, private: bool | None = None, revision: str | None = None) -> str:
    """Push a run's folder to the model repository `repo` in one commit and give its address; made if need be.

    The token is the environment's or the login's. Failures that may pass are tried again.
    """
    api = HfApi()
    try:
        url = _retried(lambda: api.create_repo(repo, private=private, exist_ok=True))
        name = url.repo_id
        _retried(
            lambda: api.upload_folder(
                repo_id=name, folder_path=folder, ignore_patterns=LEFT_OUT, commit_message="Run", revision=revision
            )
        )
    except (OSError, HTTPError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise PushError(
            f"The run in {folder} is complete but could not be pushed to {repo!r} ({type(error).__name__}: {reason}). "
            f"Check the login (`hf auth login`) and push it with: hf upload {repo} {folder} --exclude 'checkpoint-*'"
        ) from error
    return str(url)


def _retried(call):
    for attempt in range(TRIES):
        try:
            return call()
        except (OSError, HTTPError, RuntimeError) as error:  # RuntimeError: a file's upload was given up
            if not _may_pass(error) or attempt == TRIES - 1:
                raise
            time.sleep(WAIT * 2**attempt)


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed in a moment."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return not isinstance(error, (OfflineModeIsEnabled, LocalTokenNotFoundError))


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
