"""Routes for reading: the tree of a revision, its entries, and file contents."""

from collections.abc import Iterable
from urllib.parse import parse_qs, quote

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from .errors import HubError, entry_not_found
from .files import parent_folders, tree_oid
from .repo import Commit, Repo
from .store import Store
from .web import (
    PAGE,
    PAGE_EXPANDED,
    check_signature,
    hub_state,
    json_body,
    paged,
    path_param,
    query_flag,
    requested_repo,
    signed_url,
)


async def tree(request: Request) -> Response:
    """The files and folders in a path, with `recursive` also in its subfolders, in pages."""
    repo, store = requested_repo(request), hub_state(request).store
    commit = store.resolve(repo, path_param(request, "revision", "main"))
    top = path_param(request, "path", "").strip("/")
    start = f"{top}/" if top else ""
    below = [path for path in commit.files if path.startswith(start)]
    if top and not below:
        raise entry_not_found(f"{top} does not exist on {path_param(request, 'revision')!r}", commit.oid)
    names = {name for path in below for name in (*parent_folders(path), path) if name.startswith(start)}
    if not query_flag(request, "recursive"):
        names = {name for name in names if "/" not in name[len(start) :]}
    expand = query_flag(request, "expand")
    entries = _entries(store, repo, commit, sorted(names), expand)
    return paged(request, entries, PAGE_EXPANDED if expand else PAGE)


async def paths_info(request: Request) -> Response:
    """The entries of the paths in the body, without those that do not exist."""
    if request.headers.get("content-type", "").startswith("application/json"):
        body = await json_body(request)
        paths, expand = body.get("paths", []), bool(body.get("expand"))
    else:
        form = parse_qs((await request.body()).decode(errors="replace"))
        paths, expand = form.get("paths", []), form.get("expand", [""])[0].lower() == "true"
    repo, store = requested_repo(request), hub_state(request).store
    commit = store.resolve(repo, path_param(request, "revision"))
    known = {*commit.files, *(folder for path in commit.files for folder in parent_folders(path))}
    names = [name for name in dict.fromkeys(str(path).strip("/") for path in paths) if name in known]
    return JSONResponse(_entries(store, repo, commit, names, expand))


def _entries(store: Store, repo: Repo, commit: Commit, names: Iterable[str], expand: bool) -> list[dict]:
    entries = []
    for name in names:
        file = commit.files.get(name)
        if file is None:
            entry = {"type": "directory", "oid": tree_oid(commit.files, name), "size": 0, "path": name}
        else:
            entry = {"type": "file", "oid": file.oid, "size": file.size, "path": name, **file.lfs("oid")}
        if expand:
            entry["lastCommit"] = _last_change(store, repo, commit, name)
        entries.append(entry)
    return entries


def _last_change(store: Store, repo: Repo, commit: Commit, name: str) -> dict:
    """The last commit that changed the file, or a file in the folder."""

    def inside(commit: Commit) -> dict:
        return {path: file for path, file in commit.files.items() if path == name or path.startswith(name + "/")}

    changed = commit
    for older in store.history(repo, commit):
        if inside(older) != inside(commit):
            break
        changed = older
    return {"id": changed.oid, "title": changed.title, "date": changed.date}


async def resolve(request: Request) -> Response:
    """The content of a file of a revision; a redirect for large files; only the headers for HEAD."""
    repo, store = requested_repo(request, "content"), hub_state(request).store
    commit, path = store.resolve(repo, path_param(request, "revision")), path_param(request, "path")
    file = commit.files.get(path)
    if file is None:
        raise entry_not_found(f"Entry not found: {path}", commit.oid)
    name = quote(path.rpartition("/")[2])
    headers = {
        "X-Repo-Commit": commit.oid,
        "ETag": f'"{file.etag}"',
        "Content-Disposition": f"inline; filename*=UTF-8''{name}; filename=\"{name}\"",
    }
    if not file.large:
        return FileResponse(store.blob(file.sha256), headers=headers, media_type="text/plain; charset=utf-8")
    headers |= {"X-Linked-Size": str(file.size), "X-Linked-ETag": f'"{file.sha256}"'}
    headers["Location"] = signed_url(request, f"/_large/{file.sha256}", "GET")
    return Response(f"Found. Redirecting to {headers['Location']}", 302, headers, "text/plain")


async def content(request: Request) -> Response:
    """The content of a large file, for any client with a signed URL."""
    check_signature(request)
    digest = path_param(request, "digest")
    file = hub_state(request).store.blob(digest)
    if not file.exists():
        raise HubError(404, "There is no such content")
    return FileResponse(file, headers={"ETag": f'"{digest}"'}, media_type="application/octet-stream")
