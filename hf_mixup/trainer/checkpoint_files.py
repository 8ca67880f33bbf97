"""Errors of reading a checkpoint's files as CheckpointError: of damaged files by name, before any is loaded.

Pickles are read with `weights_only`, so that no code in them runs.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from transformers.trainer_pt_utils import safe_globals

from ..distributed import is_connection_lost
from ..errors import CheckpointError, MixupError, one_paragraph
from ..plain_data import Damaged, read_json

PICKLES = (".pt", ".pth", ".bin")
SUFFIXES = (".json", ".safetensors", *PICKLES)
NOT_LOADED = "training_args.bin"  # of transformers' Trainer
LOADERS = {  # functions in which a checkpoint is read, and what they read
    "load_from_json": "trainer_state.json",
    "start": "its position in the data",
    "_load_rng_state": "rng_state.pth",
    "_load_optimizer_and_scheduler": "optimizer.pt or scheduler.pt",
    "load_optimizer": "optimizer.pt or optimizer.bin",
    "_load_scaler": "scaler.pt",
    "load_extra": "the state of method, task or EMA",
    "_load_from_checkpoint": "its weights",
    "_load_best_model": "its weights",
    "_load_callback_state": "the state of callbacks in trainer_state.json",
}


def check_files(folder: Path) -> None:
    """Raise CheckpointError, with the name of the file, if a file that is loaded cannot be read."""
    if not folder.is_dir():
        raise CheckpointError(f"There is no checkpoint {str(folder)!r}: give a folder checkpoint-N of a run.")
    for path in sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES):
        if reason := _damage(path):
            raise CheckpointError(f"{path} is damaged, or is not a checkpoint file ({reason}).")


def _damage(path: Path) -> str | None:
    """Why the file cannot be read; None if it can, or is not a file of a checkpoint."""
    try:
        if path.is_dir():
            return "it is a folder"
        if path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                pass
        elif path.suffix in PICKLES and path.name != NOT_LOADED:
            if not path.stat().st_size:
                return "it is empty"
            with safe_globals():
                torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Damaged as error:
        return str(error)
    except UnpicklingError:  # the message advises to load it with code
        return "it is a pickle of other things than tensors and numbers, which is not loaded"
    except OSError as error:
        return error.strerror or type(error).__name__
    except SafetensorError as error:
        return one_paragraph(error)
    except (RuntimeError, ValueError, EOFError, LookupError, AttributeError, TypeError):
        return "it was not written completely, or not by torch.save"
    return None


@contextmanager
def load_errors(trainer) -> Iterator[None]:
    """Raise CheckpointError for errors raised inside while a checkpoint is loaded, which does not fit the run."""
    try:
        yield
    except (MixupError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        loaders = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
        found = [name for name in reversed(loaders) if name in LOADERS]
        if not found or is_connection_lost(error) or (found == ["start"] and trainer.resumed_from is None):
            raise
        best = "_load_best_model" in found
        folder = trainer.state.best_model_checkpoint if best else trainer.resumed_from
        raise CheckpointError(
            f"{folder} could not be loaded: {LOADERS[found[0]]} cannot be read, or does not fit this run "
            f"({type(error).__name__}: {one_paragraph(error)[:300]}). Delete this folder to resume from the checkpoint "
            "before it, or start a new run in another folder."
        ) from error
