"""A finished run to the Hub: what of its folder is pushed, and that it is whole."""

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import HfApi
from safetensors import SafetensorError, safe_open

from ..errors import CardError, PushError, PushRefused
from ..hub.commits import commit
from ..hub.destination import FAILURES, Destination, opened, why
from ..hub.published_files import CHECKPOINT, REQUIRED, is_published
from ..hub.retry import retried
from ..runs import record
from .export import rewrite_card


def push(folder: Path, destination: Destination, others: Sequence[Path] = ()) -> str:
    """Push a finished run's folder in one commit and give its address; the repository is made if need be.

    The token is the environment's or the login's. Failures that may pass are tried again. What an earlier run left
    there, and this one has not, is removed. The card then loads the model from the repository, and has the spread over
    `others`, folders of the same recipe's runs with other seeds (CardError if they are not).
    """
    finished(folder)
    api = HfApi()
    try:
        where = retried(lambda: opened(api, destination), "open the repository")
        rewrite_card(folder, where.repo, others, revision=where.revision)
        done = commit(api, where.repo, finished(folder), is_published, "Run", where.revision, where.create_pr)
    except CardError:
        raise
    except FAILURES as error:
        raise PushError(
            f"The run in {folder} is complete but could not be pushed to {destination.repo!r}: "
            f"{why(error, destination)}. To push it later: {later(folder)}"
        ) from None
    return done


def later(folder: Path) -> str:
    """The command that pushes a finished run's folder."""
    return f"python -m hf_mixup push {shlex.quote(str(folder))}"


def finished(folder: Path) -> dict[str, Path]:
    """The files to push, by name; PushRefused, with what is missing, unless the folder is a whole finished run."""
    if not folder.is_dir():
        raise PushRefused(f"There is no folder {str(folder)!r}: give the output_dir of a finished run.")
    if CHECKPOINT.fullmatch(folder.resolve().name):
        raise PushRefused(
            f"{folder} is a checkpoint: finish its run with --resume, then push {folder.resolve().parent}."
        )
    run = record.read(folder)
    if run is None:
        raise PushRefused(f"{folder} is no run: it has no {record.NAME}. Give the output_dir of a finished run.")
    if run.get("status") != "finished":
        raise PushRefused(f"The run in {folder} is not finished: end it with its own command and --resume, then push.")
    files = {name: folder / name for name in sorted(_names(folder)) if is_published(name)}
    wrong = list(_wrong(folder, files))
    if wrong:
        raise PushRefused(
            f"{folder} is not a whole run: {', '.join(wrong)}. Put back what is wrong, or train again in another "
            "output_dir."
        )
    return files


def _names(folder: Path) -> Iterator[str]:
    inside = (folder, folder / ".eval_results")
    return (path.relative_to(folder).as_posix() for place in inside for path in place.glob("*") if path.is_file())


def _wrong(folder: Path, files: dict[str, Path]) -> Iterator[str]:
    """What keeps the files from being a whole run, in words."""
    yield from (f"{name} is missing" for name in REQUIRED if name not in files)
    index = folder / "model.safetensors.index.json"
    weights = ["model.safetensors"]
    for name, path in files.items():
        try:
            if name.endswith(".json"):
                values = json.loads(path.read_text())
                values.keys()  # AttributeError for what is no mapping
                weights = sorted(set(values["weight_map"].values())) if path == index else weights
            elif name.endswith(".safetensors"):
                with safe_open(path, "pt"):
                    pass
        except (SafetensorError, ValueError, KeyError, AttributeError) as error:
            yield f"{name} is damaged ({' '.join(str(error).split())})"
    yield from (f"{name} is missing" for name in weights if name not in files)
