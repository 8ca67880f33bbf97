"""The training command: dry runs, local data, streams, workers, fine-tuning, full disks, and the Hub."""

import json
import resource
import runpy
import shlex
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import load_dataset
from fixtures.cli import ROOT, content, folder_of, picture, recipe_of, record_of, start
from fixtures.streams import point_to
from safetensors.torch import load_file

from hf_mixup.config.config import help_text
from hf_mixup.runs import first_steps

ONE_STEP = ("--max_steps", 1, "--eval_strategy", "no")
CANARY = "hf_" + "canary" * 5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("data"))


@pytest.fixture
def recipe(tmp_path, data):
    return recipe_of(tmp_path / "recipe.yaml", data)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path, recipe, capsys):
    before = content(tmp_path)
    assert start(recipe, "--dry_run", "--output_dir", tmp_path / "run", "--method", "cutmix") == 0
    plan = capsys.readouterr().out
    for text in ("cutmix (", "alpha=1.0", "train 12, test 12", "2 classes", "first step  loss 0.", "3 over 1 epochs"):
        assert text in plan
    assert content(tmp_path) == before and not (tmp_path / "run").exists()


def test_a_tracker_that_is_not_installed_is_refused_by_name(recipe, capsys, monkeypatch):
    monkeypatch.setattr("hf_mixup.runs.run.get_available_reporting_integrations", lambda: [])
    assert start(recipe, "--dry_run", "--report_to", "tensorboard") == 2
    assert "pip install tensorboard" in capsys.readouterr().err


def test_an_evaluation_before_the_first_log_prints_no_training_loss(tmp_path, recipe, capsys):
    assert start(recipe, "--output_dir", tmp_path / "run", "--logging_strategy", "no") == 0
    assert "  top1 " in (printed := capsys.readouterr().out) and "train loss" not in printed


def test_a_run_prints_its_results_and_how_to_load_them(tmp_path, recipe, capsys):
    assert start(recipe, "--output_dir", tmp_path / "run") == 0
    printed, errors = capsys.readouterr()
    final = record_of(tmp_path / "run")["final"]
    assert "Traceback" not in errors and "1 process(es) on cpu" in printed
    assert f"| {final['loss']:.4g} | {final['top1']:.4g} |" in printed
    assert f"pipeline('image-classification', model='{tmp_path / 'run'}')" in printed


def test_the_message_for_a_used_folder_has_the_command_that_continues_its_run(tmp_path, recipe, capsys):
    argv = [recipe, "--output_dir", tmp_path / "my run", *ONE_STEP, "--model_args", "{layers: [1, 1, 1, 1]}"]
    assert start(*argv) == 0
    before = content(tmp_path / "my run")
    assert start(*argv) == 2
    command = shlex.split(capsys.readouterr().err.split("The command: ")[1])
    assert command[:3] == ["python", "-m", "hf_mixup"]
    assert start(*command[3:]) == 0
    assert content(tmp_path / "my run") == before


def test_the_last_step_is_evaluated_once(tmp_path, recipe):
    assert start(recipe, "--output_dir", tmp_path / "run", "--num_train_epochs", 2) == 0
    run = record_of(tmp_path / "run")
    assert [epoch["epoch"] for epoch in run["epochs"]] == [1, 2]
    assert {name: run["epochs"][-1][name] for name in ("top1", "top5", "nll", "ece")}.items() <= run["final"].items()


def test_a_run_that_diverges_in_its_first_steps_ends_with_words_and_writes_nothing(tmp_path, recipe, capsys):
    options = ["--learning_rate", 1000, "--method_args.alpha", 1, "--class_weights", 1e38, 1e38]
    assert start(recipe, "--output_dir", tmp_path / "run", *options) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "In step 1" in message and "learning_rate 1000" in message
    assert not (tmp_path / "run").exists()


def test_the_record_of_a_diverged_run_is_valid_json(tmp_path, recipe, monkeypatch, capsys):
    argv = [recipe, "--output_dir", tmp_path / "run", "--num_train_epochs", 2]
    monkeypatch.setattr(first_steps, "STEPS", 0)  # as if it diverged later
    assert start(*argv, "--class_weights", 1e38, 1e38) == 0
    text = (tmp_path / "run" / "run.json").read_text()
    assert "NaN" not in text and json.loads(text)["final"]["loss"] is None
    assert "none" in capsys.readouterr().out and "| none |" in (tmp_path / "run" / "README.md").read_text()
    assert start(*argv, "--class_weights", 1e38, 1e38, "--resume") == 0


