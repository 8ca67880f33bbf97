"""Users, organisations, tokens and their rights."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .errors import HubError, bad_request, repo_not_found

ROLES = ("read", "write", "fine")


@dataclass(frozen=True)
class Token:
    """A user's token. With the role `fine`, only rights in `repos`: "read" or "write" by repository or namespace."""

    user: str
    role: str = "write"
    repos: Mapping[str, str] = field(default_factory=dict)

    def allows(self, right: str, repo: str) -> bool:
        """Whether the token has the right "read" or "write" for the repository."""
        if self.role != "fine":
            return right == "read" or self.role == "write"
        granted = self.repos.get(repo) or self.repos.get(repo.partition("/")[0])
        return granted == "write" or granted == right


@dataclass(frozen=True)
class Viewer:
    """The sender of a request: the user of a token, or an anonymous client (`token` is None)."""

    token: Token | None = None
    orgs: tuple[str, ...] = ()

    @property
    def name(self) -> str | None:
        """The user's name, None for an anonymous client."""
        return self.token and self.token.user

    def owns(self, namespace: str) -> bool:
        """Whether the namespace is the user's own or that of one of their organisations."""
        return self.token is not None and namespace in (self.token.user, *self.orgs)

    def check_read(self, repo) -> None:
        """Raise "repository not found" if the repository is private and the viewer may not read it."""
        allowed = self.owns(repo.namespace) and self.token.allows("read", repo.id)
        if repo.private and not allowed:
            raise repo_not_found(self.token is not None)

    def check_content(self, repo) -> None:
        """Raise if the repository is gated and the viewer has no access."""
        self.check_read(repo)
        member = self.token is not None and (self.owns(repo.namespace) or self.name in repo.granted)
        if not repo.gated or (member and self.token.allows("read", repo.id)):
            return
        if self.token is None:
            raise HubError(401, f"Access to {repo.id} is restricted. You must be logged in to access it.", "GatedRepo")
        raise HubError(403, f"Access to {repo.id} is restricted and you are not in the authorized list.", "GatedRepo")

    def check_write(self, repo) -> None:
        """Raise if the viewer may not change the repository."""
        self.check_read(repo)
        self.check_namespace(repo.namespace, repo.id)

    def check_pull_request(self, repo) -> None:
        """Raise if the viewer may not open a pull request, which needs a write token and the right to read."""
        self.check_read(repo)
        if self.token is None:
            raise HubError(401, "Invalid username or password.")
        if self.token.role == "read":
            raise HubError(403, f"The token's role is 'read', which does not include writing to {repo.id}")

    def check_namespace(self, namespace: str, repo: str) -> None:
        """Raise if the viewer may not create, change or delete the repository in the namespace."""
        if self.token is None:
            raise HubError(401, "Invalid username or password.")
        if not self.owns(namespace):
            raise HubError(403, f"{self.name} has no rights under the namespace {namespace!r}")
        if not self.token.allows("write", repo):
            raise HubError(403, f"The token's role is {self.token.role!r}, which does not include writing to {repo}")


class Accounts:
    """Users with their organisations and tokens."""

    def __init__(self, users: Iterable[str] | Mapping[str, Iterable[str]] = ("user",), token: str | None = None):
        users = (users,) if isinstance(users, str) else users
        self.users = {name: tuple(users[name]) if isinstance(users, Mapping) else () for name in users}
        if not self.users:
            raise ValueError("A hub needs at least one user: users=('user',).")
        self.tokens: dict[str, Token] = {}
        for name in self.users:
            self.add_token(name, value=None if self.tokens else token)

    def add_token(
        self, user: str, role: str = "write", repos: Mapping[str, str] | None = None, value: str | None = None
    ) -> str:
        """Add a token of the user and return it: `value`, by default "hf_<user>_<role>".

        `repos` is for the role "fine": {"user/model": "write", "org": "read"}.
        """
        if user not in self.users:
            raise ValueError(f"Unknown user {user!r}. Choose one of: {sorted(self.users)}, or pass users=... .")
        if role not in ROLES:
            raise ValueError(f"Unknown role {role!r}. Choose one of: {ROLES}.")
        if (repos is not None) != (role == "fine"):
            raise ValueError(f"repos={repos!r} cannot be combined with role={role!r}: only the role 'fine' has repos.")
        value = value or f"hf_{user}_{role}"
        self.tokens[value] = Token(user, role, dict(repos or {}))
        return value

    def viewer(self, authorization: str | None) -> Viewer:
        """The viewer of an Authorization header; raise 401 if its token is unknown."""
        if not authorization:
            return Viewer()
        kind, _, value = authorization.partition(" ")
        token = self.tokens.get(value.strip())
        if kind.lower() != "bearer" or token is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return Viewer(token, self.users[token.user])

    def whoami(self, viewer: Viewer) -> dict:
        """The response of whoami-v2."""
        if viewer.token is None:
            raise HubError(401, "Invalid username or password.")
        role = {"fine": "fineGrained"}.get(viewer.token.role, viewer.token.role)
        access = {"displayName": role, "role": role, "createdAt": "2020-01-01T00:00:00.000Z"}
        if role == "fineGrained":
            access["fineGrained"] = {"canReadGatedRepos": True, "global": [], "scoped": _scopes(viewer.token)}
        return {
            "type": "user",
            "id": f"user-{viewer.name}",
            "name": viewer.name,
            "fullname": viewer.name,
            "email": f"{viewer.name}@localhost",
            "emailVerified": True,
            "canPay": False,
            "isPro": False,
            "orgs": [
                {"type": "org", "id": f"org-{o}", "name": o, "fullname": o, "isEnterprise": False, "roleInOrg": "write"}
                for o in viewer.orgs
            ],
            "auth": {"type": "access_token", "accessToken": access},
        }

    def check_owner(self, namespace: str) -> None:
        """Raise if no user or organisation has that name."""
        if namespace not in self.users and not any(namespace in orgs for orgs in self.users.values()):
            raise bad_request(f"There is no user or organization {namespace!r}")


def _scopes(token: Token) -> list[dict]:
    rights = {"read": ["repo.content.read"], "write": ["repo.content.read", "repo.write"]}
    return [
        {"entity": {"type": "model" if "/" in name else "user", "name": name}, "permissions": rights[right]}
        for name, right in token.repos.items()
    ]
