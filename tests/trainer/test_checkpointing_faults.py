"""Atomic checkpointing: kills, signals and full disks at any point of saving lose no complete checkpoint."""

import json
import os
import pickle
import resource
import shutil
import signal

import pytest
import torch
from fixtures.cli import folder_of, fork, recipe_of, record_of, start, status_of
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from hf_mixup import files
from hf_mixup.files import STAGING
from hf_mixup.publish import export, workflow
from hf_mixup.trainer import checkpointing, manifest
from hf_mixup.trainer.checkpointing import last_checkpoint

STEPS, AT = 5, 3  # steps of the run, and the step at which it is interrupted
KILLED = (signal.SIGKILL, signal.SIGXFSZ)


@pytest.fixture(scope="module")
def argv(tmp_path_factory):
    """The command line of a run of five steps that saves each step, with all kinds of files in its checkpoints."""
    root = tmp_path_factory.mktemp("faults")
    fields = {"save_strategy": "steps", "save_steps": 1, "method": "automix", "ema_decay": 0.9, "max_steps": STEPS}
    return [recipe_of(root / "recipe.yaml", folder_of(root / "data", rows=10), **fields)]


@pytest.fixture(scope="module")
def reference(argv, tmp_path_factory):
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    assert start(*argv, "--output_dir", folder) == 0
    return folder


def before_call(module, name, number, action):
    """Patch a function of `module`: `action` runs before its call `number`, counted from 1."""
    function, count = getattr(module, name), [0]

    def patched(*args, **kwargs):
        count[0] += 1
        if count[0] == number:
            action()
        return function(*args, **kwargs)

    setattr(module, name, patched)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_beyond(size: int):
    """Let the kernel kill this process when it writes a file beyond `size` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def size_of(reference, name) -> int:
    return (reference / f"checkpoint-{STEPS}" / name).stat().st_size


def in_file(name):
    """Kill the process while it writes this file of a checkpoint, or a larger one that is written before."""
    return lambda reference: before_call(
        checkpointing, "save_rank_state", AT - 1, lambda: kill_beyond(size_of(reference, name) - 1)
    )


def at_the_third_move():
    """Kill the process after it has moved two of the staged files."""
    before_call(files, "flush_to_disk", 1, lambda: before_call(files.os, "replace", 3, kill))


POINTS = {
    "in the weights": (2, in_file("model.safetensors")),
    "in the method": (2, in_file("method.safetensors")),
    "in the optimizer": (2, in_file("optimizer.pt")),
    "before the manifest": (2, lambda _: before_call(manifest, "write", AT, kill)),
    "before rotation": (3, lambda _: before_call(checkpointing, "_rotate", AT, kill)),
    "in the exported weights": (STEPS, lambda _: before_call(workflow, "export", 1, lambda: kill_beyond(50_000))),
    "in the final record": (STEPS, lambda _: before_call(export, "_write_card", 1, lambda: kill_beyond(100))),
    "between exported files": (STEPS, lambda _: before_call(workflow, "export", 1, at_the_third_move)),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_while_saving_resumes_to_the_same_bits(point, argv, reference, tmp_path):
    last, arrange = POINTS[point]
    run = [*argv, "--output_dir", tmp_path / "run"]

    def killed():
        arrange(reference)
        return start(*run)

    assert -status_of(fork(killed)) in KILLED
    assert record_of(tmp_path / "run")["status"] == "running"
    assert last_checkpoint(tmp_path / "run") == str(tmp_path / "run" / f"checkpoint-{last}")
    AutoModelForImageClassification.from_pretrained(tmp_path / "run" / f"checkpoint-{last}")
    assert start(*run, "--resume") == 0
    assert_same_run(tmp_path / "run", reference)


def test_the_only_kept_checkpoint_is_complete_when_the_process_is_killed_before_the_manifest(argv, tmp_path):
    def killed():
        before_call(manifest, "write", AT, kill)
        return start(*argv, "--output_dir", tmp_path / "run", "--save_total_limit", 1)

    assert -status_of(fork(killed)) in KILLED
    assert last_checkpoint(tmp_path / "run") == str(tmp_path / "run" / f"checkpoint-{AT - 1}")
    manifest.verify(tmp_path / "run" / f"checkpoint-{AT - 1}")


def assert_same_run(folder, reference) -> None:
    """The folder holds the same files, weights and results as that of the uninterrupted run."""
    for name in ("model.safetensors", "method.safetensors"):
        one, other = load_file(folder / name), load_file(reference / name)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    one, other = record_of(folder), record_of(reference)
    assert (one["status"], one["final"], one["epochs"]) == ("finished", other["final"], other["epochs"])
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in reference.iterdir())


def test_sigterm_while_saving_ends_after_the_save(argv, reference, tmp_path):
    run = [*argv, "--output_dir", tmp_path / "run"]

    def stopped():
        before_call(checkpointing, "save_rank_state", AT, lambda: os.kill(os.getpid(), signal.SIGTERM))
        return start(*run)

    assert status_of(fork(stopped)) == 130
    assert last_checkpoint(tmp_path / "run").endswith(f"checkpoint-{AT + 1}")
    assert start(*run, "--resume") == 0
    assert_same_run(tmp_path / "run", reference)


FULL = {
    "first record": (lambda: limit(1000), "There is no checkpoint"),
    "exported weights": (lambda: before_call(workflow, "export", 1, lambda: limit(50_000)), f"checkpoint-{STEPS}"),
    "final record": (lambda: before_call(export, "_write_card", 1, lambda: limit(2000)), f"checkpoint-{STEPS}"),
}


def limit(size: int):
    """Let writes beyond `size` bytes of a file fail, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.parametrize("what", FULL)
