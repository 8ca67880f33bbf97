"""MixupTrainer: transformers' Trainer, training through a mixup method."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import DynamoBackend
from torch import nn
from transformers import TimmWrapperImageProcessor, Trainer, TrainingArguments

from .callbacks import MethodCallback
from .data import Images, augment, eval_loader, normalise
from .loading import check_resumable, keep_order, make_train_loader, pins
from .methods import Method, load
from .models import synchronise
from .net import Net
from .ops.losses import binary_cross_entropy, soft_cross_entropy
from .optimization import Averaged, add_groups, finish_schedule, make_optimizer, steps_in_epoch
from .saving import load_extra, save_checkpoint_whole, save_extra, save_network
from .step import MixupStep
from .tasks import load_task

AUGMENTATIONS = ("crop_padding", "crop_mode", "flip", "erasing")  # fields of MixupConfig


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
        self._step = self._prepared = self.averaged = None
        self._micro = 0
        super().__init__(model, args, *rest, **kwargs)
        if self.args.label_smoothing_factor:
            raise ValueError("label_smoothing_factor works on class numbers only: set MixupConfig.label_smoothing.")
        self._check_compatible()
        self.add_callback(MethodCallback(self))

    def _check_compatible(self) -> None:
        if self.args.torch_compile:
            if self.method.needs_net:
                raise ValueError(
                    f"torch_compile cannot be used with method {self.method.name!r}, which looks inside the network."
                )
            # the network is compiled, by Net, and not the whole step
            self.accelerator.state.dynamo_plugin.backend = DynamoBackend.NO
        if self.compute_loss_func is not None:
            raise ValueError(
                "compute_loss_func would not be used: the loss is the method's. Choose a task or MixupConfig.loss."
            )
        hidden = [m for m in self.method.modules() if isinstance(m, Method) and m.group == "hidden"]
        if self.args.gradient_checkpointing and hidden:
            raise ValueError(
                f"gradient_checkpointing runs layers again without what {hidden[0].name!r} changed in them, and "
                "gradients would be wrong: switch it off, or choose another method."
            )

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
        _tell_pixels(self.method, self.processing_class)
        self.method.build(net)
        self.method.to(args.device)
        if getattr(args, "ema_decay", None):
            self.averaged = Averaged(self.model, args.ema_decay, evaluated=args.eval_weights == "ema")
        return MixupStep(net, self.method, self.task, *_preparation(args, self.processing_class), memory_format)

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader=None) -> nn.Module:
        # the Trainer itself prepares a model only if it gets back `self.model`: we train the step, evaluate the model
        if not training:
            return super()._wrap_model(model, training, dataloader)
        step = self.step
        if self._prepared is None:
            self._prepared = self.accelerator.prepare_model(step)
        return self._prepared

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
        if self.averaged is None:
            return super().evaluation_loop(*args, **kwargs)
        with self.averaged.swapped():
            return super().evaluation_loop(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Weights, configuration, preprocessor, and what method, task and averaging keep; never training_args.bin."""
        folder = Path(output_dir or self.args.output_dir)
        if not self.args.should_save:
            return
        folder.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        with nullcontext() if self.averaged is None else self.averaged.swapped():
            save_network(model, folder, as_checkpoint=getattr(self, "_saving_in", None) is not None)
        if not isinstance(self.processing_class, (TimmWrapperImageProcessor, type(None))):  # timm's is in config.json
            self.processing_class.save_pretrained(folder)
        save_extra(folder, self.step, self.averaged)
        if getattr(self, "_saving_in", None):
            keep_order(folder, self)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        check_resumable(Path(resume_from_checkpoint), self)
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_extra(Path(resume_from_checkpoint), self.step, self.averaged, self.args.process_index)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.averaged is not None:
            self.averaged.take(self.model)

    def _save_checkpoint(self, model, trial) -> None:
        save_checkpoint_whole(self, lambda: super(MixupTrainer, self)._save_checkpoint(model, trial), trial)

    def _get_output_dir(self, trial) -> str:
        return getattr(self, "_saving_in", None) or super()._get_output_dir(trial)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if getattr(self, "_saving_in", None) is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update(self.method_callback.averages())
        super().log(logs, start_time)


def _arguments(args, kind: str, given) -> dict:
    """The recipe's arguments of its method or task; none where another one was given in code."""
    return {} if given is not None else dict(getattr(args, f"{kind}_args", {}))


def _preparation(args, processor) -> tuple:
    """`augment` and `normalise` for uint8 batches; None without a preprocessor to say mean and deviation."""
    mean, std = _statistics(processor)
    if mean is None or std is None:
        return None, None
    chosen = {name: getattr(args, name) for name in AUGMENTATIONS if hasattr(args, name)}
    return partial(augment, mean=mean, std=std, **chosen), partial(normalise, mean=mean, std=std)


def _statistics(processor) -> tuple:
    """Mean and deviation of each channel that a preprocessor normalises with; None where it does not say."""
    config = getattr(processor, "data_config", None) or vars(processor or object)
    return tuple(config.get(name, config.get(f"image_{name}")) for name in ("mean", "std"))


def _tell_pixels(method: Method, processor) -> None:
    """Methods that need real pixels, and were not told how they are normalised, take the preprocessor's word."""
    for part in method.modules():
        for name, values in zip(("mean", "std"), _statistics(processor)):
            if getattr(part, name, values) is None:
                setattr(part, name, values)
