"""Errors of the operating system, the Hub's client and datasets: one paragraph; 2 if it is the input, else 1."""

import errno
import os
import resource

import datasets
import pytest
from fixtures.cli import fork, status_of
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError

from hf_mixup.cli._errors import exit_status
from hf_mixup.cli.main import main

LONG = "x" * 300
WRONG = [
    ["train", LONG],
    ["train", "quickstart", "--output_dir", LONG, "--use_cpu"],
    ["train", "quickstart", "--data", LONG, "--use_cpu"],
    ["train", "quickstart", "--model", f"./{LONG}", "--use_cpu"],
    ["preview", "quickstart", "--out", f"{LONG}.png"],
    ["preview", "quickstart", "--out", "/proc/nowhere/x.png"],
    ["evaluate", LONG],
    ["evaluate", f"user/{LONG}"],
    ["predict", LONG, LONG],
    ["predict", f"a\0b{LONG}", "x"],
    ["reshard", "sample", "--out", LONG],
    ["reshard", LONG, "--out", "x"],
    ["push", LONG],
    ["recipes", LONG],
    ["methods", f"./{LONG}.py:Method"],
    ["tasks", f"./{LONG}.py:Task"],
]


@pytest.mark.parametrize("argv", WRONG)
def test_a_path_that_cannot_be_used_is_one_paragraph(argv, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    errors = capfd.readouterr().err
    assert "Traceback" not in errors and len(errors.strip().splitlines()) == 1, errors


def raising(error: Exception):
    def action():
        raise error

    return action


def invalid_repository():
    validate_repo_id("a b")


OS = {errno.ENOSPC: 1, errno.EIO: 1, errno.EDQUOT: 1, errno.EROFS: 2, errno.EACCES: 2, errno.ENAMETOOLONG: 2}
OTHERS = {
    "refused": (raising(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")), 1),
    "timeout": (raising(TimeoutError("timed\nout")), 1),
    "not cached": (raising(LocalEntryNotFoundError("no network\nand no cache")), 1),
    "repository": (invalid_repository, 2),
    "data": (raising(datasets.exceptions.DatasetGenerationError("no\nrows")), 2),
    "split": (raising(datasets.exceptions.DatasetsError("no split")), 2),
    "weights": (raising(SafetensorError("cut")), 2),
}


@pytest.mark.parametrize("number", OS)
def test_errors_of_the_disk_have_the_status_of_their_cause(number, capfd):
    error = OSError(number, os.strerror(number), "a/file")
    assert exit_status(raising(error)) == OS[number]
    text = capfd.readouterr().err
    assert os.strerror(number) in text and "a/file" in text and len(text.splitlines()) == 1


@pytest.mark.parametrize("name", OTHERS)
def test_errors_of_libraries_have_the_status_of_their_cause(name, capfd):
    action, status = OTHERS[name]
    assert exit_status(action) == status
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_other_errors_keep_their_traceback():
    assert issubclass(HFValidationError, ValueError) and issubclass(HfHubHTTPError, OSError)
    with pytest.raises(ZeroDivisionError):
        exit_status(lambda: 1 / 0)


@pytest.mark.parametrize("argv", [["preview", "quickstart", "--out", "x.png"], ["reshard", "sample", "--out", "copy"]])
def test_a_full_disk_is_one_paragraph(argv, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, resource.RLIM_INFINITY))
        return main(argv)

    assert status_of(fork(full)) == 1
    assert "Traceback" not in capfd.readouterr().err
