"""The speed benchmark measures, records and reports correctly; no test asserts a speed."""

import argparse
import json

import pytest
import torch

from hf_mixup.benchmark import peers, speed, step, timing
from hf_mixup.benchmark.profile import operators
from hf_mixup.benchmark.report import speed_table

SMALL = (4, 3, 32, 32)
OPENMIXUP = """
import torch
from openmixup.models.utils import batch_shuffle_ddp

def mixup(img, gt_label, alpha=1.0, **kwargs):
    index = torch.arange(len(img)).flip(0).cuda()
    return 0.25 * img + 0.75 * img[index], (gt_label, gt_label[index], 0.25)
"""


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "SIZES", (SMALL,))
    monkeypatch.setattr(timing.interleaved, "__defaults__", (2, 2, 1))  # rounds
    made = {"record": tmp_path / "batch.json", "threads": [torch.get_num_threads()], "seconds": 0.0}
    return argparse.Namespace(**made, only=["mixup", "puzzlemix grid 4"], openmixup=None, kept_memory=0)


def test_every_round_calls_each_candidate_once():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    taken = timing.interleaved(calls, 0.0, fewest=5, warm_up=2)
    assert [len(seconds) for seconds in taken.values()] == [5, 5, 5]
    rounds = [order[i : i + 3] for i in range(0, len(order), 3)]
    assert len(rounds) == 7 and all(sorted(one) == ["a", "b", "c"] for one in rounds)


def test_times_are_milliseconds_in_order():
    times = timing.Times.from_seconds([0.004, 0.001, 0.002, 0.003, 0.005])
    assert (times.low, times.median, times.high, times.rounds) == (2.0, 3.0, 4.0, 5)


def test_the_record_contains_floor_ours_and_every_installed_library(options, capsys):
    speed._measure_all(options)
    record = json.loads(options.record.read_text())
    mixup = next(case for case in record["cases"] if case["case"] == "mixup" and not case["per_image"])
    assert {"floor", "ours", "ours, out", "ours, in place", "timm", "torchvision"} <= set(mixup["milliseconds"])
    assert mixup["size"] == list(SMALL) and record["machine"]["versions"]["torch"]
    assert "puzzlemix grid 4, 4x3x32x32" in capsys.readouterr().out


def test_cases_in_the_record_are_not_measured_again(options, monkeypatch):
    speed._measure_all(options)
    before = options.record.read_text()
    monkeypatch.setattr(speed, "measure", None)
    speed._measure_all(options)
    assert json.loads(options.record.read_text())["cases"] == json.loads(before)["cases"]


def test_every_case_returns_mixed_images_and_targets(options):
    for case in speed.cases():
        x, labels = torch.rand(SMALL), torch.arange(4)
        for name, call in speed.ours(case, x.clone(), labels).items():
            mixed, targets = call()
            assert mixed.shape == x.shape and targets.shape == (4, speed.CLASSES), (case, name)


@pytest.mark.parametrize("method", ["mixup", "cutmix"])
@pytest.mark.parametrize("per_image", [False, True])
def test_other_libraries_return_images_and_soft_targets(method, per_image):
    found = peers.candidates(method, per_image, 5, None)
    assert "timm" in found and ("torchvision" in found) == (not per_image)
    for call in found.values():
        mixed, targets = call(torch.rand(SMALL), torch.arange(4))
        assert mixed.shape == SMALL and targets.shape == (4, 5)
        torch.testing.assert_close(targets.sum(1), torch.ones(4), atol=1e-4, rtol=0)


def test_openmixup_is_loaded_from_a_checkout_without_its_package(tmp_path):
    augments = tmp_path / "openmixup" / "models" / "augments"
    augments.mkdir(parents=True)
    (augments / "mixup.py").write_text(OPENMIXUP)
    found = peers.candidates("mixup", False, 4, tmp_path)
    mixed, targets = found["OpenMixup"](torch.eye(4)[:, :, None, None], torch.arange(4))
    assert targets[0].tolist() == [0.25, 0, 0, 0.75]
    assert mixed[0].flatten().tolist() == [0.25, 0, 0, 0.75]
    assert "OpenMixup" not in peers.candidates("fmix", False, 4, tmp_path)


def test_the_table_has_milliseconds_floors_and_the_fastest_other_library():
    times = {"floor": 0.5, "ours": 2.0, "ours, out": 1.0, "timm": 3.0, "kornia": 9.0}
    case = {"case": "mixup", "per_image": True, "size": [2, 3, 32, 32], "threads": 1, "kept_memory": True}
    case["milliseconds"] = {name: {"median": time} for name, time in times.items()} | {"broken": {"error": "no"}}
    *_, row = speed_table({"cases": [case]}).splitlines()
    assert row.startswith("| mixup, per image | 1.00 ms, 2.0x; 3.0x timm |")


@pytest.mark.parametrize(
    ("arguments", "passes"),
    [
        ({"name": "mixup"}, 0),
        ({"name": "attentivemix", "teacher": None}, 1),
        ({"name": "puzzlemix"}, 2),
        ({"name": "snapmix"}, 1),
        ({"name": "transmix"}, 0),
    ],
)
def test_extra_passes_are_counted(arguments, passes, monkeypatch):
    small = {"layers": [1, 1, 1, 1], "channels": [16, 16, 16, 16]}
    vit = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 96}
    monkeypatch.setattr(step, "NETWORKS", {"cnn": ("resnet18", small), "vit": ("vit_tiny_patch16_224", vit)})
    monkeypatch.setattr(step, "DRAWS", 2)
    network = "vit" if arguments["name"] == "transmix" else "cnn"
    assert step.extra_passes(network, arguments) == pytest.approx(passes, abs=0.15)


def test_a_step_is_measured_on_a_network_that_the_method_supports(monkeypatch):
    cnn = ("resnet18", {"layers": [1, 1, 1, 1], "channels": [16, 16, 16, 16]})
    vit = ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 96})
    monkeypatch.setattr(step, "NETWORKS", {"cnn": cnn, "vit": vit})
    monkeypatch.setattr(step, "DRAWS", 1)
    monkeypatch.setattr(step, "BATCH", 4)
    assert step.measure({"name": "cutmix"}, 0, 2)["network"] == "cnn"
    found = step.measure({"name": "transmix"}, 0, 2)
    assert found["network"] == "vit" and found["relative"] > 0 and found["rounds"] == 2


def test_a_profile_lists_the_operators_of_a_call():
    x, y = torch.rand(64, 64), torch.rand(64, 64)
    seen = operators(lambda: (x @ y).relu())
    assert {"aten::mm", "aten::relu"} <= set(seen["most"]) and seen["operators"] >= 2
