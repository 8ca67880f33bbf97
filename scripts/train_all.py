"""Train every method on one or more recipes and keep their records; finished runs are not repeated.

python scripts/train_all.py RECIPE [RECIPE ...] --records FOLDER [--seeds 0 1 2] [--methods NAME ...] [--field value ...]
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import hf_mixup
from hf_mixup.record import NAME, read

TRAIN = Path(__file__).parent / "train.py"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--records", type=Path, required=True, help="folder for one JSON a run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", default=hf_mixup.available())
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder for the runs themselves")
    options, fields = parser.parse_known_args()
    failed = []
    for recipe in options.recipes:
        for method in options.methods:
            for seed in options.seeds:
                name = f"{Path(recipe).stem}-{method}-{seed}"
                if not train(recipe, method, seed, options.outputs / name, options.records / f"{name}.json", fields):
                    failed.append(name)
    if failed:
        sys.exit(f"Not trained: {', '.join(failed)}")


def train(recipe: str, method: str, seed: int, output: Path, record: Path, fields: list[str]) -> bool:
    """Run one training unless its record is there; whether the record is there in the end."""
    if record.is_file():
        return True
    command = [sys.executable, TRAIN, recipe, "--method", method, "--seed", str(seed), "--output_dir", output, "--resume"]
    done = subprocess.run([*map(str, command), *fields])
    found = read(output)
    if done.returncode or found is None or found["status"] != "finished":
        return False
    record.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(output / NAME, record)
    print(f"{record.name}: {json.dumps(found['final'])}")
    return True


if __name__ == "__main__":
    main()
