"""EMA weights, timm's optimizers with layer decay, and learning rate schedules."""

import copy

import pytest
import torch
import torch.nn.functional as F
from fixtures.training import Learnable, Rows, Watcher, alike, losses, make, timm_resnet, timm_vit, weights
from safetensors.torch import load_file

from hf_mixup.models.build import build_model, synchronise_batchnorm

DECAY = 0.75


def averaged(steps: list[dict], decay: float) -> dict:
    """The exponential moving average of the weights of all steps: `decay` x average + (1 - `decay`) x new weights."""
    ema = {name: value.clone() for name, value in steps[0].items()}
    for step in steps[1:]:
        for name, value in step.items():
            ema[name] = decay * ema[name] + (1 - decay) * value if value.is_floating_point() else value
    return ema


def trained(folder, choice, **changes):
    watcher = Watcher()
    given = {"ema_decay": DECAY, "eval_weights": choice, "eval_dataset": Learnable(16)}
    trainer = make(folder, timm_resnet(), Learnable(), [watcher], method="erm", max_steps=3, **given | changes)
    trainer.train()
    return trainer, watcher


def test_the_ema_after_three_steps_equals_its_definition(tmp_path):
    trainer, watcher = trained(tmp_path, "ema")
    expected = averaged(watcher.weights, DECAY)
    for name, value in trainer.ema.average.module.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("choice", ["model", "ema"])
def test_the_chosen_weights_are_evaluated_and_the_model_keeps_the_trained_ones(tmp_path, choice):
    trainer, watcher = trained(tmp_path, choice)
    chosen = watcher.weights[-1] if choice == "model" else averaged(watcher.weights, DECAY)
    model, data = copy.deepcopy(trainer.model).eval(), Learnable(16)
    model.load_state_dict(chosen)
    with torch.no_grad():
        expected = float(F.cross_entropy(model(data.x).logits, data.y))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)
    assert alike(trainer.model.state_dict(), watcher.weights[-1])


@pytest.mark.parametrize(("choice", "second"), [("model", "ema.safetensors"), ("ema", "trained.safetensors")])
def test_the_chosen_weights_are_saved_as_the_model_and_the_others_in_a_second_file(tmp_path, choice, second):
    trainer, _ = trained(tmp_path, choice, save_strategy="steps", save_steps=3)
    saved, other = weights(tmp_path / "checkpoint-3"), load_file(tmp_path / "checkpoint-3" / second)
    own, ema = trainer.model.state_dict(), trainer.ema.average.module.state_dict()
    assert alike(saved, own if choice == "model" else ema)
    assert alike(other, ema if choice == "model" else own)
    assert not alike(own, ema)


def test_evaluating_between_steps_does_not_change_the_training(tmp_path):
    ends = [
        trained(tmp_path, "ema", **changes)[1].weights[-1]
        for changes in ({}, {"eval_strategy": "steps", "eval_steps": 1})
    ]
    assert alike(*ends)


def test_the_best_model_at_the_end_is_the_best_ema(tmp_path):
    every = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    trainer, _ = trained(tmp_path, "ema", **every, **best)
    evaluated = losses(trainer, "eval_loss")
    assert evaluated.index(max(evaluated)) != len(evaluated) - 1  # the best, here the largest, is not the last
    assert trainer.evaluate()["eval_loss"] == pytest.approx(max(evaluated), rel=1e-6)


