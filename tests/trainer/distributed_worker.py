"""The cases of test_distributed.py: `accelerate launch distributed_worker.py RESULTS CASE,CASE,... ... CASE,...`.

Each case is a function of this file; its result is written to RESULTS/<case>-<world>-<rank>.json. Importing the package
takes longer than most cases, so one launch runs several groups of cases: the last group in the launched processes, and
before it each other group in forks of them.
"""

import functools
import gc
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from contextlib import redirect_stderr
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import torch.distributed as dist
from accelerate import PartialState
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from hf_mixup.cli.train import main
from hf_mixup.config import MixupConfig
from hf_mixup.data import DataError, Images, eval_transform, load_data
from hf_mixup.methods.cutmix import cutmix
from hf_mixup.methods.mixup import mixup
from hf_mixup.metrics import compute_metrics
from hf_mixup.models import build_model
from hf_mixup.trainer import MixupTrainer, checkpointing

CNN = {"model": "resnet18", "model_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}}
VIT = {"model": "vit_tiny_patch16_224", "model_args": {"patch_size": 7, "embed_dim": 24, "depth": 2, "num_heads": 2}}
SIZE = 28
# transformers' ResNet, whose gradients transformers' Trainer scales by accumulation steps and processes
NATIVE = {**CNN}
NATIVE_CONFIG = ResNetConfig(
    embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic", num_labels=10
)


class Gradients(TrainerCallback):
    """Keeps the gradients of the network and the method at the last optimizer step, by name, in `found`."""

    def on_pre_optimizer_step(self, args, state, control, **_):
        named = self.trainer.step.named_parameters()
        self.found = {name: p.grad.clone() for name, p in named if p.grad is not None}


def recording(draw, drawn: list):
    """A function that returns what `draw` does, and appends the first row's lam and partner to `drawn`."""

    def recorded(*args):
        lam, partner = draw(*args)
        drawn.append((float(lam[0]), int(partner[0])))
        return lam, partner

    return recorded


sample = functools.cache(load_data)


def trainer_of(method="mixup", arguments=None, network=CNN, rows=200, eval_rows=0, frozen=False, **fields):
    """A trainer on the built-in data set with a network that is the same on all ranks."""
    data = sample()
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
    """Keep BatchNorm in evaluation mode: its statistics then do not depend on how the batch is split."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.train = lambda mode, module=module: module
            module.eval()
            module.training = False


def equal_on_all(trainer) -> bool:
    """Whether the parameters of network and method are equal bit for bit on all ranks."""
    own = torch.cat([p.detach().flatten() for p in trainer.step.parameters()])
    gathered = [torch.empty_like(own) for _ in range(trainer.args.world_size)]
    dist.all_gather(gathered, own)
    return all(torch.equal(own, other) for other in gathered)


def trained(method, arguments=None, **fields) -> dict:
    """The results of three training steps with a method, on this rank."""
    trainer = trainer_of(method, arguments, gradient_accumulation_steps=2, **fields)
    before, drawn = [p.detach().clone() for p in trainer.model.parameters()], []
    trainer.method.draw = recording(trainer.method.draw, drawn)
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


def recursive() -> dict:
    """The sum of the images that RecursiveMix keeps, before and after each step."""
    trainer, before, after = trainer_of("recursivemix"), [], []
    trainer.method.register_forward_pre_hook(lambda method, _: before.append(float(method.images.sum())))
    trainer.method.register_forward_hook(lambda method, *_: after.append(float(method.images.sum())))
    trainer.train()
    return {"before": before[1:], "after": after[:-1]}


def choice():
    """Ten steps of `choice`, whose methods have different networks: they would hang if the ranks chose differently."""
    inner = {"methods": [{"name": "automix"}, {"name": "erm"}]}
    return trained("choice", inner, max_steps=10)


def gradients_of(method: str, accumulation: int, **fields) -> dict[str, torch.Tensor]:
    """The gradients of one step on 64 rows, mixed in the same way however they are split over ranks and micro-batches.

    Each row has its own lam and box, and a partner among the 8 rows that share its micro-batch in every split.
    """
    world, rows = PartialState().num_processes, 64
    size = rows // world // accumulation
    shape = {"rows": rows, "frozen": True, "flip": 0, "max_steps": 1, "per_device_train_batch_size": size}
    trainer = trainer_of(method, **shape, gradient_accumulation_steps=accumulation, **fields)
    rng = torch.Generator().manual_seed(0)
    lams, centres = torch.rand(rows, generator=rng), torch.randint(SIZE, (rows, 2), generator=rng)
    partners = torch.arange(size).view(-1, 8).flip(1).flatten()

    def fixed(net, x, y, rng):
        first = ((trainer.micro_batch - 1) * world + trainer.args.process_index) * size
        draws = lams[first : first + size], partners
        return mixup(x, *draws) if method == "mixup" else cutmix(x, *draws, centres[first : first + size])

    if method != "erm":
        trainer.method.mix = fixed
    gradients = Gradients()
    gradients.trainer = trainer
    trainer.add_callback(gradients)
    trainer.train()
    assert trainer.accelerator.mixed_precision == ("bf16" if fields.get("bf16") else "no")
    return gradients.found


SPLITS = {
    f"{name} {method} {accumulation}{' bf16' * bf16}": (method, accumulation, {"network": network, "bf16": bf16})
    for name, network, methods in (("cnn", CNN, ("erm", "cutmix")), ("native", NATIVE, ("erm", "mixup")))
    + (("vit", VIT, ("erm", "mixup", "cutmix")),)
    for method in methods
    for accumulation in (1, 4)
    for bf16 in (False, True)
    if not bf16 or (name, method) == ("vit", "cutmix")
}


def gradients() -> dict:
    """Write the gradients of each of SPLITS to gradients-<split>-<world>-<rank>.safetensors."""
    state = PartialState()
    for name, (method, accumulation, fields) in SPLITS.items():
        found = gradients_of(method, accumulation, **fields)
        file = f"gradients-{name}-{state.num_processes}-{state.process_index}.safetensors"
        save_file(found, Path(os.environ["RUNS"]) / file)
    return {}


def evaluation() -> dict:
    """An evaluation of 61 rows in batches of 8: labels, metrics, loss and the sum of the logits."""
    trainer, seen = trainer_of(eval_rows=61, per_device_eval_batch_size=8), []
    trainer.compute_metrics = lambda found: seen.append(found) or compute_metrics(found)
    metrics = trainer.evaluate()
    [found] = seen
    return {
        "rows": len(found.predictions),
        "labels": found.label_ids.tolist(),
        "top1": metrics["eval_top1"],
        "loss": metrics["eval_loss"],
        "logits": float(found.predictions.sum()),
    }


def repeated() -> dict:
    """This rank's rows and seeds with repeated augmentation, and the message for sync_bn without a GPU."""
    plan = trainer_of(aug_repeats=2).get_train_dataloader().batch_sampler
    rows, seeds = zip(*(pair for batch in plan for pair in batch), strict=True)
    try:
        message = str(trainer_of(sync_bn=True).step)
    except ValueError as error:
        message = str(error)
    return {"rows": rows, "seeds": seeds, "sync_bn": message}


def best() -> dict:
    """A run whose second of three evaluations is the best: its weights are loaded at the end, on all ranks."""
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
    """An uninterrupted run, and the run of the case `killed` resumed."""
    root = Path(os.environ["RUNS"])
    recipe = str(root / "recipe.yaml")
    exits = [main([recipe, "--output_dir", str(root / "reference")])]
    exits += [main([recipe, "--output_dir", str(root / "killed"), "--resume"])]
    return {"exits": exits}


def sharded() -> dict:
    """Runs with a sharded network, uninterrupted and resumed; the same run unsharded; settings that are refused."""
    root, state = Path(os.environ["RUNS"]), PartialState()
    recipe, folders = str(root / "vit.yaml"), [str(root / name) for name in ("unsharded", "sharded", "resumed")]
    exits = [main([recipe, "--output_dir", folders[0]])]
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    exits += [main([recipe, "--output_dir", folders[1]])]
    if state.is_main_process:
        record = (Path(folders[1]) / "run.json").read_text().replace('"finished"', '"running"')
        shutil.copytree(Path(folders[1]) / "checkpoint-3", Path(folders[2]) / "checkpoint-3")
        (Path(folders[2]) / "run.json").write_text(record)
    state.wait_for_everyone()
    exits += [main([recipe, "--output_dir", folders[2], "--resume"])]
    shares = [p.to_local().numel() / p.numel() for p in trainer_of("cutmix", network=VIT).step.net.model.parameters()]
    messages = {}
    for words in ("--method automix", "--method puzzlemix", "--method manifoldmix", "--ema_decay 0.9"):
        with redirect_stderr(io.StringIO()) as errors:
            exits += [main([recipe, "--output_dir", str(root / "refused"), *words.split()])]
        messages[words] = errors.getvalue()
    os.environ["ACCELERATE_USE_FSDP"] = "false"
    return {"exits": exits, "shares": shares, "messages": messages}


class Rows(torch.utils.data.Dataset):
    """64 random images, the same on all ranks."""

    def __len__(self):
        return 64

    def __getitem__(self, i):
        return {"pixel_values": torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(i)), "labels": i % 5}


