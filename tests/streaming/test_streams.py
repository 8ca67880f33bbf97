"""Streams of local files: which bytes are read when, which rows workers and ranks get, and errors of damaged files."""

import threading
from itertools import islice

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import skip_first_batches
from fixtures.streams import (
    MEMORY,
    NAMES,
    SIDE,
    labels,
    loader_of,
    open_stream,
    png,
    rows_of_split,
    stream_of,
    write_parquet,
    write_tars,
)
from huggingface_hub import constants

from hf_mixup.data import DataError, Shards, load_data
from hf_mixup.data.decode import Decoder
from hf_mixup.data.streaming import remote_files


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))


@pytest.fixture
def ranges(monkeypatch):
    """Every byte range that is read from now on, as (file name, start, stop)."""
    seen, read_range = [], remote_files.read_range

    def recorded(path, start, stop, *rest):
        seen.append((path.rpartition("/")[2], start, stop))
        return read_range(path, start, stop, *rest)

    monkeypatch.setattr("hf_mixup.data.streaming.shards.read_range", recorded)
    monkeypatch.setattr(remote_files, "read_range", recorded)
    return seen


def same(one, other):
    assert len(one) == len(other)
    return all(torch.equal(a[key], b[key]) for a, b in zip(one, other) for key in a)


def refused(act, *args, **options):
    with pytest.raises(DataError) as caught:
        act(*args, **options)
    said = str(caught.value)
    assert "\n" not in said and "Traceback" not in said
    return said


TARS = {"image_column": "png", "label_column": "cls", "class_names": NAMES}
KINDS = {
    "parquet": lambda root: open_stream(write_parquet(root, (20, 7, 0, 13), 6)),
    "tars": lambda root: open_stream(write_tars(root, (20, 7, 13)), rows_per_shard=[20, 7, 13], **TARS),
    "counted": lambda root: open_stream(write_tars(root, (20, 7, 13)), rows_per_shard="count", **TARS),
    "sequence": lambda root: open_stream(write_tars(root, (20, 7, 13)), num_examples=40, **TARS),
}


@pytest.fixture(params=KINDS)
def data(request, tmp_path):
    return KINDS[request.param](tmp_path / "data")


def test_ranks_read_disjoint_rows_in_every_format(data):
    assert data.splits["train"] == 40 and len(data.eval) == 6
    orders = []
    for epoch in range(3):
        parts = []
        for rank in range(2):
            loader = loader_of(data, rank, 2)
            loader.set_epoch(epoch)
            batches = list(loader)
            assert len(batches) == len(loader) == 5
            assert all((batch["pixel_values"][:, 0, 0, 0] == batch["labels"]).all() for batch in batches)
            parts.append(labels(batches))
        assert sorted(parts[0] + parts[1]) == list(range(40)) and parts[0] != sorted(parts[0])
        orders.append(parts)
    assert orders[0] != orders[1] != orders[2]


