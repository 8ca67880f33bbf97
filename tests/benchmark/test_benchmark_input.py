"""The measurement of input paths: all of them read all images once. No test asserts a speed."""

import json
import re
import time

import numpy as np
import pytest
import torch
from fixtures.cli import ROOT, folder_of, python

from hf_mixup.benchmark import input as benchmark
from hf_mixup.benchmark.input_data import CASES, Case, generated_image
from hf_mixup.benchmark.input_peers import InputPath
from hf_mixup.benchmark.report import input_table
from hf_mixup.data import DataError

PATHS = ["ours, streamed", "ours, stored", "timm hfids, streamed", "transformers example, stored"]
LIMITS = ["decoding, PIL", "decoding, torchvision", "reading from the hub", "reading from the disk"]


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """The record of a quick run, in which every image has its own class."""
    pytest.importorskip("timm.data.readers._hfds", reason="older timm cannot stream with this version of datasets")
    out = tmp_path_factory.mktemp("input") / "input.json"
    secret = {"HF_TOKEN": "hf_" + "canary" * 5}
    process = python("-m", "hf_mixup.benchmark.input", "--quick", "--out", out, environment=secret)
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "canary" not in printed + errors + out.read_text()
    return json.loads(out.read_text())


def all_paths(record):
    for case in record["cases"]:
        for name, found in (case["paths"] | case["limits"]).items():
            yield case, name, found


def test_all_paths_and_limits_are_measured_at_both_sizes_with_and_without_workers(record):
    assert [(case["size"], case["workers"]) for case in record["cases"]] == [(32, 0), (32, 2), (224, 0), (224, 2)]
    for case in record["cases"]:
        assert list(case["paths"]) == PATHS and list(case["limits"]) == LIMITS


def test_every_path_reads_every_image_once(record):
    for case, name, found in all_paths(record):
        assert found["rows"] == case["data"]["rows"] == 64, (case["size"], case["workers"], name)
        assert found.get("covers", name in LIMITS), (case["size"], case["workers"], name)


def test_the_record_describes_the_data_and_the_machine(record):
    assert {"torch", "timm", "datasets", "transformers", "pillow"} <= set(record["machine"]["versions"])
    assert record["threads"] == 1 and record["commit"]
    for case, name, found in all_paths(record):
        assert found["images_per_s"]["low"] <= found["images_per_s"]["median"] <= found["images_per_s"]["high"], name
        assert 0 < found["first_s"] and 0 <= found["end_s"]
        assert ("waiting" in found) == (name in PATHS)
        assert len(case["data"]["sha256"]) == 64 and "sample" in case["data"]["made"]


def test_the_table_has_a_row_for_each_path_and_limit(record):
    head, _, *rows = input_table(record).splitlines()
    assert head.count("worker(s)") == 4
    assert [row.split("|")[1].strip() for row in rows] == PATHS + LIMITS
    assert all(row.count("%") == 4 * (name in PATHS) for row, name in zip(rows, PATHS + LIMITS, strict=True))


def test_the_record_of_the_repository_is_complete():
    kept = json.loads((ROOT / "hub_cards" / "speed" / "input.json").read_text())
    assert len(kept["cases"]) == 4 and re.fullmatch("[0-9a-f]{40}", kept["commit"])
    for case, name, found in all_paths(kept):
        assert found["rows"] == case["data"]["rows"] >= 2048 and found["rounds"] >= 3
        assert found.get("covers", name in LIMITS), (case["size"], case["workers"], name)


def test_covers_is_false_for_a_missing_or_repeated_image():
    def path(labels):
        batches = [torch.tensor(labels)]
        return InputPath(lambda epoch: batches, lambda batch: (len(batch), batch))

    expected = torch.ones(3, dtype=int)
    for labels, covers in (([2, 0, 1], True), ([0, 1], False), ([0, 1, 1], False), ([0, 1, 2, 2], False)):
        assert benchmark.summary([benchmark.one_pass(path(labels), 0)], expected)["covers"] == covers


def test_a_model_waits_for_late_batches_only():
    def late(epoch):
        for _ in range(4):
            time.sleep(0.02)
            yield None

    def ready(batch):
        return 1, None

    slow = benchmark.measure_waiting(InputPath(late, ready), 0.02, 3)
    ready_batches = benchmark.measure_waiting(InputPath(lambda epoch: [None] * 4, ready), 0.02, 9)
    assert slow["steps"] == ready_batches["steps"] == 3
    assert slow["share"] > ready_batches["share"] and slow["longest_s"] >= 0.02


def test_generated_images_are_reproducible_and_have_the_right_format():
    small, large = CASES
    assert isinstance(small, Case) and not small.resized and large.resized
    pixels = np.arange(28 * 28, dtype=np.uint8).reshape(28, 28)
    files = [generated_image(pixels, case, np.random.default_rng(0)) for case in (small, small, large)]
    assert files[0] == files[1] and files[0].startswith(b"\x89PNG") and files[2].startswith(b"\xff\xd8")


def test_the_error_for_too_few_images_gives_the_required_number(tmp_path):
    with pytest.raises(DataError, match="give at least 512"):
        benchmark.splits_of_folder(folder_of(tmp_path / "images"), CASES[1])
