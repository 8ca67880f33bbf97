"""Any nn.Module trains, evaluates and predicts without further arguments."""

import shutil
from functools import partial
from typing import NamedTuple

import pytest
import timm
import torch
import torchvision
from fixtures.training import CLASSES, Rows, native_resnet
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import ImageClassifierOutput

from hf_mixup import MixupTrainer, Net
from hf_mixup.errors import TaskError


class Own(nn.Module):
    """A network of one's own: its logits are those of a small ResNet."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = timm.create_model("resnet10t", num_classes=CLASSES)


class Logits(Own):
    def forward(self, images):
        return self.net(images)


class Keyword(Own):
    def forward(self, *, pixel_values, labels=None):
        return self.net(pixel_values)


class LabelsFirst(Own):
    def forward(self, labels=None, pixel_values=None):
        return self.net(pixel_values)


class Mapping(Own):
    def forward(self, pixel_values, labels=None):
        return {"logits": self.net(pixel_values), "features": pixel_values.mean((2, 3))}


class Output(Own):
    def forward(self, pixel_values):
        return ImageClassifierOutput(logits=self.net(pixel_values))


class Tuple(Own):
    def forward(self, pixel_values):
        return self.net(pixel_values), pixel_values.mean()


class KeywordsOnly(Own):
    def forward(self, **batch):
        return self.net(batch["pixel_values"])


class Named(NamedTuple):
    features: torch.Tensor
    logits: torch.Tensor


class NamedLogits(Own):
    def forward(self, x):
        return Named(x.mean((2, 3)), self.net(x))


class Convolution(nn.Module):
    """A network that ends in a convolution and says how many classes it has."""

    num_classes = CLASSES

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, CLASSES, 3)

    def forward(self, x):
        return self.layer(x).mean((2, 3))


def torchvision_resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=CLASSES)


def bare_timm():
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=CLASSES)


NETWORKS = (
    KeywordsOnly,
    NamedLogits,
    Convolution,
    Logits,
    Keyword,
    LabelsFirst,
    Mapping,
    Output,
    Tuple,
    torchvision_resnet,
    bare_timm,
)


def arguments(folder, **changes):
    usual = {"max_steps": 2, "per_device_train_batch_size": 8, "report_to": "none", "use_cpu": True}
    return TrainingArguments(str(folder), disable_tqdm=True, **usual | {"save_strategy": "no"} | changes)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", ["cutmix", "puzzlemix"])
def test_a_network_trains_evaluates_predicts_and_saves(network, method, tmp_path):
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    trainer = MixupTrainer(model, arguments(tmp_path), train_dataset=Rows(), eval_dataset=Rows(20), method=method)
    trainer.train()
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before))
    assert 0 < trainer.evaluate()["eval_loss"] < 10
    predictions = trainer.predict(Rows(20)).predictions
    logits, *further = predictions if isinstance(predictions, tuple) else (predictions,)
    assert logits.shape == (20, CLASSES) and [other.shape for other in further] == (
        [(20, 3)] if network is Mapping else []
    )
    trainer.save_model()
    assert (tmp_path / "model.safetensors").is_file()


def test_networks_with_the_same_logits_train_to_the_same_weights(tmp_path):
    results = []
    for network in (Logits, Keyword, KeywordsOnly, LabelsFirst, Mapping, NamedLogits, Output, Tuple):
        model = network()
        MixupTrainer(model, arguments(tmp_path), train_dataset=Rows(), method="mixup").train()
        results.append(model.state_dict())
    assert all(torch.equal(value, other[key]) for other in results[1:] for key, value in results[0].items())


def test_a_network_without_logits_is_refused():
    class Nothing(Own):
        def forward(self, x):
            return {"features": x}

    with pytest.raises(ValueError, match="it must return logits as a tensor"):
        Net(Nothing())(torch.rand(2, 3, 32, 32))


def test_a_wrapped_network_is_saved_and_resumed_as_the_one_inside(tmp_path):
    for number, wrap in enumerate((nn.DataParallel, partial(torch.compile, backend="eager"))):
        options = {"save_strategy": "steps", "save_steps": 1}
        parts = {"train_dataset": Rows(), "eval_dataset": Rows(20)}
        MixupTrainer(wrap(Logits()), arguments(tmp_path / str(number), **options), **parts).train()
        ended = load_file(tmp_path / str(number) / "checkpoint-2/model.safetensors")
        shutil.rmtree(tmp_path / str(number) / "checkpoint-2")
        best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1}
        trainer = MixupTrainer(wrap(Logits()), arguments(tmp_path / str(number), **options, **best), **parts)
        trainer.train(resume_from_checkpoint=True)
        resumed = load_file(tmp_path / str(number) / "checkpoint-2/model.safetensors")
        assert all(torch.equal(value, resumed[key]) for key, value in ended.items())
        assert set(resumed) == set(Logits().state_dict())
    with pytest.raises(ValueError, match="torch_compile cannot be used with method 'puzzlemix'"):
        MixupTrainer(torch.compile(Logits()), arguments(tmp_path), method="puzzlemix")


def test_a_compiled_network_runs_compiled(tmp_path):
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph

    MixupTrainer(torch.compile(Logits(), backend=backend), arguments(tmp_path), train_dataset=Rows()).train()
    assert calls


def test_a_loss_that_is_the_first_item_is_not_taken_for_logits(tmp_path):
    class LossFirst(Own):
        def forward(self, x):
            logits = self.net(x)
            return logits.mean(), logits

    with pytest.raises(TaskError, match=r"outputs of shape \(\) for 8 images: it must return one row of logits"):
        MixupTrainer(LossFirst(), arguments(tmp_path), train_dataset=Rows()).train()


def test_a_missing_column_of_images_is_an_error_that_names_it(tmp_path):
    rows = [{"picture": torch.rand(3, 32, 32), "labels": 0}] * 8
    trainer = MixupTrainer(Logits(), arguments(tmp_path, remove_unused_columns=False), train_dataset=rows)
    with pytest.raises(TaskError, match=r"reads 'pixel_values', but the batch has only \['labels', 'picture'\]"):
        trainer.train()


def test_further_outputs_of_a_network_are_predicted_as_by_transformers(tmp_path):
    """Hidden states, if the configuration asks for them."""
    shapes = []
    for trainer_class, options in ((Trainer, {}), (MixupTrainer, {"method": "erm"})):
        model = native_resnet()
        model.config.output_hidden_states = True
        trainer = trainer_class(model, arguments(tmp_path), **options)
        for rows in (Rows(9), [{"pixel_values": Rows(9)[row]["pixel_values"]} for row in range(9)]):  # without labels
            logits, *others = trainer.predict(rows).predictions
            shapes.append([logits.shape, *[[part.shape for part in other] for other in others]])
    assert shapes[:2] == shapes[2:]
