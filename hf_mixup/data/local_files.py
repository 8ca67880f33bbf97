"""The files of a local folder: their fingerprint, and which split each belongs to.

`datasets` finds splits by words anywhere in a path, so that an image of the class `train` or `test_pattern` may be in
two splits or in a wrong one. Where the top folders are splits, a file belongs to the folder it is in.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import datasets
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from datasets.packaged_modules.parquet.parquet import Parquet
from datasets.packaged_modules.webdataset.webdataset import WebDataset

# For the fingerprint of a folder: bytes read from each end of a file, and number of files that are read.
FINGERPRINT_BYTES = 2**16
FINGERPRINT_FILES = 20_000
SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev")}
SPLITS["test"] = ("test", "testing", "eval", "evaluation")
SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}
BUILDERS = {"images": ImageFolder, "parquet": Parquet, "tars": WebDataset}
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
MAGIC = re.compile(r"[*?[]")  # characters of file name patterns


def files_of(folder: Path) -> list[Path]:
    """All files in a folder, sorted, also in folders that are links; not those that are hidden."""
    return sorted(_walk(folder, set()))


def _walk(folder: Path, above: set[Path]) -> Iterator[Path]:
    real = folder.resolve()
    if real in above:  # a link to a folder that contains it
        return
    for entry in os.scandir(folder):
        if entry.name.startswith((".", "__")):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), {*above, real})
        elif entry.is_file():
            yield Path(entry.path)


def fingerprint(folder: Path) -> str:
    """16 hexadecimal digits that change with the names, sizes or content of the files in a folder.

    Only both ends of each file are read, and in very large folders only the first files, so that a folder of a million
    images takes minutes at most.
    """
    digest = hashlib.sha256()
    for number, path in enumerate(files_of(folder)):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        if number < FINGERPRINT_FILES:
            with path.open("rb") as file:
                digest.update(file.read(FINGERPRINT_BYTES))
                file.seek(max(FINGERPRINT_BYTES, size - FINGERPRINT_BYTES))
                digest.update(file.read())
    return digest.hexdigest()[:16]


def local_builder(folder: Path) -> datasets.DatasetBuilder | None:
    """The builder of `datasets` for a folder, each file in one split; None if `datasets` finds the splits itself.

    It does for folders with a data set card that names files, and for other files than images, parquet and tar files.
    """
    if _names_files(folder / "README.md"):
        return None
    files = files_of(folder)
    kind = _kind(files)
    splits = _splits(folder, files, kind) if kind else None
    if not splits:
        return None
    lists = {split: _data_files(splits[split]) for split in SPLITS if split in splits}
    return BUILDERS[kind](base_path=str(folder), data_files=DataFilesDict(lists))


def _names_files(card: Path) -> bool:
    text = card.read_text(errors="replace") if card.is_file() else ""
    return text.startswith("---") and re.search(r"^(configs|dataset_info):", text, re.MULTILINE) is not None


def _kind(files: list[Path]) -> str | None:
    """The kind of most of the files."""
    counts = dict.fromkeys(BUILDERS, 0)
    for file in files:
        if kind := _kind_of(file):
            counts[kind] += 1
    kind = max(counts, key=counts.get)
    return kind if counts[kind] else None


def _kind_of(file: Path) -> str | None:
    name = file.name.lower()
    if name in METADATA:
        return None
    if name.endswith((".parquet", ".parq")):
        return "parquet"
    if name.endswith((".tar", ".tar.gz", ".tgz")):
        return "tars"
    return "images" if file.suffix.lower() in ImageFolder.EXTENSIONS else None


def _splits(folder: Path, files: list[Path], kind: str) -> dict[str, list[Path]] | None:
    """The files of each split; None if neither the top folders nor the names of the files say it."""
    used = [file for file in files if _kind_of(file) == kind or (kind == "images" and file.name.lower() in METADATA)]
    tops = {_top(folder, file) for file in used} - {""}
    known = {top: SPLIT_OF[top.lower()] for top in tops if top.lower() in SPLIT_OF}
    if known and ("train" in known.values() or len(known) == len(tops)):
        return _grouped((known.get(_top(folder, file)), file) for file in used)
    if kind == "images" and tops and all(_top(folder, file) for file in used):
        return {"train": used}  # the top folders are classes
    if kind != "images" and (MAGIC.search(str(folder)) or any(path.is_symlink() for path in folder.iterdir())):
        return _grouped((_split_in_name(file.name), file) for file in used)
    return None


def _top(folder: Path, file: Path) -> str:
    """The folder below `folder` that contains a file; empty if there is none."""
    parts = file.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else ""


def _split_in_name(name: str) -> str:
    """The split that a file name begins with; train if it begins with none."""
    return SPLIT_OF.get(re.split(r"[^a-z]", name.lower())[0], "train")


def _grouped(pairs: Iterator[tuple[str | None, Path]]) -> dict[str, list[Path]]:
    splits = {}
    for split, file in pairs:
        if split is not None:
            splits.setdefault(split, []).append(file)
    return splits


def _data_files(files: list[Path]) -> DataFilesList:
    stats = [file.stat() for file in files]
    return DataFilesList([str(file) for file in files], [(f"{stat.st_mtime_ns} {stat.st_size}",) for stat in stats])
