"""The training step of a trainer, built from its network, method, task and arguments."""

import torch

from ..models.build import synchronise_batchnorm
from ..net import Net
from .ema import EMA
from .freezing import freeze_backbone
from .fsdp import ShardedNetwork
from .preprocessing import fill_mean_and_std, preprocessing
from .step import MixupStep
from .task import labels_of, row_loss
from .task_results import CheckedLoss


def make_step(trainer) -> tuple[MixupStep, EMA | None, ShardedNetwork | None]:
    """The step of the trainer's present network, its EMA and its sharded weights, each None if not requested."""
    model, method, args = trainer.model, trainer.method, trainer.args
    if getattr(args, "sync_bn", False):
        synchronise_batchnorm(model, args.world_size)
    net = Net(model, trainer.task.loss, trainer.label_smoothing)
    net.row_loss = CheckedLoss(row_loss(trainer, net))
    frozen = freeze_backbone(net) if trainer.freeze else ()
    if trainer.compiled is not None and trainer.compiled._orig_mod is model:
        net.compile_model(trainer.compiled)
    elif args.torch_compile:
        net.compile_model(backend=args.torch_compile_backend, mode=args.torch_compile_mode)
    memory_format = torch.channels_last if getattr(args, "channels_last", False) else torch.contiguous_format
    model.to(memory_format=memory_format)
    fill_mean_and_std(method, trainer.processing_class)
    method.build_once(net)
    method.to(args.device)
    trainer.task.build(net, labels_of(trainer.train_dataset))
    trainer.task.to(args.device)
    decay = getattr(args, "ema_decay", None)
    ema = EMA(model, decay, evaluated=args.eval_weights == "ema") if decay else None
    sharded = ShardedNetwork(net, args) if trainer.fsdp else None
    augment, normalise = preprocessing(args, trainer.processing_class)
    return MixupStep(net, method, trainer.task, augment, normalise, memory_format, frozen), ema, sharded
