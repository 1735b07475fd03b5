"""The projector: batches of log messages into the database, each batch and its checkpoint one transaction.

Owns opening a read model (and when it must be rebuilt) and applying; knows neither NATS nor who reads the rows.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
from sqlalchemy.exc import DatabaseError, OperationalError

from events.change import Change
from events.codec import StoredEvent, Unreadable, decode
from projections.read_model.changed import Applied, applied_of
from projections.read_model.core import Projection
from projections.read_model.database import Database
from projections.read_model.frames import FrameMaker
from projections.read_model.store import Store
from projections.read_model.tables import SCHEMA_VERSION, metadata
from projections.read_model.working_set import Batch
from projections.transparency.fold import TreeFold
from projections.transparency.tiles import Tiles
from trainshed_client.direct_get import Message
from trainshed_client.subjects import EVENTS

_log = logging.getLogger("trainshed.projector")

LONG_BATCH = 500
KEPT_OUT_S = 0.2
"""So long a query may be held up where one database takes another's place."""
Observer = Callable[[StoredEvent, Change], None]


class Projector:
    """One read model being kept up to date. For one thread at a time."""

    def __init__(self, store: Store, projection: Projection, log_id: str, tree: TreeFold) -> None:
        self.store = store
        self.projection = projection
        self.log_id = log_id
        self.tree = tree
        self.frames = FrameMaker(projection)
        self.tiles: Tiles | None = None
        """Where full tiles of the tree are written; None: nowhere."""
        self.warns = True
        """Whether what is wrong with the log is logged: what is quarantined, a gap."""

    @classmethod
    def open(
        cls,
        database: Database,
        log_id: str,
        log_end: int,
        *,
        damage: str | None = None,
        tiles: Tiles | None = None,
    ) -> Projector:
        """Open ``database`` for this log, or begin a new one where it is of another log or schema, or damaged.

        ``damage``: what was found wrong with it while it was in use. ``tiles``: where the tree's full tiles are written.

        What is not used is moved aside with a WARNING, never mixed; of an older schema, which says nothing that the log
        does not, nothing is kept. What a rebuild left that was ended in the middle is deleted. Raises sqlalchemy's
        OperationalError where the database cannot be reached or written.
        """
        database.clear_beside()
        projector = cls._opened(database, log_id, log_end, damage)
        projector.tiles = tiles
        return projector

    @classmethod
    def _opened(cls, database: Database, log_id: str, log_end: int, damage: str | None) -> Projector:
        if damage is not None:
            return cls._anew(database, log_id, f"is damaged ({damage})")
        try:
            return cls._open(database, log_id, log_end)
        except OperationalError:
            raise
        except (DatabaseError, msgspec.MsgspecError, ValueError) as error:
            why = f"cannot be read ({getattr(error, 'orig', None) or error})"
        return cls._anew(database, log_id, why)

    @classmethod
    def _open(cls, database: Database, log_id: str, log_end: int) -> Projector:
        store = Store(database)
        try:
            store.create()
            at = store.checkpoint()
            why = None
            if at is None:
                pass
            elif at.log_id != log_id:
                why = f"is of another event log ({at.log_id}, not {log_id})"
            elif at.schema_version != SCHEMA_VERSION:
                store.close()
                return cls._migrated(database, log_id, at.schema_version)
            elif at.seq > log_end:
                why = f"is at sequence {at.seq}, beyond the log's end {log_end}"
            if why is None:
                return cls(store, store.projection(), log_id, store.tree())
        except BaseException:
            store.close()
            raise
        store.close()
        return cls._anew(database, log_id, why)

    @classmethod
    def _anew(cls, database: Database, log_id: str, why: str) -> Projector:
        kept = database.move_aside("old")
        if kept is not None:
            _log.warning(
                "the read model %s %s: rebuilt from the log, the old one is %s", database.path, why, kept
            )
            store = Store(database)
        else:
            _log.warning("the read model %s: rebuilt from the log", why)
            store = Store(database)
            store.drop()
        return cls._empty(store, log_id)

    @classmethod
    def _migrated(cls, database: Database, log_id: str, version: int) -> Projector:
        """Begin anew in the place of tables that this release cannot read: who dies on the way goes on there."""
        _log.warning(
            "the read model %s has schema version %d, not %d: rebuilt from the log",
            database.path or database.url,
            version,
            SCHEMA_VERSION,
        )
        erased = database.erase()
        store = Store(database)
        if not erased:
            store.drop()
        return cls._empty(store, log_id)

    @classmethod
    def _empty(cls, store: Store, log_id: str) -> Projector:
        store.create()
        return cls(store, Projection(store), log_id, TreeFold())

    def begin_beside(self) -> Projector | None:
        """A new read model beside this one, of which nothing is folded yet; None where there can be none (in memory)."""
        database = self.store.database.beside()
        if database is None:
            return None
        store = Store(database)
        try:
            projector = self._empty(store, self.log_id)
        except BaseException:
            store.close()
            raise
        projector.tiles, projector.warns = self.tiles, False  # all of it was told before
        return projector

    def give_way_to(self, built: Projector, between: Callable[[], None]) -> Projector | None:
        """Put what ``built`` made beside this one in this one's place: the projector that goes on with it there. None where
        the tables are being read just now, and will be again: nothing has happened then.

        Both were gathered before, so that there is little left to do while queries wait. ``between`` is called in the
        middle. After an exception both are to be thrown away.
        """
        database, fold = self.store.database, built.projection
        with database.readers.kept_out(KEPT_OUT_S) as gone:
            if not (gone and built.store.gather() and self.store.gather()):
                return None
            self.store.close()
            built.store.close()
            between()
            database.take(built.store.database, metadata)
            store = Store(database)
            database.remember()
        fold.working.committed = store
        projector = Projector(store, fold, self.log_id, built.tree)
        projector.tiles = self.tiles
        return projector

    @property
    def state_hash(self) -> int:
        """That of what is committed."""
        return self.projection.working.state_hash

    @property
    def seq(self) -> int:
        """The last sequence that is committed."""
        return self.projection.working.seq

    def close(self) -> None:
        """Close the writer's connection."""
        self.store.close()

    def apply(
        self, messages: Sequence[Message], observe: Observer | None = None, *, with_records: bool = True
    ) -> Applied:
        """Fold messages and commit what they change with the checkpoint; ``with_records``: and return the changed records.

        After an exception the projection in memory is ahead of the database: throw this projector away and open anew.
        """
        projection, last = self.projection, self.projection.working.seq
        if not messages or messages[-1].seq <= last:
            return Applied(last)
        with without_gc(len(messages) >= LONG_BATCH), self.store.connection.begin():
            batch = fold(projection, messages, observe, self.frames)
            levels = self._grow_tree(messages, last)
            self.store.write(batch, self.log_id, self.tree.first, levels)
            self.store.put_frames(self.frames.take())
        for kept in batch.quarantine if self.warns else ():
            _log.warning("quarantined sequence %d on %s: %s", kept.seq, kept.subject, kept.reason)
        return applied_of(batch, projection.working.state) if with_records else Applied(batch.seq)

    def _grow_tree(self, messages: Sequence[Message], last: int) -> dict[int, bytes]:
        """Fold the messages after ``last`` into the tree: what of its right edge is to be committed.

        Full tiles are written before: whoever dies between writes the same ones again.
        """
        tree, was_stopped = self.tree, self.tree.stopped
        tree.extend(messages, after=last)
        full, levels = tree.take_changes()
        for tile in full:
            if self.tiles is not None and (kept := self.tiles.write(tile)) is not None:
                _log.warning(
                    "the log gives another tile of its tree than it did before: the old one is %s", kept
                )
        if tree.stopped != was_stopped and self.warns:
            _log.warning(
                "the event log has no sequence %d: its tree ends there, with %d leaves",
                tree.stopped,
                tree.size,
            )
        return levels


