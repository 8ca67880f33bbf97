"""The output of a run during training: a progress bar, and one line for each evaluation."""

from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback


class BarCallback(ProgressCallback):
    """Upstream's progress bars, without its printed logs."""

    def on_log(self, args, state, control, logs=None, **_):
        pass


class ReportCallback(TrainerCallback):
    """Prints one line for each evaluation."""

    METRICS = ("top1", "top5", "nll", "ece")

    def __init__(self):
        self.loss = float("nan")

    def on_log(self, args, state, control, logs=None, **_):
        self.loss = (logs or {}).get("loss", self.loss)
        if state.is_world_process_zero and logs and "eval_loss" in logs:
            metrics = [f"{name} {logs[f'eval_{name}']:.4f}" for name in self.METRICS if f"eval_{name}" in logs]
            epoch = logs.get("epoch", state.epoch or 0)
            tqdm.write(f"epoch {epoch:6.2f}  train loss {self.loss:.4f}  " + "  ".join(metrics))
