"""The run record: both schema versions, and what it counts and measures."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fixtures.cli import folder_of, recipe_of, record_of, start

import hf_mixup
from hf_mixup.errors import RecordError
from hf_mixup.publish.export import rewrite_card
from hf_mixup.runs import record
from hf_mixup.tasks import load_task
from hf_mixup.trainer import callbacks
from hf_mixup.trainer.memory import PROCESS, peak_mb, reset_peak

RECORDS = Path(__file__).parents[2] / "hub_cards" / "records"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on 12 images in micro-batches of 4, two in a step but the last of an epoch; evaluated in batches of 5."""
    root = tmp_path_factory.mktemp("run")
    fields = {"gradient_accumulation_steps": 2, "num_train_epochs": 3, "per_device_eval_batch_size": 5}
    recipe = recipe_of(root / "recipe.yaml", folder_of(root / "data"), **fields)
    assert start(recipe, "--output_dir", root / "run") == 0
    return root / "run"


def test_images_are_counted_as_they_are_seen(run):
    """The last step of an epoch has one micro-batch."""
    found = record_of(run)
    assert found["images"] == 3 * 12 and found["steps"] == 3 * 2


def test_images_per_second_is_of_the_images_that_were_seen(monkeypatch, tmp_path):
    clock = iter(range(1000))  # a second between two calls
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    recipe = recipe_of(tmp_path / "recipe.yaml", folder_of(tmp_path / "data"), save_strategy="no", eval_strategy="no")
    assert start(recipe, "--output_dir", tmp_path / "run") == 0
    found = record_of(tmp_path / "run")
    assert found["images_per_s"] == round(found["images"] / found["wall_s"], 1) == 12


def test_the_final_loss_is_the_mean_over_images(run):
    final = record_of(run)["final"]
    assert final["loss"] == pytest.approx(final["nll"], rel=1e-5)


def test_images_of_a_run_that_version_0_1_began_are_estimated():
    args = SimpleNamespace(per_device_train_batch_size=8, world_size=2, gradient_accumulation_steps=3)
    trainer = SimpleNamespace(args=args, state=SimpleNamespace(global_step=5))
    assert record.estimated_images(trainer) == 5 * 8 * 2 * 3


@pytest.mark.skipif(not (PROCESS / "clear_refs").exists(), reason="not Linux")
def test_the_peak_memory_does_not_contain_what_ran_before():
    before = np.ones(40_000_000)  # 320 MB
    high = peak_mb(CPU)
    del before
    reset_peak(CPU)
    assert peak_mb(CPU) < high - 200
    low, array = peak_mb(CPU), np.ones(20_000_000)
    assert peak_mb(CPU) > low + 100
    del array


def test_metrics_have_the_order_of_the_task_and_no_timings():
    task = record.task_entry(load_task("classification"))
    entry = {"eval_runtime": 1.0, "eval_extra": 5, "eval_ece": float("nan"), "eval_top1": 0.5, "eval_loss": 2.0}
    found = record.metrics(entry | {"epoch": 1, "eval_samples_per_second": 3.0}, task)
    assert list(found.items()) == [("loss", 2.0), ("top1", 0.5), ("ece", None), ("extra", 5)]


def of_version_1(folder: Path, run: Path) -> Path:
    """A copy of a run's folder with its record as version 0.1 wrote it."""
    shutil.copytree(run, folder)
    old = record_of(run) | {"schema_version": 1}
    del old["task"], old["images"]
    (folder / "run.json").write_text(json.dumps(old))
    return folder


def test_records_of_version_1_are_those_of_classification(run, tmp_path):
    folder = of_version_1(tmp_path / "old", run)
    assert record.read(folder)["task"] == record_of(run)["task"]
    assert record.read(folder)["task"]["name"] == "classification"
    rewrite_card(folder, "user/old", [json.loads((folder / "run.json").read_text()) | {"seed": 7}])
    assert "top-1" in (folder / "README.md").read_text()
    assert hf_mixup.load_pretrained(str(folder))[2].name == "mixup"


def test_the_committed_records_are_read(tmp_path):
    [first, *_] = sorted(RECORDS.glob("quickstart/*.json"))
    shutil.copy(first, tmp_path / "run.json")
    assert record.read(tmp_path)["task"]["metric"] == "top1"


def test_records_of_a_later_version_are_refused(tmp_path):
    (tmp_path / "run.json").write_text('{"schema_version": 3}')
    with pytest.raises(RecordError, match="not a run record of schema version 1 or 2"):
        record.read(tmp_path)
