"""MixupConfig, all settings of a run, and `parse`, which reads them from a recipe and the command line."""

import hashlib
import json
import sys
import textwrap
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from transformers import SchedulerType, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ..errors import ConfigError
from .parser import check_published, find_recipe, merge, parse_options, read_recipe
from .recorded import FORMER_FIELDS, default_of, json_value, recorded_values
from .types import accepted_types, check_value, convert, option, short_repr
from .validation import check_combinations, set_min_lr

__all__ = ["ConfigError", "MixupConfig", "help_text", "load_config", "parse"]

USAGE = "RECIPE.yaml [--field value ...] [--method_args.name value ...]"
EXAMPLE = "quickstart --method cutmix --method_args.alpha 0.2 --learning_rate 1e-3"
GROUPS = {
    "data": "Data",
    "image_size": "Images",
    "model": "Model",
    "method": "Method",
    "loss": "Training",
    "resume": "Run",
}
SIDE = "[1, 16384]"  # pixels; a float image of this size takes 3 GB
RESIZES = ("bilinear", "bicubic", "nearest")


@dataclass(repr=False)  # TrainingArguments' own repr hides tokens
class MixupConfig(TrainingArguments):
    """All settings of a run: the fields of a recipe, in addition to those of TrainingArguments."""

    data: str = option("sample", "Data set: Hub id, local folder, or `sample` for the built-in sample")
    data_config: str | None = option(None, "Configuration of the data set, if it has several")
    revision: str | None = option(None, "Commit, tag or branch of the data set")
    streaming: bool = option(False, "Stream the training split instead of downloading it first")
    image_column: str = option("image", "Column that contains the images")
    label_column: str = option("label", "Column that contains the labels")
    train_split: str = option("train", "Training split")
    eval_split: str | None = option(None, "Evaluation split; if null, the validation or test split")
    eval_fraction: float | None = option(None, "Share of the training split to hold out for evaluation", "(0, 1)")
    num_examples: int | None = option(None, "Rows of the training split, if its length is unknown", "[1, inf)")
    rows_per_shard: str | int | list[int] | None = option(
        None, "Rows of each tar file of streamed WebDataset data: a number, a list, or `count` to count them once"
    )
    shuffle_memory: str | int = option("1GiB", "Memory of a process for shuffling a stream: bytes, or text as 500MB")
    stream_cache: str | None = option(None, "Folder that keeps the images of a stream for later epochs and other runs")
    stream_cache_size: str | int = option("100GB", "Space that stream_cache may use: bytes, or text as 500GB")
    class_names: list[str] | None = option(None, "Class names in the order of their numbers; if null, the data's")
    max_pixels: int | None = option(None, "Pixels of an image at most; if null, Pillow's limit", "[1, inf)")
    allow_outside_files: bool = option(False, "Read files and URLs outside the data set that its rows or card name")
    skip_corrupt: bool = option(False, "Skip and count images that cannot be decoded, instead of raising")

    image_size: int = option(32, "Height and width of training images, pixels", SIDE)
    resize: int | None = option(None, "Shorter side of training images before the crop, pixels", SIDE)
    crop_padding: int = option(0, "Padding on each side before the random crop, pixels; 0 for no crop", "[0, 16384]")
    crop_mode: str = option("constant", "Padding mode", choices=("constant", "reflect"))
    random_resized_crop: list[float] | None = option(None, "Smallest and largest share of the area to crop", "(0, 1]")
    flip: float = option(0.5, "Probability of a horizontal flip", "[0, 1]")
    randaugment: str | None = option(None, "RandAugment in timm's notation, for example rand-m9-mstd0.5-inc1")
    randaugment_ops: list[str] | None = option(None, "Operations of RandAugment, by timm's names; if null, timm's 15")
    erasing: float = option(0.0, "Probability of random erasing", "[0, 1]")
    aug_repeats: int = option(1, "Repeated augmentation: copies of each image in a batch", "[1, 256]")
    class_balanced: bool = option(
        False, "Draw training images with replacement, each class with the same probability in each epoch"
    )
    eval_image_size: int | None = option(None, "Size of evaluation images, pixels; if null, image_size", SIDE)
    eval_resize: int | None = option(None, "Shorter side of evaluation images before the crop, pixels", SIDE)
    eval_crop_pct: float | None = option(
        None, "Share of the side kept by the crop; if null, the pretrained weights' or 1", "[0.01, 1]"
    )
    interpolation: str | None = option(
        None, "Interpolation; if null, the pretrained weights' or bilinear", choices=RESIZES
    )
    train_interpolation: str | None = option(None, "Interpolation in training; if null, interpolation", choices=RESIZES)
    mean: list[float] | None = option(None, "Mean of each channel; if null, the weights' or ImageNet's", "[0, 1]")
    std: list[float] | None = option(None, "Deviation of each channel; if null, the weights' or ImageNet's", "(0, inf)")

    model: str = option("resnet18", "Network: a timm name, a folder, or a Hub id")
    model_args: dict[str, Any] = option({}, "Arguments of the network, for example {drop_path_rate: 0.1}")
    pretrained: bool = option(False, "Start from published weights")
    freeze: str | None = option(None, "Part of the network that is not trained, in eval mode", choices=("backbone",))

    method: str = option("mixup", "Mixup method; erm is no mixing")
    method_args: dict[str, Any] = option({}, "Arguments of the method, for example {alpha: 0.2}")
    task: str | None = option(
        None,
        "Task: a name, module:Class or file.py:Class; if null, that of the checkpoint in `model`, or classification",
    )
    task_args: dict[str, Any] = option({}, "Arguments of the task")
    mixup_off_epoch: float = option(0.0, "Epoch at which mixing stops; 0 mixes until the end", "[0, inf)")

    loss: str | None = option(
        None, "Cross-entropy or binary cross-entropy of soft labels; if null, the task's", choices=("ce", "bce")
    )
    class_weights: list[float] | None = option(None, "Factor of each class in the loss", "[0, inf)")
    bce_threshold: float | None = option(None, "For bce: soft labels above it become 1, the others 0", "[0, 1]")
    bce_sum: bool = option(False, "Sum bce over classes instead of averaging")
    label_smoothing: float = option(0.0, "Share of each label spread over all classes", "[0, 1)")
    optimizer: str | None = option(None, "Optimizer by timm's name, for example sgd or lamb; if null, `optim` is used")
    momentum: float = option(0.9, "Momentum, for optimizers that have one", "[0, 1)")
    layer_decay: float | None = option(None, "Factor on the learning rate for each layer below the head", "(0, 1]")
    optimizer_args: dict[str, Any] = option({}, "Further arguments of the optimizer, for example {nesterov: true}")
    warmup_epochs: float = option(0.0, "Warm-up epochs, instead of warmup_steps", "[0, inf)")
    lr_per_epoch: bool = option(False, "Update the learning rate once per epoch, after the warm-up, not each step")
    min_lr: float = option(0.0, "Final learning rate of the cosine schedule", "[0, inf)")
    ema_decay: float | None = option(None, "Decay per step of the weights' average; if null, no average", "(0, 1)")
    eval_weights: str = option("model", "Weights to evaluate and publish", choices=("model", "ema"))
    sync_bn: bool = option(False, "Synchronise BatchNorm over all processes")
    channels_last: bool = option(False, "Use the channels-last memory format, faster on GPUs")

    resume: bool = option(False, "Continue from the last checkpoint in output_dir")
    trust_remote_code: bool = option(False, "Run Python code of the model's repository; command line only")
    hub_picture: bool | None = option(None, "Show training images in the model card; if null, only of public data")
    dry_run: bool = option(False, "Check all settings, run one step, write nothing")
    log_images: bool = option(
        False,
        "Send a grid of mixed images and statistics of lam to the trackers of report_to at each evaluation",
    )
    hub_create_pr: bool = option(False, "Push the finished run as a pull request, without checkpoints")
    recipe: str | None = option(None, "Name of the recipe file, set by the parser")

    # Fields of TrainingArguments with another default.
    output_dir: str | None = option(None, "Output folder; if null, outputs/<name of the recipe>")
    lr_scheduler_type: SchedulerType | str = option("cosine_with_min_lr", "Learning rate schedule")
    remove_unused_columns: bool = option(False, "Always false: true would drop the image column")
    ddp_find_unused_parameters: bool | None = option(
        False, "Search for unused parameters in each step; never required here"
    )
    report_to: str | list[str] = option(
        "none", "Integrations that metrics are reported to, for example tensorboard or wandb, or none"
    )
    eval_strategy: IntervalStrategy | str = option("epoch", "When to evaluate", choices=("no", "steps", "epoch"))
    logging_strategy: IntervalStrategy | str = option("epoch", "When to log", choices=("no", "steps", "epoch"))
    save_strategy: SaveStrategy | str = option("epoch", "When to save", choices=("no", "steps", "epoch", "best"))
    save_total_limit: int | None = option(2, "Number of newest checkpoints to keep; null keeps all", "[1, inf)")
    # transformers' default, True, synchronises with the device in each step and hides a diverged loss
    logging_nan_inf_filter: bool = option(False, "Filter NaN and infinite losses out of the log")
    seed: int = option(0, "Random seed", "[0, 4294967295]")

    counted_steps: ClassVar[int | None] = None  # optimizer steps per epoch, set by the trainer if max_steps is given

    def __post_init__(self):
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None and type(None) not in accepted_types(item.type):
                setattr(self, item.name, default_of(item))
            elif item.name in ADDED_FIELDS or isinstance(value, str):  # TrainingArguments checks the others
                setattr(self, item.name, convert(item, value))
            check_value(item, getattr(self, item.name))
        check_combinations(self)
        # TrainingArguments replaces null by its own defaults
        self.best_metric_given = self.metric_for_best_model is not None
        self.direction_given = self.greater_is_better is not None
        super().__post_init__()  # last, because it starts the process group
        set_min_lr(self)

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Warm-up steps of a run of `num_training_steps` optimizer steps."""
        if not self.warmup_epochs:
            return super().get_warmup_steps(num_training_steps)
        return round(self.warmup_epochs * self.steps_in_epoch(num_training_steps))

    @property
    def counts_epochs(self) -> bool:
        """Whether the learning rate depends on the number of steps per epoch."""
        return self.lr_per_epoch or self.warmup_epochs > 0

    def steps_in_epoch(self, num_training_steps: int) -> float:
        """Optimizer steps per epoch of a run of `num_training_steps` steps."""
        return self.counted_steps or num_training_steps / self.num_train_epochs

    def recipe_dict(self) -> dict[str, Any]:
        """The settings that determine the run's result, as JSON values: no hardware, output, logging or Hub settings.

        Of TrainingArguments, only RECORDED and changed fields are in it. So the dict does not depend on which other
        fields the installed version of transformers has.
        """
        return recorded_values(self)

    def recipe_hash(self) -> str:
        """Hash of `recipe_dict`, 16 hexadecimal digits, independent of the files that the settings come from.

        The data's revision is excluded: a branch can move, and a resumed run keeps the commit that it started with.
        """
        recipe = {key: value for key, value in (FORMER_FIELDS | self.recipe_dict()).items() if key != "revision"}
        return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


FIELDS = {item.name: item for item in fields(MixupConfig)}
SETTABLE = {name: item for name, item in FIELDS.items() if name != "recipe"}
# fields that MixupConfig adds to those of TrainingArguments
ADDED_FIELDS = tuple(name for name in FIELDS if name not in TrainingArguments.__dataclass_fields__)


def parse(argv: list[str]) -> MixupConfig:
    """The configuration for the arguments `RECIPE.yaml [--field value ...]`; `--help` prints every field and exits."""
    if "-h" in argv or "--help" in argv:
        print(help_text())
        sys.exit(0)
    if not argv or argv[0].startswith("-"):
        raise ConfigError(f"The first argument must be the recipe. Usage: {USAGE}, for example: {EXAMPLE}.")
    return load_config(argv[0], parse_options(argv[1:], SETTABLE))


def load_config(recipe: str, options: dict[str, Any]) -> MixupConfig:
    """The configuration of a recipe, a file or one of the package's, with `options` instead of its values."""
    path = find_recipe(recipe)
    values = read_recipe(path, SETTABLE)
    check_published(path, {key: value for key, value in values.items() if key not in options})
    values = merge(values, options, SETTABLE)
    values["output_dir"] = values.get("output_dir") or f"outputs/{_path_in_recipes(path)}"
    try:
        return MixupConfig(**values, recipe=path.name if Path(recipe).is_absolute() else recipe)
    except ConfigError:
        raise
    except (ValueError, TypeError, OSError, ImportError) as error:  # raised by TrainingArguments
        text, given = " ".join(str(error).split()), {name: values[name] for name in values if name not in ADDED_FIELDS}
        if not any(name in text for name in given):
            text += f" Check {', '.join(f'{name}={short_repr(value)}' for name, value in given.items())}."
        raise ConfigError(f"{recipe}: {text}") from error


