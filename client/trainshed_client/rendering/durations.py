"""How long something lasts, for people.

Owns that spelling; `services/durations.py` reads what people write.
"""

from __future__ import annotations

MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86400
FAR_S = 3650 * DAY_S
"""From here on nobody waits for the end, and a number says nothing."""


def format_duration(seconds: float) -> str:
    """The two largest units: ``0.4s``, ``12s``, ``5m``, ``1h30m``, ``2d3h``; ``over 10 years`` from there on."""
    if seconds >= FAR_S:
        return "over 10 years"
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


def in_a_sentence(seconds: float) -> str:
    """``12 s``, ``0.5 s``, ``300 s``; from an hour on as `format_duration`."""
    return f"{seconds:g} s" if seconds < HOUR_S else format_duration(seconds)


def _two(whole: int, large_s: int, large: str, small_s: int, small: str) -> str:
    steps = round(whole / small_s)
    per_large = large_s // small_s
    count, rest = divmod(steps, per_large)
    return f"{count}{large}{rest}{small}" if rest else f"{count}{large}"
