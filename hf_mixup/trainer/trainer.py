"""MixupTrainer: transformers' Trainer with a mixup method as its training step."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from ..methods import Method, load
from ..tasks import Task
from . import checkpoint_files, checkpointing, data_order, evaluation, fsdp, script_card
from .callbacks import add_callbacks
from .checkpoint_pusher import push_checkpoint
from .dataloaders import make_eval_loader, make_train_loader
from .make_step import make_step
from .optimizers import add_groups, make_optimizer
from .schedules import finish_schedule, prepare_schedule
from .step import MixupStep
from .task import choose_task
from .validation import check_supported, given, on_one_device
from .weights import broadcast_trained, load_extra, save_files


class MixupTrainer(Trainer):
    """A Trainer whose training step is a mixup method; evaluation, saving and logging are upstream's.

    Takes the arguments of `Trainer`, in the same order, then
    `method`: name, mapping, class or `Method`; None: that of `args`, or Mixup;
    `task`: name, class, `Task` or function; None: that of `args`, or of the network's `problem_type`;
    `loss`: a function `(outputs, targets) -> (B,)` instead of the task's loss;
    `class_weights` (a number per class) and `label_smoothing` (0 to 1): None: those of `args`, or none;
    `freeze`: "backbone" trains the classifier only, and keeps the rest in eval mode; None: that of `args`, or nothing.
    `args` is a MixupConfig or plain TrainingArguments. Data: float `pixel_values` and `labels` from any data set and
    collator, or `Images` and `Stream` of hf_mixup.data, whose uint8 batches are augmented on the device. The network is
    any nn.Module that returns logits. Without `compute_metrics`, a task named in `task` or `args` computes its own.
    """

    loss_is_scaled_for_ga = False  # losses are batch means
    start = data_order.NEW_RUN  # where `train` begins in the training data
    create_model_card, push_to_hub = script_card.create_model_card, script_card.push_to_hub

    def __init__(
        self,
        model=None,
        args: TrainingArguments | None = None,
        data_collator: Callable | None = None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        model_init: Callable | None = None,
        compute_loss_func: Callable | None = None,
        compute_metrics: Callable | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple = (None, None),
        optimizer_cls_and_kwargs: tuple | None = None,
        preprocess_logits_for_metrics: Callable | None = None,
        *,
        method: str | dict | Method | None = None,
        task: str | Task | type[Task] | Callable | None = None,
        loss: Callable | None = None,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float | None = None,
        freeze: str | None = None,
    ):
        model, self.compiled, args = on_one_device(model, args or TrainingArguments("tmp_trainer"))
        recipe = {"name": getattr(args, "method", "mixup"), **getattr(args, "method_args", {})}
        self.method = load(recipe if method is None else method)
        self.given_loss, self.freeze = loss, given(freeze, args, "freeze")
        self.class_weights = given(class_weights, args, "class_weights")
        self.label_smoothing = given(label_smoothing, args, "label_smoothing", 0.0)
        self._step = self._prepared = self._full_state = self.ema = self.sharded = self.resumed_from = None
        self.micro_batch, self._saves_checkpoint = 0, False
        self.fsdp, self.optimizer_given = fsdp.requested(), optimizers[0] is not None
        with fsdp.hidden_from_accelerate():
            super().__init__(
                model,
                args,
                data_collator,
                train_dataset,
                eval_dataset,
                processing_class,
                model_init,
                compute_loss_func,
                compute_metrics,
                callbacks,
                optimizers,
                optimizer_cls_and_kwargs,
                preprocess_logits_for_metrics,
            )
        self.model_accepts_loss_kwargs = False  # transformers without `loss_is_scaled_for_ga` scales losses by this
        self.task = choose_task(task, args, self.model)
        evaluation.prepare(self, task_given=task is not None)
        check_supported(self)
        add_callbacks(self)

    @property
    def step(self) -> MixupStep:
        """The training step around the present model, created when it is first read."""
        if self._step is None or self._step.net.model is not self.model:
            self._step, self.ema, self.sharded = make_step(self)
            self._prepared = None
        return self._step

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader=None) -> nn.Module:
        # overrides a private method: it returns the module that the Trainer prepares, in training the step
        if not training:
            return super()._wrap_model(model, training, dataloader)
        step = self.step
        if self._prepared is None:
            # a sharded network reduces its gradients itself: then accelerate adds autocast only, and no DDP
            self._prepared = self.accelerator.prepare_model(step, evaluation_mode=self.sharded is not None)
        return self._prepared

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Training: the sum of the method's losses; evaluation: the loss of the unmixed batch.

        With `return_outputs` also a dict: in evaluation, `loss`, `logits` (what the task's metrics need) and further
        outputs of the network; in training, `loss`, the method's losses by name, and the `logits` of the last pass with
        a gradient.
        """
        if not model.training:
            with self.accelerator.autocast():
                rows, logits = self.step.evaluate(**inputs)
            loss = evaluation.mean_loss(rows, self.accelerator)
            return (loss, {"loss": loss, "logits": logits, **self.step.further}) if return_outputs else loss
        with self.step.recording() if return_outputs else nullcontext() as passes:
            losses = model(seed=self.next_seed(), **inputs)
        self.losses.add(losses, self.current_gradient_accumulation_steps)
        self.clock.count(inputs, self.args.world_size)
        loss = sum(losses.values())
        return (loss, {"loss": loss, **losses, "logits": passes[-1]}) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """As `Trainer.prediction_step`; also for batches without labels."""
        result = evaluation.step(self, model, inputs, prediction_loss_only, ignore_keys)
        return result or super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def next_seed(self) -> tuple[int, int, int, int]:
        """Run seed, step, micro-batch and rank: different on each rank, and no state of a checkpoint."""
        self.micro_batch += 1  # set to 0 when a step begins
        return self.args.seed, self.state.global_step, self.micro_batch - 1, self.args.process_index

    def train(self, resume_from_checkpoint: str | bool | None = None, trial=None, ignore_keys_for_eval=None):
        """As `Trainer.train`; a checkpoint is verified before it is loaded, and True picks the newest complete one.

        Raises CheckpointError for a checkpoint whose saving was interrupted, or whose files differ from its manifest.
        """
        self.resumed_from = checkpointing.checkpoint_to_resume(self, resume_from_checkpoint)
        with checkpoint_files.load_errors(self):
            self.start = data_order.start(self, self.resumed_from)
            output = super().train(self.resumed_from and str(self.resumed_from), trial, ignore_keys_for_eval)
        if self.ema is not None and self.args.load_best_model_at_end and self.state.best_model_checkpoint:
            self.ema.reset(self.model)
        return output

    def set_initial_training_values(self, args, dataloader) -> tuple:
        """As `Trainer.set_initial_training_values`; also for a run resumed with other steps per epoch."""
        return data_order.initial_values(self, super().set_initial_training_values(args, dataloader))

    def _init_training_state(self, *args, **kwargs) -> tuple[int, int]:
        # overrides a private method: upstream computes the epoch from the present number of steps per epoch
        return data_order.initial_epoch(self, super()._init_training_state(*args, **kwargs))

    def _run_epoch(self, *args, **kwargs) -> None:
        # overrides a private method: upstream trains one step too many when it resumes at `max_steps` inside an epoch
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """As `Trainer.create_optimizer`, or timm's `args.optimizer`; with the parameters of method and task."""
        step = self.step  # created first, since FSDP replaces the parameters
        if self.optimizer is None and getattr(self.args, "optimizer", None):
            self.optimizer = make_optimizer(self.model, self.args)
        optimizer = super().create_optimizer(model) if self.optimizer is None else self.optimizer
        add_groups(optimizer, step, self.args, scheduler_given=self.lr_scheduler is not None)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """As `Trainer.create_scheduler`, with the schedule options of MixupConfig."""
        if self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        offset = prepare_schedule(self)
        scheduler = super().create_scheduler(num_training_steps - offset, optimizer)
        finish_schedule(scheduler, self.args, num_training_steps - offset, offset)
        return scheduler

    def get_train_dataloader(self):
        """A loader of this rank's batches of `Images` or a `Stream`; for other data sets, upstream's loader."""
        loader = make_train_loader(self.train_dataset, self.args, self._train_batch_size)
        return super().get_train_dataloader() if loader is None else loader

    def get_eval_dataloader(self, eval_dataset=None):
        """A loader of the batches of `Images`; for other data sets, upstream's loader."""
        loader = make_eval_loader(self.eval_dataset if eval_dataset is None else eval_dataset, self.args)
        # prepared, so that `eval_loss` is the mean over images, not over batches
        return super().get_eval_dataloader(eval_dataset) if loader is None else self.accelerator.prepare(loader)

    def evaluation_loop(self, *args, **kwargs):
        """As `Trainer.evaluation_loop`, on the EMA weights if `eval_weights` is "ema"."""
        broadcast_trained(self)
        evaluation.start(self)
        with nullcontext() if self.ema is None else self.ema.swapped():
            return super().evaluation_loop(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `Trainer.save_model`. With FSDP every rank calls it, since all take part in gathering the weights."""
        self._full_state = self.sharded and self.sharded.full_state()
        super().save_model(output_dir, _internal_call)
        self._full_state = None

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # overrides a private method: upstream writes training_args.bin (a pickle with the token), and no method state
        save_files(self, Path(output_dir or self.args.output_dir), self._saves_checkpoint, self._full_state)

    def _save_checkpoint(self, model, trial) -> None:
        # overrides a private method: the manifest must exist before old checkpoints are deleted and the new one pushed
        broadcast_trained(self)
        self.losses.export_state(self.state)
        self.clock.export_state(self.state)
        self._saves_checkpoint = True
        try:
            with checkpointing.saving(self, Path(self._get_output_dir(trial))) as folder:
                super()._save_checkpoint(model, trial)
                if self.args.should_save:
                    data_order.write(folder, self)
                if self.sharded is not None and not self.args.save_only_model:
                    self.sharded.save_optimizer(self.optimizer.optimizer, folder)
        finally:
            self._saves_checkpoint = False
        if self.args.push_to_hub:
            push_checkpoint(self, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        # overrides a private method: the state of method, task and EMA is loaded between network and optimizer
        folder, step = Path(resume_from_checkpoint), self.step
        if self.sharded is not None:
            self.sharded.load(folder)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_extra(folder, step, self.ema, self.args.process_index)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer.log`, with the mean of each of the method's losses, `loss_<name>`, if there are several."""
        if "loss" in logs:
            logs.update(self.losses.averages())
        super().log(logs, start_time)
