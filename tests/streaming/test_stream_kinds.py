"""Data sets on the Hub in other formats, with new commits, and with malicious paths."""

import itertools
import os
import signal
import time

import datasets
import numpy as np
import pytest
from fixtures.cli import command, folder_of, hub_environment, picture, recipe_of, record_of, start
from fixtures.streams import NAMES, labels, loader_of, open_stream, png, point_to, write_parquet, write_tars
from huggingface_hub import HfApi

from hf_mixup.data import DataError, Images, eval_transform, load_data

NUMBERS = itertools.count()
CFG = {"input_size": (3, 12, 12), "interpolation": "bilinear", "crop_pct": 1.0, "mean": (0.5,) * 3, "std": (0.5,) * 3}


@pytest.fixture(autouse=True)
def here(hub, monkeypatch, tmp_path, online):
    point_to(hub, monkeypatch, tmp_path / "home", hub.token)


@pytest.fixture
def push(hub):
    """`push(folder)`: the name of a new data set with its files."""

    def pushed(folder, name=None) -> str:
        api, name = HfApi(endpoint=hub.url, token=hub.token), name or f"user/kind{next(NUMBERS)}"
        api.create_repo(name, repo_type="dataset", exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, repo_type="dataset")
        return name

    return pushed


def pixels(data) -> np.ndarray:
    """The evaluation split as uint8 network input, before normalisation."""
    images = Images(data.eval, data.image_column, data.label_column, 12, prepare=eval_transform(CFG), home=data.home)
    return np.stack([images[row]["pixel_values"].numpy() for row in range(len(images))])


def test_a_folder_of_jpegs_streams_and_its_evaluation_split_has_the_same_pixels(push, tmp_path):
    for split, name in itertools.product(("train", "test"), ("cat", "dog")):
        (tmp_path / "data" / split / name).mkdir(parents=True)
        for row in range(4):
            picture(row).save(tmp_path / "data" / split / name / f"{row}.jpg")
    name = push(tmp_path / "data")
    streamed, whole = open_stream(name, num_examples=8), load_data(data=name)
    both = open_stream(name, num_examples=16, train_split="train+test")
    for data in (streamed, both):
        [*batches] = loader_of(data, size=8)
        assert sorted(labels(batches)) == [0] * (len(batches) * 4) + [1] * (len(batches) * 4)
    assert (pixels(streamed) == pixels(whole)).all()


def test_a_label_inside_the_json_of_a_tar_streams_without_counted_rows(push, tmp_path):
    name = push(write_tars(tmp_path / "data", (24, 16)))
    data = open_stream(name, num_examples=40, image_column="png", label_column="json.label", class_names=NAMES)
    assert sorted(labels(loader_of(data))) == list(range(40))


@pytest.mark.parametrize("streaming", [True, False])
def test_each_parquet_file_on_the_hub_has_the_classes_that_it_records(push, tmp_path, streaming):
    for split, names in (("train", ["cat", "dog"]), ("test", ["dog", "cat"])):
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        rows = {"image": [{"bytes": png(row), "path": None} for row in range(3)], "label": [0, 1, 0]}
        (tmp_path / "data").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "data" / f"{split}.parquet")
    data = load_data(data=push(tmp_path / "data"), streaming=streaming)
    assert data.classes == ["cat", "dog"] and data.eval["label"][:] == [1, 0, 1]
    train = labels(loader_of(data, size=3)) if streaming else data.train["label"][:]
    assert sorted(train) == [0, 0, 1]


def test_a_resumed_run_uses_the_commit_of_its_start(push, tmp_path, capsys):
    name = push(folder_of(tmp_path / "data", rows=4))
    fields = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3, "eval_strategy": "no"}
    run = [recipe_of(tmp_path / "recipe.yaml", name, **fields), "--output_dir", tmp_path / "run"]
    assert start(*run) == 0
    commit, record = record_of(tmp_path / "run")["data"]["revision"], tmp_path / "run" / "run.json"
    record.write_text(record.read_text().replace('"finished"', '"running"'))
    picture(9).save(tmp_path / "data" / "train" / "cat" / "0.png")
    push(tmp_path / "data", name)
    assert load_data(data=name).revision != commit
    assert start(*run, "--resume") == 0
    assert record_of(tmp_path / "run")["data"]["revision"] == commit
    record.write_text(record.read_text().replace('"finished"', '"running"'))
    assert start(*run, "--resume", "--revision", load_data(data=name).revision) == 2
    assert f"use {commit} again" in capsys.readouterr().err


PATHS = ["{0}/secret.png", "../../secret.png", "http://127.0.0.1:9/x.png", "file://{0}/secret.png"]


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("path", PATHS)
def test_paths_to_local_files_or_other_addresses_are_refused(push, tmp_path, path, streaming):
    (tmp_path / "secret.png").write_bytes(png(1))
    features = datasets.Features({"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    features["label"] = datasets.Value("int64")
    rows = {"image": [{"bytes": png(row), "path": "x.png"} for row in range(7)], "label": [0, 1] * 4}
    rows["image"].append({"bytes": None, "path": path.format(tmp_path)})
    write_parquet(tmp_path / "data")
    for old in (tmp_path / "data").glob("train*"):
        old.unlink()
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    test = {"image": rows["image"][:2], "label": [0, 1]}
    datasets.Dataset.from_dict(test, features).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    data = load_data(data=push(tmp_path / "data"), streaming=streaming)
    with pytest.raises(DataError, match="not a file of the data set"):
        if streaming:
            loader = loader_of(data, home=data.home)
            list(loader)
        else:
            Images(data.train, "image", "label", 4, home=data.home).load()


def test_a_truncated_tar_file_is_not_counted(push, tmp_path):
    write_tars(tmp_path / "data", (24, 16))
    file = tmp_path / "data" / "train" / "00001.tar"
    whole = file.read_bytes()
    file.write_bytes(whole[: 12 * 8 * 512])  # between two members
    with pytest.raises(DataError, match="00001.tar has no end mark"):
        open_stream(push(tmp_path / "data"), image_column="png", label_column="cls", rows_per_shard="count")


def test_a_too_small_num_examples_is_logged(push, tmp_path, caplog):
    tars = {"image_column": "png", "label_column": "cls", "class_names": NAMES}
    data = open_stream(push(write_tars(tmp_path / "data", (24, 16))), num_examples=9, **tars)
    assert len(labels(loader_of(data))) == 8
    assert "more rows than num_examples=9" in caplog.text


def test_image_and_label_column_must_differ():
    with pytest.raises(DataError, match="two columns"):
        load_data(label_column="image", streaming=True)


def test_a_run_with_loader_workers_saves_a_checkpoint_on_sigterm_to_the_process_group(hub, tmp_path):
    fields = {"save_strategy": "steps", "save_steps": 5, "max_steps": 4000, "dataloader_num_workers": 2}
    fields |= {"streaming": True, "eval_strategy": "no"}
    recipe = recipe_of(tmp_path / "recipe.yaml", "sample", **fields)
    environment = hub_environment(hub, tmp_path / "home")
    process = command(recipe, "--output_dir", tmp_path / "run", environment=environment, start_new_session=True)
    while process.poll() is None and not (tmp_path / "run" / "checkpoint-5").is_dir():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 130 and "is complete" in said and "Traceback" not in said, said
