"""Parts of stored splits, for training and evaluation."""

from collections import Counter

import datasets
import pytest
from fixtures.cli import recipe_of, record_of, start
from fixtures.streams import rows_of_split

from hf_mixup.data import DataError, load_data


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    """A training split of 100 rows in 4 classes of 10 to 40 rows, and no other split."""
    root = tmp_path / "data"
    root.mkdir()
    labels = [0] * 10 + [1] * 20 + [2] * 30 + [3] * 40
    rows_of_split(range(100), classes=4, labels=labels).to_parquet(root / "train.parquet")
    return root


def images(rows) -> list[bytes]:
    return [cell["bytes"] for cell in rows.cast_column("image", datasets.Image(decode=False))["image"]]


def test_a_fraction_is_held_out_of_each_class_and_always_the_same(folder):
    data, again = (load_data(data=str(folder), eval_fraction=0.1) for _ in range(2))
    assert Counter(data.eval["label"]) == {0: 1, 1: 2, 2: 3, 3: 4} and len(data.train) == 90
    assert data.splits == {"train": 90, "0.1 of train": 10} and data.eval_split == "0.1 of train"
    assert not set(images(data.train)) & set(images(data.eval))
    assert images(data.eval) == images(again.eval)


def test_a_class_of_one_image_is_not_stratified(tmp_path, caplog):
    (tmp_path / "data").mkdir()
    rows_of_split(range(20), classes=2, labels=[0] + [1] * 19).to_parquet(tmp_path / "data" / "train.parquet")
    assert len(load_data(data=str(tmp_path / "data"), eval_fraction=0.2).eval) == 4
    assert "regardless of their class" in caplog.text


def test_slices_are_parts_of_splits(folder):
    data = load_data(data=str(folder), train_split="train[:90%]", eval_split="train[90%:]")
    assert len(data.train) == 90 and data.eval["label"] == [3] * 10
    data = load_data(data=str(folder), train_split="train[5:7]+train[-3:]", eval_split="train[:4]")
    assert data.train["label"] == [0, 0, 3, 3, 3] and data.eval["label"] == [0] * 4


@pytest.mark.parametrize(
    "options, message",
    [
        ({"eval_fraction": 1.5}, "eval_fraction=1.5: give a share between 0 and 1"),
        ({"eval_fraction": 0.1, "eval_split": "train"}, "exclude each other"),
        ({"eval_fraction": 0.1, "streaming": True}, "requires stored data"),
        ({"eval_fraction": 0.001}, "eval_fraction=0.001 of 100 rows is not possible"),
        ({"eval_split": "train[90:"}, "give for example 'train"),
        ({"eval_split": "trian[90%:]"}, "has no split 'trian"),
        ({"eval_split": "train[:10%]", "streaming": True}, "leave out streaming"),
        ({}, "eval_fraction: 0.1"),
        ({"train_split": "train[:10%]", "streaming": True}, "requires stored data: leave out streaming"),
    ],
)
def test_what_is_not_possible_is_refused(folder, options, message):
    with pytest.raises(DataError, match=message):
        load_data(data=str(folder), **options)


def test_a_run_holds_out_its_evaluation_split(folder, tmp_path):
    recipe = recipe_of(tmp_path / "recipe.yaml", folder, eval_fraction=0.2)
    assert start(recipe, "--output_dir", tmp_path / "run") == 0
    record = record_of(tmp_path / "run")
    assert record["recipe"]["eval_fraction"] == 0.2 and record["data"]["splits"] == {"train": 80, "0.2 of train": 20}
