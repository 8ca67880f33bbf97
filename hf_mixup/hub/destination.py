"""Where a run is pushed to: who may push there, and what to say when it does not work."""

import json
import logging
import re
from dataclasses import asdict, dataclass, fields, replace
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

from ..errors import PushRefused
from ..files import atomic_write
from .commits import MOVED, make_branch
from .retry import may_pass, reason, retried, status_of, without_secrets

NAME = ".hub.json"
NO_BRANCH = re.compile(r"^[-/.]|[/.]$|\.lock$|//|\.\.|/\.|@\{|[\s~^:?*\[\\\x00-\x1f\x7f]|^$")  # as git has it
CHECKPOINTS = "checkpoints"  # the branch of the checkpoints
FAILURES = (OSError, HTTPError, RuntimeError, ValueError)  # what huggingface_hub raises
BEFORE = 10.0  # seconds after which a run begins although the Hub does not answer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Destination:
    """A model repository (`name` or `namespace/name`), a branch of it, and how the run gets there. Never a token."""

    repo: str
    revision: str | None = None
    private: bool | None = None
    create_pr: bool = False

    def save(self, folder: Path) -> None:
        """Store it in the run's folder, in a hidden file that is not pushed."""
        atomic_write(folder / NAME, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def of(cls, folder: Path) -> "Destination | None":
        """What `save` left, None if nothing."""
        try:
            values = json.loads((folder / NAME).read_text())
            return cls(**{item.name: values[item.name] for item in fields(cls)})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise PushRefused(f"{folder / NAME} cannot be read ({error}): remove it, and give --repo.") from error


def checked(destination: Destination) -> Destination:
    """The destination with its namespace; PushRefused if this login may not push there. Nothing is made.

    A Hub that does not answer says nothing against it: that is a warning.
    """
    try:
        return retried(lambda: _allowed(HfApi(), destination), "ask the Hub who may push", patience=BEFORE)
    except PushRefused:
        raise
    except FAILURES as error:
        if may_pass(error):
            logger.warning("Warning: %s. The run begins, and pushing is tried again later.", why(error, destination))
            return destination
        raise PushRefused(f"Cannot push to {destination.repo!r}: {why(error, destination)}.") from None


def _allowed(api: HfApi, destination: Destination) -> Destination:
    validate_repo_id(destination.repo)
    if destination.revision is not None and NO_BRANCH.search(destination.revision):
        raise PushRefused(f"{destination.revision!r} cannot be the name of a branch: give another hub_revision.")
    who = api.whoami()
    name = destination.repo if "/" in destination.repo else f"{who['name']}/{destination.repo}"
    key = who.get("auth", {}).get("accessToken", {}).get("role")
    if key == "read":
        place = without_secrets(f"{api.endpoint}/settings/tokens")
        raise PushRefused(
            f"Cannot push to {name!r}: the token of {who['name']!r} may only read. Make one that may write at {place}."
        )
    try:
        api.auth_check(name, write=not destination.create_pr)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        mine = (who["name"], *(org["name"] for org in who.get("orgs", ())))
        # what a fine-grained token may do elsewhere, only trying tells
        if name.partition("/")[0] not in mine and (destination.create_pr or key != "fineGrained"):
            raise PushRefused(_foreign(name, who["name"], exists=False)) from None
    except HTTPError as error:
        if status_of(error) == 403 and name.partition("/")[0] != who["name"] and not destination.create_pr:
            raise PushRefused(_foreign(name, who["name"], exists=True)) from None
        raise
    _check_private(api, replace(destination, repo=name))
    return replace(destination, repo=name)


def _foreign(name: str, user: str, exists: bool) -> str:
    way_out = f"Give one of your own as hub_model_id (--repo of hf_mixup push), like {user}/{name.partition('/')[2]}"
    if exists:
        way_out += ", or propose the run with --hub_create_pr (--create_pr)"
    kind = "is not yours" if exists else "does not exist, and its namespace is not yours"
    return f"Cannot push to {name!r}: it {kind} ({user!r} is logged in). {way_out}."


def _check_private(api: HfApi, destination: Destination) -> None:
    """Raise PushRefused rather than put into the open what was to be private."""
    if not destination.private or destination.create_pr:
        return
    try:
        public = not api.repo_info(destination.repo).private
    except RepositoryNotFoundError:
        return
    if public:
        raise PushRefused(
            f"{destination.repo!r} is to be private and is a public repository already: make it private at "
            f"{api.endpoint}/{destination.repo}/settings, choose another, or leave out hub_private_repo (--no-private)."
        )


def opened(api: HfApi, destination: Destination) -> Destination:
    """The destination with its namespace, its repository and branch there, made if need be. Safe to repeat."""
    where = _allowed(api, destination)
    # somebody else's, which a pull request may be for, cannot be made
    if not (where.create_pr and api.repo_exists(where.repo)):
        api.create_repo(where.repo, private=where.private, exist_ok=True)
    if where.revision is not None:
        make_branch(api, where.repo, where.revision)
    return where


def why(error: BaseException, destination: Destination) -> str:
    """What went wrong and the way out, as the end of a sentence, without secrets."""
    repo, hub, status = destination.repo, without_secrets(constants.ENDPOINT), status_of(error)
    if isinstance(error, PushRefused):
        return str(error).rstrip(".")
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, and nothing is sent: unset it"
    if isinstance(error, LocalTokenNotFoundError):
        return "nobody is logged in: set the environment variable HF_TOKEN, or run `hf auth login`"
    if isinstance(error, HFValidationError):
        said = reason(error).partition(": ")[2].rstrip(".")
        return f"this is no name of a repository ({said}): give another as hub_model_id"
    if isinstance(error, RevisionNotFoundError):
        return f"there is no revision {destination.revision!r}"
    if status == 401:
        return f"{hub} does not accept the token: check HF_TOKEN, which goes before the login, or run `hf auth login`"
    if status == 403:
        return f"the login may not write there ({reason(error)}): use a token with the right to write to {repo}"
    if isinstance(error, RepositoryNotFoundError):
        return f"it does not exist, or the login may not see it ({reason(error)}): check the name and the token"
    if status in MOVED:
        return f"others change it at the same time ({reason(error)}): try again when they are done"
    if may_pass(error):
        state = f"{hub} is failing or busy" if status else f"{hub} cannot be reached"
        return f"{state} ({reason(error)})"
    return reason(error)
