"""A checkpoint back from the Hub, for a run that goes on where its folder is not."""

import json
import os
import shutil
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from ..errors import PushError, PushRefused
from ..hub.destination import CHECKPOINTS, FAILURES, Destination, checked, why
from ..hub.published_files import CHECKPOINT
from ..hub.retry import may_pass, retried
from ..runs import record
from ..trainer.checkpoint_pusher import STATE, best_name
from ..trainer.checkpointing import FETCHED

ASIDE = ".fetching"


def fetch_checkpoint(destination: Destination, folder: Path, recipe_hash: str) -> None:
    """Put the newest checkpoint of the recipe and its run's record into `folder`; nothing, where there is none.

    PushError where the Hub does not answer: beginning anew would take the place of what is there.
    """
    existed = folder.is_dir()
    try:
        # only what this login may write is taken for the run's own
        where = checked(destination)
        name = retried(lambda: _fetch(where.repo, folder, recipe_hash), "fetch the last checkpoint")
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return
    except PushRefused:
        raise
    except FAILURES as error:
        if not may_pass(error):
            raise PushRefused(
                f"Cannot read the checkpoints of {destination.repo!r}: {why(error, destination)}."
            ) from None
        raise PushError(
            f"{folder} is empty and {destination.repo!r} could not be asked for a checkpoint to go on from: "
            f"{why(error, destination)}. Without --resume the run begins anew."
        ) from None
    finally:
        shutil.rmtree(folder / ASIDE, ignore_errors=True)
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    if name:
        print(f"Continuing from {name} of {where.repo} on the Hub.")


def _fetch(repo: str, folder: Path, recipe_hash: str) -> str | None:
    """The name of the checkpoint that was fetched."""
    head = HfApi().repo_info(repo, revision=CHECKPOINTS)
    names = [entry.rfilename for entry in head.siblings or []]
    steps = _steps(names)
    if not steps:
        return None
    aside = folder / ASIDE
    if record.NAME in names:
        hf_hub_download(repo, record.NAME, revision=head.sha, local_dir=aside)
    if (record.read(aside) or {}).get("recipe_hash") != recipe_hash:
        print(f"The checkpoints of {repo} on the Hub are of another recipe: beginning anew.")
        return None
    newest = steps[max(steps)]
    snapshot_download(repo, revision=head.sha, local_dir=aside, allow_patterns=f"{newest}/*")
    best = best_name(aside / newest)
    if best in steps.values() and best != newest:
        snapshot_download(repo, revision=head.sha, local_dir=aside, allow_patterns=f"{best}/*")
        _place(aside, folder, best)
    _name_best(aside / newest / STATE, folder, best)
    _place(aside, folder, newest)
    os.replace(aside / record.NAME, folder / record.NAME)
    return newest


def _steps(names: list[str]) -> dict[int, str]:
    """The complete checkpoints among a repository's files, by their step."""
    if unsafe := [name for name in names if ".." in name.split("/") or name.startswith("/")]:
        raise PushRefused(f"The branch {CHECKPOINTS!r} holds a file that would not stay in the folder: {unsafe[0]!r}.")
    tops = [name.partition("/")[0] for name in names if name.partition("/")[2] == STATE]
    return {int(found[1]): top for top in tops if (found := CHECKPOINT.fullmatch(top))}


def _name_best(file: Path, folder: Path, best: str | None) -> None:
    """The best checkpoint's place on this machine, if it came along."""
    state = json.loads(file.read_text())
    there = best and ((folder / best).is_dir() or best == file.parent.name)
    file.write_text(json.dumps({**state, "best_model_checkpoint": str(folder / best) if there else None}, indent=2))


def _place(aside: Path, folder: Path, name: str) -> None:
    (aside / name / FETCHED).touch()
    os.replace(aside / name, folder / name)
