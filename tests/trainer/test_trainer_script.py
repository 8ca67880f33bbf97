"""What a user's Trainer script already has works when only the name of the class changes."""

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
    """A stock script: evaluates, saves, keeps two checkpoints and ends with the best."""
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
def test_a_stock_script_needs_another_class_name_only(tmp_path, data):
    seen = []
    for cls in (Trainer, MixupTrainer):
        trainer, metrics = script(cls, tmp_path / cls.__name__, data())
        [counter] = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, Counter)]
        kept = {path.name for path in (tmp_path / cls.__name__).iterdir()}
        best = trainer.state.best_model_checkpoint.removeprefix(str(tmp_path / cls.__name__))
        assert len(kept) == 2 and best[1:] in kept
        seen.append((counter.steps, set(metrics), len(losses(trainer)), len(losses(trainer, "eval_accuracy"))))
    assert seen[0] == seen[1]
    assert metrics["eval_accuracy"] == trainer.state.best_metric  # transformers 5.23's own does not load this network


def test_the_evaluation_is_that_of_the_stock_trainer(tmp_path):
    model, data = native_vit(), Learnable()
    ours = MixupTrainer(model, arguments(tmp_path), train_dataset=data, eval_dataset=data, compute_metrics=accuracy)
    ours.train()
    stock = Trainer(model, arguments(tmp_path), eval_dataset=data, compute_metrics=accuracy)
    for name in ("eval_loss", "eval_accuracy"):
        assert ours.evaluate()[name] == pytest.approx(stock.evaluate()[name], rel=1e-6)
    torch.testing.assert_close(ours.predict(data).predictions, stock.predict(data).predictions)


def test_mixup_is_the_method_of_plain_arguments_and_mixes_in_training_only(tmp_path):
    model, data = timm_resnet(), Learnable()
    seen = Seen(model)
    trainer = MixupTrainer(model, arguments(tmp_path), train_dataset=data, eval_dataset=data)
    trainer.train()
    seen.evaluating.clear()
    trainer.evaluate()
    assert trainer.method.name == "mixup"
    assert not any(are_rows(x, data.x) for x in seen.training)
    assert all(are_rows(x, data.x) for x in seen.evaluating)


def test_given_optimizer_and_scheduler_are_used(tmp_path):
    model, watcher = timm_resnet(), Watcher()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    given = {"optimizers": (optimizer, get_constant_schedule(optimizer)), "callbacks": [watcher]}
    trainer = MixupTrainer(model, arguments(tmp_path, max_steps=1, max_grad_norm=0), train_dataset=Rows(), **given)
    trainer.train()
    for name, gradient in watcher.gradients[0].items():
        torch.testing.assert_close(watcher.weights[1][name], watcher.weights[0][name] - 0.125 * gradient)
    assert losses(trainer, "learning_rate") == [0.125]


def test_a_given_optimizer_trains_the_methods_networks_at_its_own_rate(tmp_path):
    model = timm_resnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    given = {"optimizers": (optimizer, None), "method": "automix"}
    trainer = MixupTrainer(model, arguments(tmp_path, max_steps=1), train_dataset=Rows(), **given)
    before = {name: value.clone() for name, value in trainer.step.method.generator.state_dict().items()}
    trainer.train()
    assert {group["initial_lr"] for group in optimizer.param_groups} == {0.125}
    assert not alike(before, trainer.step.method.generator.state_dict())


def test_a_scheduler_that_does_not_know_the_methods_networks_is_refused(tmp_path):
    model = timm_resnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    given = {"optimizers": (optimizer, get_constant_schedule(optimizer)), "method": "automix"}
    trainer = MixupTrainer(model, arguments(tmp_path), train_dataset=Rows(), **given)
    with pytest.raises(ValueError, match=r"automix.*optimizers=\(optimizer, None\)"):
        trainer.train()


@pytest.mark.parametrize("method", ["mixup", "automix"])
def test_model_init_makes_the_network_that_is_trained(tmp_path, method):
    made = []

    def model_init():
        made.append(timm_resnet())
        return made[-1]

    trainer = MixupTrainer(model_init=model_init, args=arguments(tmp_path), train_dataset=Rows(), method=method)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    assert trainer.model is made[-1] is trainer.step.net.model
    assert not alike(before, trainer.model.state_dict())


def test_the_best_checkpoint_is_one_that_was_saved(tmp_path):
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


def test_a_run_leaves_no_pickle_but_the_optimizers_state_in_checkpoints(tmp_path):
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
def test_a_saved_model_loads_by_from_pretrained(tmp_path, model, folder):
    args = arguments(tmp_path, save_strategy="steps", save_steps=4)
    trainer = MixupTrainer(model(), args, train_dataset=Rows(), method="cutmix")
    trainer.train()
    trainer.save_model(tmp_path / "final")
    again = type(trainer.model).from_pretrained(tmp_path / folder)
    assert alike(again.state_dict(), trainer.model.state_dict())


def test_a_network_that_is_not_transformers_trains_and_is_saved(tmp_path, resnet_model):
    args = arguments(tmp_path, save_strategy="steps", save_steps=2, remove_unused_columns=False)
    MixupTrainer(resnet_model(), args, train_dataset=Rows(), method="mixup").train()
    again = MixupTrainer(resnet_model(), args, train_dataset=Rows(), method="mixup")
    again.train(resume_from_checkpoint=tmp_path / "checkpoint-2")
    assert alike(weights(tmp_path / "checkpoint-4"), again.model.state_dict())
