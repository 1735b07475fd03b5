"""How far a reader of the event log has come, as numbers and as text.

Owns both; knows neither who reads nor how they are sent.
"""

from __future__ import annotations

import msgspec


class FoldProgress(msgspec.Struct, frozen=True):
    """``folded`` of the ``events`` that are to be read."""

    folded: int
    events: int

    @property
    def text(self) -> str:
        """As in ``40 % of 1,000,000 events``; never 100 %, for then nobody would ask."""
        percent = min(99, 100 * self.folded // self.events) if self.events > 0 else 0
        return f"{max(0, percent)} % of {self.events:,} events"
