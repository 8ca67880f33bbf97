"""Get the folder of a saved model: a local folder, or the downloaded files of a Hub repository.

No file that can run code is downloaded or read: weights are safetensors, all else is JSON. If a folder of the given
name exists, relative to the working directory, it is used; any other name with one slash is a repository.
"""

import difflib
import re
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from .. import plain_data
from ..errors import ModelError, ModelUnreachable
from .card_section import read_card, split
from .interruptible import interruptible
from .retry import INCONSISTENT, is_transient, reason, retried, status_of

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
RUN_FILES = ("run.json", "method.safetensors")
DOWNLOADED = (CONFIG, *PROCESSORS, WEIGHTS, INDEX, "model-*.safetensors", *RUN_FILES)
IN_SUBFOLDERS = ("*/*", "*\\*")  # never downloaded; the * of DOWNLOADED matches slashes too
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
CACHED = re.compile(r"models--([^/]+)--([^/]+)/snapshots/[0-9a-f]{40}")
MAX_CLASSES = 10**6
LOGIN = "log in (`hf auth login`, or HF_TOKEN)"


def fetch(name: str, revision: str | None = None, *, code: bool = False) -> Path:
    """Return the folder `name`, or download a model from the Hub repository `name` and return its folder.

    `revision` is a branch, tag or commit; it may also be part of the name, as "user/name@revision". Only the files that
    a model is loaded from are downloaded; `code` adds Python files. Transient errors are retried. If there is no
    connection, the cached files are used. Raises ModelError.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ModelError(f"{name!r} is a local folder and has no revisions: leave out revision={revision!r}.")
        return folder
    if folder.is_file():
        raise ModelError(f"{name!r} is a file: give the folder with {CONFIG}, or a Hub id as user/name.")
    name, _, suffix = name.partition("@")
    revision = revision or suffix or None
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(
            f"There is no folder {name!r}.{_suggestion(folder)} Give a folder with {CONFIG}, or a Hub id as user/name."
        )
    patterns = [*DOWNLOADED, "*.py"] if code else list(DOWNLOADED)
    options = {"revision": revision, "allow_patterns": patterns, "ignore_patterns": list(IN_SUBFOLDERS)}
    try:
        return Path(retried(lambda: _download(name, options), f"download {name}"))
    except (OSError, HTTPError, RuntimeError, ValueError) as error:
        error_class = ModelUnreachable if is_transient(error) else ModelError
        raise error_class(_failure_message(name, revision, error)) from None  # the error's text may contain the token


def _download(name: str, options: dict) -> str:
    try:
        return interruptible(lambda: snapshot_download(name, **options))
    except OSError as error:
        if INCONSISTENT in str(error):  # huggingface_hub 1 would continue it, also if it is a page of another server
            blobs = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"), "blobs")
            for partial_file in blobs.glob("*.incomplete"):
                partial_file.unlink(missing_ok=True)
        raise


def _suggestion(folder: Path) -> str:
    """A sentence that names a similar folder in the same parent folder, "" if there is none."""
    if not folder.parent.is_dir():
        return f" The folder {str(folder.parent)!r} does not exist either."
    names = [entry.name for entry in folder.parent.iterdir() if entry.is_dir()]
    near = difflib.get_close_matches(folder.name, names, n=1)
    return f" Did you mean {str(folder.parent / near[0])!r}?" if near else ""


def _failure_message(name: str, revision: str | None, error: Exception) -> str:
    """What is wrong and what to do, for each way in which a download fails."""
    if isinstance(error, GatedRepoError):
        return f"The repository {name!r} is gated: request access on its page on the Hub, then {LOGIN}."
    if isinstance(error, RevisionNotFoundError):
        return f"The repository {name!r} has no revision {revision!r}: give a branch, a tag or a commit."
    if isinstance(error, HFValidationError):
        return f"There is no folder {name!r}, and it is not a valid repository name: {error}"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"Could not load {name!r}: there is no such folder, and no such model repository that this login can read. "
            f"Check the name; if it is private, {LOGIN}."
        )
    if status_of(error) in (401, 403):
        return f"The Hub refuses access to {name!r} ({reason(error)}): {LOGIN} with a token that may read it."
    if isinstance(error, LocalEntryNotFoundError):
        offline = isinstance(error.__cause__, OfflineModeIsEnabled)
        cause = "offline mode is on (HF_HUB_OFFLINE)" if offline else f"the Hub did not return it ({reason(error)})"
        return (
            f"Could not load {name!r}: it is not in the local cache and {cause}. Check the name and the connection, or "
            f"run `hf download {name}` on a machine with a connection."
        )
    return f"Could not load {name!r} ({reason(error)}). Check the connection and the free space, and try again."


def check_saved(name: str, folder: Path) -> dict:
    """Return the configuration of the model saved in `folder`; ModelError unless its weights are safetensors."""
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{name!r} has no {CONFIG}: give the folder or repository of a saved model.")
    config = read_json(folder / CONFIG, name)
    for key in ("num_classes", "num_labels"):  # a class name is created for each
        if not (config.get(key) is None or (isinstance(config[key], int) and 0 <= config[key] <= MAX_CLASSES)):
            raise ModelError(
                f"{CONFIG} of {name!r} has {key} {str(config[key])[:20]}: it is not a classification model."
            )
    files = [WEIGHTS]
    if not (folder / WEIGHTS).is_file() and (folder / INDEX).is_file():
        shards = read_json(folder / INDEX, name).get("weight_map")
        files = sorted({str(file) for file in shards.values()}) if isinstance(shards, dict) else [WEIGHTS]
        if invalid := [file for file in files if file != WEIGHTS and not SHARD.fullmatch(file)]:
            raise ModelError(
                f"{INDEX} of {name!r} names {invalid[0]!r}, which is not a weights file: do not use this repository."
            )
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise ModelError(
            f"{name!r} has no {missing[0]}. Weights are read from safetensors only, since other formats "
            "(pytorch_model.bin) can run code: if you trust them, convert them with `model.save_pretrained(FOLDER)`."
        )
    return config


def read_json(file: Path, name: str) -> dict:
    """Return the mapping in a JSON file of the model `name`; ModelError for anything else."""
    try:
        return plain_data.read_json(file)
    except plain_data.Damaged as error:
        raise ModelError(f"{file.name} of {name!r} is damaged ({error}): download it again.") from error


def origin(name: str) -> str | None:
    """Return the Hub repository that a saved model was loaded from, None if it is unknown.

    For a repository, its name. For a folder, the repository of a snapshot in the Hub's cache, or the base model that
    the model card names.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name.partition("@")[0]
    if cached := CACHED.search(folder.resolve().as_posix()):
        return "/".join(cached.groups())
    return _base_model(folder / "README.md")


def _base_model(file: Path) -> str | None:
    """The base model in the model card's metadata."""
    try:
        base = split(read_card(file))[0].get("base_model") if file.is_file() else None
    except OSError:
        return None
    base = base[0] if isinstance(base, list) and base else base
    return base if isinstance(base, str) else None
