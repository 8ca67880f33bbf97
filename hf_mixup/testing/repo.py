"""Repository and commit."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from .files import File

MAIN = "refs/heads/main"


def now() -> str:
    """The current time in the Hub's format."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Commit:
    """One commit: author, parent, message, and all files by path."""

    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, File]


@dataclass(frozen=True)
class Repo:
    """The settings of a repository, and the commits of its refs."""

    kind: str
    id: str
    private: bool = False
    gated: str | bool = False
    sdk: str | None = None
    created: str = field(default_factory=now)
    granted: tuple[str, ...] = ()  # users with access to a gated repository
    refs: dict[str, str] = field(default_factory=dict)
    pulls: tuple[dict, ...] = ()  # title, author and date of each pull request

    @property
    def namespace(self) -> str:
        """The user or organisation that owns it."""
        return self.id.partition("/")[0]

    @property
    def url_path(self) -> str:
        """The path in URLs: "user/model", "datasets/user/set"."""
        return self.id if self.kind == "models" else f"{self.kind}/{self.id}"
