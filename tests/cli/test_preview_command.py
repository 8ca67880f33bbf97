"""`hf-mixup preview` and `hf_mixup.preview`: the picture of a recipe's augmented and mixed images."""

import numpy as np
import pytest
import torch
from fixtures.cli import ROOT, content, folder_of, recipe_of
from fixtures.scenes import scene_folder, scene_parquet
from PIL import Image
from test_main import run

import hf_mixup
from hf_mixup.config import parse
from hf_mixup.data.labels import Labels
from hf_mixup.mix import Mix
from hf_mixup.publish.labelled_grid import Row, labelled_grid
from hf_mixup.publish.preview import label_texts, weight_texts

TASKS = ROOT / "tests" / "tasks"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    root = tmp_path_factory.mktemp("preview")
    return recipe_of(root / "recipe.yaml", folder_of(root / "data"), flip=0.5, crop_padding=2)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def rows_below(image: Image.Image, other: Image.Image) -> float:
    """How many more pixels one picture is high than another."""
    return image.height - other.height


def test_the_picture_is_saved_and_nothing_else_is_written(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = content(recipe.parent)
    assert run("preview", recipe, "--method", "cutmix", "--out", "new/cutmix.png") == 0
    printed, errors = capsys.readouterr()
    image = Image.open("new/cutmix.png")
    assert printed == f"new/cutmix.png ({image.width} x {image.height})\n" and "Traceback" not in errors
    assert content(tmp_path).keys() == {"new/cutmix.png"} and content(recipe.parent) == before


def test_equal_seeds_give_equal_pictures(recipe):
    first, again = (hf_mixup.preview(recipe, method="mixup") for _ in range(2))
    assert np.array_equal(pixels(first), pixels(again))
    other = hf_mixup.preview(recipe, method="mixup", seed=1)
    assert first.size == other.size and not np.array_equal(pixels(first), pixels(other))


def test_the_random_state_of_a_notebook_does_not_matter_and_is_kept(recipe):
    first = hf_mixup.preview(recipe, method="puzzlemix")
    torch.rand(3)
    state = torch.get_rng_state()
    assert np.array_equal(pixels(first), pixels(hf_mixup.preview(recipe, method="puzzlemix")))
    assert torch.equal(state, torch.get_rng_state())


def test_a_configuration_is_drawn_like_its_recipe_and_is_not_changed(recipe):
    config = parse([str(recipe), "--method", "cutmix", "--method_args.alpha", "0.2"])
    before = dict(vars(config))
    image = hf_mixup.preview(config)
    assert np.array_equal(pixels(image), pixels(hf_mixup.preview(recipe, method="cutmix", method_args={"alpha": 0.2})))
    assert {key: value for key, value in vars(config).items() if before.get(key, 0) != value} == {}
    assert np.array_equal(pixels(image), pixels(hf_mixup.preview(config, method="cutmix")))
    assert hf_mixup.preview(config, method="resizemix").size == image.size  # it has no alpha


def test_masks_have_rows_of_their_own(recipe):
    assert rows_below(hf_mixup.preview(recipe, method="cutmix"), hf_mixup.preview(recipe, method="mixup")) > 300


UNMIXED = [("manifoldmix", "hidden states"), ("erm", "does not mix"), ("recursivemix", "did not change")]


@pytest.mark.parametrize(("method", "reason"), UNMIXED)
def test_a_method_that_does_not_mix_pixels_says_so_and_shows_the_augmentation(method, reason, recipe, tmp_path, caplog):
    image = hf_mixup.preview(recipe, tmp_path / "x.png", method=method)
    assert len(caplog.messages) == 1 and method in caplog.text and reason in caplog.text
    assert image.height < 400


TASK_FIELDS = {
    "multilabel": {"task": "multilabel", "label_column": "labels", "data": "folder"},
    "two numbers": {"task": f"{TASKS}/toy_numbers.py:TwoNumbers", "label_column": "numbers", "streaming": True},
    "two views": {"task": f"{TASKS}/toy_views.py:TwoViews", "streaming": True, "random_resized_crop": [0.3, 1]},
    "unknown length": {"task": "multilabel", "label_column": "labels", "data": "folder", "streaming": True},
}


@pytest.mark.parametrize("name", TASK_FIELDS)
def test_every_task_stored_or_streamed_is_drawn(name, tmp_path):
    rows = {"train": 16, "test": 8}
    data = {"folder": scene_folder, "parquet": scene_parquet}
    fields = dict(TASK_FIELDS[name])
    kind = fields.pop("data", "parquet")
    recipe = recipe_of(tmp_path / "recipe.yaml", data[kind](tmp_path / "data", rows), method="cutmix", **fields)
    images = [hf_mixup.preview(recipe) for _ in range(2)]
    assert np.array_equal(*map(pixels, images))
    if name == "two views":
        assert rows_below(images[0], hf_mixup.preview(recipe, method="mixup")) > 300


def test_the_first_row_shows_the_images_without_augmentation(tmp_path):
    data = folder_of(tmp_path / "data", ("cat",), rows=1, splits=("test",))
    for number, colour in enumerate(("red", "blue")):
        (data / "train" / colour).mkdir(parents=True)
        Image.new("RGB", (16, 16), colour).save(data / "train" / colour / f"{number}.png")
    (data / "test" / "cat").rename(data / "test" / "red")
    recipe = recipe_of(tmp_path / "r.yaml", data, erasing=1.0, random_resized_crop=[0.1, 0.2], method="mixup")
    below_heading = pixels(hf_mixup.preview(recipe))[40:140].reshape(-1, 3)
    assert {(255, 0, 0), (0, 0, 255)} <= {tuple(pixel) for pixel in below_heading.tolist()}


def test_invalid_fields_are_refused_as_in_training(recipe, tmp_path, capsys):
    assert run("preview", recipe, "--method", "transmix") == 2
    assert "resnet18" in capsys.readouterr().err
    for fields in ({"metod": "cutmix"}, {"method": "cutmx"}, {"erasing": 2}):
        with pytest.raises(hf_mixup.errors.MixupError):
            hf_mixup.preview(recipe, **fields)
    with pytest.raises(hf_mixup.errors.RunError, match="could not be saved"):
        hf_mixup.preview(recipe, tmp_path / "x.nothing")


def test_labels_are_names_numbers_or_positions():
    classes = Labels("class", ["cat", "dog"], 2)
    assert label_texts(torch.tensor([1, -1]), classes, 2) == ["dog", "no label"]
    several = Labels("classes", ["cat", "dog"], 2)
    assert label_texts(torch.tensor([[1.0, 1], [0, 0]]), several, 2) == ["cat, dog", "no class"]
    assert label_texts(torch.tensor([[1.5, 2]]), Labels("vector", size=2), 1) == ["(1.5 2)"]
    assert label_texts(None, Labels("none"), 2) == ["#1", "#2"]


def test_the_text_of_a_mixed_image_has_the_weights_of_its_mix():
    mix = Mix(torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0.75, 0.25], [1.0, 0]]))
    assert weight_texts(mix, ["cat", "dog"], 2) == [["0.75 cat", "0.25 dog"], ["1.00 dog"]]
    assert weight_texts(mix, ["cat"], 2) == [["0.75 #1", "0.25 #2"], ["1.00 #2"]]


def test_long_texts_are_cut_to_the_width_of_an_image():
    row = Row("images", torch.zeros(2, 3, 224, 100), [["a name that is much longer than the image is wide"], ["short"]])
    image = labelled_grid(["a heading " * 50], [row])
    right = pixels(image)[:, -4:]
    assert image.width < 250 and (right[20:] == 255).all()