def noisy(image):
    """A transform that draws from the global generator, as torchvision's do."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) ^ torch.randint(256, (3, SIDE, SIDE), dtype=torch.uint8)


def test_worker_processes_do_not_change_the_batches(data):
    alone, two = (list(loader_of(data, workers=workers, transform=noisy)) for workers in (0, 2))
    assert same(alone, two) and len(alone) == 10
    still = list(loader_of(data))
    assert labels(still) == labels(alone) and not same(still, alone)


@pytest.mark.parametrize("start_is_called", [True, False])
@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("memory", [MEMORY, 2**30])
def test_a_resumed_epoch_continues_with_the_next_batch(data, memory, epoch, start_is_called):
    loader = loader_of(data, memory=memory)
    loader.set_epoch(epoch)
    whole = list(loader)
    for skipped in (1, 3, 7):
        if start_is_called:
            loader.start(epoch, skipped)
        rest = skip_first_batches(loader, skipped)
        rest.batch_sampler.batch_sampler.set_epoch(epoch)  # as the Trainer does
        assert same(list(rest), whole[skipped:])
    assert same(list(loader), whole)


def test_rows_that_were_drawn_in_skipped_batches_are_not_read(tmp_path, ranges, monkeypatch):
    data = open_stream(write_parquet(tmp_path / "data", (32, 32), 8))
    loader = loader_of(data)
    whole = labels(loader)
    decoded = []
    decode = Decoder.__call__
    monkeypatch.setattr(Decoder, "__call__", lambda self, *cell: decoded.append(cell) or decode(self, *cell))
    read = []
    for skipped in (0, 4, 13, 15):
        del ranges[:], decoded[:]
        loader.start(0, skipped)
        assert labels(skip_first_batches(loader, skipped)) == whole[4 * skipped :]
        assert len(decoded) == 64 - 4 * skipped
        read.append(len(ranges))
    # footers are cached; a row group at the end of the order may be read for two parts
    assert read[0] <= 9 and sorted(read, reverse=True) == read and read[-1] <= 4


def test_only_the_two_columns_are_read(tmp_path, ranges):
    rows = rows_of_split(range(20)).add_column("masks", [bytes(2**21)] * 20).add_column("name", ["x"] * 20)
    root = write_parquet(tmp_path / "data", (4,))
    rows.select_columns(["image", "masks", "label", "name"]).to_parquet(root / "train-00000-of-00001.parquet")
    data = open_stream(root)
    del ranges[:]
    assert sorted(labels(loader_of(data))) == list(range(20))
    assert sum(stop - start for _, start, stop in ranges) < 2**16


def test_neighbouring_row_groups_are_read_with_one_request(tmp_path, ranges):
    data = open_stream(write_parquet(tmp_path / "data", (96,), 4))
    row = sum(unit.bytes for unit in data.train.units) // 96
    for memory, requests in ((2**30, 1), (40 * row, 24), (128 * 18 * row, 6), (95 * row, 24)):
        loader = loader_of(data, memory=memory)
        loader.batch_sampler.shards.footers.update(data.train.footers)
        del ranges[:]
        assert sorted(labels(loader)) == list(range(96))
        assert requests <= len(ranges) <= requests + 1, memory  # the first unit is read twice, if it is read in parts


def test_a_resident_split_is_read_once(data, ranges):
    loader = loader_of(data, memory=2**30)
    for epoch in range(3):
        loader.set_epoch(epoch)
        assert sorted(labels(loader)) == list(range(40))
        if epoch == 0:
            del ranges[:]
    assert not ranges or not data.train_rows


def test_a_tar_file_is_not_read_from_its_start_for_each_piece(tmp_path, monkeypatch):
    data = open_stream(write_tars(tmp_path / "data", (64,)), rows_per_shard=64, **TARS)
    opens, real = [], Shards.open
    monkeypatch.setattr(Shards, "open", lambda self, *rest: opens.append(rest) or real(self, *rest))
    assert sorted(labels(loader_of(data, memory=8 * 675))) == list(range(64)) and len(opens) == 1


def test_units_are_cached(tmp_path, ranges):
    root = write_parquet(tmp_path / "data", (10, 10))
    first = open_stream(root)
    assert len(ranges) >= 2
    del ranges[:]
    second = open_stream(root)
    assert not ranges and second.train.units == first.train.units
    for file in (tmp_path / "home").rglob("*.json"):
        file.write_text("[")
    assert open_stream(root).train.units == first.train.units and ranges


def test_a_sum_of_splits_can_be_streamed(tmp_path):
    root = write_parquet(tmp_path / "data", (8,))
    rows_of_split(range(50, 58)).to_parquet(root / "validation-00000-of-00001.parquet")
    data = open_stream(root, train_split="train+validation", eval_split="test")
    assert sorted(labels(loader_of(data))) == [*range(8), *range(50, 58)] and data.train_rows == 16


def test_the_streamed_sample_equals_the_loaded_one():
    data, stored = load_data(streaming=True), load_data()
    assert isinstance(data.train, Shards) and data.splits == stored.splits and data.classes == stored.classes
    assert sorted(labels(loader_of(data, size=100))) == sorted(stored.train["label"])


def test_labels_of_a_json_member_are_found_by_their_key(tmp_path):
    root = write_tars(tmp_path / "data", (12,))
    data = open_stream(root, rows_per_shard=12, image_column="png", label_column="json.label", class_names=NAMES)
    assert sorted(labels(loader_of(data))) == list(range(12)) and data.eval["json.label"][:] == [*range(5), 99]


@pytest.mark.parametrize("kind", ["bytes", "path", "dictionary"])
def test_images_can_be_bytes_or_paths_and_labels_dictionaries(tmp_path, kind):
    root = tmp_path / "data"
    root.mkdir()
    for row in range(8):
        (root / f"{row}.png").write_bytes(png(row))
    images = [png(row) if kind == "bytes" else str(root / f"{row}.png") for row in range(8)]
    names = pa.array([f"c{row}" for row in range(8)])
    names = names.dictionary_encode() if kind == "dictionary" else names
    folder = tmp_path / "parquet"
    folder.mkdir()
    for split in ("train", "test"):
        pq.write_table(pa.table({"image": images, "label": names}), folder / f"{split}.parquet")
    data = open_stream(folder)
    assert sorted(labels(loader_of(data))) == list(range(8)) and data.classes[3] == "c3"


# -------------------------------------------------------------------------------------------- known or unknown length


def test_a_stream_of_unknown_length_never_ends(tmp_path):
    data = open_stream(write_tars(tmp_path / "data", (20, 7)), **TARS)
    assert data.train_rows is None
    passes = [list(islice(iter(loader_of(data, rank, 2)), 12)) for rank in range(2)]
    seen = [[labels(batches[start : start + 3]) for start in range(0, 12, 3)] for batches in passes]
    for one, other in zip(*seen):  # 24 of the 27 rows of each pass fill batches on both ranks
        assert len({*one, *other}) == 24
    assert len({tuple(part) for part in seen[0]}) == 4
    for unsized in (loader_of(data), stream_of(data)):
        with pytest.raises(TypeError):
            len(unsized)
    assert "does not fill one batch of 40" in refused(next, iter(loader_of(data, size=40)))


def test_a_folder_of_images_is_read_sequentially(tmp_path):
    for row in range(12):
        for split in ("train", "test"):
            folder = tmp_path / "data" / split / f"class{row % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{row}.png").write_bytes(png(row))
    data = open_stream(tmp_path / "data", num_examples=12)
    batches = list(loader_of(data))
    assert sorted(row for batch in batches for row in batch["pixel_values"][:, 0, 0, 0].tolist()) == list(range(12))
    assert all((batch["pixel_values"][:, 0, 0, 0] % 3 == batch["labels"]).all() for batch in batches)


def test_a_wrong_number_of_rows_is_refused(tmp_path):
    tars, parquet = write_tars(tmp_path / "tars", (20, 7)), write_parquet(tmp_path / "parquet", (9,))
    assert "num_examples=7, but the split 'train'" in refused(open_stream, parquet, num_examples=7)
    data = open_stream(tars, num_examples=32, **TARS)
    assert "num_examples=32, but the stream ended after 6 of 8" in refused(list, loader_of(data))
    for numbers, said in (
        ([20, 6], "00001.tar holds more than 6 rows, but 6"),
        ([20, 9], "00001.tar holds 7 rows, but 9"),
    ):
        assert said in refused(list, loader_of(open_stream(tars, rows_per_shard=numbers, **TARS), size=1))
    assert "has 3 numbers" in refused(open_stream, tars, rows_per_shard=[9, 9, 9], **TARS)
    assert "or 'count'" in refused(open_stream, tars, rows_per_shard="all", **TARS)
    assert "leave it out" in refused(open_stream, parquet, rows_per_shard=9)
    assert "set streaming" in refused(load_data, rows_per_shard=9)
    assert "27 rows do not fill" in refused(loader_of, open_stream(tars, rows_per_shard="count", **TARS), size=28)


# ----------------------------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_is_an_error_or_skipped(tmp_path, workers, caplog):
    data = open_stream(write_parquet(tmp_path / "data", (16, 16), corrupt=[21]))
    said = refused(list, loader_of(data, workers=workers))
    assert (
        "Row 5 of " in said and "train-00001-of-00002.parquet cannot be decoded" in said and "skip_corrupt=True" in said
    )
    loader = loader_of(data, workers=workers, skip_corrupt=True)
    for _ in range(2):
        rows = labels(loader)
        assert len(rows) == 32 and set(rows) == set(range(32)) - {21}
    assert loader.dataset.skipped == 1


def test_a_batch_without_one_good_image_is_refused(tmp_path):
    data = open_stream(write_parquet(tmp_path / "data", (4,), corrupt=range(4)))
    assert "None of the 4 images of a batch" in refused(list, loader_of(data, skip_corrupt=True))


def test_the_error_names_file_and_row_of_a_wrong_label(tmp_path):
    root = write_parquet(tmp_path / "data", (8,))
    rows_of_split(range(8), labels=[0, 1, 2, -1, 4, 5, 6, 7]).to_parquet(root / "train-00000-of-00001.parquet")
    said = refused(list, loader_of(open_stream(root)))
    assert "Row 3 of " in said and "has the label" in said and "without a label" in said


def test_the_error_names_a_truncated_parquet_file(tmp_path):
    file = write_parquet(tmp_path / "data", (8, 8)) / "train-00001-of-00002.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:-9])
    assert "train-00001" in (said := refused(open_stream, tmp_path / "data")) and "its end is missing" in said
    file.write_bytes(content[:4] + bytes(500) + content[504:])
    said = refused(list, loader_of(open_stream(tmp_path / "data")))
    assert "Row groups 0 to 0 of" in said and "train-00001" in said
    data = open_stream(tmp_path / "data")
    file.unlink()
    assert "cannot be read" in refused(list, loader_of(data)) and file.name in refused(list, loader_of(data))


def test_the_error_names_a_truncated_tar_file(tmp_path):
    root = write_tars(tmp_path / "data", (8, 8))
    data = open_stream(root, rows_per_shard=8, **TARS)
    file = root / "train" / "00001.tar"
    file.write_bytes(file.read_bytes()[:5000])
    assert "00001.tar" in refused(list, loader_of(data))


# -------------------------------------------------------------------------------------------------- threads, resuming


def ours():
    return [thread for thread in threading.enumerate() if thread.name.startswith("hf_mixup")]


def test_deleting_an_iterator_ends_its_thread(data):
    iterator = iter(loader_of(data))
    next(iterator)
    del iterator
    assert not ours()
    list(loader_of(data))
    assert not ours()


def test_prefetching_reads_at_most_two_groups_ahead(tmp_path, ranges):
    data = open_stream(write_parquet(tmp_path / "data", (400,), 10))
    del ranges[:]
    iterator = iter(loader_of(data))
    next(iterator)
    for thread in ours():
        thread.join(0.3)
    assert len(ranges) <= 16  # a group of eight for the first batch, and the next one
    del iterator


def test_loading_does_not_draw_from_the_global_generator(data):
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(loader_of(data))
    assert torch.equal(torch.get_rng_state(), state[0]) and (np.random.get_state()[1] == state[1]).all()
