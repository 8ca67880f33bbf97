"""The files of a local folder: their fingerprint, and which split each belongs to.

`datasets` finds splits by words anywhere in a path, so that an image of the class `train` or `test_pattern` may be in
two splits or in a wrong one. Where the top folders are splits, a file belongs to the folder it is in.
"""

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilder
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from datasets.packaged_modules.parquet.parquet import Parquet
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from .image_paths import check_path

# For the fingerprint of a folder: bytes read from each end of a file, and number of files that are read.
FINGERPRINT_BYTES = 2**16
FINGERPRINT_FILES = 20_000
SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev")}
SPLITS["test"] = ("test", "testing", "eval", "evaluation")
SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}
BUILDERS = {"images": ImageFolder, "parquet": Parquet, "tars": WebDataset}
IMAGE_SUFFIXES = {*ImageFolder.EXTENSIONS, ".avif", ".avifs", ".qoi"}
LABEL = "label"  # the column of ImageFolder that holds the class folders
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


def local_builder(folder: Path, label: str | None = None) -> datasets.DatasetBuilder | None:
    """The builder of `datasets` for a folder, each file in one split; None if `datasets` finds the splits itself.

    It does for folders with a data set card that names files, and for other files than images, parquet and tar files.
    The class folders of images are the column `label`, unless a metadata file has this column.
    """
    if _names_files(folder / "README.md"):
        return None
    files = files_of(folder)
    kind = _kind(files)
    splits = _splits(folder, files, kind) if kind else None
    if not splits:
        return None
    options = {}
    if kind == "images":
        metadata = [file for part in splits.values() for file in part if _is_metadata(file)]
        depths = _depths(folder, splits)
        if not metadata and depths == {0}:
            options = {"drop_labels": True}  # the folders of the splits would be the classes
        if label == LABEL and depths == {1} and not any(LABEL in _columns(file) for file in metadata):
            splits = {split: [file for file in part if not _is_metadata(file)] for split, part in splits.items()}
    lists = {split: _data_files(splits[split]) for split in SPLITS if splits.get(split)}
    builder = BUILDERS[kind](base_path=str(folder), data_files=DataFilesDict(lists), **options)
    if kind == "images":
        builder.EXTENSIONS = sorted(IMAGE_SUFFIXES)
    return builder


def _is_metadata(file: Path) -> bool:
    return file.name.lower() in METADATA


def _depths(folder: Path, splits: dict[str, list[Path]]) -> set[int]:
    """The numbers of folders between the images and the folder of their split."""
    paths = [file.relative_to(folder).parts for part in splits.values() for file in part if not _is_metadata(file)]
    in_splits = all(path[0].lower() in SPLIT_OF for path in paths if len(path) > 1)
    return {len(path) - 1 - in_splits for path in paths}


def _columns(metadata: Path) -> list[str]:
    """The columns of a metadata file; none if it cannot be read."""
    with suppress(OSError, ValueError, StopIteration, csv.Error, pa.ArrowException):
        if metadata.suffix.lower() == ".parquet":
            return pq.read_schema(metadata).names
        with metadata.open(newline="", encoding="utf-8-sig") as file:
            return next(csv.reader(file)) if metadata.suffix.lower() == ".csv" else list(json.loads(file.readline()))
    return []


def label_advice(builder: datasets.DatasetBuilder) -> str:
    """Why a folder of images may have no column of labels, for a message; empty for other data."""
    if not isinstance(builder, FolderBasedBuilder):
        return ""
    files = [str(file) for files in (builder.config.data_files or {}).values() for file in files]
    if metadata := [file for file in files if os.path.basename(file).lower() in METADATA]:
        return f" Its columns are those of {metadata[0]}, not the class folders: add the labels to it, or delete it."
    if unread := [path for name in METADATA if os.path.isfile(path := os.path.join(builder.base_path or "", name))]:
        return f" {unread[0]} is not read, since it is in no folder of a split: put such a file into each of them."
    folders = sorted({os.path.basename(os.path.dirname(file)) for file in files})
    if len(folders) == 1:
        return f" All images are in one folder, {folders[0]!r}: this is one class, and two or more are needed."
    return " Not all images are in class folders: expected is train/<class>/<image>, with two classes or more."


def check_card(folder: Path) -> None:
    """DataError if the data set card of a folder names files outside it: nothing of them is read."""
    for name in ("README.md", ".huggingface.yaml"):
        card = folder / name
        text = card.read_text(errors="replace") if card.is_file() else ""
        if name == "README.md":
            text = text.split("\n---", 1)[0] if text.startswith("---") else ""
        with suppress(yaml.YAMLError):
            block = yaml.safe_load(text)
            for pattern in _texts(block.get("configs") if isinstance(block, dict) else None, set()):
                outside = "://" in pattern or "::" in pattern
                check_path(pattern if outside else os.path.join(folder, pattern), str(folder), str(card))


def _texts(value: object, seen: set[int]) -> Iterator[str]:
    """All texts in nested lists and mappings; a part that occurs again, as an alias of YAML, is read once."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict) and id(value) not in seen:
        seen.add(id(value))
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item, seen)


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
    if _is_metadata(file):
        return None
    if name.endswith((".parquet", ".parq")):
        return "parquet"
    if name.endswith((".tar", ".tar.gz", ".tgz")):
        return "tars"
    return "images" if file.suffix.lower() in IMAGE_SUFFIXES else None


def _splits(folder: Path, files: list[Path], kind: str) -> dict[str, list[Path]] | None:
    """The files of each split; None if neither the top folders nor the names of the files say it."""
    used = [file for file in files if _kind_of(file) == kind or (kind == "images" and _is_metadata(file))]
    tops = {_top(folder, file) for file in used} - {""}
    known = {top: SPLIT_OF[top.lower()] for top in tops if top.lower() in SPLIT_OF}
    if known and ("train" in known.values() or len(known) == len(tops)):
        return _grouped((known.get(_top(folder, file)), file) for file in used)
    if kind == "images" and tops and all(_top(folder, file) or _is_metadata(file) for file in used):
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
