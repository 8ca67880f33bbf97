"""The cache of a stream's encoded images on the disk: shared, bounded, and never wrong."""

import os

import datasets
import pytest
from filelock import FileLock
from fixtures.streams import MEMORY, NAMES, labels, loader_of, open_stream, write_parquet, write_tars
from huggingface_hub import constants

from hf_mixup.data import DataError
from hf_mixup.data.streaming.disk_cache import DiskCache, StoredRows
from hf_mixup.data.streaming.prefetch import parallel_map
from hf_mixup.data.streaming.shards import Shards

TARS = {"image_column": "png", "label_column": "cls", "class_names": NAMES, "rows_per_shard": "count"}
ROWS = [
    ({"bytes": b"abc", "path": "1.png"}, 3),
    (None, None),
    ({"bytes": None, "path": "x"}, [1, 2]),
    ({"bytes": b"", "path": None}, "é"),
]


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))


@pytest.fixture(params=["parquet", "tars"])
def data(request, tmp_path):
    if request.param == "parquet":
        return open_stream(write_parquet(tmp_path / "data", (20, 20), 5))
    return open_stream(write_tars(tmp_path / "data", (20, 20)), **TARS)


@pytest.fixture
def opened(monkeypatch):
    """The units that are opened from now on."""
    seen, real = [], Shards.open
    monkeypatch.setattr(Shards, "open", lambda self, unit, *rest: seen.append(unit) or real(self, unit, *rest))
    return seen


def epochs(loader, count=3):
    for epoch in range(count):
        loader.set_epoch(epoch)
        yield labels(loader)


@pytest.mark.parametrize("size", [2**30, 2500])
def test_processes_and_runs_share_what_was_read(data, opened, tmp_path, size):
    """With a size below that of the split, what does not fit is read again."""
    cache = (str(tmp_path / "images"), size)
    parts = list(zip(*(epochs(loader_of(data, rank, 2, cache=cache)) for rank in range(2))))
    for part in parts:
        assert sorted(part[0] + part[1]) == list(range(40))
    units, first = len(data.train.merged(MEMORY // 128).units), len(opened)
    assert first == units if size == 2**30 else units < first
    assert list(zip(*(epochs(loader_of(data, rank, 2, cache=cache)) for rank in range(2)))) == parts
    assert len(opened) == first if size == 2**30 else first < len(opened) < 2 * first
    stored = [path for path in (tmp_path / "images").rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in stored) <= size


def test_a_split_that_fits_into_the_cache_is_shuffled_as_one_that_fits_into_memory(data, tmp_path):
    cached = list(epochs(loader_of(data, cache=(str(tmp_path / "images"), 2**30))))
    assert cached[1:] == list(epochs(loader_of(data, memory=2**30)))[1:]


def test_stored_rows_are_those_that_were_read(tmp_path):
    cache = DiskCache(tmp_path, 10_000, "key")
    assert list(cache.rows("unit", lambda: ROWS)) == ROWS
    again = cache.rows("unit", lambda: pytest.fail("read again"))
    assert isinstance(again, StoredRows) and list(again) == ROWS and len(again) == 4
    assert list(DiskCache(tmp_path, 10_000, "other").rows("unit", lambda: ROWS[:1])) == ROWS[:1]


@pytest.mark.parametrize("content", [b"", b"123", b"\x05" + bytes(7) + b"{'a':", b"\xff" * 30])
def test_a_damaged_file_is_read_again(tmp_path, content):
    cache = DiskCache(tmp_path, 10_000, "key")
    cache.rows("unit", lambda: ROWS)
    [file] = tmp_path.rglob("*.rows")
    whole = file.read_bytes()
    for damaged in (content, whole[:-1], whole + b"1"):
        file.write_bytes(damaged)
        assert list(cache.rows("unit", lambda: ROWS)) == ROWS and file.read_bytes() == whole


def test_splits_that_were_used_longest_ago_are_deleted_first(tmp_path):
    rows = [({"bytes": bytes(1000), "path": None}, 0)]
    for number, key in enumerate("abc"):
        DiskCache(tmp_path, 4500, key).rows("unit", lambda: rows)
        os.utime(DiskCache(tmp_path, 4500, key).folder, (number, number))
    cache = DiskCache(tmp_path, 4500, "d")
    for unit in range(5):
        assert list(cache.rows(str(unit), lambda: rows)) == rows
    assert [DiskCache(tmp_path, 1, key).folder.exists() for key in "abc"] == [False] * 3
    assert len(list(tmp_path.rglob("*.rows"))) == 4  # the fifth does not fit


def test_threads_and_splits_share_one_folder_without_exceeding_its_size(tmp_path):
    rows = [({"bytes": bytes(1000), "path": None}, 0)]
    size, numbers, used = 9000, range(60), []

    def store(number: int) -> None:
        found = DiskCache(tmp_path, size, "abc"[number % 3]).rows(str(number // 3), lambda: rows)
        assert list(found) == rows
        with FileLock(tmp_path / "space.lock"):
            used.append(sum(path.stat().st_size for path in tmp_path.glob("*/*")))

    parallel_map(store, [*numbers, *numbers], 16)
    assert len(used) == 120 and max(used) <= size


def test_files_that_a_killed_process_left_unfinished_are_deleted(tmp_path):
    cache = DiskCache(tmp_path, 10_000, "key")
    cache.rows("unit", lambda: ROWS)
    (cache.folder / ".unit.rows.1.new").write_bytes(bytes(9900))
    assert list(cache.rows("other", lambda: ROWS)) == ROWS
    assert [path.suffix for path in cache.folder.iterdir()] == [".rows"] * 2


def test_what_cannot_be_stored_is_an_error_only_where_it_must_be_stored(tmp_path):
    rows = [({"bytes": bytes(1000), "path": None}, b"label")]
    cache = DiskCache(tmp_path, 10_000, "key")
    assert cache.rows("unit", lambda: rows) == rows
    with pytest.raises(DataError, match="cannot hold all rows, though stream_cache_size is 10,000 bytes"):
        cache.rows("unit", lambda: rows, required=True)


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="stream_cache .*file.* cannot be used"):
        DiskCache(tmp_path / "file", 10_000, "key").rows("unit", lambda: ROWS)
