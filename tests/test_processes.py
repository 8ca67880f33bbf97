"""Two processes train one model, with draws of their own and the same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """What each of two processes says of the same run."""
    folder = tmp_path_factory.mktemp("two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    script = [str(Path(__file__).parent / "two_processes.py"), str(folder / "run"), str(folder / "found.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(launch + script, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


def test_the_step_is_wrapped_for_both(found):
    assert [process["wrapped"] for process in found] == ["DistributedDataParallel"] * 2


def test_processes_draw_their_own(found):
    draws = [draw for process in found for draw in process["draws"]]
    assert len(set(draws)) == len(draws) == 6
    assert [process["seed"] for process in found] == [0, 1]


def test_processes_end_with_the_same_weights(found):
    assert found[0]["weights"] == found[1]["weights"]


def test_processes_know_the_same_best_checkpoint(found):
    assert found[0]["best"] == found[1]["best"]
    assert found[0]["best"].endswith("run/checkpoint-2")
    assert found[0]["files"] == ["checkpoint-2"]
