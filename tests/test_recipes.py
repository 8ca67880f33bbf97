"""Every recipe that comes with the package: it parses, its network and method are built, and its method trains."""

import copy
import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
from accelerate.commands.config.config_args import load_config_from_file
from PIL import Image
from transformers import get_scheduler

from hf_mixup import MixupStep, MixupTrainer, Net
from hf_mixup.config.config import FIELDS, MixupConfig, parse
from hf_mixup.config.parser import load_yaml, merge, recipes_folder
from hf_mixup.config.types import convert
from hf_mixup.data import eval_transform
from hf_mixup.methods import load
from hf_mixup.models import build_model, save_published
from hf_mixup.runs.run import image_transform
from hf_mixup.tasks.classification import classification
from hf_mixup.trainer.optimizers import add_groups, make_optimizer
from hf_mixup.trainer.schedules import finish_schedule

RECIPES = recipes_folder()
ACCELERATE = sorted((RECIPES / "accelerate").glob("*.yaml"))
FILES = [path for path in sorted(RECIPES.rglob("*.yaml")) if path not in ACCELERATE and path.parent != RECIPES]
BASES = [path for path in FILES if path.name == "base.yaml"]
RUN = [path for path in FILES if path not in BASES]
README = (Path(__file__).parents[1] / "recipes" / "README.md").read_text(encoding="utf-8")

