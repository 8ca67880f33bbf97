"""Repositories on disk: content by its hash, one JSON for each commit, one for what changes.

    blobs/ab/abcd...                            the bytes of every file, named by their sha256
    models|datasets|spaces/NAMESPACE/NAME/
        repo.json                               settings, and the commit of each branch, tag and pull request
        commits/OID.json                        what the commit says, and the tree it leads to
        large/OID                               which large files have been uploaded to this repository

Every file is written aside and then moved, so that a server that is killed leaves the state before or after.
A path in a repository never becomes a path on disk.
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
except ImportError:  # Windows has no such locks
    fcntl = None

from .errors import HubError, bad, no_revision
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
        """Make sure that no other server writes to the folder, and sweep away what a killed one left half written."""
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
        """Let others serve the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def place(self, kind: str, repo_id: str) -> Path:
        """The repository's folder, existing or not; 400 for names that no repository can have."""
        names = repo_id.split("/")
        if kind not in KINDS or len(names) != 2 or not all(NAME.fullmatch(name) for name in names):
            raise bad(f"Invalid repository name: {repo_id!r}")
        return self.folder / kind / names[0] / names[1]

    def find(self, kind: str, repo_id: str) -> Repo | None:
        """The repository, None if there is none."""
        try:
            values = json.loads((self.place(kind, repo_id) / "repo.json").read_text())
        except (FileNotFoundError, HubError):
            return None
        return Repo(**{**values, "granted": tuple(values["granted"]), "pulls": tuple(values["pulls"])})

    def all(self, kind: str) -> Iterator[Repo]:
        """All repositories of a kind by name."""
        for file in sorted((self.folder / kind).glob("*/*/repo.json")):
            yield self.find(kind, f"{file.parent.parent.name}/{file.parent.name}")

    def create(self, repo: Repo, author: str) -> Repo:
        """A new repository with its first commit, as the Hub makes it."""
        content = ATTRIBUTES.encode()
        files = {".gitattributes": self.keep(content)}
        return self.commit(repo, MAIN, None, files, "initial commit", "", author)

    def delete(self, repo: Repo) -> None:
        """The repository is gone at once; contents that others may share stay."""
        aside = self._aside()
        os.replace(self.place(repo.kind, repo.id), aside)
        _read_commit.cache_clear()
        shutil.rmtree(aside)

    def save(self, repo: Repo, **changes) -> Repo:
        """The repository with changes, which are on disk."""
        repo = replace(repo, **changes)
        self._write(self.place(repo.kind, repo.id) / "repo.json", json.dumps(asdict(repo), indent=1).encode())
        return repo

    def commit(self, repo: Repo, ref: str, parent: str | None, files, title: str, message: str, author: str) -> Repo:
        """The repository with one commit more, at `ref`."""
        date = now()
        tree = {path: asdict(file) for path, file in sorted(files.items())}
        values = {"parent": parent, "title": title, "message": message, "author": author, "date": date, "files": tree}
        # the random part keeps two equal commits apart, as git's time stamps do not within a second
        oid = sha1(json.dumps([values, uuid.uuid4().hex]).encode()).hexdigest()
        self._write(self._commit_file(repo, oid), json.dumps(values).encode())
        return self.save(repo, refs={**repo.refs, ref: oid})

    def resolve(self, repo: Repo, revision: str) -> Commit:
        """The commit of a branch, tag, reference, or commit (7 digits are enough); else 404."""
        for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if name in repo.refs:
                return self.read_commit(repo, repo.refs[name])
        if re.fullmatch(r"[0-9a-f]{7,40}", revision):
            found = list((self.place(repo.kind, repo.id) / "commits").glob(f"{revision}*.json"))
            if len(found) == 1:
                return self.read_commit(repo, found[0].stem)
        raise no_revision(revision)

    def read_commit(self, repo: Repo, oid: str) -> Commit:
        """A commit that is known to exist."""
        return _read_commit(self._commit_file(repo, oid))

    def history(self, repo: Repo, commit: Commit) -> Iterator[Commit]:
        """The commit, its parent, and so on."""
        while commit is not None:
            yield commit
            commit = self.read_commit(repo, commit.parent) if commit.parent else None

    def _commit_file(self, repo: Repo, oid: str) -> Path:
        return self.place(repo.kind, repo.id) / "commits" / f"{oid}.json"

    # contents

    def blob(self, digest: str) -> Path:
        """Where the content with this sha256 is, or would be."""
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise bad(f"Not a sha256: {digest!r}")
        return self.folder / "blobs" / digest[:2] / digest

    def keep(self, content: bytes) -> File:
        """The regular file of this content, which is on disk."""
        file = regular_file(content)
        if not self.blob(file.sha256).exists():
            self._write(self.blob(file.sha256), content)
        return file

    def read(self, file: File) -> bytes:
        """A file's content."""
        return self.blob(file.sha256).read_bytes()

    def text(self, commit: Commit, path: str) -> str:
        """A file of the commit as text, "" if it is not there."""
        file = commit.files.get(path)
        return self.read(file).decode(errors="replace") if file else ""

    def receive(self) -> "Incoming":
        """A file to write an upload to."""
        return Incoming(self._aside())

    def keep_large(self, repo: Repo, digest: str, aside: Path) -> None:
        """Take an upload whose sha256 was checked; it then belongs to the repository."""
        target = self.blob(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside, target)
        self._write(self._large(repo, digest), b"")

    def has_large(self, repo: Repo, digest: str) -> bool:
        """Whether the content was uploaded to this very repository: others' contents are not for the asking."""
        return self._large(repo, digest).exists() and self.blob(digest).exists()

    def _large(self, repo: Repo, digest: str) -> Path:
        return self.place(repo.kind, repo.id) / "large" / self.blob(digest).name

    def _aside(self) -> Path:
        return self.folder / "aside" / uuid.uuid4().hex

    def _write(self, file: Path, content: bytes) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = self._aside()
        aside.write_bytes(content)
        os.replace(aside, file)


class Incoming:
    """An upload being written: its length and sha256 so far."""

    def __init__(self, path: Path):
        self.path, self.size, self.hash = path, 0, sha256()
        self.file = path.open("wb")

    def add(self, piece: bytes) -> None:
        """Write some more."""
        self.size += len(piece)
        self.hash.update(piece)
        self.file.write(piece)

    def close(self) -> str:
        """The sha256 of all that came."""
        self.file.close()
        return self.hash.hexdigest()


@functools.lru_cache(maxsize=256)
def _read_commit(file: Path) -> Commit:
    values = json.loads(file.read_text())
    files = {path: File(**entry) for path, entry in values.pop("files").items()}
    return Commit(oid=file.stem, files=files, **values)
