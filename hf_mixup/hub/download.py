"""A saved model's folder: one of this machine, or the files of a Hub repository that a model is read from.

Nothing that could run is fetched or read: weights are safetensors, the rest is JSON. A name that is a folder, as seen
from where Python runs, is that folder; any other name with one slash is a repository.
"""

import difflib
import json
import re
from pathlib import Path

from huggingface_hub import metadata_load, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from yaml import YAMLError

from ..errors import ModelError
from .retry import reason, retried, status_of

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
OURS = ("run.json", "method.safetensors")
WANTED = (CONFIG, *PROCESSORS, WEIGHTS, INDEX, "model-*.safetensors", *OURS)
ELSEWHERE = ("*/*", "*\\*")  # names that are not of the repository's top; these patterns match across slashes
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
CACHED = re.compile(r"models--([^/]+)--([^/]+)/snapshots/[0-9a-f]{40}")
LARGEST = 16 * 2**20  # bytes of a JSON file
CLASSES = 10**6  # at most
LOGIN = "log in (`hf auth login`, or HF_TOKEN)"


def fetch(name: str, revision: str | None = None, *, code: bool = False) -> Path:
    """The folder `name`, or a folder with the files of that Hub repository at a branch, tag or commit.

    The revision may stand in the name too, as "user/name@revision".
    Of a repository only the files are fetched that a model is read from, with `code` its Python files too. Failures
    that may pass are tried again; without a connection the cache serves. Raises ModelError.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ModelError(f"{name!r} is a folder here and has no revisions: leave out revision={revision!r}.")
        return folder
    name, _, said = name.partition("@")
    revision = revision or said or None
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(
            f"There is no folder {name!r}.{_nearest(folder)} Give a folder with {CONFIG}, or a Hub id as user/name."
        )
    wanted = [*WANTED, "*.py"] if code else list(WANTED)
    options = {"revision": revision, "allow_patterns": wanted, "ignore_patterns": list(ELSEWHERE)}
    try:
        return Path(retried(lambda: snapshot_download(name, **options), f"download {name}"))
    except (OSError, HTTPError, RuntimeError, ValueError) as error:
        raise ModelError(_why(name, revision, error)) from None  # its words may repeat the token


def _nearest(folder: Path) -> str:
    """A suggestion among the folders beside the one that was named."""
    if not folder.parent.is_dir():
        return f" Nor is there a folder {str(folder.parent)!r}."
    names = [entry.name for entry in folder.parent.iterdir() if entry.is_dir()]
    near = difflib.get_close_matches(folder.name, names, n=1)
    return f" Did you mean {str(folder.parent / near[0])!r}?" if near else ""


def _why(name: str, revision: str | None, error: Exception) -> str:
    """One paragraph for each way in which the Hub says no."""
    if isinstance(error, GatedRepoError):
        return f"The repository {name!r} is gated: ask for access on its page on the Hub, then {LOGIN}."
    if isinstance(error, RevisionNotFoundError):
        return f"The repository {name!r} has no revision {revision!r}: give a branch, a tag or a commit."
    if isinstance(error, HFValidationError):
        return f"There is no folder {name!r}, and it cannot be a repository's name: {error}"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"Cannot get {name!r}: there is no folder and no model repository of that name that may be seen from here. "
            f"Check the name; if it is private, {LOGIN}."
        )
    if status_of(error) in (401, 403):
        return f"The Hub refuses to give {name!r} ({reason(error)}): {LOGIN} with a token that may read it."
    if isinstance(error, LocalEntryNotFoundError):
        offline = isinstance(error.__cause__, OfflineModeIsEnabled)
        lost = "offline mode is on (HF_HUB_OFFLINE)" if offline else "the Hub did not give it"
        return (
            f"Cannot get {name!r}: it is not in the local cache and {lost}. Check the name and the connection, or run "
            f"`hf download {name}` where there is one."
        )
    return f"Cannot get {name!r} ({reason(error)}). Check the connection and the free space, and try again."


def check_saved(name: str, folder: Path) -> dict:
    """The configuration of the network saved in `folder`; ModelError unless its weights are safetensors beside it."""
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{name!r} has no {CONFIG}: give the folder or repository that holds a saved model.")
    config = read_json(folder / CONFIG, name)
    for key in ("num_classes", "num_labels"):  # a name is made for each
        if not (config.get(key) is None or (isinstance(config[key], int) and 0 <= config[key] <= CLASSES)):
            raise ModelError(f"{CONFIG} of {name!r} says {key} {str(config[key])[:20]}: it is no model for classes.")
    files = [WEIGHTS]
    if not (folder / WEIGHTS).is_file() and (folder / INDEX).is_file():
        shards = read_json(folder / INDEX, name).get("weight_map")
        files = sorted({str(file) for file in shards.values()}) if isinstance(shards, dict) else [WEIGHTS]
        if strange := [file for file in files if file != WEIGHTS and not SHARD.fullmatch(file)]:
            raise ModelError(f"{INDEX} of {name!r} names {strange[0]!r}, which is no file of weights: do not use it.")
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise ModelError(
            f"{name!r} has no {missing[0]}. Weights are read from safetensors only, as others (pytorch_model.bin) "
            "can run code when they are read: convert them where you trust them, with `model.save_pretrained(FOLDER)`."
        )
    return config


def read_json(file: Path, name: str) -> dict:
    """The mapping in a JSON file of `name`; ModelError for anything else."""
    try:
        if file.stat().st_size > LARGEST:
            raise ModelError(f"{file.name} of {name!r} has more than {LARGEST >> 20} MiB: it is not what it says.")
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{file.name} of {name!r} is damaged ({error}): download it again, or leave it.") from error
    if not isinstance(values, dict):
        raise ModelError(f"{file.name} of {name!r} holds no mapping: it is not what it says.")
    return values


def origin(name: str) -> str | None:
    """The repository that a saved model came from, None where that is not known.

    A repository is its own; a folder is a snapshot in the Hub's cache, or has a card that names a base model.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name.partition("@")[0]
    if cached := CACHED.search(folder.resolve().as_posix()):
        return "/".join(cached.groups())
    return _base_model(folder / "README.md")


def _base_model(file: Path) -> str | None:
    """What the card says to be fine-tuned from."""
    try:
        base = (metadata_load(file) or {}).get("base_model") if file.is_file() else None
    except (OSError, ValueError, YAMLError):
        return None
    base = base[0] if isinstance(base, list) and base else base
    return base if isinstance(base, str) else None
