"""The script that test_stream_two_processes.py runs under `accelerate launch`: stream_worker.py CASE ...

Each case is a function of this file; its result is written to $RESULTS/<case>-<rank>.json.
"""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from accelerate import PartialState
from fixtures.streams import labels, loader_of, open_stream, recorded_rows

from hf_mixup.cli.train import main
from hf_mixup.runs.progress import ReportCallback

RESULTS = Path(os.environ["RESULTS"])


class Killed(BaseException):
    """Ends a run without any cleanup."""


def seen() -> dict:
    """The rows of each data set that this process reads in three epochs, without and with worker processes."""
    state, found = PartialState(), {}
    for shards in (1, 3, 4):
        data = open_stream(f"user/shards{shards}")
        for workers in (0, 2):
            loader = loader_of(data, state.process_index, state.num_processes, workers)
            for epoch in range(3):
                loader.set_epoch(epoch)
                found[f"{shards} {workers} {epoch}"] = labels(loader)
    return found


def resumed() -> dict:
    """A run that is interrupted and resumed, and the same run without interruption."""
    recipe, words = str(RESULTS / "recipe.yaml"), ["--output_dir", str(RESULTS / "killed")]
    exits = [main([recipe, "--output_dir", str(RESULTS / "whole")])]
    ReportCallback.on_step_end = dies_at(7)
    try:
        main([recipe, *words])
    except Killed:
        exits.append("killed")
    del ReportCallback.on_step_end
    checkpoints = sorted(path.name for path in (RESULTS / "killed").glob("checkpoint-*"))
    exits.append(main([recipe, *words, "--resume"]))
    return {"exits": exits, "checkpoints": checkpoints}


def stopped() -> dict:
    """A run that is killed after a checkpoint inside an epoch; the rows that this process had in each step."""
    words = ["--save_steps", "1", "--output_dir", str(RESULTS / "fewer")]
    ReportCallback.on_step_end = dies_at(6)
    with recorded_rows() as rows, suppress(Killed):
        main([str(RESULTS / "recipe.yaml"), *words])
    del ReportCallback.on_step_end
    return {"rows": rows}


def dies_at(step: int):
    """A method of a callback that ends the run after a step, before its checkpoint is saved."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step == step:
            raise Killed

    return on_step_end


if __name__ == "__main__":
    torch.set_num_threads(1)
    PartialState(cpu=True)
    for case in sys.argv[1:]:
        found = globals()[case]()
        (RESULTS / f"{case}-{PartialState().process_index}.json").write_text(json.dumps(found))
