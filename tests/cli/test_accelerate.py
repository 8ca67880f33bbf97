"""The configuration files of recipes/accelerate. test_distributed.py launches ddp.yaml and ddp_machines.yaml."""

import socket
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from fixtures.cli import ROOT, folder_of, python, recipe_of, record_of, start

from hf_mixup.cli._launcher import is_launcher

FILES = ROOT / "recipes" / "accelerate"


def launched(name: str, *words) -> dict[str, str]:
    """The environment that `accelerate launch` creates for the processes of a configuration file."""
    argv = ["--config_file", str(FILES / f"{name}.yaml"), *map(str, words), "script.py"]
    options, *_ = _validate_launch_command(launch_command_parser().parse_args(argv))
    with socket.create_server(("127.0.0.1", 0)) as free:  # the usual port may be in use
        options.main_process_port = free.getsockname()[1]
    if options.multi_gpu or options.use_fsdp:
        return prepare_multi_gpu_env(options)
    return prepare_simple_launcher_cmd_env(options)[1]


PRECISIONS = {"one_process": "no", "bf16": "bf16", "fp16": "fp16", "ddp": "no", "ddp_machines": "no", "fsdp": "bf16"}


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_precision_is_that_of_the_file(name):
    assert launched(name)["ACCELERATE_MIXED_PRECISION"] == PRECISIONS[name]


def test_every_file_is_tested():
    assert {path.stem for path in FILES.glob("*.yaml")} == PRECISIONS.keys()


@pytest.mark.parametrize("name", ["ddp", "ddp_machines"])
def test_the_command_line_overrides_the_precision(name):
    assert launched(name, "--mixed_precision", "bf16")["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_only_fsdp_shards_the_network():
    assert [name for name in PRECISIONS if launched(name).get("ACCELERATE_USE_FSDP") == "true"] == ["fsdp"]


@pytest.fixture
def tiny(tmp_path):
    """A recipe of one step."""
    return tiny_recipe(tmp_path)


def tiny_recipe(folder: Path) -> Path:
    return recipe_of(folder / "recipe.yaml", folder_of(folder / "data"), max_steps=1, save_strategy="no")


def launch(name: str, recipe: Path, *options) -> tuple[int, str, str]:
    """Train a recipe with a configuration file of recipes/accelerate; returns exit status, stdout and stderr."""
    launcher = ("-m", "accelerate.commands.launch", "--config_file", FILES / f"{name}.yaml", *options)
    process = python(*launcher, ROOT / "scripts" / "train.py", recipe, "--output_dir", recipe.parent / "run")
    printed, errors = process.communicate()
    return process.returncode, printed, errors


@pytest.fixture(scope="module")
def bfloat16(tmp_path_factory):
    """The run's folder and the launch of bf16.yaml, with an option that starts one process where two are expected."""
    recipe = tiny_recipe(tmp_path_factory.mktemp("bfloat16"))
    return recipe.parent / "run", *launch("bf16", recipe, "--cpu", "--num_processes", 2)


def test_bfloat16_trains_on_a_cpu_and_is_in_the_record(bfloat16):
    folder, status, _, errors = bfloat16
    assert status == 0, errors
    record = record_of(folder)
    assert (record["status"], record["mixed_precision"]) == ("finished", "bf16")


def test_a_launcher_that_starts_one_process_of_two_gets_a_warning(bfloat16):
    _, _, printed, errors = bfloat16
    assert "1 process(es) on cpu" in printed
    assert "Warning: the launcher was to start several processes but started one" in errors


def test_processes_that_did_not_join_are_refused_once_with_the_command_that_works(tmp_path):
    recipe = recipe_of(tmp_path / "recipe.yaml", folder_of(tmp_path / "data"), use_cpu=False)
    status, printed, errors = launch("ddp", recipe, "--num_processes", 2, "--main_process_port", 0)
    if not status:  # accelerate 1.10 joins them without --use_cpu
        assert record_of(tmp_path / "run")["world_size"] == 2
        return
    start = f"accelerate launch --multi_gpu --num_processes 2 -m hf_mixup {recipe} --output_dir {tmp_path / 'run'}"
    assert errors.count("The launcher started 2 processes, but") == 1
    assert f" {start} --use_cpu\n" in errors and "train loss" not in printed
    assert not (tmp_path / "run").exists()


def test_float16_on_a_cpu_is_refused(tiny, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        assert start(tiny, "--output_dir", tiny.parent / "run") == 2
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert "Mixed precision fp16 requires a GPU" in capsys.readouterr().err
    assert not (tiny.parent / "run").exists()


@pytest.mark.gpu
def test_float16_trains_on_a_gpu_and_checkpoints_hold_the_scaler(tmp_path):
    fields = {"use_cpu": False, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    status, _, errors = launch("fp16", recipe_of(tmp_path / "recipe.yaml", folder_of(tmp_path / "data"), **fields))
    assert status == 0, errors
    record = record_of(tmp_path / "run")
    assert (record["status"], record["mixed_precision"]) == ("finished", "fp16")
    assert (tmp_path / "run" / "checkpoint-4" / "scaler.pt").is_file()


@pytest.mark.parametrize(
    "words, expected",
    [
        ("python /env/bin/accelerate launch --num_processes 2 scripts/train.py", True),
        ("python -m accelerate.commands.launch scripts/train.py", True),
        ("python -u /env/bin/torchrun train.py", True),
        ("python -m torch.distributed.run train.py", True),
        ("bash accelerate/run.sh", False),
        ("make accelerate", False),
        ("python -m hf_mixup train quickstart", False),
        ("python -m", False),
        ("bash", False),
        ("", False),
    ],
)
def test_a_launcher_is_recognised_by_its_command_line(words, expected):
    assert is_launcher(words.split()) is expected
