"""The README agrees with the code."""

import re
import sys
from pathlib import Path

import torch
from fixtures.cli import recipe_of, record_of, start
from fixtures.scenes import scene_parquet
from torch import nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from update_readme import updated  # noqa: E402

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def block_with(words: str) -> str:
    [found] = [block for block in blocks("python") if words in block]
    return found


def test_generated_parts_are_up_to_date():
    assert updated(README) == README


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


def test_the_method_shown_is_that_of_the_package():
    method = (ROOT / "hf_mixup" / "methods" / "smoothmix.py").read_text()
    shown = block_with("class SmoothMix(Method)")
    lines = {line.replace('"""', "") for line in method.splitlines()}
    assert {line.replace('"""', "") for line in shown.splitlines()} <= lines
    [recipe] = blocks("yaml")
    assert recipe in (ROOT / "recipes" / "cifar100" / "smoothmix.yaml").read_text()
