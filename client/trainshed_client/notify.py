"""How a training script reports to Trainshed, in one line each; where nobody listens nothing happens at all.

Owns which names, numbers and texts are sent; knows no socket (`notify_sender` does). Standard library only.

    from trainshed_client import notify

    notify.ready()
    for step in range(1, steps + 1):
        ...
        notify.step(step, progress=step / steps, reward=reward, loss=loss)
    notify.step(step, metrics={"eval/loss": loss})

No call raises, waits or prints. What cannot be sent is left out, and named once as a Python warning. It may be called
from any thread or process of a worker. With several processes (`torchrun`) let one of them report: what the last one sends counts.
"""

from __future__ import annotations

import math
import os
import sys
import warnings

from trainshed_client.notify_sender import DatagramSender

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["listening", "primary", "progress", "ready", "status", "step"]

MAX_METRICS = 64
"""Names of metrics that an attempt may have."""
MAX_NAME = 100
"""Characters of a metric's name."""
MAX_STATUS = 512
"""Characters of a status."""
MAX_STEP = 2**53 - 1
MAX_WARNINGS = 100


class TrainingNotifier:
    """The functions of this module, for an environment and a way to send to its NOTIFY_SOCKET."""

    def __init__(
        self, environment: Mapping[str, str], send: Callable[[str, Mapping[str, str]], None]
    ) -> None:
        self._environment = environment
        self._send = send
        self._names: set[str] = set()
        self._warned: set[str] = set()

    def listening(self) -> bool:
        """Whether anybody listens: for who would compute something for a report alone."""
        return bool(self._environment.get("NOTIFY_SOCKET"))

    def ready(self) -> None:
        """All is loaded and the training begins (`ready_at` of the run)."""
        self._report({"READY": "1"})

    def step(
        self,
        number: object,
        /,
        *,
        progress: object | None = None,
        metrics: Mapping[str, object] | None = None,
        **more: object,
    ) -> None:
        """Report the step that the training is at, and what was measured there; a sign of life.

        ``progress``: as in `progress`. Metrics are those in ``metrics``, and all other names. A value is a number: Python's,
        NumPy's, a tensor of one element; NaN and the infinities are such, None is left out.
        """
        if not self.listening():
            return
        message: dict[str, str] = {}
        if (value := self._number("the step", number)) is not None:
            if value.is_integer() and abs(value) <= MAX_STEP:
                message["X_STEP"] = str(int(value))
            else:
                self._warn("the step", f"the step is {_shown(number)}, not a whole number")
        message.update(self._progress(progress))
        for name, measure in {**(metrics or {}), **more}.items():
            if self._takes(name) and (value := self._number(name, measure)) is not None:
                message[f"X_METRIC_{name}"] = repr(value)
        self._report(message)

    def progress(self, fraction: object) -> None:
        """Report how much of the whole is done, from 0 to 1."""
        if self.listening():
            self._report(self._progress(fraction))

    def status(self, text: object) -> None:
        """Report what it is doing, for a person: 512 characters of one line."""
        if self.listening():
            self._report({"STATUS": " ".join(str(text)[:MAX_STATUS].splitlines())})

    def primary(self, name: str) -> None:
        """Name the metric that matters most: listings show it, until another is named."""
        if self.listening() and self._is_name(name):
            self._report({"X_PRIMARY": name})

    def _report(self, message: Mapping[str, str]) -> None:
        address = self._environment.get("NOTIFY_SOCKET")
        if address and message:
            self._send(address, message)

    def _progress(self, fraction: object) -> dict[str, str]:
        value = self._number("progress", fraction)
        if value is None:
            return {}
        if not math.isfinite(value):
            self._warn("progress", f"progress is {value}, not a finite number")
            return {}
        return {"X_PROGRESS": repr(value)}

    def _takes(self, name: object) -> bool:
        """Whether a metric of this name is sent."""
        if name in self._names:
            return True
        if not self._is_name(name):
            return False
        if len(self._names) >= MAX_METRICS:
            self._warn("too many", f"a run has {MAX_METRICS} metrics at most, and {name!r} is one more")
            return False
        self._names.add(str(name))
        return True

    def _is_name(self, name: object) -> bool:
        if isinstance(name, str) and is_metric_name(name):
            return True
        rule = f'1 to {MAX_NAME} characters that print, no "=", no space at either end'
        self._warn(repr(name), f"{_shown(name)} is no metric's name ({rule})")
        return False

    def _number(self, what: str, value: object) -> float | None:
        """The value as a float; None where there is none."""
        if value is None:
            return None
        try:
            return _as_float(value)
        except Exception as error:  # noqa: BLE001  # whatever a caller's object does: the training goes on
            kind = f"{type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")
            self._warn(what, f"{what} is {_shown(value)} ({kind}), not a number: {error}")
        return None

    def _warn(self, what: str, text: str) -> None:
        if what in self._warned or len(self._warned) >= MAX_WARNINGS:
            return
        self._warned.add(what)
        try:
            warnings.warn(f"trainshed_client.notify: {text}; it is left out", stacklevel=_callers_level())
        except UserWarning as raised:  # where warnings are made errors; a report must not end a training
            print(raised, file=sys.stderr)


def is_metric_name(text: str) -> bool:
    """Whether a metric may be called so; the shim, which imports nothing of this, has the same rule in its `notify`."""
    return (
        0 < len(text) <= MAX_NAME
        and text.isprintable()
        and text == text.strip()
        and "=" not in text
        and "\ufffd" not in text
    )


def _as_float(value: object) -> float:
    if type(value) is float or type(value) is int:
        return float(value)
    if isinstance(value, (str, bytes, bytearray)):
        raise TypeError("a text")
    item = getattr(value, "item", None)  # of NumPy's arrays and of tensors
    return float(item() if callable(item) else value)  # type: ignore[arg-type]  # raises where it has none


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001  # as above
        text = repr(error)
    return text if len(text) <= MAX_NAME else f"{text[:MAX_NAME]}…"


def _callers_level() -> int:
    """Of the nearest frame that is none of this package's, counted from who calls `warnings.warn`."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("trainshed_client"):
        level, frame = level + 1, frame.f_back
    return level


_notifier = TrainingNotifier(os.environ, DatagramSender().send)
listening = _notifier.listening
ready = _notifier.ready
step = _notifier.step
progress = _notifier.progress
status = _notifier.status
primary = _notifier.primary
