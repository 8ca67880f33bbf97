"""Tasks in MixupTrainer: chosen by the network or given, with their labels, losses, metrics and columns."""

import math
from dataclasses import dataclass

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures.training import CLASSES, SIDE, Learnable, Rows, Seen, make, native_resnet, timm_resnet, wrapped
from torch import nn
from transformers import Trainer, TrainingArguments, set_seed

from hf_mixup import BatchMixup, MixupCollator, MixupTrainer, Net, soft_loss
from hf_mixup.data import Images
from hf_mixup.ops.losses import soft_cross_entropy
from hf_mixup.tasks import Metric, Task, load_task
from hf_mixup.tasks._base import Card


class Labelled(Rows):
    """Random images with given labels."""

    def __init__(self, label, count=24):
        super().__init__(count)
        self.label = label

    def __getitem__(self, row):
        return {"pixel_values": self.x[row], "labels": self.label(row)}


def several(row):
    return [float((row >> number) & 1) for number in range(CLASSES)]


def with_outputs(count, problem_type=None):
    set_seed(0)
    model = native_resnet()
    model.config.num_labels, model.config.problem_type = count, problem_type
    model.classifier[-1] = nn.Linear(16, count)
    model.num_labels = count
    return model


def trained(trainer_class, folder, model, data, **changes):
    """Training and evaluation loss, and the trainer."""
    usual = {"per_device_train_batch_size": 8, "num_train_epochs": 1, "report_to": "none", "use_cpu": True, "seed": 3}
    args = TrainingArguments(str(folder), disable_tqdm=True, save_strategy="no", **usual)
    trainer = trainer_class(model, args, train_dataset=data, eval_dataset=data, **changes)
    loss = trainer.train().training_loss
    return loss, trainer.evaluate()["eval_loss"], trainer


# Chosen by the network


def test_the_problem_type_of_the_network_chooses_the_multi_label_task(tmp_path):
    """Losses and weights are those of transformers' Trainer."""
    results = []
    for trainer_class, options in ((Trainer, {}), (MixupTrainer, {"method": "erm"})):
        model = with_outputs(CLASSES, "multi_label_classification")
        *losses, trainer = trained(trainer_class, tmp_path, model, Labelled(several), **options)
        results.append((losses, [p.detach().clone() for p in model.parameters()]))
    assert trainer.task.name == "multilabel" and "eval_map" not in trainer.evaluate()
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for one, other in zip(*(weights for _, weights in results)):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("problem_type", ["regression", None])
def test_a_network_with_one_output_needs_a_task(problem_type, tmp_path):
    with pytest.raises(ValueError, match="task"):
        make(tmp_path, with_outputs(1, problem_type), Labelled(float))


def test_classification_with_one_output_is_refused(tmp_path):
    trainer = make(tmp_path, with_outputs(1), Labelled(lambda row: 0), task="classification")
    with pytest.raises(ValueError, match="requires two classes or more"):
        trainer.train()


def test_one_logit_is_a_multi_label_task_with_its_problem_type(tmp_path):
    data = Labelled(lambda row: [float(row % 2)])
    results = []
    for trainer_class, options in ((Trainer, {}), (MixupTrainer, {"method": "erm"})):
        model = with_outputs(1, "multi_label_classification")
        results.append(trained(trainer_class, tmp_path, model, data, **options)[:2])
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_the_given_task_sets_the_problem_type_of_the_network(tmp_path):
    model = with_outputs(CLASSES)
    trainer = make(tmp_path, model, Labelled(several), task="multilabel", eval_dataset=Labelled(several))
    assert model.config.problem_type == "multi_label_classification"
    assert {"eval_map", "eval_f1_micro", "eval_f1_macro"} <= trainer.evaluate().keys()


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_a_network_of_another_problem_type_is_refused(task, tmp_path):
    other = {"classification": "multi_label_classification", "multilabel": "single_label_classification"}[task]
    with pytest.raises(ValueError, match=f"problem_type is '{other}'"):
        make(tmp_path, with_outputs(CLASSES, other), Rows(), task=task)


# Labels


