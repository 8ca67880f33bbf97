"""Large files on their way in: where to put them, whole or in parts, and whether they have arrived."""

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .errors import HubError, bad
from .repo import Repo
from .store import Incoming, Store
from .web import asked_repo, base, check_signed, part, sent_json, signed, site


async def batch(request: Request) -> Response:
    """Where to put large files: nowhere if the repository has them, in parts if they are long."""
    body = await sent_json(request)
    repo, state = asked_repo(request, "propose"), site(request)
    if body.get("operation") != "upload":
        raise bad(f"Only the operation 'upload' is supported, not {body.get('operation')!r}")
    objects = []
    for entry in body.get("objects", []):
        digest, size = state.store.blob(str(entry.get("oid"))).name, int(entry.get("size", 0))
        answer = {"oid": digest, "size": size}
        if not state.store.has_large(repo, digest):
            parts = size > state.part_size and "multipart" in body.get("transfers", [])
            upload = _parts(request, repo, digest, size) if parts else _single(request, repo, digest)
            verify = {"href": f"{base(request)}/{repo.web}.git/info/lfs/objects/verify"}
            answer["actions"] = {"upload": upload, "verify": verify}
        objects.append(answer)
    return JSONResponse({"transfer": "basic", "objects": objects}, media_type="application/vnd.git-lfs+json")


def _single(request: Request, repo: Repo, digest: str) -> dict:
    return {"href": signed(request, f"/_large/{repo.kind}/{repo.id}/{digest}", "PUT")}


def _parts(request: Request, repo: Repo, digest: str, size: int) -> dict:
    path, length = f"/_large/{repo.kind}/{repo.id}/{digest}", site(request).part_size
    count = -(-size // length)
    header = {f"{number:05}": signed(request, f"{path}/{number}", "PUT") for number in range(1, count + 1)}
    return {"href": signed(request, path, "POST"), "header": {"chunk_size": str(length), **header}}


async def receive(request: Request) -> Response:
    """Takes a large file, or one part of it, from whoever has the link; the hash must be the promised one."""
    check_signed(request)
    store = site(request).store
    digest, number = part(request, "digest"), request.path_params.get("number")
    incoming, check = store.receive(), hashlib.md5(usedforsecurity=False)
    try:
        async for piece in request.stream():
            incoming.add(piece)
            check.update(piece)
        found = incoming.close()
        if number is None:
            _keep(request, digest, found, incoming)
        else:
            incoming.path.replace(_part_file(store, digest, int(number)))
    finally:
        incoming.file.close()
        incoming.path.unlink(missing_ok=True)
    return Response(headers={"ETag": f'"{check.hexdigest()}"'})


def _keep(request: Request, digest: str, found: str, incoming: Incoming) -> None:
    store = site(request).store
    repo = store.find(part(request, "kind"), f"{part(request, 'namespace')}/{part(request, 'name')}")
    if repo is None:
        raise HubError(404, "The repository is gone")
    if found != digest:
        raise bad(f"The content's sha256 is {found}, not {digest} as promised")
    store.keep_large(repo, digest, incoming.path)


def _part_file(store: Store, digest: str, number: int) -> Path:
    return store.folder / "aside" / f"{store.blob(digest).name}-{number}"


async def complete(request: Request) -> Response:
    """Joins the parts of a large file; their hashes and the whole one must be the promised ones."""
    check_signed(request)
    body, store, digest = await sent_json(request), site(request).store, part(request, "digest")
    incoming, used = store.receive(), []
    try:
        for place, entry in enumerate(body.get("parts", []), 1):
            file = _part_file(store, digest, place)
            if entry.get("partNumber") != place or not file.exists():
                raise bad(f"Part {place} has not been uploaded")
            content = file.read_bytes()
            if entry.get("etag", "").strip('"') != hashlib.md5(content, usedforsecurity=False).hexdigest():
                raise bad(f"Part {place} is not the one that was uploaded: its ETag differs")
            incoming.add(content)
            used.append(file)
        _keep(request, digest, incoming.close(), incoming)
    finally:
        incoming.file.close()
        incoming.path.unlink(missing_ok=True)
    for file in used:
        file.unlink(missing_ok=True)
    return JSONResponse({"success": True})


async def verify(request: Request) -> Response:
    """Says yes if the large file is here with the promised size."""
    body = await sent_json(request)
    repo, store = asked_repo(request, "propose"), site(request).store
    digest = str(body.get("oid"))
    if not store.has_large(repo, digest) or store.blob(digest).stat().st_size != body.get("size"):
        raise HubError(404, f"The object {digest} has not been uploaded, or has another size")
    return JSONResponse({})
