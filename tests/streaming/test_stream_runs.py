"""Runs on streamed data from a Hub: killed and resumed, with server errors, with known and unknown length."""

import json
import random
import sys
import time
from pathlib import Path

import pytest
import torch
from fixtures.cli import command, hub_environment, recipe_of, record_of, start
from fixtures.streams import NAMES, point_to, write_tars
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file

from hf_mixup.config import MixupConfig
from hf_mixup.data import DataError, load_data
from hf_mixup.runs.run import make_trainer
from hf_mixup.trainer import data_order
from hf_mixup.trainer.callbacks import DataOrderCallback

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import kill_and_resume

FIELDS = {"streaming": True, "shuffle_memory": "20KB", "num_train_epochs": 4, "gradient_accumulation_steps": 2}
FIELDS |= {"save_strategy": "steps", "save_steps": 1, "save_total_limit": None, "eval_strategy": "no"}
FIELDS |= {"method": "cutmix", "random_resized_crop": [0.5, 1.0], "per_device_train_batch_size": 4}
STEPS = 48  # 96 rows, twelve steps of two batches of four in each epoch
TARS = {"streaming": True, "image_column": "png", "label_column": "cls", "eval_strategy": "no"}
TARS |= {"class_names": NAMES}


@pytest.fixture(scope="module")
def root(tmp_path_factory, hub):
    """A folder with the recipe, and in `whole` a run without interruption."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        point_to(hub, patch, root / "home", hub.token)
        name = kill_and_resume.push_sample(hub, root / "data", 96, 3)
        recipe_of(root / "recipe.yaml", name, **FIELDS)
        assert start(root / "recipe.yaml", "--output_dir", root / "whole") == 0
    assert record_of(root / "whole")["steps"] == STEPS
    return root


@pytest.fixture(autouse=True)
def here(hub, monkeypatch, root, online):
    point_to(hub, monkeypatch, root / "home", hub.token)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root / "home" / "hub"))


def assert_same_weights(one: Path, other: Path) -> None:
    one, other = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_and_resumed_run_ends_with_the_same_weights(hub, root, tmp_path, number):
    step = random.Random(number).randrange(2, STEPS - 8)
    process = command(root / "recipe.yaml", "--output_dir", tmp_path, environment=hub_environment(hub, root / "home"))
    while process.poll() is None and not (tmp_path / f"checkpoint-{step}").is_dir():
        time.sleep(0.002)
    kill_and_resume.kill(process)
    assert record_of(tmp_path)["status"] == "running" and process.returncode == -9
    assert start(root / "recipe.yaml", "--output_dir", tmp_path, "--resume", "--dataloader_num_workers", number) == 0
    assert_same_weights(tmp_path, root / "whole")


def test_a_run_with_transient_errors_ends_with_the_same_weights(hub, root, tmp_path):
    faults = [hub.faults.add(method="GET", path="train-0", **fault) for fault in ({"status": 503}, {"drop": "before"})]
    faults += [hub.faults.add(path="^/_large/", **fault) for fault in ({"drop": 500}, {"status": 429}, {"truncate": 9})]
    assert start(root / "recipe.yaml", "--output_dir", tmp_path / "run", "--save_strategy", "no") == 0
    assert all(fault.hits for fault in faults)
    assert_same_weights(tmp_path / "run", root / "whole")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_shard_ends_the_run_with_one_message(hub, root, tmp_path, capsys, workers):
    hub.faults.add(path="/resolve/.*train-00001", status=404, times=None)
    words = ["--output_dir", tmp_path / "run", "--dataloader_num_workers", workers]
    assert start(root / "recipe.yaml", *words) == 2
    said = capsys.readouterr().err
    assert "train-00001-of-00003.parquet cannot be read" in said and "Traceback" not in said and hub.token not in said


def test_a_resumed_epoch_reads_from_the_step_of_the_checkpoint(root, tmp_path):
    trainer = trainer_of(root, tmp_path)
    loader, state = trainer.get_train_dataloader(), trainer.state
    trainer.start = data_order.start(trainer, root / "whole" / "checkpoint-15")
    state.global_step, state.epoch = 15, 15 / 12
    DataOrderCallback(trainer).on_epoch_begin(trainer.args, state, None, train_dataloader=loader)
    sampler = loader.batch_sampler
    assert (sampler.epoch, sampler.empty) == (1, 2 * 3)  # three steps of two batches each


def trainer_of(root, folder, **changes):
    """The trainer of the recipe's run."""
    options = {key: value for key, value in record_of(root / "whole")["recipe"].items() if key != "recipe"}
    options |= {"output_dir": str(folder), "use_cpu": True, "disable_tqdm": True, **changes}
    return make_trainer(MixupConfig(**options), load_data(data="user/sample", streaming=True))[0]


