"""A run that is resumed with other settings goes on with the rows of its epoch that were not drawn yet."""

import json
import logging

import datasets
import pytest
import torch
from fixtures.streams import SIDE, open_stream, rows_of_split, write_parquet
from torch import nn
from transformers import TrainingArguments, ViTImageProcessor

from hf_mixup import MixupTrainer
from hf_mixup.data import BatchPlan, DataError, Images, Stream
from hf_mixup.data.position import FILE, Part, Position, rows_left
from hf_mixup.trainer import data_order

ROWS = 50


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(params=["stored", "streamed", "streamed with little memory"])
def data(request, tmp_path):
    if request.param == "stored":
        return Images(rows_of_split(range(ROWS)), "image", "label", SIDE)
    opened = open_stream(write_parquet(tmp_path / "data", (30, 20), 5))
    memory = 2**30 if request.param == "streamed" else 12 * 675
    return Stream(opened.train, "image", "label", SIDE, labels=opened.labels, memory=memory)


class Recorder(MixupTrainer):
    """Records (step, row numbers) of each batch; the labels are the row numbers."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.seen.append((self.state.global_step, inputs["labels"].tolist()))
        return super().compute_loss(model, inputs, *args, **kwargs)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 100))


def trained(data, folder, resume=None, **changes):
    usual = {"num_train_epochs": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    usual |= {"save_strategy": "steps", "save_steps": 1, "logging_steps": 1, "learning_rate": 0.01}
    usual |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True}
    args = TrainingArguments(str(folder), **usual | changes)
    processor = ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    trainer = Recorder(network(), args, method="mixup", train_dataset=data, processing_class=processor)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def rows(batches) -> list[int]:
    return [row for _, batch in batches for row in batch]


# 12 batches, that is 6 steps, in an epoch
@pytest.mark.parametrize("stopped", [6, 8, 11])
@pytest.mark.parametrize(
    "changes",
    [{"per_device_train_batch_size": 2}, {"per_device_train_batch_size": 8}, {"gradient_accumulation_steps": 5}],
)
def test_a_resumed_run_draws_each_row_of_its_epoch_once(data, tmp_path, caplog, changes, stopped):
    whole = trained(data, tmp_path)
    before = [batch for batch in whole.seen if 6 <= batch[0] < stopped]
    with caplog.at_level(logging.WARNING):
        trainer = trained(data, tmp_path, f"{tmp_path}/checkpoint-{stopped}", **changes)
    assert "it continues with the rows of the epoch that no process had" in caplog.text
    size, accumulated = trainer.args.per_device_train_batch_size, trainer.args.gradient_accumulation_steps
    steps = -(-(ROWS // size) // accumulated)
    done = trainer.start.empty // accumulated
    here = [batch for batch in trainer.seen if batch[0] < stopped + steps - done]
    seen = rows(before) + rows(here)
    assert len(set(seen)) == len(seen) > ROWS - size * accumulated
    last = [batch for batch in trainer.seen if batch[0] >= stopped + steps - done]
    assert sorted(set(rows(last))) == sorted(rows(last)) and len(rows(last)) == ROWS // size * size
    assert trainer.state.global_step == trainer.state.max_steps == stopped + 2 * steps - done
    assert trainer.state.epoch == 3
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == sorted(rates, reverse=True) and rates[-1] == pytest.approx(0.01 / (3 * steps), rel=0.01)


def test_a_run_that_was_resumed_with_other_settings_is_resumed_exactly(data, tmp_path):
    trained(data, tmp_path)
    other = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    once = trained(data, tmp_path, f"{tmp_path}/checkpoint-8", **other)
    weights = {key: value.clone() for key, value in once.model.state_dict().items()}
    for step in (9, 11, once.state.global_step - 2):
        again = trained(data, tmp_path, f"{tmp_path}/checkpoint-{step}", **other)
        assert again.seen == [batch for batch in once.seen if batch[0] >= step]
        assert all(torch.equal(value, weights[key]) for key, value in again.model.state_dict().items())


def test_a_run_can_be_resumed_with_other_settings_twice_in_an_epoch(data, tmp_path):
    whole = trained(data, tmp_path)
    second = trained(data, tmp_path, f"{tmp_path}/checkpoint-8", per_device_train_batch_size=3)
    position = Position.read(tmp_path / "checkpoint-9")
    assert [(part.batch_size, part.batches) for part in position.parts] == [(4, 4), (3, 2)] and position.epoch == 1
    third = trained(data, tmp_path, f"{tmp_path}/checkpoint-9", per_device_train_batch_size=2)
    parts = [batch for batch in whole.seen if 6 <= batch[0] < 8], [batch for batch in second.seen if batch[0] == 8]
    seen = rows(parts[0]) + rows(parts[1]) + rows(third.seen[:13])  # of 25 batches of 2, so that 7 steps end the epoch
    assert len(set(seen)) == len(seen) == 16 + 6 + 26


def test_with_max_steps_the_number_of_steps_stays(data, tmp_path):
    trained(data, tmp_path, num_train_epochs=1, max_steps=14)
    trainer = trained(data, tmp_path, f"{tmp_path}/checkpoint-8", max_steps=14, per_device_train_batch_size=2)
    assert trainer.state.global_step == 14 and len(rows(trainer.seen)) == 6 * 4
    assert len(set(rows(trainer.seen))) == 24
    trainer = trained(data, tmp_path, f"{tmp_path}/checkpoint-8", max_steps=40, per_device_train_batch_size=12)
    assert trainer.state.global_step == 40


@pytest.mark.parametrize("before, after", [(1, 2), (2, 1), (3, 2), (2, 5)])
def test_the_rows_that_are_left_are_shared_by_any_number_of_processes(data, before, after):
    for epoch in (0, 1):
        old = Part(before, 3, 2, getattr(data, "memory", 0), getattr(data, "resident", False))
        left = rows_left(data, epoch, [old], seed=5)
        assert len(left) == ROWS - before * 3 * 2
        again = rows_left(data, epoch, [old, Part(after, 2, 2, old.memory, old.resident)], seed=5)
        assert len(again) == len(left) - after * 2 * 2 and set(again) < set(left)


def test_rows_of_a_plan_that_draws_rows_several_times_can_be_left_too():
    plan = BatchPlan(20, 4, seed=0, classes=[0] * 10 + [1] * 10)
    assert {row for batch in plan.draw(0, [3, 12]) for row, _ in batch} <= {3, 12}


def test_a_damaged_or_missing_position_is_reported(tmp_path):
    opened = open_stream(write_parquet(tmp_path / "data", (50,), 5))
    data = Stream(opened.train, "image", "label", SIDE, labels=opened.labels)
    trainer, folder = trained(data, tmp_path / "run", num_train_epochs=1), tmp_path / "run" / "checkpoint-3"
    kept = json.loads((folder / FILE).read_text())
    for text, message in (
        ("{", "is damaged .*delete this checkpoint"),
        (json.dumps(kept | {"data": kept["data"] | {"data revision": "x"}}), "started with data revision x"),
        (None, "is not a checkpoint of a streamed run"),
    ):
        (folder / FILE).write_text(text) if text else (folder / FILE).unlink()
        with pytest.raises(DataError, match=message):
            data_order.start(trainer, folder)
    (folder / "stream.json").write_text("{}")
    with pytest.raises(DataError, match="of a streamed run of version 0.1, whose order of rows no longer exists"):
        data_order.start(trainer, folder)
