"""Train every method on one or more recipes and collect the run records; finished runs are not repeated.

python scripts/train_all.py RECIPE ... --records FOLDER [--seeds 0 1 2] [--methods NAME ...] [--field value ...]
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import hf_mixup
from hf_mixup.runs.record import NAME, read

REFUSED = 2  # exit status for invalid settings, such as a method that requires attention on a CNN
TRAIN = Path(__file__).parent / "train.py"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--records", type=Path, required=True, help="folder of the run records, one JSON per run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", default=hf_mixup.available())
    parser.add_argument(
        "--outputs", type=Path, default=Path("outputs"), help="parent folder of the runs' output folders"
    )
    options, fields = parser.parse_known_args()
    failed, refused = [], []
    for recipe in options.recipes:
        for method in options.methods:
            for seed in options.seeds:
                name = f"{Path(recipe).stem}-{method}-{seed}"
                status = train(recipe, method, seed, options.outputs / name, options.records / f"{name}.json", fields)
                {REFUSED: refused, 0: []}.get(status, failed).append(name)
    print(f"Invalid settings, see the messages above: {', '.join(refused) or 'none'}")
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


def train(recipe: str, method: str, seed: int, output: Path, record: Path, fields: list[str]) -> int:
    """The exit status of one training run; 0 without training if its record exists."""
    if record.is_file():
        return 0
    command = [
        sys.executable,
        TRAIN,
        recipe,
        "--method",
        method,
        "--seed",
        str(seed),
        "--output_dir",
        output,
        "--resume",
    ]
    status = subprocess.run([*map(str, command), *fields]).returncode
    if status:
        return status
    record.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(output / NAME, record)
    print(f"{record.name}: {json.dumps(read(output)['final'])}")
    return 0


if __name__ == "__main__":
    main()
