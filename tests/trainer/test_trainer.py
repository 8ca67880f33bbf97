"""MixupTrainer's training step: its gradients, mixing, random draws and losses."""

import math

import pytest
import torch
import torch.nn.functional as F
from fixtures.training import (
    CLASSES,
    Rows,
    Seen,
    Watcher,
    are_rows,
    frozen,
    loop_norm,
    losses,
    make,
    native_resnet,
    native_vit,
    timm_resnet,
    timm_vit,
    wrapped,
)
from transformers import TrainingArguments

from hf_mixup import MixupStep, MixupTrainer, Net, available, load
from hf_mixup.data import Images, load_data
from hf_mixup.models import build_model
from hf_mixup.tasks.classification import classification

# arguments for images of 16 px, without pretrained weights
CHEAP = {
    "attentivemix": {"teacher": None},
    "puzzlemix": {"grids": (2, 4)},
    "supermix": {"teacher": None},
}


def recording_task(seen):
    """The classification task, which appends its images and the first draw of its generator to `seen`."""

    def task(net, batch, rng):
        seen.append((batch["pixel_values"].clone(), float(torch.rand((), generator=rng))))
        return classification(net, batch, rng)

    return task


def one_step(folder, model, accumulation, **changes):
    watcher, data = Watcher(), Rows()
    batch = {"per_device_train_batch_size": 64 // accumulation, "gradient_accumulation_steps": accumulation}
    make(folder, frozen(model), data, [watcher], method="erm", **batch, **changes).train()
    return watcher.norms[0], data


@pytest.mark.parametrize("model", [native_resnet, native_vit, timm_resnet])
def test_gradients_do_not_depend_on_accumulation_and_equal_those_of_a_loop(tmp_path, model):
    one_batch, data = one_step(tmp_path, model(), 1)
    accumulated, _ = one_step(tmp_path, model(), 4)
    expected = loop_norm(frozen(model()), data.x, data.y)
    assert one_batch == pytest.approx(expected, rel=1e-6)
    assert accumulated == pytest.approx(expected, rel=1e-6)


def test_the_last_step_of_an_epoch_with_fewer_micro_batches_is_their_mean(tmp_path):
    watcher, data = Watcher(), Rows(24)
    changes = {"gradient_accumulation_steps": 2, "max_steps": 2, "learning_rate": 1e-12}
    seen = []
    make(tmp_path, frozen(timm_resnet()), data, [watcher], method="erm", task=recording_task(seen), **changes).train()
    last = seen[2][0]
    rows = torch.stack([(data.x == image).flatten(1).all(1).nonzero()[0, 0] for image in last])
    assert watcher.norms[1] == pytest.approx(loop_norm(frozen(timm_resnet()), last, data.y[rows]), rel=1e-6)


def test_training_images_are_mixed_and_evaluation_images_are_not(tmp_path):
    model, data = timm_resnet(), Rows()
    seen = Seen(model)
    trainer = make(tmp_path, model, data, eval_dataset=data, method="mixup")
    trainer.train()
    seen.evaluating.clear()
    trainer.evaluate()
    assert not are_rows(seen.training[0], data.x)
    assert torch.equal(torch.cat(seen.evaluating), data.x)


def test_nothing_is_mixed_from_mixup_off_epoch_on(tmp_path):
    model, data = timm_resnet(), Rows(32)
    seen = Seen(model)
    make(tmp_path, model, data, method="mixup", max_steps=-1, num_train_epochs=3, mixup_off_epoch=2).train()
    assert [are_rows(x, data.x) for x in seen.training] == [False] * 8 + [True] * 4


def test_the_crops_do_not_depend_on_the_method(tmp_path):
    seen = {"erm": [], "mixup": [], "cutmix": []}
    for method, found in seen.items():
        data = load_data()
        images = Images(data.train.select(range(16)), data.image_column, data.label_column, 28)
        model, processor = sample_model(data)
        changes = {"max_steps": 2, "crop_padding": 2, "flip": 0.5}
        make(
            tmp_path, model, images, method=method, task=recording_task(found), processing_class=processor, **changes
        ).train()
    for x, again, other in zip(*seen.values(), strict=True):
        assert torch.equal(x[0], again[0]) and torch.equal(x[0], other[0])


def sample_model(data):
    args = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
    return build_model("resnet18", classes=data.classes, image_size=28, model_args=args)


def test_each_step_and_micro_batch_has_its_own_draws(tmp_path):
    seen = []
    make(tmp_path, method="erm", task=recording_task(seen), max_steps=3, gradient_accumulation_steps=2).train()
    assert len({draw for _, draw in seen}) == len(seen) == 6


def test_each_rank_has_its_own_draws():
    step = MixupStep(Net(timm_resnet()), load("mixup", alpha=1.0), classification)
    seen = Seen(step.net)
    batch = {"pixel_values": Rows().x, "labels": Rows().y}
    for rank in (0, 1, 0):
        step((0, 0, 0, rank), **batch)
    first, second, again = seen.training
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_training_twice_repeats_the_draws(tmp_path):
    seen = []
    trainer = make(tmp_path, method="erm", task=recording_task(seen))
    trainer.train()
    trainer.train()
    assert seen[0][1] == seen[1][1]


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("model", [timm_resnet, timm_vit])
def test_every_method_takes_steps_with_accumulation(tmp_path, model, name):
    watcher = Watcher()
    changes = {"max_steps": 2, "gradient_accumulation_steps": 2, "method_args": CHEAP.get(name, {})}
    trainer = make(tmp_path, model(), callbacks=[watcher], method=name, **changes)
    try:
        trainer.step  # noqa: B018  builds the method
    except ValueError as error:
        assert name in str(error) and "requires" in str(error)
        pytest.skip(str(error))
    trainer.train()
    assert all(math.isfinite(value) for value in losses(trainer))
    assert any(not torch.equal(watcher.weights[0][key], value) for key, value in watcher.weights[2].items())


def test_named_losses_are_logged_and_their_sum_is_the_loss(tmp_path):
    trainer = make(tmp_path, method="automix", max_steps=2, gradient_accumulation_steps=2)
    trainer.train()
    names = ("loss_mix", "loss_onehot", "loss_mask", "loss_generator")
    parts = zip(*(losses(trainer, name) for name in names), strict=True)
    assert [sum(step) for step in parts] == pytest.approx(losses(trainer), rel=1e-3)  # the log rounds to four digits


def test_with_bf16_only_the_network_computes_in_bfloat16(tmp_path):
    model, data = timm_resnet(), Rows()
    seen, pooled, outside = Seen(model), [], []
    model.timm_model.fc.register_forward_pre_hook(lambda _, args: pooled.append(args[0].dtype))

    def task(net, batch, rng):
        outside.append((batch["pixel_values"] @ batch["pixel_values"]).dtype)
        return classification(net, batch, rng)

    trainer = make(tmp_path, model, data, method="mixup", bf16=True, eval_dataset=data, task=task)
    checked = trainer.step.net.row_loss
    row_loss = checked.loss
    checked.loss = lambda z, y: outside.extend([z.dtype, y.dtype]) or row_loss(z, y)
    trainer.train()
    trainer.evaluate()
    assert {x.dtype for x in seen.training + seen.evaluating} == {torch.float32} and set(pooled) == {torch.bfloat16}
    assert len(outside) > 2 and set(outside) == {torch.float32}
    assert not are_rows(seen.training[0], data.x)


def test_a_momentum_encoder_is_updated_once_per_step(tmp_path):
    watcher, momentum = Watcher(), {"momentum": 0.5, "final_momentum": 0.5}
    changes = {"max_steps": 2, "gradient_accumulation_steps": 2}
    trainer = make(tmp_path, callbacks=[watcher], method="automix", method_args=momentum, **changes)
    trainer.train()
    first, second, third = (step["timm_model.conv1.weight"] for step in watcher.weights)
    encoder = trainer.step.method.encoder.model.timm_model.conv1.weight
    torch.testing.assert_close(encoder, first / 4 + second / 4 + third / 2)


def test_channels_last_gives_the_same_weights(tmp_path):
    ends = []
    for last in (False, True):
        watcher, model = Watcher(), timm_resnet()
        seen = Seen(model)
        make(tmp_path, model, callbacks=[watcher], method="cutmix", channels_last=last, max_steps=2).train()
        ends.append(watcher.weights[-1])
        assert all(x.is_contiguous(memory_format=torch.channels_last) == last for x in seen.training)
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("total", "threshold"), [(False, None), (True, None), (True, 0.1)])
def test_the_loss_can_be_binary_cross_entropy_with_sum_and_threshold(tmp_path, total, threshold):
    data = Rows(8)
    changes = {"loss": "bce", "bce_sum": total, "bce_threshold": threshold, "label_smoothing": 0.2}
    trainer = make(tmp_path, timm_vit(), data, method="erm", **changes)
    logits = trainer.model.eval()(data.x).logits.detach()
    trainer.train()
    y = F.one_hot(data.y, CLASSES) * 0.8 + 0.2 / CLASSES
    y = y if threshold is None else (y > threshold).float()
    rows = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    expected = rows.sum(1).mean() if total else rows.mean()
    assert losses(trainer)[0] == pytest.approx(float(expected), abs=1e-3)


