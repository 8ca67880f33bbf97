"""A finished run to the Hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from .retry import retried

LEFT_OUT = ["checkpoint-*", "checkpoint-*/**", ".saving/**", ".run.json", ".lock*", "runs/**"]


class PushError(RuntimeError):
    """The folder is complete on disk, but could not be pushed; the message says how to push it later."""


def push(folder: Path, repo: str, private: bool | None = None, revision: str | None = None) -> str:
    """Push a run's folder to the model repository `repo` in one commit and give its address; made if need be.

    The token is the environment's or the login's. Failures that may pass are tried again.
    """
    api = HfApi()
    try:
        url = retried(lambda: api.create_repo(repo, private=private, exist_ok=True), "create the repository")
        name = url.repo_id
        retried(
            lambda: api.upload_folder(
                repo_id=name, folder_path=folder, ignore_patterns=LEFT_OUT, commit_message="Run", revision=revision
            ),
            "push the run",
        )
    except (OSError, HTTPError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise PushError(
            f"The run in {folder} is complete but could not be pushed to {repo!r} ({type(error).__name__}: {reason}). "
            f"Check the login (`hf auth login`) and push it with: hf upload {repo} {folder} --exclude 'checkpoint-*'"
        ) from error
    return str(url)
