"""The repository and branch that a run is pushed to, the check of the login, and messages for failed pushes."""

import json
import logging
import re
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from ..errors import PushRefused, redacted
from ..files import atomic_write
from ..plain_data import read_json
from .commits import MOVED, make_branch
from .retry import is_transient, reason, retried, status_of

NAME = ".hub.json"
INVALID_BRANCH = re.compile(r"^[-/.]|[/.]$|\.lock$|//|\.\.|/\.|@\{|[\s~^:?*\[\\\x00-\x1f\x7f]|^$")  # git's rules
CHECKPOINTS = "checkpoints"  # the branch that checkpoints are pushed to
FAILURES = (OSError, HTTPError, RuntimeError, ValueError)  # errors of huggingface_hub
START_PATIENCE = 10.0  # seconds after which a run starts although the Hub does not respond

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Destination:
    """A model repository (`name` or `namespace/name`), its branch, and how to push there. It never holds a token."""

    repo: str
    revision: str | None = None
    private: bool | None = None
    create_pr: bool = False

    def save(self, folder: Path) -> None:
        """Write the destination to a hidden file of the run's folder, which is not pushed."""
        atomic_write(folder / NAME, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Destination | None":
        """Read the file that `save` wrote; None if there is none, PushRefused if it is damaged."""
        try:
            if not (folder / NAME).exists():
                return None
            values = read_json(folder / NAME)
            return cls(**{item.name: values[item.name] for item in fields(cls)})
        except (ValueError, KeyError) as error:
            raise PushRefused(f"{folder / NAME} could not be read ({error}): remove it, and give --repo.") from error


def check_access(destination: Destination) -> Destination:
    """Return the destination with its namespace; PushRefused if this login may not push there. Nothing is created.

    If the Hub does not respond, it logs a warning and returns the destination unchanged.
    """
    resolve = partial(_resolve, HfApi(), destination)
    try:
        return retried(resolve, "check the access to the repository", patience=START_PATIENCE)
    except PushRefused:
        raise
    except FAILURES as error:
        if is_transient(error):
            message = "Warning: %s. The run starts, and the push is tried again later."
            logger.warning(message, explain(error, destination))
            return destination
        raise PushRefused(f"Cannot push to {destination.repo!r}: {explain(error, destination)}.") from None


def _resolve(api: HfApi, destination: Destination) -> Destination:
    """The destination with its namespace; PushRefused, or an error of huggingface_hub, if it cannot be pushed to."""
    validate_repo_id(destination.repo)
    if destination.revision is not None and INVALID_BRANCH.search(destination.revision):
        raise PushRefused(f"{destination.revision!r} is not a valid branch name: give another hub_revision.")
    user = api.whoami()
    name = destination.repo if "/" in destination.repo else f"{user['name']}/{destination.repo}"
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        url = redacted(f"{api.endpoint}/settings/tokens")
        raise PushRefused(
            f"Cannot push to {name!r}: the token of {user['name']!r} is read-only. Create a write token at {url}."
        )
    try:
        api.auth_check(name, write=not destination.create_pr)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        namespaces = (user["name"], *(org["name"] for org in user.get("orgs", ())))
        # the rights of a fine-grained token in other namespaces are known only after a push
        if name.partition("/")[0] not in namespaces and (destination.create_pr or role != "fineGrained"):
            raise PushRefused(_foreign_repo_message(name, user["name"], exists=False)) from None
    except HTTPError as error:
        if status_of(error) == 403 and name.partition("/")[0] != user["name"] and not destination.create_pr:
            raise PushRefused(_foreign_repo_message(name, user["name"], exists=True)) from None
        raise
    _check_private(api, replace(destination, repo=name))
    return replace(destination, repo=name)


def _foreign_repo_message(name: str, user: str, exists: bool) -> str:
    example = f"{user}/{name.partition('/')[2]}"
    advice = f"Give one of your own as hub_model_id (--repo of hf_mixup push), for example {example}"
    if exists:
        advice += ", or open a pull request with --hub_create_pr (--create_pr)"
    kind = "is not yours" if exists else "does not exist, and its namespace is not yours"
    return f"Cannot push to {name!r}: it {kind} ({user!r} is logged in). {advice}."


def _check_private(api: HfApi, destination: Destination) -> None:
    """Raise PushRefused if the run is private and its repository is public."""
    if not destination.private or destination.create_pr:
        return
    try:
        public = not api.repo_info(destination.repo).private
    except RepositoryNotFoundError:
        return
    if public:
        raise PushRefused(
            f"{destination.repo!r} is a public repository already, and the run is private: make it private at "
            f"{api.endpoint}/{destination.repo}/settings, choose another, or leave out hub_private_repo (--no-private)."
        )


def ensure_repo(api: HfApi, destination: Destination) -> Destination:
    """Create the repository and branch if they do not exist; return the destination with its namespace. Idempotent."""
    destination = _resolve(api, destination)
    # a pull request may be for a repository of another user, where create_repo fails
    if not (destination.create_pr and api.repo_exists(destination.repo)):
        api.create_repo(destination.repo, private=destination.private, exist_ok=True)
    if destination.revision is not None:
        make_branch(api, destination.repo, destination.revision)
    return destination


def explain(error: BaseException, destination: Destination) -> str:
    """The cause and what to do, as the end of a sentence and without secrets."""
    repo, hub, status = destination.repo, redacted(constants.ENDPOINT), status_of(error)
    if isinstance(error, PushRefused):
        return str(error).rstrip(".")
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so no request is sent: unset it"
    if isinstance(error, LocalTokenNotFoundError):
        return "no user is logged in: set the environment variable HF_TOKEN, or run `hf auth login`"
    if isinstance(error, HFValidationError):
        message = reason(error).partition(": ")[2].rstrip(".")
        return f"this is not a valid repository name ({message}): give another as hub_model_id"
    if isinstance(error, RevisionNotFoundError):
        return f"revision {destination.revision!r} does not exist"
    if status == 401:
        return f"{hub} does not accept the token: check HF_TOKEN, which overrides the login, or run `hf auth login`"
    if status == 403:
        return f"the login may not write there ({reason(error)}): use a token with write access to {repo}"
    if isinstance(error, RepositoryNotFoundError):
        return f"it does not exist, or the login has no access to it ({reason(error)}): check the name and the token"
    if status in MOVED:
        return f"it was changed by others at the same time ({reason(error)}): try again later"
    if is_transient(error):
        failing = status is not None and status >= 400
        state = f"{hub} is failing or busy" if failing else f"{hub} could not be reached"
        return f"{state} ({reason(error)})"
    return reason(error)
