"""MixupTrainer in a notebook, in the processes that accelerate's notebook_launcher forks."""

import json
import socket

import torch
from accelerate import notebook_launcher
from accelerate.state import AcceleratorState
from fixtures.cli import fork, status_of
from fixtures.training import Rows, make, timm_resnet


def train(folder) -> None:
    """The function of a notebook: it creates arguments, network and trainer."""
    torch.set_num_threads(1)
    trainer = make(folder / "run", timm_resnet(), Rows(), method="automix", max_steps=2)
    trainer.train()
    numbers = [float(p.detach().double().sum()) for p in trainer.step.parameters()]
    found = {"wrapped": type(trainer._prepared).__name__, "steps": trainer.state.global_step, "numbers": numbers}
    (folder / f"rank{trainer.args.process_index}.json").write_text(json.dumps(found))


def launch(folder) -> int:
    AcceleratorState._reset_state(reset_partial_state=True)  # of other tests: a notebook has none before the launch
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    notebook_launcher(train, (folder,), num_processes=2, use_port=str(port))
    return 0


def test_notebook_launcher_trains_on_two_processes(tmp_path):
    assert status_of(fork(lambda: launch(tmp_path))) == 0
    one, other = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert one == other and one["wrapped"] == "DistributedDataParallel" and one["steps"] == 2
