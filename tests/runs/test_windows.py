"""What Windows lacks is not required: opening folders, the modules fcntl and resource."""

import importlib.util
import logging
import os
import sys

import pytest
import torch
from fixtures.cli import folder_of, recipe_of, record_of, start

from hf_mixup import files
from hf_mixup.runs import output_dir
from hf_mixup.trainer import memory


@pytest.fixture
def copy_without(monkeypatch):
    """`copy_without("fcntl", "hf_mixup.runs.output_dir")`: a new copy of a module that cannot import the first."""

    def load(missing, name):
        monkeypatch.setitem(sys.modules, missing, None)
        spec = importlib.util.find_spec(name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def no_open_folders(monkeypatch):
    """`os.open` refuses folders; the paths that it opens."""
    opened, original = [], os.open

    def open_file(path, *args, **options):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        opened.append(os.path.basename(path))
        return original(path, *args, **options)

    monkeypatch.setattr(os, "open", open_file)
    return opened


def test_files_are_flushed_where_folders_cannot_be_opened(tmp_path, no_open_folders, monkeypatch):
    (tmp_path / "inner").mkdir()
    for name in ("a", "inner/b"):
        (tmp_path / name).write_text(name)
    flushed = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    files.flush_to_disk(tmp_path)
    assert sorted(no_open_folders) == ["a", "b"] and len(flushed) == 2


def test_a_file_that_cannot_be_opened_is_still_an_error(tmp_path, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "a").touch()
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match="a"):
        files.flush_to_disk(tmp_path)


def test_without_fcntl_a_folder_is_not_locked_and_a_warning_says_so(tmp_path, copy_without, caplog):
    module = copy_without("fcntl", "hf_mixup.runs.output_dir")
    with caplog.at_level(logging.WARNING), module.lock_output_dir(tmp_path / "run") as separate_disks:
        assert not separate_disks and list((tmp_path / "run").iterdir()) == []
    assert "is not locked on this system" in caplog.text and not (tmp_path / "run").exists()


def test_without_resource_the_memory_is_measured_by_psutil(tmp_path, copy_without, monkeypatch):
    module = copy_without("resource", "hf_mixup.trainer.memory")
    monkeypatch.setattr(module, "PROCESS", tmp_path)  # no /proc
    assert module.resource is None and 50 < module.peak_mb(torch.device("cpu")) < 100_000


def test_a_run_trains_and_resumes_without_them(tmp_path, no_open_folders, monkeypatch):
    monkeypatch.setattr(output_dir, "fcntl", None)
    monkeypatch.setattr(memory, "resource", None)
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "proc")
    recipe = recipe_of(tmp_path / "recipe.yaml", folder_of(tmp_path / "data"), num_train_epochs=1)
    assert start(recipe, "--output_dir", tmp_path / "run") == 0
    assert record_of(tmp_path / "run")["peak_mb"] > 50
    assert start(recipe, "--output_dir", tmp_path / "run", "--resume") == 0
