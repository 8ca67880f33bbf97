"""Tasks of a user's own with a part that is missing or wrong: an error that says so, and never a wrong number."""

import json
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from fixtures.cli import folder_of, recipe_of, record_of, start
from fixtures.training import SIDE, Rows, make, native_vit
from toy_mistakes import Right

from hf_mixup.data import Images
from hf_mixup.data.labels import Labels
from hf_mixup.errors import TaskError
from hf_mixup.ops.losses import soft_cross_entropy
from hf_mixup.tasks import Card, Metric, Task, load_task

TOYS = Path(__file__).parent / "toy_mistakes.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("mistakes") / "data")


def with_part(**parts) -> type[Task]:
    """The class `Right` with other parts."""
    return type("Wrong", (Right,), {**parts, "__module__": __name__})


def trained(folder, task, **changes):
    trainer = make(folder, task=task, eval_dataset=Rows(24), **changes)
    trainer.train()
    return trainer.evaluate()


# The class


def test_a_task_without_forward_or_loss_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Task Wrong has no `forward`: define"):
        load_task(with_part(forward=Task.forward))
    with pytest.raises(ValueError, match="has no `loss`: define loss"):
        trained(tmp_path, with_part(loss=Task.loss))
    own = lambda outputs, y: soft_cross_entropy(outputs, y)  # noqa: E731
    assert trained(tmp_path, with_part(loss=Task.loss), loss_function=own)["eval_loss"] > 0


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"reads": "klass"}, "reads labels of kind 'klass': choose one of class, classes, number"),
        ({"views": 0}, "has views = 0: give"),
        ({"provides": frozenset(("clases",))}, "provides 'clases': choose from"),
        ({"card": None}, "has card = None: give a Card"),
        ({"card": Card(metrics=("accuracy",))}, "whose metrics are a tuple of Metric"),
        ({"higher_is_better": False}, "higher_is_better = False, but its card says True for 'accuracy'"),
        ({"__hash__": None}, r"@dataclass\(eq=False\)"),
    ],
)
def test_a_class_with_a_wrong_part_is_refused_when_it_is_loaded(parts, message):
    for task in (with_part(**parts), with_part(**parts)()):
        with pytest.raises(ValueError, match=message):
            load_task(task)


@pytest.mark.parametrize("name, outputs", [("FourOutputs", "'four'"), ("NoOutputs", "0")])
def test_a_wrong_number_of_outputs_is_refused(name, outputs, data, tmp_path, capsys):
    recipe = recipe_of(tmp_path / "recipe.yaml", data, task=f"{TOYS}:{name}")
    assert start(recipe, "--output_dir", tmp_path / "run") == 2
    assert f"returns {outputs}: return the number of outputs" in capsys.readouterr().err


def test_a_task_may_have_other_outputs_than_classes(data, tmp_path):
    assert (
        start(recipe_of(tmp_path / "recipe.yaml", data, task=f"{TOYS}:OneMore"), "--output_dir", tmp_path / "run") == 0
    )
    assert len(json.loads((tmp_path / "run" / "config.json").read_text())["label_names"]) == 3


def test_a_setting_that_a_record_cannot_hold_is_refused_before_training(data, tmp_path, capsys):
    recipe = recipe_of(tmp_path / "recipe.yaml", data, task=f"{TOYS}:PathAsField")
    assert start(recipe, "--output_dir", tmp_path / "run") == 2
    assert "has place = PosixPath('/somewhere'), which a run record cannot hold" in capsys.readouterr().err


# What a task returns


