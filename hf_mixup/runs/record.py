"""The run record: one JSON file a run, from which tables, cards and claims are made."""

import json
import math
import platform
import subprocess
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ..errors import RecordError, RunError
from ..files import atomic_write, local_name, portable
from ..methods import Method
from ..models.safe_load import auto_class
from ..plain_data import Damaged, read_json
from ..tasks import Task, load_task
from ..trainer.callbacks import training_times
from ..trainer.memory import peak_mb

SCHEMA_VERSION = 2
READABLE = (1, SCHEMA_VERSION)
NAME = "run.json"
PACKAGES = ("torch", "torchvision", "transformers", "datasets", "accelerate", "timm", "evaluate", "huggingface_hub")
# entries of both schema versions, and of a finished run
ENTRIES = {"status": str, "recipe": dict, "recipe_hash": str, "world_size": int}
ENTRIES |= {"data": dict, "method": dict, "model": dict}
RESULTS = {"final": dict}
# what transformers adds to the metrics of an evaluation
TIMING = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "jit_compilation_time")


def started(config, data, trainer, base_model: str | None) -> dict:
    """The record of a run before its first step: recipe, task, method, data, model, versions. Fractions are 0 to 1."""
    method = trainer.method
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "running",
        "recipe": portable(config.recipe_dict()),
        "recipe_name": config.recipe,
        "recipe_hash": config.recipe_hash(),
        "task": task_entry(trainer.task) | _loading_class(trainer.model.config),
        "method": method_entry(method),
        "data": {
            "path": data_path(data.path),
            **{name: getattr(data, name) for name in ("config", "revision", "splits")},
            **{name: getattr(data, name) for name in ("train_split", "eval_split")},
        },
        "model": {
            "name": portable(config.model),
            "args": portable(config.model_args),
            "parameters": _count(trainer.model),
            "base_model": base_model,
        },
        "seed": config.seed,
        "world_size": trainer.args.world_size,
        "mixed_precision": config.mixed_precision,
        "versions": versions(),
        "commit": commit(),
    }


def method_entry(method: Method) -> dict:
    """The method in a run record, with all that a card says about it."""
    args = portable(method.hyperparameters())
    return {"name": portable(method.name), "args": args, "title": method.title, "link": method.link}


def task_entry(task: Task) -> dict:
    """The task in a run record, with all that a card says about it."""
    card = asdict(task.card)
    return {
        "name": portable(task.name),
        "args": portable(task.settings()),
        "metric": task.metric,
        "higher_is_better": task.higher_is_better,
        **card,
        "metrics": list(card["metrics"]),
    }


def check_settings(component: Method | Task) -> None:
    """Raise RunError unless all arguments of a method or task can be written into a record."""
    is_method = isinstance(component, Method)
    kind, settings = ("Method", component.hyperparameters()) if is_method else ("Task", component.settings())
    for name, value in settings.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise RunError(
                f"{kind} {component.name!r} has {name} = {value!r}, which a run record cannot hold ({error}): use "
                "numbers, text, lists or mappings as fields, and set anything else in `build`."
            ) from error


def _loading_class(config) -> dict[str, str]:
    """The Auto class of a network without classifier, which the task's card need not know; else empty."""
    return {} if config.num_labels else {"auto_class": auto_class(config).__name__}


def finished(record: dict, trainer, final: dict[str, float], skipped: dict[str, int], deep: bool) -> dict:
    """`record` with the results of a finished run: metrics, images/s of training, seconds, peak MB, device.

    `deep`: whether images of more than 8 bits were scaled.
    `peak_mb` is the first process's, over all processes that the run was resumed in.
    """
    history, device = trainer.state.log_history, trainer.args.device
    times, earlier = training_times(trainer.state), [entry for entry in history if "train_seconds" in entry]  # of 0.1
    seconds = times["seconds"] + sum(entry["train_seconds"] for entry in earlier)
    images = estimated_images(trainer) if earlier else times["images"]
    return {
        **record,
        "status": "finished",
        "data": {**record["data"], "skipped": skipped, **({"scaled_to_8_bits": True} if deep else {})},
        "epochs": epochs(history, record["task"]),
        "final": metrics(final, record["task"]),
        "images": images,
        "steps": trainer.state.global_step,
        "images_per_s": round(images / seconds, 1) if seconds else None,
        "wall_s": round(seconds, 1),
        "peak_mb": max(peak_mb(device), times["peak_mb"]),
        "device": device_name(device),
    }