def scripted(kind, fsdp: bool) -> tuple[dict, dict]:
    """The full parameters before and after five steps of a user's own script, with FSDP or DDP."""
    os.environ["ACCELERATE_USE_FSDP"] = str(fsdp).lower()
    set_seed(0)
    model = ResNetForImageClassification(NATIVE_CONFIG)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fields = {"max_steps": 5, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "report_to": "none"}
    fields |= {"use_cpu": True, "save_strategy": "no", "eval_strategy": "no", "disable_tqdm": True}
    args = kind(output_dir=tempfile.mkdtemp(), **fields)
    trainer = MixupTrainer(model, args, method="cutmix", train_dataset=Rows())
    trainer.train()
    os.environ["ACCELERATE_USE_FSDP"] = "false"
    now = {name: p.detach() for name, p in trainer.model.named_parameters()}
    return before, {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in now.items()}


def moved_if_frozen() -> list[str]:
    """The parameters of a sharded network that change in training with a frozen backbone."""
    trainer = trainer_of("cutmix", network=VIT, freeze="backbone")
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    return [name for name, p in trainer.model.named_parameters() if not torch.equal(p.full_tensor(), before[name])]


def fsdp_scripts() -> dict:
    """What FSDP trains in scripts, its distance from DDP, and the message for an old optimizer."""
    found = {}
    for kind in (TrainingArguments, MixupConfig):
        (before, sharded), (_, replicated) = scripted(kind, True), scripted(kind, False)
        changed = sum(not torch.equal(sharded[name], before[name]) for name in before)
        distance = max(float((sharded[name] - replicated[name]).abs().max()) for name in before)
        found[kind.__name__] = {"changed": changed, "all": len(before), "distance": distance}
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    found["frozen"] = moved_if_frozen()
    model = ResNetForImageClassification(NATIVE_CONFIG)
    args = TrainingArguments(tempfile.mkdtemp(), use_cpu=True, max_steps=1, report_to="none", disable_tqdm=True)
    old = (torch.optim.SGD(model.parameters(), 0.1), None)  # of the parameters that FSDP replaces
    try:
        MixupTrainer(model, args, method="cutmix", train_dataset=Rows(), optimizers=old).train()
    except ValueError as error:
        found["old optimizer"] = str(error)
    os.environ["ACCELERATE_USE_FSDP"] = "false"
    return found


