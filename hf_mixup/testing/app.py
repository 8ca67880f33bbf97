"""The Hub as an ASGI application: the routes."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import routes_commit, routes_download, routes_refs, routes_repos, routes_upload
from .errors import HubError, repo_not_found
from .web import HubState, hub_state, viewer

REPO = "/api/{kind}/{namespace}/{name}"


async def whoami(request: Request) -> Response:
    """The user of the token."""
    return JSONResponse(hub_state(request).accounts.whoami(viewer(request)))


async def agents(request: Request) -> Response:
    """An empty registry; huggingface_hub requests it once a day to detect coding agents."""
    return JSONResponse({"standardEnvVars": [], "harnesses": {}})


async def short_name(request: Request) -> Response:
    """404: every repository has a namespace, so a name alone is never found."""
    raise repo_not_found(viewer(request).token is not None)


def _api() -> list[Route]:
    repos, refs, download, commit = routes_repos, routes_refs, routes_download, routes_commit
    return [
        Route("/api/whoami-v2", whoami),
        Route("/api/agent-harnesses", agents),
        Route("/api/validate-yaml", commit.validate, methods=["POST"]),
        Route("/api/repos/create", repos.create, methods=["POST"]),
        Route("/api/repos/delete", repos.delete, methods=["DELETE"]),
        Route("/api/{kind}", repos.listing),
        Route("/api/{kind}/{name}", short_name),
        Route(REPO, repos.describe),
        Route(REPO + "/revision/{revision}", repos.describe),
        Route(REPO + "/settings", repos.settings, methods=["PUT"]),
        Route(REPO + "/user-access-request/grant", repos.grant, methods=["POST"]),
        Route(REPO + "/auth-check", repos.auth_check),
        Route(REPO + "/auth-check/write", repos.auth_check),
        Route(REPO + "/refs", refs.refs),
        Route(REPO + "/discussions", refs.discussions),
        Route(REPO + "/commits/{revision}", refs.commits),
        Route(REPO + "/branch/{revision}", refs.branch, methods=["POST", "DELETE"]),
        Route(REPO + "/tag/{revision}", refs.tag, methods=["POST", "DELETE"]),
        Route(REPO + "/tree/{revision}", download.tree),
        Route(REPO + "/tree/{revision}/{path:path}", download.tree),
        Route(REPO + "/paths-info/{revision}", download.paths_info, methods=["POST"]),
        Route(REPO + "/preupload/{revision}", commit.preupload, methods=["POST"]),
        Route(REPO + "/commit/{revision}", commit.commit, methods=["POST"]),
    ]


def _contents() -> list[Route]:
    """Routes outside /api: models have no prefix, the other kinds have theirs."""
    large = "/_large/{kind}/{namespace}/{name}/{digest}"
    routes = [
        Route("/_large/{digest}", routes_download.content),
        Route(large, routes_upload.receive, methods=["PUT"]),
        Route(large, routes_upload.complete, methods=["POST"]),
        Route(large + "/{number:int}", routes_upload.receive, methods=["PUT"]),
    ]
    for start in ("/{kind}/{namespace}/{name}", "/{namespace}/{name}"):
        routes += [
            Route(start + "/resolve/{revision}/{path:path}", routes_download.resolve),
            Route(start + ".git/info/lfs/objects/batch", routes_upload.batch, methods=["POST"]),
            Route(start + ".git/info/lfs/objects/verify", routes_upload.verify, methods=["POST"]),
        ]
    return [*routes, Route("/{name}/resolve/{revision}/{path:path}", short_name)]


async def _error_response(request: Request, error: HubError) -> Response:
    return JSONResponse({"error": error.message, **error.body}, error.status, error.as_headers())


async def _unknown_address(request: Request, error) -> Response:
    message = f"This local Hub does not support {request.method} {request.scope['path']}"
    return await _error_response(request, HubError(error.status_code, message))


def make_app(state: HubState):
    """The application; routes match the raw path, in which a%2Fb is one segment."""
    app = Starlette(
        routes=[*_api(), *_contents()],
        exception_handlers={HubError: _error_response, 404: _unknown_address, 405: _unknown_address},
    )
    app.router.redirect_slashes = False
    app.state.site = state

    async def by_raw_path(scope, receive, send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["raw_path"].decode("latin-1")}
        await app(scope, receive, send)

    return by_raw_path
