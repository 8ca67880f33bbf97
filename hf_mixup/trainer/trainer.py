"""MixupTrainer: transformers' Trainer, training through a mixup method."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import TimmWrapperImageProcessor, Trainer, TrainingArguments

from ..data import Images, eval_loader
from ..distributed import broadcast_buffers
from ..methods import Method, load
from ..models.build import synchronise
from ..net import Net
from ..ops.losses import binary_cross_entropy, soft_cross_entropy
from ..tasks import load_task
from . import fsdp
from .callbacks import MethodCallback
from .checkpoint_pusher import push_checkpoint
from .checkpointing import load_extra, save_checkpoint_whole, save_extra, save_network
from .dataloaders import check_resumable, keep_order, make_train_loader, pins
from .optimizers import Averaged, add_groups, finish_schedule, make_optimizer, steps_in_epoch
from .preprocessing import preparation, tell_pixels
from .step import MixupStep
from .validation import check_compatible


class MixupTrainer(Trainer):
    """A Trainer whose training step is a mixup method; evaluation, saving and logging are upstream's.

    Takes what `Trainer` takes, in the same order, and `method` (a name, a mapping or a `Method`; None: what `args`
    says, or Mixup) and `task` (a name or a function; None: likewise, or classification). `args` may be a MixupConfig
    or plain TrainingArguments. Data: float `pixel_values` and integer `labels` from any data set and collator, or
    `Images` and `Stream` of hf_mixup.data, whose uint8 batches are augmented on the device.
    """

    loss_is_scaled_for_ga = False  # our losses are batch means

    def __init__(self, model=None, args=None, *rest, method: str | dict | Method | None = None, task=None, **kwargs):
        args = args or TrainingArguments("tmp_trainer")
        args._n_gpu = min(args.n_gpu, 1)  # one device a process: no nn.DataParallel
        self.method = load(method or getattr(args, "method", "mixup"), **_arguments(args, "method", method))
        self.task = load_task(task or getattr(args, "task", "classification"), **_arguments(args, "task", task))
        self._step = self._prepared = self.averaged = self._whole = None
        self._micro = 0
        self.sharded = fsdp.wanted()
        with fsdp.untold():
            super().__init__(model, args, *rest, **kwargs)
        if self.args.label_smoothing_factor:
            raise ValueError("label_smoothing_factor works on class numbers only: set MixupConfig.label_smoothing.")
        check_compatible(self)
        self.add_callback(MethodCallback(self))

    @property
    def step(self) -> MixupStep:
        """The training step around the present model, made when it is first asked for."""
        if self._step is None or self._step.net.model is not self.model:
            self._step, self._prepared = self._make_step(), None
        return self._step

    def _make_step(self) -> MixupStep:
        args = self.args
        if getattr(args, "sync_bn", False):
            synchronise(self.model, args.world_size)
        loss = soft_cross_entropy
        if getattr(args, "loss", "ce") == "bce":
            loss = partial(binary_cross_entropy, threshold=args.bce_threshold, total=args.bce_sum)
        net = Net(self.model, loss, getattr(args, "label_smoothing", 0.0))
        if args.torch_compile:
            net.compile_model(backend=args.torch_compile_backend, mode=args.torch_compile_mode)
        memory_format = torch.channels_last if getattr(args, "channels_last", False) else torch.contiguous_format
        self.model.to(memory_format=memory_format)
        tell_pixels(self.method, self.processing_class)
        self.method.build_once(net)
        self.method.to(args.device)
        if getattr(args, "ema_decay", None):
            self.averaged = Averaged(self.model, args.ema_decay, evaluated=args.eval_weights == "ema")
        if self.sharded and self._whole is None:
            fsdp.check_shardable(self.method, self.task, args)
            self._whole = fsdp.shard(net, args.device)
        return MixupStep(net, self.method, self.task, *preparation(args, self.processing_class), memory_format)

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader=None) -> nn.Module:
        # the Trainer itself prepares a model only if it gets back `self.model`: we train the step, evaluate the model
        if not training:
            return super()._wrap_model(model, training, dataloader)
        step = self.step
        if self._prepared is None:
            # a network in parts sums its gradients itself; then only autocast is left to prepare
            self._prepared = self.accelerator.prepare_model(step, evaluation_mode=self.sharded)
        return self._prepared

    def _run_epoch(self, *args, **kwargs) -> None:
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:  # resumed at the last step, after which upstream would train one more
            self.control.should_training_stop = True

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None and getattr(self.args, "optimizer", None):
            self.optimizer = make_optimizer(self.model, self.args)
        given = self.optimizer is not None
        optimizer = self.optimizer if given else super().create_optimizer(model)
        groups = len(optimizer.param_groups)
        add_groups(optimizer, self.step, self.args)
        if self.lr_scheduler is not None and len(optimizer.param_groups) > groups:
            raise ValueError(
                f"Method {self.method.name!r} trains networks of its own, which the given scheduler does not know: "
                "pass optimizers=(optimizer, None)."
            )
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        made, args = self.lr_scheduler is None, self.args
        if args.max_steps > 0 and getattr(args, "counts_epochs", False):
            args.counted_steps = steps_in_epoch(self.get_train_dataloader(), args.gradient_accumulation_steps)
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if made:
            finish_schedule(scheduler, args, num_training_steps)
        return scheduler

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The sum of the method's losses in training; in evaluation the loss of the unmixed batch, and its logits."""
        if not model.training:
            with self.accelerator.autocast():
                loss, logits = self.step.evaluate(**inputs)
            return (loss, {"loss": loss, "logits": logits}) if return_outputs else loss
        losses = model(seed=self.next_seed(), **inputs)
        self.method_callback.add(losses, self.current_gradient_accumulation_steps)
        return sum(losses.values())

    def next_seed(self) -> tuple[int, int, int, int]:
        """Run seed, step, micro-batch and process: nothing to keep in a checkpoint, nothing shared between ranks."""
        self._micro += 1  # MethodCallback sets it back when a step begins
        return self.args.seed, self.state.global_step, self._micro - 1, self.args.process_index

    @property
    def method_callback(self) -> MethodCallback:
        return next(c for c in self.callback_handler.callbacks if isinstance(c, MethodCallback))

    # Data

    def get_train_dataloader(self):
        loader = make_train_loader(self.train_dataset, self.args, self._train_batch_size)
        return super().get_train_dataloader() if loader is None else loader

    def get_eval_dataloader(self, eval_dataset=None):
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(data, Images):
            loader = eval_loader(data, self.args.eval_batch_size, self.args.dataloader_num_workers, pins(self.args))
            return self.accelerator.prepare(loader) if self.args.world_size > 1 else loader
        return super().get_eval_dataloader(eval_dataset)

    # Evaluating and saving

    def evaluation_loop(self, *args, **kwargs):
        self._share_buffers()
        with nullcontext() if self.averaged is None else self.averaged.swapped():
            return super().evaluation_loop(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Weights, configuration, preprocessor, and what method, task and averaging keep; never training_args.bin."""
        folder = Path(output_dir or self.args.output_dir)
        weights = fsdp.whole_state(self.model, self.args.save_on_each_node) if self.sharded else None
        if not self.args.should_save:
            return
        folder.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        with nullcontext() if self.averaged is None else self.averaged.swapped():
            save_network(model, folder, getattr(self, "_saving_in", None) is not None, weights)
        if not isinstance(self.processing_class, (TimmWrapperImageProcessor, type(None))):  # timm's is in config.json
            self.processing_class.save_pretrained(folder)
        save_extra(folder, self.step, self.averaged)
        if getattr(self, "_saving_in", None):
            keep_order(folder, self)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.sharded:
            file = Path(output_dir) / "optimizer.pt"
            fsdp.save_optimizer(self.model, self.optimizer.optimizer, file, self.args)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.sharded:
            return super()._load_optimizer_and_scheduler(checkpoint)
        fsdp.load_optimizer(self.model, self.optimizer.optimizer, Path(checkpoint) / "optimizer.pt")
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True))

    def gather(self) -> None:
        """After training: on each process that saves, `model` becomes the whole of a network that was in parts."""
        if self.sharded:
            weights = fsdp.whole_state(self.model, self.args.save_on_each_node)
            self._whole.load_state_dict(weights or self._whole.state_dict())
            self.step.net.model = self.model = self._whole
            self.sharded = False

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        check_resumable(Path(resume_from_checkpoint), self)
        if self.sharded and self.step:  # which splits the network
            fsdp.load_whole(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_extra(Path(resume_from_checkpoint), self.step, self.averaged, self.args.process_index)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.averaged is not None:
            self.averaged.take(self.model)

    def _share_buffers(self) -> None:
        """What is evaluated in parts is what the first process saves."""
        broadcast_buffers(self.step, exclude=self.step.private)
        if self.averaged is not None:
            broadcast_buffers(self.averaged.ema)

    def _save_checkpoint(self, model, trial) -> None:
        self._share_buffers()
        save_checkpoint_whole(self, lambda: super(MixupTrainer, self)._save_checkpoint(model, trial), trial)

    def _get_output_dir(self, trial) -> str:
        return getattr(self, "_saving_in", None) or super()._get_output_dir(trial)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if getattr(self, "_saving_in", None) is None:
            push_checkpoint(self, Path(checkpoint_folder))  # upstream's would push training_args.bin, and images

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update(self.method_callback.averages())
        super().log(logs, start_time)


def _arguments(args, kind: str, given) -> dict:
    """The recipe's arguments of its method or task; none where another one was given in code."""
    return {} if given is not None else dict(getattr(args, f"{kind}_args", {}))
