"""Two CPU processes (gloo) train on one streamed data set. One launch runs all cases of stream_worker.py."""

import json
from pathlib import Path

import pytest
import torch
from fixtures.cli import hub_environment, python, recipe_of, record_of, start
from fixtures.streams import point_to, recorded_rows, write_parquet
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file

SHARDS = {1: (50,), 3: (9, 30, 11), 4: (13, 12, 13, 12)}
WORKER = Path(__file__).with_name("stream_worker.py")
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--main_process_port", 0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, hub):
    """A folder with the results and runs of all cases."""
    root, api = tmp_path_factory.mktemp("runs"), HfApi(endpoint=hub.url, token=hub.token)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        for number, shards in SHARDS.items():
            api.create_repo(f"user/shards{number}", repo_type="dataset")
            folder = write_parquet(root / f"data{number}", shards, 5)
            api.upload_folder(repo_id=f"user/shards{number}", folder_path=folder, repo_type="dataset")
    fields = {
        "streaming": True,
        "shuffle_memory": 8 * 675,
        "save_strategy": "steps",
        "save_steps": 3,
        "num_train_epochs": 5,
    }
    fields |= {"gradient_accumulation_steps": 2, "dataloader_num_workers": 1, "method": "cutmix", "eval_strategy": "no"}
    recipe_of(root / "recipe.yaml", "user/shards3", **fields, random_resized_crop=[0.5, 1.0])
    environment = hub_environment(hub, root / "home") | {"RESULTS": str(root)}
    two = python(*LAUNCH, WORKER, "seen", "resumed", "stopped", environment=environment)
    said = two.communicate()[1]
    assert two.returncode == 0, said
    return root


@pytest.fixture(scope="module")
def results(runs):
    return lambda case: [json.loads((runs / f"{case}-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("shards", SHARDS)
def test_two_processes_read_disjoint_rows_and_drop_less_than_a_global_batch(shards, results):
    one, other = results("seen")
    orders = []
    for epoch in range(3):
        mine, yours = (found[f"{shards} 0 {epoch}"] for found in (one, other))
        # 50 = 6 * (2 * 4) + 2: the last two rows are dropped
        assert len(mine) == len(yours) == 24 and len({*mine, *yours}) == 48
        assert mine == one[f"{shards} 2 {epoch}"] and yours == other[f"{shards} 2 {epoch}"]
        orders.append(mine)
    assert orders[0] != orders[1] != orders[2]


def test_a_killed_and_resumed_run_of_two_processes_ends_with_the_same_weights(runs, results):
    assert [found["exits"] for found in results("resumed")] == [[0, "killed", 0]] * 2
    assert results("resumed")[0]["checkpoints"] == ["checkpoint-3", "checkpoint-6"]
    one, other = (load_file(runs / run / "model.safetensors") for run in ("whole", "killed"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert record_of(runs / "whole")["steps"] == record_of(runs / "killed")["steps"] == 15


def test_one_process_continues_with_the_rows_that_neither_of_two_had(runs, results, hub, monkeypatch, tmp_path):
    point_to(hub, monkeypatch, tmp_path / "home", hub.token)
    with recorded_rows() as seen:
        assert start(runs / "recipe.yaml", "--save_steps", 1, "--output_dir", runs / "fewer", "--resume") == 0
    # an epoch of two processes has 3 steps of 2 x 2 x 4 rows; the last checkpoint is that of step 5, in the second one
    before = [row for rank in results("stopped") for step, rows in rank["rows"] if step in (3, 4) for row in rows]
    rest = [row for step, rows in seen if step < 5 + 2 for row in rows]  # 18 rows left: 2 steps of 2 x 4 rows
    assert len(before) == 32 and len(rest) == 16 and len(set(before + rest)) == 48
    for epoch in range(3):
        steps = range(7 + 6 * epoch, 7 + 6 * (epoch + 1))
        assert len({row for step, rows in seen if step in steps for row in rows}) == 48
    record = record_of(runs / "fewer")
    assert record["steps"] == 7 + 3 * 6 and record["world_size"] == 1