def test_a_trainer_refuses_a_checkpoint_of_another_order(root, tmp_path):
    trainer = trainer_of(root, tmp_path, seed=1)
    assert trainer.train_dataset.memory == 20_000
    with pytest.raises(DataError, match="The run started with seed 0 and cannot be resumed with 1: use 0 again."):
        trainer.train(resume_from_checkpoint=str(root / "whole" / "checkpoint-5"))
    order = json.loads((root / "whole" / "checkpoint-5" / "data_order.json").read_text())
    assert order["steps"] == 12 and order["epoch"] == 0 and len(order["data"]["data revision"]) == 40
    assert order["parts"][0]["batches"] == 10


@pytest.fixture(scope="module")
def tars(hub, tmp_path_factory):
    """A WebDataset of 24 rows on the Hub."""
    folder = write_tars(tmp_path_factory.mktemp("tars"), (16, 8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        api = HfApi(endpoint=hub.url, token=hub.token)
        api.create_repo("user/tars", repo_type="dataset", exist_ok=True)
        api.upload_folder(repo_id="user/tars", folder_path=folder, repo_type="dataset")
    return "user/tars"


def test_rows_per_shard_gives_a_stream_its_length(tars, tmp_path):
    for number, rows in enumerate(([16, 8], "count")):
        recipe = recipe_of(tmp_path / "recipe.yaml", tars, rows_per_shard=rows, num_train_epochs=2, **TARS)
        assert start(recipe, "--output_dir", tmp_path / str(number)) == 0
    assert record_of(tmp_path / "0")["steps"] == 12
    assert_same_weights(tmp_path / "0", tmp_path / "1")


def test_a_stream_of_unknown_length_trains_for_max_steps_and_cannot_be_resumed(tars, tmp_path, caplog, capsys):
    recipe = recipe_of(tmp_path / "recipe.yaml", tars, save_strategy="steps", save_steps=8, **TARS)
    words = [recipe, "--output_dir", tmp_path / "run"]
    for extra, said in (
        ([], "give num_examples"),
        (["--max_steps", 9, "--warmup_epochs", 1], "give num_examples"),
        (["--max_steps", 9, "--lr_per_epoch"], "give num_examples"),
        (["--max_steps", 9, "--mixup_off_epoch", 1], "mixup_off_epoch requires the length of an epoch"),
    ):
        assert start(*words, *extra) == 2 and said in capsys.readouterr().err
    assert start(*words, "--max_steps", 9) == 0
    assert record_of(tmp_path / "run")["steps"] == 9 and "cannot be resumed" in caplog.text
    file = tmp_path / "run" / "run.json"
    file.write_text(file.read_text().replace('"finished"', '"running"'))
    assert start(*words, "--max_steps", 9, "--resume") == 2
    assert "give rows_per_shard (WebDataset)" in capsys.readouterr().err


def test_num_examples_gives_a_stream_its_length(tars, tmp_path):
    fields = {"num_examples": 24, "num_train_epochs": 2, "warmup_epochs": 1, "mixup_off_epoch": 1}
    recipe = recipe_of(tmp_path / "recipe.yaml", tars, **TARS, **fields)
    assert start(recipe, "--output_dir", tmp_path / "run") == 0 and record_of(tmp_path / "run")["steps"] == 12
