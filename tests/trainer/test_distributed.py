"""Two processes on the CPU (gloo) train one network. One launch runs all cases of distributed_worker.py."""

import json
import os
import shutil
import signal
import socket
import time
from pathlib import Path

import distributed_worker
import pytest
import torch
from fixtures.cli import ROOT, folder_of, python, recipe_of, record_of
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

WORKER = Path(__file__).with_name("distributed_worker.py")
METHODS = ("static", "saliency", "learned", "hidden", "choice")
LAUNCH = (
    "-m",
    "accelerate.commands.launch",
    "--config_file",
    ROOT / "recipes/accelerate/ddp.yaml",
    "--num_processes",
    2,
)
LAUNCH += ("--main_process_port", 0)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe that saves at each step, in a folder of its own."""
    root = tmp_path_factory.mktemp("runs")
    fields = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 20, "method": "automix"}
    data = folder_of(root / "data", rows=8)
    vit = {"image_size": 28, "optimizer": "adamw", "learning_rate": 1e-3, "max_grad_norm": 1, "method": "cutmix"}
    recipe_of(root / "vit.yaml", data, **fields | distributed_worker.VIT | vit | {"num_train_epochs": 2})
    return recipe_of(root / "recipe.yaml", data, **fields)


@pytest.fixture(scope="module")
def killed(recipe):
    """The status and words of a run on two processes, in `killed`, the second of which was killed in its middle."""
    folder = recipe.parent / "killed"
    process = python(*LAUNCH, "-m", "hf_mixup", recipe, "--output_dir", folder)
    while process.poll() is None and not (folder / "checkpoint-5").is_dir():
        time.sleep(0.002)
    [second] = [number for number in children(process.pid) if "RANK=1" in variables(number)]
    os.kill(second, signal.SIGKILL)
    said = process.communicate()[1]
    return process.returncode, said


def children(parent: int) -> list[int]:
    """The processes that a process started."""
    return [int(number) for number in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def variables(process: int) -> list[str]:
    return Path(f"/proc/{process}/environ").read_text().split("\0")


@pytest.fixture(scope="module")
def runs(recipe, killed):
    """The folder of the recipe and of `killed`."""
    return recipe.parent


@pytest.fixture(scope="module")
def results(runs):
    """`results("static")`: what a case returned, a dict for each process."""
    cases = (*METHODS, "recursive", "gradients", "evaluation", "repeated", "best", "resumed", "sharded")
    cases += ("fsdp_scripts",)
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


def test_what_is_of_one_process_stays_there(results):
    one, other = results("recursive")
    assert one["before"] == one["after"] and other["before"] == other["after"]
    assert not {*one["before"]} & {*other["before"]}


@pytest.fixture(scope="module")
def alone(runs, results):
    """The gradients of each split on one process."""
    return {
        name: distributed_worker.gradients_of(*how[:2], **how[2]) for name, how in distributed_worker.SPLITS.items()
    }


@pytest.mark.parametrize("split", distributed_worker.SPLITS)
def test_gradients_do_not_depend_on_processes_and_accumulation(split, alone, runs):
    network, method, _, *bf16 = split.split()
    whole = alone[f"{network} {method} 1"]  # of one batch of 64 rows, in float32
    two = [load_file(runs / f"gradients-{split}-2-{rank}.safetensors") for rank in range(2)]
    assert all(torch.equal(two[0][name], two[1][name]) for name in whole)
    assert far(whole, alone[f"{network} erm 1"]) > 0.02 or method == "erm"
    for found in (alone[split], two[0]):
        assert found.keys() == whole.keys() and far(found, whole) < (0.02 if bf16 else 1e-5)


def far(one: dict, other: dict) -> float:
    """The distance of two gradients over the length of the second."""
    one, other = (torch.cat([found[name].flatten().double() for name in sorted(other)]) for found in (one, other))
    return float((one - other).norm() / other.norm())


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


def test_a_network_in_parts_trains_as_a_whole_one_and_resumes_to_the_same_bits(results, runs):
    for found in results("sharded"):
        assert found["exits"][:3] == [0, 0, 0]
        assert 0.3 < sum(found["held"]) / len(found["held"]) < 0.7
    split, cut, unsplit = (load_file(runs / name / "model.safetensors") for name in ("split", "split-cut", "unsplit"))
    assert all(torch.equal(split[name], cut[name]) for name in split)
    assert record_of(runs / "split-cut")["epochs"] == record_of(runs / "split")["epochs"]
    assert split.keys() == unsplit.keys() and far(split, unsplit) < 1e-5
    for name in ("split", "split/checkpoint-4"):
        loaded = AutoModelForImageClassification.from_pretrained(runs / name).state_dict()
        assert all(torch.equal(loaded[f"timm_model.{name}"], value) for name, value in split.items())


@pytest.mark.parametrize("arguments", ["TrainingArguments", "MixupConfig"])
def test_fsdp_moves_all_parameters_of_a_script_as_ddp_does(arguments, results):
    for found in results("fsdp_scripts"):
        assert found[arguments]["moved"] == found[arguments]["of"] > 0
        assert found[arguments]["far"] < 1e-6


def test_an_optimizer_created_before_sharding_is_refused(results):
    for found in results("fsdp_scripts"):
        assert "does not hold" in found["stale"] and "they would never move" in found["stale"]


def test_what_cannot_train_with_a_network_in_parts_is_refused_by_name(results):
    for found in results("sharded"):
        assert set(found["exits"][3:]) == {2}
    for words, said in results("sharded")[0]["refused"].items():
        assert "FSDP" in said and words.split()[0 if "ema" in words else 1].removeprefix("--") in said


def test_a_process_that_is_killed_ends_the_run_with_the_way_out(killed, recipe):
    status, said = killed
    folder = recipe.parent / "killed"
    assert status not in (0, None)
    assert "Process 0 stopped, because another process of this run ended" in said
    assert f"The last complete checkpoint is {folder}/checkpoint-" in said
    command = f"accelerate launch --multi_gpu --num_processes 2 -m hf_mixup {recipe} --output_dir {folder} --resume"
    assert f"Continue with: {command}" in said


def test_a_killed_run_of_two_processes_resumes_to_the_same_bits(results, runs):
    assert [found["exits"] for found in results("resumed")] == [[0, 0], [0, 0]]
    assert_same_end(runs / "killed", runs / "whole")


def assert_same_end(folder: Path, whole: Path) -> None:
    for name in ("model.safetensors", "method.safetensors"):
        one, other = (load_file(run / name) for run in (folder, whole))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert record_of(folder)["final"] == record_of(whole)["final"]
    assert record_of(folder)["world_size"] == 2


@pytest.fixture(scope="module")
def broken(recipe):
    """Statuses and words of the two machines of a run whose second fails, each with a folder of its own."""
    return on_two_machines(recipe.parent, "broken")


@pytest.fixture(scope="module")
def machines(recipe, broken):
    """What each of two machines found after that."""
    root = recipe.parent
    shutil.copytree(root / "machine-0" / "run", root / "machine-0" / "half")
    statuses, said = zip(*on_two_machines(root, "machines"))
    assert statuses == (0, 0), said
    return [json.loads((root / f"machines-2-{rank}.json").read_text()) for rank in range(2)]


def on_two_machines(root: Path, case: str) -> list[tuple[int, str]]:
    """A case of distributed_worker.py as ddp_machines.yaml starts it, twice on this machine; each half's end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ("-m", "accelerate.commands.launch", "--config_file", ROOT / "recipes/accelerate/ddp_machines.yaml")
    words += ("--num_processes", 2, "--main_process_port", port)
    halves = []
    for rank in range(2):
        (root / f"machine-{rank}").mkdir(exist_ok=True)
        environment, place = {"RUNS": str(root)}, root / f"machine-{rank}"
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        start = (*words, "--machine_rank", rank, WORKER, root, case)
        halves.append(python(*start, environment=environment, cwd=place))
    said = [half.communicate()[1] for half in halves]
    return [(half.returncode, words) for half, words in zip(halves, said)]


