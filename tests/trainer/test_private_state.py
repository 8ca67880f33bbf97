"""Per-rank state of a method, which holds training images, is saved in checkpoints and never published."""

import torch
from fixtures.training import make
from safetensors.torch import load_file

from hf_mixup.trainer.weights import save_extra


def trained(folder, **changes):
    trainer = make(folder, method="recursivemix", max_steps=3, save_strategy="steps", save_steps=2, **changes)
    trainer.train()
    return trainer


def test_a_published_folder_holds_no_training_images(tmp_path):
    trainer = trained(tmp_path / "run")
    assert len(trainer.method.images)
    save_extra(tmp_path, trainer.step, None)
    assert not {"images", "targets", "logits"} & load_file(tmp_path / "method.safetensors").keys()


def test_a_checkpoint_holds_it_for_each_rank(tmp_path):
    trained(tmp_path)
    state = load_file(tmp_path / "checkpoint-2" / "method-rank0.safetensors")
    assert state.keys() == {"images", "targets", "logits"}


def test_a_resumed_run_mixes_with_the_images_of_the_batch_before(tmp_path):
    reference = trained(tmp_path / "reference")
    trained(tmp_path / "stopped")
    resumed = make(tmp_path / "stopped", method="recursivemix", max_steps=3, save_strategy="no")
    resumed.train(resume_from_checkpoint=str(tmp_path / "stopped" / "checkpoint-2"))
    one, other = reference.step.state_dict(), resumed.step.state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
