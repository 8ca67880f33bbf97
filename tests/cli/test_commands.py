"""Every command in a README is accepted by its program's parser; no command runs."""

import argparse
import re
import runpy
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from huggingface_hub.cli.hf import app

from hf_mixup.cli.main import COMMANDS
from hf_mixup.cli.preview import split_out
from hf_mixup.config import parse
from hf_mixup.config.parser import find_recipe
from hf_mixup.testing import hub as local_hub

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "recipes/README.md")
OURS = ("accelerate launch ", "python scripts/", "python -m hf_mixup", "hf-mixup ")


def commands() -> list[str]:
    """The commands of all code blocks, and the complete ones in the text."""
    found = []
    for name in READMES:
        text = (ROOT / name).read_text()
        for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
            found += [part for line in block.replace("\\\n", " ").splitlines() for part in line.split(" && ")]
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        found += [arguments for arguments in re.findall(r"`([^`]+)`", prose) if arguments.startswith(OURS)]
    shown = dict.fromkeys(" ".join(command.split()) for command in found)
    return [command for command in shown if command and "..." not in command and not is_part(command)]


def is_part(command: str) -> bool:
    """Whether the text names only the beginning of a command: a launcher without a recipe, a verb alone."""
    return (
        ".yaml" not in command if command.startswith(OURS[0]) else re.fullmatch("hf-mixup [a-z]+", command) is not None
    )


class Accepted(Exception):
    """Raised after a program has parsed its arguments."""


@pytest.fixture
def accepts(monkeypatch):
    """`accepts(program, arguments)`: whether argparse in this script or module accepts the arguments."""
    read = argparse.ArgumentParser.parse_known_args

    def stop(parser, args=None, namespace=None):
        _, rest = read(parser, args, namespace)
        raise Accepted(rest)

    def accepts(program: str, arguments: list[str]) -> bool:
        monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        monkeypatch.delitem(sys.modules, program, raising=False)  # runpy warns about a loaded module
        with pytest.raises(Accepted) as found:
            (runpy.run_path if program.endswith(".py") else runpy.run_module)(program, run_name="__main__")
        return found.value.args == ([],)

    return accepts


def accepts_recipe(arguments: list[str]) -> bool:
    """Whether the parser of recipes accepts the arguments; it exits or raises if not."""
    if arguments == ["--help"]:
        return True
    assert find_recipe(arguments[0]).is_file()
    return parse(arguments).output_dir != ""


def verb_accepts(verb: str, arguments: list[str]) -> bool:
    """Whether a verb of `hf-mixup` accepts the arguments; it raises if not."""
    if verb == "hub":
        return local_hub.parse(arguments).root is not None
    if verb in ("train", "preview"):
        return accepts_recipe(split_out(arguments)[1] if verb == "preview" else arguments)
    return bool(vars(import_module(f"hf_mixup.cli.{verb}")._parser().parse_args(arguments)))


def hf_accepts(arguments: list[str]) -> bool:
    """Whether the `hf` command accepts the arguments; it raises if not."""
    group, context = app, None
    if not hasattr(group, "make_context"):  # a Typer application, before huggingface_hub 2
        group = import_module("typer.main").get_command(app)
    while True:
        context = group.make_context(arguments[0] if context is None else context.info_name, arguments, parent=context)
        rest = [*context._protected_args, *context.args]
        if not hasattr(group, "resolve_command"):
            return not rest
        name, group, arguments = group.resolve_command(context, rest)


def test_commands_are_found_in_the_readmes():
    shown = commands()
    assert sum(command.startswith("accelerate launch") for command in shown) >= 12
    assert {command.split()[1] for command in shown if command.startswith("hf-mixup ")} >= {*COMMANDS} - {"tasks"}


def test_the_readmes_runs_have_different_output_folders():
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    starts = ("accelerate launch", "hf-mixup train")
    shown = [part for block in blocks for line in block.splitlines() for part in line.split(" && ")]
    folders = [re.findall(r"--output_dir (\S+)", line) for line in shown if line.startswith(starts)]
    assert folders.count([]) == 1 and len({*map(tuple, folders)}) == len(folders) >= 6


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("accelerate launch")])
def test_launched_commands_are_accepted(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    launched = launch_command_parser().parse_args(shlex.split(command)[2:])
    assert Path(launched.training_script).is_file()
    assert launched.config_file is None or load_config_from_file(launched.config_file).num_processes >= 1
    assert accepts_recipe(launched.training_script_args)


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith(OURS[1:3])])
def test_scripts_and_modules_accept_their_arguments(command, monkeypatch, accepts):
    monkeypatch.chdir(ROOT)
    _, *arguments = shlex.split(command)
    program, *arguments = arguments[1:] if arguments[0] == "-m" else arguments
    if program in ("scripts/train.py", "hf_mixup"):
        assert accepts_recipe(arguments)
    else:
        assert accepts(program, arguments)


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("hf-mixup ")])
def test_verbs_accept_their_arguments(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    _, verb, *arguments = shlex.split(command)
    assert verb_accepts(verb, arguments)


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("hf ")])
def test_hf_commands_are_accepted(command):
    assert hf_accepts(shlex.split(command)[1:])


def test_every_command_is_of_a_known_program():
    known = (*OURS, "hf ", "pip install -e ", "pytest", "python -c ")
    assert not [command for command in commands() if not command.startswith(known)]


def test_unknown_arguments_are_detected(accepts):
    with pytest.raises(ValueError, match="lerning_rate"):
        accepts_recipe(["recipes/quickstart.yaml", "--lerning_rate", "1"])
    with pytest.raises(ValueError, match="no_such"):
        verb_accepts("evaluate", ["outputs/quickstart", "--no_such", "1"])
    with pytest.raises(Exception, match="no-such"):
        hf_accepts(["upload", "user/clothes", ".", "--no-such", "1"])
    with pytest.raises(SystemExit):
        accepts("hf_mixup.testing.hub", ["--folder", "x"])
