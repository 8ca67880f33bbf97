"""The command `hf-mixup`: its commands, what a wrong first word prints, and what it imports."""

import argparse
import configparser
import sys
from importlib import import_module

import pytest
from fixtures.cli import ROOT, folder_of, python, recipe_of

import hf_mixup
from hf_mixup.cli._parser import Parser
from hf_mixup.cli.main import COMMANDS, main
from hf_mixup.cli.main import start as start_process

HEAVY = ("torch", "transformers", "timm", "datasets", "accelerate")
MODULES = f"""
import sys
sys.argv[0] = "/bin/hf-mixup"
from hf_mixup.cli.main import main
print("status", main(), "heavy", [name for name in {HEAVY} if name in sys.modules])
"""
NAMES = """
import sys
sys.argv[0] = "hf-mixup"
import hf_mixup
assert "torch" not in sys.modules
found = [getattr(hf_mixup, name) for name in hf_mixup.__all__]
import hf_mixup.networks
from hf_mixup import Task
print(hf_mixup.preview.__name__, hf_mixup.networks.mini_vit.__name__, len(found))
"""


def run(*argv) -> int:
    """The exit status of the command in this process."""
    try:
        return main([str(word) for word in argv])
    except SystemExit as left:
        return left.code or 0


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_lists_every_command_with_one_line(word, capsys):
    assert run(word) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(
        [line for line in lines if line.split()[:1] == [name] and text in line] for name, text in COMMANDS.items()
    )
    assert len(lines) == len(COMMANDS) + 3


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    assert run(name, "--help") == 0
    assert "usage: hf-mixup " + name in capsys.readouterr().out


def test_the_version_is_printed(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == hf_mixup.__version__


@pytest.mark.parametrize("argv", [["--help"], ["recipes", "quickstart"], ["trian"]])
def test_these_start_without_torch(argv):
    printed, errors = python("-c", MODULES, *argv).communicate()
    assert f"status {2 if argv == ['trian'] else 0} heavy []" in printed, errors


def test_python_m_hf_mixup_is_the_same_command():
    process = python("-X", "importtime", "-m", "hf_mixup", "--help")
    printed, errors = process.communicate()
    assert process.returncode == 0 and "usage: hf-mixup COMMAND" in printed
    imported = {line.rpartition("|")[2].strip() for line in errors.splitlines()}
    assert "hf_mixup.cli.main" in imported and not imported & {*HEAVY}


def test_public_names_are_imported_when_the_command_uses_them():
    printed, errors = python("-c", NAMES).communicate()
    assert printed.split() == ["preview", "mini_vit", str(len(hf_mixup.__all__))], errors


def test_the_console_script_is_the_function_that_ctrl_c_ends():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    name, _, place = setup["options.entry_points"]["console_scripts"].strip().partition(" = ")
    module, _, function = place.partition(":")
    assert name == "hf-mixup" and getattr(import_module(module), function) is start_process


def test_a_recipe_as_the_first_word_trains(tmp_path, capsys):
    recipe = recipe_of(tmp_path / "recipe.yaml", folder_of(tmp_path / "data"))
    for argv in ([recipe], ["train", recipe]):
        assert run(*argv, "--dry_run", "--output_dir", tmp_path / "run") == 0
        assert "first step  loss" in capsys.readouterr().out


WRONG = {
    "a command": (["trian"], ["'trian'", "'train'", "Nearest recipes"]),
    "a recipe": (["quikstart", "--method", "cutmix"], ["'quikstart'", "quickstart"]),
    "a file": (["recipes/nowhere.yaml"], ["recipes/nowhere.yaml", "Nearest recipes"]),
    "an option": (["--method", "cutmix"], ["'--method'", "train, methods"]),
    "nothing": ([], ["No command", "train, methods", "hf-mixup --help"]),
    "an option of a command": (["predict", "model", "x.png", "--topk", "1"], ["--topk", "hf-mixup predict --help"]),
    "a missing argument": (["evaluate"], ["model", "hf-mixup evaluate --help"]),
    "a number": (["predict", "model", "x.png", "--top-k", "0"], ["--top_k", "1 or more"]),
    "no recipe": (["preview", "--out", "x.png"], ["recipe"]),
    "no file": (["preview", "quickstart", "--out"], ["--out", "requires a value"]),
    "no such device": (["predict", str(ROOT), "x.png", "--device", "tpu"], ["config.json"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_command_is_one_line_with_the_way_out(name, capsys):
    argv, expected = WRONG[name]
    assert run(*argv) == 2
    printed, errors = capsys.readouterr()
    assert printed == "" and len(errors.splitlines()) == 1, errors
    assert all(text in errors for text in expected), errors


@pytest.mark.parametrize(("words", "start"), [("recipes", "recipe"), ("--help", "usage")])
def test_a_reader_that_stops_early_gets_no_traceback(words, start):
    shell = f"{sys.executable} -u -m hf_mixup {words} | head -1"
    printed, errors = python("-c", f"import subprocess; subprocess.run({shell!r}, shell=True)").communicate()
    assert printed.startswith(start) and errors == ""


@pytest.mark.parametrize("word", ["--no-private", "--no_private", "--top-k=3", "--top_k=3", "x--y"])
def test_hyphens_and_underscores_of_options_are_the_same(word):
    parser = Parser()
    parser.add_argument("--private", action=argparse.BooleanOptionalAction)
    parser.add_argument("--top_k", type=int)
    parser.add_argument("file", nargs="?")
    found = {key: value for key, value in vars(parser.parse_args([word])).items() if value is not None}
    assert found in ({"private": False}, {"top_k": 3}, {"file": "x--y"})
