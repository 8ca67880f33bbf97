"""`log_images` sends mixed images and statistics of lam to trackers, and changes nothing else."""

import logging

import numpy as np
import pytest
import torch
from fixtures.training import Rows, alike, losses, make, timm_resnet, timm_vit
from PIL import Image
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 3, "log_images": True}
CHEAP = {"puzzlemix": {"grids": (2, 4)}}


class Writer:
    """A TensorBoard writer that keeps what it is given."""

    def __init__(self):
        self.images, self.scalars = [], []

    def add_image(self, name, image, step, dataformats):
        assert dataformats == "HWC"
        self.images.append((name, image, step))

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))


class TensorBoard(TensorBoardCallback):
    """transformers' callback without the library, which is not installed."""

    def __init__(self):
        self.tb_writer = self.kept = Writer()

    def on_train_begin(self, *args, **_):
        pass

    on_log = on_train_begin

    def on_train_end(self, *args, **_):
        self.tb_writer = None


class Library:
    """wandb or trackio, as far as transformers' callbacks use it."""

    def __init__(self):
        self.logged = []

    def Image(self, image):
        return Image.fromarray(image)

    def log(self, values):
        self.logged.append(values)


class Wandb(WandbCallback):
    def __init__(self):
        self._wandb = self.library = Library()

    def on_train_begin(self, *args, **_):
        pass

    on_log = on_train_end = on_train_begin


class Trackio(TrackioCallback):
    def __init__(self):
        self._trackio = self.library = Library()
        self._initialized = True

    def on_train_begin(self, *args, **_):
        pass

    on_log = on_train_begin

    def on_train_end(self, *args, **_):
        self._initialized = False


def run(folder, *trackers, model=None, **changes):
    given = {"eval_dataset": Rows(8), "callbacks": trackers, "method": "cutmix", **EVALUATED, **changes}
    trainer = make(folder, model, **given)
    trainer.train()
    return trainer


def kept_batch(trainer):
    return trainer.callback_handler.callbacks[-1].batch


def test_tensorboard_gets_images_and_statistics_of_lam_at_each_evaluation(tmp_path):
    tracker = TensorBoard()
    trainer = run(tmp_path, tracker)
    images = tracker.kept.images
    assert [(name, step) for name, _, step in images] == [("mixup/images", step) for step in (1, 2, 3)]
    assert all(image.dtype == np.uint8 and image.shape == images[0][1].shape for _, image, _ in images)
    assert images[0][1].shape[2] == 3 and not np.array_equal(images[0][1], images[1][1])
    for step in (1, 2, 3):
        found = {name: value for name, value, at in tracker.kept.scalars if at == step}
        low, mean, high = (found[f"mixup/lam_{name}"] for name in ("min", "mean", "max"))
        assert 0 <= low < mean < high <= 1 and len(found) == 3
    trainer.evaluate()  # after training, when the writer is closed
    assert len(images) == 3


@pytest.mark.parametrize("kind", [Wandb, Trackio])
def test_wandb_and_trackio_get_one_entry_for_each_evaluation(tmp_path, kind):
    tracker = kind()
    run(tmp_path, tracker, method="mixup")
    logged = tracker.library.logged
    assert [entry["train/global_step"] for entry in logged] == [1, 2, 3]
    keys = {"mixup/images", "mixup/lam_mean", "mixup/lam_min", "mixup/lam_max", "train/global_step"}
    assert all(entry.keys() == keys and entry["mixup/images"].width > 100 for entry in logged)


@pytest.mark.parametrize("method", ["automix", "samix", "puzzlemix", "recursivemix", "transmix", "cutmix"])
def test_a_run_with_logged_images_ends_at_the_same_bits(tmp_path, method):
    changes = {"method": method, "method_args": CHEAP.get(method, {})}
    runs = []
    for logged in (True, False):
        model = timm_resnet(drop_rate=0.2) if method == "puzzlemix" else timm_vit(proj_drop_rate=0.2)
        runs.append(run(tmp_path / str(logged), TensorBoard(), model=model, log_images=logged, **changes))
    assert losses(runs[0]) == losses(runs[1]) and losses(runs[0], "eval_loss") == losses(runs[1], "eval_loss")
    assert alike(runs[0].step.state_dict(), runs[1].step.state_dict())
    assert (kept_batch(runs[0]) is not None) == (method != "recursivemix")


def test_an_error_of_a_tracker_is_a_warning(tmp_path, caplog):
    tracker = TensorBoard()
    tracker.tb_writer = object()
    with caplog.at_level(logging.WARNING):
        trainer = run(tmp_path, tracker)
    assert trainer.state.global_step == 3
    assert "No mixed images were logged (AttributeError" in caplog.text


@pytest.mark.parametrize(
    ("trackers", "method", "words"),
    [
        ([], "cutmix", "report_to names none of tensorboard, wandb and trackio"),
        ([TensorBoard()], "manifoldmix", "method 'manifoldmix' does not mix pixels"),
    ],
)
def test_a_run_that_logs_no_images_says_so_once(tmp_path, caplog, trackers, method, words):
    with caplog.at_level(logging.WARNING):
        run(tmp_path, *trackers, method=method)
    assert caplog.text.count(words) == 1


def test_the_logged_images_are_those_of_the_first_batch(tmp_path):
    seen = []
    trainer = make(tmp_path, eval_dataset=Rows(8), callbacks=[TensorBoard()], method="cutmix", **EVALUATED)
    trainer.step.register_forward_pre_hook(lambda step, _, batch: seen.append(batch["pixel_values"]), with_kwargs=True)
    trainer.train()
    assert torch.equal(kept_batch(trainer)["pixel_values"], seen[0][:8])
