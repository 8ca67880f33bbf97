"""Download the newest checkpoint of a run from the Hub, to resume the run in an empty output folder."""

import json
import os
import shutil
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from ..errors import CheckpointError, PushError, PushRefused
from ..files import atomic_write
from ..hub.destination import CHECKPOINTS, FAILURES, Destination, check_access, explain
from ..hub.published_files import CHECKPOINT
from ..hub.retry import is_transient, retried
from ..plain_data import read_json
from ..runs import record
from ..trainer import manifest
from ..trainer.checkpoint_snapshot import best_name
from ..trainer.weights import FROM_HUB

DOWNLOADS = ".fetching"


def fetch_checkpoint(destination: Destination, folder: Path, recipe_hash: str) -> None:
    """Download the newest checkpoint of the recipe, and its run record, into `folder`; no effect if there is none.

    PushError if the Hub does not respond: a new run would overwrite the checkpoints in the repository.
    """
    existed = folder.is_dir()
    try:
        # read checkpoints only from a repository that this login may write to
        resolved = check_access(destination)
        name = retried(lambda: _download(resolved.repo, folder, recipe_hash), "download the last checkpoint")
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return
    except (PushRefused, CheckpointError):
        raise
    except FAILURES as error:
        if not is_transient(error):
            raise PushRefused(
                f"Cannot read the checkpoints of {destination.repo!r}: {explain(error, destination)}."
            ) from None
        raise PushError(
            f"{folder} is empty, and a checkpoint to continue from could not be downloaded from {destination.repo!r}: "
            f"{explain(error, destination)}. Without --resume the run starts from the beginning."
        ) from None
    finally:
        shutil.rmtree(folder / DOWNLOADS, ignore_errors=True)
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    if name:
        print(f"Continuing from {name} of {resolved.repo} on the Hub.")


def _download(repo: str, folder: Path, recipe_hash: str) -> str | None:
    """The name of the downloaded checkpoint, None if the repository has none of this recipe."""
    head = HfApi().repo_info(repo, revision=CHECKPOINTS)
    names = [entry.rfilename for entry in head.siblings or []]
    steps = _steps(names)
    if not steps:
        return None
    downloads = folder / DOWNLOADS
    if record.NAME in names:
        hf_hub_download(repo, record.NAME, revision=head.sha, local_dir=downloads)
    recorded = read_json(downloads / record.NAME) if record.NAME in names else {}
    if recorded.get("recipe_hash") != recipe_hash:
        print(f"The checkpoints of {repo} on the Hub are of another recipe: starting from the beginning.")
        return None
    newest = steps[max(steps)]
    snapshot_download(repo, revision=head.sha, local_dir=downloads, allow_patterns=f"{newest}/*")
    best = best_name(downloads / newest)
    if best in steps.values() and best != newest:
        snapshot_download(repo, revision=head.sha, local_dir=downloads, allow_patterns=f"{best}/*")
        _move_into_run(downloads / best, folder, best)
    _move_into_run(downloads / newest, folder, best)
    os.replace(downloads / record.NAME, folder / record.NAME)
    return newest


def _steps(names: list[str]) -> dict[int, str]:
    """The complete checkpoints among a repository's files, by step."""
    if unsafe := [name for name in names if ".." in name.split("/") or name.startswith("/")]:
        raise PushRefused(f"The branch {CHECKPOINTS!r} holds the unsafe path {unsafe[0]!r}: choose another repository.")
    folders = [name.partition("/")[0] for name in names if name.partition("/")[2] == manifest.STATE]
    return {int(match[1]): folder for folder in folders if (match := CHECKPOINT.fullmatch(folder))}


def _move_into_run(checkpoint: Path, folder: Path, best: str | None) -> None:
    """Verify a downloaded checkpoint, set the local path of the best one in it, and move it into `folder`."""
    if (checkpoint / manifest.NAME).is_file():
        manifest.verify(checkpoint)
    state = read_json(checkpoint / manifest.STATE)
    has_best = best and ((folder / best).is_dir() or best == checkpoint.name)
    state["best_model_checkpoint"] = str(folder / best) if has_best else None
    atomic_write(checkpoint / manifest.STATE, json.dumps(state, indent=2))
    manifest.update(checkpoint, manifest.STATE)
    (checkpoint / FROM_HUB).touch()
    os.replace(checkpoint, folder / checkpoint.name)
