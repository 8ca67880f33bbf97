"""Labels of every kind: stored and streamed, of two splits, and what is refused."""

import io
import json
import tarfile
import warnings

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, List, Value
from fixtures.streams import SIDE, png
from huggingface_hub import constants
from torch.utils.data import DataLoader

from hf_mixup.data import DataError, Images, Stream, StreamLoader, collate, load_data
from hf_mixup.data.labels import NONE, describe_labels, encode_column, value_encoder


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))


# --------------------------------------------------------------------------------------- every kind of every source


def write_folder(root, splits):
    """Images in folders, with their labels in metadata.jsonl."""
    for split, labels in splits.items():
        (root / split).mkdir(parents=True)
        for row in range(len(labels)):
            (root / split / f"{row}.png").write_bytes(png(row))
        lines = [json.dumps({"file_name": f"{row}.png", "label": label}) for row, label in enumerate(labels)]
        (root / split / "metadata.jsonl").write_text("\n".join(lines))


def write_parquet(root, splits, features=None):
    """One parquet file for each split; `features` maps splits to the feature of their labels."""
    root.mkdir()
    for split, labels in splits.items():
        images = pa.array([{"bytes": png(row), "path": None} for row in range(len(labels))])
        table = pa.table({"image": images, "label": labels})
        if features:
            columns = datasets.Features({"image": datasets.Image(), "label": features[split]})
            table = table.cast(columns.arrow_schema).replace_schema_metadata(columns.arrow_schema.metadata)
        pq.write_table(table, root / f"{split}.parquet")


