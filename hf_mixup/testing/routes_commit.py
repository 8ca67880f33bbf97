"""Routes for commits: validation of the card, upload mode of files, and the commit."""

import base64
import binascii
import json
import re
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from . import metadata
from .errors import HubError, bad_request, entry_not_found, revision_not_found
from .files import File, check_no_conflicts, check_path, ignored, is_large, large_file
from .repo import Repo, now
from .store import Store
from .web import base_url, hub_state, json_body, path_param, query_flag, requested_repo, viewer

PULL = re.compile(r"refs/pr/(\d+)")


async def validate(request: Request) -> Response:
    """Validate a README.md: warnings, or 400 with errors."""
    body = await json_body(request)
    try:
        warnings, errors = metadata.problems(str(body.get("content", "")), body.get("repoType", "model"))
    except HubError as error:
        warnings, errors = [], [error.message]
    response = {"warnings": [{"message": text} for text in warnings], "errors": [{"message": text} for text in errors]}
    return JSONResponse(response, 400 if errors else 200)


async def preupload(request: Request) -> Response:
    """For each file: large or regular, whether .gitignore excludes it, and its present object id."""
    body = await json_body(request)
    repo, store = requested_repo(request, "propose"), hub_state(request).store
    revision = path_param(request, "revision")
    _check_may_commit(request, repo, revision)
    commit = store.resolve(repo, revision)
    attributes = store.text(commit, ".gitattributes")
    rules = body.get("gitIgnore")
    rules = store.text(commit, ".gitignore") if rules is None else rules
    response = []
    for entry in body.get("files", []):
        path, size = check_path(entry.get("path")), entry.get("size", 0)
        sample = _decoded(entry.get("sample", ""))
        existing = commit.files.get(path)
        mode = "lfs" if is_large(path, size, sample, attributes) else "regular"
        response.append(
            {
                "path": path,
                "uploadMode": mode,
                "shouldIgnore": ignored(path, rules),
                "oid": existing.etag if existing else None,
            }
        )
    return JSONResponse({"files": response})


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise bad_request(f"Not base64: {error}") from error


def _check_may_commit(request: Request, repo: Repo, revision: str) -> None:
    """Raise 403 unless the viewer may write, or commits to a new pull request or to one of their own."""
    pull = PULL.fullmatch(revision)
    author = pull and int(pull[1]) <= len(repo.pulls) and repo.pulls[int(pull[1]) - 1]["author"]
    requested_repo(
        request, "propose" if query_flag(request, "create_pr") or author == viewer(request).name else "write"
    )


async def commit(request: Request) -> Response:
    """Create a commit from lines of JSON: a header, then operations; with create_pr, in a new pull request."""
    lines = _parsed_lines(await request.body())
    repo, state, revision = requested_repo(request, "propose"), hub_state(request), path_param(request, "revision")
    # no await from here to the response, so that no other commit can intervene
    _check_may_commit(request, repo, revision)
    header = lines[0][1]
    title, parent = header.get("summary"), header.get("parentCommit")
    if not title:
        raise bad_request("The commit needs a summary")
    pull = query_flag(request, "create_pr")
    head = state.store.resolve(repo, (pull and parent) or revision)
    ref = _target_ref(repo, revision)
    if parent and not pull and not head.oid.startswith(parent):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    files = dict(head.files)
    for operation, value in lines[1:]:
        OPERATIONS[operation](state.store, repo, files, value)
    check_no_conflicts(files)
    if pull:
        ref = f"refs/pr/{len(repo.pulls) + 1}"
        repo = replace(repo, pulls=(*repo.pulls, {"title": title, "author": viewer(request).name, "date": now()}))
    # if all files are ignored, the commit has no operations and changes nothing
    if len(lines) > 1 or pull:
        message = header.get("description") or ""
        repo = state.store.commit(repo, ref, head.oid, files, title, message, viewer(request).name)
    return JSONResponse(_commit_response(request, repo, ref, pull))


def _commit_response(request: Request, repo: Repo, ref: str, pull: bool) -> dict:
    oid, web = repo.refs[ref], f"{base_url(request)}/{repo.url_path}"
    response = {"success": True, "commitOid": oid, "commitUrl": f"{web}/commit/{oid}", "hookOutput": ""}
    return response | ({"pullRequestUrl": f"{web}/discussions/{len(repo.pulls)}"} if pull else {})


def _target_ref(repo: Repo, revision: str) -> str:
    """The branch or pull request to commit to; 404 for tags and commits."""
    for ref in (f"refs/heads/{revision}", revision):
        if ref in repo.refs and not ref.startswith("refs/tags/"):
            return ref
    raise revision_not_found(revision)


def _parsed_lines(body: bytes) -> list[tuple[str, dict]]:
    try:
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        pairs = [(line["key"], line["value"]) for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise bad_request(f"The commit is not lines of JSON with key and value: {error}") from error
    if [key for key, _ in pairs[:1]] != ["header"] or any(key == "header" for key, _ in pairs[1:]):
        raise bad_request("The first line of the commit, and no other, must be its header")
    for key, value in pairs:
        if key not in ("header", *OPERATIONS) or not isinstance(value, dict):
            raise bad_request(f"Unknown operation {key!r}. Choose one of: {list(OPERATIONS)}")
    return pairs


def _add(store: Store, repo: Repo, files: dict[str, File], value: dict) -> None:
    text = value.get("content", "")
    content = _decoded(text) if value.get("encoding") == "base64" else str(text).encode()
    files[check_path(value.get("path"))] = store.add(content)


def _add_large(store: Store, repo: Repo, files: dict[str, File], value: dict) -> None:
    path, digest = check_path(value.get("path")), str(value.get("oid"))
    if not store.has_large(repo, digest):
        raise bad_request(f"LFS pointer of {path!r} points to a file that has not been uploaded: {digest}")
    size = store.blob(digest).stat().st_size
    if value.get("size", size) != size:
        raise bad_request(f"{path!r} has {size} bytes, not {value['size']} as announced")
    files[path] = large_file(digest, size)


def _delete(store: Store, repo: Repo, files: dict[str, File], value: dict) -> None:
    if files.pop(value.get("path"), None) is None:
        raise entry_not_found(f"A file with this name doesn't exist: {value.get('path')}")


def _delete_folder(store: Store, repo: Repo, files: dict[str, File], value: dict) -> None:
    start = str(value.get("path")).strip("/") + "/"
    inside = [path for path in files if path.startswith(start)]
    if not inside:
        raise entry_not_found(f"A folder with this name doesn't exist: {value.get('path')}")
    for path in inside:
        del files[path]


OPERATIONS = {"file": _add, "lfsFile": _add_large, "deletedFile": _delete, "deletedFolder": _delete_folder}
