"""Kill a streamed run at random moments, resume it, and compare its final weights with those of a run without a kill.

python scripts/kill_and_resume.py --rounds 10 --processes 2
python scripts/kill_and_resume.py --rounds 20 --while_saving

A Hub on this machine holds a data set of several shards made from the built-in sample (or --data names another one, on
the Hub or a local folder). With --while_saving the run has a larger network, keeps one checkpoint (save_total_limit: 1)
and is killed while it saves. Each round appends one line to a file in hub_cards/records/kill_and_resume/; rounds that
are recorded already are not run again. Exit status 1 if any round left no complete checkpoint or ended with other
weights.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_DISABLE_XET"] = "1"

import torch
from datasets import Dataset
from huggingface_hub import HfApi
from safetensors.torch import load_file

from hf_mixup.errors import CheckpointError
from hf_mixup.runs.record import commit, device_name, versions
from hf_mixup.testing import LocalHub
from hf_mixup.trainer import manifest

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "hub_cards" / "records" / "kill_and_resume"
SAMPLE = ROOT / "hf_mixup" / "data" / "sample"
RECIPE = {
    "image_size": 28,
    "model": "resnet18",
    "model_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "drop_rate": 0.1},
    "method": "cutmix",
    "random_resized_crop": [0.5, 1.0],
    "streaming": True,
    "shuffle_memory": 2**17,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "dataloader_num_workers": 1,
    "ema_decay": 0.9,
    "eval_strategy": "no",
    "save_strategy": "steps",
    "save_steps": 2,
    "use_cpu": True,
    "disable_tqdm": True,
}


WHILE_SAVING = {
    "model_args": {"layers": [1, 1, 1, 1], "channels": [64, 128, 256, 512]},
    "optimizer": "adamw",
    "num_train_epochs": 1,
    "save_total_limit": 1,
}
# seconds from the creation of a checkpoint's folder to the kill, by while_saving
LONGEST_WAIT = {False: 0.1, True: 0.6}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10, help="number of kills")
    parser.add_argument("--processes", type=int, default=1, help="processes of a run (gloo)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("--while_saving", action="store_true", help="kill during saving, with save_total_limit: 1")
    parser.add_argument("--data", help="data set, on the Hub or a folder (default: the sample, in shards)")
    parser.add_argument("--rows", type=int, default=400, help="rows of the sample in use")
    parser.add_argument("--shards", type=int, default=3, help="number of shards of these rows")
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder of the records")
    return parser.parse_args(arguments)


def push_sample(hub: LocalHub, folder: Path, rows: int, shards: int) -> str:
    """Push the sample's first rows, in shards of unequal size, and 100 test rows; return the name of the data set."""
    folder.mkdir()
    train = Dataset.from_parquet(str(SAMPLE / "train.parquet"), cache_dir=str(folder / "cache")).select(range(rows))
    ends = [rows * (part * part + part) // (shards * shards + shards) for part in range(shards + 1)]
    for part, (first, last) in enumerate(zip(ends, ends[1:])):
        name = f"train-{part:05}-of-{shards:05}.parquet"
        train.select(range(first, last)).to_parquet(folder / name, batch_size=32)
    test = Dataset.from_parquet(str(SAMPLE / "test.parquet"), cache_dir=str(folder / "cache")).select(range(100))
    test.to_parquet(folder / "test-00000-of-00001.parquet")
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo("user/sample", repo_type="dataset", exist_ok=True)
    api.upload_folder(repo_id="user/sample", folder_path=folder, repo_type="dataset", allow_patterns="*.parquet")
    return "user/sample"


def start(recipe: Path, folder: Path, processes: int, environment: dict, *words: str) -> subprocess.Popen:
    """Start a training run in a subprocess."""
    launch = [
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        f"--num_processes={processes}",
        "--main_process_port=0",
    ]
    module = [*(launch if processes > 1 else []), "-m", "hf_mixup", recipe, "--output_dir", folder, *words]
    return subprocess.Popen(
        [sys.executable, *map(str, module)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    """Wait for a training run; SystemExit with its error output if it fails."""
    errors = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f"A training run failed:\n{errors}")


def kill(process: subprocess.Popen) -> None:
    """Send SIGKILL to the training and its child processes, the youngest first."""
    for number in [*reversed(descendants(process.pid)), process.pid]:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.communicate()


def descendants(parent: int) -> list[int]:
    """The child processes of `parent`, and recursively theirs."""
    try:
        found = [int(number) for number in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return [number for child in found for number in (child, *descendants(child))]


def steps_of(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, complete or not, in order."""
    names = (path.name.partition("-")[2] for path in folder.glob("checkpoint-*"))
    return sorted(int(name) for name in names if name.isdigit())


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint has a manifest that its files match."""
    try:
        manifest.verify(checkpoint)
    except CheckpointError:
        return False
    return True


def kill_after(process: subprocess.Popen, folder: Path, step: int, wait: float) -> dict:
    """Kill the run `wait` seconds after it began to save `step`; return the time of the kill and the checkpoints."""
    while process.poll() is None and not any(found >= step for found in steps_of(folder)):
        time.sleep(0.002)
    time.sleep(wait)
    ended = process.poll() is not None
    kill(process)
    complete = {step: is_complete(folder / f"checkpoint-{step}") for step in steps_of(folder)}
    found = {"after_step": step, "seconds_later": round(wait, 4), "ended_before": ended, "checkpoints": [*complete]}
    return found | {"incomplete": [step for step, whole in complete.items() if not whole]}


def equal(one: Path, other: Path) -> bool:
    """Whether two finished runs have the same weights, bit for bit."""
    weights = [load_file(folder / "model.safetensors") for folder in (one, other)]
    keys = weights[0].keys()
    return keys == weights[1].keys() and all(torch.equal(weights[0][key], weights[1][key]) for key in keys)


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if every round left a complete checkpoint and ended with the weights of the run without a kill."""
    options = parse(arguments)
    kind = "saving-" if options.while_saving else ""
    file = options.records / f"{kind}processes-{options.processes}-seed-{options.seed}.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if len(done) < options.rounds:
        with tempfile.TemporaryDirectory() as root, LocalHub(Path(root) / "hub") as hub:
            for record in rounds(options, Path(root), hub, range(len(done), options.rounds)):
                done.append(record)
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("a") as lines:
                    lines.write(json.dumps(record) + "\n")
                print(f"round {record['round']}: killed after step {record['after_step']}, equal: {record['equal']}")
    good = sum(record["equal"] and len(record["checkpoints"]) > len(record.get("incomplete", [])) for record in done)
    print(f"{good} of {len(done)} rounds left a complete checkpoint and ended with the same bits: {file}")
    return int(good < len(done))


def rounds(options: argparse.Namespace, root: Path, hub: LocalHub, numbers: range):
    """Yield the record of each round when the round is over."""
    environment = hub.env | {"HF_HOME": str(root / "home"), "HF_HUB_OFFLINE": "0"}
    data = options.data
    if data is None:
        data = push_sample(hub, root / "data", options.rows, options.shards)
    elif not Path(data).is_dir():
        environment = {}  # the real Hub, or the one of the environment
    recipe = root / "recipe.yaml"
    fields = RECIPE | {"data": data, "save_total_limit": None} | (WHILE_SAVING if options.while_saving else {})
    recipe.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in fields.items()))
    finish(start(recipe, root / "reference", options.processes, environment))
    reference = json.loads((root / "reference" / "run.json").read_text())
    about = {"data": reference["data"], "recipe_hash": reference["recipe_hash"], "steps": reference["steps"]}
    about |= {"device": device_name(torch.device("cpu")), "commit": commit(), "versions": versions()}
    for number in numbers:
        draw, folder = random.Random(f"{options.seed} {number}"), root / f"round-{number}"
        first = 2 if options.while_saving else 1  # the first checkpoint must be complete
        step = draw.randrange(RECIPE["save_steps"] * first, reference["steps"], RECIPE["save_steps"])
        process = start(recipe, folder, options.processes, environment)
        found = kill_after(process, folder, step, wait=draw.uniform(0, LONGEST_WAIT[options.while_saving]))
        finish(start(recipe, folder, options.processes, environment, "--resume"))
        found |= {"equal": equal(root / "reference", folder)}
        yield {"round": number, "seed": options.seed, "processes": options.processes, **found, **about}


if __name__ == "__main__":
    sys.exit(main())
