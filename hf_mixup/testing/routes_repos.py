"""Routes for repositories: create, delete, change, describe and list."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from . import metadata
from .errors import HubError, bad_request, repo_not_found
from .repo import Commit, Repo
from .web import PAGE, base_url, hub_state, json_body, paged, path_param, query_flag, requested_repo, viewer

VISIBILITIES = {"public": False, "private": True}


async def create(request: Request) -> Response:
    """Create a repository; 409 with its URL, which `exist_ok` requires, if it exists."""
    body = await json_body(request)
    sender, store, kind = viewer(request), hub_state(request).store, _kind(body)
    repo_id = f"{body.get('organization') or sender.name or 'nobody'}/{body.get('name')}"
    store.repo_folder(kind, repo_id)
    existing = store.find(kind, repo_id)
    if existing is not None and sender.token is not None:
        sender.check_read(existing)
        summary = _summary(request, existing)
        return JSONResponse({"error": f"You already created this {kind[:-1]} repo", **summary}, 409)
    sender.check_namespace(repo_id.partition("/")[0], repo_id)
    private = _private(body)
    repo = store.create(Repo(kind, repo_id, private=bool(private), sdk=body.get("sdk")), sender.name)
    return JSONResponse(_summary(request, repo))


def _summary(request: Request, repo: Repo) -> dict:
    return {"url": f"{base_url(request)}/{repo.url_path}", "name": repo.id, "id": repo.id}


def _kind(body: dict) -> str:
    kind = f"{body.get('type') or 'model'}s"
    if kind not in ("models", "datasets", "spaces"):
        raise bad_request(f"This Hub has models, datasets and spaces, not {kind}")
    return kind


def _private(body: dict) -> bool | None:
    """The visibility in the body, None if there is none."""
    visibility = body.get("visibility")
    if visibility is None:
        return body.get("private")
    if visibility not in VISIBILITIES:
        raise bad_request(f"Invalid visibility {visibility!r}: choose one of {list(VISIBILITIES)}")
    return VISIBILITIES[visibility]


async def delete(request: Request) -> Response:
    """Delete a repository with all its commits."""
    body = await json_body(request)
    sender, store = viewer(request), hub_state(request).store
    repo = store.find(_kind(body), f"{body.get('organization') or sender.name}/{body.get('name')}")
    if repo is None:
        raise repo_not_found(sender.token is not None)
    sender.check_write(repo)
    store.delete(repo)
    return Response()


async def settings(request: Request) -> Response:
    """Change visibility and gating."""
    body = await json_body(request)
    repo = requested_repo(request, "write")
    changes = {} if _private(body) is None else {"private": _private(body)}
    if "gated" in body:
        if body["gated"] not in (False, "auto", "manual"):
            raise bad_request(f"Invalid gated {body['gated']!r}: choose false, 'auto' or 'manual'")
        changes["gated"] = body["gated"]
    hub_state(request).store.save(repo, **changes)
    return JSONResponse(changes)


async def grant(request: Request) -> Response:
    """Give a user access to a gated repository."""
    body = await json_body(request)
    repo, user = requested_repo(request, "write"), body.get("user")
    if user not in hub_state(request).accounts.users:
        raise bad_request(f"There is no user {user!r}")
    hub_state(request).store.save(repo, granted=tuple(sorted({*repo.granted, user})))
    return JSONResponse({})


async def auth_check(request: Request) -> Response:
    """200 if the viewer may read the repository, or with /write write to it."""
    requested_repo(request, "write" if request.scope["path"].endswith("/write") else "content")
    return JSONResponse({})


async def describe(request: Request) -> Response:
    """Describe a repository at a revision; with `expand`, only the named properties."""
    repo, store = requested_repo(request), hub_state(request).store
    commit = store.resolve(repo, path_param(request, "revision", "main"))
    values = _description(store, repo, commit) | {"siblings": _siblings(commit, query_flag(request, "blobs"))}
    chosen = request.query_params.getlist("expand") + request.query_params.getlist("expand[]")
    if chosen:
        values = {key: value for key, value in values.items() if key in ("_id", "id", *chosen)}
    return JSONResponse(values)


def _description(store, repo: Repo, commit: Commit) -> dict:
    try:
        card = metadata.read(store.text(commit, "README.md"))
    except HubError:
        card = None
    card = card or {}
    values = {"_id": repo.created, "id": repo.id, "author": repo.namespace, "sha": commit.oid}
    values |= {"private": repo.private, "gated": repo.gated, "disabled": False, "downloads": 0, "likes": 0}
    values |= {"createdAt": repo.created, "lastModified": commit.date, "tags": _tags(card), "cardData": card}
    if repo.kind == "models":
        values |= {"modelId": repo.id} | {
            key: card[key] for key in ("library_name", "pipeline_tag", "model-index") if card.get(key)
        }
    if repo.kind == "spaces":
        values["sdk"] = card.get("sdk") or repo.sdk
    return values


def _tags(card: dict) -> list[str]:
    tags = card.get("tags") if isinstance(card.get("tags"), list) else []
    tags = [card.get("library_name"), card.get("pipeline_tag"), *tags]
    for key in ("license", "datasets", "base_model"):
        values = card.get(key) or []
        tags += [f"{key.removesuffix('s')}:{value}" for value in (values if isinstance(values, list) else [values])]
    return list(dict.fromkeys(str(tag) for tag in tags if tag))


def _siblings(commit: Commit, blobs: bool) -> list[dict]:
    if not blobs:
        return [{"rfilename": path} for path in commit.files]
    return [
        {"rfilename": path, "size": file.size, "blobId": file.oid, **file.lfs("sha256")}
        for path, file in commit.files.items()
    ]


async def listing(request: Request) -> Response:
    """List repositories of a kind that the viewer may see, filtered by `author`, `search` in the name and tags."""
    sender, store, query = viewer(request), hub_state(request).store, request.query_params
    descriptions = []
    for repo in store.all(path_param(request, "kind")):
        readable = not repo.private or (sender.owns(repo.namespace) and sender.token.allows("read", repo.id))
        matches = (
            query.get("author", repo.namespace) == repo.namespace and query.get("search", "").lower() in repo.id.lower()
        )
        description = _description(store, repo, store.resolve(repo, "main")) if readable and matches else None
        if description is not None and set(query.getlist("filter")) <= set(description["tags"]):
            descriptions.append(description)
    if "limit" in query:
        descriptions = descriptions[: int(query["limit"])] if query["limit"].isdigit() else descriptions
    return paged(request, descriptions, PAGE)
