"""Times as the log and the records bear them: RFC 3339 in UTC with microseconds; the stream's own with nanoseconds.

Owns the conversions; reads no clock.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from trainshed_client.times import EPOCH, in_its_zone, moment


def rfc3339(ns: int) -> str:
    """Nanoseconds since 1970 as ``2026-11-24T08:17:40.123456Z``."""
    return in_its_zone(moment(ns))


def nanoseconds(text: str) -> int:
    """The inverse of :func:`rfc3339`. Raises ValueError for any other text."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; write it in UTC, ending in Z")
    return (time - EPOCH) // timedelta(microseconds=1) * 1000


def rfc3339_exact(ns: int) -> str:
    """Nanoseconds since 1970 as ``2026-11-24T08:17:40.123456789Z``: what a leaf of the log's tree is made of."""
    return f"{rfc3339(ns)[:-1]}{ns % 1000:03}Z"


def nanoseconds_exact(text: str) -> int:
    """The inverse of :func:`rfc3339_exact`, of any RFC 3339 time. Raises ValueError for any other text."""
    fraction = text.partition(".")[2][:9]
    digits = fraction[: len(fraction) - len(fraction.lstrip("0123456789"))]
    return nanoseconds(text) // 1_000_000_000 * 1_000_000_000 + int(digits.ljust(9, "0"))
