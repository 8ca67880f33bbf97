"""Resumed runs equal uninterrupted ones bit for bit; a failed save leaves the earlier checkpoints unchanged."""

import json
import resource
import shutil
from contextlib import contextmanager

import pytest
import torch
from fixtures.training import (
    SIDE,
    Rows,
    Watcher,
    alike,
    are_rows,
    losses,
    make,
    native_vit,
    timm_resnet,
    timm_vit,
    wrapped,
)
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from hf_mixup import load
from hf_mixup.data import Images, load_data
from hf_mixup.errors import CheckpointError, SaveError
from hf_mixup.models import save_published
from hf_mixup.tasks.classification import classification
from hf_mixup.trainer import MixupStep, MixupTrainer, manifest
from hf_mixup.trainer.checkpointing import last_checkpoint

STEPS, STEPS_OF_AN_EPOCH = 6, 2
SHORT = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": None, "max_steps": 3}


@pytest.fixture(scope="module")
def sample():
    """32 uint8 images of the built-in data set."""
    data = load_data()
    return Images(data.train.select(range(32)), data.image_column, data.label_column, SIDE)


def trainer_of(folder, method, sample, **changes):
    set_seed(0)
    model, processor = wrapped("resnet18", classes=sample.label_info.classes, drop_rate=0.3)
    long = {"max_steps": -1, "num_train_epochs": STEPS // STEPS_OF_AN_EPOCH, "gradient_accumulation_steps": 2}
    usual = {"per_device_train_batch_size": 8, "optimizer": "momentum", "crop_padding": 2, "ema_decay": 0.9}
    given = {"method": method, "processing_class": processor, **SHORT, **long, **usual, **changes}
    return make(folder, model, sample, **given)


def state(trainer) -> dict:
    """All trained state of a run: network, buffers, the method's networks, the EMA and the momentum."""
    found = {f"step.{name}": value.clone() for name, value in trainer.step.state_dict().items()}
    found |= {f"ema.{name}": value.clone() for name, value in trainer.ema.average.module.state_dict().items()}
    slots = trainer.optimizer.state_dict()["state"]
    return found | {f"momentum.{number}": slot["momentum_buffer"].clone() for number, slot in slots.items()}


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("mixup", {}),
        ("manifoldmix", {}),
        ("puzzlemix", {"method_args": {"grids": (2, 4)}}),
        ("automix", {}),
        ("automix", {"eval_weights": "ema"}),
        ("mixup", {"aug_repeats": 2, "warmup_epochs": 1, "lr_per_epoch": True}),
        ("mixup", {"class_balanced": True}),
    ],
)
def test_a_resumed_run_ends_at_the_same_bits(tmp_path, sample, method, changes):
    reference = trainer_of(tmp_path / "reference", method, sample, **changes)
    reference.train()
    expected = state(reference)
    for step in (STEPS_OF_AN_EPOCH + 1, STEPS_OF_AN_EPOCH):  # inside an epoch, and at its end
        folder = tmp_path / f"from-{step}"
        shutil.copytree(tmp_path / "reference" / f"checkpoint-{step}", folder / f"checkpoint-{step}")
        resumed = trainer_of(folder, method, sample, **changes)
        resumed.train(resume_from_checkpoint=True)
        assert losses(resumed) == losses(reference)
        assert alike(state(resumed), expected)


@pytest.mark.parametrize("model", [native_vit, timm_vit])
def test_networks_whose_weights_are_saved_under_other_names_resume(tmp_path, model):
    reference = make(tmp_path, model(), method="mixup", **SHORT)
    reference.train()
    shutil.rmtree(tmp_path / "checkpoint-3")
    resumed = make(tmp_path, model(), method="mixup", **SHORT)
    resumed.train(resume_from_checkpoint=True)
    assert alike(resumed.model.state_dict(), reference.model.state_dict())


def test_a_methods_networks_are_loaded_from_the_checkpoint(tmp_path):
    trainer = make(tmp_path, method="automix", **SHORT)
    trainer.train()
    resumed = make(tmp_path, method="automix", **SHORT)
    before = {name: value.clone() for name, value in resumed.step.method.state_dict().items()}
    resumed._load_from_checkpoint(str(tmp_path / "checkpoint-3"))
    assert alike(resumed.step.method.state_dict(), load_file(tmp_path / "checkpoint-3" / "method.safetensors"))
    assert not alike(resumed.step.method.state_dict(), before)


