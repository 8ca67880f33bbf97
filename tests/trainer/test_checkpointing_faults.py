"""A process that is killed, stopped or out of room at any point of saving loses nothing that was saved before."""

import json
import os
import pickle
import resource
import shutil
import signal

import pytest
import torch
from fixtures.cli import folder_of, recipe_of, record_of, start
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from hf_mixup import files
from hf_mixup.files import STAGING
from hf_mixup.publish import export
from hf_mixup.publish import workflow as train
from hf_mixup.trainer import checkpointing as saving
from hf_mixup.trainer import manifest
from hf_mixup.trainer.checkpointing import last_checkpoint

STEPS, AT = 5, 3  # of the run, and where it is cut
KILLED = (signal.SIGKILL, signal.SIGXFSZ)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The command line of a run of five steps that saves each, with all kinds of files in a checkpoint."""
    root = tmp_path_factory.mktemp("faults")
    fields = {"save_strategy": "steps", "save_steps": 1, "method": "automix", "ema_decay": 0.9, "max_steps": STEPS}
    return [recipe_of(root / "recipe.yaml", folder_of(root / "data", rows=10), **fields)]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """The folder of the run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert start(*words, "--output_dir", folder) == 0
    return folder


def in_a_child(action) -> int:
    """How a process ends that does `action`: its status, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        signal.alarm(120)
        torch.set_num_threads(1)
        status = 99
        try:
            status = action()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def call(module, name, number, first):
    """From the `number`th call of a function of `module` on, `first` happens before it."""
    function, count = getattr(module, name), [0]

    def called(*args, **kwargs):
        count[0] += 1
        if count[0] == number:
            first()
        return function(*args, **kwargs)

    setattr(module, name, called)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_a_file_of(size: int):
    """The kernel kills this process as soon as it writes a file beyond `size` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def size_of(whole, name) -> int:
    return (whole / f"checkpoint-{STEPS}" / name).stat().st_size


def in_file(name):
    """Dies in the middle of this file of a checkpoint, or at its beginning if a larger one comes before."""
    return lambda whole: call(saving, "save_rank_state", AT - 1, lambda: die_in_a_file_of(size_of(whole, name) - 1))


def in_the_third_move():
    """Dies when two of the staged files are in their places."""
    call(files, "flush_to_disk", 1, lambda: call(files.os, "replace", 3, die))


POINTS = {
    "in the weights": (2, in_file("model.safetensors")),
    "in the method": (2, in_file("method.safetensors")),
    "in the optimizer": (2, in_file("optimizer.pt")),
    "before the manifest": (2, lambda _: call(manifest, "write", AT, die)),
    "before rotation": (3, lambda _: call(saving, "_rotate", AT, die)),
    "in the exported weights": (STEPS, lambda _: call(train, "export", 1, lambda: die_in_a_file_of(50_000))),
    "in the final record": (STEPS, lambda _: call(export, "_write_card", 1, lambda: die_in_a_file_of(100))),
    "between exported files": (STEPS, lambda _: call(train, "export", 1, in_the_third_move)),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_while_saving_resumes_to_the_same_bits(point, words, whole, tmp_path):
    last, arrange = POINTS[point]
    run = [*words, "--output_dir", tmp_path / "run"]

    def cut():
        arrange(whole)
        return start(*run)

    assert -in_a_child(cut) in KILLED
    assert record_of(tmp_path / "run")["status"] == "running"
    assert last_checkpoint(tmp_path / "run") == str(tmp_path / "run" / f"checkpoint-{last}")
    AutoModelForImageClassification.from_pretrained(tmp_path / "run" / f"checkpoint-{last}")
    assert start(*run, "--resume") == 0
    assert_whole(tmp_path / "run", whole)


def assert_whole(folder, whole) -> None:
    """The folder ends as that of the run that nothing happened to, and holds nothing else."""
    for name in ("model.safetensors", "method.safetensors"):
        one, other = load_file(folder / name), load_file(whole / name)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    one, other = record_of(folder), record_of(whole)
    assert (one["status"], one["final"], one["epochs"]) == ("finished", other["final"], other["epochs"])
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.iterdir())


def test_sigterm_while_saving_ends_after_the_save(words, whole, tmp_path):
    run = [*words, "--output_dir", tmp_path / "run"]

    def stopped():
        call(saving, "save_rank_state", AT, lambda: os.kill(os.getpid(), signal.SIGTERM))
        return start(*run)

    assert in_a_child(stopped) == 130
    assert last_checkpoint(tmp_path / "run").endswith(f"checkpoint-{AT + 1}")
    assert start(*run, "--resume") == 0
    assert_whole(tmp_path / "run", whole)


FULL = {
    "first record": (lambda: limit(1000), "There is no checkpoint"),
    "exported weights": (lambda: call(train, "export", 1, lambda: limit(50_000)), f"checkpoint-{STEPS}"),
    "final record": (lambda: call(export, "_write_card", 1, lambda: limit(2000)), f"checkpoint-{STEPS}"),
}


