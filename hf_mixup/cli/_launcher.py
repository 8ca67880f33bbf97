"""The launcher that started this process: its command line, and messages that follow its traceback."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path, PurePath

import psutil

MODULES = {"accelerate.commands.launch", "torch.distributed.run", "torch.distributed.launch"}


def launcher() -> int | None:
    """The process id of the parent process if it is accelerate's or torch's launcher; else None."""
    parent = psutil.Process().parent()
    try:
        return parent.pid if parent and is_launcher(parent.cmdline()) else None
    except psutil.Error:
        return None


def is_launcher(words: Sequence[str]) -> bool:
    """Whether a command line is `accelerate launch`, `torchrun`, or one of their modules, run by Python."""
    program, *rest = [word for word in words[1:] if word == "-m" or not word.startswith("-")] or [""]
    if program == "-m":
        return bool(rest) and rest[0] in MODULES
    name = PurePath(program).stem
    return name == "torchrun" or (name == "accelerate" and rest[:1] == ["launch"])


def print_last(text: str, launched_by: int | None) -> None:
    """Print `text` on stderr once the launcher has ended, which prints a traceback if a process fails or at Ctrl-C."""
    if launched_by in (None, 1) or os.name == "nt":  # the end of process 1 ends its container
        print(text, file=sys.stderr)
        return
    script = Path(__file__).with_name("_last_message.py")
    command = [sys.executable, "-I", str(script), str(launched_by), text]
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)


def start_command(count: int) -> str:
    """What starts so many processes on the machines of this run."""
    if count == 1:
        return "python"
    start = f"accelerate launch --multi_gpu --num_processes {count}"
    variables = os.environ  # torch's launcher sets the number and rank of the machines
    if int(variables.get("GROUP_WORLD_SIZE", 1)) > 1:
        machine = {"num_machines": "GROUP_WORLD_SIZE", "machine_rank": "GROUP_RANK"}
        machine |= {"main_process_ip": "MASTER_ADDR", "main_process_port": "MASTER_PORT"}
        start += "".join(f" --{option} {variables.get(name)}" for option, name in machine.items())
    return start
