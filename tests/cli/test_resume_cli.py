"""Interrupted and killed runs, resumed, equal an uninterrupted one bit for bit."""

import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from fixtures.cli import ROOT, folder_of, fork, python, recipe_of, record_of, start, status_of
from safetensors.torch import load_file

TIMINGS = ("images_per_s", "wall_s", "peak_mb")
STEPS = 20


@pytest.fixture(scope="module")
def argv(tmp_path_factory):
    """The command line of a run with all kinds of state: a generator, EMA weights, dropout, random crops."""
    root = tmp_path_factory.mktemp("resume")
    data = folder_of(root / "data", rows=10)
    fields = {"save_strategy": "steps", "save_steps": 1, "method": "automix", "method_args": {"update_prob": 0.7}}
    fields |= {"ema_decay": 0.9, "crop_padding": 2, "num_train_epochs": 4}
    fields |= {"model_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "drop_rate": 0.1}}
    recipe = recipe_of(root / "recipe.yaml", data, **fields)
    return [recipe]


@pytest.fixture(scope="module")
def reference(argv, tmp_path_factory):
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    assert start(*argv, "--output_dir", folder) == 0
    assert record_of(folder)["steps"] == STEPS
    return folder


def interrupted(argv: list, folder: Path, number: int, step: int) -> int:
    """Send a signal to a run in a fork of this process when the folder of `step` exists; the run's exit status."""
    child = fork(lambda: start(*argv, "--output_dir", folder))
    while not (folder / f"checkpoint-{step}").is_dir() and is_running(child):
        time.sleep(0.002)
    os.kill(child, number)
    status = status_of(child)
    assert any(folder.glob("checkpoint-*"))
    assert record_of(folder)["status"] == "running"
    return status


def is_running(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def assert_same_run(folder: Path, reference: Path) -> None:
    """The weights of both runs are equal bit for bit, and their records are equal except for timings."""
    for name in ("model.safetensors", "method.safetensors"):
        one, other = load_file(folder / name), load_file(reference / name)
        assert one.keys() == other.keys()
        assert not [key for key in one if not torch.equal(one[key], other[key])]
    one, other = record_of(folder), record_of(reference)
    for run in (one, other):
        [run.pop(name) for name in TIMINGS]
    assert one == other


def test_ctrl_c_saves_a_checkpoint_from_which_the_run_resumes_to_the_same_bits(argv, reference, tmp_path, capfd):
    status = interrupted(argv, tmp_path / "run", signal.SIGINT, step=7)
    errors = capfd.readouterr().err
    assert status == 130 and "Traceback" not in errors
    assert f"Continue with: python -m hf_mixup {argv[0]} --output_dir {tmp_path / 'run'} --resume" in errors
    assert start(*argv, "--output_dir", tmp_path / "run") == 2
    assert start(*argv, "--output_dir", tmp_path / "run", "--resume") == 0
    assert_same_run(tmp_path / "run", reference)


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_under_a_launcher_ends_with_the_two_lines_of_the_run(argv, tmp_path, processes):
    several = ("--multi_gpu", "--main_process_port", 0) if processes > 1 else ()
    launch = ("-m", "accelerate.commands.launch", *several, "--num_processes", processes, ROOT / "scripts" / "train.py")
    words = [*argv, "--max_steps", 4000, "--output_dir", tmp_path / "run"]
    process = python(*launch, *words, start_new_session=True)
    while process.poll() is None and not any((tmp_path / "run").glob("checkpoint-*")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    *_, stopped, advice = process.communicate()[1].splitlines()
    assert re.fullmatch(rf"Stopped after step \d+; {tmp_path}/run/checkpoint-\d+ is complete.", stopped)
    assert advice.startswith("Continue with: ") and advice.endswith(f"{tmp_path / 'run'} --resume")


def test_a_run_killed_at_any_step_resumes_to_the_same_bits(argv, reference, tmp_path):
    step = random.randrange(2, STEPS - 10)
    assert interrupted(argv, tmp_path / "run", signal.SIGKILL, step) == -signal.SIGKILL
    assert start(*argv, "--output_dir", tmp_path / "run", "--resume") == 0, f"killed after step {step}"
    assert_same_run(tmp_path / "run", reference)


def test_resuming_with_other_values_or_other_data_is_refused(tmp_path, capsys):
    folder = tmp_path / "run"
    data = folder_of(tmp_path / "data")
    argv = [recipe_of(tmp_path / "recipe.yaml", data), "--output_dir", folder, "--max_steps", 1]
    assert start(*argv) == 0
    (folder / "run.json").write_text((folder / "run.json").read_text().replace('"finished"', '"running"'))
    assert start(*argv, "--resume", "--learning_rate", 0.5) == 2
    assert "learning_rate was 0.05 and is 0.5" in capsys.readouterr().err
    (data / "train" / "cat" / "0.png").write_bytes((data / "train" / "cat" / "1.png").read_bytes())
    assert start(*argv, "--resume") == 2
    assert "data revision" in capsys.readouterr().err
    assert list(folder.glob("checkpoint-1/model.safetensors"))


def test_a_finished_run_whose_model_is_gone_is_reported(tmp_path, capsys):
    argv = [recipe_of(tmp_path / "recipe.yaml", folder_of(tmp_path / "data")), "--output_dir", tmp_path / "run"]
    assert start(*argv, "--max_steps", 1) == start(*argv, "--max_steps", 1, "--resume") == 0
    (tmp_path / "run" / "model.safetensors").unlink()
    assert start(*argv, "--max_steps", 1, "--resume") == 2
    assert "its model.safetensors is gone" in capsys.readouterr().err


def test_a_run_continues_with_the_same_data_at_another_path_only(argv, reference, tmp_path, capsys):
    [recipe], moved = argv, tmp_path / "other"
    assert interrupted(argv, tmp_path / "run", signal.SIGTERM, 3) != 0
    shutil.copytree(recipe.parent / "data", moved)
    options = ["--data", moved, "--output_dir", tmp_path / "run", "--resume"]
    shutil.copytree(recipe.parent / "data", tmp_path / "changed")
    (tmp_path / "changed" / "train" / "cat" / "0.png").unlink()
    assert start(*argv, *options, "--data", tmp_path / "changed") == 2
    assert "data was './data' and is './changed'" in capsys.readouterr().err
    assert start(*argv, *options, "--seed", 1) == 2
    assert "seed was 0 and is 1" in capsys.readouterr().err
    assert start(*argv, *options) == 0
    assert record_of(tmp_path / "run")["steps"] == STEPS
    assert record_of(tmp_path / "run")["data"]["path"] == "./other"
    ours, whole = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", reference))
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_a_run_is_not_continued_with_other_data_at_the_same_path(tmp_path, capsys):
    data = folder_of(tmp_path / "data", rows=10)
    recipe = recipe_of(tmp_path / "recipe.yaml", data, save_strategy="steps", save_steps=1, num_train_epochs=4)
    assert interrupted([recipe], tmp_path / "run", signal.SIGTERM, 1) != 0
    (data / "train" / "cat" / "0.png").unlink()
    assert start(recipe, "--output_dir", tmp_path / "run", "--resume") == 2
    assert "The run started with data revision" in capsys.readouterr().err
