"""Routes for uploading large files, in one request or in parts."""

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .errors import HubError, bad_request
from .repo import Repo
from .store import Store, Upload
from .web import base_url, check_signature, hub_state, json_body, path_param, requested_repo, signed_url


async def batch(request: Request) -> Response:
    """The upload URLs of large files: none if the repository has the file, several for long files."""
    body = await json_body(request)
    repo, state = requested_repo(request, "propose"), hub_state(request)
    if body.get("operation") != "upload":
        raise bad_request(f"Only the operation 'upload' is supported, not {body.get('operation')!r}")
    objects = []
    for entry in body.get("objects", []):
        digest, size = state.store.blob(str(entry.get("oid"))).name, int(entry.get("size", 0))
        answer = {"oid": digest, "size": size}
        if not state.store.has_large(repo, digest):
            in_parts = size > state.part_size and "multipart" in body.get("transfers", [])
            upload = (
                _multipart_upload(request, repo, digest, size) if in_parts else _single_upload(request, repo, digest)
            )
            verify = {"href": f"{base_url(request)}/{repo.url_path}.git/info/lfs/objects/verify"}
            answer["actions"] = {"upload": upload, "verify": verify}
        objects.append(answer)
    return JSONResponse({"transfer": "basic", "objects": objects}, media_type="application/vnd.git-lfs+json")


def _single_upload(request: Request, repo: Repo, digest: str) -> dict:
    return {"href": signed_url(request, f"/_large/{repo.kind}/{repo.id}/{digest}", "PUT")}


def _multipart_upload(request: Request, repo: Repo, digest: str, size: int) -> dict:
    path, length = f"/_large/{repo.kind}/{repo.id}/{digest}", hub_state(request).part_size
    count = -(-size // length)
    header = {f"{number:05}": signed_url(request, f"{path}/{number}", "PUT") for number in range(1, count + 1)}
    return {"href": signed_url(request, path, "POST"), "header": {"chunk_size": str(length), **header}}


async def receive(request: Request) -> Response:
    """Receive a large file or a part, from any client with a signed URL; 400 if its hash is not the announced one."""
    check_signature(request)
    store = hub_state(request).store
    digest, number = path_param(request, "digest"), request.path_params.get("number")
    incoming, md5 = store.receive(), hashlib.md5(usedforsecurity=False)
    try:
        async for piece in request.stream():
            incoming.add(piece)
            md5.update(piece)
        sha256 = incoming.close()
        if number is None:
            _store(request, digest, sha256, incoming)
        else:
            incoming.path.replace(_part_file(store, digest, int(number)))
    finally:
        incoming.file.close()
        incoming.path.unlink(missing_ok=True)
    return Response(headers={"ETag": f'"{md5.hexdigest()}"'})


def _store(request: Request, digest: str, sha256: str, incoming: Upload) -> None:
    store = hub_state(request).store
    repo = store.find(path_param(request, "kind"), f"{path_param(request, 'namespace')}/{path_param(request, 'name')}")
    if repo is None:
        raise HubError(404, "The repository was deleted")
    if sha256 != digest:
        raise bad_request(f"The content's sha256 is {sha256}, not {digest} as announced")
    store.store_large(repo, digest, incoming.path)


def _part_file(store: Store, digest: str, number: int) -> Path:
    return store.folder / "aside" / f"{store.blob(digest).name}-{number}"


async def complete(request: Request) -> Response:
    """Join the parts of a large file; 400 if a part's hash or the file's is not the announced one."""
    check_signature(request)
    body, store, digest = await json_body(request), hub_state(request).store, path_param(request, "digest")
    incoming, joined = store.receive(), []
    try:
        for number, entry in enumerate(body.get("parts", []), 1):
            file = _part_file(store, digest, number)
            if entry.get("partNumber") != number or not file.exists():
                raise bad_request(f"Part {number} has not been uploaded")
            content = file.read_bytes()
            if entry.get("etag", "").strip('"') != hashlib.md5(content, usedforsecurity=False).hexdigest():
                raise bad_request(f"Part {number} differs from the uploaded one: wrong ETag")
            incoming.add(content)
            joined.append(file)
        _store(request, digest, incoming.close(), incoming)
    finally:
        incoming.file.close()
        incoming.path.unlink(missing_ok=True)
    for file in joined:
        file.unlink(missing_ok=True)
    return JSONResponse({"success": True})


async def verify(request: Request) -> Response:
    """200 if the large file is stored with the announced size, else 404."""
    body = await json_body(request)
    repo, store = requested_repo(request, "propose"), hub_state(request).store
    digest = str(body.get("oid"))
    if not store.has_large(repo, digest) or store.blob(digest).stat().st_size != body.get("size"):
        raise HubError(404, f"The object {digest} has not been uploaded, or has another size")
    return JSONResponse({})