def write_tars(root, splits):
    """One WebDataset shard for each split, with labels in json members."""
    for split, labels in splits.items():
        (root / split).mkdir(parents=True)
        with tarfile.open(root / split / "0.tar", "w") as tar:
            for row, label in enumerate(labels):
                for ending, content in {"png": png(row), "json": json.dumps({"label": label}).encode()}.items():
                    member = tarfile.TarInfo(f"{row:03}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


TAR = {"streaming": True, "image_column": "png", "label_column": "json.label"}
SOURCES = {
    "folder": (write_folder, {}),
    "parquet": (write_parquet, {}),
    "streamed parquet": (write_parquet, {"streaming": True}),
    "counted tar": (write_tars, {**TAR, "rows_per_shard": "count"}),
    "tar": (write_tars, {**TAR, "num_examples": 4}),
}
HOT = [[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
# labels of the training split, the labels that its batches have, and Data.labels
KINDS = {
    "integers": ("class", [205, 100, 317, 100], [1, 0, 2, 0], {"classes": ["100", "205", "317"], "size": 3}),
    "ids": ("class", [9000000002, 9000000001] * 2, [1, 0, 1, 0], {"classes": ["9000000001", "9000000002"]}),
    "strings": ("class", ["blé noir", "a b", "日本", "a b"], [1, 0, 2, 0], {"classes": ["a b", "blé noir", "日本"]}),
    "booleans": ("class", [True, False, False, True], [1, 0, 0, 1], {"classes": ["0", "1"]}),
    "lists of integers": ("classes", [[30, 7], [7], [], [30]], HOT, {"classes": ["7", "30"], "multi_hot": False}),
    "lists of names": ("classes", [["b", "a"], ["a"], [], ["b"]], HOT, {"classes": ["a", "b"], "size": 2}),
    "zeros and ones": ("classes", [[1, 1], [1, 0], [0, 0], [0, 1]], HOT, {"classes": ["0", "1"], "multi_hot": True}),
    "booleans of classes": ("classes", [[bool(x) for x in row] for row in HOT], HOT, {"size": 2, "multi_hot": True}),
    "floats of classes": ("classes", HOT, HOT, {"size": 2, "multi_hot": True}),
    "numbers": ("number", [1.5, -2.0, 0.0, 0.5], [1.5, -2.0, 0.0, 0.5], {"size": 1, "mean": [0.0], "classes": []}),
    "integers as numbers": ("number", [1, -2, 0, 5], [1.0, -2.0, 0.0, 5.0], {"size": 1, "mean": [1.0]}),
    "booleans as numbers": ("number", [True, False, True, False], [1.0, 0.0, 1.0, 0.0], {"std": [0.5]}),
    "vectors": ("vector", [[1, 2.5, 0]] * 3 + [[5, 2.5, 0]], [[1, 2.5, 0]] * 3 + [[5, 2.5, 0]], {"size": 3}),
}
DTYPES = {"class": torch.int64, "classes": torch.float32, "number": torch.float32, "vector": torch.float32}


def batches_of(data, workers=0):
    """One batch with all rows of the training split, in their order."""
    columns = (data.image_column, data.label_column, SIDE)
    if isinstance(data.train, datasets.Dataset):
        images = Images(data.train, *columns, labels=data.labels)
        return next(iter(DataLoader(images, len(images), collate_fn=collate, num_workers=workers)))
    stream = Stream(data.train, *columns, labels=data.labels, rows=data.train_rows)
    batch = next(iter(StreamLoader(stream, data.train_rows, seed=0, num_workers=workers)))
    order = batch["pixel_values"][:, 0, 0, 0].argsort()
    return {key: value[order] for key, value in batch.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", SOURCES)
def test_labels_of_every_kind_are_read_from_every_source(tmp_path, source, kind):
    (write, options), (reads, values, wanted, described) = SOURCES[source], KINDS[kind]
    write(tmp_path / "data", {"train": values, "test": values})
    data = load_data(data=str(tmp_path / "data"), labels=reads, **options)
    assert data.labels.kind == reads
    assert {name: getattr(data.labels, name) for name in described} == described
    labels = batches_of(data)["labels"]
    assert labels.dtype == DTYPES[reads] and labels.tolist() == wanted
    stored = Images(data.eval, data.image_column, data.label_column, SIDE, labels=data.labels)
    assert collate([stored[row] for row in range(4)])["labels"].tolist() == wanted


@pytest.mark.parametrize("kind", ["strings", "lists of names", "zeros and ones", "numbers", "vectors"])
@pytest.mark.parametrize("source", ["parquet", "streamed parquet", "tar"])
def test_worker_processes_return_the_same_labels(tmp_path, source, kind):
    (write, options), (reads, values, wanted, _) = SOURCES[source], KINDS[kind]
    write(tmp_path / "data", {"train": values, "test": values})
    labels = batches_of(load_data(data=str(tmp_path / "data"), labels=reads, **options), workers=2)["labels"]
    assert labels.dtype == DTYPES[reads] and labels.tolist() == wanted


@pytest.mark.parametrize("source", SOURCES)
def test_no_label_column_is_read_if_there_are_no_labels(tmp_path, source):
    write, options = SOURCES[source]
    write(tmp_path / "data", {"train": [1, 2, 3, 4], "test": [1, 2]})
    data = load_data(data=str(tmp_path / "data"), labels="none", **options | {"label_column": "missing"})
    assert data.labels == NONE and data.label_column is None and data.classes == []
    assert [*batches_of(data)] == ["pixel_values"] and data.eval.column_names == [data.image_column]
    if isinstance(data.train, datasets.Dataset):
        assert [*Images(data.train, "image", None, SIDE)[0]] == ["pixel_values"]


@pytest.mark.parametrize("source", ["parquet", "streamed parquet", "counted tar", "tar"])
@pytest.mark.parametrize("wrong", [None, -1])
def test_a_row_without_a_label_is_an_error_or_minus_one(tmp_path, source, wrong):
    write, options = SOURCES[source]
    write(tmp_path / "data", {"train": [3, wrong, 5, 3], "test": [3, 5, 3, 5]})
    folder = str(tmp_path / "data")
    said = refused(lambda: batches_of(load_data(data=folder, **options)))
    assert "Row 1 of " in said and f"has the label {wrong}, which" in said and "choose another split" in said
    data = load_data(data=folder, unlabelled=True, **options)
    assert data.labels.unlabelled and batches_of(data)["labels"].tolist() == [0, -1, 1, 0]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_class_label_column_may_have_rows_without_a_label(tmp_path, streaming):
    names = ClassLabel(names=["a", "b"])
    values = {"train": [1, None, -1, 0], "test": [0, None]}
    write_parquet(tmp_path / "data", values, {"train": names, "test": names})
    data = load_data(data=str(tmp_path / "data"), unlabelled=True, streaming=streaming)
    assert batches_of(data)["labels"].tolist() == [1, -1, -1, 0]
    assert Images(data.eval, "image", "label", SIDE, labels=data.labels).labels.tolist() == [0, -1]


def test_a_stream_takes_its_classes_from_the_evaluation_split_or_from_class_names(tmp_path):
    write_tars(tmp_path / "data", {"train": [1, 2, 3, 2], "test": [1, 3]})
    options = {"data": str(tmp_path / "data"), "num_examples": 4, **TAR}
    said = refused(lambda: batches_of(load_data(**options)))
    assert (
        ("Row 1 of " in said or "Row 3 of " in said)
        and "2, which is not one of the 2 classes (1, 3)" in said
        and "give class_names" in said
    )
    data = load_data(**options, class_names=["1", "2", "3"])
    assert batches_of(data)["labels"].tolist() == [0, 1, 2, 1] and data.eval["json.label"][:] == [0, 2]


def test_a_stream_takes_class_names_instead_of_labels(tmp_path):
    write_parquet(tmp_path / "data", {"train": ["b", "a"], "test": ["a", "b"]})
    data = load_data(data=str(tmp_path / "data"), streaming=True)
    stream = Stream(data.train, "image", "label", SIDE, classes=["a", "b"], rows=2)
    assert sorted(next(iter(StreamLoader(stream, 2, seed=0)))["labels"].tolist()) == [0, 1]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["class", "classes"])
def test_each_parquet_file_has_the_classes_that_it_records(tmp_path, streaming, kind):
    values = [0, 1, 0, 0] if kind == "class" else [[0], [1, 0], [], [0]]
    names, others = ClassLabel(names=["cat", "dog"]), ClassLabel(names=["dog", "cat"])
    train, test = (names, others) if kind == "class" else (List(names), List(others))
    write_parquet(tmp_path / "data", {"train": values, "test": values}, {"train": train, "test": test})
    data = load_data(data=str(tmp_path / "data"), labels=kind, streaming=streaming)
    assert data.classes == ["cat", "dog"]
    stored = Images(data.eval, "image", "label", SIDE, labels=data.labels)
    other = collate([stored[row] for row in range(4)])["labels"].tolist()
    if kind == "class":
        assert batches_of(data)["labels"].tolist() == [0, 1, 0, 0] and other == [1, 0, 1, 1]
    else:
        assert batches_of(data)["labels"].tolist() == [[1, 0], [1, 1], [0, 0], [1, 0]]
        assert other == [[0, 1], [1, 1], [0, 0], [0, 1]]


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_files_with_other_classes_are_refused(tmp_path, streaming):
    features = {"train": ClassLabel(names=["cat", "dog"]), "test": ClassLabel(names=["cat", "cow"])}
    write_parquet(tmp_path / "data", {"train": [0, 1], "test": [0, 1]}, features)
    said = refused(load_data, data=str(tmp_path / "data"), streaming=streaming)
    assert "cat, cow" in said and "among them 'cow'" in said and "cat, dog" in said


@pytest.mark.parametrize("streaming", [False, True])
def test_a_sum_of_splits_has_the_classes_of_all(tmp_path, streaming):
    write_parquet(tmp_path / "data", {"train": [7, 5], "validation": [9, 7], "test": [5, 7, 9]})
    data = load_data(
        data=str(tmp_path / "data"), train_split="train+validation", streaming=streaming, eval_split="test"
    )
    assert data.classes == ["5", "7", "9"] and sorted(batches_of(data)["labels"].tolist()) == [0, 1, 1, 2]


# ------------------------------------------------------------------------------------------------ unusual Arrow types


def refused(act, *args, **options):
    with pytest.raises(DataError) as caught:
        act(*args, **options)
    said = str(caught.value)
    assert "\n" not in said and "  " not in said and not said.startswith("Traceback")
    return said


def chunked(values):
    return values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])


def encoded(kind, train, test=None, feature=None, test_feature=None, **options):
    """`Labels` of a training column, and a test column as its encoded values; a stream must return the same."""
    train = chunked(train)
    test, test_feature = (train, feature) if test is None else (chunked(test), test_feature)
    labels = describe_labels(kind, feature, train, "split 'train'", **options)
    encode_column(train, feature, labels, "split 'train'")
    values = encode_column(test, test_feature, labels, "split 'test'")[0].to_pylist()
    encode = value_encoder(test_feature, labels)
    streamed = [encode(value, "Row") for value in test.to_pylist()]
    if kind == "classes":
        streamed = [row.nonzero()[:, 0].tolist() for row in streamed]
        assert streamed == [sorted(set(row)) for row in values]
    else:
        assert [row if kind == "class" else row.tolist() for row in streamed] == values
    return labels, values


def array(values, dtype=None):
    return pa.array(values, dtype)


UNUSUAL = {
    "uint8": ("class", array([3, 1, 3], pa.uint8()), [1, 0, 1]),
    "int8": ("class", array([-3, 1], pa.int8()), [0, 1]),
    "uint64": ("class", array([2**64 - 1, 2**63 + 5], pa.uint64()), [1, 0]),
    "large_string": ("class", array(["b", "a"], pa.large_string()), [1, 0]),
    "dictionary": ("class", array(["b", "a", "b"]).dictionary_encode(), [1, 0, 1]),
    "dictionary of integers": ("class", array([7, 5, 7]).dictionary_encode(), [1, 0, 1]),
    "dictionaries": ("class", pa.chunked_array([array([x, "c"]).dictionary_encode() for x in "ba"]), [1, 2, 0, 2]),
    "chunks": ("class", pa.chunked_array([array([6, 5]), array([], pa.int64()), array([7])]), [1, 0, 2]),
    "slice": ("class", array([9, 6, 5, 7]).slice(1), [1, 0, 2]),
    "leading zeros": ("class", array(["007", "7", "08"]), [0, 2, 1]),
    "empty string": ("class", array(["", "x", " "]), [0, 2, 1]),
    "one class": ("class", array([4, 4]), [0, 0]),
    "large lists": ("classes", array([["b"], ["a", "b"]], pa.large_list(pa.large_string())), [[1], [0, 1]]),
    "lists of dictionaries": (
        "classes",
        pa.ListArray.from_arrays([0, 2, 3], array(["b", "a", "b"]).dictionary_encode()),
        [[0, 1], [1]],
    ),
    "chunked lists": ("classes", pa.chunked_array([array([[3]]), array([[5], []])]), [[0], [1], []]),
    "a class twice": ("classes", array([["a", "a"], ["b"]]), [[0, 0], [1]]),
    "rows of one class": ("classes", array([[0], [1], [1]]), [[0], [1], [1]]),
    "both classes of two": ("classes", array([[0, 1], [1, 0], [1]]), [[0, 1], [0, 1], [1]]),
    "pairs of zero and one": ("classes", array([[0, 1], [1, 0]]), [[1], [0]]),
    "fixed size": ("classes", array([[0, 1, 1], [0, 0, 0]], pa.list_(pa.uint8(), 3)), [[1, 2], []]),
    "slice of lists": (
        "classes",
        array([[0, 1, 1], [0, 0, 0], [1, 0, 0]], pa.list_(pa.int64(), 3)).slice(1),
        [[], [0]],
    ),
    "half": ("number", array(np.array([1, 2], np.float16)), [1, 2]),
    "large integers": ("number", array([2**63 - 1, 2**53 + 1]), [2.0**63, 2.0**53]),
    "large unsigned integers": ("number", array([2**64 - 1], pa.uint64()), [2.0**64]),
    "dictionary of numbers": ("number", array([1.5, 2.5, 1.5]).dictionary_encode(), [1.5, 2.5, 1.5]),
    "slice of vectors": ("vector", array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2)).slice(1), [[3, 4]]),
    "vectors of integers": ("vector", array([[1, 2], [3, 4]], pa.large_list(pa.int16())), [[1, 2], [3, 4]]),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_types_are_encoded(name):
    kind, values, wanted = UNUSUAL[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encoded(kind, values)[1] == wanted


def test_an_evaluation_split_of_empty_lists_has_images_without_class():
    assert encoded("classes", array([[1], [2]]), array([[], []]))[1] == [[], []]


def test_values_of_webdataset_files_can_be_numpy():
    column = chunked(array([5, 7]))
    encode = value_encoder(None, describe_labels("class", None, column, "w"))
    assert [encode(value, "Row") for value in (np.int64(7), np.array(5), "7", 7)] == [1, 0, 1, 1]
    encode = value_encoder(None, describe_labels("classes", None, chunked(array([[5], [7, 9]])), "w"))
    assert [encode(value, "Row").tolist() for value in (np.array([9, 5]), (7,))] == [[1, 0, 1], [0, 1, 0]]
    encode = value_encoder(None, describe_labels("vector", None, chunked(array([[5.0, 7.0]])), "w"))
    assert encode(np.array([1, 2], np.int8), "Row").tolist() == [1, 2]
    encode = value_encoder(None, describe_labels("number", None, chunked(array([5.0])), "w"))
    assert encode(np.float16(2), "Row").tolist() == encode(np.array(2.0), "Row").tolist() == 2.0


# --------------------------------------------------------------------------------------------- where two sources meet


AB, BA = ClassLabel(names=["a", "b"]), ClassLabel(names=["b", "a"])
# training column and its feature, test column and its feature, the encoded test column
PAIRS = {
    "ClassLabel in another order": ([0, 1], AB, [0, 1], BA, [1, 0]),
    "ClassLabel with fewer classes": ([0, 1], AB, [0], ClassLabel(names=["b"]), [1]),
    "strings after ClassLabel": ([0, 1], AB, ["b", "a"], Value("string"), [1, 0]),
    "integers after ClassLabel": ([0, 1], AB, [1, 0], Value("int64"), [1, 0]),
    "integers that are names": ([0, 1], ClassLabel(names=["10", "9"]), [9, 10], Value("int64"), [1, 0]),
    "ClassLabel after strings": (["a", "b"], None, [0, 1], BA, [1, 0]),
    "integers after strings": (["10", "9"], None, [9, 10], None, [1, 0]),
    "strings after integers": ([10, 9], None, ["9", "10"], None, [0, 1]),
    "ClassLabel after integers": ([100, 205], None, [0, 1], ClassLabel(names=["205", "100"]), [1, 0]),
    "other integers": ([1, 2], None, pa.array([2, 1], pa.uint64()), None, [1, 0]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_classes_of_two_splits_are_compared_by_name(name):
    train, feature, test, test_feature, wanted = PAIRS[name]
    assert encoded("class", array(train), pa.array(test), feature, test_feature)[1] == wanted
    train, test = array([[value] for value in train]), array([[value] for value in pa.array(test).to_pylist()])
    lists = [None if item is None else List(item) for item in (feature, test_feature)]
    assert encoded("classes", train, test, *lists)[1] == [[value] for value in wanted]


def test_splits_with_other_classes_are_refused():
    other = ClassLabel(names=["a", "c"])
    said = refused(encoded, "class", array([0, 1]), array([0, 1]), AB, other)
    assert "a, c" in said and "'c'" in said and "a, b" in said
    said = refused(encoded, "class", array([100, 205]), array([0, 1]), None, AB)
    assert "a, b" in said and "100, 205" in said
    said = refused(encoded, "class", array(["cat", "dog"]), array(["dog", "dgo"]))
    assert said.startswith("Row 1 of split 'test' has the label 'dgo'") and "Did you mean 'dog'?" in said
    assert "Row 0 of split 'test' has the label 3" in refused(encoded, "class", array(["a", "b"]), array([3]))
    assert "Row 1 of split 'train' has the label 5" in refused(encoded, "class", array([0, 5]), feature=AB)


# labels, class_names, encoded labels
NAMED = {
    "integers from zero": ([1, 0], None, ["cat", "dog"], [1, 0]),
    "integers with gaps": ([317, 100], None, ["cat", "dog"], [1, 0]),
    "integers of which some do not occur": ([2, 0], None, ["cat", "dog", "cow"], [2, 0]),
    "integers that are names": ([1, 2, 3], None, ["3", "1", "2"], [1, 2, 0]),
    "strings": (["a", "b"], None, ["b", "a"], [1, 0]),
    "strings of which some do not occur": (["a", "b"], None, ["c", "b", "a"], [2, 1]),
    "ClassLabel": ([0, 1], AB, ["b", "a"], [1, 0]),
}


@pytest.mark.parametrize("name", NAMED)
def test_class_names_rename_integers_and_order_strings_and_class_labels(name):
    values, feature, names, wanted = NAMED[name]
    labels, indices = encoded("class", array(values), feature=feature, class_names=names)
    assert labels.classes == names and labels.size == len(names) and indices == wanted
    lists, feature = array([[value] for value in values]), feature and List(feature)
    assert encoded("classes", lists, feature=feature, class_names=names)[1] == [[value] for value in wanted]


def test_class_names_order_the_classes_of_both_splits():
    by_name = {"feature": AB, "test_feature": Value("string"), "class_names": ["b", "a"]}
    assert encoded("class", array([0, 1]), array(["a", "b"]), **by_name)[1] == [1, 0]
    hot = array([[1, 0, 1], [0, 0, 0]])
    assert encoded("classes", hot, class_names=["x", "y", "z"])[0].classes == ["x", "y", "z"]


def test_wrong_class_names_are_refused_with_both_lists():
    said = refused(encoded, "class", array([0, 1]), feature=AB, class_names=["b", "c"])
    assert "b, c" in said and "a, b" in said
    said = refused(encoded, "class", array(["a", "b"]), class_names=["b", "c"])
    assert "b, c" in said and "a, b" in said
    said = refused(encoded, "class", array([1, 2, 30]), class_names=["x", "y"])
    assert "x, y" in said and "1, 2, 30" in said
    said = refused(encoded, "classes", array([[1, 0, 1], [0, 0, 0]]), class_names=["x", "y"])
    assert "x, y" in said and "rows of 3" in said
    assert "'b' more than once" in refused(encoded, "class", array([0, 1]), class_names=["b", "b"])
    for names in ([0, 1], "ab", []):
        assert "list of texts" in refused(encoded, "class", array([0, 1]), class_names=names)
    for kind in ("number", "none"):
        assert "have no classes: leave it out" in refused(load_data, labels=kind, class_names=["a"])
    assert "Choose one of: class" in refused(load_data, labels="map")


# ------------------------------------------------------------------------------------------------------- wrong labels


# labels, and words of the message; the wrong row is the last one
WRONG_ROWS = {
    "null": ("classes", [[1], None], "label None: give a list of classes, an empty one for an image without a class"),
    "null item": ("classes", [[1], [2, None]], "label None, which is not one of the 2 classes"),
    "missing item": ("classes", [[1], [2, -1]], "label -1, which is not one of the 2 classes"),
    "short row": ("classes", [[0, 1, 1], [0, 0, 0], [1, 0]], "label [1, 0]: give 3 zeros and ones"),
    "empty row": ("classes", [[0.0, 1.0], [0.0, 0.0], []], "label []: give 2 zeros and ones"),
    "two": ("classes", [[0, 1, 1], [0, 0, 0], [1, 0, 2]], "label [1, 0, 2]: give 3 zeros and ones"),
    "half": ("classes", [[0, 1.0], [0, 0], [1, 0.5]], "label [1.0, 0.5]: give 2 zeros and ones"),
    "not a number in a row": ("classes", [[0, 1.0], [0, 0], [1, float("nan")]], "label [1.0, nan]: give 2 zeros"),
    "null in a row": ("classes", [[0, 1, 1], [0, 0, 0], [1, 0, None]], "label [1, 0, None]: give 3 zeros and ones"),
    "not a number": ("number", [1.0, float("nan")], "label nan (1 such row(s)): give a finite number"),
    "infinity": ("number", [1.0, float("-inf")], "label -inf"),
    "beyond float32": ("number", [1.0, 1e300], "label 1e+300"),
    "null number": ("number", [1.0, None], "label None"),
    "null vector": ("vector", [[1.0, 2.0], None], "label None (1 such row(s)): give 2 finite numbers"),
    "short vector": ("vector", [[1.0, 2.0], [3.0, 4.0], [3.0]], "label [3.0] (1 such row(s)): give 2 finite numbers"),
    "empty vector": ("vector", [[1.0, 2.0], []], "label []"),
    "null in a vector": ("vector", [[1.0, 2.0], [None, 3.0]], "label [None, 3.0]"),
    "infinity in a vector": ("vector", [[1.0, 2.0], [3.0, float("inf")]], "label [3.0, inf]"),
}


@pytest.mark.parametrize("name", WRONG_ROWS)
def test_the_row_of_a_wrong_label_is_named(name):
    kind, values, words = WRONG_ROWS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = refused(encoded, kind, array(values))
        assert said.startswith(f"Row {len(values) - 1} of split 'train' has the ") and words in said
        labels = describe_labels(kind, None, chunked(array(values[:-1])), "split 'train'")
        said = refused(encode_column, chunked(array(values[-1:], array(values).type)), None, labels, "split 'test'")
        assert said.startswith("Row 0 of split 'test' has the label")
        said = refused(value_encoder(None, labels), values[-1], "Row 7 of x.tar")
        assert said.startswith("Row 7 of x.tar has the label")


@pytest.mark.parametrize(
    ("kind", "train", "wrong"),
    [
        ("class", [0, 1], [1.5, [1], {"a": 1}, "x", 2, -2]),
        ("classes", [[0], [1, 2]], [3, "0", [[0]], [{}], [1.5], ["x"], {"a": 1}]),
        ("classes", [[0, 0, 1], [1, 1, 1]], [0, "001", ["0", "0", "1"], [[0], [0], [1]], [0, 0, 2]]),
        ("number", [0.5], ["0.5", [0.5], {}, 10**400]),
        ("vector", [[0.5, 1]], [0.5, "12", ["1", "2"], [[1], [2]], [1, 10**400]]),
    ],
)
def test_a_stream_refuses_values_of_another_kind(kind, train, wrong):
    encode = value_encoder(None, describe_labels(kind, None, chunked(array(train)), "w"))
    for value in wrong:
        assert refused(encode, value, "Row 3 of x.tar").startswith("Row 3 of x.tar has the label ")


def test_long_labels_are_cut_in_messages():
    said = refused(encoded, "vector", array([[1.0] * 500] * 2 + [[1.0] * 499]))
    assert "Row 2" in said and len(said) < 300


# the kind that is read, a column of another kind, and words of the message
WRONG_KINDS = [
    ("class", array([1.5, 2.0]), "numbers (double): hf_mixup has no regression task yet"),
    ("class", array([1.0, 2.0, None]), "or cast the column to integers if they are classes"),
    ("class", array([[1], [2]]), "lists: for images of several classes choose task multilabel"),
    ("class", array([[0.5]]), "a task of your own that reads vectors (kind vector)"),
    ("class", array([{"a": 1}]), "struct"),
    ("class", array([b"x"]), "binary"),
    ("class", pa.nulls(2), "holds no label"),
    ("class", array([-1, None]), "holds no label"),
    ("classes", array([1, 2]), "one class per image: choose task classification"),
    ("classes", array(["a,b", "c"]), "one class per image: choose task classification"),
    ("classes", array([0.5]), "hf_mixup has no regression task yet"),
    ("classes", array([[0.3, 0.7], [0.1, 0.9]]), "1 for each class of the image and 0 for the others"),
    ("classes", array([[[1]]]), "lists of list<"),
    ("classes", array([[], []]), "holds no label"),
    ("number", array(["1.5"]), "one class per image: choose task classification"),
    ("number", array([[1.5]]), "lists of numbers"),
    ("number", pa.nulls(2), "only empty cells"),
    ("vector", array([1.5]), "hf_mixup has no regression task yet"),
    ("vector", array([["a"]]), "choose task multilabel"),
    ("vector", array([[], []], pa.list_(pa.float32())), "holds no numbers"),
]


@pytest.mark.parametrize(("kind", "values", "words"), WRONG_KINDS)
def test_a_column_of_another_kind_is_refused_with_the_task_for_it(kind, values, words):
    said = refused(encoded, kind, values)
    assert said.startswith("The label column of split 'train' holds ") and words in said


@pytest.mark.parametrize(
    ("kind", "train", "test"),
    [
        ("class", [1, 2], [1.0, 2.0]),
        ("class", ["a"], [["a"]]),
        ("classes", [[1], [2]], [1, 2]),
        ("classes", [["a"]], [[0.5]]),
        ("classes", [[0, 2], [1], []], [[0, 1, 0], [1, 1, 0]]),
        ("classes", [[0, 1, 1], [0, 0, 0]], [["a"], []]),
        ("number", [1.0], ["x"]),
        ("number", [1.0], [[1.0]]),
        ("vector", [[1.0]], [1.0]),
    ],
)
def test_an_evaluation_split_of_another_kind_is_refused(kind, train, test):
    assert refused(encoded, kind, array(train), array(test)).startswith("The label column of split 'test' holds ")


def test_class_labels_are_not_numbers():
    assert "choose task classification" in refused(encoded, "number", array([0, 1]), feature=AB)
    assert "choose task multilabel" in refused(encoded, "vector", array([[0, 1]]), feature=List(AB))
