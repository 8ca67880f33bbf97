"""The warning about streams whose batches hold few classes."""

import logging
import re

import datasets
import numpy as np
import pytest
import torch
from fixtures.streams import loader_of, open_stream, rows_of_split, write_tars
from huggingface_hub import constants

from hf_mixup.data.streaming import class_spread
from hf_mixup.data.streaming.class_spread import ClassSpread, ClassWatch, class_numbers

CLASSES, ROWS, BATCH = 20, 2000, 16
ROW = 700  # bytes of a row in memory


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(class_spread, "CHECK_EVERY", 16)


def warnings_of(caplog, loader) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="hf_mixup"):
        for epoch in range(2):
            loader.set_epoch(epoch)
            list(loader)
    return [record.message for record in caplog.records if "sorted by class" in record.message]


@pytest.fixture
def sorted_rows(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    numbers = [row * CLASSES // ROWS for row in range(ROWS)]
    rows_of_split(range(ROWS), classes=CLASSES, labels=numbers).to_parquet(root / "train.parquet", batch_size=20)
    rows_of_split(range(CLASSES), classes=CLASSES).to_parquet(root / "test.parquet")
    return open_stream(root)


def test_a_sorted_stream_warns_once_if_the_memory_is_small(sorted_rows, caplog):
    [message] = warnings_of(caplog, loader_of(sorted_rows, size=BATCH, memory=60 * ROW))
    assert re.search(r"hold [45]\.\d classes on average, and independent draws would hold [89]\.\d", message)
    for way in ("shuffle_memory", "stream_cache", "hf-mixup reshard"):
        assert way in message
    assert not warnings_of(caplog, loader_of(sorted_rows, size=BATCH, memory=2**30))
    assert not warnings_of(caplog, loader_of(sorted_rows, rank=1, world=2, size=BATCH, memory=60 * ROW))


def test_a_sorted_stream_without_row_counts_warns(tmp_path, caplog, monkeypatch):
    tars = {"image_column": "png", "label_column": "cls", "class_names": [str(row) for row in range(100)]}
    data = open_stream(write_tars(tmp_path / "data", (100,)), num_examples=100, **tars)
    monkeypatch.setattr(class_spread, "CHECK_EVERY", 5)
    monkeypatch.setattr("hf_mixup.data.streaming.sequential_sampler.ROWS_PER_READ", 5)
    halves = lambda label: np.array([label // 50])  # noqa: E731
    monkeypatch.setattr("hf_mixup.data.streaming.dataset.class_numbers", halves)
    assert len(warnings_of(caplog, loader_of(data, size=10, memory=5 * ROW))) == 1
    assert not warnings_of(caplog, loader_of(data, size=10, memory=2**30))


def test_the_spread_of_independent_draws_is_its_expectation():
    rng, spread = np.random.default_rng(0), ClassSpread()
    for _ in range(400):
        rows = rng.choice(CLASSES, BATCH, p=np.arange(CLASSES) / np.arange(CLASSES).sum())
        spread.add([np.array([row]) for row in rows])
    assert spread.mean() == pytest.approx(spread.expected(), rel=0.02)


def test_rows_with_several_classes_count_each_of_them():
    spread = ClassSpread()
    for hot in ([[1, 1, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 0]]):
        spread.add([class_numbers(row) for row in torch.tensor(hot, dtype=torch.float32)])
    assert spread.mean() == 2.5
    assert spread.expected() == pytest.approx((1 - 0.5**2) + (1 - 0.25**2) + (1 - 0.75**2))
    assert class_numbers(-1).size == 0 and class_numbers(4).tolist() == [4]


def test_empty_batches_of_a_resumed_epoch_are_not_counted():
    batches = [[], [], *([[np.array([0])]] * 40)]
    assert list(ClassWatch(lambda batch: batch, 1)(iter(batches))) == batches