LINES, BASE_LINES, WIDTH = 12, 40, 120
CLASSES, BATCH, STEPS = 10, 4, 100_000
LOOKS = ("image_size", "eval_image_size", "resize", "random_resized_crop", "interpolation", "randaugment")
# A small network for each kind that recipes name, by the start of the name, longest first.
SMALL = {
    "cifar_convnext": ("cifar_convnext_tiny", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
    "cifar_": ("cifar_resnet18", {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}),
    "convnext": ("convnext_tiny", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
    "deit": ("deit_tiny_patch16_224", {"embed_dim": 24, "depth": 4, "num_heads": 3}),
    # 16, as torch's CPU kernels crash on 8 channels that are stored last, at 224 px
    "resnet": ("resnet18", {"layers": [1, 1, 1, 1], "channels": [16, 16, 16, 16]}),
    "swin": ("swin_tiny_patch4_window7_224", {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}),
    "wrn": ("wrn_28_8", {"layers": [1, 1, 1], "channels": [8, 8, 16]}),
}


def relative(path: Path) -> str:
    return path.relative_to(RECIPES).with_suffix("").as_posix()


@cache  # reading YAML is most of the time these tests take
def said(path: Path) -> tuple[list[Path], dict]:
    """The bases that the file itself names, and the rest of what it says."""
    own = load_yaml(path.read_text(encoding="utf-8"), str(path))
    named = own.pop("base", [])
    named = [named] if isinstance(named, str) else named
    return [(path.parent / name).resolve() for name in named], {k: convert(FIELDS[k], v) for k, v in own.items()}


@cache
def inherited(path: Path) -> dict:
    """What the file's bases say."""
    merged = {}
    for base in said(path)[0]:
        merged = merge(merged, values(base), FIELDS)
    return merged


@cache
def values(path: Path) -> dict:
    """What the file and its bases say."""
    return merge(inherited(path), said(path)[1], FIELDS)


@cache
def configured(path: Path) -> MixupConfig:
    return MixupConfig(**values(path), output_dir="outputs", use_cpu=True)


def kind(model: str) -> str:
    return next(start for start in sorted(SMALL, key=len, reverse=True) if model.startswith(start))


@cache
def network(model: str, args: str, size: int, eval_size: int | None):
    """The recipe's network without memory for its weights, and its image processor."""
    sizes = {"image_size": size, "eval_size": eval_size}
    with torch.device("meta"):
        return build_model(model, classes=list("abcdefghij"), model_args=json.loads(args), **sizes)


def distinct(key) -> list:
    """Recipes, the first one for each value of `key(values)`."""
    seen = {}
    for path in RUN:
        seen.setdefault(key(values(path)), path)
    return [pytest.param(path, id=relative(path)) for path in seen.values()]


def same_step(given: dict) -> str:
    """What a step of a method depends on, but for numbers."""
    arguments = {key: value for key, value in given.get("method_args", {}).items() if not isinstance(value, float)}
    return json.dumps([given["method"], arguments, kind(given["model"]), given["image_size"], given.get("loss")])


def same_look(given: dict) -> str:
    """What a training image depends on before it is in a batch."""
    return json.dumps([given.get(key) for key in LOOKS])


# Files


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_recipe_is_short_and_opens_with_a_comment(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= (BASE_LINES if path in BASES else LINES)
    assert lines[0].startswith("# ") and max(map(len, lines)) <= WIDTH


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_recipe_is_its_difference_from_base(path):
    before, own = inherited(path), said(path)[1]
    without = {key: {other: own[other] for other in own if other != key} for key in own}
    assert [key for key in own if merge(before, without[key], FIELDS) == merge(before, own, FIELDS)] == []


@pytest.mark.parametrize("path", RUN, ids=relative)
def test_a_recipe_is_parsed(path):
    config = parse([relative(path), "--use_cpu"])
    assert config.recipe_dict() == configured(path).recipe_dict()


def test_no_base_names_a_method_and_every_other_recipe_does():
    assert [relative(path) for path in BASES if "method" in values(path)] == []
    assert [relative(path) for path in RUN if "method" not in values(path)] == []


def test_every_base_is_the_base_of_a_recipe():
    used = {base for path in RUN for base in said(path)[0]}
    assert [relative(path) for path in BASES if path.resolve() not in used] == []


@pytest.mark.parametrize("path", ACCELERATE, ids=relative)
def test_accelerate_reads_its_files(path):
    config = load_config_from_file(str(path))
    assert config.num_processes >= config.num_machines >= 1


# What is built


@pytest.mark.parametrize("path", RUN, ids=relative)
def test_network_method_optimizer_and_schedule_are_built(path):
    config = configured(path)
    assert timm.is_model(config.model) and (not config.pretrained or timm.is_model_pretrained(config.model))
    model, processor = network(config.model, json.dumps(config.model_args), config.image_size, config.eval_image_size)
    size = config.eval_image_size or config.image_size
    assert tuple(processor.data_config["input_size"]) == (3, size, size)
    optimizer = make_optimizer(model, config)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {*map(id, held)} == {id(parameter) for parameter in model.parameters()}
    assert max(group["weight_decay"] for group in optimizer.param_groups) == config.weight_decay
    if "teacher" not in config.method_args:
        net = Net(model)
        method = load(config.method, **config.method_args)
        method.build(net)
        add_groups(optimizer, MixupStep(net, method, classification), config)
    warmup = config.get_warmup_steps(STEPS)
    schedule = get_scheduler(config.lr_scheduler_type, optimizer, warmup, STEPS, config.lr_scheduler_kwargs)
    finish_schedule(schedule, config, STEPS)
    for group, factor in zip(optimizer.param_groups, schedule.lr_lambdas, strict=True):
        share = config.min_lr / config.learning_rate
        floor = group.get("floor", share * group["initial_lr"])
        assert factor(warmup) == 1 and factor(STEPS) * group["initial_lr"] == pytest.approx(floor)


@pytest.mark.parametrize("path", RUN, ids=relative)
def test_the_method_takes_its_arguments(path):
    config = configured(path)
    method = load(config.method, **config.method_args)
    given = {key: value for key, value in config.method_args.items() if not isinstance(value, dict | list)}
    assert given.items() <= method.hyperparameters().items()
    teacher = config.method_args.get("teacher")
    assert teacher is None or timm.is_model_pretrained(teacher)


@pytest.mark.parametrize("path", distinct(same_look))
def test_images_come_out_in_the_size_asked_for(path):
    config = configured(path)
    _, processor = build_small(config)
    image = Image.effect_noise((250, 180), 64)
    size = config.eval_image_size or config.image_size
    assert eval_transform(processor.data_config)(image).shape == (3, size, size)
    transform = image_transform(config)
    seen = {transform(image.convert("RGB")).shape for _ in range(5)} if transform else set()
    assert seen <= {(3, config.image_size, config.image_size)}


# What is run


def build_small(config: MixupConfig):
    """A network of the recipe's kind, with few and narrow layers, and its image processor."""
    torch.manual_seed(0)
    name, args = SMALL[kind(config.model)]
    data = {"mean": config.mean, "std": config.std, "interpolation": config.interpolation}
    return build_model(
        name,
        classes=list("abcdefghij"),
        image_size=config.image_size,
        eval_size=config.eval_image_size,
        model_args=args,
        crop_pct=config.eval_crop_pct,
        **data,
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    """A folder with a small network, for methods whose teacher would be downloaded."""
    folder = tmp_path_factory.mktemp("teacher")
    name, args = SMALL["resnet"]
    save_published(*build_model(name, classes=list("abcdefghij"), image_size=64, model_args=args), folder)
    return str(folder)


@pytest.mark.parametrize("path", distinct(same_step))
def test_a_step_on_a_small_network_moves_it(path, tmp_path, teacher):
    config = copy.deepcopy(configured(path))
    config.output_dir, config.dataloader_num_workers, config.eval_strategy = str(tmp_path), 0, "no"
    if getattr(load(config.method, **config.method_args), "teacher", None):
        config.method_args["teacher"] = teacher
    model, processor = build_small(config)
    trainer = MixupTrainer(model, config, processing_class=processor)
    trainer.create_optimizer_and_scheduler(num_training_steps=2)
    rng = torch.Generator().manual_seed(0)
    shape = (BATCH, 3, config.image_size, config.image_size)
    batch = {"pixel_values": torch.randint(256, shape, dtype=torch.uint8, generator=rng)}
    batch["labels"] = torch.randint(CLASSES, (BATCH,), generator=rng)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    losses = trainer.step.train()(seed=trainer.next_seed(), **batch)
    sum(losses.values()).backward()
    for group in trainer.optimizer.param_groups:
        group["lr"] = 1e-3  # the first step of a warm-up has none
    trainer.optimizer.step()
    trainer.method.after_step(trainer.step.net)
    assert all(loss.isfinite() for loss in losses.values())
    assert any(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


# The README beside them


def test_the_readme_names_every_folder():
    folders = {relative(path.parent) for path in [*FILES, *ACCELERATE]}
    assert [folder for folder in sorted(folders) if f"`{folder}`" not in README] == []


def test_the_other_networks_that_are_named_exist():
    told = "\n".join([README, *(path.read_text(encoding="utf-8") for path in BASES)])
    named = re.findall(r"--model ([\w.]*\w)", told) + re.findall(r"`((?:resne|resnext|efficientnet)\w*[\w.]*)`", README)
    assert len(named) > 20 and [name for name in named if not timm.is_model(name)] == []


def test_the_commands_of_the_readme_are_accepted():
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in blocks.splitlines() if "scripts/train.py" in line]
    assert commands
    for words in commands:
        recipe, *rest = words[words.index("scripts/train.py") + 1 :]
        parse([str(RECIPES.parent / recipe), *rest, "--use_cpu"])
    for name in re.findall(r"recipes/[\w/]+\.yaml", README):
        assert (RECIPES.parent / name).is_file(), name
