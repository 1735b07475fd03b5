"""A moment as people write it: `2026-11-24T10:32`, `2026-11-24`, `-2h`.

Owns how that is read, in the caller's zone unless one is given; the present time is passed in.
"""

from __future__ import annotations

import re
from datetime import datetime

from events.times import nanoseconds
from services.durations import parse_duration
from trainshed_client.errors import ErrorCode, TrainshedError

ACCEPTED = "a time (2026-11-24T10:32, in your zone unless it ends in one, as in 10:32Z), a day (2026-11-24) or how long ago (-2h)"
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?",
    re.ASCII | re.IGNORECASE,
)


def parse_moment(text: str, now_ns: int, *, given_by: str) -> int:
    """Nanoseconds since 1970 of ``text``; a day is its beginning. ``given_by`` names the option in the error.

    Raises `TrainshedError` (INVALID) for anything else.
    """
    stripped = text.strip()
    try:
        if stripped.startswith("-"):
            ago_ns = int(parse_duration(stripped[1:], given_by=given_by) * 1e9)
            if ago_ns <= now_ns:
                return now_ns - ago_ns
        elif _TIME.fullmatch(stripped):
            return nanoseconds(datetime.fromisoformat(stripped).astimezone().isoformat())
    except (TrainshedError, ValueError, OverflowError):
        pass
    raise TrainshedError(ErrorCode.INVALID, f"{given_by} is {text!r:.60}; write {ACCEPTED}")
