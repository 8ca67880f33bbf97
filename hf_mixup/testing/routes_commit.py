"""Commits: is the card valid, which files go where, and the commit itself."""

import base64
import binascii
import json
import re
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from . import metadata
from .errors import HubError, bad, no_entry, no_revision
from .files import File, check_path, check_places, goes_large, ignored, large_file
from .repo import Repo, now
from .store import Store
from .web import asked_repo, base, flag, part, sent_json, site, viewer

PULL = re.compile(r"refs/pr/(\d+)")


async def validate(request: Request) -> Response:
    """Warnings about a README.md; 400 with the errors if there are any."""
    body = await sent_json(request)
    try:
        warnings, errors = metadata.problems(str(body.get("content", "")), body.get("repoType", "model"))
    except HubError as error:
        warnings, errors = [], [error.message]
    answer = {"warnings": [{"message": text} for text in warnings], "errors": [{"message": text} for text in errors]}
    return JSONResponse(answer, 400 if errors else 200)


async def preupload(request: Request) -> Response:
    """For each file: large or regular, whether .gitignore leaves it out, and what is there now."""
    body = await sent_json(request)
    repo, store = asked_repo(request, "propose"), site(request).store
    revision = part(request, "revision")
    _check_may_commit(request, repo, revision)
    commit = store.resolve(repo, revision)
    attributes = store.text(commit, ".gitattributes")
    rules = body.get("gitIgnore")
    rules = store.text(commit, ".gitignore") if rules is None else rules
    answer = []
    for entry in body.get("files", []):
        path, size = check_path(entry.get("path")), entry.get("size", 0)
        sample = _decoded(entry.get("sample", ""))
        before = commit.files.get(path)
        mode = "lfs" if goes_large(path, size, sample, attributes) else "regular"
        answer.append(
            {
                "path": path,
                "uploadMode": mode,
                "shouldIgnore": ignored(path, rules),
                "oid": before.etag if before else None,
            }
        )
    return JSONResponse({"files": answer})


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise bad(f"Not base64: {error}") from error


def _check_may_commit(request: Request, repo: Repo, revision: str) -> None:
    """403 unless the viewer may commit there: to a pull request of their own, to a new one, or with write access."""
    pull = PULL.fullmatch(revision)
    own = pull and int(pull[1]) <= len(repo.pulls) and repo.pulls[int(pull[1]) - 1]["author"]
    asked_repo(request, "propose" if flag(request, "create_pr") or own == viewer(request).name else "write")


async def commit(request: Request) -> Response:
    """One commit from lines of JSON: a header, then operations in their order; with create_pr, a pull request."""
    lines = _lines(await request.body())
    repo, state, revision = asked_repo(request, "propose"), site(request), part(request, "revision")
    # from here to the answer nothing waits, so that no other commit can come between
    _check_may_commit(request, repo, revision)
    header = lines[0][1]
    title, parent = header.get("summary"), header.get("parentCommit")
    if not title:
        raise bad("The commit needs a summary")
    pull = flag(request, "create_pr")
    head = state.store.resolve(repo, (pull and parent) or revision)
    ref = _target(repo, revision)
    if parent and not pull and not head.oid.startswith(parent):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    files = dict(head.files)
    for operation, value in lines[1:]:
        OPERATIONS[operation](state.store, repo, files, value)
    check_places(files)
    if pull:
        ref = f"refs/pr/{len(repo.pulls) + 1}"
        repo = replace(repo, pulls=(*repo.pulls, {"title": title, "author": viewer(request).name, "date": now()}))
    # a commit of ignored files alone arrives without operations and changes nothing
    if len(lines) > 1 or pull:
        message = header.get("description") or ""
        repo = state.store.commit(repo, ref, head.oid, files, title, message, viewer(request).name)
    return JSONResponse(_committed(request, repo, ref, pull))


def _committed(request: Request, repo: Repo, ref: str, pull: bool) -> dict:
    oid, web = repo.refs[ref], f"{base(request)}/{repo.web}"
    answer = {"success": True, "commitOid": oid, "commitUrl": f"{web}/commit/{oid}", "hookOutput": ""}
    return answer | ({"pullRequestUrl": f"{web}/discussions/{len(repo.pulls)}"} if pull else {})


def _target(repo: Repo, revision: str) -> str:
    """The branch or pull request that a commit moves; tags and commits stay where they are."""
    for ref in (f"refs/heads/{revision}", revision):
        if ref in repo.refs and not ref.startswith("refs/tags/"):
            return ref
    raise no_revision(revision)


def _lines(body: bytes) -> list[tuple[str, dict]]:
    try:
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        pairs = [(line["key"], line["value"]) for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise bad(f"The commit is not lines of JSON with key and value: {error}") from error
    if [key for key, _ in pairs[:1]] != ["header"] or any(key == "header" for key, _ in pairs[1:]):
        raise bad("The commit's first line, and no other, must be its header")
    for key, value in pairs:
        if key not in ("header", *OPERATIONS) or not isinstance(value, dict):
            raise bad(f"Unknown operation {key!r}. Choose one of: {list(OPERATIONS)}")
    return pairs


def _add(store: Store, repo: Repo, files: dict[str, File], value: dict) -> None:
    text = value.get("content", "")
    content = _decoded(text) if value.get("encoding") == "base64" else str(text).encode()
    files[check_path(value.get("path"))] = store.keep(content)


def _add_large(store: Store, repo: Repo, files: dict[str, File], value: dict) -> None:
    path, digest = check_path(value.get("path")), str(value.get("oid"))
    if not store.has_large(repo, digest):
        raise bad(f"LFS pointer of {path!r} points to a file that has not been uploaded: {digest}")
    size = store.blob(digest).stat().st_size
    if value.get("size", size) != size:
        raise bad(f"{path!r} has {size} bytes, not {value['size']} as promised")
    files[path] = large_file(digest, size)


def _delete(store: Store, repo: Repo, files: dict[str, File], value: dict) -> None:
    if files.pop(value.get("path"), None) is None:
        raise no_entry(f"A file with this name doesn't exist: {value.get('path')}")


def _delete_folder(store: Store, repo: Repo, files: dict[str, File], value: dict) -> None:
    start = str(value.get("path")).strip("/") + "/"
    inside = [path for path in files if path.startswith(start)]
    if not inside:
        raise no_entry(f"A folder with this name doesn't exist: {value.get('path')}")
    for path in inside:
        del files[path]


OPERATIONS = {"file": _add, "lfsFile": _add_large, "deletedFile": _delete, "deletedFolder": _delete_folder}
