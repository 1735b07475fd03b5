"""Durations as people write them: `90m`, `1-02:00:00`, `3600`; `1h30m`.

Owns how they are read, in seconds (what is shown is trainshed_client/rendering's); must not know what one is for.
"""

from __future__ import annotations

import math
import re

from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.rendering.durations import DAY_S, HOUR_S, MINUTE_S

_UNITS = {"w": 7 * DAY_S, "d": DAY_S, "h": HOUR_S, "m": MINUTE_S, "s": 1}
_NUMBER = r"\d+(?:\.\d+)?"
_SECONDS = re.compile(_NUMBER, re.ASCII)
_PARTS = re.compile("".join(f"(?:({_NUMBER}){unit})?" for unit in _UNITS), re.ASCII)
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)", re.ASCII)
ACCEPTED = (
    "seconds (3600), units from large to small (90m, 1h30m, 2d), or [days-]hours:minutes:seconds (1-02:00:00)"
)


def parse_duration(text: str, *, given_by: str = "the duration") -> float:
    """Seconds of ``text``; ``given_by`` names the option or variable in the error.

    Raises `TrainshedError` (INVALID) for anything else, negative and infinite durations among it.
    """
    stripped = text.strip()
    seconds = math.inf
    if _SECONDS.fullmatch(stripped):
        seconds = float(stripped)
    elif clock := _CLOCK.fullmatch(stripped):
        days, hours, minutes, rest = clock.groups()
        seconds = float(days or 0) * DAY_S + float(hours) * HOUR_S + int(minutes) * MINUTE_S + float(rest)
    elif stripped and (parts := _PARTS.fullmatch(stripped)):
        seconds = sum(
            float(number) * unit
            for number, unit in zip(parts.groups(), _UNITS.values(), strict=True)
            if number is not None
        )
    if not math.isfinite(seconds):
        raise TrainshedError(ErrorCode.INVALID, f"{given_by} is {text!r:.60}; write {ACCEPTED}")
    return seconds
