"""Train the quick start in two checkouts of this repository and compare weights and metrics bit by bit.

python scripts/compare_checkouts.py OLD NEW [--field value ...]

OLD and NEW are folders; further options are those of the recipe, for example --num_train_epochs 2. Each run is
`python -m hf_mixup` on the CPU with one thread, so any two commits can be compared. Exit status 1 if anything differs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

RECIPE = "recipes/quickstart.yaml"
WEIGHTS = ("model.safetensors", "method.safetensors")
RECORD, ENTRIES = "run.json", ("final", "epochs")


def train(checkout: Path, output: Path, options: list[str]) -> None:
    """Run the quick start of a checkout; SystemExit with its error output if it fails."""
    command = [sys.executable, "-m", "hf_mixup", RECIPE, "--use_cpu", "--output_dir", str(output), *options]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    print(f"{checkout}: {' '.join(command[1:])}", flush=True)
    run = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"The run in {checkout} failed with exit status {run.returncode}:\n{run.stderr}")


def differences(old: Path, new: Path) -> list[str]:
    """One line for each tensor and each entry of the run record that differs between two output folders."""
    found = []
    for name in WEIGHTS:
        states = [load_file(folder / name) if (folder / name).is_file() else {} for folder in (old, new)]
        for key in dict.fromkeys([*states[0], *states[1]]):
            if difference := tensor_difference(*(state.get(key) for state in states)):
                found.append(f"{name}: {key}: {difference}")
    records = [json.loads((folder / RECORD).read_text()) for folder in (old, new)]
    for entry in ENTRIES:
        values = [record.get(entry) for record in records]
        if values[0] != values[1]:
            found.append(f"{RECORD}: {entry}: {values[0]} and {values[1]}")
    return found


def tensor_difference(old: torch.Tensor | None, new: torch.Tensor | None) -> str:
    """The difference of two tensors in words, "" if their bits are equal."""
    if old is None or new is None:
        return f"only in {'NEW' if old is None else 'OLD'}"
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return f"{old.dtype} {tuple(old.shape)} and {new.dtype} {tuple(new.shape)}"
    if torch.equal(old.flatten().view(torch.uint8), new.flatten().view(torch.uint8)):
        return ""
    return f"largest difference {(old.double() - new.double()).abs().max():.3g}"


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if both runs have equal weights and metrics, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="folder of a checkout")
    parser.add_argument("new", type=Path, help="folder of another checkout")
    checkouts, options = parser.parse_known_args(arguments)
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root) / name for name in ("old", "new")]
        for checkout, folder in zip((checkouts.old, checkouts.new), folders):
            train(checkout.resolve(), folder, options)
        found = differences(*folders)
    print("\n".join(found) or "Equal: weights and metrics have the same bits.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
