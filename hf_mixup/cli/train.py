"""`python -m hf_mixup RECIPE.yaml [--field value ...]`: train, evaluate, save, document."""

import os
import shlex
import signal
import sys

from accelerate import PartialState
from transformers.utils import logging

from ..config import MixupConfig, parse
from ..data import Data, DataError, Unreachable, load_data
from ..distributed import LeftAlone
from ..hub.destination import PushError
from ..publish.workflow import check_login, publish
from ..runs.dry_run import dry_run
from ..runs.output_dir import UsedFolder, begun_with
from ..runs.run import run
from ..trainer.checkpointing import SaveError

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130


def main(argv: list[str]) -> int:
    """The exit status of a run: 0, or 2 for bad input, 1 for a failure outside, 130 when interrupted."""
    logging.disable_progress_bar()  # transformers' own, for files; training keeps its bar
    data = None
    try:
        config = parse(argv)
        tell_processes()
        check_login(config)
        data = load(config)
        if config.dry_run:
            show(dry_run(config, data))
            return 0
        report(config, run(config, data))
        if config.push_to_hub and PartialState().is_main_process:
            print(f"Pushed to {publish(config)}")
        return 0
    except (KeyboardInterrupt, LeftAlone) as stopped:
        return cut_off(stopped, argv)
    except (SaveError, PushError) as error:
        say(str(error), everywhere=isinstance(error, SaveError))
        return FAILED
    except UsedFolder as error:
        say(f"{error} The command: {resuming(argv)}")
        return BAD_INPUT
    except ValueError as error:
        if not is_ours(error):
            raise
        # what one process met while training, the others may not know
        say(str(error), everywhere=data is not None and isinstance(error, DataError))
        return FAILED if isinstance(error, Unreachable) else BAD_INPUT


def cut_off(stopped: KeyboardInterrupt | LeftAlone, argv: list[str]) -> int:
    """Say how to continue a run that was interrupted or lost a process, and give the exit status."""
    alone = isinstance(stopped, LeftAlone)
    if alone:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher's, before this is said
    say(f"{str(stopped) or 'Interrupted.'} Continue with: {resuming(argv)}", everywhere=alone)
    return FAILED if alone else INTERRUPTED


def is_ours(error: ValueError) -> bool:
    """Whether an error was raised on purpose, about something that the user can put right."""
    return type(error).__module__.startswith("hf_mixup")


def resuming(argv: list[str]) -> str:
    """The command that continues this run with as many processes."""
    count, start = PartialState().num_processes, "python"
    if count > 1:
        start = f"accelerate launch --multi_gpu --num_processes {count}"
        launcher = os.environ  # torch's says which of how many machines this is
        if int(launcher.get("GROUP_WORLD_SIZE", 1)) > 1:
            place = {"num_machines": "GROUP_WORLD_SIZE", "machine_rank": "GROUP_RANK"}
            place |= {"main_process_ip": "MASTER_ADDR", "main_process_port": "MASTER_PORT"}
            start += "".join(f" --{option} {launcher.get(name)}" for option, name in place.items())
    return f"{start} -m hf_mixup {shlex.join(argv if argv[-1] == '--resume' else [*argv, '--resume'])}"


def load(config: MixupConfig) -> Data:
    """The data of a recipe; of a run that is resumed, those that it began with, whatever the Hub has now."""
    names = ("data", "data_config", "revision", "streaming", "image_column", "label_column")
    names += ("train_split", "eval_split", "num_examples", "rows_per_shard", "skip_corrupt")
    values = {name: getattr(config, name) for name in names}
    return load_data(**values | {"revision": begun_with(config) or config.revision})


def tell_processes() -> None:
    """Print the number of processes, and warn where a launcher was asked for several and started one."""
    state = PartialState()
    if state.is_main_process:
        print(f"{state.num_processes} process(es) on {state.device.type}")
    # with several, accelerate sets the first; without MPI, `accelerate launch --cpu` then starts one, and no WORLD_SIZE
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ and state.num_processes == 1:
        say(
            "Warning: several processes were asked for and 1 started. Without MPI, CPUs take: "
            "accelerate launch --multi_gpu --num_processes N -m hf_mixup RECIPE.yaml --use_cpu"
        )


def show(plan: dict[str, str]) -> None:
    """Print the plan of a dry run."""
    if PartialState().is_main_process:
        for name, value in plan.items():
            print(f"{name:>12}  {value}")


def report(config: MixupConfig, record: dict) -> None:
    """Print the final table and how to load the model."""
    if not PartialState().is_main_process:
        return
    rows = {
        **record["final"],
        "images/s": record["images_per_s"],
        "seconds": record["wall_s"],
        "peak MB": record["peak_mb"],
    }
    print("\n| " + " | ".join(rows) + " |\n|" + "---|" * len(rows))
    print("| " + " | ".join("none" if value is None else f"{value:.4g}" for value in rows.values()) + " |\n")
    print(f"Card: {config.output_dir}/README.md   Record: {config.output_dir}/run.json")
    print(
        f'Reload: python -c "from transformers import pipeline; '
        f"print(pipeline('image-classification', model='{config.output_dir}'))\""
    )


def say(text: str, everywhere: bool = False) -> None:
    """Print a message for people on the error stream: once on each machine, or on each process that has it."""
    if everywhere or PartialState().is_local_main_process:
        print(text, file=sys.stderr)
