"""`freeze: backbone` trains the classifier only; parameters that a user froze stay as they are."""

import shutil

import pytest
import timm
import torch
from fixtures.training import (
    Rows,
    Watcher,
    alike,
    config,
    losses,
    make,
    native_resnet,
    native_vit,
    timm_resnet,
    timm_vit,
)
from torch import nn

from hf_mixup import MixupTrainer
from hf_mixup.net.architecture import architecture_of

CHEAP = {"puzzlemix": {"grids": (2, 4)}}
METHODS = ("cutmix", "manifoldmix", "automix", "puzzlemix")
PAIRS = [(model, method) for model in (timm_resnet, native_resnet) for method in METHODS]
PAIRS += [(model, method) for model in (timm_vit, native_vit) for method in (*METHODS, "transmix")]
SAVED = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1}


def freezing(folder, model, method="cutmix", **changes):
    usual = {"method_args": CHEAP.get(method, {}), "optimizer": "momentum", "weight_decay": 0.1, "max_steps": 2}
    return make(folder, model, method=method, freeze="backbone", **usual | changes)


def split(model) -> tuple[dict, dict]:
    """Copies of the backbone's weights and buffers, and of the classifier's."""
    own = [value.data_ptr() for value in architecture_of(model).classifier.state_dict().values()]
    state = {name: (value.data_ptr() in own, value.clone()) for name, value in model.state_dict().items()}
    return tuple({name: value for name, (owned, value) in state.items() if owned is side} for side in (False, True))


@pytest.mark.parametrize(("model", "method"), PAIRS)
def test_only_the_classifier_and_the_methods_networks_are_trained(tmp_path, model, method):
    model, watcher = model(), Watcher()
    backbone, classifier = split(model)
    trainer = freezing(tmp_path, model, method, callbacks=[watcher], eval_dataset=Rows(8), eval_strategy="steps")
    trainer.train()
    after, trained = split(model)
    assert alike(after, backbone) and not any(torch.equal(trained[name], classifier[name]) for name in classifier)
    assert {frozenset(found) for found in watcher.gradients} == {frozenset(classifier)}
    held = {p for group in trainer.optimizer.param_groups for p in group["params"]}
    assert held == {p for p in trainer.step.parameters() if p.requires_grad}
    assert (len(held) > len(classifier)) == (method == "automix")


def test_the_backbone_is_in_eval_mode_in_each_training_step(tmp_path):
    model, modes = timm_resnet(drop_rate=0.5), []
    classifier = architecture_of(model).classifier
    for module in model.modules():
        module.register_forward_pre_hook(lambda module, _: modes.append((module is classifier, module.training)))
    freezing(tmp_path, model, eval_dataset=Rows(8), eval_strategy="steps", eval_steps=1).train()
    assert {training for is_classifier, training in modes if not is_classifier} == {False}
    assert {training for is_classifier, training in modes if is_classifier} == {False, True}


@pytest.mark.parametrize("method", ["manifoldmix", "automix"])
def test_a_resumed_run_with_a_frozen_backbone_ends_at_the_same_bits(tmp_path, method):
    reference = freezing(tmp_path / "reference", timm_resnet(), method, ema_decay=0.9, **SAVED)
    reference.train()
    shutil.copytree(tmp_path / "reference" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    resumed = freezing(tmp_path / "resumed", timm_resnet(), method, ema_decay=0.9, **SAVED)
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(reference) and alike(resumed.step.state_dict(), reference.step.state_dict())
    assert alike(split(resumed.model)[0], split(timm_resnet())[0])


def test_the_trainer_takes_freeze_and_returns_outputs_of_a_frozen_network(tmp_path):
    trainer = MixupTrainer(timm_resnet(), config(tmp_path), method="cutmix", train_dataset=Rows(), freeze="backbone")
    batch = {"pixel_values": Rows().x[:4], "labels": Rows().y[:4]}
    trainer.current_gradient_accumulation_steps = 1
    _, outputs = trainer.compute_loss(trainer.step.train(), batch, return_outputs=True)
    assert outputs["logits"].shape == (4, 5)
    assert sum(p.requires_grad for p in trainer.model.parameters()) == 2


def test_both_classifiers_of_a_distilled_network_are_trained(tmp_path):
    model = distilled()
    freezing(tmp_path, model, optimizer="sgd").train()
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        f"{head}.{part}" for head in ("head", "head_dist") for part in ("weight", "bias")
    }


def distilled():
    torch.manual_seed(0)
    shape = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
    return timm.create_model("deit_tiny_distilled_patch16_224", img_size=16, num_classes=5, **shape)


def test_a_network_without_a_linear_classifier_is_refused_by_name(tmp_path):
    class Convolutional(nn.Sequential):
        pass

    model = Convolutional(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="Convolutional has none: leave freeze out"):
        freezing(tmp_path, model)
    with pytest.raises(ValueError, match="freeze is 'head': give 'backbone'"):
        MixupTrainer(timm_resnet(), config(tmp_path), freeze="head")


def test_parameters_that_the_user_froze_do_not_move(tmp_path):
    for optimizer in ("momentum", None):
        model = timm_resnet()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("layer4" in name or "fc" in name)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        make(tmp_path, model, method="automix", optimizer=optimizer, max_steps=2, weight_decay=0.1).train()
        moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        assert moved == {name for name in before if "layer4" in name or "fc" in name}


def test_a_frozen_batchnorm_accepts_batches_of_one_image(tmp_path):
    trainer = freezing(tmp_path, timm_resnet(), per_device_train_batch_size=1)
    trainer.train()
    assert trainer.state.global_step == 2
