"""How things stood after an earlier event: what was kept nearest before it, and the log from there on, by the projector's core.

Owns how a moment is found out; knows neither NATS, from which others hand in the messages, nor any query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from events.state import State
from projections.past.kept import Beginning, kept_before
from projections.past.then import RUN_PARTS, DatabaseThen
from projections.queries.answers import Queries
from projections.read_model import reports
from projections.read_model.committed import StoredRows
from projections.read_model.core import Projection
from projections.read_model.database import Database
from projections.read_model.projector import fold, without_gc
from projections.read_model.rows import AttemptRow, NodeRow, Row, RunRow, SlotRow
from projections.read_model.working_set import LiveSet
from trainshed_client.direct_get import Message

_LEFT_OUT: dict[type[Row], dict[str, Any]] = {
    kind: {field.name: field.default for field in msgspec.structs.fields(kind) if field.name in columns}
    for kind, columns in (
        (RunRow, reports.OF_RUN),
        (AttemptRow, reports.OF_ATTEMPT),
        (SlotRow, reports.OF_SLOT),
        (NodeRow, reports.OF_NODE),
    )
}


class Moment(msgspec.Struct, frozen=True):
    """All that was live after an event, and when that was stored (ns since 1970; 0: before the first)."""

    live: LiveSet
    state: State
    stored_ns: int


class StateThen:
    """All that was live, for who asks a connection for it."""

    def __init__(self, state: State) -> None:
        self._state = state

    def state(self, connection: Connection) -> State:
        """See ``HasState``."""
        return self._state


class Past:
    """The moments of one database. For any number of threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def before(self, seq: int) -> Beginning:
        """What was kept nearest to ``seq``, at it or before it."""
        with without_gc(), self._database.reading() as connection:
            return kept_before(self._database, connection, seq)

    def after(self, kept: Beginning, messages: Sequence[Message]) -> Moment:
        """The moment after the last of ``messages``, which are all since ``kept``. That cannot be used any more."""
        database = self._database
        with (
            without_gc(),
            DatabaseThen(database, kept.live.seq, None).reading() as connection,
        ):
            projection = Projection.restored(StoredRows(database, connection), kept.live)
            fold(projection, messages)
        live = projection.working.live()
        _forget_heartbeats(live)
        stored_ns = messages[-1].stored_ns if messages else kept.stored_ns
        return Moment(live, projection.working.state, stored_ns)

    def queries(self, seq: int, moment: Moment) -> Queries:
        """What is asked of that moment as of the present; ``seq``: the event that it is after, by which it is known."""
        then = DatabaseThen(self._database, seq, moment.live)
        return Queries(then, StateThen(moment.state), RUN_PARTS)


def _forget_heartbeats(live: LiveSet) -> None:
    """Set what only heartbeats tell to unknown, in all that is live."""
    nodes, runs = (row for row, _ in live.nodes), (row for row, _ in live.runs)
    for rows in (runs, live.attempts, live.slots, nodes):
        for row in rows:
            for name, unknown in _LEFT_OUT[type(row)].items():
                setattr(row, name, unknown)
