"""Durations as people write and read them: `90m`, `1-02:00:00`, `3600`; `1h30m`.

Owns both directions, in seconds; must not know what a duration is for.
"""

from __future__ import annotations

import math
import re

from trainshed_client.errors import ErrorCode, TrainshedError

MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86400
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
        seconds = int(days or 0) * DAY_S + int(hours) * HOUR_S + int(minutes) * MINUTE_S + float(rest)
    elif stripped and (parts := _PARTS.fullmatch(stripped)):
        seconds = sum(
            float(number) * unit
            for number, unit in zip(parts.groups(), _UNITS.values(), strict=True)
            if number is not None
        )
    if not math.isfinite(seconds):
        raise TrainshedError(ErrorCode.INVALID, f"{given_by} is {text!r}; write {ACCEPTED}")
    return seconds


def format_duration(seconds: float) -> str:
    """The two largest units: ``0.4s``, ``12s``, ``5m``, ``1h30m``, ``2d3h``. `parse_duration` reads it back."""
    if seconds < 9.95:
        tenths = max(0, round(seconds * 10))
        return f"{tenths // 10}s" if tenths % 10 == 0 else f"{tenths / 10}s"
    whole = round(seconds)
    if whole < MINUTE_S:
        return f"{whole}s"
    if whole < HOUR_S:
        return _two(whole, MINUTE_S, "m", 1, "s")
    if round(whole / MINUTE_S) * MINUTE_S < DAY_S:
        return _two(whole, HOUR_S, "h", MINUTE_S, "m")
    return _two(whole, DAY_S, "d", HOUR_S, "h")


def _two(whole: int, large_s: int, large: str, small_s: int, small: str) -> str:
    steps = round(whole / small_s)
    per_large = large_s // small_s
    count, rest = divmod(steps, per_large)
    return f"{count}{large}{rest}{small}" if rest else f"{count}{large}"
