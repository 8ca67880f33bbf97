"""Random recipes: each is refused in one paragraph that names what is wrong, or it trains."""

import math
import shutil

import pytest
import torch
import yaml
from fixtures.cli import start
from fixtures.recipes import recipes
from transformers import TrainerCallback

from hf_mixup.config import parse
from hf_mixup.runs.run import load_run_data, make_trainer

SEED, COUNT, PARTS = 0, 400, 8
TRAINED = 6  # of this many recipes that a dry run accepts, one is trained


class StopCallback(TrainerCallback):
    """Stops after two optimizer steps."""

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = control.should_training_stop or state.global_step >= 2


def named(recipe: dict, message: str) -> bool:
    """Whether a message names a field, an argument or a value of a recipe."""
    items = [*recipe.items(), *(item for value in recipe.values() if isinstance(value, dict) for item in value.items())]
    return any(key and (key in message or repr(value) in message) for key, value in items)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(PARTS))
def test_a_random_recipe_trains_or_is_refused_in_one_paragraph(part, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    accepted = 0
    for recipe in recipes(SEED, COUNT)[part::PARTS]:
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True))
        status = start("r.yaml", "--output_dir", "out", "--dry_run")
        printed, message = capfd.readouterr()
        assert status in (0, 2), recipe
        if status == 2:
            lines = [line for line in message.splitlines() if line.strip()]
            assert len(lines) == 1 and "Traceback" not in message, (recipe, message)
            assert named(recipe, message), (recipe, message)
        else:
            accepted += 1
            assert "first step  loss" in printed and "nan" not in printed and "inf" not in printed, (recipe, printed)
            if accepted % TRAINED == 0:
                trains(recipe)
    assert accepted > COUNT / PARTS / 10


def trains(recipe: dict) -> None:
    """Train for two steps at most: the loss is finite and the weights change."""
    words = ("--output_dir", "out", "--save_strategy", "no", "--load_best_model_at_end", "false")
    config = parse(["r.yaml", *words])
    trainer, _ = make_trainer(config, load_run_data(config))
    trainer.add_callback(StopCallback())
    before = [p.detach().clone() for p in trainer.model.parameters()]
    result = trainer.train()
    assert trainer.state.global_step > 0 and math.isfinite(result.training_loss), recipe
    after = list(trainer.model.parameters())
    assert all(p.isfinite().all() for p in after) and not all(map(torch.equal, before, after)), recipe
    shutil.rmtree("out", ignore_errors=True)


def test_a_seed_gives_the_same_recipes():
    assert repr(recipes(3, 50)) == repr(recipes(3, 50)) != repr(recipes(4, 50))
