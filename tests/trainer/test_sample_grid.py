"""The picture of mixed samples: every method that mixes pixels has one, and no state changes."""

import io
import logging
from functools import partial

import numpy as np
import pytest
import torch
from methods.rows import ROWS
from PIL import Image

from hf_mixup import MixupStep, available, load
from hf_mixup.data import normalise
from hf_mixup.ops.sampling import generator
from hf_mixup.tasks import load_task
from hf_mixup.trainer.sample_grid import MAX_BYTES, picture, png, write_picture

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PIXELS_STAY = {"alignmix", "erm", "manifoldmix", "noisymix", "patchup", "recursivemix"}
QUICK = {"supermix": {"iterations": 5}, "comixup": {}}


def step_of(name, make_net, **args):
    """A training step of the method, with a network that it supports."""
    row = ROWS[name]
    net = make_net(row.get("nets", ("cnn",))[0], (16, 16))
    method = load(name, **row.get("args", {}) | QUICK.get(name, {}) | args)
    for key, values in (("mean", MEAN), ("std", STD)):
        if getattr(method, key, 0) is None:
            setattr(method, key, values)
    method.build(net)
    task = load_task("classification")
    return MixupStep(net, method, task, None, partial(normalise, mean=MEAN, std=STD)).train()


def photos(count=6, side=16):
    """A batch of the training data."""
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator(3))
    return {"pixel_values": pixels, "labels": torch.arange(count) % 5}


def opened(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("name", available())
def test_every_method_that_mixes_pixels_has_a_picture(name, make_net):
    step = step_of(name, make_net)
    before = {key: value.clone() for key, value in step.state_dict().items()}
    content = picture(step.method, step, photos())
    assert (content is None) == (name in PIXELS_STAY)
    assert content == picture(step.method, step, photos())
    assert step.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in step.state_dict().items())
    assert step.net.training and step.method.training
    assert not [key for key, value in step.named_parameters() if value.grad is not None]


def test_the_first_row_has_the_images_and_masks_are_below_mixed_images(make_net):
    step = step_of("cutmix", make_net)
    shown = opened(picture(step.method, step, photos()))
    zoom, margin = 6, 2
    assert shown.shape == (5 * (16 * zoom + margin) + margin, 6 * (16 * zoom + margin) + margin, 3)
    cells = [
        [shown[top : top + 16 * zoom : zoom, left : left + 16 * zoom : zoom] for left in range(2, 588, 98)]
        for top in range(2, 490, 98)
    ]
    images = photos()["pixel_values"].permute(0, 2, 3, 1).numpy()
    assert all(np.abs(cell.astype(int) - image).max() <= 1 for cell, image in zip(cells[0], images))
    own = cells[2][0] == 255
    assert set(np.unique(cells[2])) == {0, 255} and own.any() and not own.all()
    assert np.abs(cells[1][0].astype(int) - images[0])[own].max() <= 1


def test_a_picture_is_small_for_images_of_any_size():
    for side in (8, 32, 96, 224):
        noise = torch.rand(8, 3, side, side, generator=generator(side))
        content = png([noise] * 5)
        assert len(content) <= MAX_BYTES and min(opened(content).shape[:2]) > 100


class Broken:
    """A trainer whose data can no longer be read."""

    class args:
        world_size = 1

    step = torch.nn.Identity()
    method = None

    @property
    def train_dataset(self):
        raise OSError("the disk is gone")


def test_an_error_is_logged_as_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        write_picture(tmp_path / "run", Broken())
    assert "no picture of mixed samples (OSError: the disk is gone)" in caplog.text
    assert not (tmp_path / "run").exists()
