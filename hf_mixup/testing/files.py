"""Files as git sees them: identities, what goes to large file storage, what is ignored, and folders."""

import fnmatch
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .errors import bad

REGULAR_LIMIT = 10 * 2**20  # larger files go to large file storage whatever their name
LARGE_NAMES = (
    "7z arrow bin bz2 ckpt ftz gz h5 joblib lfs.* mlmodel model msgpack npy npz onnx ot parquet pb pickle pkl pt \
pth rar safetensors tar tar.* tflite tgz wasm xz zip zst jpg jpeg png webp wav mp3 mp4".split()
)
ATTRIBUTES = "".join(f"*.{name} filter=lfs diff=lfs merge=lfs -text\n" for name in LARGE_NAMES)


@dataclass(frozen=True)
class File:
    """One file of a commit; `oid` is git's own (for large files the pointer's), `sha256` names the content."""

    size: int
    sha256: str
    oid: str
    large: bool = False

    @property
    def etag(self) -> str:
        """What tells one content from another: git's identity of regular files, the sha256 of large ones."""
        return self.sha256 if self.large else self.oid

    def lfs(self, key: str) -> dict:
        """The entry's "lfs" part, empty for regular files; trees name the hash `oid`, siblings `sha256`."""
        if not self.large:
            return {}
        return {"lfs": {key: self.sha256, "size": self.size, "pointerSize": len(pointer(self.sha256, self.size))}}


def pointer(sha256: str, size: int) -> bytes:
    """The text that git keeps in the place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def git_oid(content: bytes) -> str:
    """What `git hash-object` prints."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def regular_file(content: bytes) -> File:
    """A file that git itself keeps."""
    return File(len(content), hashlib.sha256(content).hexdigest(), git_oid(content))


def large_file(sha256: str, size: int) -> File:
    """A file that git keeps a pointer of."""
    return File(size, sha256, git_oid(pointer(sha256, size)), large=True)


def check_path(path: str) -> str:
    """The path itself, or 400 if git could not keep it or a checkout would put it elsewhere."""
    parts = path.split("/") if isinstance(path, str) else [""]
    forbidden = {"", ".", "..", ".git", ".cache"} & {part.lower() for part in parts}
    if forbidden or any(letter < " " or letter in "\\\x7f" for letter in path) or len(path.encode()) > 4096:
        raise bad(f"Invalid path in repository: {path!r}")
    return path


def check_places(files: Iterable[str]) -> None:
    """400 if one file's name is another one's folder."""
    names = set(files)
    for path in names:
        for folder in folders_of(path):
            if folder in names:
                raise bad(f"{folder!r} cannot be a file and the folder of {path!r}: delete one of them")


def folders_of(path: str) -> list[str]:
    """All folders that a path is in, outermost first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def tree_oid(files: Mapping[str, File], folder: str) -> str:
    """A number that changes with anything inside the folder."""
    lines = sorted(f"{file.oid} {path}\n" for path, file in files.items() if path.startswith(folder + "/"))
    return hashlib.sha1("".join(lines).encode()).hexdigest()


def goes_large(path: str, size: int, sample: bytes, attributes: str) -> bool:
    """Whether a file goes to large file storage: by the repository's .gitattributes, its size, or binary content."""
    lines = [line.split() for line in attributes.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    large = size > REGULAR_LIMIT or b"\0" in sample
    for pattern, *marks in lines:
        if fnmatch.fnmatchcase(path if "/" in pattern else path.rpartition("/")[2], pattern):
            large = "filter=lfs" in marks or (large and "-filter" not in marks)
    return large and size > 0


def ignored(path: str, rules: str) -> bool:
    """Whether a .gitignore with these rules leaves the path out; the last rule that matches decides."""
    answer = False
    for line in rules.splitlines():
        rule = line.strip()
        if not rule or rule.startswith("#"):
            continue
        keep, rule = rule.startswith("!"), rule.removeprefix("!")
        if _ignore_rule(rule).match(path):
            answer = not keep
    return answer


def _ignore_rule(rule: str) -> re.Pattern:
    anywhere = "/" not in rule.rstrip("/")
    inside = rule.endswith("/")  # a folder: the path must go on below it
    text = ""
    for piece in re.findall(r"\*\*/|/\*\*|\*|\?|\[[^\]]*\]|.", rule.strip("/")):
        text += {"**/": "(?:.*/)?", "/**": "/.*", "*": "[^/]*", "?": "[^/]"}.get(piece) or (
            piece if piece.startswith("[") and len(piece) > 2 else re.escape(piece)
        )
    return re.compile(("(?:.*/)?" if anywhere else "") + text + ("/.+" if inside else "(?:/.*)?") + r"\Z")
