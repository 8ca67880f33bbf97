"""What all routes share: who asks for which repository, addresses, pages, and signed links."""

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
from .errors import HubError, bad, no_repo
from .repo import Repo
from .store import Store

LINK_LIFE = 3600  # seconds that a signed link is good for
PAGE, PAGE_EXPANDED, PAGE_COMMITS = 1000, 50, 50


@dataclass
class Site:
    """The state behind all routes."""

    store: Store
    accounts: Accounts
    part_size: int
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))


def site(request: Request) -> Site:
    """The state behind the routes."""
    return request.app.state.site


def part(request: Request, name: str, default: str | None = None) -> str | None:
    """A piece of the address, unquoted: routes match the address as it was sent, where a%2Fb is one piece."""
    value = request.path_params.get(name)
    return default if value is None else unquote(value)


def flag(request: Request, name: str) -> bool:
    """Whether a query parameter says yes."""
    return request.query_params.get(name, "").lower() in ("1", "true")


async def sent_json(request: Request, kind: type = dict):
    """The body as JSON of that type, else 400."""
    try:
        value = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise bad(f"The body is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise bad(f"The body is a {type(value).__name__}, not a {kind.__name__}")
    return value


def viewer(request: Request) -> Viewer:
    """Who sends the request."""
    return site(request).accounts.viewer(request.headers.get("authorization"))


def asked_repo(request: Request, right: str = "read") -> Repo:
    """The repository in the address, if the viewer has the right to it: read, content, propose or write."""
    who, store = viewer(request), site(request).store
    repo = store.find(part(request, "kind", "models"), f"{part(request, 'namespace')}/{part(request, 'name')}")
    if repo is None:
        raise no_repo(who.token is not None)
    checks = {"content": who.check_content, "propose": who.check_propose, "write": who.check_write}
    checks.get(right, who.check_read)(repo)
    return repo


def base(request: Request) -> str:
    """The server's own address, by the name that the client calls it."""
    return f"http://{request.headers.get('host', request.url.netloc)}"


def elsewhere(request: Request) -> str:
    """The server by its other name: another origin, where clients send no token and ask for no repository headers."""
    host = request.headers.get("host", request.url.netloc)
    name, _, port = host.partition(":")
    return f"http://{'localhost' if name != 'localhost' else '127.0.0.1'}:{port}"


def signed(request: Request, path: str, method: str) -> str:
    """A link to the other origin that needs no token for an hour."""
    until = str(int(time.time()) + LINK_LIFE)
    query = urlencode({"expires": until, "signature": _signature(site(request), method, path, until)})
    return f"{elsewhere(request)}{path}?{query}"


def check_signed(request: Request) -> None:
    """403 unless the server made the link."""
    until = request.query_params.get("expires", "0")
    method = "GET" if request.method == "HEAD" else request.method
    expected = _signature(site(request), method, request.scope["path"], until)
    given = request.query_params.get("signature", "")
    # as bytes, because the comparison refuses text beyond ASCII
    if not hmac.compare_digest(given.encode(), expected.encode()) or int(until) < time.time():
        raise HubError(403, "The link is not valid, or no longer: ask the Hub for a new one")


def _signature(state: Site, method: str, path: str, until: str) -> str:
    return hmac.new(state.secret, f"{method} {path} {until}".encode(), hashlib.sha256).hexdigest()


def paged(request: Request, items: list, size: int) -> JSONResponse:
    """One page of the items, and a Link header to the next one."""
    try:
        start = max(0, int(request.query_params.get("cursor", 0)))
        size = max(1, min(size, int(request.query_params.get("limit", size))))
    except ValueError as error:
        raise bad(f"cursor and limit must be whole numbers ({error})") from error
    headers = {}
    if start + size < len(items):
        query = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
        query = urlencode([*query, ("cursor", start + size)])
        headers["Link"] = f'<{base(request)}{request.scope["path"]}?{query}>; rel="next"'
    return JSONResponse(items[start : start + size], headers=headers)
