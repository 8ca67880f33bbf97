"""The output of a run during training: a progress bar, and one line for each evaluation."""

from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from . import record


class BarCallback(ProgressCallback):
    """Upstream's progress bars, without its printed logs."""

    def on_log(self, args, state, control, logs=None, **_):
        pass


class ReportCallback(TrainerCallback):
    """Prints one line for each evaluation."""

    def __init__(self, task: dict):
        self.task, self.loss = task, None  # the task's entry in the run record; the last logged loss

    def on_log(self, args, state, control, logs=None, **_):
        self.loss = (logs or {}).get("loss", self.loss)
        if state.is_world_process_zero and logs and "eval_loss" in logs:
            numbers = record.metrics(logs, self.task)
            loss = numbers.pop("loss")
            shown = numbers or {"loss": loss}
            metrics = [f"{name} {'none' if value is None else f'{value:.4f}'}" for name, value in shown.items()]
            epoch = logs.get("epoch", state.epoch or 0)
            train = [] if self.loss is None else [f"train loss {self.loss:.4f}"]
            tqdm.write("  ".join([f"epoch {epoch:6.2f}", *train, *metrics]))
