"""A user's Trainer script with MixupTrainer instead of Trainer: data sets, arguments, optimizers, saving, pushing."""

import datasets
import numpy as np
import pytest
import torch
from fixtures.training import (
    CLASSES,
    Learnable,
    Rows,
    Seen,
    Watcher,
    alike,
    are_rows,
    files,
    losses,
    native_resnet,
    native_vit,
    timm_resnet,
    weights,
)
from transformers import Trainer, TrainerCallback, TrainingArguments, get_constant_schedule

from hf_mixup import MixupTrainer

PICKLES = {"optimizer.pt", "scheduler.pt", "rng_state.pth"}


def arguments(folder, **changes) -> TrainingArguments:
    usual = {
        "max_steps": 4,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.01,
        "logging_steps": 1,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return TrainingArguments(str(folder), **usual | changes)


def accuracy(evaluated) -> dict[str, float]:
    assert evaluated.label_ids.ndim == 1 and np.issubdtype(evaluated.label_ids.dtype, np.integer)
    return {"accuracy": float((evaluated.predictions.argmax(-1) == evaluated.label_ids).mean())}


def formatted() -> datasets.Dataset:
    rows = Learnable()
    features = datasets.Features(
        {"pixel_values": datasets.Array3D((3, 16, 16), "float32"), "labels": datasets.ClassLabel(CLASSES)}
    )
    table = datasets.Dataset.from_dict({"pixel_values": rows.x.numpy(), "labels": rows.y.tolist()}, features=features)
    return table.with_format("torch")


def transformed() -> datasets.Dataset:
    rows = Learnable()

    def pixels(batch):
        return {"pixel_values": [rows.x[row] for row in batch["row"]], "labels": batch["label"]}

    table = datasets.Dataset.from_dict({"row": list(range(len(rows))), "label": rows.y.tolist()})
    table.set_transform(pixels)
    return table


class Counter(TrainerCallback):
    def __init__(self):
        self.steps = 0

    def on_step_end(self, args, state, control, **_):
        self.steps += 1


def script(cls, folder, data, **given):
    """Run a user's script: train, evaluate and save each step, keep two checkpoints, load the best at the end."""
    torch.manual_seed(0)
    args = arguments(
        folder,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        remove_unused_columns=False,
    )
    given = {"model": native_vit(), "callbacks": [Counter()]} | given
    trainer = cls(args=args, train_dataset=data, eval_dataset=data, compute_metrics=accuracy, **given)
    trainer.train()
    return trainer, trainer.evaluate()


@pytest.mark.parametrize("data", [formatted, transformed])
def test_a_script_for_trainer_runs_with_mixup_trainer(tmp_path, data):
    seen = []
    for cls in (Trainer, MixupTrainer):
        trainer, metrics = script(cls, tmp_path / cls.__name__, data())
        [counter] = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, Counter)]
        kept = {path.name for path in (tmp_path / cls.__name__).iterdir()}
        best = trainer.state.best_model_checkpoint.removeprefix(str(tmp_path / cls.__name__))
        assert len(kept) == 2 and best[1:] in kept
        seen.append((counter.steps, set(metrics), len(losses(trainer)), len(losses(trainer, "eval_accuracy"))))
    assert seen[0] == seen[1]
    assert (
        metrics["eval_accuracy"] == trainer.state.best_metric
    )  # transformers 5.23's Trainer does not load this network


def test_evaluation_equals_that_of_trainer(tmp_path):
    model, data = native_vit(), Learnable()
    ours = MixupTrainer(model, arguments(tmp_path), train_dataset=data, eval_dataset=data, compute_metrics=accuracy)
    ours.train()
    stock = Trainer(model, arguments(tmp_path), eval_dataset=data, compute_metrics=accuracy)
    for name in ("eval_loss", "eval_accuracy"):
        assert ours.evaluate()[name] == pytest.approx(stock.evaluate()[name], rel=1e-6)
    torch.testing.assert_close(ours.predict(data).predictions, stock.predict(data).predictions)


def test_the_log_history_equals_that_of_trainer(tmp_path):
    def history(cls, folder, **given):
        args = arguments(folder, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2)
        data = Rows(16)
        trainer = cls(native_vit(), args, train_dataset=data, eval_dataset=data, **given)
        trainer.train()
        timing = ("runtime", "per_second", "flos")
        return [
            {key: value for key, value in entry.items() if not any(word in key for word in timing)}
            for entry in trainer.state.log_history
        ]

    ours = history(MixupTrainer, tmp_path / "mixup", method="erm")
    assert ours == [pytest.approx(entry, rel=1e-4) for entry in history(Trainer, tmp_path / "upstream")]


def test_plain_training_arguments_select_mixup_which_mixes_in_training_only(tmp_path):
    model, data = timm_resnet(), Learnable()
    seen = Seen(model)
    trainer = MixupTrainer(model, arguments(tmp_path), train_dataset=data, eval_dataset=data)
    trainer.train()
    seen.evaluating.clear()
    trainer.evaluate()
    assert trainer.method.name == "mixup"
    assert not any(are_rows(x, data.x) for x in seen.training)
    assert all(are_rows(x, data.x) for x in seen.evaluating)


def test_a_given_optimizer_and_scheduler_are_used(tmp_path):
    model, watcher = timm_resnet(), Watcher()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    given = {"optimizers": (optimizer, get_constant_schedule(optimizer)), "callbacks": [watcher]}
    trainer = MixupTrainer(model, arguments(tmp_path, max_steps=1, max_grad_norm=0), train_dataset=Rows(), **given)
    trainer.train()
    for name, gradient in watcher.gradients[0].items():
        torch.testing.assert_close(watcher.weights[1][name], watcher.weights[0][name] - 0.125 * gradient)
    assert losses(trainer, "learning_rate") == [0.125]