def _path_in_recipes(path: Path) -> Path:
    """A recipe's path below recipes/ without the suffix, for example cifar10/mixup; elsewhere only its name."""
    parts = path.resolve().with_suffix("").parts
    if "recipes" not in parts[:-1]:
        return Path(path.stem)
    return Path(*parts[len(parts) - parts[::-1].index("recipes") :])


def help_text() -> str:
    """Every field with its default and help text: ADDED_FIELDS in groups, then the fields of TrainingArguments."""
    lines = [f"usage: hf-mixup train {USAGE}", f"example: hf-mixup train {EXAMPLE}"]
    for name in (*ADDED_FIELDS, *(name for name in FIELDS if name not in ADDED_FIELDS)):
        item = FIELDS[name]
        if name in GROUPS or name == "output_dir":
            lines += ["", f"{GROUPS.get(name, 'The Trainer')}:"]
        words = item.metadata.get("help", "").replace("%%", "%").split()  # upstream escapes % for argparse
        text = f"{' '.join(words)} (default: {json_value(default_of(item))})"
        text = "Refused: set HF_TOKEN or run `hf auth login`." if name == "hub_token" else text
        lines += textwrap.wrap(text, 118, initial_indent=f"  --{name:<30} ", subsequent_indent=" " * 35)
    return "\n".join(lines)
