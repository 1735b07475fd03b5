"""Hugging Face Trainer: `Trainer(..., callbacks=[TransformersCallback()])`.

Owns what of a training is reported, and when; knows neither the keys nor the socket (`trainshed_client.notify` does).
"""

from __future__ import annotations

import sys
from typing import Any

from transformers import TrainerCallback

from trainshed_client import notify
from trainshed_client.integrations.reporting import SignOfLife, numbers_of, share


class TransformersCallback(TrainerCallback):
    """Reports ready when the training begins, then what the trainer logs (`logging_steps`, evaluations), under its names.

    Between two logs, once a second, it reports the step and the progress. Only the process of world rank zero reports.
    ``primary``: the metric that listings show; else the arguments' ``metric_for_best_model``.
    """

    def __init__(self, *, primary: str | None = None) -> None:
        super().__init__()
        self._primary = primary
        self._sign_of_life = SignOfLife()

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if not state.is_world_process_zero:
            return
        best = args.metric_for_best_model
        if best is not None and not best.startswith("eval_"):
            best = f"eval_{best}"  # as the trainer logs it
        if (primary := self._primary or best) is not None:
            notify.primary(primary)
        notify.ready()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.is_world_process_zero:
            epochs = state.num_train_epochs
            of = f" of {epochs}" if 0 < epochs < sys.maxsize else ""  # a stream has no known end
            notify.status(f"epoch {int(state.epoch or 0) + 1}{of}")

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.is_world_process_zero and self._sign_of_life.due():
            notify.step(state.global_step, progress=_progress(state))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        if state.is_world_process_zero:
            notify.step(state.global_step, progress=_progress(state), metrics=numbers_of(logs or {}))

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.is_world_process_zero:
            notify.step(state.global_step, progress=_progress(state))


def _progress(state: Any) -> float | None:
    return share(state.global_step, state.max_steps)
