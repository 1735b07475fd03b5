"""Stable-Baselines3: `model.learn(total, callback=StableBaselines3Callback())`.

Owns what of a training is reported, and when; knows neither the keys nor the socket (`trainshed_client.notify` does).
"""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter

from trainshed_client import notify
from trainshed_client.integrations.reporting import SignOfLife, numbers_of, share


class StableBaselines3Callback(BaseCallback):
    """Reports ready when the training starts, then each line that the library logs, as TensorBoard would get it.

    Between two lines, once a second, it reports the step and the progress. ``primary``: the metric that listings show.
    """

    def __init__(self, *, primary: str | None = "rollout/ep_rew_mean", verbose: int = 0) -> None:
        super().__init__(verbose)
        self._primary = primary
        self._writer = _LoggedLines(self)
        self._sign_of_life = SignOfLife()

    def _on_training_start(self) -> None:
        if self._writer not in self.logger.output_formats:
            self.logger.output_formats.append(self._writer)
        if self._primary is not None:
            notify.primary(self._primary)
        notify.status(f"{type(self.model).__name__} on {self.model.device}")
        notify.ready()

    def _on_step(self) -> bool:
        if self._sign_of_life.due():
            self.report(self.num_timesteps, {})
        return True

    def _on_training_end(self) -> None:
        if self._writer in self.logger.output_formats:
            self.logger.output_formats.remove(self._writer)
        self.report(self.num_timesteps, {})

    def report(self, step: int, metrics: dict[str, Any]) -> None:
        """Report a step and what was logged there."""
        total = self.locals.get("total_timesteps") or 0
        notify.step(step, progress=share(self.num_timesteps, total), metrics=metrics)


class _LoggedLines(KVWriter):
    """Where the library's logger writes its lines, beside its other outputs."""

    def __init__(self, callback: StableBaselines3Callback) -> None:
        self._callback = callback

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        shown = {
            name: value
            for name, value in key_values.items()
            if "tensorboard" not in (key_excluded.get(name) or ())
        }
        self._callback.report(step, numbers_of(shown))

    def close(self) -> None:
        """Nothing is open."""