def fold(
    projection: Projection,
    messages: Sequence[Message],
    observe: Observer | None = None,
    frames: FrameMaker | None = None,
) -> Batch:
    """Have the projection fold what it has not folded yet, and return what that changed; ``frames`` are made meanwhile."""
    last, due = projection.working.seq, math.inf if frames is None else frames.due
    projection.begin({run_id for message in messages if (run_id := _run_of(message.subject))})
    for seq, stored_ns, subject, body in messages:
        if seq <= last:
            continue
        event = decode(subject, body, seq, stored_ns)
        if isinstance(event, Unreadable):
            projection.quarantine(event)
        else:
            change = projection.apply(event, body)
            if observe is not None:
                observe(event, change)
        if seq >= due:
            assert frames is not None
            frames.make(stored_ns)
            due = frames.due
    if frames is not None:
        frames.note(projection.sum_up())
    return projection.finish()


@contextmanager
def without_gc(makes_many: bool = True) -> Iterator[None]:
    """For what ``makes_many`` values and no cycles, as a long batch: looking for some would take a tenth of its time."""
    pause = makes_many and gc.isenabled()
    if pause:
        gc.disable()
    try:
        yield
    finally:
        if pause:
            gc.enable()


_RUN_EVENTS = f"{EVENTS}.run."


def _run_of(subject: str) -> str | None:
    """The run that a subject speaks of, cheaply: what is no event's subject may give anything."""
    if not subject.startswith(_RUN_EVENTS):
        return None
    return subject[len(_RUN_EVENTS) : subject.find(".", len(_RUN_EVENTS))]