def estimated_images(trainer) -> int:
    """Training images that all ranks have seen, of a run that version 0.1 began."""
    batch = trainer.args.per_device_train_batch_size * trainer.args.world_size
    return trainer.state.global_step * batch * trainer.args.gradient_accumulation_steps


def metrics(entry: dict, task: dict) -> dict[str, float | None]:
    """Loss and metrics of an evaluation, from its entry in the log history: in the order of the task's card."""
    found = {key.removeprefix("eval_"): value for key, value in entry.items() if key.startswith("eval_")}
    names = ["loss", *(metric["key"] for metric in task["metrics"]), task["metric"], *found]
    numbers = {name: found[name] for name in names if name in found and name not in TIMING}
    return {name: _finite(value) for name, value in numbers.items() if isinstance(value, int | float)}


def epochs(history: list[dict], task: dict) -> list[dict]:
    """One entry for each evaluation, with the last training loss logged before it."""
    entries, losses = [], {}
    for entry in history:
        losses |= {key: value for key, value in entry.items() if key == "loss" or key.startswith("loss_")}
        if "eval_loss" in entry:
            numbers = metrics(entry, task)
            losses = {name: _finite(value) for name, value in losses.items()}
            entries.append({"epoch": entry["epoch"], **losses, "eval_loss": numbers.pop("loss"), **numbers})
    return entries


def _finite(number: float) -> float | None:
    """The number, or None for NaN and infinity (training that diverged), which JSON cannot represent."""
    return number if math.isfinite(number) else None


def data_path(path: str) -> str:
    """The id of a data set on the Hub, `sample`, or the name of a local folder as `./name`."""
    return local_name(path) if path != "sample" and Path(path).expanduser().is_dir() else path


def write(record: dict, folder: Path) -> None:
    """Write the record into `folder`, atomically."""
    atomic_write(folder / NAME, json.dumps(record, indent=2, allow_nan=False) + "\n")


def read(folder: str | Path) -> dict | None:
    """The record in `folder`, None if there is none; RecordError if it cannot be read.

    Records of schema version 1 get the entry `task`, which they lack.
    """
    file = Path(folder) / NAME
    if not file.exists():
        return None
    try:
        record = read_json(file)
    except Damaged as error:
        raise RecordError(f"{file} is damaged ({error}): move it away, or choose another output_dir.") from error
    if record.get("schema_version") not in READABLE:
        versions = " or ".join(map(str, READABLE))
        raise RecordError(f"{file} is not a run record of schema version {versions}: choose another output_dir.")
    finished = record.get("status") == "finished"
    wanted = {k: v for k, v in (ENTRIES | RESULTS).items() if finished or k in record}
    if wrong := [name for name, kind in wanted.items() if not isinstance(record.get(name), kind)]:
        raise RecordError(
            f"{file} is damaged ({wrong[0]} is {str(record.get(wrong[0]))[:40]!r}): restore it, move it away, or "
            "choose another output_dir."
        )
    return with_task(record)


def with_task(record: dict) -> dict:
    """A record of either schema version with the entry `task`; version 1 had classification only."""
    return record if "task" in record else {**record, "task": task_entry(load_task("classification"))}


def versions() -> dict[str, str]:
    """Versions of Python, this library and the libraries that it uses."""
    installed = {"python": platform.python_version()}
    for name in ("hf_mixup", *PACKAGES):
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def commit() -> str | None:
    """The git commit of this checkout, with -dirty if files differ from it; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        inside = subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True)
        if inside.returncode:
            return None
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}-dirty" if dirty else head


def device_name(device: torch.device) -> str:
    """The name of the GPU, or the CPU's architecture and number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
