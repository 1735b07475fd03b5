"""Lightning (`lightning` or `pytorch_lightning`): `Trainer(callbacks=[LightningCallback(primary="val_loss")])`.

Owns what of a training is reported, and when; knows neither the keys nor the socket (`trainshed_client.notify` does).
"""

from __future__ import annotations

from typing import Any

try:
    from lightning.pytorch import Callback
except ImportError:
    from pytorch_lightning import Callback

from trainshed_client import notify
from trainshed_client.integrations.reporting import SignOfLife, share


class LightningCallback(Callback):
    """Reports ready when the training starts, and what `self.log` logs, under the names that `ModelCheckpoint(monitor=…)` knows.

    Of training steps every ``log_every_n_steps``, as the loggers of a trainer; the step and the progress once a second too.
    Only the process of global rank zero reports. ``primary``: the metric that listings show.
    """

    def __init__(self, *, primary: str | None = None) -> None:
        super().__init__()
        self._primary = primary
        self._sign_of_life = SignOfLife()
        self._total: float = 0
        self._logged: dict[str, Any] = {}
        self._reported: dict[str, float] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        try:
            self._total = trainer.estimated_stepping_batches
        except Exception:  # noqa: BLE001  # the trainer cannot estimate them: then there is no progress, but a training
            self._total = 0
        if self._primary is not None:
            notify.primary(self._primary)
        notify.ready()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            of = f" of {trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
            notify.status(f"epoch {trainer.current_epoch + 1}{of}")

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.is_global_zero:
            return
        if (batch_idx + 1) % (trainer.log_every_n_steps or 1) == 0:
            self._report(trainer, unchanged=False)
        elif self._sign_of_life.due():
            notify.step(trainer.global_step, progress=share(trainer.global_step, self._total))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            self._report(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self._report(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self._report(trainer, unchanged=False)

    def _report(self, trainer: Any, *, unchanged: bool = True) -> None:
        """What was logged anew; without ``unchanged`` what has another value, for at a step the trainer has the epochs' too."""
        if not notify.listening():
            return
        logged = trainer.callback_metrics
        both = {name for name in logged if f"{name}_step" in logged or f"{name}_epoch" in logged}
        new = {
            name: value
            for name, value in logged.items()
            if name not in both  # now the one, now the other
            and self._logged.get(name) is not value
            and (unchanged or self._reported.get(name) != float(value))
        }
        self._logged = dict(logged)
        self._reported.update({name: float(value) for name, value in new.items()})
        notify.step(trainer.global_step, progress=share(trainer.global_step, self._total), metrics=new)
