"""Two CPU processes (gloo) train one network: two launches, of one machine and of two, run distributed_worker.py."""

import json
import os
import socket
from pathlib import Path

import distributed_worker
import pytest
import torch
from fixtures.cli import ROOT, folder_of, python, recipe_of, record_of
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

WORKER = Path(__file__).with_name("distributed_worker.py")
METHODS = ("static", "saliency", "learned", "hidden", "choice")
CASES = (*METHODS, "recursive", "gradients", "evaluation", "repeated", "best", "resumed", "sharded", "fsdp_scripts")
LAUNCH = ("-m", "accelerate.commands.launch", "--num_processes", 2, "--config_file")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of all results and runs, with recipes that save at each step."""
    root = tmp_path_factory.mktemp("runs")
    fields = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 3, "method": "automix"}
    data = folder_of(root / "data", rows=8)
    vit = {"image_size": 28, "optimizer": "adamw", "learning_rate": 1e-3, "max_grad_norm": 1, "method": "cutmix"}
    recipe_of(root / "vit.yaml", data, **fields | distributed_worker.VIT | vit | {"num_train_epochs": 2})
    recipe_of(root / "recipe.yaml", data, **fields)
    return root


@pytest.fixture(scope="module")
def launch(runs):
    """Exit status and stderr of the launch of all cases on two processes."""
    options = (ROOT / "recipes/accelerate/ddp.yaml", "--main_process_port", 0)
    groups = ("killed", ",".join(CASES), "killed_under_the_launcher")
    process = python(*LAUNCH, *options, WORKER, runs, *groups, environment={"RUNS": str(runs)})
    errors = process.communicate()[1]
    return process.returncode, errors


@pytest.fixture(scope="module")
def results(runs, launch):
    """`results("static")`: what a case returned, a dict for each rank."""
    assert (runs / "fsdp_scripts-2-0.json").is_file(), launch[1]
    return lambda case: [json.loads((runs / f"{case}-2-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("method", METHODS)
def test_all_ranks_hold_the_same_bits_after_training(method, results):
    for found in results(method):
        assert found["equal"] and found["moved"]
        assert found["steps"] == (10 if method == "choice" else 3)


@pytest.mark.parametrize("method", METHODS)
def test_the_step_is_wrapped_for_several_processes(method, results):
    assert [found["wrapped"] for found in results(method)] == ["DistributedDataParallel"] * 2


@pytest.mark.parametrize("method", ["static", "saliency", "learned", "hidden"])
def test_each_rank_has_its_own_draws(method, results):
    one, other = (found["drawn"] for found in results(method))
    assert len(one) == len(other) >= 6  # three steps of two micro-batches; AutoMix draws twice in each
    assert not {tuple(draw) for draw in one} & {tuple(draw) for draw in other}


def test_per_rank_state_is_not_shared_between_ranks(results):
    one, other = results("recursive")
    assert one["before"] == one["after"] and other["before"] == other["after"]
    assert not {*one["before"]} & {*other["before"]}


@pytest.fixture(scope="module")
def alone(runs, results):
    """The gradients of each of SPLITS on one process."""
    return {
        name: distributed_worker.gradients_of(*how[:2], **how[2]) for name, how in distributed_worker.SPLITS.items()
    }


@pytest.mark.parametrize("split", distributed_worker.SPLITS)
def test_gradients_do_not_depend_on_the_number_of_processes_and_accumulation(split, alone, runs):
    network, method, _, *bf16 = split.split()
    expected = alone[f"{network} {method} 1"]  # of one batch of 64 rows, in float32
    two = [load_file(runs / f"gradients-{split}-2-{rank}.safetensors") for rank in range(2)]
    assert all(torch.equal(two[0][name], two[1][name]) for name in expected)
    assert far(expected, alone[f"{network} erm 1"]) > 0.02 or method == "erm"
    for found in (alone[split], two[0]):
        assert found.keys() == expected.keys() and far(found, expected) < (0.02 if bf16 else 1e-5)


def far(one: dict, other: dict) -> float:
    """The norm of the difference of two gradients, divided by the norm of the second."""
    one, other = (torch.cat([found[name].flatten().double() for name in sorted(other)]) for found in (one, other))
    return float((one - other).norm() / other.norm())


def test_evaluation_counts_each_row_once(results):
    alone = distributed_worker.evaluation()
    for found in results("evaluation"):
        assert found["rows"] == 61
        assert found["labels"] == alone["labels"] and found["top1"] == alone["top1"]
        assert found["logits"] == pytest.approx(alone["logits"], rel=1e-5)
        assert found["loss"] == pytest.approx(alone["loss"], rel=1e-5)


def test_repeated_augmentation_gives_each_rank_a_copy_of_the_same_rows(results):
    one, other = results("repeated")
    assert one["rows"] == other["rows"] and len(set(one["rows"])) == len(one["rows"]) == 96  # 6 steps of 2 x 16, twice
    assert not {*one["seeds"]} & {*other["seeds"]}
    assert "Leave sync_bn out" in one["sync_bn"] and one["sync_bn"] == other["sync_bn"]


def test_all_ranks_load_the_same_best_checkpoint(results):
    for found in results("best"):
        assert found == {"best": "checkpoint-2", "equal": True, "files": ["checkpoint-2"]}


def test_a_sharded_model_trains_as_an_unsharded_one_and_resumes_to_the_same_bits(results, runs):
    for found in results("sharded"):
        assert found["exits"][:3] == [0, 0, 0]
        assert 0.3 < sum(found["shares"]) / len(found["shares"]) < 0.7
    sharded, resumed, unsharded = (
        load_file(runs / name / "model.safetensors") for name in ("sharded", "resumed", "unsharded")
    )
    assert all(torch.equal(sharded[name], resumed[name]) for name in sharded)
    assert record_of(runs / "resumed")["epochs"] == record_of(runs / "sharded")["epochs"]
    assert sharded.keys() == unsharded.keys() and far(sharded, unsharded) < 1e-5
    for name in ("sharded", "sharded/checkpoint-4"):
        loaded = AutoModelForImageClassification.from_pretrained(runs / name).state_dict()
        assert all(torch.equal(loaded[f"timm_model.{name}"], value) for name, value in sharded.items())


@pytest.mark.parametrize("arguments", ["TrainingArguments", "MixupConfig"])
def test_fsdp_trains_all_parameters_of_a_script_as_ddp_does(arguments, results):
    for found in results("fsdp_scripts"):
        assert found[arguments]["changed"] == found[arguments]["all"] > 0
        assert found[arguments]["distance"] < 1e-6


def test_an_optimizer_created_before_sharding_is_refused(results):
    for found in results("fsdp_scripts"):
        assert "does not hold" in found["old optimizer"] and "they would not be updated" in found["old optimizer"]


def test_settings_that_fsdp_does_not_support_are_refused_by_name(results):
    for found in results("sharded"):
        assert set(found["exits"][3:]) == {2}
    for words, message in results("sharded")[0]["messages"].items():
        assert "FSDP" in message and words.split()[0 if "ema" in words else 1].removeprefix("--") in message


def test_a_killed_process_ends_the_run_with_the_command_that_continues_it(launch, runs):
    status, errors = launch
    assert status not in (0, None)
    for folder, step in ((runs / "killed", 4), (runs / "killed-under-the-launcher", 1)):
        assert (
            "Process 0 stopped, because another process of this run ended: see the last message of that process for "
            f"the cause. The last complete checkpoint is {folder}/checkpoint-{step}. Continue with: accelerate launch "
            f"--multi_gpu --num_processes 2 -m hf_mixup {runs}/recipe.yaml --output_dir {folder} --resume"
        ) in errors


def test_a_killed_run_of_two_processes_resumes_to_the_same_bits(results, runs):
    assert [found["exits"] for found in results("resumed")] == [[0, 0], [0, 0]]
    assert_same_end(runs / "killed", runs / "reference")


def assert_same_end(folder: Path, reference: Path) -> None:
    for name in ("model.safetensors", "method.safetensors"):
        one, other = (load_file(run / name) for run in (folder, reference))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert record_of(folder)["final"] == record_of(reference)["final"]
    assert record_of(folder)["world_size"] == 2


@pytest.fixture(scope="module")
def two_machines(runs):
    """Exit status and stderr of each launch of ddp_machines.yaml as on two machines, whose second fails at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = (ROOT / "recipes/accelerate/ddp_machines.yaml", "--main_process_port", port, "--machine_rank")
    launches = []
    for rank in range(2):
        folder = runs / f"machine-{rank}"
        folder.mkdir()
        environment = {"RUNS": str(runs), "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        groups = ("failed", "machines", "failed_under_the_launcher")
        launches.append(python(*LAUNCH, *options, rank, WORKER, runs, *groups, environment=environment, cwd=folder))
    errors = [process.communicate()[1] for process in launches]
    return [(process.returncode, text) for process, text in zip(launches, errors)]


@pytest.fixture(scope="module")
def machines(runs, two_machines):
    """What the case `machines` returned on each machine, after the run of `failed`."""
    assert (runs / "machines-2-0.json").is_file(), two_machines
    return [json.loads((runs / f"machines-2-{rank}.json").read_text()) for rank in range(2)]


def test_an_error_on_one_machine_ends_the_run_on_all(two_machines, runs):
    (first, errors), (second, cause) = two_machines
    assert first != 0 and second != 0
    assert cause.count("Row 3 cannot be read: the disk is gone.") == 2 and "Row 3" not in errors
    assert (
        "--num_processes 2 --num_machines 2 --machine_rank 0 --main_process_ip 127.0.0.1 --main_process_port" in errors
    )
    for name, step in (("run", 5), ("failed-under-the-launcher", 1)):
        assert (
            "Process 0 stopped, because another process of this run ended: see the last message of that process for "
            f"the cause. The last complete checkpoint is {runs}/machine-0/{name}/checkpoint-{step}. Continue with: "
        ) in errors


def test_machines_with_separate_disks_resume_to_the_same_bits(machines, results, runs):
    assert [found["exits"][1] for found in machines] == [0, 0]
    for rank in range(2):
        assert_same_end(runs / f"machine-{rank}" / "run", runs / "reference")


def test_resuming_is_refused_where_one_machine_lacks_the_checkpoints(machines):
    assert [found["exits"][0] for found in machines] == [2, 2]
    for found in machines:
        assert "No checkpoint is complete on all machines" in found["message"]
        assert "rank 1: none" in found["message"] and "[4, 5]" in found["message"]


def test_machines_with_a_shared_folder_write_one_record(machines, runs):
    assert [found["exits"][2] for found in machines] == [0, 0]
    assert record_of(runs / "shared")["world_size"] == 2 and record_of(runs / "shared")["status"] == "finished"
    assert sorted(path.name for path in (runs / "shared").glob("*.json")) == ["config.json", "run.json"]
    assert not [path.name for path in (runs / "shared").iterdir() if path.name.startswith(".")]
