"""Routes for branches, tags, commits and pull requests."""

import re

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .errors import HubError, bad_request, revision_not_found
from .repo import MAIN, Commit, Repo
from .web import PAGE, PAGE_COMMITS, hub_state, json_body, paged, path_param, query_flag, requested_repo

REF = re.compile(
    r"(?!.*(\.\.|//|@\{|\.lock\Z|/\Z|\.\Z))(?!refs/)[^\s~^:?*\[\\/\x00-\x1f.-][^\s~^:?*\[\\\x00-\x1f]{0,200}"
)


async def refs(request: Request) -> Response:
    """The commits of branches and tags, and with `include_prs` of pull requests."""
    repo = requested_repo(request)
    groups = {"branches": "refs/heads/", "converts": "refs/convert/", "tags": "refs/tags/"}
    if query_flag(request, "include_prs"):
        groups["pullRequests"] = "refs/pr/"
    response = {
        group: [
            {"name": ref.removeprefix(start), "ref": ref, "targetCommit": oid}
            for ref, oid in repo.refs.items()
            if ref.startswith(start)
        ]
        for group, start in groups.items()
    }
    return JSONResponse(response)


async def commits(request: Request) -> Response:
    """The history of a revision, newest first."""
    repo, store = requested_repo(request), hub_state(request).store
    start = store.resolve(repo, path_param(request, "revision"))
    entries = [
        {"id": c.oid, "title": c.title, "message": c.message, "date": c.date, "authors": [{"user": c.author}]}
        for c in store.history(repo, start)
    ]
    if request.query_params.getlist("expand[]") == ["formatted"]:
        entries = [{**entry, "formatted": {key: entry[key] for key in ("title", "message")}} for entry in entries]
    return paged(request, entries, PAGE_COMMITS)


async def branch(request: Request) -> Response:
    """Create a branch at `startingPoint`, or delete it."""
    body = await json_body(request)
    repo, store, name = requested_repo(request, "write"), hub_state(request).store, path_param(request, "revision")
    if request.method == "DELETE":
        if f"refs/heads/{name}" == MAIN:
            raise HubError(403, "The branch main cannot be deleted")
        return _remove_ref(request, repo, f"refs/heads/{name}")
    return _add_ref(request, repo, f"refs/heads/{name}", store.resolve(repo, body.get("startingPoint") or "main"))


async def tag(request: Request) -> Response:
    """Create a tag at the revision in the path, or delete the tag in the path."""
    body = await json_body(request)
    repo, store, name = requested_repo(request, "write"), hub_state(request).store, path_param(request, "revision")
    if request.method == "DELETE":
        return _remove_ref(request, repo, f"refs/tags/{name}")
    return _add_ref(request, repo, f"refs/tags/{body.get('tag', '')}", store.resolve(repo, name))


def _add_ref(request: Request, repo: Repo, ref: str, commit: Commit) -> Response:
    if not REF.fullmatch(ref.split("/", 2)[2]):
        raise bad_request(f"Invalid reference name {ref!r}")
    if ref in repo.refs:
        raise HubError(409, f"Reference {ref} already exists")
    hub_state(request).store.save(repo, refs={**repo.refs, ref: commit.oid})
    return Response()


def _remove_ref(request: Request, repo: Repo, ref: str) -> Response:
    if ref not in repo.refs:
        raise revision_not_found(ref)
    hub_state(request).store.save(repo, refs={name: oid for name, oid in repo.refs.items() if name != ref})
    return Response()


async def discussions(request: Request) -> Response:
    """The pull requests. There are no other discussions, and pull requests are never merged or closed."""
    repo, query = requested_repo(request), request.query_params
    owner = {"name": repo.id, "type": repo.kind[:-1]}
    pulls = [
        {
            "num": number,
            "title": pull["title"],
            "author": {"name": pull["author"]},
            "createdAt": pull["date"],
            "status": "open",
            "isPullRequest": True,
            "repo": owner,
        }
        for number, pull in enumerate(repo.pulls, 1)
        if query.get("author", pull["author"]) == pull["author"]
    ]
    if query.get("type", "all") == "discussion" or query.get("status", "open") not in ("open", "all"):
        pulls = []
    first = int(query["p"]) * PAGE if query.get("p", "").isdigit() else 0
    return JSONResponse({"discussions": pulls[first : first + PAGE], "count": len(pulls), "start": first})