def test_integer_labels_with_one_column_are_class_indices(tmp_path):
    results = []
    for label in (lambda row: row % CLASSES, lambda row: [row % CLASSES]):
        *losses, trainer = trained(MixupTrainer, tmp_path, with_outputs(CLASSES), Labelled(label), method="cutmix")
        results.append(losses)
    assert results[0] == results[1]
    trainer.compute_metrics = load_task("classification").metrics
    assert 0 <= trainer.evaluate()["eval_top1"] <= 1


def test_labels_of_other_shapes_are_refused_in_trainer_task_and_collators(tmp_path):
    wrong = {
        "two columns of integers": torch.ones(4, 2, dtype=torch.long),
        "a number": torch.rand(4),
        "rows of another length": torch.rand(4, CLASSES + 1),
        "truth values": torch.ones(4, CLASSES + 1, dtype=torch.bool),
    }
    images, net = torch.rand(4, 3, SIDE, SIDE), Net(timm_resnet())
    for labels in wrong.values():
        message = rf"Labels have shape \({', '.join(map(str, labels.shape))}"
        calls = [
            lambda labels=labels: load_task("classification")(net, {"pixel_values": images, "labels": labels}, None),
            lambda labels=labels: BatchMixup("mixup", CLASSES)(images, labels),
            lambda labels=labels: MixupCollator("mixup", CLASSES)(
                [{"pixel_values": x, "labels": y} for x, y in zip(images, labels)]
            ),
        ]
        if not labels.is_floating_point():
            calls.append(lambda labels=labels: soft_loss({"logits": torch.rand(4, CLASSES)}, labels))
        for call in calls:
            with pytest.raises(ValueError, match=message):
                call()
    with pytest.raises(ValueError, match="Labels have shape"):
        make(tmp_path, data=Labelled(lambda row: [row, row])).train()


def test_collators_and_the_soft_loss_accept_one_column_of_integers():
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([[0], [1], [2], [1]])
    one, other = (BatchMixup("mixup", 3, seed=0)(images, y) for y in (labels, labels[:, 0]))
    assert torch.equal(one[1], other[1])
    logits = torch.rand(4, 3)
    torch.testing.assert_close(soft_loss({"logits": logits}, labels), F.cross_entropy(logits, labels[:, 0]))


def test_rows_of_several_classes_are_refused_by_classification(tmp_path):
    with pytest.raises(ValueError, match="sum to 1 to 4.*multilabel"):
        make(tmp_path, data=Labelled(lambda row: several(row + 1)), per_device_train_batch_size=24).train()


def test_soft_labels_and_rows_without_a_label_train(tmp_path):
    soft = torch.eye(CLASSES) * 0.5 + 0.1
    make(tmp_path, data=Labelled(lambda row: (soft[row % CLASSES] * (row % 3 > 0)).tolist()), max_steps=3).train()


def test_class_indices_are_refused_by_the_multi_label_task(tmp_path):
    with pytest.raises(ValueError, match="rows .B, 5. with 1 for each class"):
        make(tmp_path, data=Rows(), task="multilabel").train()


# Losses


def test_the_loss_argument_counts_more_than_the_recipe(tmp_path):
    def brier(outputs, y):
        return (outputs.softmax(1) - y).square().sum(1)

    trainer = make(tmp_path, method="erm", loss_function=brier, loss="bce", eval_dataset=Rows())
    step, x, y = trainer.step, Rows().x, F.one_hot(Rows().y, CLASSES)
    losses = step(seed=(0, 0, 0, 0), pixel_values=x, labels=Rows().y)
    torch.testing.assert_close(losses["mix"], brier(step.net(x), y).mean())
    step.eval()
    with torch.no_grad():
        expected = brier(step.net(x), y).mean()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_class_weights_are_those_of_torch(tmp_path):
    weights, soft = [1.0, 2.0, 0.5, 0.0, 3.0], torch.rand(8, CLASSES).softmax(1)
    trainer = make(tmp_path, method="erm", class_weights=weights)
    logits = torch.randn(8, CLASSES)
    expected = F.cross_entropy(logits, soft, torch.tensor(weights), reduction="none")
    torch.testing.assert_close(trainer.step.net.row_loss(logits, soft), expected)
    trainer = make(tmp_path, with_outputs(CLASSES), Labelled(several), task="multilabel", class_weights=weights)
    expected = F.binary_cross_entropy_with_logits(logits, soft, torch.tensor(weights), reduction="none").mean(1)
    torch.testing.assert_close(trainer.step.net.row_loss(logits, soft), expected)