MODES = ("RGB", "L", "RGBA", "P", "CMYK", "1", "I;16")


def test_class_folders_of_images_of_all_modes_and_sizes_train(tmp_path):
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for row, mode in enumerate(MODES):
                image = picture(10 * number + row, (9 + row, 30 - row), "L" if mode == "I;16" else mode)
                ending = "jpg" if mode == "CMYK" else "png"
                (image.convert("I;16") if mode == "I;16" else image).save(folder / f"{row}.{ending}")
    recipe = recipe_of(tmp_path / "recipe.yaml", tmp_path / "data")
    assert start(recipe, "--output_dir", tmp_path / "run") == 0
    assert record_of(tmp_path / "run")["data"]["splits"] == {"train": 14, "test": 14}


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """The first rows of the built-in data set, in two parquet files per split."""
    root, source = tmp_path_factory.mktemp("parquet"), Path(__file__).parents[2] / "hf_mixup" / "data" / "sample"
    for split in ("train", "test"):
        rows = load_dataset("parquet", data_files=str(source / f"{split}.parquet"), split="train").select(range(40))
        for part in range(2):
            rows.shard(2, part).to_parquet(root / f"{split}-0000{part}-of-00002.parquet")
    return root


def test_parquet_files_train(tmp_path, parquet):
    recipe = recipe_of(tmp_path / "recipe.yaml", parquet)
    assert start(recipe, "--output_dir", tmp_path / "run") == 0
    run = record_of(tmp_path / "run")
    assert run["data"]["splits"] == {"train": 40, "test": 40} and run["steps"] == 10


def test_a_run_on_streamed_parquet_files_does_not_depend_on_the_number_of_workers(tmp_path, parquet):
    recipe = recipe_of(tmp_path / "recipe.yaml", parquet, streaming=True, max_steps=4, eval_strategy="no")
    for workers in (0, 2):
        assert start(recipe, "--output_dir", tmp_path / str(workers), "--dataloader_num_workers", workers) == 0
    assert record_of(tmp_path / "0")["steps"] == 4
    assert same(weights(tmp_path / "0"), weights(tmp_path / "2"))


def test_a_run_with_transforms_of_single_images_does_not_depend_on_the_number_of_workers(tmp_path, data):
    fields = {"random_resized_crop": [0.3, 1], "randaugment": "rand-m9-mstd0.5-inc1", "max_steps": 2}
    recipe = recipe_of(tmp_path / "recipe.yaml", data, **fields, eval_strategy="no")
    for workers in (0, 2):
        assert start(recipe, "--output_dir", tmp_path / str(workers), "--dataloader_num_workers", workers) == 0
    assert same(weights(tmp_path / "0"), weights(tmp_path / "2"))
    assert start(recipe, "--output_dir", tmp_path / "plain", "--randaugment", "null") == 0
    assert not same(weights(tmp_path / "0"), weights(tmp_path / "plain"))


def test_a_finished_run_is_fine_tuned_from_its_folder(tmp_path, recipe):
    assert start(recipe, "--output_dir", tmp_path / "first", *ONE_STEP) == 0
    argv = ["--model", tmp_path / "first", "--model_args", "{}", *ONE_STEP, "--learning_rate", 1e-12]
    assert start(recipe, "--output_dir", tmp_path / "second", *argv) == 0
    first, second = (weights(tmp_path / name) for name in ("first", "second"))
    learned = [name for name in first if "running" not in name and "num_" not in name]
    assert all(torch.allclose(first[name], second[name], rtol=0, atol=1e-9) for name in learned)


def test_fine_tuning_on_other_classes_requires_reset_classifier(tmp_path, recipe, capsys):
    assert start(recipe, "--output_dir", tmp_path / "first", *ONE_STEP) == 0
    other = folder_of(tmp_path / "three", ("a", "b", "c"))
    argv = [recipe, "--data", other, "--model", tmp_path / "first", "--output_dir", tmp_path / "second", *ONE_STEP]
    assert start(*argv, "--model_args", "{}") == 2
    assert "reset_classifier" in capsys.readouterr().err
    assert start(*argv, "--model_args", "{reset_classifier: true}") == 0
    assert weights(tmp_path / "second")["fc.weight"].shape == (3, 8)