def loss_of(batch):
    return torch.zeros(len(batch["labels"]))


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"forward": lambda s, net, b, rng: None}, "`forward` of task .* returns None: return network"),
        ({"forward": lambda s, net, b, rng: (net, b["pixel_values"])}, "returns a tuple of 2"),
        ({"forward": lambda s, net, b, rng: (net.model, b["pixel_values"], b["labels"])}, "as network: return `net`"),
        ({"forward": lambda s, net, b, rng: (net, b["pixel_values"], b["labels"])}, "return one row of floats per"),
        ({"forward": lambda s, net, b, rng: (net, b["pixel_values"], torch.ones(3, 5))}, r"\(3, 5\) .* of 8 images"),
        ({"forward": lambda s, net, b, rng: (net, b["labels"], b["labels"])}, "as images: return floats"),
        ({"prepare": lambda s, b, rng: None}, "`prepare` of task .* returns None: return a batch"),
        ({"prepare": lambda s, b, rng: {**b, "pixel_values": b["labels"]}}, "as pixel_values: return floats"),
        ({"loss": lambda s, o, y: soft_cross_entropy(o, y).mean()}, r"is a tensor \(\) .* one number per row, \(8,\)"),
        ({"loss": lambda s, o, y: -y * o.log_softmax(-1)}, r"is a tensor \(8, 5\) .* one number per row, \(8,\)"),
        ({"evaluate": lambda s, net, b: loss_of(b)}, r"`evaluate` of task .* return the loss \(B,\)"),
        ({"evaluate": lambda s, net, b: (torch.zeros(()), loss_of(b))}, "as loss: return one number per image"),
        ({"evaluate": lambda s, net, b: (loss_of(b), torch.zeros(5))}, "one row for each of the 8 images"),
        ({"evaluate": lambda s, net, b: (loss_of(b), {"a": loss_of(b), "b": None})}, "returns None for `metrics`"),
        ({"evaluate": lambda s, net, b: (loss_of(b), loss_of(b).numpy())}, "of type ndarray for `metrics`"),
        ({"metrics": lambda s, p: None}, "`metrics` of task .* returns None: return a dict"),
        ({"metrics": lambda s, p: {}}, "but not 'accuracy', which its `metric` or card names"),
        ({"metrics": lambda s, p: {"accuracy": "high"}}, "returns 'high' as 'accuracy': return a number"),
        ({"metrics": lambda s, p: {"accuracy": np.ones(2)}}, "of type ndarray as 'accuracy'"),
        ({"metrics": lambda s, p: {"accuracy": 1.0, "of": {"a": 1.0}}}, "of type dict as 'of'"),
        ({"metrics": lambda s, p: {"accuracy": 1.0, "loss": 0.0}}, "returns 'loss', which is the mean loss"),
    ],
)
def test_a_wrong_result_is_an_error_that_names_it(parts, message, tmp_path):
    with pytest.raises(TaskError, match=message):
        trained(tmp_path, with_part(**parts), per_device_eval_batch_size=8)


@pytest.mark.parametrize(
    "value, expected",
    [(np.float32(0.5), 0.5), (np.int64(1), 1.0), (np.array(0.5), 0.5), (torch.tensor(0.5), 0.5), (1, 1.0)],
)
def test_numbers_of_numpy_and_torch_are_metrics(value, expected, tmp_path):
    found = trained(tmp_path, with_part(metrics=lambda self, prediction: {"accuracy": value}))["eval_accuracy"]
    assert found == expected and type(found) is float


def test_a_metric_that_is_nan_is_none_in_the_record(data, tmp_path):
    recipe = recipe_of(tmp_path / "recipe.yaml", data, task=f"{TOYS}:NotANumber")
    assert start(recipe, "--output_dir", tmp_path / "run") == 0
    assert record_of(tmp_path / "run")["final"]["accuracy"] is None


@dataclass(eq=False)
class OneNumber(Task):
    """Predicts a number; its targets have the shape of the labels, (B,), or of the outputs, (B, 1)."""

    reads = "number"
    metric, higher_is_better = "mae", False
    card = Card("One number", metrics=(Metric("mae", "MAE", "mae", higher_is_better=False),))
    column: bool = False

    def forward(self, net, batch, rng):
        labels = batch["labels"].float()
        return net, batch["pixel_values"], labels[:, None] if self.column else labels

    def loss(self, outputs, y):
        return (outputs - y).square().mean(-1)

    def metrics(self, prediction):
        return {"mae": np.abs(prediction.predictions[:, 0] - prediction.label_ids).mean()}


def number_network():
    model = native_vit()
    model.classifier = torch.nn.Linear(24, 1)
    return model


def test_targets_that_are_broadcast_over_the_outputs_are_an_error(tmp_path):
    with pytest.raises(TaskError, match=r"outputs have shape \(8, 1\) and targets \(8,\), which torch broadcasts"):
        trained(tmp_path, OneNumber(), model=number_network())
    assert trained(tmp_path, OneNumber(column=True), model=number_network())["eval_mae"] > 0

    class Squeezed(OneNumber):
        def loss(self, outputs, y):
            return (outputs[:, 0] - y).square()

    assert trained(tmp_path, Squeezed(), model=number_network())["eval_mae"] > 0


def test_a_network_with_another_number_of_outputs_than_the_targets_is_an_error(tmp_path):
    parts = {"forward": lambda s, net, b, rng: (net, b["pixel_values"], torch.ones(len(b["labels"]), 3))}
    with pytest.raises(TaskError, match=r"outputs of shape \(8, 5\) and targets of shape \(8, 3\)"):
        trained(tmp_path, with_part(**parts))


