"""How times, numbers, sizes and ids are written for people, and how memory is read.

Owns those spellings (services/durations.py has that of durations); reads no clock.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from trainshed_client.errors import ErrorCode, TrainshedError

SHORT_ID = 6
Time = str | datetime
"""RFC 3339, or as records have it."""
_MEMORY = re.compile(r"(\d{1,15})\s*(?:(m|g|t)(?:i?b)?)?\Z")
_MEMORY_UNITS = {None: 1, "m": 1, "g": 1024, "t": 1024 * 1024}


def parse_memory_mb(text: str, *, what: str) -> int:
    """MiB in ``2048``, ``2048M`` or ``2G``. Raises TrainshedError (invalid)."""
    found = _MEMORY.match(text.strip().lower())
    if found is None:
        raise TrainshedError(ErrorCode.INVALID, f"{what} is {text!r:.60}; write MB, as in 2048, or 2G")
    return int(found[1]) * _MEMORY_UNITS[found[2]]


def seconds_between(start: Time | None, end: Time | None) -> float | None:
    """Seconds between two times, None where one is unknown or unreadable."""
    if start is None or end is None:
        return None
    try:
        return (_read(end) - _read(start)).total_seconds()
    except (ValueError, TypeError):
        return None


def zoned(time: Time) -> str:
    """A time as a program may read it, in the caller's zone: ``2026-11-24T10:00:12.123456+01:00``."""
    at = _local(time)
    return str(time) if at is None else at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def time_of_day(time: Time) -> str:
    """A time to the second, in the caller's zone: ``2026-11-24 10:00:12``."""
    at = _local(time)
    return str(time) if at is None else at.strftime("%Y-%m-%d %H:%M:%S")


def day_or_time(time: Time, now: Time) -> str:
    """A time in few letters, in the caller's zone: ``10:00``, another day's ``Nov 23``, another year's ``2025-11-23``."""
    at, today = _local(time), _local(now)
    if at is None or today is None:
        return str(time)
    if at.date() == today.date():
        return at.strftime("%H:%M")
    return at.strftime("%b %d" if at.year == today.year else "%Y-%m-%d")


def _local(time: Time) -> datetime | None:
    """In the zone of ``$TZ``, else the machine's."""
    try:
        return _read(time).astimezone()
    except (ValueError, OverflowError):
        return None


def _read(time: Time) -> datetime:
    return datetime.fromisoformat(time) if isinstance(time, str) else time


def count(value: float) -> str:
    """A step or a number of things: ``1200``, ``12.3k``, ``120k``, ``1.5M``, ``1e+15``."""
    if abs(value) >= 1e15:
        return f"{value:.3g}"
    for least, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= least:
            scale = 1e3 if unit == "k" else least
            return f"{value / scale:.1f}".removesuffix(".0") + unit
    return f"{value:g}"


def format_bytes(size: int) -> str:
    """A number of bytes in its largest unit (of 1,024): ``0 B``, ``812 KB``, ``1.5 MB``, ``74 GB``, ``1.8 TB``."""
    value, unit = float(size), "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if value >= 10 or value == int(value) else f"{value:.1f} {unit}"


def metric(value: float) -> str:
    """A measured number with four digits: ``195.2``, ``0.0312``, ``1.234e+07``."""
    return f"{value:.4g}"


def ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``1,003rd`` ..."""
    ending = "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


def clean(text: str) -> str:
    """``text`` fit for one line of a terminal: what does not print is shown escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def short(run_id: str) -> str:
    """The first characters of a run id, enough to name it."""
    return run_id[:SHORT_ID]


def shown_id(run_id: str, *, whole: bool) -> str:
    """A run id as a screen has it: whole for programs."""
    return run_id if whole else short(run_id)


def shortest(run_ids: Sequence[str]) -> dict[str, str]:
    """For each of these ids its shortest unique prefix among them, of at least six characters."""
    length = SHORT_ID
    while len({run_id[:length] for run_id in run_ids}) < len(set(run_ids)):
        length += 1
    return {run_id: run_id[:length] for run_id in run_ids}
