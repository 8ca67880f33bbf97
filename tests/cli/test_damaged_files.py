"""Damaged, missing and planted files of runs, checkpoints and recipes: one paragraph, exit status 2, no traceback."""

import json
import os
import pickle
import shutil

import pytest
import torch
from fixtures.cli import folder_of, fork, picture, recipe_of, start, status_of
from fixtures.training import Rows, native_vit
from transformers import Trainer, TrainingArguments, ViTImageProcessor

import hf_mixup
from hf_mixup import MixupTrainer
from hf_mixup.cli.main import main
from hf_mixup.errors import CheckpointError, MixupError
from hf_mixup.trainer import manifest


class Harm:
    """An object whose unpickling creates a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "text": lambda path: path.write_bytes(b"\xff\xfe no text in UTF-8"),
    "list": lambda path: path.write_text("[1, 2]"),
    "other mapping": lambda path: path.write_text('{"model_type": 7, "global_step": "x", "status": "finished"}'),
    "nested": lambda path: path.write_text("[" * 100_000),
    "planted": lambda path: path.write_bytes(pickle.dumps(Harm(path.parents[2] / "harm"))),
    "a folder": lambda path: (path.unlink(missing_ok=True), path.mkdir()),
    "missing": lambda path: path.unlink(),
}
# of a checkpoint without manifest
MAY_BE_MISSING = {"scaler.pt", "optimizer.pt", "scheduler.pt", "rng_state.pth", "config.json", "data_order.json"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The folder of a data set, a recipe, and a finished run of it, `run`, with two checkpoints."""
    root = tmp_path_factory.mktemp("damaged")
    fields = {"method": "automix", "ema_decay": 0.9, "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    recipe_of(root / "recipe.yaml", folder_of(root / "data", rows=10), **fields)
    assert start(root / "recipe.yaml", "--output_dir", root / "run") == 0
    picture(0).save(root / "x.png")
    return root


@pytest.fixture
def run(root, tmp_path):
    """A copy of the run."""
    shutil.copytree(root / "run", tmp_path / "copies" / "run")
    return tmp_path / "copies" / "run"


def as_unfinished(run, verified: bool):
    """Change a finished run to one that was killed after its last checkpoint, which is returned."""
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"status": "running"}))
    folder = run / "checkpoint-2"
    if not verified:  # as version 0.1 saved it
        for path in (folder, run / "checkpoint-1"):
            (path / manifest.NAME).unlink()
            state = json.loads((path / manifest.STATE).read_text())
            state["stateful_callbacks"].pop(manifest.OWN_STATE)
            (path / manifest.STATE).write_text(json.dumps(state))
    return folder


def one_paragraph(capfd, status: int) -> str:
    """What was printed on stderr: one line, no traceback."""
    errors = [line for line in capfd.readouterr().err.splitlines() if "it/s" not in line and "WARNING" not in line]
    text = "\n".join(line for line in errors if line.strip() and not line.startswith(("[transformers]", "Warning")))
    assert "Traceback" not in text and (status == 0 or len(text.splitlines()) == 1), text
    return text


FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt", "trainer_state.json", "config.json")
FILES += ("model.safetensors", "method.safetensors", "ema.safetensors", "data_order.json", "manifest.json")