def test_a_given_optimizer_trains_the_methods_networks_with_its_learning_rate(tmp_path):
    model = timm_resnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    given = {"optimizers": (optimizer, None), "method": "automix"}
    trainer = MixupTrainer(model, arguments(tmp_path, max_steps=1), train_dataset=Rows(), **given)
    before = {name: value.clone() for name, value in trainer.step.method.generator.state_dict().items()}
    trainer.train()
    assert {group["initial_lr"] for group in optimizer.param_groups} == {0.125}
    assert not alike(before, trainer.step.method.generator.state_dict())


def test_a_given_scheduler_is_refused_if_the_method_has_networks(tmp_path):
    model = timm_resnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    given = {"optimizers": (optimizer, get_constant_schedule(optimizer)), "method": "automix"}
    trainer = MixupTrainer(model, arguments(tmp_path), train_dataset=Rows(), **given)
    with pytest.raises(ValueError, match=r"automix.*optimizers=\(optimizer, None\)"):
        trainer.train()


def test_a_given_optimizer_of_another_model_is_refused(tmp_path):
    optimizer = torch.optim.SGD(timm_resnet().parameters(), lr=0.125)
    trainer = MixupTrainer(timm_resnet(), arguments(tmp_path), train_dataset=Rows(), optimizers=(optimizer, None))
    with pytest.raises(ValueError, match="does not hold .* parameters that have gradients.*they would not be updated"):
        trainer.train()


def test_a_given_optimizer_may_hold_a_part_of_the_parameters(tmp_path):
    model, watcher = timm_resnet(), Watcher()
    optimizer = torch.optim.SGD(model.timm_model.fc.parameters(), lr=0.125)
    given = {"optimizers": (optimizer, None), "callbacks": [watcher]}
    MixupTrainer(model, arguments(tmp_path), train_dataset=Rows(), **given).train()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, watcher.weights[0][name])}
    assert changed == {"timm_model.fc.weight", "timm_model.fc.bias"}


def test_a_subclass_whose_optimizer_leaves_out_parameters_is_refused(tmp_path):
    class ClassifierTrainer(MixupTrainer):
        def create_optimizer(self, model=None):
            self.optimizer = torch.optim.SGD(self.model.timm_model.fc.parameters(), lr=0.125)
            return self.optimizer

    trainer = ClassifierTrainer(timm_resnet(), arguments(tmp_path), train_dataset=Rows())
    with pytest.raises(
        ValueError, match="does not hold .* parameters that have gradients.*'net.model.timm_model.conv1"
    ):
        trainer.train()


@pytest.mark.parametrize("method", ["mixup", "automix"])
def test_model_init_creates_the_network_that_is_trained(tmp_path, method):
    created = []

    def model_init():
        created.append(timm_resnet())
        return created[-1]

    trainer = MixupTrainer(model_init=model_init, args=arguments(tmp_path), train_dataset=Rows(), method=method)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    assert trainer.model is created[-1] is trainer.step.net.model
    assert not alike(before, trainer.model.state_dict())


def test_the_best_checkpoint_is_none_if_the_best_step_was_not_saved(tmp_path):
    scores = iter([3.0, 1.0, 0.0, 2.0])
    args = arguments(
        tmp_path,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        save_total_limit=1,
    )
    data = Rows()
    given = {"train_dataset": data, "eval_dataset": data, "compute_metrics": lambda _: {"score": next(scores)}}
    trainer = MixupTrainer(timm_resnet(), args, **given)
    trainer.train()  # the best step, 1, has no checkpoint
    assert trainer.state.best_global_step == 1 and trainer.state.best_model_checkpoint is None
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_a_run_writes_no_pickles_but_the_optimizers_state_in_checkpoints(tmp_path):
    args = arguments(tmp_path, save_strategy="steps", save_steps=2)
    trainer = MixupTrainer(timm_resnet(), args, train_dataset=Rows(), method="automix")
    trainer.train()
    trainer.save_model(tmp_path / "final")
    found = files(tmp_path)
    pickles = {name for name, start in found.items() if start[:1] == b"\x80" or start == b"PK"}
    assert {name.split("/")[0] for name in pickles} == {"checkpoint-2", "checkpoint-4"}
    assert {name.split("/")[1] for name in pickles} == PICKLES
    assert not any("training_args" in name for name in found)


@pytest.mark.parametrize("folder", ["final", "checkpoint-4"])
@pytest.mark.parametrize("model", [native_resnet, native_vit, timm_resnet])
def test_a_saved_model_loads_with_from_pretrained(tmp_path, model, folder):
    args = arguments(tmp_path, save_strategy="steps", save_steps=4)
    trainer = MixupTrainer(model(), args, train_dataset=Rows(), method="cutmix")
    trainer.train()
    trainer.save_model(tmp_path / "final")
    loaded = type(trainer.model).from_pretrained(tmp_path / folder)
    assert alike(loaded.state_dict(), trainer.model.state_dict())


def test_a_plain_torch_network_trains_saves_and_resumes(tmp_path, resnet_model):
    args = arguments(tmp_path, save_strategy="steps", save_steps=2, remove_unused_columns=False)
    MixupTrainer(resnet_model(), args, train_dataset=Rows(), method="mixup").train()
    resumed = MixupTrainer(resnet_model(), args, train_dataset=Rows(), method="mixup")
    resumed.train(resume_from_checkpoint=tmp_path / "checkpoint-2")
    assert alike(weights(tmp_path / "checkpoint-4"), resumed.model.state_dict())
