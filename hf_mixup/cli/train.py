"""`hf-mixup train RECIPE [--field value ...]`: train, evaluate, export and push."""

import os
import shlex
import signal

from accelerate import PartialState
from transformers.utils import logging

from ..config import MixupConfig, parse
from ..errors import INTERRUPTED, ConfigError, DataError, ExistingRunError, MixupError, PeerProcessDied, redacted
from ..publish.workflow import check_login, publish, run
from ..runs.dry_run import dry_run
from ..runs.run import load_run_data
from ._errors import in_words
from ._launcher import launcher, print_last, start_command


def main(argv: list[str]) -> int:
    """Return the exit status: 0, 2 for bad input, 1 for a failed network, disk or process, 130 when interrupted."""
    logging.disable_progress_bar()  # transformers' bars for files; the training bar stays
    data, parent = None, launcher()
    try:
        with in_words():
            config = parse(argv)
            report_processes(argv)
            check_login(config)
            data = load_run_data(config)
            if config.dry_run:
                print_plan(dry_run(config, data))
                return 0
            print_results(config, run(config, data))
            if config.push_to_hub and PartialState().is_main_process:
                print(f"Pushed to {publish(config)}")
            return 0
    except KeyboardInterrupt as interrupt:
        print_error(f"{str(interrupt) or 'Interrupted.'}\nContinue with: {resume_command(argv)}", parent)
        return INTERRUPTED
    except MixupError as error:
        # while training, an error in the data may occur on one rank only: each rank prints its own
        print_error(
            error_message(error, argv),
            parent,
            every_rank=error.every_rank or (data is not None and isinstance(error, DataError)),
        )
        return error.exit_status


def error_message(error: MixupError, argv: list[str]) -> str:
    """The text of an error, with the command that continues the run if it can be continued."""
    if isinstance(error, PeerProcessDied):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher sends it before this message is printed
        return f"{error} Continue with: {resume_command(argv)}"
    return f"{error} The command: {resume_command(argv)}" if isinstance(error, ExistingRunError) else str(error)


def resume_command(argv: list[str]) -> str:
    """The command that continues this run with the same number of processes."""
    argv = argv if argv[-1:] == ["--resume"] else [*argv, "--resume"]
    return f"{start_command(PartialState().num_processes)} -m hf_mixup {shlex.join(argv)}"


def report_processes(argv: list[str]) -> None:
    """Print the number of processes; ConfigError if the launcher's did not join, a warning if it started too few."""
    state = PartialState()
    expected = int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1
    if expected > state.num_processes:
        raise ConfigError(
            f"The launcher started {expected} processes, but each would train by itself, because it found no GPU to "
            f"join the others. On CPUs: {start_command(expected)} -m hf_mixup {shlex.join(argv)} --use_cpu"
        )
    if state.is_main_process:
        print(f"{state.num_processes} process(es) on {state.device.type}")
    # for several processes accelerate sets MASTER_ADDR; without MPI, `accelerate launch --cpu` then starts one process
    # without WORLD_SIZE
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ and state.num_processes == 1:
        print_error(
            "Warning: the launcher was to start several processes but started one. To start several on CPUs without "
            "MPI: accelerate launch --multi_gpu --num_processes N -m hf_mixup RECIPE.yaml --use_cpu"
        )


def print_plan(plan: dict[str, str]) -> None:
    """Print the plan of a dry run."""
    if PartialState().is_main_process:
        for name, value in plan.items():
            print(f"{name:>12}  {value}")


def print_results(config: MixupConfig, record: dict) -> None:
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
    print(f'Reload: python -c "{reload_code(config.output_dir, record["task"])}"')


def reload_code(folder: str, task: dict) -> str:
    """Python code that loads the model: a pipeline if one fits the task, else the network."""
    if task["pipeline_tag"]:
        return f"from transformers import pipeline; print(pipeline('{task['pipeline_tag']}', model='{folder}'))"
    name = task["auto_class"]
    return f"from transformers import {name}; print({name}.from_pretrained('{folder}'))"


def print_error(text: str, launched_by: int | None = None, every_rank: bool = False) -> None:
    """Print `text` on stderr by `print_last`: once on each machine, or on every rank that calls this."""
    first = PartialState().is_local_main_process and os.environ.get("LOCAL_RANK", "0") == "0"
    if every_rank or first:
        print_last(redacted(text), launched_by)
