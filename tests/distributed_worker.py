"""What test_distributed.py runs under `accelerate launch`, or alone: `distributed_worker.py RESULTS CASE ...`.

Each case is a function of this file; what it returns is written to RESULTS/<case>-<world>-<rank>.json.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import torch.distributed as dist
from accelerate import PartialState
from transformers import ResNetConfig, ResNetForImageClassification, TrainerCallback, set_seed

from hf_mixup.__main__ import main
from hf_mixup.config import MixupConfig
from hf_mixup.data import Images, eval_transform, load_data
from hf_mixup.metrics import compute_metrics
from hf_mixup.models import build_model
from hf_mixup.trainer import MixupTrainer

CNN = {"model": "resnet18", "model_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}}
VIT = {"model": "vit_tiny_patch16_224", "model_args": {"patch_size": 7, "embed_dim": 24, "depth": 2, "num_heads": 2}}
SIZE = 28
# transformers' own ResNet, whose gradients the stock Trainer scales by accumulation and processes
NATIVE = {**CNN}
NATIVE_CONFIG = ResNetConfig(
    embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic", num_labels=10
)


class Norms(TrainerCallback):
    """The norm of the network's gradient at each optimizer step."""

    def __init__(self):
        self.norms = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        squares = [p.grad.double().square().sum() for p in model.parameters() if p.grad is not None]
        self.norms.append(torch.stack(squares).sum().sqrt().item())


def noting(draw, drawn: list):
    """`draw`, that also puts the first row's share and partner into `drawn`."""

    def noted(*args):
        lam, partner = draw(*args)
        drawn.append((float(lam[0]), int(partner[0])))
        return lam, partner

    return noted


def trainer_of(method="mixup", arguments=None, network=CNN, rows=200, eval_rows=0, frozen=False, **fields):
    """A trainer on the sample with a network that is the same on every process."""
    data = load_data()
    set_seed(0)
    shared = {"classes": data.classes, "image_size": SIZE}
    model, processor = build_model(network["model"], model_args=dict(network["model_args"]), **shared)
    if network is NATIVE:
        model = ResNetForImageClassification(NATIVE_CONFIG)
    if frozen:
        freeze(model)
    common = {"max_steps": 3, "save_strategy": "no", "eval_strategy": "no", "max_grad_norm": 0, "weight_decay": 0}
    common |= {"optimizer": "momentum", "learning_rate": 0.05, "per_device_train_batch_size": 8, "disable_tqdm": True}
    common |= {"output_dir": tempfile.mkdtemp(), "use_cpu": True}
    config = MixupConfig(method=method, method_args=arguments or {}, **(common | fields))
    columns = ("image", "label", SIZE)
    images = Images(data.train.select(range(rows)), *columns)
    test = Images(data.eval.select(range(eval_rows)), *columns, prepare=eval_transform(processor.data_config))
    parts = {"train_dataset": images, "eval_dataset": test, "processing_class": processor}
    return MixupTrainer(model, config, compute_metrics=compute_metrics, **parts)


def freeze(model) -> None:
    """BatchNorm with fixed statistics, which do not depend on how the batch is split."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.train = lambda mode, module=module: module
            module.eval()
            module.training = False


def equal_on_all(trainer) -> bool:
    """Whether the trained parameters and the method's are the same bits on every process."""
    mine = torch.cat([p.detach().flatten() for p in trainer.step.parameters()])
    all_of_them = [torch.empty_like(mine) for _ in range(trainer.args.world_size)]
    dist.all_gather(all_of_them, mine)
    return all(torch.equal(mine, other) for other in all_of_them)


