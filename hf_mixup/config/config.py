"""MixupConfig, the one dataclass of a run, and `parse`, which makes it from a recipe and the command line."""

import hashlib
import json
import sys
import textwrap
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from transformers import SchedulerType, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hf_mixup.config.parser import find, merge, read, words
from hf_mixup.config.types import about, check, convert, kinds
from hf_mixup.config.validation import check_together, set_floor

from ..errors import ConfigError

__all__ = ["ConfigError", "MixupConfig", "help_text", "parse"]

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
RESIZES = ("bilinear", "bicubic", "nearest")
# What a recipe says of the Trainer's fields even where it is the default, and what never changes a run's result.
TOLD = ("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate")
TOLD += ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay", "max_grad_norm", "seed")
UNTOLD = ("output_dir", "recipe", "resume", "dry_run", "report_to", "run_name", "project", "debug", "disable_tqdm")
UNTOLD += ("trust_remote_code",)
UNTOLD += ("log_", "logging_", "hub_", "push_to_hub", "trackio_", "include_num_input", "skip_memory", "do_", "local_")
UNTOLD += ("use_cpu", "ddp_", "fsdp", "parallelism_config", "dataloader_", "torch_compile", "torch_empty", "enable_jit")
UNTOLD += ("activation_checkpointing", "gradient_checkpointing", "resume_from", "restore_callback", "per_device_eval")
UNTOLD += ("eval_accumulation", "eval_do_concat", "eval_use_gather", "batch_eval", "prediction_loss", "include_for")
CADENCE = ("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "save_")  # these decide which model is best
CADENCE += ("metric_for_best", "greater_is_better")


@dataclass(repr=False)  # TrainingArguments' own repr hides tokens
class MixupConfig(TrainingArguments):
    """Everything a run needs: the fields of a recipe, flat, over those of TrainingArguments."""

    data: str = about("sample", "Data set: id on the Hub, local folder, or `sample` for the built-in one")
    data_config: str | None = about(None, "Configuration of the data set, where it has several")
    revision: str | None = about(None, "Commit, tag or branch of the data set")
    streaming: bool = about(False, "Read the data while training, instead of downloading it first")
    image_column: str = about("image", "Column of the images")
    label_column: str = about("label", "Column of the labels")
    train_split: str = about("train", "Split to train on")
    eval_split: str | None = about(None, "Split to evaluate on; left out, the data set's validation or test split")
    num_examples: int | None = about(None, "Rows of the training split, where streamed data does not say", "[1, inf)")
    rows_per_shard: str | int | list[int] | None = about(
        None, "Rows of each tar file of streamed WebDataset data: one number, a list, or `count` to read them once"
    )
    shuffle_block: int = about(2048, "Rows of streamed data that are shuffled together", "[1, inf)")
    skip_corrupt: bool = about(False, "Leave out images that cannot be decoded, and count them, instead of stopping")

    image_size: int = about(32, "Height and width of a training image, pixels", "[1, inf)")
    resize: int | None = about(None, "Shorter side of a training image before its (random) crop, pixels", "[1, inf)")
    crop_padding: int = about(0, "Padding on each side before the random crop, pixels; 0 does not crop", "[0, inf)")
    crop_mode: str = about("constant", "What the padding shows", choices=("constant", "reflect"))
    random_resized_crop: list[float] | None = about(None, "Smallest and largest share of the area to crop", "(0, 1]")
    flip: float = about(0.5, "Probability of a horizontal flip", "[0, 1]")
    randaugment: str | None = about(None, "RandAugment in timm's words, as rand-m9-mstd0.5-inc1")
    randaugment_ops: list[str] | None = about(None, "Operations RandAugment chooses from, by timm's names (its own 15)")
    erasing: float = about(0.0, "Probability of erasing a rectangle", "[0, 1]")
    aug_repeats: int = about(1, "Copies of an image in a batch, of as many times fewer images an epoch", "[1, inf)")
    eval_image_size: int | None = about(None, "Height and width of an evaluated image (image_size), pixels", "[1, inf)")
    eval_resize: int | None = about(None, "Shorter side of an evaluated image before its crop, pixels", "[1, inf)")
    eval_crop_pct: float | None = about(None, "Share of the side evaluation's crop keeps (weights' or 1)", "(0, 1]")
    interpolation: str | None = about(None, "How images are resized (weights' own, or bilinear)", choices=RESIZES)
    train_interpolation: str | None = about(None, "The same of training images (as interpolation)", choices=RESIZES)
    mean: list[float] | None = about(None, "Mean of each channel, pixels 0 to 1 (weights' or ImageNet)", "[0, 1]")
    std: list[float] | None = about(None, "Deviation of each channel, pixels 0 to 1 (weights' or ImageNet)", "(0, inf)")

    model: str = about("resnet18", "Network: a name timm knows, a folder, or an id on the Hub")
    model_args: dict[str, Any] = about({}, "Arguments of the network, as {drop_path_rate: 0.1}")
    pretrained: bool = about(False, "Start from published weights")

    method: str = about("mixup", "Mixup method; erm does not mix")
    method_args: dict[str, Any] = about({}, "Arguments of the method, as {alpha: 0.2}")
    task: str = about("classification", "What is learned: the name of a task")
    task_args: dict[str, Any] = about({}, "Arguments of the task")
    mixup_off_epoch: float = about(0.0, "Epoch from which nothing is mixed any more; 0 mixes to the end", "[0, inf)")

    loss: str = about("ce", "Loss on the soft labels, softmax or sigmoid", choices=("ce", "bce"))
    bce_threshold: float | None = about(None, "Soft labels above it count as 1 in bce, the others as 0", "[0, 1]")
    bce_sum: bool = about(False, "Add up the classes in bce instead of averaging them")
    label_smoothing: float = about(0.0, "Share of each label spread over all classes", "[0, 1)")
    optimizer: str | None = about(
        None, "Optimizer by timm's name, as sgd, adamw, lamb; left out, the Trainer's `optim`"
    )
    momentum: float = about(0.9, "Momentum of optimizers that have one", "[0, 1)")
    layer_decay: float | None = about(None, "Factor on the learning rate for each layer down from the head", "(0, 1]")
    optimizer_args: dict[str, Any] = about({}, "Further arguments of the optimizer, as {nesterov: true}")
    warmup_epochs: float = about(0.0, "Epochs of warm-up, instead of warmup_steps", "[0, inf)")
    lr_per_epoch: bool = about(False, "Change the learning rate once an epoch, after the warm-up, not at each step")
    min_lr: float = about(0.0, "Learning rate at the end of the cosine", "[0, inf)")
    ema_decay: float | None = about(None, "Decay per step of averaged weights; left out, none are kept", "(0, 1)")
    eval_weights: str = about("model", "Weights that are evaluated and published", choices=("model", "ema"))
    sync_bn: bool = about(False, "Let the network's BatchNorm see the batches of all processes")
    channels_last: bool = about(False, "Store images with the channels last, faster on GPUs")

    resume: bool = about(False, "Continue from the last checkpoint in output_dir")
    trust_remote_code: bool = about(False, "Run the Python code of the model's repository; on the command line only")
    hub_picture: bool | None = about(
        None, "Show training images in the card; left out, where everybody can see the data set"
    )
    dry_run: bool = about(False, "Check everything and stop before the first step")
    hub_create_pr: bool = about(False, "Push the finished run as a pull request, and no checkpoints")
    recipe: str | None = about(None, "Name of the recipe file, filled in when it is read")

    # Other defaults than TrainingArguments has.
    output_dir: str | None = about(None, "Folder of the run; left out, outputs/<name of the recipe>")
    lr_scheduler_type: SchedulerType | str = about("cosine_with_min_lr", "Schedule of the learning rate")
    remove_unused_columns: bool = about(False, "Always false: the images are a column that the network does not name")
    ddp_find_unused_parameters: bool | None = about(
        False, "Look for unused parameters in every step; never needed here"
    )
    report_to: str | list[str] = about("none", "Where to report the metrics, as tensorboard or wandb, or none")
    eval_strategy: IntervalStrategy | str = about("epoch", "When to evaluate", choices=("no", "steps", "epoch"))
    logging_strategy: IntervalStrategy | str = about("epoch", "When to log", choices=("no", "steps", "epoch"))
    save_strategy: SaveStrategy | str = about("epoch", "When to save", choices=("no", "steps", "epoch", "best"))
    save_total_limit: int | None = about(2, "Checkpoints to keep, the newest; null keeps all", "[1, inf)")
    # upstream's True waits for the device at every step, and hides that a loss is no number
    logging_nan_inf_filter: bool = about(False, "Leave losses that are no numbers out of the log")
    seed: int = about(0, "Seed of everything random", "[0, 4294967295]")

    counted_steps: ClassVar[int | None] = None  # of an epoch: the trainer counts them where max_steps ends the run

    def __post_init__(self):
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None and type(None) not in kinds(item.type):
                setattr(self, item.name, _default(item))
            elif item.name in OWN or isinstance(value, str):  # the rest is TrainingArguments' to judge
                setattr(self, item.name, convert(item, value))
            check(item, getattr(self, item.name))
        check_together(self)
        super().__post_init__()  # last: it starts the processes' group, which a wrong recipe need not wait for
        set_floor(self)

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Optimizer steps of warm-up, out of all of the run."""
        if not self.warmup_epochs:
            return super().get_warmup_steps(num_training_steps)
        return round(self.warmup_epochs * self.steps_in_epoch(num_training_steps))

    @property
    def counts_epochs(self) -> bool:
        """Whether the learning rate depends on where epochs begin."""
        return self.lr_per_epoch or self.warmup_epochs > 0

    def steps_in_epoch(self, num_training_steps: int) -> float:
        """Optimizer steps of an epoch, given those of the run."""
        return self.counted_steps or num_training_steps / self.num_train_epochs

    def recipe_dict(self) -> dict[str, Any]:
        """What defines the run's result, as plain data: never where it runs, where it writes, or what it prints."""
        skipped = UNTOLD if self.load_best_model_at_end else UNTOLD + CADENCE
        told = [item for item in fields(self) if not item.name.startswith(skipped)]
        values = {item.name: _plain(getattr(self, item.name)) for item in told}
        usual = {item.name: _plain(_usual(item, getattr(self, item.name))) for item in told}
        return {name: value for name, value in values.items() if name in OWN + TOLD or value != usual[name]}

    def recipe_hash(self) -> str:
        """16 hexadecimal digits that are equal for equal `recipe_dict`s, whatever files they came from.

        The data's revision is not in it: a branch moves, and a run is held to the commit that it began with.
        """
        recipe = {key: value for key, value in self.recipe_dict().items() if key != "revision"}
        return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


FIELDS = {item.name: item for item in fields(MixupConfig)}
OWN = tuple(name for name in FIELDS if name not in TrainingArguments.__dataclass_fields__)


def parse(argv: list[str]) -> MixupConfig:
    """The configuration that `RECIPE.yaml [--field value ...]` asks for; `--help` prints every field and exits."""
    if "-h" in argv or "--help" in argv:
        print(help_text())
        sys.exit(0)
    if not argv or argv[0].startswith("-"):
        raise ConfigError(f"The recipe comes first. Usage: {USAGE}, for example: {EXAMPLE}.")
    path = find(argv[0])
    settable = {name: item for name, item in FIELDS.items() if name != "recipe"}
    values = merge(read(path, settable), words(argv[1:], settable), settable)
    values["output_dir"] = values.get("output_dir") or f"outputs/{_place(path)}"
    try:
        return MixupConfig(**values, recipe=path.name if Path(argv[0]).is_absolute() else argv[0])
    except ConfigError:
        raise
    except (ValueError, TypeError, OSError, ImportError) as error:  # what TrainingArguments refuses
        raise ConfigError(f"{argv[0]}: {' '.join(str(error).split())}") from error


def _place(path: Path) -> Path:
    """Where a recipe stands below recipes/, without its ending: cifar10/mixup; of one elsewhere its name."""
    parts = path.resolve().with_suffix("").parts
    if "recipes" not in parts[:-1]:
        return Path(path.stem)
    return Path(*parts[len(parts) - parts[::-1].index("recipes") :])


def help_text() -> str:
    """Every field with its default and help line: ours in groups, then those of TrainingArguments."""
    lines = [f"usage: {USAGE}", f"example: {EXAMPLE}"]
    for name in (*OWN, *(name for name in FIELDS if name not in OWN)):
        item = FIELDS[name]
        if name in GROUPS or name == "output_dir":
            lines += ["", f"{GROUPS.get(name, 'The Trainer')}:"]
        text = f"{' '.join(item.metadata.get('help', '').split())} (default: {_plain(_default(item))})"
        text = "Refused: set HF_TOKEN or run `hf auth login`." if name == "hub_token" else text
        lines += textwrap.wrap(text, 118, initial_indent=f"  --{name:<30} ", subsequent_indent=" " * 35)
    return "\n".join(lines)


def _default(item: Field) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _usual(item: Field, value: Any) -> Any:
    """The default of a field, as TrainingArguments leaves it when nothing was set."""
    return type(value)() if is_dataclass(value) else _default(item)


def _plain(value: Any) -> Any:
    """The value as JSON has it; 1.0 and 1 are the same number."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
