"""The projector as a service: follows the log and the heartbeats into its database, and answers queries from it.

Owns the order of its work (fold, commit, then put records); knows no table and no query.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import nats.errors

from events.feed import ApiError, Feed
from events.log import EventLog, last_message
from projections.past.moment import Past
from projections.queries.answers import Queries
from projections.queries.proofs import Proofs, StoredTree
from projections.queries.totals import Adder, Totals
from projections.read_model.changed import Applied
from projections.read_model.database import DatabaseGone
from projections.read_model.heartbeats import apply_heartbeats
from projections.read_model.projector import Projector
from projections.transparency.tiles import Tiles
from services.api import ApiServer
from services.failpoints import delay, failpoint
from services.lifecycle import first_cause
from services.people import People
from services.position import Position
from services.projector.backlog import Backlog
from services.projector.calls import Answers
from services.projector.kept_records import KeptRecords
from services.projector.memory import give_back_memory
from services.projector.mending import claim, mend
from services.projector.past import PastMoments
from services.projector.publishing import Publisher
from services.projector.rebuild import Rebuilds
from services.projector.signer import Signer
from services.projector.start import Start, ends
from services.projector.trouble import (
    FAILURES,
    Trouble,
    closer_look,
    hindrance_of,
    open_database,
    start_refused,
)
from services.projector.waiting import WaitingRuns
from services.projector.writing import Writing
from trainshed_client import subjects
from trainshed_client.direct_get import Message
from trainshed_client.errors import TrainshedError
from trainshed_client.nats_client import SafeClient

_log = logging.getLogger("trainshed.projector")

AGAIN_AFTER_S = 1.0
AGAIN_AFTER_MAX_S = 60.0
"""Between one rebuild of a database that turns out damaged every time and the next."""
HEARTBEATS_EVERY_S = 0.2
"""At the most so often heartbeats are written; those that come meanwhile are written together."""
LOOK_EVERY_S = 2.0
"""So often it is seen to that the database's file is still there, beside each query's look."""
LINGER_S = 0.008
"""What is stored so closely is one transaction; and no row is written while a run that was just submitted is started."""
BATCH = 2_000
"""Events of one transaction: a run that began and ended within it is one row, written once (bench/projector_rebuild.py)."""
MAX_REQUEST_BYTES = 64 * 1024
LONG_BACKLOG = 2_000

P = ParamSpec("P")
T = TypeVar("T")


class ProjectorService:
    """Builds one read model and serves its queries; several may run, each with a database of its own.

    ``database``: a path of an SQLite file, or an SQLAlchemy URL. ``audit_dir``: the folder of the log's tree (by default
    ``audit`` beside the file). ``records``: keep the record buckets too and sign the tree, which one projector of a stack
    does; ``monitor_url``: the server's monitoring, which says who could not follow these; ``replicas``: how many servers have each bucket. ``people``: what each is granted. The clock (ns) is only used for what
    a queued run waits for.
    """

    name = "projector"

    def __init__(
        self,
        nc: SafeClient,
        database: str | Path,
        *,
        audit_dir: Path | None = None,
        records: bool = False,
        monitor_url: str | None = None,
        replicas: int = 1,
        start: Start = Start.ALONE,
        people: People | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._people = people
        self.ready = asyncio.Event()
        self._nc = nc
        self._log = EventLog(nc)
        self._database = open_database(database)
        self._audit_dir = audit_dir or (self._database.path or Path.cwd()).with_name("audit")
        self._tiles = Tiles(self._audit_dir)
        self._proofs = Proofs(self._database, self._tiles)
        self._tiles_lost = asyncio.Event()
        self._signer: Signer | None = None
        self._queries = Queries(self._database)
        self._adder = Adder(self._database)
        self._position = Position()
        self._backlog: Backlog | None = None
        self._stop = asyncio.Event()
        self._opened = asyncio.Event()
        self._serving = False
        self._start: Start | None = start
        """For whom it starts; None once the database was open."""
        self._trouble = Trouble(self._where)
        self._writing = Writing()
        self._readers = ThreadPoolExecutor(2, "projector-reader")  # each thread keeps memory of its own
        self._past = PastMoments(Past(self._database), self._log, self._position, clock)
        self._records = (
            KeptRecords(nc, self._writing, self._queries, self._in_reader, clock, monitor_url, replicas)
            if records
            else None
        )
        self._rebuilds = Rebuilds(
            self._log, self._writing, self._position, where=self._where, differs=self._put_again
        )
        self._answers = Answers(
            self._queries,
            WaitingRuns(clock),
            self._log,
            self._position,
            self._opened,
            lambda: self._backlog,
            self._trouble,
            self._in_reader,
            past=self._past,
            proofs=self._proofs,
            tiles_lost=self._tiles_lost.set,
            signer=lambda: self._signer,
            rebuild=self._rebuilds.parts,
            keeps_records=records,
            people=people,
        )

    async def run(self) -> None:
        """See Service. Raises TrainshedError where the event log is not there, or its start ends (`start.ends`)."""
        try:
            async with asyncio.TaskGroup() as tasks:
                work = tasks.create_task(self._project_for_ever())
                async with ApiServer(
                    self._nc,
                    "projector",
                    self._answers.calls(),
                    max_bytes=MAX_REQUEST_BYTES,
                    people=self._people,
                ):
                    self._serving = True
                    await self._opened_or_stopped(work)
                    if self._opened.is_set():
                        self._set_ready()
                    await self._stop.wait()
                    self._rebuilds.give_up("the projector stops")
                work.cancel()
        finally:
            self._past.forget()
            await asyncio.to_thread(self._writing.close)
            await asyncio.to_thread(self._readers.shutdown)
            await asyncio.to_thread(self._past.close)
            self._database.close()

    def stop(self) -> None:
        """See Service."""
        self._stop.set()

    @property
    def position(self) -> int:
        """The last event that is committed."""
        return self._position.seq

    async def totals(self) -> Totals:
        """What the read model adds up to, as it is now."""
        return await asyncio.to_thread(self._adder.totals)

    async def _opened_or_stopped(self, work: asyncio.Task[None]) -> None:
        opened = asyncio.ensure_future(self._opened.wait())
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({opened, stopped, work}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            opened.cancel()
            stopped.cancel()

    # --- writing ------------------------------------------------------------------------------------------

    async def _project_for_ever(self) -> None:
        """Project; where the database fails, open it again. What was not committed is folded again."""
        damage: str | None = None
        pause_s = AGAIN_AFTER_S
        refusal: TrainshedError | None = None
        while True:
            before, gone = self._position.seq, False
            try:
                await self._project(damage)
            except* (TimeoutError, nats.errors.Error, ApiError) as errors:
                damage = None
                _log.warning("the event log does not answer: %s; trying again", first_cause(errors))
            except* FAILURES as errors:
                refusal = self._refusal(first_cause(errors))
                if refusal is None:
                    gone = isinstance(first_cause(errors), DatabaseGone)
                    damage = self._trouble.failed(first_cause(errors))
                    self._set_ready()
            if refusal is not None:
                raise refusal
            rebuilt_in_vain = damage is not None and self._position.seq <= before
            pause_s = min(2 * pause_s, AGAIN_AFTER_MAX_S) if rebuilt_in_vain else AGAIN_AFTER_S
            await asyncio.sleep(0 if gone else pause_s)

    def _refusal(self, error: BaseException) -> TrainshedError | None:
        """The error that ends a start with this one; None where it is not to end."""
        if self._start is None:
            return None
        error = closer_look(self._database.path, error)
        code = ends(hindrance_of(error), self._start)
        return None if code is None else start_refused(self._where, error, code, self._start)

    @property
    def _where(self) -> str:
        return str(self._database.path or self._database.url)

    def _set_ready(self) -> None:
        """What is asked is answered from now on, if only with the trouble; ready is who can answer more."""
        self._opened.set()
        if self._serving and self._trouble.text is None:
            self.ready.set()
        else:
            self.ready.clear()

    async def _project(self, damage: str | None) -> None:
        log_id, end = await self._log.log_id(), await self._log.end()
        await self._writing.run(self._take_folder, log_id)
        projector = self._writing.begin(
            await self._writing.run(
                Projector.open, self._database, log_id, end, damage=damage, tiles=self._tiles
            )
        )
        self._past.forget()
        if self._records is not None:
            self._records.begin()
        self._position.advance(projector.seq)
        if projector.seq < end:
            self._backlog = Backlog(projector.seq, asyncio.get_running_loop().time())
        if end - projector.seq >= LONG_BACKLOG:
            _log.info("folding %d events into the read model", end - projector.seq)
        try:
            if self._trouble.text is not None:
                await self._writing.run(self._database.try_writing)
            self._trouble.over()
            self._database.remember()  # after that: who read of another one before can tell (calls.AskAgain)
            self._start = None
            self._set_ready()
            async with asyncio.TaskGroup() as tasks:
                if self._records is not None:
                    tasks.create_task(self._records.run())
                tasks.create_task(self._fold(projector.seq, end))
                tasks.create_task(self._trouble.heed_queries())
                tasks.create_task(self._look_after_file())
                tasks.create_task(self._heartbeats())
                tasks.create_task(self._rebuilds.run())
                tasks.create_task(self._keep_tiles())
                if self._signer is not None:
                    publisher = Publisher(
                        self._nc,
                        self._signer,
                        self._position,
                        self._committed_tree,
                        self._root_at,
                        partial(last_message, self._nc, self._log.stream, subjects.LOG_ACCEPTED),
                    )
                    tasks.create_task(publisher.run(lambda: self._backlog is None))
        finally:
            await asyncio.shield(self._writing.run(self._writing.end))

    async def _look_after_file(self) -> None:
        """Raises DatabaseGone once somebody took the file away: what is committed from then on is nowhere."""
        while True:
            await self._trouble.doubted(LOOK_EVERY_S)
            await self._in_reader(self._database.look)

    def _take_folder(self, log_id: str) -> None:
        """Make the audit folder this log's own, with the signer's key where the records are kept."""
        claim(self._audit_dir, log_id)
        if self._records is not None:
            self._signer = Signer(self._audit_dir, log_id)

    async def _keep_tiles(self) -> None:
        """Make the tiles again that are gone at a start, and those that a proof finds lost or damaged."""
        looked_into = False
        while True:
            self._tiles_lost.clear()
            tree = await self._committed_tree()
            unfit = await self._in_reader(partial(self._proofs.unfit, tree, looked_into=looked_into))
            if unfit:
                await mend(self._log, self._tiles, tree, unfit)
            await self._tiles_lost.wait()
            looked_into = True

    async def _committed_tree(self) -> StoredTree:
        return await self._in_reader(self._proofs.tree)

    async def _root_at(self, tree: StoredTree, size: int) -> bytes:
        return await self._in_reader(self._proofs.root, tree, size)

    async def _fold(self, seq: int, end: int) -> None:
        backlog, records = end - seq, self._records
        async with self._log.follow(seq + 1) as feed:
            if records is not None and backlog <= 0:
                records.caught_up()
            while True:
                messages = await feed.batch(BATCH, linger_s=LINGER_S if self._position.seq >= end else 0.0)
                async with self._writing.turn:
                    failpoint("projector.read")
                    projector = self._writing.projector
                    put = records is not None and records.filled
                    applied = await self._writing.run(_apply, projector, messages, with_records=put)
                    failpoint("projector.committed")
                    self._position.advance(applied.seq)
                    if records is not None:
                        await records.folded(applied)
                    failpoint("projector.put")
                if applied.seq >= end:
                    if records is not None:
                        records.caught_up()
                    self._backlog = None
                    if backlog > 0:
                        self._caught_up(backlog)
                        backlog = 0

    def _caught_up(self, events: int) -> None:
        """Give back what a long backlog needed: this process may now be idle for days."""
        if events >= LONG_BACKLOG:
            _log.info("the read model is up to date")
            give_back_memory()

    def _put_again(self) -> None:
        """Fill the buckets from tables that are no longer what they were, of which no moment is kept either."""
        self._past.forget()
        if self._records is not None:
            self._records.put_again()

    async def _heartbeats(self) -> None:
        """The newest heartbeat of each subject, once all that was stored before it is folded."""
        newest: dict[str, Message] = {}
        arrived = asyncio.Event()
        async with (
            Feed(
                self._nc,
                subjects.HEARTBEATS_STREAM,
                (subjects.ALL_HEARTBEATS,),
                last_per_subject=True,
            ) as feed,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._write_heartbeats(newest, arrived))
            while True:
                for message in await feed.batch():
                    newest[message.subject] = message
                arrived.set()

    async def _write_heartbeats(self, newest: dict[str, Message], arrived: asyncio.Event) -> None:
        while True:
            await arrived.wait()
            arrived.clear()
            messages = list(newest.values())
            newest.clear()
            await self._position.reached(await self._log_end())
            async with self._writing.turn:
                applied = await self._writing.run(apply_heartbeats, self._writing.projector, messages)
                if self._records is not None:
                    await self._records.reported(applied)
            await asyncio.sleep(HEARTBEATS_EVERY_S)

    async def _in_reader(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a query's ``work`` beside the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, partial(work, *args, **kwargs))

    async def _log_end(self) -> int:
        """The log's end, asked for until the server answers."""
        while True:
            try:
                return await self._log.end()
            except (TimeoutError, nats.errors.Error, ApiError) as error:
                _log.debug("the event log does not answer: %s", error)
                await asyncio.sleep(AGAIN_AFTER_S)


def _apply(projector: Projector, messages: Sequence[Message], *, with_records: bool) -> Applied:
    time.sleep(delay("projector.batch"))  # in the thread that writes: the loop goes on answering
    return projector.apply(messages, with_records=with_records)
