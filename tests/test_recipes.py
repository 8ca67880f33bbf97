"""Every recipe of the package: it is parsed, its network and method are built, and its method trains."""

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
from fixtures.loops import check_each
from PIL import Image
from transformers import get_scheduler

from hf_mixup import MixupStep, MixupTrainer, Net
from hf_mixup.config.config import FIELDS, MixupConfig, parse
from hf_mixup.config.parser import load_yaml, merge, recipes_folder
from hf_mixup.config.types import convert
from hf_mixup.data import eval_transform
from hf_mixup.methods import load
from hf_mixup.models import build_model, save_published
from hf_mixup.models.safe_load import meta_device
from hf_mixup.runs.images import image_transform
from hf_mixup.tasks.classification import classification
from hf_mixup.trainer.optimizers import add_groups, make_optimizer
from hf_mixup.trainer.schedules import finish_schedule

RECIPES = recipes_folder()
ACCELERATE = sorted((RECIPES / "accelerate").glob("*.yaml"))
FILES = [path for path in sorted(RECIPES.rglob("*.yaml")) if path not in ACCELERATE and path.parent != RECIPES]
BASES = [path for path in FILES if path.name == "base.yaml"]
RUNS = [path for path in FILES if path not in BASES]
README = (Path(__file__).parents[1] / "recipes" / "README.md").read_text(encoding="utf-8")

