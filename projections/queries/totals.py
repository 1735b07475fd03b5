"""What the read model adds up to: runs by status, the queue, slots, nodes. For metrics; an answer names no run.

Owns these sums; knows neither who asks nor in which form they are shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec
from sqlalchemy import Connection, and_, func, or_, select

from projections.read_model import tables
from projections.read_model.database import Database
from trainshed_client.statuses import ENDED, GONE, LIVE, NodeStatus, RunStatus

ENDED_SHARE = 20
"""All ended runs are counted anew only after this many times what the last count took: a long history costs time."""


class _Objection(msgspec.Struct, frozen=True):
    """What is read of an objection here."""

    kind: str


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums at ``seq``. ``oldest_pending_at``: when the longest-queued run was submitted (RFC 3339), None for none.

    ``suspect``: why each node that is up is suspect; None: it is not. ``objects``: what kind of objection each node has
    against the log as its witness (None: none); ``witnessed``: the size of the last checkpoint that each cosigned (0: none).
    """

    seq: int
    runs: Mapping[str, int]
    oldest_pending_at: str | None
    slots: int
    slots_used: int
    nodes: Mapping[str, int]
    suspect: Mapping[str, str | None]
    objects: Mapping[str, str | None]
    witnessed: Mapping[str, int]
    quarantined: int


class Adder:
    """Adds up one database. ``clock`` (seconds, monotonic) only decides how often ended runs are counted."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._ended: dict[str, int] = {}
        self._ended_at_seq = -1
        self._ended_again_at = float("-inf")

    def totals(self) -> Totals:
        """All sums, of one read transaction."""
        with self._database.reading() as connection:
            seq = int(connection.execute(select(tables.checkpoint.c.seq)).scalar_one_or_none() or 0)
            live = _by_status(connection, live=True)
            self._count_ended(connection, seq)
            runs = {status.value: live.get(status, 0) for status in LIVE}
            runs |= {status.value: self._ended.get(status, 0) for status in ENDED}
            oldest = connection.execute(
                select(func.min(tables.runs.c.submitted_at)).where(
                    tables.IS_LIVE, tables.runs.c.status == RunStatus.PENDING
                )
            ).scalar_one_or_none()
            counted = connection.execute(
                select(tables.nodes.c.status, func.count()).group_by(tables.nodes.c.status)
            )
            nodes = {str(status): int(number) for status, number in counted}
            node = tables.nodes.c
            up = connection.execute(
                select(node.node, node.suspect_reason).where(node.status == NodeStatus.UP)
            )
            suspect = {str(name): reason for name, reason in up}
            witnesses = connection.execute(
                select(node.node, node.witness_objection, node.witnessed_size).where(
                    node.witness.is_not(None)
                )
            ).all()
            slots, used = _slots(connection)
            quarantined = connection.execute(select(func.count()).select_from(tables.quarantine)).scalar_one()
        return Totals(
            seq=seq,
            runs=runs,
            oldest_pending_at=oldest,
            slots=slots,
            slots_used=used,
            nodes=nodes,
            suspect=suspect,
            objects={str(name): _kind_of(objection) for name, objection, _ in witnesses},
            witnessed={str(name): int(size or 0) for name, _, size in witnesses},
            quarantined=int(quarantined),
        )

    def _count_ended(self, connection: Connection, seq: int) -> None:
        begun = self._clock()
        if seq == self._ended_at_seq or begun < self._ended_again_at:
            return
        self._ended = _by_status(connection, live=False)
        self._ended_at_seq = seq
        ended = self._clock()
        self._ended_again_at = ended + ENDED_SHARE * (ended - begun)


def _by_status(connection: Connection, *, live: bool) -> dict[str, int]:
    status = tables.runs.c.status
    counted = connection.execute(
        select(status, func.count()).where(tables.IS_LIVE if live else tables.IS_ENDED).group_by(status)
    )
    return {str(name): int(number) for name, number in counted}


def _slots(connection: Connection) -> tuple[int, int]:
    """(all, used): the free slots of nodes that left or were removed do not count."""
    slot, node = tables.slots.c, tables.nodes.c
    there = or_(slot.run_id.is_not(None), and_(node.status.is_not(None), node.status.not_in(GONE)))
    joined = tables.slots.outerjoin(tables.nodes, node.node == slot.node)
    row = connection.execute(
        select(func.count(), func.count(slot.run_id)).select_from(joined).where(there)
    ).one()
    return int(row[0]), int(row[1])


def _kind_of(objection: str) -> str | None:
    found = _OBJECTION.decode(objection)
    return None if found is None else found.kind


_OBJECTION = msgspec.json.Decoder(_Objection | None)
