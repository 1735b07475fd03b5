"""The attempts that live on this node: their folders, shims and tasks, from grant or restart to the acknowledged end.

Owns what has to be done on disk and with shims for each of the session's actions on an attempt; decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable
from functools import partial

from events.types import AttemptRef
from services.agent.attempts.attempt import LiveAttempt, Parts
from services.agent.attempts.hashing import Hashing
from services.agent.attempts.late_metrics import LateMetrics
from services.agent.folders import files
from services.agent.folders.files import StopReason, WorkerUser
from services.agent.folders.prepared import PreparedFolders
from services.agent.processes.finalise import LockHeld
from services.agent.processes.workers import (
    MetricsWritten,
    ShimExited,
    WorkerHeartbeat,
    Workers,
    WorkerStarted,
)
from services.agent.reports.appender import PAUSE_S
from services.agent.reports.own_reports import OwnReports
from services.agent.session.values import (
    AttemptPlace,
    EndStored,
    ExitWritten,
    FinaliseReason,
    FoldersPrepared,
    Found,
    Input,
    SessionState,
    ShimAlive,
    ShimLost,
    StartedWritten,
)
from services.daemon_thread import in_daemon_thread
from services.failpoints import failpoint
from services.logging import get_logger
from trainshed_client.os_errors import cause
from trainshed_client.statuses import AtFault

_log = get_logger("agent")

FOLLOW_AFTER_S = 0.02
"""Seconds from a worker's start until its output is followed: of one that ends sooner all is published at its end."""