def test_labels_are_smoothed_once_and_in_training_only(tmp_path):
    data = Rows(8)
    trainer = make(
        tmp_path, timm_vit(), data, method="erm", label_smoothing=0.3, learning_rate=1e-12, eval_dataset=data
    )
    logits = trainer.model.eval()(data.x).logits.detach()
    trainer.train()
    smoothed = F.cross_entropy(logits, data.y, label_smoothing=0.3)
    assert losses(trainer)[0] == pytest.approx(float(smoothed), abs=1e-4)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(F.cross_entropy(logits, data.y)), abs=1e-4)


def test_a_compiled_network_trains_with_mixup(tmp_path):
    watchers = [Watcher(), Watcher()]
    for watcher, compiled in zip(
        watchers, ({}, {"torch_compile": True, "torch_compile_backend": "eager"}), strict=True
    ):
        make(tmp_path, frozen(native_resnet()), callbacks=[watcher], method="mixup", **compiled).train()
    assert watchers[0].norms == pytest.approx(watchers[1].norms, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "puzzlemix", "torch_compile": True}, "torch_compile.*puzzlemix"),
        ({"method": "manifoldmix", "gradient_checkpointing": True}, "gradient_checkpointing.*manifoldmix"),
        (
            {
                "method": "choice",
                "method_args": {"methods": [{"name": "erm"}, {"name": "manifoldmix"}]},
                "gradient_checkpointing": True,
            },
            "gradient_checkpointing.*manifoldmix",
        ),
    ],
)
def test_settings_that_would_give_wrong_gradients_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **changes)


