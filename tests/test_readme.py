"""The README, and the docstring of the package, agree with the code."""

import inspect
import re
import sys
from pathlib import Path

import torch
from fixtures.cli import folder_of, recipe_of, record_of, start
from fixtures.scenes import scene_parquet
from torch import nn

import hf_mixup
from hf_mixup import load
from hf_mixup.ops.losses import soft_cross_entropy

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from update_tables import PAGES, parts, updated  # noqa: E402

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def block_with(words: str) -> str:
    [found] = [block for block in blocks("python") if words in block]
    return found


def test_generated_parts_are_up_to_date():
    generated = parts()
    for page in PAGES:
        assert updated(page.read_text(), generated) == page.read_text(), page
    for name in generated:
        assert any(f"<!-- {name} -->" in page.read_text() for page in PAGES)


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 250


def test_linked_files_exist():
    for path in re.findall(r"\]\(([\w/.]+)\)", README):
        assert (ROOT / path).is_file(), path


def test_the_example_of_a_single_method_runs(capsys):
    exec(block_with("method.mix(None"), {})
    assert "tensor" in capsys.readouterr().out


def test_the_example_of_a_training_loop_runs():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    loader = [(torch.rand(4, 3, 8, 8), torch.randint(10, (4,)))]
    space = {"torch": torch, "model": model, "loader": loader}
    exec(block_with("BatchMixup"), space)
    assert space["targets"].shape == (4, 10)
    space["loss"].backward()


def test_the_task_shown_trains_from_its_file(tmp_path):
    (tmp_path / "task.py").write_text(block_with("class TwoNumbers(Task)"))
    data = scene_parquet(tmp_path / "data", {"train": 16, "test": 8})
    fields = {"label_column": "numbers", "task": f"{tmp_path / 'task.py'}:TwoNumbers"}
    recipe = recipe_of(tmp_path / "recipe.yaml", data, **fields)
    assert start(recipe, "--output_dir", tmp_path / "run") == 0
    assert list(record_of(tmp_path / "run")["final"]) == ["loss", "mae"]


def test_the_first_two_commands_install_train_and_test():
    first, second, *_ = blocks("bash")
    assert "recipes/quickstart.yaml" in first and "pip install" in first
    assert "pytest" in second and "pip install" in second


def test_the_method_shown_trains_from_its_file_and_keeps_its_promises(tmp_path):
    (tmp_path / "fade.py").write_text(block_with("class Fade(Method)"))
    name = f"{tmp_path / 'fade.py'}:Fade"
    x, y = torch.rand(6, 3, 8, 8), torch.eye(6)
    mixed, mix = load(name).mix(None, x, y, torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixed, mix.mask * x + (1 - mix.mask) * x[mix.partner])
    torch.testing.assert_close(mix.lam, mix.mask.mean((1, 2, 3)).expand(6))
    recipe = recipe_of(tmp_path / "recipe.yaml", folder_of(tmp_path / "data"))
    assert start(recipe, "--method", name, "--output_dir", tmp_path / "run") == 0


def test_the_focal_loss_is_cross_entropy_without_focus():
    space = {"MixupTrainer": lambda *args, **options: None} | dict.fromkeys(("model", "args", "train", "test"))
    exec(block_with("def focal"), space)
    logits, targets = torch.randn(4, 5), torch.rand(4, 5).softmax(1)
    torch.testing.assert_close(space["focal"](logits, targets, gamma=0), soft_cross_entropy(logits, targets))
    assert (space["focal"](logits, targets) < soft_cross_entropy(logits, targets)).all()


def test_the_example_of_the_package_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    paragraphs = inspect.cleandoc(hf_mixup.__doc__).split("\n\n")
    code = [inspect.cleandoc(text) for text in paragraphs if text.startswith("    ")]
    space = {}
    exec("\n".join(code), space)
    assert space["targets"].shape == (64, 10) and "eval_loss" in capsys.readouterr().out
    assert sum(len(text.splitlines()) for text in code) <= 15


def test_the_docstring_of_the_package_names_everything_public():
    named = set(re.findall(r"`(\w+)`", hf_mixup.__doc__))
    assert named == {name for name in hf_mixup.__all__ if name != "__version__"}
