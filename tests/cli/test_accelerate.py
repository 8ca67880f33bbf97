"""The files of recipes/accelerate start what they say. ddp.yaml and ddp_machines.yaml run in test_distributed.py."""

from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from fixtures.cli import ROOT, folder_of, python, recipe_of, record_of, start

FILES = ROOT / "recipes" / "accelerate"
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def launched(name: str, *words) -> dict[str, str]:
    """The environment that `accelerate launch` would give to the processes of a configuration."""
    given = ["--config_file", str(FILES / f"{name}.yaml"), *map(str, words), "script.py"]
    options, *_ = _validate_launch_command(launch_command_parser().parse_args(given))
    if options.multi_gpu or options.use_fsdp:
        return prepare_multi_gpu_env(options)
    return prepare_simple_launcher_cmd_env(options)[1]


PRECISIONS = {"one_process": "no", "bf16": "bf16", "fp16": "fp16", "ddp": "no", "ddp_machines": "no", "fsdp": "bf16"}


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_precision_is_the_file_s(name):
    assert launched(name)["ACCELERATE_MIXED_PRECISION"] == PRECISIONS[name]


def test_every_file_is_tested():
    assert {path.stem for path in FILES.glob("*.yaml")} == PRECISIONS.keys()


@pytest.mark.parametrize("name", ["ddp", "ddp_machines"])
def test_any_file_takes_another_precision_on_the_command_line(name):
    assert launched(name, "--mixed_precision", "bf16")["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_the_network_is_split_by_fsdp_alone():
    assert [name for name in PRECISIONS if launched(name).get("ACCELERATE_USE_FSDP") == "true"] == ["fsdp"]


@pytest.fixture
def tiny(tmp_path):
    """A recipe of one step."""
    return recipe_of(tmp_path / "recipe.yaml", folder_of(tmp_path / "data"), max_steps=1, save_strategy="no")


def run(name: str, recipe: Path, *words) -> str:
    """What is said on the error stream by a recipe, started with a configuration."""
    launch = ("-m", "accelerate.commands.launch", "--config_file", FILES / f"{name}.yaml")
    process = python(*launch, ROOT / "scripts" / "train.py", recipe, "--output_dir", recipe.parent / "run", *words)
    return process.communicate()[1]


def test_bfloat16_trains_on_a_cpu_and_the_record_says_so(tiny):
    said = run("bf16", tiny)
    record = record_of(tiny.parent / "run")
    assert (record["status"], record["mixed_precision"]) == ("finished", "bf16"), said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_float16_on_a_cpu_is_refused(tiny, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        assert start(tiny, "--output_dir", tiny.parent / "run") == 2
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert "Mixed precision fp16 requires a GPU" in capsys.readouterr().err
    assert not (tiny.parent / "run").exists()


@GPU
def test_float16_trains_with_a_scaler_that_checkpoints_keep(tiny):
    words = ("--use_cpu", "false", "--max_steps", 4, "--save_strategy", "steps", "--save_steps", 2)
    said = run("fp16", tiny, *words)
    record = record_of(tiny.parent / "run")
    assert (record["status"], record["mixed_precision"]) == ("finished", "fp16"), said
    assert (tiny.parent / "run" / "checkpoint-4" / "scaler.pt").is_file()