def test_class_weights_of_another_length_are_refused(tmp_path):
    with pytest.raises(ValueError, match="class_weights has 2 numbers for 5 classes"):
        make(tmp_path, class_weights=[1.0, 2.0]).train()


@pytest.mark.parametrize("value", [[1.0, 2.0, -1.0, 1.0, 1.0], [math.nan] * CLASSES, [0] * CLASSES, "abcde", 3])
def test_wrong_class_weights_are_refused(value, tmp_path):
    with pytest.raises(ValueError, match="class_weights is .*: give one finite number per class"):
        args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
        MixupTrainer(timm_resnet(), args, train_dataset=Rows(), class_weights=value).train()


class Scaled(nn.Module):
    """A loss with a parameter."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, outputs, y):
        return self.scale * soft_cross_entropy(outputs, y)


@pytest.mark.parametrize(
    "loss, fields, message",
    [
        ("focal", {}, "loss is 'focal': give a function"),
        (nn.CrossEntropyLoss, {}, "loss is <class .*: give a function"),
        (Scaled(), {}, "Scaled has parameters, which would not be trained"),
        (soft_cross_entropy, {"class_weights": [1.0] * CLASSES}, "give only one of loss and class_weights"),
        (lambda outputs, y: soft_cross_entropy(outputs, y).long(), {}, "of type torch.int64: return .* as floats"),
        (lambda outputs, y: soft_cross_entropy(outputs, y).detach(), {}, "has no gradient of the outputs"),
        (lambda outputs, y: soft_cross_entropy(outputs, y) * math.nan, {}, "with finite outputs is nan"),
    ],
)
def test_a_loss_that_cannot_be_used_is_refused(loss, fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make(tmp_path, loss_function=loss, **fields).train()


@pytest.mark.parametrize("change", [{"loss": "bce"}, {"class_weights": [1.0, 1.0]}])
def test_a_task_with_its_own_loss_refuses_those_of_classification(change, tmp_path):
    [name] = change
    with pytest.raises(ValueError, match=f"{name} is .* but task .*LabelMaps' has its own loss"):
        make(tmp_path, SmallSegmenter(), Maps(), task=LabelMaps(), **change).train()


def test_the_options_of_the_binary_loss_count_without_naming_it(tmp_path):
    net = make(tmp_path, data=Labelled(several), task="multilabel", bce_sum=True, bce_threshold=0.3).step.net
    outputs, y = torch.randn(4, CLASSES), torch.rand(4, CLASSES)
    expected = F.binary_cross_entropy_with_logits(outputs, (y > 0.3).float(), reduction="none").sum(1)
    torch.testing.assert_close(net.row_loss(outputs, y), expected)


def test_softmax_cross_entropy_is_refused_by_the_multi_label_task(tmp_path):
    with pytest.raises(ValueError, match="loss is 'ce', but images have several classes"):
        make(tmp_path, data=Labelled(several), task="multilabel", loss="ce").train()


def test_label_smoothing_is_refused_by_the_multi_label_task(tmp_path):
    with pytest.raises(ValueError, match="label_smoothing is 0.1, which task 'multilabel' does not support"):
        make(tmp_path, data=Labelled(several), task="multilabel", label_smoothing=0.1)


def test_compute_loss_returns_the_named_losses_and_logits_of_the_last_pass_with_gradient(tmp_path):
    kept = {}

    class Mine(MixupTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
            kept.update(outputs)
            loss = loss + outputs["logits"].square().mean()
            return (loss, outputs) if return_outputs else loss

    trainer = make(tmp_path, method="automix", max_steps=2, trainer_class=Mine)
    trainer.train()
    assert kept["logits"].shape == (8, CLASSES)
    assert {"loss", "mix", "onehot", "mask", "generator", "logits"} == kept.keys()
    torch.testing.assert_close(kept["loss"], sum(kept[key] for key in ("mix", "onehot", "mask", "generator")))


# Columns


def columns(**more):
    values = {"pixel_values": Rows(16).x.tolist(), "labels": Rows(16).y.tolist(), "name": ["x"] * 16} | more
    return datasets.Dataset.from_dict(values).with_format("torch")


def test_only_the_columns_of_the_task_are_kept_and_the_arguments_stay(tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", max_steps=1, disable_tqdm=True)
    before = args.to_dict()
    trainer = MixupTrainer(timm_resnet(), args, train_dataset=columns(), method="mixup")
    assert set(next(iter(trainer.get_train_dataloader()))) == {"pixel_values", "labels"}
    trainer.train()
    assert trainer.args is args and args.to_dict() == before
    assert args.remove_unused_columns


def test_a_network_with_other_argument_names_keeps_the_columns_of_the_task(tmp_path):
    model = timm_resnet().timm_model  # forward(x)
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", max_steps=1, disable_tqdm=True)
    trainer = MixupTrainer(model, args, train_dataset=columns(), eval_dataset=columns())
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0


def test_rows_without_labels_are_predicted(tmp_path):
    data = [{"pixel_values": x} for x in Rows(9).x]
    trainer = make(tmp_path)
    prediction = trainer.predict(data)
    assert prediction.predictions.shape == (9, CLASSES) and prediction.label_ids is None


# Evaluation


def test_the_evaluation_loss_is_the_mean_over_images(tmp_path):
    """17 images in batches of 8: the last batch has one."""
    rows = Learnable(17)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=CLASSES)})
    pictures = [(x.permute(1, 2, 0) * 30 + 128).clamp(0, 255).byte().numpy() for x in rows.x]
    data = datasets.Dataset.from_dict({"image": pictures, "label": rows.y.tolist()}, features=features)
    model, processor = wrapped()
    images = Images(data, "image", "label", SIDE)
    trainer = make(
        tmp_path, model, Rows(), eval_dataset=images, processing_class=processor, per_device_eval_batch_size=8
    )
    loss = trainer.evaluate()["eval_loss"]
    prediction = trainer.predict(images)
    expected = F.cross_entropy(torch.tensor(prediction.predictions), torch.tensor(prediction.label_ids))
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_a_function_as_task_is_evaluated_without_the_method(tmp_path):
    def regression(net, batch, rng):
        net = net.using(net.model, loss=lambda outputs, y: (outputs - y).square().mean(-1))
        return net, batch["pixel_values"], batch["labels"]

    data, model = Labelled(lambda row: [float(row)]), with_outputs(1)
    seen = Seen(model)
    trainer = make(tmp_path, model, data, task=regression, method="mixup", eval_dataset=data, max_steps=2)
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    model.eval()
    with torch.no_grad():
        outputs = model(data.x).logits
    assert loss == pytest.approx(float((outputs[:, 0] - torch.arange(24)).square().mean()), rel=1e-4)
    assert torch.equal(torch.cat(seen.evaluating)[:24], data.x)  # not mixed


def test_a_function_may_set_the_loss_of_its_network(tmp_path):
    def regression(net, batch, rng):
        net = net.using(net.model)
        net.row_loss = lambda outputs, y: (outputs - y).square().mean(-1)
        return net, batch["pixel_values"], batch["labels"]

    data = Labelled(lambda row: [float(row)])
    trainer = make(tmp_path, with_outputs(1), data, task=regression, method="mixup", eval_dataset=data)
    assert trainer.train().training_loss > 10 and trainer.evaluate()["eval_loss"] > 10


def test_a_module_as_loss(tmp_path):
    loss = torch.nn.CrossEntropyLoss(reduction="none", weight=torch.ones(CLASSES))
    trainer = make(tmp_path, loss_function=loss, method="mixup", eval_dataset=Rows())
    trainer.train()
    plain = make(tmp_path, method="mixup", eval_dataset=Rows())
    plain.train()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-5)


def test_a_class_names_order_of_data_and_network_is_compared(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("edcba"))})
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    data = datasets.Dataset.from_dict({"image": [picture] * 8, "label": [0] * 8}, features=features)
    model, processor = wrapped()  # classes a to e
    with pytest.raises(ValueError, match="must be the same in the same order"):
        make(tmp_path, model, Images(data, "image", "label", SIDE), processing_class=processor)


# Label maps, reduced before the metrics; labelled and unlabelled rows


@dataclass(eq=False)
class LabelMaps(Task):
    """Class of each pixel; an image's logits are reduced to the numbers of pixels of each class."""

    reads = "map"
    metric = "iou"
    higher_is_better = True
    card = Card("Maps", metrics=(Metric("iou", "IoU", "mean_iou"),))

    def forward(self, net, batch, rng):
        return net, batch["pixel_values"], F.one_hot(batch["labels"].long(), 3).movedim(-1, 1).float()

    def loss(self, outputs, y):
        return -(y * outputs.log_softmax(1)).sum(1).mean((1, 2))

    def evaluate(self, net, batch):
        net, x, y = self(net, batch, None)
        outputs = net(x)
        predicted = F.one_hot(outputs.argmax(1), 3).movedim(-1, 1)
        counts = [(predicted * y).sum((2, 3)), predicted.sum((2, 3)), y.sum((2, 3))]
        return self.loss(outputs, y), torch.stack(counts, 1)

    def metrics(self, prediction):
        assert prediction.label_ids is None
        both, predicted, true = prediction.predictions.sum(0)
        return {"iou": float((both / (predicted + true - both)).mean())}


