"""Local image folders as people have them: metadata beside classes, one class, odd files, missing folders."""

import datasets
import pytest
from fixtures.streams import loader_of
from PIL import Image

from hf_mixup.data import DataError, Images, Stream, StreamLoader, load_data

STREAMING = pytest.mark.parametrize("streaming", [False, True])


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / path)
    return root


PATHS = [f"{split}/{name}/{row}.png" for split in ("train", "test") for name in ("cat", "dog") for row in range(2)]


def refused(root, **options):
    with pytest.raises(DataError) as caught:
        load_data(data=str(root), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@STREAMING
@pytest.mark.parametrize("place", ["in each split", "on top", "no splits"])
def test_class_folders_give_the_label_if_a_metadata_file_has_none(tmp_path, place, streaming):
    paths = PATHS if place != "no splits" else ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    root = write(tmp_path / "data", *paths)
    for folder in (root / "train", root / "test") if place == "in each split" else (root,):
        listed = [path.relative_to(folder) for path in sorted(folder.rglob("*.png"))]
        lines = ["file_name,caption", *(f"{path},c{number}" for number, path in enumerate(listed))]
        (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    if place == "no splits":
        data = load_data(data=str(root), eval_fraction=0.5)
    else:
        data = load_data(data=str(root), streaming=streaming, num_examples=4 if streaming else None)
    assert data.classes == ["cat", "dog"] and len(data.eval) in (2, 4)
    if place == "in each split":
        assert load_data(data=str(root), label_column="caption").classes == ["c0", "c1", "c2", "c3"]
    if place == "on top":
        assert "metadata.csv is not read, since it is in no folder of a split" in refused(root, label_column="caption")


def test_a_label_in_a_metadata_file_counts(tmp_path):
    root = write(tmp_path / "data", *PATHS)
    for split in ("train", "test"):
        rows = (f'{{"file_name": "{name}/0.png", "label": "{name}ty"}}\n' for name in ("cat", "dog"))
        (root / split / "metadata.jsonl").write_text("".join(rows))
    data = load_data(data=str(root))
    assert data.classes == ["catty", "dogty"] and len(data.train) == 2


@STREAMING
def test_a_folder_without_labels_says_why(tmp_path, streaming):
    one = write(tmp_path / "one", "train/cat/0.png", "test/cat/0.png")
    assert "All images are in one folder, 'cat': this is one class" in refused(one, streaming=streaming)
    flat = write(tmp_path / "flat", "train/0.png", "train/1.png", "test/0.png")
    assert "Not all images are in class folders" in refused(flat, streaming=streaming)
    for split in ("train", "test"):
        (flat / split / "metadata.csv").write_text("file_name,caption\n0.png,x\n")
    said = refused(flat, streaming=streaming)
    assert "no column 'label'" in said and "those of" in said and "metadata.csv" in said


@STREAMING
def test_image_files_of_every_spelling_are_read_and_hidden_files_are_not(tmp_path, streaming):
    endings = ("JPG", "JPEG", "jpeg", "webp", "WebP", "avif", "PNG", "Tif", "bmp", "jp2", "GIF")
    root = tmp_path / "data"
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            write(root, *(f"{split}/{name}/a{number}.{end}" for number, end in enumerate(endings)))
            for junk in (".DS_Store", "Thumbs.db", "._a.png", "notes.txt"):
                (root / split / name / junk).write_text("junk")
    (root / "__MACOSX" / "train" / "cat").mkdir(parents=True)
    (root / "__MACOSX" / "train" / "cat" / "._a.png").write_text("junk")
    data = load_data(data=str(root), streaming=streaming)
    assert data.classes == ["cat", "dog"] and len(data.eval) == 22
    assert len([*data.train] if streaming else data.train) == 22
    Images(data.eval, "image", "label", 8, home=data.home).load()


@STREAMING
def test_a_broken_image_is_named_by_its_file(tmp_path, streaming):
    root = write(tmp_path / "data", *PATHS)
    (root / "train" / "dog" / "1.png").write_bytes(b"broken")
    data = load_data(data=str(root), streaming=streaming)
    with pytest.raises(DataError, match=r"Row 3 of .*data/train/dog/1.png\) cannot be decoded"):
        list(loader_of(data, home=data.home)) if streaming else Images(data.train, "image", "label", 8).load()


def test_folders_without_images_say_so(tmp_path):
    (tmp_path / "void").mkdir()
    assert "doesn't contain any data files" in refused(tmp_path / "void")
    (tmp_path / "void" / "notes.txt").write_text("text")
    assert "holds no images, only text" in refused(tmp_path / "void")
    assert "is a file: give the folder" in refused(tmp_path / "void" / "notes.txt")


@pytest.mark.parametrize("data", ["./data/x", "/data/x", "data/x/", "../x", "a/b/c", "~/no/x"])
def test_a_missing_folder_is_called_a_folder(data):
    said = refused(data)
    assert f"There is no folder {data!r}" in said and "Hub denies" not in said and "looked up" not in said


@pytest.mark.parametrize("data", ["data/x", "pets"])
def test_what_may_be_a_folder_or_a_hub_id_is_called_both(data):
    said = refused(data)
    assert f"no folder {data!r}" in said and "on the Hub" in said


@pytest.mark.parametrize("format", ["images", "parquet"])
@STREAMING
def test_classes_of_the_evaluation_split_that_training_lacks_are_told(tmp_path, caplog, streaming, format):
    root = write(tmp_path / "data", *PATHS, "test/bird/0.png")
    if format == "parquet":
        root = tmp_path / "parquet"
        root.mkdir()
        names = ["bird", "cat", "dog"]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        cell = {"bytes": (tmp_path / "data" / PATHS[0]).read_bytes(), "path": None}
        for split, labels in (("train", [1, 2, 1, 2]), ("test", [0, 1, 2])):
            rows = datasets.Dataset.from_dict({"image": [cell] * len(labels), "label": labels}, features)
            rows.to_parquet(root / f"{split}.parquet")
    data = load_data(data=str(root), streaming=streaming)
    if streaming:
        assert not caplog.records
        options = {"labels": data.labels, "rows": 4, "eval_classes": data.eval_classes}
        loader = StreamLoader(Stream(data.train, "image", "label", 8, **options), 2, seed=0)
        list(loader), list(loader)
    [record] = caplog.records
    assert "1 class(es) of the evaluation split do not occur in the" in record.getMessage()
    assert record.getMessage().split(": ")[1].startswith("bird.")


def test_labels_of_several_classes_that_training_lacks_are_told(tmp_path, caplog):
    root, cell = tmp_path / "data", (write(tmp_path / "x", "0.png") / "0.png").read_bytes()
    root.mkdir()
    names = datasets.List(datasets.ClassLabel(names=["a", "b", "c"]))
    features = datasets.Features({"image": datasets.Image(), "label": names})
    for split, labels in (("train", [[0], [0, 2]]), ("test", [[1, 2], []])):
        rows = {"image": [{"bytes": cell, "path": None}] * 2, "label": labels}
        datasets.Dataset.from_dict(rows, features).to_parquet(root / f"{split}.parquet")
    load_data(data=str(root), labels="classes")
    [record] = caplog.records
    assert ": b. The network" in record.getMessage()
