"""Whether a worker's output grows: looked at in a thread, since its storage may hang, and compared with the last look.

Owns the looks; knows no limit. A file's times are its storage's and never held against a clock of this machine.
"""

from __future__ import annotations

import _thread  # the shim has no need of more of threading
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LOOKS = 10
"""Looks within one time-out: a worker that falls silent is found so at most this share of it late."""
SHORTEST_S = 0.05
LONGEST_S = 10.0


class OutputWatch:
    """Looks at these files from `start` on, for a time-out of `timeout_s` by `clock`, in seconds."""

    def __init__(self, paths: Sequence[str], timeout_s: float, clock: Callable[[], float]) -> None:
        self._paths = paths
        self._every_s = min(max(timeout_s / LOOKS, SHORTEST_S), LONGEST_S)
        self._clock = clock
        self._seen: list[tuple[int, int] | None] = []
        self._looked_at = self._grew_at = clock()

    def start(self) -> None:
        """Begin to look, for as long as the process lives."""
        _thread.start_new_thread(self._run, ())

    def grew_at(self) -> float:
        """When a look last found the output other than before; now where the storage does not answer: a hang is no
        silence of the worker."""
        now = self._clock()
        return now if now - self._looked_at > 2 * self._every_s + SHORTEST_S else self._grew_at

    def _run(self) -> None:
        while True:
            seen, now = self._look(), self._clock()
            if seen != self._seen:
                self._seen, self._grew_at = seen, now
            self._looked_at = now
            time.sleep(self._every_s)

    def _look(self) -> list[tuple[int, int] | None]:
        found: list[tuple[int, int] | None] = []
        for path in self._paths:
            try:
                stat = os.stat(path)
            except OSError:
                found.append(None)
            else:
                found.append((stat.st_size, stat.st_mtime_ns))
        return found