class SmallSegmenter(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.layer(x)


class Maps(Rows):
    """Images whose class in each pixel is the brightest channel."""

    def __getitem__(self, row):
        return {"pixel_values": self.x[row], "labels": self.x[row].argmax(0)}


def test_label_maps_are_mixed_and_reduced_before_the_metrics(tmp_path):
    changes = {"task": LabelMaps(), "method": "mixup", "eval_dataset": Maps(20), "max_steps": 40, "learning_rate": 1.0}
    trainer = make(tmp_path, SmallSegmenter(), Maps(), **changes)
    before = trainer.evaluate()["eval_iou"]
    trainer.train()
    assert trainer.evaluate()["eval_iou"] > before + 0.1
    prediction = trainer.predict(Maps(20))
    assert prediction.predictions.shape == (20, 3, 3) and prediction.metrics["test_iou"] > before


@dataclass(eq=False)
class Semi(Task):
    """Labelled and unlabelled images as two keys of a batch; unlabelled ones have a row of zeros."""

    metric = "top1"
    higher_is_better = True

    def prepare(self, batch, rng):
        return {key: value if key == "labels" else self.transform(value, rng) for key, value in batch.items()}

    def forward(self, net, batch, rng):
        y = F.one_hot(batch["labels"], CLASSES).float()
        if "unlabelled" not in batch:
            return net, batch["pixel_values"], y
        x = torch.cat([batch["pixel_values"], batch["unlabelled"]])
        return net, x, F.pad(y, (0, 0, 0, len(batch["unlabelled"])))

    def loss(self, outputs, y):
        return -(y * outputs.log_softmax(1)).sum(1)

    def metrics(self, prediction):
        return {"top1": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def test_labelled_and_unlabelled_rows_are_keys_of_a_batch(tmp_path):
    def collate(rows):
        batch = {key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in ("pixel_values", "labels")}
        return {**batch, "unlabelled": batch["pixel_values"].flip(0).repeat(2, 1, 1, 1)}

    model = timm_resnet()
    seen = Seen(model)
    trainer = make(tmp_path, model, task=Semi(), method="cutmix", data_collator=collate, max_steps=2)
    trainer.train()
    assert [len(x) for x in seen.training] == [24, 24]


def test_the_class_names_of_a_users_data_set_in_another_order_are_refused(tmp_path):
    model = timm_resnet()  # classes a to e
    for names, right in (("abcde", True), ("edcba", False), ("vwxyz", True)):
        data = columns().cast_column("labels", datasets.ClassLabel(names=list(names)))
        if right:
            make(tmp_path, model, data, remove_unused_columns=False)
        else:
            with pytest.raises(ValueError, match="must be the same in the same order"):
                make(tmp_path, model, data)