def test_a_full_disk_is_reported_with_the_way_out_and_the_run_resumes(what, argv, reference, tmp_path, capfd):
    arrange, kept = FULL[what]
    run = [*argv, "--output_dir", tmp_path / "run"]

    def full():
        arrange()
        return start(*run)

    assert status_of(fork(full)) == 1
    errors = capfd.readouterr().err
    assert "could not be written" in errors and kept in errors and "--resume" in errors and "Traceback" not in errors
    assert not list((tmp_path / "run").glob("*.safetensors")) and not (tmp_path / "run" / STAGING).exists()
    assert start(*run, "--resume") == 0
    assert_same_run(tmp_path / "run", reference)


def test_a_folder_that_is_in_use_is_refused(argv, reference, tmp_path, capsys):
    run = [*argv, "--output_dir", tmp_path / "run"]
    (waiting, report), (go_on, release) = os.pipe(), os.pipe()

    def first():
        before_call(checkpointing, "save_rank_state", 2, lambda: (os.write(report, b"."), os.read(go_on, 1)))
        return start(*run)

    child = fork(first)
    os.read(waiting, 1)
    for more in ([], ["--resume"]):
        assert start(*run, *more) == 2
        assert f"is in use by another run (process {child} on " in capsys.readouterr().err
    os.write(release, b".")
    assert status_of(child) == 0
    assert_same_run(tmp_path / "run", reference)


def test_saving_a_step_again_keeps_the_complete_checkpoint_until_the_new_one_is_complete(argv, reference, tmp_path):
    run, name = tmp_path / "run", f"checkpoint-{AT}"
    shutil.copytree(reference / f"checkpoint-{STEPS}", run / name)
    for replaced in (False, True):  # killed while the step is saved again, or before the old checkpoint is deleted
        checkpointing._rename_existing(run / name)
        (run / name).mkdir()
        if replaced:
            shutil.copytree(run / f".replaced-{name}", run / name, dirs_exist_ok=True)
        checkpointing.restore_replaced(run)
        assert last_checkpoint(run) == str(run / name) and [path.name for path in run.iterdir()] == [name]
        manifest.verify(run / name)


def resumable_copy(reference, tmp_path, *names):
    """The output folder of an unfinished run, with the same checkpoint under each of the names."""
    for name in names:
        shutil.copytree(reference / f"checkpoint-{STEPS - 1}", tmp_path / "run" / name)
    (tmp_path / "run" / "run.json").write_text((reference / "run.json").read_text().replace('"finished"', '"running"'))
    return tmp_path / "run"


