"""What the Hub says no with: a status, a code that clients turn into an error class, and a sentence."""


class HubError(Exception):
    """A refusal. `code` is the X-Error-Code that huggingface_hub maps to its error classes."""

    def __init__(self, status: int, message: str, code: str | None = None, **body):
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body
        self.headers: dict[str, str] = {}

    def as_headers(self) -> dict[str, str]:
        """The headers that carry code and message; what a header cannot hold becomes a question mark."""
        text = self.message.encode("ascii", "replace").decode()
        text = "".join(letter if letter.isprintable() else "?" for letter in text)
        code = {"X-Error-Code": self.code} if self.code else {}
        return {**self.headers, **code, "X-Error-Message": text}


def no_repo(known: bool) -> HubError:
    """As the Hub does: 404 to those it knows, 401 to others, who may find it once they log in."""
    if known:
        return HubError(404, "Repository not found", "RepoNotFound")
    return HubError(401, "Repository not found, or private: log in to see it", "RepoNotFound")


def no_revision(revision: str) -> HubError:
    """404 RevisionNotFound."""
    return HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def no_entry(message: str, commit: str | None = None) -> HubError:
    """404 EntryNotFound; with the commit, clients remember that the file does not exist there."""
    error = HubError(404, message, "EntryNotFound")
    error.headers = {"X-Repo-Commit": commit} if commit else {}
    return error


def bad(message: str) -> HubError:
    """400: the request itself is wrong."""
    return HubError(400, message)
