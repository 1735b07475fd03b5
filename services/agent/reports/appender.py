"""What the agent appends to the event log, against its own last event, and again until the outcome is known.

Owns guards and unknown outcomes of an agent's appends (docs/protocol.md rules 2, 8, 11, 13); knows no process or file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from events.codec import NewEvent, StoredEvent, Unreadable, Writer
from events.log import Conflict, EventLog, Guard, Refused, UnknownOutcome, reconnected
from events.types import AttemptEnd, NodeEvent, NodeJoined, NodeLeft
from services.agent.reports.own_reports import (
    RUN_EVENTS,
    AttemptEvent,
    OwnReports,
    StrangeEvent,
    is_own,
    is_report_on,
    strange,
)
from services.agent.session.values import Name
from services.logging import get_logger
from trainshed_client import subjects
from trainshed_client.subjects import Role

_log = get_logger("agent")

PAUSE_S = 1.0
REMEMBERED = 1_000
"""Runs whose last own event is remembered; for others it is read back, which costs a millisecond."""


class Appender:
    """What this agent appends. Every call returns only when its outcome is known, however long that takes.

    ``acknowledged`` is called with each event that the log says it has, and its sequence; ``objects`` with each that it has
    in this node's name, and that this node did not say.
    """

    def __init__(
        self,
        log: EventLog,
        writer: Writer,
        node: str,
        *,
        acknowledged: Callable[[int, NewEvent], None],
        objects: Callable[[StrangeEvent], None],
    ) -> None:
        self._log = log
        self._writer = writer
        self.node = node
        self._acknowledged = acknowledged
        self._objects = objects
        self._last: dict[str, int] = {}

    async def append(self, event: AttemptEvent, own: OwnReports) -> int:
        """Append an event of a run, or find that it was appended before; its sequence (0: refused for good).

        Events of one run must be appended one after the other. ``own``: this node's reports on the event's attempt.
        """
        new = self._writer.new(event)
        own.appends(new)
        guarded = subjects.agent_events(event.run_id, self.node)
        while True:
            guard = Guard(guarded, self._last.get(event.run_id, 0))
            try:
                seq = (await self._log.append(new, guard)).seq
                self._acknowledged(seq, new)
            except Conflict:
                seq = await self._resolve(event, own)
            except UnknownOutcome:
                await reconnected(self._log.nc)
                continue
            except Refused as error:
                _log.warning("the event log takes nothing; trying again", error=error.message)
                await asyncio.sleep(PAUSE_S)
                continue
            if seq:
                self._remember(event.run_id, seq)
                return seq

    async def append_node_event(self, event: NodeEvent) -> None:
        """Append an event of the node that needs no guard. Gives up after a minute: the caller asks again."""
        try:
            new = self._writer.new(event)
            self._acknowledged((await self._log.append_surely(new)).seq, new)
        except (UnknownOutcome, Refused) as error:
            _log.warning("not appended", type=type(event).__name__, error=str(error))

    async def join(self, event: NodeJoined, guard_seq: int) -> int | None:
        """Append NodeJoined while ``guard_seq`` is the last join of the name; None where another came first."""
        subject = subjects.node_event(self.node, Role.AGENT, "node_joined")
        return await self._guarded(self._writer.new(event), Guard(subject, guard_seq))

    async def leave(self, event: NodeLeft, guard_seq: int) -> int | None:
        """Append NodeLeft while the own NodeJoined is the last; None where another has joined."""
        subject = subjects.node_event(self.node, Role.AGENT, "node_joined")
        return await self._guarded(self._writer.new(event), Guard(subject, guard_seq))

    async def name(self) -> Name:
        """The last events of this name, by direct gets of literal subjects (docs/protocol.md rule 11)."""
        while True:
            try:
                joined = await self._last_of(Role.AGENT, "node_joined")
                left = await self._last_of(Role.AGENT, "node_left")
                removed = await self._last_of(Role.GATEWAY, "node_removed")
            except UnknownOutcome:
                await reconnected(self._log.nc)
                continue
            left_event = left.event if isinstance(left, StoredEvent) else None
            return Name(
                joined=0 if joined is None else joined.seq,
                joined_by=_incarnation(joined),
                left=0 if left is None else left.seq,
                left_by=_incarnation(left),
                left_empty=isinstance(left_event, NodeLeft) and not left_event.attempts,
                removed=0 if removed is None else removed.seq,
                removed_of=_incarnation(removed),
            )

    async def _last_of(self, role: Role, type_: str) -> StoredEvent | Unreadable | None:
        return await self._log.last(subjects.node_event(self.node, role, type_))

    async def _guarded(self, new: NewEvent, guard: Guard) -> int | None:
        while True:
            try:
                seq = (await self._log.append(new, guard)).seq
                self._acknowledged(seq, new)
                return seq
            except UnknownOutcome:
                await reconnected(self._log.nc)
            except Refused as error:
                _log.warning("the event log takes nothing; trying again", error=error.message)
                await asyncio.sleep(PAUSE_S)
            except Conflict as conflict:
                last = await self._last_id(guard.subject)
                mine = last if guard.subject == new.subject else await self._last_id(new.subject)
                if mine[1] == new.id:
                    return mine[0]
                if last[0] != guard.seq:
                    return None
                if not conflict.transient:
                    _log.warning("a conflict that cannot be explained; trying again", subject=new.subject)
                await asyncio.sleep(PAUSE_S / 10)

    async def _last_id(self, subject: str) -> tuple[int, str | None]:
        while True:
            try:
                return await self._log.last_id(subject)
            except UnknownOutcome:
                await reconnected(self._log.nc)

    async def _resolve(self, event: AttemptEvent, own: OwnReports) -> int:
        """What stands there after a conflict: the sequence of this event where it was appended, else 0 to append it again.

        A process before this one may have appended it under another id: the same kind of event of the attempt is it, unless
        this node certainly did not say that. Then this one comes after it, and what was said stands in the log.
        """
        last, there = 0, 0
        for type_ in RUN_EVENTS:
            stored = await self._stored(subjects.agent_event(event.run_id, type_, self.node))
            if stored is None:
                continue
            last = max(last, stored.seq)
            if isinstance(stored, Unreadable) or not is_report_on(stored.event, event.run_id, event.attempt):
                continue
            if not is_own(stored, own):
                self._objects(strange(stored, own))
            elif _same(stored.event, event):
                there = max(there, stored.seq)
        if not there and self._last.get(event.run_id, 0) == last:
            await asyncio.sleep(PAUSE_S / 10)  # a cluster that asks to send again
        self._remember(event.run_id, last)
        return there

    async def _stored(self, subject: str) -> StoredEvent | Unreadable | None:
        while True:
            try:
                return await self._log.last(subject)
            except UnknownOutcome:
                await reconnected(self._log.nc)

    def _remember(self, run_id: str, seq: int) -> None:
        self._last.pop(run_id, None)
        self._last[run_id] = seq
        if len(self._last) > REMEMBERED:
            del self._last[next(iter(self._last))]


def _same(stored: object, event: AttemptEvent) -> bool:
    """Whether it is that kind of event; both are of one attempt."""
    kinds = AttemptEnd if isinstance(event, AttemptEnd) else type(event)
    return isinstance(stored, kinds)


def _incarnation(stored: StoredEvent | Unreadable | None) -> str | None:
    """Whose event it was; of one that cannot be read, an incarnation that is nobody's."""
    match stored:
        case None:
            return None
        case StoredEvent(event=NodeEvent(incarnation=incarnation)):
            return incarnation
        case _:
            return f"unreadable (sequence {stored.seq})"
