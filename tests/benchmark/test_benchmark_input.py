"""The input paths are measured as they say, on images that all of them see; how fast they are, no test asserts."""

import json
import re
import time

import numpy as np
import pytest
import torch
from fixtures.cli import ROOT, folder_of, python

from hf_mixup.benchmark import input as benchmark
from hf_mixup.benchmark.input_data import CASES, Case, picture
from hf_mixup.benchmark.input_peers import InputPath
from hf_mixup.benchmark.report import input_table
from hf_mixup.data import DataError

PATHS = ["ours, streamed", "ours, stored", "timm hfids, streamed", "transformers example, stored"]
LIMITS = ["decoding, PIL", "decoding, torchvision", "reading from the hub", "reading from the disk"]


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """The record of a quick run: every image is a class of its own."""
    out = tmp_path_factory.mktemp("input") / "input.json"
    secret = {"HF_TOKEN": "hf_" + "canary" * 5}
    process = python("-m", "hf_mixup.benchmark.input", "--quick", "--out", out, environment=secret)
    printed, said = process.communicate()
    assert process.returncode == 0, said
    assert "canary" not in printed + said + out.read_text()
    return json.loads(out.read_text())


def every(record):
    for case in record["cases"]:
        for name, found in (case["paths"] | case["limits"]).items():
            yield case, name, found


def test_all_paths_and_limits_are_measured_at_both_sizes_with_and_without_workers(record):
    assert [(case["size"], case["workers"]) for case in record["cases"]] == [(32, 0), (32, 2), (224, 0), (224, 2)]
    for case in record["cases"]:
        assert list(case["paths"]) == PATHS and list(case["limits"]) == LIMITS


def test_every_path_gives_every_image_once(record):
    for case, name, found in every(record):
        assert found["rows"] == case["data"]["rows"] == 64, (case["size"], case["workers"], name)
        assert found.get("covers", name in LIMITS), (case["size"], case["workers"], name)


def test_the_record_says_what_was_measured_and_on_what(record):
    assert {"torch", "timm", "datasets", "transformers", "pillow"} <= set(record["machine"]["versions"])
    assert record["threads"] == 1 and record["commit"]
    for case, name, found in every(record):
        assert found["images_per_s"]["low"] <= found["images_per_s"]["median"] <= found["images_per_s"]["high"], name
        assert 0 < found["first_s"] and 0 <= found["end_s"]
        assert ("waiting" in found) == (name in PATHS)
        assert len(case["data"]["sha256"]) == 64 and "sample" in case["data"]["made"]


def test_the_table_has_a_row_for_each_path_and_limit(record):
    head, _, *rows = input_table(record).splitlines()
    assert head.count("worker(s)") == 4
    assert [row.split("|")[1].strip() for row in rows] == PATHS + LIMITS
    assert all(row.count("%") == 4 * (name in PATHS) for row, name in zip(rows, PATHS + LIMITS, strict=True))


def test_the_record_of_the_repository_is_a_whole_one():
    file = ROOT / "hub_cards" / "speed" / "input.json"
    if not file.is_file():
        pytest.skip("not measured yet")
    kept = json.loads(file.read_text())
    assert len(kept["cases"]) == 4 and re.fullmatch("[0-9a-f]{40}", kept["commit"])
    for case, name, found in every(kept):
        assert found["rows"] == case["data"]["rows"] >= 2048 and found["rounds"] >= 3
        assert found.get("covers", name in LIMITS), (case["size"], case["workers"], name)


def test_a_pass_that_misses_an_image_or_has_one_twice_does_not_cover():
    def path(labels):
        batches = [torch.tensor(labels)]
        return InputPath(lambda epoch: batches, lambda batch: (len(batch), batch))

    expected = torch.ones(3, dtype=int)
    for labels, covers in (([2, 0, 1], True), ([0, 1], False), ([0, 1, 1], False), ([0, 1, 2, 2], False)):
        assert benchmark.summary([benchmark.one_pass(path(labels), 0)], expected)["covers"] == covers


def test_a_model_waits_for_batches_that_come_late_and_not_for_those_that_are_there():
    def late(epoch):
        for _ in range(4):
            time.sleep(0.02)
            yield None

    def ready(batch):
        return 1, None

    slow = benchmark.waiting(InputPath(late, ready), 0.02, 3)
    there = benchmark.waiting(InputPath(lambda epoch: [None] * 4, ready), 0.02, 9)
    assert slow["steps"] == there["steps"] == 3
    assert slow["share"] > there["share"] and slow["longest_s"] >= 0.02


def test_images_are_the_same_each_time_and_of_the_size_they_should_be():
    small, large = CASES
    assert isinstance(small, Case) and not small.resized and large.resized
    pixels = np.arange(28 * 28, dtype=np.uint8).reshape(28, 28)
    files = [picture(pixels, case, np.random.default_rng(0)) for case in (small, small, large)]
    assert files[0] == files[1] and files[0].startswith(b"\x89PNG") and files[2].startswith(b"\xff\xd8")


def test_too_few_images_of_ones_own_are_refused_with_the_number_that_is_needed(tmp_path):
    with pytest.raises(DataError, match="give at least 512"):
        benchmark.own(folder_of(tmp_path / "images"), CASES[1])
