"""A task without classes: the published network gives pooled features, and says nothing of an earlier task."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from fixtures.cli import folder_of, recipe_of, record_of, start
from fixtures.training import SIDE, native_vit
from transformers import AutoImageProcessor, ViTImageProcessor

from hf_mixup.data import load_data

TASK = f"{Path(__file__).parent}/toy_views.py:TwoViews"


@pytest.fixture
def several_classes(tmp_path):
    """A folder with a network of transformers for several classes per image."""
    model = native_vit()
    model.config.problem_type = "multi_label_classification"
    model.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def neighbour(folder: Path, network, data: Path) -> float:
    """The metric of the task, from the outputs that the card names."""
    card = (folder / "README.md").read_text()
    name = "logits" if "are in `logits`" in card else "pooler_output"
    processor = AutoImageProcessor.from_pretrained(folder)
    images = [row["image"].convert("RGB") for row in load_data(data=str(data), labels="none").eval]
    with torch.no_grad():
        features = network.eval()(processor(images, return_tensors="pt")["pixel_values"])[name].numpy()
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    return (features @ features.T - 2 * np.eye(len(features))).max(1).mean()


@pytest.mark.parametrize("native", [False, True])
def test_the_class_and_outputs_on_the_card_give_the_recorded_metric(native, several_classes, tmp_path):
    data, run = folder_of(tmp_path / "data"), tmp_path / "run"
    changes = {"model": str(several_classes), "model_args": {}} if native else {}
    assert start(recipe_of(tmp_path / "recipe.yaml", data, task=TASK, **changes), "--output_dir", run) == 0
    name = record_of(run)["task"]["auto_class"]
    assert name in (run / "README.md").read_text()
    network = getattr(transformers, name).from_pretrained(run)
    assert network.config.problem_type is None
    assert neighbour(run, network, data) == pytest.approx(record_of(run)["final"]["neighbour"], abs=1e-5)