def test_a_batch_of_one_is_refused_if_a_batchnorm_gets_one_value_per_channel(tmp_path):
    with pytest.raises(ValueError, match="one image.*BatchNorm.*per_device_train_batch_size"):
        make(tmp_path, wrapped(side=16)[0], method="mixup", per_device_train_batch_size=1).train()


@pytest.mark.parametrize("name", ["mixup", "cutmix", "puzzlemix", "manifoldmix", "transmix"])
def test_a_last_batch_of_one_trains_as_in_the_stock_trainer(tmp_path, name):
    model = timm_vit() if name == "transmix" else wrapped(side=64)[0]  # two values per channel in the last BatchNorm
    side = 16 if name == "transmix" else 64
    data = [{"pixel_values": torch.rand(3, side, side), "labels": row % CLASSES} for row in range(9)]
    trainer = make(tmp_path, model, data, method=name, max_steps=-1, num_train_epochs=1, per_device_train_batch_size=4)
    trainer.train()
    assert trainer.state.global_step == 3


def test_arguments_that_the_loss_would_ignore_are_refused(tmp_path):
    args = TrainingArguments(str(tmp_path), label_smoothing_factor=0.1, use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match=r"MixupTrainer\(label_smoothing"):
        MixupTrainer(timm_resnet(), args, train_dataset=Rows())
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match="compute_loss_func"):
        MixupTrainer(timm_resnet(), args, train_dataset=Rows(), compute_loss_func=lambda *_, **__: 0)
