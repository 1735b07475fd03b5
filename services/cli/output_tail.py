"""The last lines that a failed run wrote: from its machine's files, else from the log, which keeps 8 KiB of them.

Owns which of the two is asked and how long; prints nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from trainshed_client import subjects
from trainshed_client.errors import TrainshedError

if TYPE_CHECKING:
    from trainshed_client.answers import RunView
    from trainshed_client.client import Trainshed
    from trainshed_client.connection import Reply

LINES = 10
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
WITHIN_S = 2.0


class OutputTail(NamedTuple):
    """Some lines, and what they are of: ``stderr``, ``stdout`` or, where that is not known, ``output``."""

    source: str
    lines: list[str]


class Impatient:
    """Asks an agent once: what `show` tells besides must not wait for a machine that is away."""

    def __init__(self, trainshed: Trainshed) -> None:
        self._connection = trainshed.connection

    async def request(self, subject: str, payload: bytes) -> Reply:
        return await self._connection.request(subject, payload, timeout=WITHIN_S, absent_s=0)


async def output_tail(trainshed: Trainshed, view: RunView) -> OutputTail | None:
    """The last ten lines of the last attempt's stderr; where it wrote none there, of its other output."""
    if not view.attempts:
        return None
    last = max(view.attempts, key=lambda one: one.attempt)
    try:
        return await _of_files(trainshed, last.run_id, last.attempt, last.node, None)
    except TrainshedError:
        return await _from_log(trainshed, last.run_id, last.attempt, last.node)


async def tail_by(trainshed: Trainshed, run_id: str, attempt: int, node: str, time: str) -> OutputTail | None:
    """The same of what an attempt had written by a time, by its node's clock. Raises TrainshedError."""
    from trainshed_client.output_range import written_by

    ends = await written_by(Impatient(trainshed), run_id, attempt, node, datetime.fromisoformat(time))
    return await _of_files(trainshed, run_id, attempt, node, ends)


async def _of_files(
    trainshed: Trainshed, run_id: str, attempt: int, node: str, ends: Mapping[str, int] | None
) -> OutputTail | None:
    from trainshed_client.output_range import last_lines

    for stream in ("stderr", "stdout"):
        tail = await last_lines(
            Impatient(trainshed), run_id, attempt, node, LINES, streams=(stream,), ends=ends
        )
        if found := shown_lines(b"".join(chunk.data for chunk in tail.chunks).decode(errors="replace")):
            return OutputTail(stream, found)
    return None


async def _from_log(trainshed: Trainshed, run_id: str, attempt: int, node: str) -> OutputTail | None:
    import nats.errors

    from events.codec import StoredEvent
    from events.feed import ApiError
    from events.log import EventLog
    from events.types import Failed

    subject = subjects.EventSubject(subjects.Scope.RUN, run_id, subjects.Role.AGENT, "failed", node)
    try:
        stored = await EventLog(trainshed.nc, timeout_s=WITHIN_S).last(str(subject))
    except (nats.errors.Error, TimeoutError, ApiError, TrainshedError):
        return None
    event = stored.event if isinstance(stored, StoredEvent) else None
    if not isinstance(event, Failed) or event.attempt != attempt or not event.output_tail:
        return None
    return OutputTail("output", shown_lines(event.output_tail)) if event.output_tail.strip() else None


def shown_lines(text: str) -> list[str]:
    """The last lines as a terminal would show them, less colours: of a progress bar, what it was at last."""
    text = _COLOUR.sub("", text)
    lines = [line.rstrip("\r").rpartition("\r")[2].expandtabs() for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines[-LINES:]
