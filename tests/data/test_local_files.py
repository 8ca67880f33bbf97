"""Each file of a local folder is in one split, also if classes are called like splits."""

from collections import Counter
from pathlib import Path

import datasets
import pytest
from PIL import Image

from hf_mixup.data import DataError, load_data
from hf_mixup.data.local_files import files_of, fingerprint, local_builder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(root: Path, folders: dict[str, int]) -> Path:
    """Images in folders, given with their numbers."""
    for folder, count in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(root / folder / f"{number}.png")
    return root


def found(root: Path, **options) -> dict[str, Counter]:
    """How many images of each folder are in each split."""
    data = load_data(data=str(root), **options)
    splits = {}
    for name, rows in ((data.train_split, data.train), (data.eval_split, data.eval)):
        cells = rows.cast_column("image", datasets.Image(decode=False))["image"]
        splits[name] = dict(Counter(str(Path(cell["path"]).parent.relative_to(root)) for cell in cells))
    return splits


@pytest.mark.parametrize("top", [("train", "test"), ("Training", "val"), ("train", "dev"), ("train", "valid")])
def test_files_belong_to_the_folder_of_their_split(tmp_path, top):
    classes = ("train", "training_shoe", "test_pattern", "dev", "valid", "validation", "eval")
    train, evaluation = ({f"{split}/{name}": count for name in classes} for split, count in zip(top, (3, 2)))
    splits = found(write(tmp_path / "data", train | evaluation | {"docs/figures": 2}))
    assert list(splits.values()) == [train, evaluation]


def test_classes_at_the_top_that_are_called_like_splits_are_training_images(tmp_path):
    root = write(tmp_path / "data", {"test_pattern": 3, "dev": 2, "cat": 1})
    with pytest.raises(DataError, match=r"has no split to evaluate on, only \['train'\]"):
        load_data(data=str(root))
    builder = local_builder(root)
    builder.download_and_prepare()
    assert builder.as_dataset()["train"].features["label"].names == ["cat", "dev", "test_pattern"]


@pytest.mark.parametrize("streaming", [False, True])
def test_links_to_folders_are_followed_and_any_character_may_be_in_a_path(tmp_path, streaming):
    write(tmp_path / "elsewhere", {"felines": 3})
    root = write(tmp_path / "data [v2] *", {"train/dog": 2, "test/dog": 1, "test/cat": 1})
    before = fingerprint(root)
    (root / "train" / "cat").symlink_to(tmp_path / "elsewhere" / "felines")
    (root / "train" / "cat" / "loop").symlink_to(root)
    assert fingerprint(root) != before
    options = {"streaming": True, "num_examples": 5} if streaming else {}
    data = load_data(data=str(root), **options)
    assert data.classes == ["cat", "dog"] and data.splits["train"] == 5
    if not streaming:
        assert found(root) == {"train": {"train/cat": 3, "train/dog": 2}, "test": {"test/dog": 1, "test/cat": 1}}


def test_a_fingerprint_changes_with_a_file_behind_a_link(tmp_path):
    write(tmp_path / "elsewhere", {"cat": 2})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(tmp_path / "elsewhere")
    before, files = fingerprint(tmp_path / "data"), files_of(tmp_path / "data")
    assert len(files) == 2 and fingerprint(tmp_path / "data") == before
    (tmp_path / "elsewhere" / "cat" / "0.png").write_bytes(b"other")
    assert fingerprint(tmp_path / "data") != before


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("folders", [False, True])
def test_parquet_files_in_such_folders(tmp_path, folders, streaming):
    root = tmp_path / "data[1]"
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["train", "test"])})
    cells = [{"bytes": (write(tmp_path / "one", {"x": 1}) / "x" / "0.png").read_bytes(), "path": None}] * 4
    for split, rows in (("train", 4), ("test", 2)):
        table = datasets.Dataset.from_dict({"image": cells[:rows], "label": [0, 1, 0, 1][:rows]}, features=features)
        file = root / (f"{split}/data-0.parquet" if folders else f"{split}-00000-of-00001.parquet")
        file.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(file)
    data = load_data(data=str(root), streaming=streaming)
    assert data.splits == {"train": 4, "test": 2} and data.classes == ["train", "test"]


def test_a_card_that_names_files_is_followed(tmp_path):
    root = write(tmp_path / "data", {"train/cat": 2, "test/cat": 1})
    (root / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: '*/*/*.png'\n---\n")
    assert local_builder(root) is None
    (root / "README.md").write_text("# A data set\nconfigs: none\n")
    assert local_builder(root) is not None