def limit(size: int):
    """No file may grow beyond `size` bytes, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.parametrize("what", FULL)
def test_a_disk_that_is_full_is_said_with_the_way_out(what, words, whole, tmp_path, capfd):
    arrange, kept = FULL[what]
    run = [*words, "--output_dir", tmp_path / "run"]

    def full():
        arrange()
        return start(*run)

    assert in_a_child(full) == 1
    said = capfd.readouterr().err
    assert "could not be written" in said and kept in said and "--resume" in said and "Traceback" not in said
    assert not list((tmp_path / "run").glob("*.safetensors")) and not (tmp_path / "run" / STAGING).exists()
    assert start(*run, "--resume") == 0
    assert_whole(tmp_path / "run", whole)


def test_a_folder_that_is_in_use_is_refused(words, whole, tmp_path, capsys):
    run = [*words, "--output_dir", tmp_path / "run"]
    at_step_two, go_on = os.pipe(), os.pipe()

    def first():
        call(saving, "save_rank_state", 2, lambda: (os.write(at_step_two[1], b"."), os.read(go_on[0], 1)))
        return start(*run)

    child = os.fork()
    if child == 0:
        signal.alarm(120)
        torch.set_num_threads(1)
        os._exit(first())
    os.read(at_step_two[0], 1)
    for more in ([], ["--resume"]):
        assert start(*run, *more) == 2
        assert f"is in use by another run (process {child} on " in capsys.readouterr().err
    os.write(go_on[1], b".")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert_whole(tmp_path / "run", whole)


def test_saving_a_step_again_keeps_the_complete_checkpoint_until_the_new_one_is_complete(words, whole, tmp_path):
    run, name = tmp_path / "run", f"checkpoint-{AT}"
    shutil.copytree(whole / f"checkpoint-{STEPS}", run / name)
    for replaced in (False, True):  # killed while the step is saved again, then before the old one is deleted
        saving._make_room(run / name)
        (run / name).mkdir()
        if replaced:
            shutil.copytree(run / f".replaced-{name}", run / name, dirs_exist_ok=True)
        saving.restore_replaced(run)
        assert last_checkpoint(run) == str(run / name) and [path.name for path in run.iterdir()] == [name]
        manifest.verify(run / name)


def resumable_copy(whole, tmp_path, *names):
    """The output folder of a run that is not finished, with these checkpoints."""
    for name in names:
        shutil.copytree(whole / f"checkpoint-{STEPS - 1}", tmp_path / "run" / name)
    (tmp_path / "run" / "run.json").write_text((whole / "run.json").read_text().replace('"finished"', '"running"'))
    return tmp_path / "run"


def test_a_checkpoint_that_lacks_a_file_or_has_a_flipped_bit_is_refused_by_name(whole, tmp_path):
    folder = tmp_path / "checkpoint-1"
    shutil.copytree(whole / f"checkpoint-{STEPS}", folder)
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
            with pytest.raises(saving.CheckpointError, match=f"{path.name} .*{reason}"):
                manifest.verify(folder)
            path.write_bytes(content)
    manifest.verify(folder)
    (folder / manifest.NAME).write_text("{")
    with pytest.raises(saving.CheckpointError, match="manifest.json cannot be read"):
        manifest.verify(folder)
    (folder / manifest.NAME).unlink()
    assert manifest.status(folder) == manifest.INTERRUPTED


@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors", "trainer_state.json"])
def test_a_damaged_checkpoint_is_refused_and_the_older_one_offered(name, words, whole, tmp_path, capsys):
    run = resumable_copy(whole, tmp_path, "checkpoint-3", f"checkpoint-{STEPS - 1}")
    (run / f"checkpoint-{STEPS - 1}" / name).write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    assert start(*words, "--output_dir", run, "--resume") == 2
    said = capsys.readouterr().err
    assert f"checkpoint-{STEPS - 1}/{name}" in said and f"resume from {run / 'checkpoint-3'}" in said
    assert not (tmp_path / "harm").exists()


def test_an_interrupted_checkpoint_is_skipped_with_a_warning(words, whole, tmp_path, caplog):
    run = resumable_copy(whole, tmp_path, "checkpoint-7", f"checkpoint-{STEPS - 1}")
    (run / "checkpoint-7" / manifest.NAME).unlink()
    assert last_checkpoint(run) == str(run / f"checkpoint-{STEPS - 1}")
    assert start(*words, "--output_dir", run, "--resume") == 0
    assert f"{run / 'checkpoint-7'} is skipped" in caplog.text
    assert_whole(run, whole)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "model.safetensors"])
def test_a_damaged_checkpoint_of_version_0_1_is_named_and_nothing_of_it_is_run(name, words, whole, tmp_path, capsys):
    run = resumable_copy(whole, tmp_path, f"checkpoint-{STEPS - 1}")
    as_saved_by_0_1(run / f"checkpoint-{STEPS - 1}")
    (run / f"checkpoint-{STEPS - 1}" / name).write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    assert start(*words, "--output_dir", run, "--resume") == 2
    said = capsys.readouterr().err
    assert f"checkpoint-{STEPS - 1} is damaged" in said and "weights_only" not in said
    assert not (tmp_path / "harm").exists()


def as_saved_by_0_1(folder):
    """Without manifest, and with the losses that are not logged yet under their old name."""
    (folder / manifest.NAME).unlink()
    state = json.loads((folder / manifest.STATE).read_text())
    state["stateful_callbacks"]["MethodCallback"] = state["stateful_callbacks"].pop(manifest.OWN_STATE)
    (folder / manifest.STATE).write_text(json.dumps(state))


def test_a_checkpoint_of_version_0_1_resumes_to_the_same_bits(words, whole, tmp_path):
    run = resumable_copy(whole, tmp_path, f"checkpoint-{STEPS - 1}")
    as_saved_by_0_1(run / f"checkpoint-{STEPS - 1}")
    assert manifest.status(run / f"checkpoint-{STEPS - 1}") == manifest.UNVERIFIED
    assert start(*words, "--output_dir", run, "--resume") == 0
    for name in ("model.safetensors", "method.safetensors"):
        one, other = load_file(run / name), load_file(whole / name)
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert record_of(run)["epochs"] == record_of(whole)["epochs"]


class Harm:
    """A pickle that makes a folder where it is read."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)
