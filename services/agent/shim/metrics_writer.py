"""The shim's hand on metrics.jsonl: lines wait in memory and are written out once a second, in a thread, since the storage may hang.

Owns when that is and what becomes of lines that cannot be written; knows no worker and decides no end.
"""

from __future__ import annotations

import _thread  # the shim has no need of more of threading
import math
import time

from services.agent.shim import metrics_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WRITE_EVERY_S = 1.0
"""Seconds from one write to the next; the first line is written at once."""
WRITE_BYTES = 1 << 20
"""So much is written at once."""
LAST_WITHIN_S = 2.0
"""Seconds that an attempt's end waits for its last lines to be written."""


PENDING_BYTES = 4 << 20
"""What waits for storage that hangs or is full; of more some is left out."""


class MetricsWriter:
    """Writes the lines that are put, in their order. Only the writes themselves are another thread's."""

    def __init__(self, path: str, written: Callable[[], None]) -> None:
        """``written`` is called after each write that succeeded, in its thread."""
        self._path = path
        self._written = written
        self._times = metrics_file.LineTimes()
        self._pending: list[bytes] = []
        self._bytes = 0
        self._left_out = 0
        self._failed: tuple[list[bytes], int] | None = None
        """What a write could not write; the thread's, until the write has ended."""
        self._next = 0.0
        self._writing = False
        self._done = _thread.allocate_lock()

    def put(
        self,
        step: int | None,
        progress: float | None,
        metrics: Iterable[tuple[str, float]],
        offset: int | None,
    ) -> None:
        """Have a line written."""
        one = metrics_file.line(self._times.next(), step, progress, metrics, offset)
        self._pending.append(one)
        self._bytes += len(one)
        if self._bytes > PENDING_BYTES:
            self._thin()

    def _take_back(self) -> None:
        if self._failed is not None and not self._writing:
            (lines, left_out), self._failed = self._failed, None
            self._pending[:0] = lines
            self._bytes += sum(map(len, lines))
            self._left_out += left_out

    def _thin(self) -> None:
        lines, keep = self._pending, metrics_file.kept(self._pending)
        self._pending = [one for one, stays in zip(lines, keep) if stays]
        self._bytes = sum(map(len, self._pending))
        self._left_out += len(lines) - len(self._pending)

    @property
    def due(self) -> float:
        """When to call `write`, on its clock; infinity: there is nothing to do."""
        if self._bytes > WRITE_BYTES and not self._writing and self._failed is None:
            return -math.inf
        return self._next if self._pending or self._writing or self._failed else math.inf

    def write(self, now: float) -> None:
        """Begin to write what waits, unless a write is under way still."""
        self._next = now + WRITE_EVERY_S
        self._take_back()
        if self._pending and not self._writing:
            self._begin()

    def finish(self) -> None:
        """Write what is left. Storage that hangs is not waited for longer than a moment."""
        give_up = time.monotonic() + LAST_WITHIN_S
        if self._ended(give_up):
            self._take_back()
            if self._pending:
                self._begin()
                self._ended(give_up)

    def _begin(self) -> None:
        lines, self._pending, self._bytes = self._pending, [], 0
        left_out, self._left_out = self._left_out, 0
        self._writing = True
        self._done.acquire()
        _thread.start_new_thread(self._append, (lines, left_out))

    def _append(self, lines: list[bytes], left_out: int) -> None:
        """In the thread."""
        try:
            metrics_file.append(self._path, b"".join(lines), left_out)
        except OSError:
            # A full disk, or a folder that was taken away: again in a second.
            self._failed = lines, left_out
        else:
            self._written()
        finally:
            self._writing = False
            self._done.release()

    def _ended(self, give_up: float) -> bool:
        """Whether no write is under way, by then."""
        if not self._writing:
            return True
        if not self._done.acquire(timeout=max(0.0, give_up - time.monotonic())):
            return False
        self._done.release()
        return True
