"""Shared by all routes: the viewer, the requested repository, URLs, pages and signed links."""

import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass, field
from urllib.parse import unquote, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse

from .accounts import Accounts, Viewer
from .errors import HubError, bad_request, repo_not_found
from .repo import Repo
from .store import Store

LINK_LIFETIME = 3600  # seconds
PAGE, PAGE_EXPANDED, PAGE_COMMITS = 1000, 50, 50


@dataclass
class HubState:
    """The state of the server."""

    store: Store
    accounts: Accounts
    part_size: int
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))


def hub_state(request: Request) -> HubState:
    """The state of the server."""
    return request.app.state.site


def path_param(request: Request, name: str, default: str | None = None) -> str | None:
    """An unquoted path parameter; routes match the raw path, in which a%2Fb is one segment."""
    value = request.path_params.get(name)
    return default if value is None else unquote(value)


def query_flag(request: Request, name: str) -> bool:
    """Whether a query parameter is true."""
    return request.query_params.get(name, "").lower() in ("1", "true")


async def json_body(request: Request, kind: type = dict):
    """The body as JSON of type `kind`; 400 for anything else."""
    try:
        value = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise bad_request(f"The body is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise bad_request(f"The body is a {type(value).__name__}, not a {kind.__name__}")
    return value


def viewer(request: Request) -> Viewer:
    """The sender of the request."""
    return hub_state(request).accounts.viewer(request.headers.get("authorization"))


def requested_repo(request: Request, right: str = "read") -> Repo:
    """The repository in the path; raises unless the viewer has the right: read, content, propose or write."""
    sender, store = viewer(request), hub_state(request).store
    repo = store.find(
        path_param(request, "kind", "models"), f"{path_param(request, 'namespace')}/{path_param(request, 'name')}"
    )
    if repo is None:
        raise repo_not_found(sender.token is not None)
    checks = {"content": sender.check_content, "propose": sender.check_pull_request, "write": sender.check_write}
    checks.get(right, sender.check_read)(repo)
    return repo


def base_url(request: Request) -> str:
    """The URL of the server, with the host name that the client uses."""
    return f"http://{request.headers.get('host', request.url.netloc)}"


def storage_url(request: Request) -> str:
    """The server's URL with another host name, so that clients do not send their token to it."""
    host = request.headers.get("host", request.url.netloc)
    name, _, port = host.partition(":")
    return f"http://{'localhost' if name != 'localhost' else '127.0.0.1'}:{port}"


def signed_url(request: Request, path: str, method: str) -> str:
    """A URL with the host name of `storage_url`, valid for LINK_LIFETIME without a token."""
    expires = str(int(time.time()) + LINK_LIFETIME)
    query = urlencode({"expires": expires, "signature": _signature(hub_state(request), method, path, expires)})
    return f"{storage_url(request)}{path}?{query}"


def check_signature(request: Request) -> None:
    """Raise 403 unless the server signed the URL and it has not expired."""
    expires = request.query_params.get("expires", "0")
    method = "GET" if request.method == "HEAD" else request.method
    expected = _signature(hub_state(request), method, request.scope["path"], expires)
    given = request.query_params.get("signature", "")
    # as bytes, since compare_digest raises for text beyond ASCII
    if not hmac.compare_digest(given.encode(), expected.encode()) or int(expires) < time.time():
        raise HubError(403, "The link is invalid or has expired: request a new one")


def _signature(state: HubState, method: str, path: str, expires: str) -> str:
    return hmac.new(state.secret, f"{method} {path} {expires}".encode(), hashlib.sha256).hexdigest()


def paged(request: Request, items: list, size: int) -> JSONResponse:
    """One page of the items, and a Link header to the next one."""
    try:
        start = max(0, int(request.query_params.get("cursor", 0)))
        size = max(1, min(size, int(request.query_params.get("limit", size))))
    except ValueError as error:
        raise bad_request(f"cursor and limit must be integers ({error})") from error
    headers = {}
    if start + size < len(items):
        query = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
        query = urlencode([*query, ("cursor", start + size)])
        headers["Link"] = f'<{base_url(request)}{request.scope["path"]}?{query}>; rel="next"'
    return JSONResponse(items[start : start + size], headers=headers)
