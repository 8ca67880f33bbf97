"""Files as in git: object ids, large file storage (LFS), .gitignore and folders."""

import fnmatch
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .errors import bad_request

REGULAR_LIMIT = 10 * 2**20  # bytes; larger files are in large file storage regardless of their name
LARGE_NAMES = (
    "7z arrow bin bz2 ckpt ftz gz h5 joblib lfs.* mlmodel model msgpack npy npz onnx ot parquet pb pickle pkl pt \
pth rar safetensors tar tar.* tflite tgz wasm xz zip zst jpg jpeg png webp wav mp3 mp4".split()
)
ATTRIBUTES = "".join(f"*.{name} filter=lfs diff=lfs merge=lfs -text\n" for name in LARGE_NAMES)


@dataclass(frozen=True)
class File:
    """One file of a commit. `oid`: git object id, for a large file its pointer's; `sha256`: of the content."""

    size: int
    sha256: str
    oid: str
    large: bool = False

    @property
    def etag(self) -> str:
        """The ETag: the git object id of a regular file, the sha256 of a large file."""
        return self.sha256 if self.large else self.oid

    def lfs(self, key: str) -> dict:
        """The "lfs" part of an entry, empty for regular files; the hash's `key` is "oid" in trees, else "sha256"."""
        if not self.large:
            return {}
        return {"lfs": {key: self.sha256, "size": self.size, "pointerSize": len(pointer(self.sha256, self.size))}}


def pointer(sha256: str, size: int) -> bytes:
    """The LFS pointer, which git stores instead of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def git_oid(content: bytes) -> str:
    """The git object id, as `git hash-object` prints it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def regular_file(content: bytes) -> File:
    """The `File` of content stored in git."""
    return File(len(content), hashlib.sha256(content).hexdigest(), git_oid(content))


def large_file(sha256: str, size: int) -> File:
    """The `File` of content in large file storage."""
    return File(size, sha256, git_oid(pointer(sha256, size)), large=True)


def check_path(path: str) -> str:
    """Return the path; 400 if git cannot store it or a checkout would write it outside the folder."""
    parts = path.split("/") if isinstance(path, str) else [""]
    forbidden = {"", ".", "..", ".git", ".cache"} & {part.lower() for part in parts}
    if forbidden or any(letter < " " or letter in "\\\x7f" for letter in path) or len(path.encode()) > 4096:
        raise bad_request(f"Invalid path in repository: {path!r}")
    return path


def check_no_conflicts(files: Iterable[str]) -> None:
    """Raise 400 if the path of a file is also the folder of another file."""
    names = set(files)
    for path in names:
        for folder in parent_folders(path):
            if folder in names:
                raise bad_request(f"{folder!r} cannot be a file and the folder of {path!r}: delete one of them")


def parent_folders(path: str) -> list[str]:
    """All folders of a path, outermost first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def tree_oid(files: Mapping[str, File], folder: str) -> str:
    """A hash of all files in the folder."""
    lines = sorted(f"{file.oid} {path}\n" for path, file in files.items() if path.startswith(folder + "/"))
    return hashlib.sha1("".join(lines).encode()).hexdigest()


def is_large(path: str, size: int, sample: bytes, attributes: str) -> bool:
    """Whether a file is in large file storage: by the repository's .gitattributes, its size, or binary content."""
    lines = [line.split() for line in attributes.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    large = size > REGULAR_LIMIT or b"\0" in sample
    for pattern, *marks in lines:
        if fnmatch.fnmatchcase(path if "/" in pattern else path.rpartition("/")[2], pattern):
            large = "filter=lfs" in marks or (large and "-filter" not in marks)
    return large and size > 0


def ignored(path: str, rules: str) -> bool:
    """Whether a .gitignore with these rules excludes the path; the last rule that matches applies."""
    result = False
    for line in rules.splitlines():
        rule = line.strip()
        if not rule or rule.startswith("#"):
            continue
        negated, rule = rule.startswith("!"), rule.removeprefix("!")
        if _ignore_rule(rule).match(path):
            result = not negated
    return result


def _ignore_rule(rule: str) -> re.Pattern:
    anywhere = "/" not in rule.rstrip("/")
    inside = rule.endswith("/")  # a folder: the path must be below it
    text = ""
    for piece in re.findall(r"\*\*/|/\*\*|\*|\?|\[[^\]]*\]|.", rule.strip("/")):
        text += {"**/": "(?:.*/)?", "/**": "/.*", "*": "[^/]*", "?": "[^/]"}.get(piece) or (
            piece if piece.startswith("[") and len(piece) > 2 else re.escape(piece)
        )
    return re.compile(("(?:.*/)?" if anywhere else "") + text + ("/.+" if inside else "(?:/.*)?") + r"\Z")
