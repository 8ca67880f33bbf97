"""Every command that a README shows is one that its program understands; nothing is run."""

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from huggingface_hub.cli.hf import app

from hf_mixup.config import parse

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "recipes/README.md")
OURS = ("accelerate launch ", "python scripts/", "python -m hf_mixup")


def commands() -> list[str]:
    """The commands of all blocks, and those within sentences that are complete."""
    found = []
    for name in READMES:
        text = (ROOT / name).read_text()
        for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
            found += [part for line in block.replace("\\\n", " ").splitlines() for part in line.split(" && ")]
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        found += [words for words in re.findall(r"`([^`]+)`", prose) if words.startswith(OURS)]
    shown = (" ".join(command.split()) for command in found)
    return [command for command in dict.fromkeys(shown) if command and "..." not in command]


class Understood(Exception):
    """Raised in place of what a program does after it has read its words."""


@pytest.fixture
def understands(monkeypatch):
    """`understands(program, words)`: whether argparse in this script or module accepts them; else it exits."""
    read = argparse.ArgumentParser.parse_known_args

    def stop(parser, args=None, namespace=None):
        _, rest = read(parser, args, namespace)
        raise Understood(rest)

    def understands(program: str, words: list[str]) -> bool:
        monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        monkeypatch.setattr(sys, "argv", [program, *words])
        monkeypatch.delitem(sys.modules, program, raising=False)  # runpy warns of one that is there
        with pytest.raises(Understood) as found:
            (runpy.run_path if program.endswith(".py") else runpy.run_module)(program, run_name="__main__")
        return found.value.args == ([],)

    return understands


def is_recipe(words: list[str]) -> bool:
    """Whether a recipe's command line accepts them; it exits or raises where not."""
    if words == ["--help"]:
        return True
    assert (ROOT / words[0]).is_file(), words[0]
    return parse(words).output_dir != ""


def hf_knows(words: list[str]) -> bool:
    """Whether the Hub's own command line accepts them; it raises where not."""
    group, context = app, None
    while True:
        context = group.make_context(words[0] if context is None else context.info_name, words, parent=context)
        rest = [*context._protected_args, *context.args]
        if not hasattr(group, "resolve_command"):
            return not rest
        name, group, words = group.resolve_command(context, rest)


def test_the_readmes_show_commands():
    shown = commands()
    assert sum(command.startswith("accelerate launch") for command in shown) >= 12
    assert any(command.startswith("python -m hf_mixup.testing.hub") for command in shown)
    assert any(command.startswith("python scripts/push.py") for command in shown)


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("accelerate launch")])
def test_what_is_launched_is_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    launched = launch_command_parser().parse_args(shlex.split(command)[2:])
    assert Path(launched.training_script).is_file()
    assert launched.config_file is None or load_config_from_file(launched.config_file).num_processes >= 1
    assert is_recipe(launched.training_script_args)


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith(OURS[1:])])
def test_scripts_and_modules_understand_their_words(command, monkeypatch, understands):
    monkeypatch.chdir(ROOT)
    _, *words = shlex.split(command)
    program, *words = words[1:] if words[0] == "-m" else words
    if program in ("scripts/train.py", "hf_mixup"):
        assert is_recipe(words)
    else:
        assert understands(program, words)


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("hf ")])
def test_the_hubs_own_commands_are_understood(command):
    assert hf_knows(shlex.split(command)[1:])


def test_every_command_is_of_a_program_that_is_looked_at():
    known = (*OURS, "hf ", "pip install -e ", "pytest", "python -c ")
    assert not [command for command in commands() if not command.startswith(known)]


def test_words_that_nobody_understands_are_noticed(understands):
    with pytest.raises(ValueError, match="lerning_rate"):
        is_recipe(["recipes/quickstart.yaml", "--lerning_rate", "1"])
    with pytest.raises(Exception, match="no-such"):
        hf_knows(["upload", "user/clothes", ".", "--no-such", "1"])
    with pytest.raises(SystemExit):
        understands("hf_mixup.testing.hub", ["--folder", "x"])
