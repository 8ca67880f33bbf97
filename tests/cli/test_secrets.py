"""A token that is typed as a value, or repeated by a library, is not printed, logged or stored by any command."""

import json
import logging
import subprocess
import sys
import warnings

import pytest
from fixtures.cli import content, folder_of, python, recipe_of

from hf_mixup import MixupConfig
from hf_mixup.cli import methods
from hf_mixup.cli.main import COMMANDS, main
from hf_mixup.errors import ConfigError, ModelError, one_paragraph, redacted

TOKEN = "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789"
URL = f"https://user:{TOKEN}@hub.example/data?signature={TOKEN}"
WORDS = {
    "train": [["quickstart", "--hub_token", TOKEN], [f"{TOKEN}.yaml"], ["quickstart", "--report_to", TOKEN]],
    "methods": [[TOKEN], ["--" + TOKEN], [f"{TOKEN}.py:Method"]],
    "tasks": [[TOKEN], [f"{TOKEN}:Task"]],
    "recipes": [[TOKEN]],
    "preview": [["quickstart", "--model", TOKEN], ["quickstart", "--seed", TOKEN]],
    "evaluate": [[TOKEN], [f"user/{TOKEN}"], [URL], ["x", "--batch_size", TOKEN], ["x", "--" + TOKEN]],
    "predict": [[TOKEN, TOKEN], [URL, URL], ["x", "y", "--top_k", TOKEN]],
    "reshard": [[TOKEN, "--out", "x"], [URL, "--out", "x"], ["sample", "--seed", TOKEN], ["sample", TOKEN]],
    "push": [[TOKEN], [URL, "--repo", TOKEN], ["x", "--private", TOKEN]],
    "hub": [["--port", TOKEN], ["--" + TOKEN, "x"]],
}
FIELDS = "method model data task optimizer randaugment revision lr_scheduler_type image_size class_weights mean".split()
FIELDS += ("method_args.alpha", "model_args.x", "task_args.y", "optimizer_args.z", "save_strategy", "run_name", "fsdp")
WORDS["train"] += [["quickstart", f"--{name}", value] for name in FIELDS for value in (TOKEN, URL)]


def printed(capfd) -> str:
    return "".join(capfd.readouterr())


def test_every_command_is_tried():
    assert WORDS.keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_token_among_the_arguments_is_not_printed(command, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for words in WORDS[command]:
        if command == "train":
            words = [*words, "--output_dir", "run", "--use_cpu"]
        try:
            status = main([command, *words])
        except SystemExit as end:
            status = end.code
        text = printed(capfd)
        assert status and "Traceback" not in text, (words, text)
        assert text.strip() and TOKEN not in text, words
        assert not [file for file, data in content(tmp_path).items() if TOKEN.encode() in data]


LINES = [
    f"hub_token: {TOKEN}",
    f"method: {TOKEN}",
    f"method: [{TOKEN}",
    f"{TOKEN}: 1",
    f"model_args: {{a: [{{b: {TOKEN}}}]}}",
    f"report_to: [{TOKEN}]",
    f"class_names: [cat, {URL}]",
    f"method_args: {{{TOKEN}: 1}}",
    f"base: {TOKEN}",
    f"lr_scheduler_kwargs: {{x: {TOKEN}}}",
]


@pytest.mark.parametrize("line", LINES)
def test_a_token_in_a_recipe_is_not_printed_or_stored(line, tmp_path, capfd):
    recipe = recipe_of(tmp_path / "recipe.yaml", folder_of(tmp_path / "data"), max_steps=1)
    recipe.write_text(recipe.read_text() + line + "\n")
    assert main(["train", str(recipe), "--output_dir", str(tmp_path / "run")]) == 2
    assert TOKEN not in printed(capfd)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("field", ["class_names", "report_to", "lr_scheduler_kwargs", "method_args", "model_args"])
def test_a_token_anywhere_in_a_value_is_refused(field):
    inside = [{"a": [TOKEN]}, {TOKEN: 1}, [{"b": {"c": TOKEN}}], [TOKEN]]
    for value in inside:
        with pytest.raises(ConfigError) as caught:
            MixupConfig(output_dir="x", **{field: value})
        assert TOKEN not in str(caught.value)


def test_what_libraries_print_log_and_raise_is_redacted(monkeypatch, capfd, caplog):
    def noisy(argv):
        print("out", TOKEN, URL)
        print("err", TOKEN, file=sys.stderr)
        logging.getLogger("library").warning("from %s", URL)
        warnings.warn(f"a warning about {TOKEN}", stacklevel=1)
        raise ZeroDivisionError(f"bug with {URL}")

    monkeypatch.setattr(methods, "main", noisy)
    with pytest.raises(SystemExit) as end:
        main(["methods"])
    text = printed(capfd) + caplog.text
    assert end.value.code == 1 and TOKEN not in text and "Traceback" in text and "ZeroDivisionError: bug with" in text
    assert "https://hub.example/data" in text and sys.stdout.write != noisy


def test_the_token_in_use_is_redacted_whatever_it_looks_like(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "correct horse battery")
    assert str(ModelError("failed: correct horse battery")) == "failed: ***"


def test_an_environment_value_that_a_library_repeats_is_not_printed():
    environment = {"ACCELERATE_MIXED_PRECISION": TOKEN}
    process = python("-m", "hf_mixup", "train", "quickstart", "--dry_run", "--use_cpu", environment=environment)
    text = "".join(process.communicate())
    assert process.returncode and TOKEN not in text, text


def test_names_that_only_resemble_a_token_or_a_secret_are_printed():
    for text in ("/data/hf_datasets/x", "hf_mixup", "hf_hub_download", "s3://bucket/key", "what? a=b", "api_org_"):
        assert redacted(text) == text
    assert one_paragraph(f"a\n  b {TOKEN}") == "a b hf_***"
    assert redacted("https://u:p@h/x?X-Amz-Signature=1 and http://h/?a=b') too") == "https://h/x and http://h/') too"


def test_a_trained_run_holds_no_token_of_the_environment(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    recipe = recipe_of(tmp_path / "recipe.yaml", folder_of(tmp_path / "data"), max_steps=1)
    assert main(["train", str(recipe), "--output_dir", str(tmp_path / "run")]) == 0
    assert TOKEN not in printed(capfd)
    assert not [name for name, data in content(tmp_path / "run").items() if TOKEN.encode() in data]
    assert "max_steps" in json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("words", [["train", "--help"], ["methods"], ["evaluate"], ["nothing"], ["predict", "-h"]])
def test_a_closed_pipe_ends_quietly(stream, words):
    process = python("-m", "hf_mixup", *words, **{stream: subprocess.PIPE})
    getattr(process, stream).close()
    setattr(process, stream, None)
    out, errors = process.communicate()
    text = (out or "") + (errors or "")
    assert "BrokenPipe" not in text and "Traceback" not in text and "Exception ignored" not in text
    assert process.returncode in (0, 1, 2)
