"""What clients read: the tree of a revision, its entries, and the bytes."""

from collections.abc import Iterable
from urllib.parse import parse_qs, quote

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from .errors import HubError, no_entry
from .files import folders_of, tree_oid
from .repo import Commit, Repo
from .store import Store
from .web import PAGE, PAGE_EXPANDED, asked_repo, check_signed, flag, paged, part, sent_json, signed, site


async def tree(request: Request) -> Response:
    """The files and folders below a path, all the way down with `recursive`, in pages."""
    repo, store = asked_repo(request), site(request).store
    commit = store.resolve(repo, part(request, "revision", "main"))
    top = part(request, "path", "").strip("/")
    start = f"{top}/" if top else ""
    below = [path for path in commit.files if path.startswith(start)]
    if top and not below:
        raise no_entry(f"{top} does not exist on {part(request, 'revision')!r}", commit.oid)
    names = {name for path in below for name in (*folders_of(path), path) if name.startswith(start)}
    if not flag(request, "recursive"):
        names = {name for name in names if "/" not in name[len(start) :]}
    expand = flag(request, "expand")
    entries = _entries(store, repo, commit, sorted(names), expand)
    return paged(request, entries, PAGE_EXPANDED if expand else PAGE)


async def paths_info(request: Request) -> Response:
    """The entries of the paths in the body; those that do not exist are left out."""
    if request.headers.get("content-type", "").startswith("application/json"):
        body = await sent_json(request)
        paths, expand = body.get("paths", []), bool(body.get("expand"))
    else:
        form = parse_qs((await request.body()).decode(errors="replace"))
        paths, expand = form.get("paths", []), form.get("expand", [""])[0].lower() == "true"
    repo, store = asked_repo(request), site(request).store
    commit = store.resolve(repo, part(request, "revision"))
    known = {*commit.files, *(folder for path in commit.files for folder in folders_of(path))}
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
    """The newest commit in which the file, or anything in the folder, differs from the parent's."""

    def inside(commit: Commit) -> dict:
        return {path: file for path, file in commit.files.items() if path == name or path.startswith(name + "/")}

    changed = commit
    for older in store.history(repo, commit):
        if inside(older) != inside(commit):
            break
        changed = older
    return {"id": changed.oid, "title": changed.title, "date": changed.date}


async def resolve(request: Request) -> Response:
    """A file of a revision: its bytes, or for large files the way to them; HEAD gives the headers alone."""
    repo, store = asked_repo(request, "content"), site(request).store
    commit, path = store.resolve(repo, part(request, "revision")), part(request, "path")
    file = commit.files.get(path)
    if file is None:
        raise no_entry(f"Entry not found: {path}", commit.oid)
    name = quote(path.rpartition("/")[2])
    headers = {
        "X-Repo-Commit": commit.oid,
        "ETag": f'"{file.etag}"',
        "Content-Disposition": f"inline; filename*=UTF-8''{name}; filename=\"{name}\"",
    }
    if not file.large:
        return FileResponse(store.blob(file.sha256), headers=headers, media_type="text/plain; charset=utf-8")
    headers |= {"X-Linked-Size": str(file.size), "X-Linked-ETag": f'"{file.sha256}"'}
    headers["Location"] = signed(request, f"/_large/{file.sha256}", "GET")
    return Response(f"Found. Redirecting to {headers['Location']}", 302, headers, "text/plain")


async def content(request: Request) -> Response:
    """The bytes of a large file, for whoever has a link."""
    check_signed(request)
    digest = part(request, "digest")
    file = site(request).store.blob(digest)
    if not file.exists():
        raise HubError(404, "There is no such content")
    return FileResponse(file, headers={"ETag": f'"{digest}"'}, media_type="application/octet-stream")
