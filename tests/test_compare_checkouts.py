"""scripts/compare_checkouts.py reports every difference between two runs."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from compare_checkouts import differences

STATE = {"weight": torch.tensor([1.0, float("nan")]), "count": torch.tensor(3)}


def run_folder(folder, state=STATE, method=None, top1=0.5):
    """A run's output folder with weights and record."""
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    if method:
        save_file(method, folder / "method.safetensors")
    (folder / "run.json").write_text(json.dumps({"final": {"top1": top1}, "epochs": [], "wall_s": folder.name}))
    return folder


def test_equal_runs_have_no_differences(tmp_path):
    assert differences(run_folder(tmp_path / "a"), run_folder(tmp_path / "b")) == []


def test_every_difference_is_reported(tmp_path):
    changed = {"weight": torch.tensor([1.0, 2.0]), "bias": torch.zeros(1), "count": torch.tensor(3)}
    old = run_folder(tmp_path / "a")
    new = run_folder(tmp_path / "b", changed, method={"block": torch.zeros(1)}, top1=0.25)
    assert sorted(differences(old, new)) == [
        "method.safetensors: block: only in NEW",
        "model.safetensors: bias: only in NEW",
        "model.safetensors: weight: largest difference nan",
        "run.json: final: {'top1': 0.5} and {'top1': 0.25}",
    ]
