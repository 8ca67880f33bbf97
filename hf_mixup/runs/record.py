"""The run record: one JSON file a run, from which tables, cards and claims are made."""

import json
import math
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ..errors import RecordError
from ..files import atomic_write

SCHEMA_VERSION = 1
NAME = "run.json"
PACKAGES = ("torch", "torchvision", "transformers", "datasets", "accelerate", "timm", "evaluate", "huggingface_hub")
METRICS = ("top1", "top5", "nll", "ece")


def started(config, data, model, method, world_size: int, base_model: str | None) -> dict:
    """The record of a run before its first step: recipe, method, data, model, versions. Fractions are 0 to 1."""
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "running",
        "recipe": portable(config.recipe_dict()),
        "recipe_name": config.recipe,
        "recipe_hash": config.recipe_hash(),
        "method": {"name": method.name, "args": portable(method.hyperparameters())},
        "data": {
            "path": data_path(data.path),
            **{name: getattr(data, name) for name in ("config", "revision", "splits")},
            **{name: getattr(data, name) for name in ("train_split", "eval_split")},
        },
        "model": {
            "name": portable(config.model),
            "args": portable(config.model_args),
            "parameters": _count(model),
            "base_model": base_model,
        },
        "seed": config.seed,
        "world_size": world_size,
        "mixed_precision": config.mixed_precision,
        "versions": versions(),
        "commit": commit(),
    }


def finished(record: dict, trainer, final: dict[str, float], skipped: dict[str, int]) -> dict:
    """`record` with the results of a finished run: metrics, images/s of training, seconds, peak MB, device."""
    history = trainer.state.log_history
    seconds = sum(entry.get("train_seconds", 0) for entry in history)
    batch = trainer.args.per_device_train_batch_size * trainer.args.world_size
    images = trainer.state.global_step * batch * trainer.args.gradient_accumulation_steps
    return {
        **record,
        "status": "finished",
        "data": {**record["data"], "skipped": skipped},
        "epochs": epochs(history),
        "final": {name: _finite(final[f"eval_{name}"]) for name in ("loss", *METRICS) if f"eval_{name}" in final},
        "steps": trainer.state.global_step,
        "images_per_s": round(images / seconds, 1) if seconds else None,
        "wall_s": round(seconds, 1),
        "peak_mb": peak_mb(trainer.args.device),
        "device": device_name(trainer.args.device),
    }


def epochs(history: list[dict]) -> list[dict]:
    """One entry for each evaluation, with the last training loss logged before it."""
    entries, losses = [], {}
    for entry in history:
        losses |= {key: value for key, value in entry.items() if key == "loss" or key.startswith("loss_")}
        if "eval_loss" in entry:
            metrics = {name: entry[f"eval_{name}"] for name in METRICS if f"eval_{name}" in entry}
            numbers = {**losses, "eval_loss": entry["eval_loss"], **metrics}
            entries.append({"epoch": entry["epoch"], **{name: _finite(value) for name, value in numbers.items()}})
    return entries


def _finite(number: float) -> float | None:
    """The number, or None for NaN and infinity (training that diverged), which JSON cannot represent."""
    return number if math.isfinite(number) else None


def portable(value):
    """`value` as JSON data without local paths: an absolute path is shortened to its last part, as `./name`."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    return local_name(value) if isinstance(value, str) and value.startswith(("/", "~")) else value


def data_path(path: str) -> str:
    """The id of a data set on the Hub, `sample`, or the name of a local folder as `./name`."""
    return local_name(path) if path != "sample" and Path(path).expanduser().is_dir() else path


def local_name(path: str) -> str:
    """The name of a local folder, without its parents, as `./name`."""
    return f"./{Path(path).expanduser().resolve().name}"


def write(record: dict, folder: Path) -> None:
    """Write the record into `folder`, atomically."""
    atomic_write(folder / NAME, json.dumps(record, indent=2, allow_nan=False) + "\n")


def read(folder: str | Path) -> dict | None:
    """The record in `folder`, None if there is none; RecordError if it cannot be read."""
    file = Path(folder) / NAME
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text())
    except ValueError as error:  # includes text that is not UTF-8
        raise RecordError(f"{file} is not valid JSON ({error}): move it away, or choose another output_dir.") from error
    if not isinstance(record, dict) or record.get("schema_version") != SCHEMA_VERSION:
        raise RecordError(f"{file} is not a run record of schema version {SCHEMA_VERSION}: choose another output_dir.")
    return record


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


def peak_mb(device: torch.device) -> float:
    """Peak memory so far in MB (10^6 bytes): allocated on a CUDA device, or resident in the process on a CPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def device_name(device: torch.device) -> str:
    """The name of the GPU, or the CPU's architecture and number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
