"""Timeline entries as an answer bears them, for what shows them."""

from __future__ import annotations

import msgspec

from tests.support.times import at
from trainshed_client.records import TimelineEntry
from trainshed_client.rendering.timeline import TimelineData, text


def entry(seq: int, time: str, kind: str, data: TimelineData) -> TimelineEntry:
    """An entry with its sentence."""
    return TimelineEntry(
        seq=seq, time=at(time), type=kind, data=msgspec.to_builtins(data), text=text(kind, data)
    )