def killed(folder="killed", step=5) -> None:
    """A run in which rank 1 is killed while `step` is saved."""
    save, saved = checkpointing.save_rank_state, []

    def save_or_die(directory, *args):
        saved.append(directory)
        if PartialState().process_index == 1 and len(saved) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        save(directory, *args)

    checkpointing.save_rank_state = save_or_die
    root = Path(os.environ["RUNS"])
    sys.exit(main([str(root / "recipe.yaml"), "--output_dir", str(root / folder)]))


def killed_under_the_launcher() -> None:
    killed("killed-under-the-launcher", step=2)


def on_own_disk(name: str) -> list[str]:
    """The command line of the run with a folder on this machine's own disk."""
    root = Path(os.environ["RUNS"])
    return [str(root / "recipe.yaml"), "--output_dir", str(root / f"machine-{os.environ['GROUP_RANK']}" / name)]


def failed(name="run", after=5) -> None:
    """A run on two machines whose second cannot read its data any more after so many steps."""
    training_step = MixupTrainer.training_step

    def fail_on_rank_1(trainer, *args, **kwargs):
        if trainer.state.global_step == after and trainer.args.process_index == 1:
            raise DataError("Row 3 cannot be read: the disk is gone.")
        return training_step(trainer, *args, **kwargs)

    MixupTrainer.training_step = fail_on_rank_1
    sys.exit(main(on_own_disk(name)))


def failed_under_the_launcher() -> None:
    failed("failed-under-the-launcher", after=1)


def machines() -> dict:
    """Runs on two machines: resumed in a folder that one of them lacks; the failed run resumed; one shared folder."""
    root, [recipe, *words] = Path(os.environ["RUNS"]), on_own_disk("run")
    if os.environ["GROUP_RANK"] == "0":
        shutil.copytree(root / "machine-0" / "run", root / "machine-0" / "half")
    with redirect_stderr(io.StringIO()) as errors:
        exits = [main([*on_own_disk("half"), "--resume"])]
    exits += [main([recipe, *words, "--resume"])]
    exits += [main([recipe, "--output_dir", str(root / "shared"), "--num_train_epochs", "1"])]
    return {"exits": exits, "message": errors.getvalue()}


def run(results: str, cases: str) -> None:
    """Run a group of cases, and write their results."""
    for case in cases.split(","):
        found = globals()[case]()
        state = PartialState()
        (Path(results) / f"{case}-{state.num_processes}-{state.process_index}.json").write_text(json.dumps(found))


def run_in_a_fork(results: str, cases: str) -> None:
    """As `run`, in a fork of this process. If the fork fails, its results are missing."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        # a store of its own: the launcher's serves one process group
        store = f"file://{results}/{cases.split(',')[0]}.store"
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
        run(results, cases)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    gc.freeze()  # accelerate collects garbage at each training
    results, *groups, last = sys.argv[1:]
    for cases in groups:
        run_in_a_fork(results, cases)
    run(results, last)
