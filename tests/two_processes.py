"""What test_processes.py runs in each of two processes: trains twice and says what happened, as JSON."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from training import Rows, make
from transformers import set_seed

from hf_mixup.tasks.classification import classification

torch.set_num_threads(1)


def gathered(value) -> list:
    """`value` of each process."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def trained(folder: Path) -> dict:
    """A run of automix whose best evaluation is not the last: the best step's weights come back on both processes."""
    draws, scores = [], iter([1.0, 3.0, 2.0, 0.0])

    def task(net, batch, rng):
        draws.append(float(torch.rand((), generator=rng)))
        return classification(net, batch, rng)

    best = {"load_best_model_at_end": True, "metric_for_best_model": "score", "save_total_limit": 1}
    every = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = make(folder, method="automix", task=task, eval_dataset=Rows(8), max_steps=3, **every, **best)
    trainer.compute_metrics = lambda _: {"score": next(scores)}
    trainer.train()
    weights = torch.cat([p.detach().flatten().double() for p in trainer.step.parameters()])
    return {
        "draws": draws,
        "weights": weights.sum().item(),
        "wrapped": type(trainer._prepared).__name__,
        "best": trainer.state.best_model_checkpoint,
        "seed": trainer.next_seed()[3],
        "files": sorted(path.name for path in folder.iterdir()),
    }


if __name__ == "__main__":
    set_seed(0)
    found = gathered(trained(Path(sys.argv[1])))
    if dist.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(found))
