"""The README's example for a plain transformers.Trainer: MixupCollator and soft_loss."""

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
    native_resnet,
    native_vit,
    norm,
    timm_resnet,
)
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import ImageClassifierOutput

from hf_mixup import MixupCollator, soft_loss


def trainer_of(folder, model, data, method, accumulation=1, callbacks=(), **changes):
    """The user's code: a subclass of three lines, and `soft_loss`."""

    class Mixing(Trainer):
        def get_train_dataloader(self):
            return MixupCollator(method, num_classes=CLASSES, seed=1).into(super().get_train_dataloader())

    usual = {"max_steps": 1, "max_grad_norm": 0.0, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    sizes = {"per_device_train_batch_size": 64 // accumulation, "gradient_accumulation_steps": accumulation}
    args = TrainingArguments(str(folder), **{"save_strategy": "no"} | usual | sizes | changes)
    given = {"train_dataset": data, "eval_dataset": data, "callbacks": [*callbacks]}
    return Mixing(model, args, compute_loss_func=soft_loss, compute_metrics=accuracy, **given)


def accuracy(evaluated):
    assert evaluated.label_ids.shape == (64,) and evaluated.label_ids.dtype.kind == "i"
    return {"accuracy": float((evaluated.predictions.argmax(-1) == evaluated.label_ids).mean())}


@pytest.mark.parametrize("model", [native_resnet, native_vit, timm_resnet])
def test_gradients_with_soft_labels_do_not_depend_on_accumulation(tmp_path, model):
    data, found = Rows(), []
    for accumulation in (1, 4):
        watcher = Watcher()
        trainer_of(tmp_path, frozen(model()), data, "erm", accumulation, [watcher]).train()
        found += watcher.norms
    assert found == pytest.approx([loop_norm(frozen(model()), data.x, data.y)] * 2, rel=1e-6)


@pytest.mark.parametrize("model", [native_resnet, native_vit])
def test_gradients_of_mixed_micro_batches_equal_those_of_the_joined_batch(tmp_path, model):
    network, watcher = frozen(model()), Watcher()
    seen = Seen(network)
    batches = list(trainer_of(tmp_path, network, Rows(), "mixup", 4, seed=5).get_train_dataloader())
    trainer_of(tmp_path, network, Rows(), "mixup", 4, [watcher], seed=5).train()
    x, y = (torch.cat([batch[name] for batch in batches]) for name in ("pixel_values", "labels"))
    assert torch.equal(torch.cat(seen.training), x) and not are_rows(x, Rows().x)
    by_hand = frozen(model()).train()
    (-(y * by_hand(x).logits.log_softmax(-1)).sum(1).mean()).backward()
    assert watcher.norms[0] == pytest.approx(norm(p.grad for p in by_hand.parameters()), rel=1e-6)


def test_evaluation_is_not_mixed_and_has_integer_labels(tmp_path):
    network, data = timm_resnet(), Rows()
    seen = Seen(network)
    trainer = trainer_of(tmp_path, network, data, "cutmix")
    trainer.train()
    metrics = trainer.evaluate()
    assert not are_rows(seen.training[0], data.x)
    assert torch.equal(torch.cat(seen.evaluating), data.x)
    with torch.no_grad():
        logits = network.eval()(data.x).logits
    assert metrics["eval_loss"] == pytest.approx(float(F.cross_entropy(logits, data.y)), rel=1e-5)
    assert metrics["eval_accuracy"] == pytest.approx(float((logits.argmax(1) == data.y).float().mean()))


def test_the_model_does_not_become_multi_label(tmp_path):
    trainer = trainer_of(tmp_path, native_vit(), Rows(), "mixup")
    trainer.train()
    assert trainer.model.config.problem_type is None


def test_workers_of_a_plain_trainer_mix(tmp_path):
    network, data = timm_resnet(), Rows()
    seen = Seen(network)
    trainer_of(tmp_path, network, data, "mixup", 4, dataloader_num_workers=2).train()
    assert len(seen.training) == 4 and not any(are_rows(x, data.x) for x in seen.training)


def test_a_plain_trainer_that_resumes_mixes_the_rest_of_the_epoch(tmp_path):
    changes = {"max_steps": 2, "per_device_train_batch_size": 16, "save_strategy": "steps", "save_steps": 1}
    trainer_of(tmp_path, timm_resnet(), Rows(), "mixup", **changes).train()
    network = timm_resnet()
    seen = Seen(network)
    again = trainer_of(tmp_path, network, Rows(), "mixup", **changes)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert len(seen.training) == 1 and not are_rows(seen.training[0], Rows().x)


@pytest.mark.parametrize("wrap", [lambda z: ImageClassifierOutput(logits=z), lambda z: {"logits": z}])
def test_soft_loss_is_a_mean_without_num_items_and_a_share_with_it(wrap):
    z, labels = torch.randn(6, CLASSES), torch.arange(6) % CLASSES
    y = F.one_hot(labels, CLASSES).float()
    mean = F.cross_entropy(z, labels)
    for given, entries in ((labels, 1), (y, CLASSES)):
        torch.testing.assert_close(soft_loss(wrap(z), given), mean)
        torch.testing.assert_close(soft_loss(wrap(z), given, torch.tensor(24 * entries)), mean * 6 / 24)
