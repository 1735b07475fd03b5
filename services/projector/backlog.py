"""Whether a reader of the log that is behind is worth waiting for, and how far it is.

Owns that estimate, which is pure; knows neither what is folded nor who asks.
"""

from __future__ import annotations

import msgspec

FEW = 10_000
"""So many events are folded within a question's time on any machine; the pace of the first batch is not known."""


class Backlog(msgspec.Struct, frozen=True):
    """A long way that a projector has to go: from sequence ``begin`` on, since ``began_at`` (seconds)."""

    begin: int
    began_at: float

    def is_near(self, seq: int, end: int, now: float, within_s: float) -> bool:
        """Whether ``end`` is reached within so many seconds from ``seq``, at the pace so far."""
        left, done, seconds = end - seq, seq - self.begin, now - self.began_at
        if left <= 0:
            return True
        if done <= 0:
            return left <= FEW and seconds < within_s
        return left * seconds <= within_s * done