def test_a_file_cut_off_by_torch_save_gets_no_manifest(reference, tmp_path):
    folder = tmp_path / "checkpoint-1"
    shutil.copytree(reference / f"checkpoint-{STEPS}", folder)
    (folder / manifest.NAME).unlink()
    content = (folder / "optimizer.pt").read_bytes()
    (folder / "optimizer.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(OSError, match="optimizer.pt was not written completely"):
        manifest.write(folder)
    assert not (folder / manifest.NAME).exists()


def test_a_missing_or_damaged_file_of_a_checkpoint_is_reported_by_name(reference, tmp_path):
    folder = tmp_path / "checkpoint-1"
    shutil.copytree(reference / f"checkpoint-{STEPS}", folder)
    listed = sorted(path for path in folder.iterdir() if path.name != manifest.NAME)
    assert {"model.safetensors", "method.safetensors", "optimizer.pt", "trainer_state.json"} <= {f.name for f in listed}
    manifest.verify(folder)
    for path in listed:
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 4
        for changed, reason in ((None, "is missing"), (flipped, "damaged"), (content + b"0", "bytes instead of")):
            path.unlink()
            if changed is not None:
                path.write_bytes(changed)
            with pytest.raises(checkpointing.CheckpointError, match=f"{path.name} .*{reason}"):
                manifest.verify(folder)
            path.write_bytes(content)
    manifest.verify(folder)
    (folder / manifest.NAME).write_text("{")
    with pytest.raises(checkpointing.CheckpointError, match="manifest.json cannot be read"):
        manifest.verify(folder)
    (folder / manifest.NAME).unlink()
    assert manifest.status(folder) == manifest.INTERRUPTED


@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors", "trainer_state.json"])
def test_a_damaged_checkpoint_is_refused_and_the_previous_one_is_named(name, argv, reference, tmp_path, capsys):
    run = resumable_copy(reference, tmp_path, "checkpoint-3", f"checkpoint-{STEPS - 1}")
    (run / f"checkpoint-{STEPS - 1}" / name).write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    assert start(*argv, "--output_dir", run, "--resume") == 2
    errors = capsys.readouterr().err
    assert f"checkpoint-{STEPS - 1}/{name}" in errors and f"resume from {run / 'checkpoint-3'}" in errors
    assert not (tmp_path / "harm").exists()


def test_an_interrupted_checkpoint_is_skipped_with_a_warning(argv, reference, tmp_path, caplog):
    run = resumable_copy(reference, tmp_path, "checkpoint-7", f"checkpoint-{STEPS - 1}")
    (run / "checkpoint-7" / manifest.NAME).unlink()
    assert last_checkpoint(run) == str(run / f"checkpoint-{STEPS - 1}")
    assert start(*argv, "--output_dir", run, "--resume") == 0
    assert f"{run / 'checkpoint-7'} is skipped" in caplog.text
    assert_same_run(run, reference)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "model.safetensors"])
def test_a_damaged_checkpoint_of_version_0_1_is_refused_and_its_pickle_is_not_executed(
    name, argv, reference, tmp_path, capsys
):
    run = resumable_copy(reference, tmp_path, f"checkpoint-{STEPS - 1}")
    as_saved_by_0_1(run / f"checkpoint-{STEPS - 1}")
    (run / f"checkpoint-{STEPS - 1}" / name).write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    assert start(*argv, "--output_dir", run, "--resume") == 2
    errors = capsys.readouterr().err
    assert f"checkpoint-{STEPS - 1}/{name} is damaged" in errors and "weights_only" not in errors
    assert not (tmp_path / "harm").exists()


def as_saved_by_0_1(folder):
    """Change a checkpoint to the format of version 0.1: no manifest, and another key for the losses not logged yet."""
    (folder / manifest.NAME).unlink()
    state = json.loads((folder / manifest.STATE).read_text())
    state["stateful_callbacks"]["MethodCallback"] = state["stateful_callbacks"].pop(manifest.OWN_STATE)
    (folder / manifest.STATE).write_text(json.dumps(state))


def test_a_checkpoint_of_version_0_1_resumes_to_the_same_bits(argv, reference, tmp_path):
    run = resumable_copy(reference, tmp_path, f"checkpoint-{STEPS - 1}")
    as_saved_by_0_1(run / f"checkpoint-{STEPS - 1}")
    assert manifest.status(run / f"checkpoint-{STEPS - 1}") == manifest.UNVERIFIED
    assert start(*argv, "--output_dir", run, "--resume") == 0
    for name in ("model.safetensors", "method.safetensors"):
        one, other = load_file(run / name), load_file(reference / name)
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert record_of(run)["epochs"] == record_of(reference)["epochs"]


class Harm:
    """An object whose unpickling creates a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)
