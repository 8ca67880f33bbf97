"""`python -m hf_mixup RECIPE.yaml [--field value ...]`: train, evaluate, save, document."""

import os
import sys

from accelerate import PartialState

from .config import MixupConfig, parse
from .data import Data, DataError, load_data
from .models import ModelError
from .publish import PushError
from .saving import SaveError
from .train import RunError, Stopped, dry_run, publish, run

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130


def main(argv: list[str]) -> int:
    """The exit status of a run: 0, or 2 for bad input, 1 for a failure outside, 130 when interrupted."""
    command = f"{os.path.basename(sys.argv[0])} {' '.join(argv)}"
    try:
        config = parse(argv)
        tell_processes()
        data = load(config)
        if config.dry_run:
            show(dry_run(config, data))
            return 0
        report(config, run(config, data))
        if config.push_to_hub and PartialState().is_main_process:
            print(f"Pushed to {publish(config)}")
        return 0
    except Stopped as stopped:
        resume = command if "--resume" in argv else f"{command} --resume"
        say(f"{stopped} Continue with: {resume}")
        return INTERRUPTED
    except (SaveError, PushError) as error:
        say(str(error))
        return FAILED
    except (DataError, ModelError, RunError, ValueError) as error:
        if not isinstance(error, (DataError, ModelError, RunError)) and not is_ours(error):
            raise
        say(str(error))
        return BAD_INPUT


def is_ours(error: ValueError) -> bool:
    """Whether an error of a general type was raised on purpose: a wrong field or method, found before training."""
    return type(error).__module__.startswith("hf_mixup")


def load(config: MixupConfig) -> Data:
    """The data of a recipe."""
    names = ("data", "data_config", "revision", "streaming", "image_column", "label_column")
    names += ("train_split", "eval_split", "num_examples", "skip_corrupt")
    return load_data(**{name: getattr(config, name) for name in names})


def tell_processes() -> None:
    """Print the number of processes, and warn where a launcher asked for more than it started."""
    state = PartialState()
    asked = int(os.environ.get("ACCELERATE_NUM_PROCESSES", os.environ.get("WORLD_SIZE", 1)))
    if state.is_main_process:
        print(f"{state.num_processes} process(es) on {state.device.type}")
    if asked != state.num_processes:
        say(f"Warning: {asked} processes were asked for and {state.num_processes} started.")


def show(plan: dict[str, str]) -> None:
    """Print the plan of a dry run."""
    if PartialState().is_main_process:
        for name, value in plan.items():
            print(f"{name:>12}  {value}")


def report(config: MixupConfig, record: dict) -> None:
    """Print the final table and how to load the model."""
    if not PartialState().is_main_process:
        return
    rows = {**record["final"], "images/s": record["images_per_s"], "seconds": record["wall_s"], "peak MB": record["peak_mb"]}
    print("\n| " + " | ".join(rows) + " |\n|" + "---|" * len(rows))
    print("| " + " | ".join(f"{value:.4g}" for value in rows.values()) + " |\n")
    print(f"Card: {config.output_dir}/README.md   Record: {config.output_dir}/run.json")
    print(f'Reload: python -c "from transformers import pipeline; '
          f"print(pipeline('image-classification', model='{config.output_dir}'))\"")


def say(text: str) -> None:
    """Print a message for people, once, on the error stream."""
    if PartialState().is_main_process:
        print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
