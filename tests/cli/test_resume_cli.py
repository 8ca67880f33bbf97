"""A run that was interrupted or killed from outside ends as if it had not been."""

import random
import signal
import time
from pathlib import Path

import pytest
import torch
from fixtures.cli import command, folder_of, recipe_of, record_of, start
from safetensors.torch import load_file

TIMINGS = ("images_per_s", "wall_s", "peak_mb")
STEPS = 40


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The command line of a run with everything that has a state: a generator, averaged weights, dropout, crops."""
    root = tmp_path_factory.mktemp("resume")
    data = folder_of(root / "data", rows=10)
    fields = {"save_strategy": "steps", "save_steps": 1, "method": "automix", "method_args": {"update_prob": 0.7}}
    fields |= {"ema_decay": 0.9, "crop_padding": 2, "num_train_epochs": 8}
    fields |= {"model_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "drop_rate": 0.1}}
    recipe = recipe_of(root / "recipe.yaml", data, **fields)
    return [recipe]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """The folder of the run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert start(*words, "--output_dir", folder) == 0
    assert record_of(folder)["steps"] == STEPS
    return folder


def interrupted(words: list, folder: Path, number: int, step: int) -> tuple[int, str]:
    """The exit status and errors of a run in its own process, sent a signal when checkpoint `step` is there."""
    process = command(*words, "--output_dir", folder)
    while process.poll() is None and not (folder / f"checkpoint-{step}").is_dir():
        time.sleep(0.002)
    process.send_signal(number)
    _, said = process.communicate()
    assert any(folder.glob("checkpoint-*")), said
    assert record_of(folder)["status"] == "running"
    return process.returncode, said


def assert_alike(folder: Path, whole: Path) -> None:
    """The weights of both runs are equal bit for bit, and so are their records, apart from timings."""
    for name in ("model.safetensors", "method.safetensors"):
        one, other = load_file(folder / name), load_file(whole / name)
        assert one.keys() == other.keys()
        assert not [key for key in one if not torch.equal(one[key], other[key])]
    one, other = record_of(folder), record_of(whole)
    for run in (one, other):
        [run.pop(name) for name in TIMINGS]
    assert one == other


def test_ctrl_c_leaves_a_checkpoint_and_resume_ends_with_the_same_bits(words, whole, tmp_path, capsys):
    status, said = interrupted(words, tmp_path / "run", signal.SIGINT, step=7)
    assert status == 130 and "Traceback" not in said
    assert f"Continue with: python -m hf_mixup {words[0]} --output_dir {tmp_path / 'run'} --resume" in said
    assert start(*words, "--output_dir", tmp_path / "run") == 2
    assert start(*words, "--output_dir", tmp_path / "run", "--resume") == 0
    assert_alike(tmp_path / "run", whole)


def test_a_run_killed_at_any_step_resumes_to_the_same_bits(words, whole, tmp_path):
    step = random.randrange(2, STEPS - 10)
    status, _ = interrupted(words, tmp_path / "run", signal.SIGKILL, step)
    assert status == -signal.SIGKILL
    assert start(*words, "--output_dir", tmp_path / "run", "--resume") == 0, f"killed after step {step}"
    assert_alike(tmp_path / "run", whole)


def test_resuming_with_other_values_or_other_data_is_refused(words, tmp_path, capsys):
    folder = tmp_path / "run"
    data = folder_of(tmp_path / "data")
    mine = [recipe_of(tmp_path / "recipe.yaml", data), "--output_dir", folder, "--max_steps", 1]
    assert start(*mine) == 0
    (folder / "run.json").write_text((folder / "run.json").read_text().replace('"finished"', '"running"'))
    assert start(*mine, "--resume", "--learning_rate", 0.5) == 2
    assert "learning_rate was 0.05 and is 0.5" in capsys.readouterr().err
    (data / "train" / "cat" / "0.png").write_bytes((data / "train" / "cat" / "1.png").read_bytes())
    assert start(*mine, "--resume") == 2
    assert "data revision" in capsys.readouterr().err
    assert list(folder.glob("checkpoint-1/model.safetensors"))
