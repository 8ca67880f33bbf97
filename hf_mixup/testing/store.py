"""Repositories on disk: file contents by hash, one JSON file per commit, and one per repository.

    blobs/ab/abcd...                            the bytes of every file, named by their sha256
    models|datasets|spaces/NAMESPACE/NAME/
        repo.json                               settings, and the commit of each branch, tag and pull request
        commits/OID.json                        message, author, parent and files of the commit
        large/OID                               marks a large file that was uploaded to this repository

Every write is atomic, so that a killed server leaves the old or the new state. A path in a repository is never used as
a path on disk.
"""

import functools
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, replace
from hashlib import sha1, sha256
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

from .errors import HubError, bad_request, revision_not_found
from .files import ATTRIBUTES, File, regular_file
from .repo import MAIN, Commit, Repo, now

KINDS = ("models", "datasets", "spaces")
NAME = re.compile(r"(?!.*(--|\.\.|\.git\Z))[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")


class Store:
    """Repositories in a folder. One process at a time may write to it."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        (self.folder / "aside").mkdir(parents=True, exist_ok=True)
        self._lock = None

    def lock(self) -> None:
        """Lock the folder and delete temporary files of a killed server; OSError if another server has locked it."""
        self._lock = (self.folder / "lock").open("w")
        if fcntl is not None:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self.unlock()
                raise OSError(f"Another hub serves {self.folder}: stop it, or choose another folder.") from error
        for path in (self.folder / "aside").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def unlock(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            if fcntl is not None:  # closing does not unlock it while a forked process holds a copy
                fcntl.flock(self._lock, fcntl.LOCK_UN)
            self._lock.close()
            self._lock = None

    def repo_folder(self, kind: str, repo_id: str) -> Path:
        """The folder of the repository, which need not exist; 400 for an invalid name."""
        names = repo_id.split("/")
        if kind not in KINDS or len(names) != 2 or not all(NAME.fullmatch(name) for name in names):
            raise bad_request(f"Invalid repository name: {repo_id!r}")
        return self.folder / kind / names[0] / names[1]

    def find(self, kind: str, repo_id: str) -> Repo | None:
        """The repository, None if there is none."""
        try:
            values = json.loads((self.repo_folder(kind, repo_id) / "repo.json").read_text())
        except (FileNotFoundError, HubError):
            return None
        return Repo(**{**values, "granted": tuple(values["granted"]), "pulls": tuple(values["pulls"])})

    def all(self, kind: str) -> Iterator[Repo]:
        """All repositories of a kind, ordered by name."""
        for file in sorted((self.folder / kind).glob("*/*/repo.json")):
            yield self.find(kind, f"{file.parent.parent.name}/{file.parent.name}")

    def create(self, repo: Repo, author: str) -> Repo:
        """Create a repository with its initial commit."""
        content = ATTRIBUTES.encode()
        files = {".gitattributes": self.add(content)}
        return self.commit(repo, MAIN, None, files, "initial commit", "", author)

    def delete(self, repo: Repo) -> None:
        """Delete the repository; contents stay, since other repositories may share them."""
        temporary = self._temporary()
        os.replace(self.repo_folder(repo.kind, repo.id), temporary)
        _read_commit.cache_clear()
        shutil.rmtree(temporary)

    def save(self, repo: Repo, **changes) -> Repo:
        """Write changes to disk, and return the changed repository."""
        repo = replace(repo, **changes)
        self._write(self.repo_folder(repo.kind, repo.id) / "repo.json", json.dumps(asdict(repo), indent=1).encode())
        return repo

    def commit(self, repo: Repo, ref: str, parent: str | None, files, title: str, message: str, author: str) -> Repo:
        """Add a commit to `ref`, and return the changed repository."""
        date = now()
        tree = {path: asdict(file) for path, file in sorted(files.items())}
        values = {"parent": parent, "title": title, "message": message, "author": author, "date": date, "files": tree}
        # the random part makes the ids of two equal commits in the same millisecond different
        oid = sha1(json.dumps([values, uuid.uuid4().hex]).encode()).hexdigest()
        self._write(self._commit_file(repo, oid), json.dumps(values).encode())
        return self.save(repo, refs={**repo.refs, ref: oid})

    def resolve(self, repo: Repo, revision: str) -> Commit:
        """The commit of a branch, tag, ref, or commit id (at least 7 digits); 404 if there is none."""
        for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if name in repo.refs:
                return self.read_commit(repo, repo.refs[name])
        if re.fullmatch(r"[0-9a-f]{7,40}", revision):
            found = list((self.repo_folder(repo.kind, repo.id) / "commits").glob(f"{revision}*.json"))
            if len(found) == 1:
                return self.read_commit(repo, found[0].stem)
        raise revision_not_found(revision)

    def read_commit(self, repo: Repo, oid: str) -> Commit:
        """The commit with this id, which must exist."""
        return _read_commit(self._commit_file(repo, oid))

    def history(self, repo: Repo, commit: Commit) -> Iterator[Commit]:
        """The commit and its ancestors, newest first."""
        while commit is not None:
            yield commit
            commit = self.read_commit(repo, commit.parent) if commit.parent else None

    def _commit_file(self, repo: Repo, oid: str) -> Path:
        return self.repo_folder(repo.kind, repo.id) / "commits" / f"{oid}.json"

    # contents

    def blob(self, digest: str) -> Path:
        """The path of the content with this sha256, which need not exist."""
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise bad_request(f"Not a sha256: {digest!r}")
        return self.folder / "blobs" / digest[:2] / digest

    def add(self, content: bytes) -> File:
        """Store the content of a regular file, and return the file."""
        file = regular_file(content)
        if not self.blob(file.sha256).exists():
            self._write(self.blob(file.sha256), content)
        return file

    def read(self, file: File) -> bytes:
        """A file's content."""
        return self.blob(file.sha256).read_bytes()

    def text(self, commit: Commit, path: str) -> str:
        """A file of the commit as text, "" if it does not exist."""
        file = commit.files.get(path)
        return self.read(file).decode(errors="replace") if file else ""

    def receive(self) -> "Upload":
        """A new upload."""
        return Upload(self._temporary())

    def store_large(self, repo: Repo, digest: str, uploaded: Path) -> None:
        """Move an upload whose sha256 was checked to the contents, and mark it as uploaded to the repository."""
        target = self.blob(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(uploaded, target)
        self._write(self._large(repo, digest), b"")

    def has_large(self, repo: Repo, digest: str) -> bool:
        """Whether the content was uploaded to this repository; its hash gives no access to it elsewhere."""
        return self._large(repo, digest).exists() and self.blob(digest).exists()

    def _large(self, repo: Repo, digest: str) -> Path:
        return self.repo_folder(repo.kind, repo.id) / "large" / self.blob(digest).name

    def _temporary(self) -> Path:
        return self.folder / "aside" / uuid.uuid4().hex

    def _write(self, file: Path, content: bytes) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._temporary()
        temporary.write_bytes(content)
        os.replace(temporary, file)


class Upload:
    """An upload in progress, with its length and sha256 so far."""

    def __init__(self, path: Path):
        self.path, self.size, self.hash = path, 0, sha256()
        self.file = path.open("wb")

    def add(self, piece: bytes) -> None:
        """Write the next bytes."""
        self.size += len(piece)
        self.hash.update(piece)
        self.file.write(piece)

    def close(self) -> str:
        """Close the file, and return the sha256 of its content."""
        self.file.close()
        return self.hash.hexdigest()


@functools.lru_cache(maxsize=256)
def _read_commit(file: Path) -> Commit:
    values = json.loads(file.read_text())
    files = {path: File(**entry) for path, entry in values.pop("files").items()}
    return Commit(oid=file.stem, files=files, **values)