@pytest.mark.parametrize("teacher", ["folder", None])
def test_a_teacher_is_saved_only_if_it_cannot_be_rebuilt_from_its_name(tmp_path, teacher):
    if teacher:
        teacher = str(tmp_path / "teacher")
        save_published(*wrapped(), teacher)
    changes = SHORT | {"method": "attentivemix", "method_args": {"teacher": teacher, "teacher_size": 32}}
    reference = make(tmp_path, **changes)
    reference.train()
    assert (tmp_path / "checkpoint-2" / "method.safetensors").is_file() == (teacher is None)
    shutil.rmtree(tmp_path / "checkpoint-3")
    resumed = make(tmp_path, **changes)
    with torch.no_grad():
        for value in resumed.model.parameters():  # a new frozen copy of the network would differ
            value.mul_(2)
    resumed.train(resume_from_checkpoint=True)
    assert alike(resumed.model.state_dict(), reference.model.state_dict())
    assert alike(resumed.method.state_dict(), reference.method.state_dict())


def test_a_checkpoint_of_another_method_is_refused_and_the_message_names_the_recipe(tmp_path):
    make(tmp_path, method="mixup", **SHORT).train()
    with pytest.raises(CheckpointError, match="method.safetensors.*recipe"):
        make(tmp_path, method="automix", **SHORT).train(resume_from_checkpoint=True)


def test_a_run_resumed_after_mixup_off_epoch_does_not_mix(tmp_path):
    changes = {**SHORT, "method": "mixup", "mixup_off_epoch": 1, "max_steps": 6}
    data = Rows(32)
    make(tmp_path, data=data, **changes).train()
    shutil.rmtree(tmp_path / "checkpoint-6")
    inputs, model = [], timm_resnet()
    model.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
    make(tmp_path, model, data, **changes).train(resume_from_checkpoint=True)
    assert len(inputs) == 1 and are_rows(inputs[0], data.x)


def test_the_state_of_a_task_is_saved_and_loaded(tmp_path):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, net, batch, rng):
            self.calls += 1
            return classification(net, batch, rng)

    make(tmp_path, method="erm", task=Counting(), **SHORT).train()
    shutil.rmtree(tmp_path / "checkpoint-3")
    resumed = make(tmp_path, method="erm", task=Counting(), **SHORT)
    resumed.train(resume_from_checkpoint=True)
    assert float(resumed.task.function.calls) == 3


class Full(TrainerCallback):
    """From a step on, writes beyond `size` bytes of a file fail, as on a full disk."""

    def __init__(self, step, size):
        self.step, self.size = step, size

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))


@contextmanager
def unlimited_afterwards():
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.mark.parametrize("name", ["model.safetensors", "method.safetensors", "optimizer.pt"])
def test_a_failed_save_leaves_the_earlier_checkpoints_and_reports_the_way_out(tmp_path, name):
    changes = {**SHORT, "save_total_limit": 1, "optimizer": "adamw"}
    reference = make(tmp_path / "reference", method="automix", **changes)
    reference.train()
    size = (
        tmp_path / "reference" / "checkpoint-3" / name
    ).stat().st_size - 1  # the files written before it are smaller
    with unlimited_afterwards(), pytest.raises(SaveError, match="checkpoint-2 .*MiB.*checkpoint-1.*--resume"):
        make(tmp_path / "full", callbacks=[Full(2, size)], method="automix", **changes).train()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["checkpoint-1"]
    resumed = make(tmp_path / "full", method="automix", **changes)
    resumed.train(resume_from_checkpoint=True)
    assert alike(resumed.step.state_dict(), reference.step.state_dict())


class InterruptingProcessor:
    """An image processor that raises KeyboardInterrupt at its save `number`; it is saved after the network."""

    def __init__(self, number):
        self.number, self.saves = number, 0

    def save_pretrained(self, folder):
        self.saves += 1
        if self.saves == self.number:
            raise KeyboardInterrupt