def rates(trainer) -> dict[str, float]:
    """The learning rate of each parameter by name."""
    names = {id(parameter): name for name, parameter in trainer.model.timm_model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    return {names[id(p)]: group["lr"] for group in groups for p in group["params"] if id(p) in names}


def test_layer_decay_lowers_the_learning_rate_of_each_layer_below_the_head(tmp_path):
    trainer = make(tmp_path, timm_vit(), optimizer="adamw", layer_decay=0.5, learning_rate=0.08)
    found = rates(trainer)
    of_layers = ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.2.attn.qkv.weight", "head.weight")
    assert [found[name] for name in of_layers] == pytest.approx([0.005, 0.01, 0.04, 0.08])


def test_layer_decay_holds_through_the_schedule(tmp_path):
    changes = {"optimizer": "adamw", "layer_decay": 0.5, "learning_rate": 0.08, "min_lr": 0.008, "max_steps": 2}
    trainer = make(tmp_path, timm_vit(), method="erm", **changes)
    trainer.train()
    found = rates(trainer)
    assert found["head.weight"] == pytest.approx(0.008)
    assert found["patch_embed.proj.weight"] == pytest.approx(0.0005)


def test_norms_biases_and_position_embeddings_have_no_weight_decay(tmp_path):
    trainer = make(tmp_path, timm_vit(), optimizer="adamw", weight_decay=0.1)
    names = {id(parameter): name for name, parameter in trainer.model.timm_model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    kept = {names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert {"pos_embed", "cls_token", "blocks.0.norm1.weight", "head.bias"} <= kept
    assert not kept & {"head.weight", "blocks.0.attn.qkv.weight"}


def test_the_learning_rate_ends_at_min_lr(tmp_path):
    trainer = make(tmp_path, method="erm", learning_rate=0.05, min_lr=0.01, max_steps=4)
    trainer.train()
    assert losses(trainer, "learning_rate")[0] == 0.05
    assert trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(0.01)


@pytest.mark.parametrize("min_lr", [0.0, 0.01])
def test_a_generator_has_its_own_initial_and_final_learning_rate(tmp_path, min_lr):
    arguments = {"generator_lr": 0.2, "generator_min_lr": 0.04}
    trainer = make(tmp_path, method="automix", method_args=arguments, min_lr=min_lr, max_steps=4)
    optimizer = trainer.create_optimizer()
    generator = {id(p) for p in trainer.step.method.generator.parameters()}
    own = [{id(p) for p in group["params"]} <= generator for group in optimizer.param_groups]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2 if one else 0.05 for one in own])
    trainer.train()
    ends = [group["lr"] for group in optimizer.param_groups]
    assert ends == pytest.approx([0.04 if one else min_lr for one in own])


def test_a_generator_has_its_own_momentum_if_the_optimizer_has_momentum(tmp_path):
    arguments = {"method": "automix", "method_args": {"generator_momentum": 0.0}}
    trainer = make(tmp_path, **arguments)
    optimizer = trainer.create_optimizer()
    generator = {id(p) for p in trainer.step.method.generator.parameters()}
    own = [{id(p) for p in group["params"]} <= generator for group in optimizer.param_groups]
    assert [group["momentum"] for group in optimizer.param_groups] == [0.0 if one else 0.9 for one in own]
    trainer.train()
    moving = {id(p) for p, state in optimizer.state.items() if state.get("momentum_buffer") is not None}
    assert moving and not moving & generator
    with pytest.raises(ValueError, match="generator_momentum is 0.0; AdamW has no momentum: leave it out"):
        make(tmp_path, optimizer="adamw", **arguments).create_optimizer()


def scheduled(trainer, steps):
    """The learning rate of each step."""
    scheduler = trainer.create_scheduler(steps)
    return [trainer.args.learning_rate * scheduler.lr_lambdas[0](step) for step in range(steps + 1)]


def test_the_warm_up_can_be_given_in_epochs(tmp_path):
    plan = {"method": "erm", "max_steps": -1, "learning_rate": 0.1}
    epochs = make(tmp_path, warmup_epochs=2, num_train_epochs=5, **plan)
    steps = make(tmp_path, warmup_steps=16, num_train_epochs=5, **plan)
    for trainer in (epochs, steps):
        trainer.create_optimizer()
    assert scheduled(epochs, 40) == scheduled(steps, 40) and scheduled(epochs, 40)[16] == 0.1
    # max_steps ends the run early; an epoch of 64 rows has 8 steps, or 4 with two batches a step
    short = make(tmp_path, **plan | {"max_steps": 20}, warmup_epochs=2, gradient_accumulation_steps=2)
    short.create_optimizer()
    assert scheduled(short, 20)[8] == 0.1 > scheduled(short, 20)[7]


def test_the_learning_rate_can_be_constant_in_each_epoch(tmp_path):
    plan = {"method": "erm", "max_steps": -1, "num_train_epochs": 5, "learning_rate": 0.1, "min_lr": 0.01}
    by_step = make(tmp_path, warmup_epochs=1, **plan)
    by_epoch = make(tmp_path, warmup_epochs=1, lr_per_epoch=True, **plan)
    for trainer in (by_step, by_epoch):
        trainer.create_optimizer()
    one, other = scheduled(by_step, 40), scheduled(by_epoch, 40)
    assert other[:8] == one[:8] and other[40] == one[40] == pytest.approx(0.01)
    assert [other[step] for step in range(8, 40)] == [one[step - step % 8] for step in range(8, 40)]
    with pytest.raises(ValueError, match="lr_per_epoch does not support ReduceLROnPlateau: leave it out"):
        odd = plan | {"min_lr": 0.0, "lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"}
        make(tmp_path, lr_per_epoch=True, eval_dataset=Rows(8), **odd).create_optimizer_and_scheduler(40)


@pytest.mark.parametrize("architecture", ["resnet18", "efficientnet_b0"])
def test_batchnorm_is_synchronised_if_there_are_several_processes(architecture):
    def norms(model):
        return [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]

    with torch.device("meta"):  # torch does not synchronise BatchNorm on CPUs
        model, _ = build_model(architecture, classes=["a", "b"], image_size=32)
    names, count = [*model.state_dict()], len(norms(model))
    synchronise_batchnorm(model, 1)
    assert count and not any(isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms(model))
    synchronise_batchnorm(model, 2)
    assert len(norms(model)) == count and [*model.state_dict()] == names
    assert all(isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms(model))
    with pytest.raises(ValueError, match="sync_bn is true, but torch synchronises BatchNorm on GPUs only"):
        synchronise_batchnorm(timm_resnet(), 2)


def test_every_parameter_of_network_and_method_is_in_exactly_one_group(tmp_path):
    trainer = make(tmp_path, method="automix")
    optimizer = trainer.create_optimizer()
    found = [id(p) for group in optimizer.param_groups for p in group["params"]]
    trained = {id(p) for p in trainer.step.parameters() if p.requires_grad}
    assert len(found) == len(set(found)) and set(found) == trained


def test_an_unknown_argument_of_the_optimizer_is_reported_by_name(tmp_path):
    trainer = make(tmp_path, data=Rows(), optimizer="adamw", optimizer_args={"betta": 1})
    with pytest.raises(ValueError, match="adamw.*betta"):
        trainer.create_optimizer()