class Attempts:
    """Every attempt whose end is not acknowledged, a LiveAttempt each. What becomes of them goes to ``feed``."""

    def __init__(
        self, parts: Parts, workers: Workers, prepared: PreparedFolders, feed: Callable[[Input], None]
    ) -> None:
        self._parts = parts
        self._folders = parts.folders
        self._workers = workers
        self._prepared = prepared
        self._feed = feed
        self.hashing = Hashing(parts)
        self.late_metrics = LateMetrics(parts.folders)
        self._work: dict[AttemptRef, LiveAttempt] = {}
        self._launches: set[asyncio.Task[None]] = set()
        self._refilling = False
        self._closed = False

    def on(self, ref: AttemptRef) -> LiveAttempt:
        """The attempt's work, begun here where there is none."""
        work = self._work.get(ref)
        if work is None:
            work = self._work[ref] = LiveAttempt(self._parts, ref)
        return work

    def own_reports(self) -> list[tuple[AttemptRef, OwnReports]]:
        """What this node said of each attempt whose end is not acknowledged."""
        return [(work.ref, work.own_reports) for work in self._work.values()]

    def close(self) -> None:
        """Let go of every file; the tasks were cancelled. Shims and workers live on."""
        self._closed = True
        for work in self._work.values():
            work.close()
        self._parts.inside.end()

    # --- after a restart ------------------------------------------------------------------------------------

    async def found(self) -> tuple[Found, ...]:
        """What an earlier process left, its live shims watched again."""
        return tuple(await asyncio.gather(*(self._find(ref) for ref in self._folders.open_attempts())))

    async def _find(self, ref: AttemptRef) -> Found:
        work = self.on(ref)
        work.adopted = True
        folder = work.folder
        work.intent = files.read_intent(folder)
        work.exit = files.read_exit(folder)
        alive = False
        if work.exit is None:
            try:
                alive = await self._workers.adopt(folder)
            except OSError as error:
                _log.warning("not adopted", run_id=ref.run_id, attempt=ref.attempt, error=cause(error))
            work.intent = files.read_intent(folder)  # its shim may have made it again
            work.exit = files.read_exit(folder)
        if alive:
            work.own_reports.running = True
            work.listen()
        stop = files.read_stop(folder)
        return Found(
            ref=ref,
            seq=work.intent.seq if work.intent is not None else 0,
            slots=work.intent.slots if work.intent is not None else (),
            alive=alive,
            ended=not alive and work.exit is not None,
            started=self._workers.has_worker(folder),
            stop=stop.reason if stop is not None else None,
        )

    # --- what is written down: each raises OSError, and may be done again -------------------------------------

    def write_grant(self, ref: AttemptRef) -> None:
        """Marker, and the attempt's folder with lock and intent.json: then the grant is written down."""
        work = self._work[ref]
        intent = work.intent
        assert intent is not None
        self._folders.mark(ref)
        work.prepared = name = self._prepared.take() if ref.attempt == 1 else None
        if name is None or not self._prepared.put_attempt(name, intent, work.folder):
            files.prepare_folder(work.folder)
            files.write_intent(work.folder, intent)
        if self._prepared.short and not self._refilling:
            self._refilling = True
            self._parts.spawn(self.refill())

    def refuse(self, ref: AttemptRef, why: str) -> None:
        """Its grant cannot be written down: there is no exit.json to read its end from."""
        work = self.on(ref)
        work.not_launched(why)
        work.exit = files.not_started(message=work.message)

    def prepare(self, ref: AttemptRef) -> None:
        """Make the run's folder: its storage may hang, so in a thread; at once where it lies on the state folder's, without
        which nothing goes on here anyway. FoldersPrepared as soon as it is made."""
        work = self._work[ref]
        if work.prepared is not None and self._prepared.beside_state:
            name, work.prepared = work.prepared, None
            with contextlib.suppress(OSError):  # then it is tried again without, and says why
                if self._prepared.put_run(name, self._folders.run(ref.run_id), work.user):
                    self._feed(FoldersPrepared(ref))
                    return
        self._parts.spawn(self._prepare_in_thread(work))

    async def _prepare_in_thread(self, work: LiveAttempt) -> None:
        ref = work.ref
        try:
            await in_daemon_thread(partial(self._make_run, ref, work.prepared, work.user))
        except OSError as error:
            # The runs' folder may be storage that is away: this run cannot start here, others may.
            # Another user's worker may have left what is no folder there: then the node is not to blame.
            left_there = work.user is not None and error.errno in (errno.ELOOP, errno.ENOTDIR)
            at_fault = AtFault.RUN if left_there else AtFault.NODE
            work.not_launched(f"the run's folder cannot be made: {cause(error)}", at_fault)
        self._feed(FoldersPrepared(ref))

    def _make_run(self, ref: AttemptRef, name: str | None, owner: WorkerUser | None) -> None:
        if name is None or not self._prepared.put_run(name, self._folders.run(ref.run_id), owner):
            self._folders.make_run(ref, owner)
        elif self._folders.var_logs_dir is not None:
            self._folders.make_output(ref, owner)

    async def begin_folders(self) -> None:
        """Remove what an earlier process made ahead, and make it anew. Raises OSError where it cannot be removed."""
        self._refilling = True
        await in_daemon_thread(self._prepared.clear)
        await self.refill()

    async def refill(self) -> None:
        """Make folders ahead, beside the grants. Without them each grant makes its own."""
        try:
            await in_daemon_thread(self._prepared.refill)
        except OSError as error:
            _log.debug("no folders made ahead", error=cause(error))
        finally:
            self._refilling = False

    def write_folder(self, ref: AttemptRef) -> None:
        """Marker, folder and lock of an attempt that is not to be launched."""
        self._folders.mark(ref)
        files.prepare_folder(self.on(ref).folder)

    def write_stop(self, ref: AttemptRef, reason: StopReason, seq: int) -> None:
        """stop.json."""
        folder = self.on(ref).folder
        try:
            files.write_stop(folder, reason, seq)
        except FileNotFoundError:  # it has vanished; its shim makes the rest again once it is woken
            files.prepare_folder(folder)
            files.write_stop(folder, reason, seq)

    def restore(self, state: SessionState) -> None:
        """Make again what a cleaner of temporary folders took of live attempts: markers and orders to stop; sockets and, by their
        shims, the attempts' folders. Raises OSError."""
        self._parts.inside.restore()
        for each in state.attempts:
            if each.ref in state.refused:
                continue
            self._folders.mark(each.ref)
            stop = each.stop if each.place is AttemptPlace.UP else None
            if stop is not None and not (self.on(each.ref).folder / files.STOP).exists():
                self.write_stop(each.ref, stop, 0)
                self._parts.spawn(self.wake(each.ref))
        self._workers.restore()

    # --- what is done -----------------------------------------------------------------------------------------

    def launch(self, ref: AttemptRef) -> None:
        """Hand the folder to a shim; ShimLost where none takes it."""
        self._work[ref].own_reports.launched = True
        launch = self._parts.spawn(self._launch(self._work[ref]))
        self._launches.add(launch)
        launch.add_done_callback(self._launches.discard)

    async def _launch(self, work: LiveAttempt) -> None:
        if work.message is None:
            work.listen()
            try:
                await self._workers.launch(work.folder)
                failpoint("agent.handed_over")
                return
            except OSError as error:
                work.not_launched(f"it cannot be launched: {cause(error)}")
        _log.warning("not launched", run_id=work.ref.run_id, attempt=work.ref.attempt, reason=work.message)
        self._feed(ShimLost(work.ref))

    async def wake(self, ref: AttemptRef) -> None:
        """Have the shim read stop.json."""
        await self._workers.ask_stop(self._parts.folders.attempt(ref))

    async def finalise(self, ref: AttemptRef, reason: FinaliseReason) -> None:
        """Close an attempt that no shim answers for, however long that takes; ExitWritten, or ShimAlive."""
        work = self._work[ref]
        while True:
            try:
                work.exit = await self._workers.finalise(work.folder, reason)
                failpoint("agent.finalised")
                self._feed(ExitWritten(ref))
                return
            except LockHeld:
                with contextlib.suppress(OSError):
                    if await self._workers.adopt(work.folder):
                        self._feed(ShimAlive(ref))
                        return
            except OSError as error:
                _log.warning(
                    "cannot be closed yet; trying again",
                    run_id=ref.run_id,
                    attempt=ref.attempt,
                    error=cause(error),
                )
            await asyncio.sleep(PAUSE_S)

    async def sweep(self, keep: tuple[AttemptRef, ...]) -> None:
        """End every process of ours that belongs to none of these, once no launch is on its way."""
        if self._launches:
            await asyncio.wait(self._launches)
        while True:
            try:
                ended = await self._workers.sweep([self._folders.attempt(ref) for ref in keep])
                break
            except OSError as error:
                _log.warning("processes of ended attempts cannot be ended yet", error=cause(error))
                await asyncio.sleep(PAUSE_S)
        if ended:
            _log.warning("ended processes that belong to no attempt of this node", pids=ended)

    async def append_started(self, ref: AttemptRef) -> None:
        """Append Started."""
        await self._work[ref].append_started()
        failpoint("agent.started_appended")

    async def append_end(self, ref: AttemptRef) -> None:
        """Append the end; then EndStored."""
        await self._work[ref].append_end()
        failpoint("agent.end_appended")
        self._feed(EndStored(ref))

    def forget(self, ref: AttemptRef) -> None:
        """The end was acknowledged: remove the marker. What it left is hashed from now on."""
        if self._work[ref].unhashed:
            self.hashing.add(ref, self._work[ref].own_reports)
        if self._work[ref].uncounted:
            self.late_metrics.add(ref)
        self._folders.unmark(ref)
        failpoint("agent.end_noted")
        self.drop(ref)

    def drop(self, ref: AttemptRef) -> None:
        """Keep nothing in memory of an attempt that the session does not know."""
        work = self._work.pop(ref, None)
        if work is not None:
            work.close()

    # --- what is heard of shims -------------------------------------------------------------------------------

    async def hear(self) -> None:
        """Pass on what happens to the workers, until `Workers.stop`."""
        async for event in self._workers.events():
            folder = event.folder
            work = self._work.get(AttemptRef(folder.parent.name, int(folder.name)))
            if work is None:
                continue
            if isinstance(event, ShimExited):
                work.own_reports.running = False
                work.over()
            match event:
                case WorkerStarted():
                    failpoint("agent.start_seen")
                    work.own_reports.running = True
                    work.began()
                    self._feed(StartedWritten(work.ref))
                    work.look_at_code()
                    asyncio.get_running_loop().call_later(FOLLOW_AFTER_S, self._follow, work)
                case WorkerHeartbeat():
                    work.report(event.heartbeat)
                case MetricsWritten():
                    work.metrics_written()
                case ShimExited(exit=None):
                    if not work.adopted and not (folder / files.STARTED).exists():
                        work.not_launched("the shim ended before the worker was started")
                    self._feed(ShimLost(work.ref))
                case ShimExited():
                    failpoint("agent.exit_seen")
                    work.exit = event.exit
                    self._feed(ExitWritten(work.ref))

    def _follow(self, work: LiveAttempt) -> None:
        if work.exit is None and not self._closed and self._work.get(work.ref) is work:
            work.follow()