@pytest.mark.parametrize("verified", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_one_paragraph_and_runs_no_code(name, verified, root, run, capfd):
    folder = as_unfinished(run, verified)
    for damage, change in DAMAGES.items():
        path = folder / name
        if (damage in ("cut", "missing") and not path.exists()) or (name == manifest.NAME and not verified):
            continue
        shutil.copytree(folder, run / "saved")
        change(path)
        status = main([str(word) for word in ("train", root / "recipe.yaml", "--output_dir", run, "--resume")])
        text = one_paragraph(capfd, status)
        assert not (run.parents[1] / "harm").exists() and not (run / "harm").exists()
        assert status == 2 or (status == 0 and allowed(name, damage, verified)), (damage, status, text)
        assert status == 0 or "checkpoint-2" in text or "checkpoint-1" in text, (damage, text)
        for path in (folder, run / "saved"):
            if path == folder:
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.replace(path, folder)
        if status == 0:
            return


def allowed(name: str, damage: str, verified: bool) -> bool:
    """Whether a run may continue: without files that it does not need, or from an earlier checkpoint."""
    interrupted = name in (manifest.NAME, manifest.STATE) or (name.endswith(".safetensors") and damage == "missing")
    not_listed = name == "scaler.pt" and verified and damage == "missing"
    if (name, damage, verified) == ("config.json", "other mapping", False):
        return True
    return interrupted or not_listed or (name in MAY_BE_MISSING and damage == "missing" and not verified)


PUBLISHED = ("config.json", "model.safetensors", "method.safetensors", "run.json", "preprocessor_config.json")
VERBS = {
    "evaluate": lambda root, run: ["evaluate", run, "--data", root / "data"],
    "predict": lambda root, run: ["predict", run, root / "x.png"],
    "push": lambda root, run: ["push", run, "--repo", "user/run"],
    "train": lambda root, run: ["train", root / "recipe.yaml", "--output_dir", run, "--resume"],
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_damaged_file_of_a_run_is_one_paragraph(name, verb, root, run, capfd):
    content = (run / name).read_bytes() if (run / name).is_file() else b"{}"
    for damage, change in DAMAGES.items():
        (run / name).write_bytes(content)
        change(run / name)
        status = main([str(word) for word in VERBS[verb](root, run)])
        text = one_paragraph(capfd, status)
        # a finished run is not loaded by `train`, and no other verb needs every file
        assert status in (0, 2) and (status or verb != "push"), (damage, status, text)
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink(missing_ok=True)
    assert not (run.parents[1] / "harm").exists() and not (run.parent / "harm").exists()


@pytest.mark.parametrize("name", PUBLISHED)
def test_load_pretrained_raises_an_error_of_one_paragraph_for_a_damaged_file(name, run):
    native = run.parent / "native"
    native_vit().save_pretrained(native)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(native)
    for folder in (run, native):
        content = (folder / name).read_bytes() if (folder / name).is_file() else None
        for change in DAMAGES.values():
            if content is None:
                continue
            (folder / name).write_bytes(content)
            change(folder / name)
            try:
                hf_mixup.load_pretrained(str(folder))
            except MixupError as error:
                assert len(str(error).splitlines()) == 1
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink(missing_ok=True)


@pytest.mark.parametrize("damage", ["text", "a folder", "nested", "laughs", "huge"])
def test_a_damaged_recipe_is_one_paragraph(damage, root, tmp_path, capfd):
    recipe = tmp_path / "a" / "b" / "recipe.yaml"
    recipe.parent.mkdir(parents=True)
    if damage == "laughs":
        lists = [f"b{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else 'x'] * 10)}]" for i in range(12)]
        recipe.write_text("model_args:\n  " + "\n  ".join(lists))
    elif damage == "huge":
        recipe.write_text("method: '" + "x" * 2**24 + "'")
    else:
        DAMAGES[damage](recipe)
    assert main(["train", str(recipe)]) == 2
    assert len(one_paragraph(capfd, 2)) < 1000


def test_a_file_without_read_permission_is_one_paragraph(root, run, capfd):
    os.chmod(run.parents[1], 0o755)
    for name in ("config.json", "model.safetensors", "run.json"):
        (run / name).chmod(0)
    (run / "README.md").chmod(0o400)

    def without_rights():
        if os.geteuid() == 0:
            os.setuid(65534)
        return main(["evaluate", str(run), "--data", str(root / "data")])

    assert status_of(fork(without_rights)) == 2
    assert "ermission" in one_paragraph(capfd, 2)


@pytest.fixture
def stock(tmp_path):
    """A checkpoint of transformers' Trainer, and arguments to resume it."""
    args = TrainingArguments(
        str(tmp_path / "stock"), max_steps=2, save_steps=1, use_cpu=True, report_to="none", disable_tqdm=True
    )
    Trainer(native_vit(), args, train_dataset=Rows(16)).train()
    return tmp_path / "stock" / "checkpoint-1", args


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt"])
def test_a_pickle_of_other_things_is_named_and_the_checkpoint_refused(name, stock):
    folder, args = stock
    for content in ([1, 2], {"a": torch.zeros(2)}, Harm(folder.parent / "harm")):
        if isinstance(content, Harm):
            (folder / name).write_bytes(pickle.dumps(content))
        else:
            torch.save(content, folder / name)
        trainer = MixupTrainer(native_vit(), args, train_dataset=Rows(16), method="erm")
        if name == "scaler.pt" and not isinstance(content, Harm):
            continue  # read only with float16
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as caught:
            trainer.train(resume_from_checkpoint=str(folder))
        assert len(str(caught.value).splitlines()) == 1
    assert not (folder.parent / "harm").exists()


def test_an_error_of_the_network_while_training_is_not_taken_for_a_damaged_checkpoint(stock):
    folder, args = stock

    def broken(*_):
        raise ValueError("a bug of the network")

    model = native_vit()
    trainer = MixupTrainer(model, args, train_dataset=Rows(16), method="erm")
    model.register_forward_hook(broken)
    with pytest.raises(ValueError, match="a bug of the network") as caught:
        trainer.train(resume_from_checkpoint=str(folder))
    assert not isinstance(caught.value, MixupError)
