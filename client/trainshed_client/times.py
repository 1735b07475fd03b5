"""Times of records and answers: aware `datetime` for programs, RFC 3339 in UTC with microseconds on the wire.

Owns that spelling; reads no clock.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

import msgspec

Time = Annotated[datetime, msgspec.Meta(tz=True)]
"""An aware time; a decoder refuses one without its offset."""
NEVER = datetime.min.replace(tzinfo=timezone.utc)
"""Before every other."""
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def moment(ns: int) -> datetime:
    """Nanoseconds since 1970 as an aware time, to the microsecond."""
    return EPOCH + timedelta(microseconds=ns // 1000)


def utc_text(time: datetime) -> str:
    """As in ``2026-11-24T09:00:12.000000Z``, always with six digits, so that texts sort as times do."""
    return in_its_zone(time.astimezone(timezone.utc))


def in_its_zone(time: datetime) -> str:
    """The same with the offset that ``time`` has."""
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


def with_texts(value: object) -> Any:
    """``value`` of an encoder's plain types, with each time as its text: msgspec's own leaves out microseconds that are 0."""
    return _texts(msgspec.to_builtins(value, builtin_types=(datetime, msgspec.Raw)))


def _texts(value: Any) -> Any:
    if isinstance(value, datetime):
        return utc_text(value)
    if isinstance(value, dict):
        return {name: _texts(item) for name, item in value.items()}
    return [_texts(item) for item in value] if isinstance(value, list) else value
