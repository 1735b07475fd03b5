"""What the callbacks share: which of a framework's logged values are numbers, and how often a mere sign of life is due.

Owns these two; knows no framework.
"""

from __future__ import annotations

import numbers
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EVERY_S = 1.0
"""As often as a run's heartbeats leave its node: more would be seen by nobody."""


def numbers_of(logged: Mapping[str, object]) -> dict[str, object]:
    """Those that `notify.step` takes, by their names: no texts, pictures or histograms."""
    return {
        name: value
        for name, value in logged.items()
        if isinstance(value, numbers.Real) or getattr(value, "ndim", None) == 0
    }


def share(done: float, total: float) -> float | None:
    """``done`` of ``total`` as a progress; None where the total is not known."""
    return min(1.0, done / total) if 0 < total < float("inf") else None


class SignOfLife:
    """Due at once, and then every ``every_s`` seconds of ``clock``."""

    def __init__(self, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._at: float | None = None

    def due(self) -> bool:
        """Whether it is time; if so, it was now."""
        now = self._clock()
        if self._at is not None and now - self._at < self._every_s:
            return False
        self._at = now
        return True
