"""How many connections a listener takes: a second, at a time, and of one address.

Owns that count, which is pure (the clock is passed in) and bounded; knows no socket.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

RATE = 5.0
BURST = 10.0
ADDRESS_RATE = 2.0
ADDRESS_BURST = 5.0
"""One address alone cannot use up what all have."""
MOST_OPEN = 32
MOST_OPEN_OF_ADDRESS = 8
MOST_ADDRESSES = 1024


@dataclass
class _Bucket:
    rate: float
    burst: float
    tokens: float
    at: float

    def fill(self, now: float) -> float:
        self.tokens = min(self.burst, self.tokens + max(0.0, now - self.at) * self.rate)
        self.at = now
        return self.tokens


class ConnectionLimits:
    """Counts connections from their begin to their end."""

    def __init__(self, now: float) -> None:
        self._all = _Bucket(RATE, BURST, BURST, now)
        self._addresses: OrderedDict[str, _Bucket] = OrderedDict()
        self._open: dict[str, int] = {}

    def begin(self, address: str, now: float) -> bool:
        """Whether one more connection of this address is taken; if so, `end` is owed."""
        if sum(self._open.values()) >= MOST_OPEN or self._open.get(address, 0) >= MOST_OPEN_OF_ADDRESS:
            return False
        own = self._addresses.pop(address, None) or _Bucket(ADDRESS_RATE, ADDRESS_BURST, ADDRESS_BURST, now)
        self._addresses[address] = own
        while len(self._addresses) > MOST_ADDRESSES:
            self._addresses.popitem(last=False)
        if own.fill(now) < 1 or self._all.fill(now) < 1:
            return False
        own.tokens -= 1
        self._all.tokens -= 1
        self._open[address] = self._open.get(address, 0) + 1
        return True

    def end(self, address: str) -> None:
        """A connection that was taken is over."""
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]
