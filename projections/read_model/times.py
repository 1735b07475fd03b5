"""The stream's time of storing as records bear it: ``events.times.rfc3339``, quick for times that come in order.

Owns that shortcut and the way back.
"""

from __future__ import annotations

import functools

from events.times import nanoseconds, rfc3339

_SECOND_NS = 1_000_000_000
_SECOND = len("2026-11-24T08:17:40")


def stored_time(ns: int) -> str:
    """The same text as ``rfc3339(ns)``; the part up to the second is made once a second."""
    second, rest = divmod(ns, _SECOND_NS)
    return f"{_up_to_second(second)}{rest // 1000:06d}Z"


def stored_ns(time: str) -> int:
    """The inverse of :func:`stored_time`, to the microsecond."""
    return _second_of(time[:_SECOND]) + int(time[_SECOND + 1 : -1]) * 1000


@functools.lru_cache(maxsize=64)
def _up_to_second(second: int) -> str:
    return rfc3339(second * _SECOND_NS)[:-7]


@functools.lru_cache(maxsize=64)
def _second_of(text: str) -> int:
    return nanoseconds(f"{text}Z")