@pytest.fixture
def full_disk():
    """`full_disk(10_000)`: from now on, writes beyond so many bytes of a file fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("strategy", ["epoch", "no"])
def test_a_disk_full_at_the_end_is_reported_and_the_run_resumes(strategy, tmp_path, recipe, capsys, full_disk):
    argv = [recipe, "--output_dir", tmp_path / "run", "--save_strategy", strategy]
    full_disk(20_000)
    assert start(*argv) == 1
    full_disk(resource.RLIM_INFINITY)
    errors = capsys.readouterr().err
    assert "Free disk space" in errors and "--resume" in errors and "Traceback" not in errors
    assert start(*argv, "--resume") == 0
    assert record_of(tmp_path / "run")["status"] == "finished"


def test_a_disk_that_becomes_full_leaves_the_last_checkpoint_from_which_the_run_resumes(
    tmp_path, recipe, capsys, full_disk
):
    def fill_after_the_first_checkpoint():
        while not (tmp_path / "run" / "checkpoint-3" / "manifest.json").exists():
            time.sleep(0.001)
        full_disk(20_000)

    argv = [recipe, "--num_train_epochs", 10, "--eval_strategy", "no"]
    watcher = threading.Thread(target=fill_after_the_first_checkpoint, daemon=True)
    watcher.start()
    assert start(*argv, "--output_dir", tmp_path / "run") == 1
    full_disk(resource.RLIM_INFINITY)
    last = max((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert f"The last complete checkpoint is {last}" in capsys.readouterr().err
    assert start(*argv, "--output_dir", tmp_path / "run", "--resume") == 0
    assert start(*argv, "--output_dir", tmp_path / "reference") == 0
    assert same(weights(tmp_path / "run"), weights(tmp_path / "reference"))


def test_an_unreachable_hub_fails_the_push_only_and_the_token_is_not_printed(
    tmp_path, recipe, monkeypatch, capfd, caplog
):
    point_to(SimpleNamespace(url="http://127.0.0.1:9"), monkeypatch, tmp_path / "home", token=CANARY)
    argv = [recipe, "--output_dir", tmp_path / "run", *ONE_STEP, "--push_to_hub", "--hub_model_id", "someone/something"]
    assert run_as_main(monkeypatch, runpy.run_module, "hf_mixup", argv) == 1
    printed, errors = capfd.readouterr()
    assert "Traceback" not in errors and "complete" in errors
    assert f"python -m hf_mixup push {tmp_path / 'run'}" in errors
    assert record_of(tmp_path / "run")["status"] == "finished"
    assert CANARY not in printed + errors + caplog.text
    assert not [name for name, text in content(tmp_path).items() if CANARY.encode() in text]


def run_as_main(monkeypatch, run, program, argv) -> int:
    """The exit status of a module or script run by runpy in this process, with these arguments."""
    monkeypatch.setattr(sys, "argv", [str(program), *map(str, argv)])
    with pytest.raises(SystemExit) as end:
        run(str(program), run_name="__main__")
    return end.value.code


class PrivateHub(BaseHTTPRequestHandler):
    """A Hub that answers all requests with 401, as the Hub does for private repositories."""

    def do_GET(self):
        self.send_response(401)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_the_script_reports_that_a_private_data_set_requires_a_login(tmp_path, recipe, monkeypatch, capfd):
    with ThreadingHTTPServer(("127.0.0.1", 0), PrivateHub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        point_to(SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}"), monkeypatch, tmp_path)
        argv = [recipe, "--data", "someone/private", "--output_dir", tmp_path / "run"]
        status = run_as_main(monkeypatch, runpy.run_path, ROOT / "scripts" / "train.py", argv)
        server.shutdown()
    errors = capfd.readouterr().err.strip()
    assert status == 2 and "Traceback" not in errors, errors
    assert "someone/private" in errors and "log in" in errors
    assert not (tmp_path / "run").exists()


def test_help_lists_every_field(capsys):
    with pytest.raises(SystemExit) as left:
        start("--help")
    assert left.value.code == 0 and capsys.readouterr().out == help_text() + "\n"