def test_an_error_on_one_machine_ends_the_run_on_all(broken, recipe):
    (first, said), (second, cause) = broken
    assert first != 0 and second != 0
    assert "Row 3 cannot be read: the disk is gone." in cause and "Row 3" not in said
    assert "Process 0 stopped, because another process of this run ended" in said
    assert f"The last complete checkpoint is {recipe.parent}/machine-0/run/checkpoint-5" in said
    assert "--num_processes 2 --num_machines 2 --machine_rank 0 --main_process_ip 127.0.0.1 --main_process_port" in said


def test_machines_with_folders_of_their_own_resume_to_the_same_bits(machines, results, runs):
    assert [found["exits"][1] for found in machines] == [0, 0]
    for rank in range(2):
        assert_same_end(runs / f"machine-{rank}" / "run", runs / "whole")


def test_machines_that_lack_a_checkpoint_refuse_to_resume(machines):
    assert [found["exits"][0] for found in machines] == [2, 2]
    for found in machines:
        assert "No checkpoint is complete on all machines" in found["told"]
        assert "rank 1: none" in found["told"] and "[4, 5]" in found["told"]


def test_machines_with_one_folder_leave_one_record(machines, runs):
    assert [found["exits"][2] for found in machines] == [0, 0]
    assert record_of(runs / "shared")["world_size"] == 2 and record_of(runs / "shared")["status"] == "finished"
    assert sorted(path.name for path in (runs / "shared").glob("*.json")) == ["config.json", "run.json"]
    assert not [path.name for path in (runs / "shared").iterdir() if path.name.startswith(".")]
