"""Two processes on the CPU (gloo) train one network. One launch runs all cases of distributed_worker.py."""

import json
import os
import signal
import time
from pathlib import Path

import distributed_worker
import pytest
import torch
from cli import folder_of, python, recipe_of, record_of
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("distributed_worker.py")
METHODS = ("static", "saliency", "learned", "hidden", "choice")
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--main_process_port", 0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a recipe and `killed`, the run on two processes that was killed in its middle."""
    root = tmp_path_factory.mktemp("runs")
    fields = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 20, "method": "automix"}
    recipe = recipe_of(root / "recipe.yaml", folder_of(root / "data", rows=8), **fields)
    process = python(*LAUNCH, "-m", "hf_mixup", recipe, "--output_dir", root / "killed", start_new_session=True)
    try:
        while process.poll() is None and not (root / "killed" / "checkpoint-5").is_dir():
            time.sleep(0.002)
    finally:
        workers = children(process.pid)
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        process.kill()
    _, said = process.communicate()
    assert len(workers) == 2, said
    return root


def children(parent: int) -> list[int]:
    """The processes that a process started."""
    return [int(number) for number in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


@pytest.fixture(scope="module")
def results(runs):
    """`results("static")`: what a case returned, a dict for each process."""
    cases = (*METHODS, "norms", "evaluation", "repeated", "best", "resumed")
    two = python(*LAUNCH, WORKER, runs, *cases, environment={"RUNS": str(runs)})
    said = two.communicate()[1]
    assert two.returncode == 0, said
    return lambda case: [json.loads((runs / f"{case}-2-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("method", METHODS)
def test_all_processes_hold_the_same_bits_after_training(method, results):
    for found in results(method):
        assert found["equal"] and found["moved"]
        assert found["steps"] == (10 if method == "choice" else 3)


@pytest.mark.parametrize("method", METHODS)
def test_the_step_is_wrapped_for_several_processes(method, results):
    assert [found["wrapped"] for found in results(method)] == ["DistributedDataParallel"] * 2


@pytest.mark.parametrize("method", ["static", "saliency", "learned", "hidden"])
def test_each_process_draws_for_itself(method, results):
    one, other = (found["drawn"] for found in results(method))
    assert len(one) == len(other) >= 6  # three steps of two micro-batches; AutoMix draws twice in each
    assert not {tuple(draw) for draw in one} & {tuple(draw) for draw in other}


def test_gradients_do_not_depend_on_processes_and_accumulation(results):
    alone = distributed_worker.norms()
    one, other = results("norms")
    assert one == other
    for network in ("cnn", "native", "vit"):
        found = [run[f"{network} {accumulation}"] for run in (alone, one) for accumulation in (1, 4)]
        assert found == pytest.approx([found[0]] * 4, rel=1e-6) and found[0] > 0.01


def test_evaluation_counts_each_row_once(results):
    alone = distributed_worker.evaluation()
    for found in results("evaluation"):
        assert found["rows"] == 61
        assert found["labels"] == alone["labels"] and found["top1"] == alone["top1"]
        assert found["logits"] == pytest.approx(alone["logits"], rel=1e-5)


def test_repeated_augmentation_gives_each_process_a_copy_of_the_same_rows(results):
    one, other = results("repeated")
    assert one["rows"] == other["rows"] and len(set(one["rows"])) == len(one["rows"]) == 96  # 6 steps of 2 x 16, twice
    assert not {*one["seeds"]} & {*other["seeds"]}
    assert "leave it out" in one["sync_bn"] and one["sync_bn"] == other["sync_bn"]


def test_processes_know_the_same_best_checkpoint(results):
    for found in results("best"):
        assert found == {"best": "checkpoint-2", "equal": True, "files": ["checkpoint-2"]}


def test_a_killed_run_of_two_processes_resumes_to_the_same_bits(results, runs):
    assert [found["exits"] for found in results("resumed")] == [[0, 0], [0, 0]]
    for name in ("model.safetensors", "method.safetensors"):
        one, other = (load_file(runs / run / name) for run in ("whole", "killed"))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert record_of(runs / "killed")["final"] == record_of(runs / "whole")["final"]
    assert record_of(runs / "killed")["world_size"] == 2
