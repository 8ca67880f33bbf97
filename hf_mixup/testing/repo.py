"""What a repository and a commit are."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from .files import File

MAIN = "refs/heads/main"


def now() -> str:
    """The time in the Hub's format."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Commit:
    """One state of a repository: who made it from what, and its files by path."""

    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, File]


@dataclass(frozen=True)
class Repo:
    """What can change about a repository without a commit, and where its commits are."""

    kind: str
    id: str
    private: bool = False
    gated: str | bool = False
    sdk: str | None = None
    created: str = field(default_factory=now)
    granted: tuple[str, ...] = ()  # who has been let into a gated repository
    refs: dict[str, str] = field(default_factory=dict)
    pulls: tuple[dict, ...] = ()  # title, author and date of each pull request

    @property
    def namespace(self) -> str:
        """The user or organisation it belongs to."""
        return self.id.partition("/")[0]

    @property
    def web(self) -> str:
        """Its address below the Hub's: "user/model", "datasets/user/set"."""
        return self.id if self.kind == "models" else f"{self.kind}/{self.id}"
