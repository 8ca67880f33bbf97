"""What happens between steps: the method's clock, averaged weights, named losses, and stopping in good order."""

import signal
import time

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import has_length

from ..data import StreamLoader
from ..methods import Method
from .dataloaders import warn_of_stream
from .optimizers import steps_in_epoch


class MethodCallback(TrainerCallback):
    """Tells the method where in the training it is, calls it after each step and averages its named losses."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self.began = 0
        self.started, self.evaluated = time.perf_counter(), 0.0

    def on_train_begin(self, args, state, control, **_):
        kept = state.stateful_callbacks.get(type(self).__name__, {"sums": {}, "steps": 0})
        self.sums = {name: torch.tensor(value, device=args.device) for name, value in kept["sums"].items()}
        self.steps = kept["steps"]
        if kept["steps"]:
            # the loss that is logged next is a mean from the last log on, before the checkpoint too
            self.trainer._tr_loss += kept["loss"]
            self.trainer._globalstep_last_logged = kept["logged"]
        self.began = state.global_step
        warn_of_stream(self.trainer)

    def on_train_end(self, args, state, control, **_):
        trainer = self.trainer
        steps = state.global_step - trainer._globalstep_last_logged
        if steps and state.global_step == self.began:
            # resumed after the last step, when only logging was left to do
            trainer.log({"loss": float(trainer._tr_loss) / steps})

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **_):
        # here and not in the Trainer alone: after skipping batches it has a loader that does not know epochs
        epoch = int(state.epoch or 0)
        if isinstance(train_dataloader, StreamLoader) and has_length(train_dataloader) and not args.ignore_data_skip:
            accumulated = args.gradient_accumulation_steps
            done = state.global_step % steps_in_epoch(train_dataloader, accumulated)
            train_dataloader.start(epoch, skipped=done * accumulated)
        elif hasattr(train_dataloader, "set_epoch"):
            train_dataloader.set_epoch(epoch)
        self.started, self.evaluated = time.perf_counter(), 0.0

    def on_step_begin(self, args, state, control, **_):
        step, self.trainer._micro = self.trainer.step, 0
        for module in step.method.modules():
            if isinstance(module, Method):
                module.step, module.total_steps = state.global_step, state.max_steps
        off = getattr(args, "mixup_off_epoch", 0)
        step.mixing = not off or (state.epoch or 0) < off

    def on_optimizer_step(self, args, state, control, **_):
        self.trainer.step.method.after_step(self.trainer.step.net)
        if self.trainer.averaged is not None:
            self.trainer.averaged.update()
        self.steps += 1

    def on_evaluate(self, args, state, control, metrics=None, **_):
        self.evaluated += (metrics or {}).get("eval_runtime", 0)

    def on_epoch_end(self, args, state, control, **_):
        self.count_seconds(state)

    def keep(self, state) -> None:
        """Keep with the state what a resumed run is to know: seconds of training, and losses not yet logged."""
        self.count_seconds(state)
        trainer = self.trainer
        logged = trainer._globalstep_last_logged
        loss = float(trainer.accelerator.reduce(trainer._tr_loss.clone(), "mean"))
        sums = {name: float(value) for name, value in self.sums.items()}
        kept = {"sums": sums, "steps": state.global_step - logged, "loss": loss, "logged": logged}
        state.stateful_callbacks[type(self).__name__] = kept

    def count_seconds(self, state) -> None:
        """Keep the seconds of training since the last call with the state, for a resumed run to know them."""
        now = time.perf_counter()
        seconds, self.started, self.evaluated = now - self.started - self.evaluated, now, 0.0
        state.log_history.append({"epoch": state.epoch, "step": state.global_step, "train_seconds": seconds})

    def add(self, losses: dict[str, Tensor], accumulated: int) -> None:
        """Count in the named losses of one micro-batch, `accumulated` of which make a step."""
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0) + loss.detach() / accumulated

    def averages(self) -> dict[str, float]:
        """Mean of each named loss over the steps since the last call; empty where there is only one."""
        sums, steps = self.sums, max(self.steps, 1)
        self.sums, self.steps = {}, 0
        if len(sums) < 2:
            return {}
        means = (torch.stack(list(sums.values())) / steps).tolist()
        return {f"loss_{name}": mean for name, mean in zip(sums, means)}


class StopCallback(TrainerCallback):
    """Ctrl-C and SIGTERM save a checkpoint after the present step and stop; a second one stops at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)
    EVERY = 10  # steps between which processes ask each other

    def __init__(self, accelerator):
        self.accelerator, self.asked, self.stopped, self.before = accelerator, False, False, {}

    def on_train_begin(self, args, state, control, **_):
        self.before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}

    def _ask(self, number, frame):
        self.asked = True
        signal.signal(number, self.before[number])

    def on_step_end(self, args, state, control, **_):
        if self._agreed(args, state):
            self.stopped = True
            control.should_save = control.should_training_stop = True

    def _agreed(self, args, state) -> bool:
        """Whether any process was asked to stop; asking the others costs a wait, so not at every step."""
        if self.accelerator.num_processes == 1:
            return self.asked
        if state.global_step % self.EVERY:
            return False
        asked = torch.tensor([self.asked], dtype=torch.int32, device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, "sum").item())

    def on_epoch_end(self, args, state, control, **_):
        if self.stopped:
            control.should_evaluate = control.should_save = control.should_log = False

    def on_train_end(self, args, state, control, **_):
        self.restore()

    def restore(self) -> None:
        """Let signals do again what they did before the training."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}


class BarCallback(ProgressCallback):
    """Upstream's progress bars, without the logs between them."""

    def on_log(self, args, state, control, logs=None, **_):
        pass


class ReportCallback(TrainerCallback):
    """One line for each evaluation."""

    WORDS = ("top1", "top5", "nll", "ece")

    def __init__(self):
        self.loss = float("nan")

    def on_log(self, args, state, control, logs=None, **_):
        self.loss = (logs or {}).get("loss", self.loss)
        if state.is_world_process_zero and logs and "eval_loss" in logs:
            words = [f"{name} {logs[f'eval_{name}']:.4f}" for name in self.WORDS if f"eval_{name}" in logs]
            epoch = logs.get("epoch", state.epoch or 0)
            tqdm.write(f"epoch {epoch:6.2f}  train loss {self.loss:.4f}  " + "  ".join(words))
