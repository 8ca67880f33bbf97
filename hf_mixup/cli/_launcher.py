"""The launcher that started this process: its command line, and messages that follow its traceback."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil

LAUNCHERS = re.compile(r"\b(accelerate|torchrun|torch\.distributed\.(run|launch))\b")


def launcher() -> int | None:
    """The process id of the parent process if it is accelerate's or torch's launcher; else None."""
    parent = psutil.Process().parent()
    try:
        words = " ".join(parent.cmdline()) if parent else ""
    except psutil.Error:
        return None
    return parent.pid if LAUNCHERS.search(words) else None


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
