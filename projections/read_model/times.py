"""The stream's time of storing as records bear it: ``events.times.rfc3339``, quick for times that come in order.

Owns that shortcut alone.
"""

from __future__ import annotations

import functools

from events.times import rfc3339

_SECOND_NS = 1_000_000_000


def stored_time(ns: int) -> str:
    """The same text as ``rfc3339(ns)``; the part up to the second is made once a second."""
    second, rest = divmod(ns, _SECOND_NS)
    return f"{_up_to_second(second)}{rest // 1000:06d}Z"


@functools.lru_cache(maxsize=64)
def _up_to_second(second: int) -> str:
    return rfc3339(second * _SECOND_NS)[:-7]