def trained(method, arguments=None, **fields) -> dict:
    """What three steps of a method give on this process."""
    trainer = trainer_of(method, arguments, gradient_accumulation_steps=2, **fields)
    before, drawn = [p.detach().clone() for p in trainer.model.parameters()], []
    trainer.method.draw = noting(trainer.method.draw, drawn)
    trainer.train()
    return {
        "equal": equal_on_all(trainer),
        "moved": any(not torch.equal(old, new) for old, new in zip(before, trainer.model.parameters())),
        "wrapped": type(trainer._prepared).__name__,
        "drawn": drawn,
        "steps": trainer.state.global_step,
    }


def static():
    return trained("cutmix")


def saliency():
    return trained("puzzlemix")


def learned():
    return trained("automix")


def hidden():
    return trained("manifoldmix", network=VIT)


def choice():
    """Which method runs decides which networks do: ten steps would hang if the processes disagreed."""
    inner = {"methods": [{"name": "automix"}, {"name": "erm"}]}
    return trained("choice", inner, max_steps=10)


def norms() -> dict:
    """Gradient norms of one step on the same 64 rows, however they are split."""
    world, found = PartialState().num_processes, {}
    for name, network in (("cnn", CNN), ("native", NATIVE), ("vit", VIT)):
        for accumulation in (1, 4):
            trainer = trainer_of(
                "erm",
                network=network,
                rows=64,
                frozen=True,
                flip=0,
                max_steps=1,
                gradient_accumulation_steps=accumulation,
                per_device_train_batch_size=64 // world // accumulation,
            )
            seen = Norms()
            trainer.add_callback(seen)
            trainer.train()
            [found[f"{name} {accumulation}"]] = seen.norms
    return found


def evaluation() -> dict:
    """61 rows on two processes in batches of 8: each row once."""
    trainer, seen = trainer_of(eval_rows=61, per_device_eval_batch_size=8), []
    trainer.compute_metrics = lambda found: seen.append(found) or compute_metrics(found)
    metrics = trainer.evaluate()
    [found] = seen
    return {
        "rows": len(found.predictions),
        "labels": found.label_ids.tolist(),
        "top1": metrics["eval_top1"],
        "logits": float(found.predictions.sum()),
    }


def repeated() -> dict:
    """What this process sees in repeated augmentation, and what is said of synchronised BatchNorm without a GPU."""
    plan = trainer_of(aug_repeats=2).get_train_dataloader().batch_sampler
    rows, seeds = zip(*(pair for batch in plan for pair in batch), strict=True)
    try:
        said = str(trainer_of(sync_bn=True).step)
    except ValueError as refused:
        said = str(refused)
    return {"rows": rows, "seeds": seeds, "sync_bn": said}


def best() -> dict:
    """A run whose second of three evaluations is the best: its weights come back on every process."""
    scores = iter([1.0, 3.0, 2.0, 0.0])
    every = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    chosen = {"load_best_model_at_end": True, "metric_for_best_model": "top1", "save_total_limit": 1}
    folder = Path(os.environ["RUNS"]) / "best"
    trainer = trainer_of("automix", eval_rows=8, output_dir=str(folder), **every, **chosen)
    trainer.compute_metrics = lambda _: {"top1": next(scores)}
    trainer.train()
    PartialState().wait_for_everyone()
    return {
        "best": Path(trainer.state.best_model_checkpoint).name,
        "equal": equal_on_all(trainer),
        "files": sorted(path.name for path in folder.iterdir()),
    }


def resumed() -> dict:
    """The run that was killed before this launch, resumed; and the same run without a pause."""
    root = Path(os.environ["RUNS"])
    recipe = str(root / "recipe.yaml")
    exits = [main([recipe, "--output_dir", str(root / "whole")])]
    exits += [main([recipe, "--output_dir", str(root / "killed"), "--resume"])]
    return {"exits": exits}


if __name__ == "__main__":
    torch.set_num_threads(1)
    results, *cases = sys.argv[1:]
    for case in cases:
        found = globals()[case]()
        state = PartialState()
        name = f"{case}-{state.num_processes}-{state.process_index}.json"
        (Path(results) / name).write_text(json.dumps(found))
