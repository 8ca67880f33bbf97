"""Stopping at SIGINT (Ctrl-C) or SIGTERM: after a checkpoint, or at once if no batch arrives."""

import signal
import threading

import torch
from transformers import TrainerCallback

from ..errors import TrainingInterrupted


class StopCallback(TrainerCallback):
    """On SIGINT (Ctrl-C) or SIGTERM, saves a checkpoint after the step and stops; a second signal stops at once.

    If the next batch does not arrive, because the Hub does not respond, there is no step to wait for: training stops
    after GRACE seconds, with TrainingInterrupted.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)
    CHECK_EVERY = 10  # steps between checks whether any rank received a signal
    GRACE = 1.0  # seconds after a signal in which a batch may arrive

    def __init__(self, trainer):
        self.trainer, self.accelerator, self.previous = trainer, trainer.accelerator, {}
        self.requested = self.stopped = self.late = False
        self.fetch: object | None = None  # the fetch of a batch in progress

    def on_train_begin(self, args, state, control, **_):
        self.previous = {number: signal.getsignal(number) for number in self.SIGNALS}
        for number in self.SIGNALS:
            signal.signal(number, self._on_signal)
        get_batch_samples = self.trainer.get_batch_samples

        def recorded(*arguments):
            self.fetch = object()
            try:
                return get_batch_samples(*arguments)
            finally:
                self.fetch = None

        self.trainer.get_batch_samples = recorded

    def _on_signal(self, number, frame):
        self.requested = True
        signal.signal(number, self._on_next_signal)
        threading.Thread(target=self._stop_a_long_fetch, args=(number,), name="StopCallback", daemon=True).start()

    def _stop_a_long_fetch(self, number: int) -> None:
        """Send the signal again, to the main thread, each time that it has waited for a batch for GRACE seconds."""
        ended, fetch = threading.Event(), None
        while self.previous:
            if fetch is not None and self.fetch is fetch:
                self.late = True
                signal.pthread_kill(threading.main_thread().ident, number)
            fetch = self.fetch
            ended.wait(self.GRACE)

    def _on_next_signal(self, number, frame):
        late, self.late = self.late, False
        if not late:
            signal.signal(number, self.previous[number])
            signal.raise_signal(number)
        elif self.fetch is not None:
            step = self.trainer.state.global_step
            raise TrainingInterrupted(f"Interrupted after step {step}, because the next batch did not arrive.")

    def on_step_end(self, args, state, control, **_):
        if self._any_rank_requested(state):
            self.stopped = True
            control.should_save = control.should_training_stop = True

    def _any_rank_requested(self, state) -> bool:
        """Whether any rank received a signal. With several ranks it is checked at every CHECK_EVERY-th step only."""
        if self.accelerator.num_processes == 1:
            return self.requested
        if state.global_step % self.CHECK_EVERY:
            return False
        # all ranks wait for each other here
        requested = torch.tensor([self.requested], dtype=torch.int32, device=self.accelerator.device)
        return bool(self.accelerator.reduce(requested, "sum").item())

    def on_epoch_end(self, args, state, control, **_):
        if self.stopped:
            control.should_evaluate = control.should_save = control.should_log = False

    def on_train_end(self, args, state, control, **_):
        self.restore()

    def restore(self) -> None:
        """Reinstall the signal handlers that were active before training."""
        previous, self.previous = self.previous, {}
        for number, handler in previous.items():
            signal.signal(number, handler)
        if previous:
            del self.trainer.get_batch_samples
