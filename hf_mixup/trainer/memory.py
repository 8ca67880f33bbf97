"""The peak memory of a run."""

import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch

try:
    import resource
except ImportError:  # on Windows
    resource = None

PROCESS = Path("/proc/self")  # on Linux
RESET_PEAK = "5"  # to clear_refs: the peak becomes the present memory (Linux, proc(5))


def reset_peak(device: torch.device) -> None:
    """Start to measure the peak anew, so that it does not contain what ran in this process before.

    Without effect on a CPU of systems other than Linux.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        (PROCESS / "clear_refs").write_text(RESET_PEAK)


def peak_mb(device: torch.device) -> float:
    """Peak memory since `reset_peak`, in MB (10^6 bytes): allocated on a CUDA device, or resident in the process."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    with suppress(OSError, StopIteration):
        lines = (PROCESS / "status").read_text().splitlines()
        peak = next(line for line in lines if line.startswith("VmHWM:"))
        return round(int(peak.split()[1]) * 1024 / 1e6, 1)
    if resource is None:
        memory = psutil.Process().memory_info()
        return round(getattr(memory, "peak_wset", memory.rss) / 1e6, 1)  # psutil has the peak on Windows only
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
