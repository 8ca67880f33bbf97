"""The run record: one JSON a run, with all that tables, cards and claims are made from."""

import json
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

SCHEMA_VERSION = 1
NAME = "run.json"
PACKAGES = ("torch", "torchvision", "transformers", "datasets", "accelerate", "timm", "evaluate", "huggingface_hub")
METRICS = ("top1", "top5", "nll", "ece")


def opening(config, data, model, method, world_size: int) -> dict:
    """What is known before the first step; fractions are 0 to 1, sizes in rows and parameters."""
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "running",
        "recipe": config.recipe_dict(),
        "recipe_name": config.recipe,
        "recipe_hash": config.recipe_hash(),
        "method": {"name": method.name, "args": method.hyperparameters()},
        "data": {
            **{name: getattr(data, name) for name in ("path", "config", "revision", "splits")},
            **{name: getattr(data, name) for name in ("train_split", "eval_split")},
        },
        "model": {"name": config.model, "args": config.model_args, "parameters": _count(model)},
        "seed": config.seed,
        "world_size": world_size,
        "versions": versions(),
        "commit": commit(),
    }


def closing(record: dict, trainer, final: dict[str, float], skipped: dict[str, int]) -> dict:
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
        "final": {name: final[f"eval_{name}"] for name in ("loss", *METRICS) if f"eval_{name}" in final},
        "steps": trainer.state.global_step,
        "images_per_s": round(images / seconds, 1) if seconds else None,
        "wall_s": round(seconds, 1),
        "peak_mb": peak_mb(trainer.args.device),
        "device": device_name(trainer.args.device),
    }


def epochs(history: list[dict]) -> list[dict]:
    """One entry for each evaluation, with the training loss logged last before it."""
    found, losses = [], {}
    for entry in history:
        losses |= {key: value for key, value in entry.items() if key == "loss" or key.startswith("loss_")}
        if "eval_loss" in entry:
            metrics = {name: entry[f"eval_{name}"] for name in METRICS if f"eval_{name}" in entry}
            found.append({"epoch": entry["epoch"], **losses, "eval_loss": entry["eval_loss"], **metrics})
    return found


def write(record: dict, folder: Path) -> None:
    """Put the record into `folder`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{NAME}"
    aside.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(aside, folder / NAME)


def read(folder: str | Path) -> dict | None:
    """The record in `folder`, None if there is none."""
    file = Path(folder) / NAME
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not valid JSON ({error}): move it away, or choose another output_dir.") from error


def versions() -> dict[str, str]:
    """Versions of Python, this library and what it stands on."""
    found = {"python": platform.python_version()}
    for name in ("hf_mixup", *PACKAGES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str | None:
    """The library's git commit, with -dirty if files differ from it; None outside a checkout."""
    here = ["git", "-C", str(Path(__file__).parent)]
    try:
        inside = subprocess.run([*here, "ls-files", "--error-unmatch", __file__], capture_output=True)
        if inside.returncode:
            return None
        head = subprocess.run([*here, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run([*here, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}-dirty" if dirty else head


def peak_mb(device: torch.device) -> float:
    """Largest memory so far in MB (10^6 bytes): the device's, on a CPU the process's."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def device_name(device: torch.device) -> str:
    """The device in words: the GPU's name, or how many CPU threads are used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