def test_an_interrupted_checkpoint_is_skipped_with_a_warning(tmp_path, caplog):
    reference = make(tmp_path / "reference", method="automix", **SHORT)
    reference.train()
    run = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        make(run, method="automix", processing_class=InterruptingProcessor(2), **SHORT).train()
    assert (run / "checkpoint-2" / "model.safetensors").is_file()
    assert last_checkpoint(run) == str(run / "checkpoint-1")
    resumed = make(run, method="automix", **SHORT)
    with pytest.raises(CheckpointError, match="checkpoint-2 has no manifest.json.*resume from .*checkpoint-1"):
        resumed.train(resume_from_checkpoint=str(run / "checkpoint-2"))
    resumed.train(resume_from_checkpoint=True)
    assert "checkpoint-2 is skipped" in caplog.text
    assert alike(resumed.step.state_dict(), reference.step.state_dict())
    assert {path.name for path in run.iterdir()} == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}


def test_resuming_without_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="No valid checkpoint"):
        make(tmp_path, method="erm", **SHORT).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("method", ["erm", "attentivemix", "automix"])
def test_a_checkpoint_of_the_stock_trainer_is_resumed_with_a_warning(tmp_path, caplog, method):
    args = TrainingArguments(tmp_path, max_steps=3, save_steps=1, report_to="none", use_cpu=True, disable_tqdm=True)
    Trainer(timm_resnet(), args, train_dataset=Rows(16)).train()
    shutil.rmtree(tmp_path / "checkpoint-3")
    arguments = {"teacher": None} if method == "attentivemix" else {}
    trainer = MixupTrainer(timm_resnet(), args, train_dataset=Rows(16), method={"name": method, **arguments})
    if method == "automix":
        with pytest.raises(CheckpointError, match="no state of the networks of method 'automix'.*from_pretrained"):
            trainer.train(resume_from_checkpoint=True)
        return
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 3 and "is loaded without verification" in caplog.text
    assert ("holds no state of method" in caplog.text) == (method == "attentivemix")


def test_saving_a_step_again_replaces_its_checkpoint(tmp_path):
    changes = {**SHORT, "save_total_limit": 1, "max_steps": 2}
    make(tmp_path, method="erm", **changes).train()
    first = (tmp_path / "checkpoint-2" / "model.safetensors").read_bytes()
    make(tmp_path, method="mixup", **changes).train()
    assert (tmp_path / "checkpoint-2" / "model.safetensors").read_bytes() != first
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    manifest.verify(tmp_path / "checkpoint-2")


def test_a_checkpoint_records_the_path_of_the_best_one(tmp_path):
    every = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "metric_for_best_model": "loss"}
    make(tmp_path, method="mixup", eval_dataset=Rows(8), **SHORT, **every).train()
    written = json.loads((tmp_path / "checkpoint-3" / "trainer_state.json").read_text())
    assert written["best_model_checkpoint"] == str(tmp_path / f"checkpoint-{written['best_global_step']}")


def test_saving_does_not_change_the_training(tmp_path):
    ends = []
    for changes in ({}, SHORT):
        watcher = Watcher()
        make(tmp_path, callbacks=[watcher], **{"max_steps": 3, "method": "mixup"} | changes).train()
        ends.append(watcher.weights[-1])
    assert alike(*ends)


def test_a_step_does_not_change_its_batch(make_net, images):
    step, batch = (
        MixupStep(make_net(), load("mixup"), classification),
        {"pixel_values": images(), "labels": torch.arange(5).repeat(2)[:6]},
    )
    before = {name: value.clone() for name, value in batch.items()}
    step((0, 0, 0, 0), **batch)
    assert alike(before, batch)


def test_the_training_loss_of_a_resumed_run_is_the_mean_of_its_own_steps(tmp_path):
    saving = {"max_steps": 8, "save_strategy": "steps", "save_steps": 3, "save_total_limit": None}

    def run(folder, logging_steps, resume=None):
        trainer = make(folder, **saving, logging_steps=logging_steps)
        return trainer, trainer.train(resume_from_checkpoint=resume).training_loss

    each = [entry["loss"] for entry in run(tmp_path / "each", 1)[0].state.log_history if "loss" in entry]
    trainer, loss = run(tmp_path / "run", 5)
    assert loss == pytest.approx(sum(each) / 8, rel=1e-4)
    resumed, loss = run(tmp_path / "run", 5, str(tmp_path / "run" / "checkpoint-3"))
    # older transformers divide by all steps
    assert any(loss == pytest.approx(sum(each[3:]) / steps, rel=1e-4) for steps in (5, 8))
    logged = [[entry["loss"] for entry in one.state.log_history if "loss" in entry] for one in (trainer, resumed)]
    assert logged[0] == pytest.approx(logged[1], rel=1e-4)