def test_a_network_with_more_outputs_than_numbers_is_refused(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "number": datasets.Value("float32")})
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    rows = datasets.Dataset.from_dict({"image": [picture] * 8, "number": [0.5] * 8}, features=features)
    images = Images(rows, "image", "number", SIDE, labels=Labels("number", size=1))
    assert make(tmp_path, number_network(), images, task=OneNumber(column=True))
    with pytest.raises(ValueError, match="has 5 outputs, but task .*OneNumber' requires 1 for this data"):
        make(tmp_path, native_vit(), images, task=OneNumber(column=True))


def test_a_task_that_is_neither_a_task_nor_a_function_is_refused(tmp_path):
    with pytest.raises(ValueError, match="task is 5: give the name of a task"):
        make(tmp_path, task=5)


def test_a_loss_argument_that_is_not_one_number_per_row_is_an_error(tmp_path):
    with pytest.raises(TaskError, match=r"one number per row, \(8,\)"):
        trained(tmp_path, Right(), loss_function=torch.nn.CrossEntropyLoss())


def test_a_batch_without_the_labels_of_the_task_is_an_error(tmp_path):
    class Renamed(Rows):
        def __getitem__(self, row):
            return {"pixel_values": self.x[row], "target": int(self.y[row])}

    with pytest.raises(TaskError, match=r"reads 'labels', but the batch has only \['pixel_values', 'target'\]"):
        trained(tmp_path, "classification", data=Renamed(), remove_unused_columns=False)


@pytest.mark.parametrize("flags", [[], ["--dry_run"]])
def test_the_command_ends_with_status_2_and_one_line(flags, data, tmp_path, capsys):
    recipe = recipe_of(tmp_path / "recipe.yaml", data, task=f"{TOYS}:MeanLoss")
    assert start(recipe, "--output_dir", tmp_path / "run", *flags) == 2
    assert "return one number per row, (4,), without the mean" in capsys.readouterr().err.splitlines()[-1]


# Evaluation


def test_metrics_of_collected_batches_are_those_of_the_whole_set(tmp_path):
    whole, batches = (
        trained(tmp_path, "classification", per_device_eval_batch_size=5, batch_eval_metrics=by_batch)
        for by_batch in (False, True)
    )
    for name in ("eval_top1", "eval_nll", "eval_ece"):
        assert batches[name] == pytest.approx(whole[name], rel=1e-6)


@pytest.mark.parametrize("given, expected", [({}, False), ({"greater_is_better": True}, True)])
@pytest.mark.parametrize("split", ["", "one_"])
def test_the_direction_of_a_metric_is_that_of_the_task(split, given, expected, tmp_path):
    changes = {"load_best_model_at_end": True, "save_strategy": "epoch", "eval_strategy": "epoch", "max_steps": -1}
    changes |= {"num_train_epochs": 3, "learning_rate": 1e-3, "metric_for_best_model": f"{split}mae"} | given
    changes["eval_dataset"] = {"one": Rows(24), "other": Rows(8)} if split else Rows(24)
    trainer = make(tmp_path, number_network(), task=OneNumber(column=True), **changes)
    trainer.train()
    key = f"eval_{split}mae"
    found = [entry[key] for entry in trainer.state.log_history if key in entry]
    assert trainer.args.greater_is_better is expected and len(set(found)) == 3
    assert trainer.state.best_metric == (max if expected else min)(found)


def test_the_checkpoint_that_is_saved_as_the_best_is_that_of_the_task_s_metric(data, tmp_path):
    changes = {"save_strategy": "best", "eval_strategy": "epoch", "num_train_epochs": 3}
    recipe = recipe_of(tmp_path / "recipe.yaml", data, task=f"{TOYS}:Right", **changes)
    assert start(recipe, "--output_dir", tmp_path / "run") == 0
    [state] = (tmp_path / "run").glob("checkpoint-*/trainer_state.json")
    best = json.loads(state.read_text())["best_metric"]
    assert best == max(entry["accuracy"] for entry in record_of(tmp_path / "run")["epochs"])


def test_labels_of_several_classes_are_zeros_and_ones(tmp_path):
    class Signed(Rows):
        def __getitem__(self, row):
            return {"pixel_values": self.x[row], "labels": torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0])}

    with pytest.raises(ValueError, match="are -1 to 1: give 1 for each class of the image and 0 for the others"):
        trained(tmp_path, "multilabel", data=Signed())
