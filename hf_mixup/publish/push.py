"""Push a finished run to the Hub: check that its folder is complete, and commit its files."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import HfApi
from safetensors import SafetensorError, safe_open

from ..errors import CardError, PushError, PushRefused
from ..hub.card_section import on_hub
from ..hub.commits import commit
from ..hub.destination import FAILURES, Destination, ensure_repo, explain
from ..hub.published_files import CHECKPOINT, REQUIRED, is_published
from ..hub.retry import retried
from ..plain_data import read_json
from ..runs import record
from .export import rewrite_card


def push(folder: Path, destination: Destination, others: Sequence[Path] = ()) -> str:
    """Push a finished run's folder in one commit, and return the URL; the repository is created if it does not exist.

    The token is that of the environment or the login. Transient errors are retried. Files of an earlier run in the
    repository that this run does not have are deleted. The code in the card then loads the model from the repository,
    and its results include mean and standard deviation over `others`, folders of runs of the same recipe with other
    seeds (CardError for other runs). What a person wrote in the card of the folder or repository is kept.
    """
    files_to_push(folder)
    api = HfApi()
    try:
        resolved = retried(lambda: ensure_repo(api, destination), "create the repository")
        published = on_hub(api, resolved.repo, resolved.revision)
        rewrite_card(folder, resolved.repo, others, revision=resolved.revision, published=published)
        files = files_to_push(folder)
        return commit(api, resolved.repo, files, is_published, "Run", resolved.revision, resolved.create_pr)
    except CardError:
        raise
    except FAILURES as error:
        raise PushError(
            f"The run in {folder} is complete but could not be pushed to {destination.repo!r}: "
            f"{explain(error, destination)}. To push it later: {push_command(folder)}"
        ) from None


def push_command(folder: Path) -> str:
    """The command line that pushes a finished run's folder."""
    return f"python -m hf_mixup push {shlex.quote(str(folder))}"


def files_to_push(folder: Path) -> dict[str, Path]:
    """The files to push, by name; PushRefused unless the folder is that of a complete finished run."""
    if not folder.is_dir():
        raise PushRefused(f"There is no folder {str(folder)!r}: give the output_dir of a finished run.")
    if CHECKPOINT.fullmatch(folder.resolve().name):
        raise PushRefused(
            f"{folder} is a checkpoint: finish its run with --resume, then push {folder.resolve().parent}."
        )
    run = record.read(folder)
    if run is None:
        raise PushRefused(
            f"{folder} is not the folder of a run: it has no {record.NAME}. Give the output_dir of a finished run."
        )
    if run.get("status") != "finished":
        raise PushRefused(f"The run in {folder} is not finished: finish it with its command and --resume, then push.")
    files = {name: folder / name for name in sorted(_names(folder)) if is_published(name)}
    if problems := list(_problems(folder, files)):
        raise PushRefused(
            f"The run in {folder} is not complete: {', '.join(problems)}. Restore these files, or train again in "
            "another output_dir."
        )
    return files


def _names(folder: Path) -> Iterator[str]:
    folders = (folder, folder / ".eval_results")
    return (path.relative_to(folder).as_posix() for parent in folders for path in parent.glob("*") if path.is_file())


def _problems(folder: Path, files: dict[str, Path]) -> Iterator[str]:
    """One message for each file that is missing or damaged."""
    yield from (f"{name} is missing" for name in REQUIRED if name not in files)
    index = folder / "model.safetensors.index.json"
    weights = ["model.safetensors"]
    for name, path in files.items():
        try:
            if name.endswith(".json"):
                values = read_json(path)
                weights = sorted(set(values["weight_map"].values())) if path == index else weights
            elif name.endswith(".safetensors"):
                with safe_open(path, "pt"):
                    pass
        except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            yield f"{name} is damaged ({' '.join(str(error).split())})"
    yield from (f"{name} is missing" for name in weights if name not in files)
