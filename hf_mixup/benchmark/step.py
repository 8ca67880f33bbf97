"""Cost of a training step with each method, relative to one without mixing: python -m hf_mixup.benchmark.step

Forward, backward and optimizer step of a small ResNet (a small ViT for methods that read attention) on 32 images of 32
pixels, one thread; steps with and without the method alternate. Each method is written to the record as soon as it is
measured; methods in the record are not measured again.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ..methods import available, load
from ..models import build_model
from ..net import Net
from ..trainer import MixupStep
from .timing import batch, interleaved, machine, write

BATCH, SIDE, CLASSES = 32, 32, 10
COUNTED, DRAWS = 8, 12  # images and batches for counting operations
NETWORKS = {
    "ResNet-18, CIFAR stem": ("cifar_resnet18", {}),
    "ViT, 6 blocks of width 192, patches of 4": (
        "vit_tiny_patch16_224",
        {"img_size": SIDE, "patch_size": 4, "depth": 6},
    ),
}
# the teacher is a copy of the network, since the defaults download one
ARGUMENTS = {"attentivemix": {"teacher": None}, "supermix": {"teacher": None}}
VARIANTS = {
    "puzzlemix half resolution": {"name": "puzzlemix", "saliency_scale": 0.5},
    "guidedmixup gradient": {"name": "guidedmixup", "detector": "ap"},
}


def methods() -> Iterator[tuple[str, dict]]:
    """Name in the record and arguments of `load`, for each method to measure."""
    for name in available():
        yield name, {"name": name, **ARGUMENTS.get(name, {})}
    yield from VARIANTS.items()


def make_net(network: str) -> Net:
    """One of the NETWORKS, with reproducible weights."""
    name, changes = NETWORKS[network]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, _ = build_model(name, classes=[str(k) for k in range(CLASSES)], image_size=SIDE, model_args=changes)
    return Net(model)


def make(network: str, arguments: dict, count: int = BATCH) -> Callable[[], None]:
    """A function that runs one training step. Raises ValueError if the method does not support the network."""
    net = make_net(network)
    method = load(**arguments).train()
    method.build(net)
    method.total_steps = 1000
    step = MixupStep(net, method, "classification").train()
    optimizer = torch.optim.SGD([p for p in step.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
    x, y = batch((count, 3, SIDE, SIDE), CLASSES)
    steps_done = 0

    def call():
        nonlocal steps_done
        losses = step(seed=(0, steps_done, 0, 0), pixel_values=x, labels=y)
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(net)
        steps_done += 1
        method.step = steps_done

    return call


def extra_passes(network: str, arguments: dict) -> float:
    """Operations that a method adds to a step, in forward passes of the network; mean over DRAWS batches.

    A gradient of the input alone is one pass, a complete backward pass two.
    """
    plain, mixed = make(network, {"name": "erm"}, COUNTED), make(network, arguments, COUNTED)
    mixed()  # some methods use the previous batch
    added = sum(_operations(mixed) for _ in range(DRAWS)) / DRAWS - _operations(plain)
    net, (x, _) = make_net(network), batch((COUNTED, 3, SIDE, SIDE), CLASSES)
    return round(added / _operations(lambda: net(x)), 2)


class OperationCounter(TorchDispatchMode):
    """Counts multiplications and additions of matrix products and convolutions."""

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        count = flop_registry.get(function._overloadpacket)
        self.operations += count(*args, **(kwargs or {}), out_val=result) if count else 0
        return result


def _operations(call: Callable[[], None]) -> int:
    with OperationCounter() as counter:
        call()
    return counter.operations


def measure(arguments: dict, seconds: float, rounds: int) -> dict:
    """Cost of a step relative to one without mixing, on the first network that the method supports."""
    for network in NETWORKS:
        try:
            mixed = make(network, arguments)
            mixed()
        except (ValueError, TypeError) as error:
            unsupported = error
            continue
        taken = interleaved({"none": make(network, {"name": "erm"}), "method": mixed}, seconds, rounds, rounds, 1)
        ratios = [method / none for method, none in zip(taken["method"], taken["none"], strict=True)]
        return {
            "network": network,
            "extra_passes": extra_passes(network, arguments),
            "relative": round(interquartile_mean(ratios), 4),
            "mean": round(statistics.mean(ratios), 4),
            "spread": round(statistics.stdev(ratios), 4),
            "rounds": len(ratios),
            "seconds_without": round(statistics.median(taken["none"]), 4),
        }
    raise unsupported


def interquartile_mean(values: list[float]) -> float:
    """The mean of the middle half, which load of other processes hardly changes."""
    quarter = len(values) // 4
    return statistics.mean(sorted(values)[quarter : len(values) - quarter])


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    record = json.loads(options.record.read_text()) if options.record.is_file() else {"methods": {}}
    record |= {"machine": machine(), "batch": [BATCH, 3, SIDE, SIDE], "threads": 1}
    for name, arguments in methods():
        if name in record["methods"] or (options.only and name not in options.only):
            continue
        found = measure(arguments, 0, options.rounds)
        record["methods"][name] = found
        write(options.record, record)
        print(f"{name}: {found['relative']:.2f}x of a step without mixing, {found['network']}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--record", type=Path, default=Path("hub_cards/speed/step.json"), help="file to write and resume"
    )
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", nargs="+", help="names of methods")
    return parser.parse_args()


if __name__ == "__main__":
    main()
