"""Whether others compute on a device of ours: seen for long, and not what an attempt of ours has just left there.

Owns how long something must be seen and how long it must be gone; knows no process, no clock and no event. Pure.
"""

from __future__ import annotations

import msgspec

SEEN_S = 30.0
"""So long others must have been seen at every look before the device is busy."""
GONE_S = 30.0
"""And so long none must have been before it is free again."""
AFTER_OWN_END_S = 10.0
"""So long after an own attempt's end nothing that is seen counts: it may be what is left of that."""


class Busy(msgspec.Struct, frozen=True, kw_only=True):
    """What the looks at one device came to. Times are seconds of a monotonic clock."""

    busy: bool = False
    seen_since: float | None = None
    gone_since: float | None = None

    def look(self, now_s: float, others: bool, own_end_s: float | None) -> Busy:
        """After one more look: whether ``others`` computed there, and when an own attempt last ended (None: never)."""
        if others and (own_end_s is None or now_s - own_end_s >= AFTER_OWN_END_S):
            since = now_s if self.seen_since is None else self.seen_since
            return Busy(busy=self.busy or now_s - since >= SEEN_S, seen_since=since)
        since = now_s if self.gone_since is None else self.gone_since
        return Busy(busy=self.busy and now_s - since < GONE_S, gone_since=since)