LINES, BASE_LINES, WIDTH = 12, 40, 120
CLASSES, BATCH, STEPS = 10, 3, 100_000
IMAGE_FIELDS = ("image_size", "eval_image_size", "resize", "random_resized_crop", "interpolation", "randaugment")
# A small network for each kind of network in the recipes, by the start of the name.
SMALL = {
    "cifar_convnext": ("cifar_convnext_tiny", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
    "cifar_": ("cifar_resnet18", {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}),
    "convnext": ("convnext_tiny", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
    "deit": ("deit_tiny_patch16_224", {"embed_dim": 24, "depth": 4, "num_heads": 3}),
    # 16 channels, because torch's CPU kernels crash with 8 channels in channels-last format at 224 px
    "resnet": ("resnet18", {"layers": [1, 1, 1, 1], "channels": [16, 16, 16, 16]}),
    "swin": ("swin_tiny_patch4_window7_224", {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}),
    "wrn": ("wrn_28_8", {"layers": [1, 1, 1], "channels": [8, 8, 16]}),
}


def relative(path: Path) -> str:
    return path.relative_to(RECIPES).with_suffix("").as_posix()


@cache
def own_values(path: Path) -> tuple[list[Path], dict]:
    """The bases that a recipe file names, and its other values."""
    own = load_yaml(path.read_text(encoding="utf-8"), str(path))
    named = own.pop("base", [])
    named = [named] if isinstance(named, str) else named
    return [(path.parent / name).resolve() for name in named], {k: convert(FIELDS[k], v) for k, v in own.items()}


@cache
def inherited_values(path: Path) -> dict:
    """The values of a recipe's bases."""
    merged = {}
    for base in own_values(path)[0]:
        merged = merge(merged, values(base), FIELDS)
    return merged


@cache
def values(path: Path) -> dict:
    """The values of a recipe, merged over those of its bases."""
    return merge(inherited_values(path), own_values(path)[1], FIELDS)


@cache
def config_of(path: Path) -> MixupConfig:
    return MixupConfig(**values(path), output_dir="outputs", use_cpu=True)


def kind(model: str) -> str:
    return next(start for start in sorted(SMALL, key=len, reverse=True) if model.startswith(start))


@cache
def network(model: str, args: str, size: int, eval_size: int | None):
    """The recipe's network, without memory for its weights, as a Net that measures its layers once; image processor."""
    sizes = {"image_size": size, "eval_size": eval_size}
    with meta_device():
        built, processor = build_model(model, classes=list("abcdefghij"), model_args=json.loads(args), **sizes)
    net = Net(built)
    net.layers = cache(net.layers)
    return net, processor


def distinct(key) -> list[Path]:
    """One recipe for each value of `key(values)`."""
    first = {}
    for path in RUNS:
        first.setdefault(key(values(path)), path)
    return list(first.values())


def step_key(given: dict) -> str:
    """The values, except numbers, that a step of the method depends on."""
    arguments = {key: value for key, value in given.get("method_args", {}).items() if not isinstance(value, float)}
    return json.dumps([given["method"], arguments, kind(given["model"]), given["image_size"], given.get("loss")])


def image_key(given: dict) -> str:
    """The values that a training image depends on before it is in a batch."""
    return json.dumps([given.get(key) for key in IMAGE_FIELDS])


# Files


def test_a_recipe_is_short_and_starts_with_a_comment():
    def check(path):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= (BASE_LINES if path in BASES else LINES)
        assert lines[0].startswith("# ") and max(map(len, lines)) <= WIDTH

    check_each(FILES, check, relative)


def test_a_recipe_contains_only_what_differs_from_its_base():
    def check(path):
        before, own = inherited_values(path), own_values(path)[1]
        without = {key: {other: own[other] for other in own if other != key} for key in own}
        redundant = [key for key in own if merge(before, without[key], FIELDS) == merge(before, own, FIELDS)]
        assert redundant == []

    check_each(FILES, check, relative)


def test_a_recipe_is_parsed():
    def check(path):
        assert parse([relative(path), "--use_cpu"]).recipe_dict() == config_of(path).recipe_dict()

    check_each(RUNS, check, relative)


def test_every_recipe_except_the_bases_names_a_method():
    assert [relative(path) for path in BASES if "method" in values(path)] == []
    assert [relative(path) for path in RUNS if "method" not in values(path)] == []


def test_every_base_is_the_base_of_a_recipe():
    used = {base for path in RUNS for base in own_values(path)[0]}
    assert [relative(path) for path in BASES if path.resolve() not in used] == []


def test_accelerate_reads_its_files():
    def check(path):
        config = load_config_from_file(str(path))
        assert config.num_processes >= config.num_machines >= 1

    check_each(ACCELERATE, check, relative)


# Networks, methods, optimizers, schedules and images


def test_network_method_optimizer_and_schedule_are_built():
    check_each(RUNS, check_build, relative)


def check_build(path: Path) -> None:
    config = config_of(path)
    assert timm.is_model(config.model) and (not config.pretrained or timm.is_model_pretrained(config.model))
    net, processor = network(config.model, json.dumps(config.model_args), config.image_size, config.eval_image_size)
    size = config.eval_image_size or config.image_size
    assert tuple(processor.data_config["input_size"]) == (3, size, size)
    optimizer = make_optimizer(net.model, config)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {*map(id, held)} == {id(parameter) for parameter in net.model.parameters()}
    assert max(group["weight_decay"] for group in optimizer.param_groups) == config.weight_decay
    if "teacher" not in config.method_args:
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


def test_the_method_accepts_its_arguments():
    def check(path):
        config = config_of(path)
        method = load(config.method, **config.method_args)
        given = {key: value for key, value in config.method_args.items() if not isinstance(value, dict | list)}
        assert given.items() <= method.hyperparameters().items()
        teacher = config.method_args.get("teacher")
        assert teacher is None or timm.is_model_pretrained(teacher)

    check_each(RUNS, check, relative)


def test_images_have_the_size_of_the_recipe():
    image = Image.effect_noise((250, 180), 64)

    def check(path):
        config = config_of(path)
        _, processor = build_small(config)
        size = config.eval_image_size or config.image_size
        assert eval_transform(processor.data_config)(image).shape == (3, size, size)
        transform = image_transform(config)
        shapes = {transform(image.convert("RGB")).shape for _ in range(5)} if transform else set()
        assert shapes <= {(3, config.image_size, config.image_size)}

    check_each(distinct(image_key), check, relative)


# Steps


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


def test_a_step_of_each_method_changes_a_small_network(tmp_path, teacher):
    check_each(distinct(step_key), lambda path: check_step(path, tmp_path, teacher), relative)


def check_step(path: Path, folder: Path, teacher: str) -> None:
    config = copy.deepcopy(config_of(path))
    config.output_dir, config.dataloader_num_workers, config.eval_strategy = str(folder), 0, "no"
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
        group["lr"] = 1e-3  # the first step of a warm-up has a learning rate of 0
    trainer.optimizer.step()
    trainer.method.after_step(trainer.step.net)
    assert all(loss.isfinite() for loss in losses.values())
    assert any(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


# recipes/README.md


def test_the_readme_names_every_folder():
    folders = {relative(path.parent) for path in [*FILES, *ACCELERATE]}
    assert [folder for folder in sorted(folders) if f"`{folder}`" not in README] == []


def test_the_other_networks_in_the_readme_and_the_bases_exist():
    text = "\n".join([README, *(path.read_text(encoding="utf-8") for path in BASES)])
    named = re.findall(r"--model (?!FOLDER)([\w.]*\w)", text)
    named += re.findall(r"`((?:resne|resnext|efficientnet)\w*[\w.]*)`", README)
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


def test_the_fields_in_the_tables_of_other_tools_exist():
    """The right columns of the tables for timm and OpenMixup name fields of MixupConfig."""
    names = set(FIELDS)
    tables = README[README.index("## Coming from timm") : README.index("## How the published numbers")]
    right = [row.split("|")[2] for row in tables.splitlines() if row.startswith("|") and "---" not in row]
    used = [word for cell in right for code in re.findall(r"`([^`]+)`", cell) for word in code.split(" ")[:1]]
    used = [word.removeprefix("--").split(".")[0].rstrip(":") for word in used if not word.endswith(".yaml")]
    assert len(used) > 60 and {word for word in used if word != "accelerate"} <= names
