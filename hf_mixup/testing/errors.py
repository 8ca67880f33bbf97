"""Error responses: a status, a code that clients map to an error class, and a message."""


class HubError(Exception):
    """An error response. `code` is the X-Error-Code that huggingface_hub maps to its error classes."""

    def __init__(self, status: int, message: str, code: str | None = None, **body):
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body
        self.headers: dict[str, str] = {}

    def as_headers(self) -> dict[str, str]:
        """The headers with code and message; characters that a header cannot hold become question marks."""
        text = self.message.encode("ascii", "replace").decode()
        text = "".join(letter if letter.isprintable() else "?" for letter in text)
        code = {"X-Error-Code": self.code} if self.code else {}
        return {**self.headers, **code, "X-Error-Message": text}


def repo_not_found(logged_in: bool) -> HubError:
    """404 for logged-in users, 401 for anonymous clients, who may see it after a login; as the Hub does."""
    if logged_in:
        return HubError(404, "Repository not found", "RepoNotFound")
    return HubError(401, "Repository not found, or private: log in to see it", "RepoNotFound")


def revision_not_found(revision: str) -> HubError:
    """404 RevisionNotFound."""
    return HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def entry_not_found(message: str, commit: str | None = None) -> HubError:
    """404 EntryNotFound; with the commit, clients cache that the file does not exist there."""
    error = HubError(404, message, "EntryNotFound")
    error.headers = {"X-Repo-Commit": commit} if commit else {}
    return error


def bad_request(message: str) -> HubError:
    """400: the request is invalid."""
    return HubError(400, message)
