"""Any nn.Module trains, evaluates and predicts without further arguments."""

import pytest
import timm
import torch
import torchvision
from fixtures.training import CLASSES, Rows, native_resnet
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import ImageClassifierOutput

from hf_mixup import MixupTrainer, Net


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


def torchvision_resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=CLASSES)


def bare_timm():
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=CLASSES)


NETWORKS = (Logits, Keyword, LabelsFirst, Mapping, Output, Tuple, torchvision_resnet, bare_timm)


def arguments(folder, **changes):
    usual = {"max_steps": 2, "per_device_train_batch_size": 8, "report_to": "none", "use_cpu": True}
    return TrainingArguments(str(folder), disable_tqdm=True, save_strategy="no", **usual | changes)


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
    for network in (Logits, Keyword, LabelsFirst, Mapping, Output, Tuple):
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


def test_further_outputs_of_a_network_are_predicted_as_by_transformers(tmp_path):
    """Hidden states, if the configuration asks for them."""
    shapes = []
    for trainer_class, options in ((Trainer, {}), (MixupTrainer, {"method": "erm"})):
        model = native_resnet()
        model.config.output_hidden_states = True
        trainer = trainer_class(model, arguments(tmp_path), **options)
        logits, *others = trainer.predict(Rows(9)).predictions
        shapes.append([logits.shape, *[[part.shape for part in other] for other in others]])
    assert shapes[0] == shapes[1]
