"""The agent's workers: launch, adopt, stop, sweep and finalise them, and hear of their starts, heartbeats and ends.

Owns every process of the agent and the talk with its shims; the only module of the agent that knows them. Knows no NATS.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Collection, Coroutine, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from services.agent.folders import files
from services.agent.folders.files import ExitFile, ExitReason, HeartbeatFields, StartedFile
from services.agent.output.measured import MeasuredLine
from services.agent.processes import hand_in, memory_cgroups, sweep
from services.agent.processes.finalise import finalise, named_in
from services.agent.processes.pool import ShimPool
from services.agent.processes.sockets import SHIM_SOCKETS, BoundSocket, sockets_dir
from services.agent.shim import process_tree
from services.daemon_thread import in_daemon_thread
from trainshed_client.os_errors import cause

_log = structlog.get_logger(__name__)

COMING_UP_S = 5.0
"""Seconds for a shim that holds the lock to show in the folder who it is."""
LOOK_AROUND_S = 0.1
"""A shim that does not show after a pause of this many seconds is looked for among all processes."""
LEAVES_WITHIN_S = 1.0
"""Seconds that a shim may take to be gone once it has written exit.json."""
AGENT_SOCKET = "agent.sock"
BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
_NOT_INHERITED = frozenset(
    {
        "TRAINSHED_RUN_ID",  # an agent may itself be a worker of another stack
        "TRAINSHED_ATTEMPT",
        "TRAINSHED_RUN_DIR",
        "TRAINSHED_SOCKET",
        "TRAINSHED_MAX_STEPS",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
    }
)


def boot_id() -> str:
    """This boot's id; `IntentFile.boot_id` bears it."""
    return BOOT_ID_FILE.read_text().strip()


class WorkerStarted(msgspec.Struct, frozen=True):
    """The worker has exec'd. Sent once for each launch or adoption, and before its ShimExited."""

    folder: Path
    started: StartedFile


class WorkerHeartbeat(msgspec.Struct, frozen=True):
    """All that the worker reported so far; at most one a second."""

    folder: Path
    heartbeat: HeartbeatFields


class MetricsWritten(msgspec.Struct, frozen=True):
    """The attempt's metrics.jsonl has grown; at most one a second."""

    folder: Path


class ShimExited(msgspec.Struct, frozen=True):
    """The shim's process has ended. `exit` is None where it left no exit.json: it never started a worker, or was
    killed; the agent then calls `Workers.finalise`."""

    folder: Path
    exit: ExitFile | None


WorkerEvent = WorkerStarted | WorkerHeartbeat | MetricsWritten | ShimExited


class _Watched(msgspec.Struct):
    """A shim that this agent watches, by a descriptor that names exactly its process."""

    folder: Path
    pid: int
    pidfd: int
    started: StartedFile | None = None
    """What was reported of its start."""
    heartbeat: HeartbeatFields | None = None


class _Datagram(msgspec.Struct):
    kind: str
    run_id: str
    attempt: int


class Workers:
    """Starts workers through pre-forked shims and watches these; workers and their shims outlive it.

    `environment` is what workers inherit (less Trainshed's own), by default this process's; `for_others`: some run as
    another user.
    """

    def __init__(
        self,
        *,
        state_dir: Path,
        log_id: str,
        node: str,
        environment: Mapping[str, str] | None = None,
        for_others: bool = False,
    ) -> None:
        self._state_dir = state_dir.absolute()
        self._marks = sweep.Marks(log_id, node)
        self._events: asyncio.Queue[WorkerEvent | None] = asyncio.Queue()
        self._watched: dict[Path, _Watched] = {}
        self._lost: dict[Path, _Watched] = {}
        """Shims that are gone without a word."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._datagrams: BoundSocket | None = None
        self._shims_sockets: set[str] = set()
        self._for_others = for_others
        self.sockets_dir: Path = self.make_sockets_dir()
        inherited = dict(os.environ if environment is None else environment)
        for name in _NOT_INHERITED:
            inherited.pop(name, None)
        # Whatever the locale: what a run config says is the same bytes on every node.
        inherited.update(TRAINSHED_LOG_ID=log_id, TRAINSHED_NODE=node, PYTHONUTF8="1")
        self._cgroups = sweep.cgroups_of(self._marks)
        self._memory_cgroups = memory_cgroups.memory_cgroups_of(self._marks, self._cgroups)
        self._pool = ShimPool(
            self._state_dir, self.sockets_dir, self._cgroups, self._memory_cgroups, inherited, self._taken
        )

    @property
    def memory_enforced(self) -> bool:
        """Whether a worker that needs more than its `memory_mb` is ended for it; else that is only accounted."""
        return bool(self._memory_cgroups)

    async def start(self) -> None:
        """Bring the spawner up and listen to the shims. Raises OSError."""
        for left in self.sockets_dir.glob(SHIM_SOCKETS):  # a killed one cannot tidy up
            if not _lives(left.stem):
                left.unlink(missing_ok=True)
        self._listen()
        _log.debug(
            "workers' cgroups",
            parent=self._cgroups or "none can be had here",
            memory=self._memory_cgroups or "accounted only",
        )
        self._pool.start()

    def _listen(self) -> None:
        self._datagrams = BoundSocket(str(self.sockets_dir / AGENT_SOCKET), socket.SOCK_DGRAM)
        asyncio.get_running_loop().add_reader(self._datagrams.socket, self._hear)

    def restore(self) -> None:
        """Make again what a cleaner of temporary folders took: the agent's socket, and by the shims that live theirs and the
        folders of their attempts. Raises OSError."""
        if self._datagrams is None:
            return
        folder = self.make_sockets_dir()
        there = {path.stem for path in folder.glob(SHIM_SOCKETS)}
        vanished = {stem for stem in self._shims_sockets - there if _lives(stem)}
        self._shims_sockets = there | vanished
        if self._datagrams.gone:
            self._hear()
            asyncio.get_running_loop().remove_reader(self._datagrams.socket)
            self._datagrams.close()
            self._listen()
            self._pool.look()
        elif vanished:
            self._pool.look()
        for watched in self._watched.values():
            names = (files.LOCK,) if watched.started is None else (files.LOCK, files.INTENT, files.STARTED)
            if str(watched.pid) not in there or not all((watched.folder / name).exists() for name in names):
                _wake(watched.pidfd, signal.SIGUSR2)

    def make_sockets_dir(self) -> Path:
        """The folder of the sockets, made where it is gone. Raises OSError."""
        return sockets_dir(self._state_dir, for_others=self._for_others)

    async def stop(self) -> None:
        """Let go: the spawner ends, sockets close, `events` ends; workers and their shims live on. A second call is
        harmless."""
        loop = asyncio.get_running_loop()
        await self._pool.close()
        for watched in self._watched.values():
            loop.remove_reader(watched.pidfd)
            os.close(watched.pidfd)
        self._watched.clear()
        if self._datagrams is not None:
            loop.remove_reader(self._datagrams.socket)
            self._datagrams.close()
            self._datagrams = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._events.put_nowait(None)

    async def events(self) -> AsyncIterator[WorkerEvent]:
        """What happens to the workers, until `stop`. For one reader."""
        while (event := await self._events.get()) is not None:
            yield event

    async def launch(self, folder: Path) -> None:
        """Hand a prepared folder (lock, intent.json) to a shim. Returns when its worker has exec'd or never will, or hangs on
        its way there; WorkerStarted or ShimExited follow. Harmless while this agent already has a shim for it. Raises OSError."""
        folder = folder.absolute()
        if folder not in self._watched:
            await self._pool.hand_over(folder)

    async def adopt(self, folder: Path) -> bool:
        """Watch the live shim of that folder again, and have it send everything once more; False: none holds the
        lock. Raises OSError where one holds it and does not say who it is."""
        folder = folder.absolute()
        if folder in self._watched:
            return True
        give_up, pause_s = time.monotonic() + COMING_UP_S, 0.005
        if not (folder / files.LOCK).exists():
            await self._restored(folder, give_up)
        while _locked(folder):
            found = await self._shim_of(folder, look_around=pause_s > LOOK_AROUND_S)
            if found is not None:
                pid, pidfd = found
                self._watch(_Watched(folder, pid, pidfd))
                _wake(pidfd, signal.SIGUSR2)
                if (folder / files.STOP).exists():
                    # The agent before this one may have died between writing and waking.
                    _wake(pidfd, signal.SIGUSR1)
                return True
            if time.monotonic() > give_up:
                raise OSError(f"{folder}: its lock is held, but by no shim that can be found")
            await asyncio.sleep(pause_s)  # it is coming up (a millisecond), or on its way out, or it hangs
            pause_s = min(2 * pause_s, 2 * LOOK_AROUND_S)
        return False

    async def _restored(self, folder: Path, give_up: float) -> None:
        """The folder has vanished: its live shim, if there is one, makes it again."""
        found = await self._working_in(folder)
        if found is None:
            return
        _, pidfd = found
        try:
            _wake(pidfd, signal.SIGUSR2)
            while not _locked(folder) and time.monotonic() < give_up:
                await asyncio.sleep(0.01)
        finally:
            os.close(pidfd)

    def has_worker(self, folder: Path) -> bool:
        """Whether started.json speaks of a worker. It is written before the exec, which may hang: while that process lives
        and has not exec'd, it does not yet."""
        started = files.read_started(folder)
        if started is None or started.boot_id != boot_id():
            return (folder / files.STARTED).exists()
        pidfd = process_tree.pidfd(started.pid, started.start_time)
        if pidfd is None:
            return True
        try:
            return not process_tree.before_exec(started.pid)
        finally:
            os.close(pidfd)

    async def ask_stop(self, folder: Path) -> None:
        """Have the shim read stop.json, which the caller has written. A shim that is coming up either sees the file
        and leaves without exec, or is woken: then it ends also what hangs before its exec. Nothing happens where no shim is watched."""
        folder = folder.absolute()
        await self._pool.taken_up(folder)
        watched = self._watched.get(folder)
        if watched is not None:
            _wake(watched.pidfd, signal.SIGUSR1)

    def hand_in(self, folder: Path, lines: Iterable[MeasuredLine]) -> int:
        """Hand lines of stdout to the shim of that folder, which counts each once; how many it could be handed now."""
        watched = self._watched.get(folder.absolute())
        if watched is None or self._datagrams is None:
            return 0
        path = str(self.sockets_dir / f"{watched.pid}.sock")
        handed = 0
        for datagram, count in hand_in.messages(lines):
            try:
                self._datagrams.socket.sendto(datagram, path)
            except OSError:  # it has no room, is on its way out, or its path has vanished
                break
            handed += count
        return handed

    async def sweep(self, keep: Collection[Path]) -> list[int]:
        """End every process with our log id and node in its environment that belongs to no folder in `keep`, shims
        coming up included, and wait until they are gone (docs/protocol.md rule 8). The pids that there were.

        Not to be called while a launch is on its way. Raises TimeoutError where SIGKILL does not end one.
        """
        pool = self._pool.pid
        folders = [folder.absolute() for folder in keep]
        named = {each for folder in folders for each in named_in(files.read_started(folder), boot_id())}

        def all_strays() -> list[int]:
            ended = sweep.end(
                self._marks,
                lambda processes: sweep.stray(processes, folders, named, pool, self._state_dir),
            )
            ended += sweep.end_worker_cgroups(self._cgroups)
            memory_cgroups.remove_left(self._memory_cgroups)
            return sorted({*ended})

        return await in_daemon_thread(all_strays)

    async def finalise(self, folder: Path, reason: Literal["not_started", "shim_lost"]) -> ExitFile:
        """Close an attempt that no shim answers for: take its lock, end what is left of its tree, write exit.json if
        there is none, and return what stands there. Raises LockHeld, TimeoutError, OSError."""
        folder = folder.absolute()
        lost = self._lost.pop(folder, None)
        started, heartbeat = (None, None) if lost is None else (lost.started, lost.heartbeat)
        return await in_daemon_thread(
            partial(finalise, self._marks, boot_id(), folder, ExitReason(reason), started, heartbeat)
        )

    # What is heard of shims

    def _taken(self, folder: Path, pid: int, pidfd: int) -> None:
        self._watch(_Watched(folder, pid, pidfd))

    def _watch(self, watched: _Watched) -> None:
        self._watched[watched.folder] = watched
        asyncio.get_running_loop().add_reader(watched.pidfd, self._shim_gone, watched)

    def _shim_gone(self, watched: _Watched) -> None:
        self._hear()  # what it sent before it went comes first
        asyncio.get_running_loop().remove_reader(watched.pidfd)
        os.close(watched.pidfd)
        folder = watched.folder
        self._watched.pop(folder, None)
        exit_file = files.read_exit(folder)
        if exit_file is None and _locked(folder):
            # It left because another shim, of the agent before this one, was there first: watch that one.
            self._spawn_task(self._adopt_first(folder))
            return
        self._report_started(watched, exit_file)
        if exit_file is None:
            self._lost[folder] = watched
        self._events.put_nowait(ShimExited(folder, exit_file))

    def _left(self, watched: _Watched) -> None:
        """Where a write of the shim's to the run's folder hangs in the kernel, not even its own exit ends it: once it has
        written how the attempt ended it is waited for no longer."""
        if self._watched.get(watched.folder) is watched and files.read_exit(watched.folder) is not None:
            self._shim_gone(watched)

    async def _adopt_first(self, folder: Path) -> None:
        try:
            adopted = await self.adopt(folder)
        except OSError as error:
            _log.warning("a shim cannot be watched", folder=str(folder), error=cause(error))
            return
        if not adopted:
            self._events.put_nowait(ShimExited(folder, files.read_exit(folder)))

    def _spawn_task(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _hear(self) -> None:
        """Datagrams of shims. They only wake: what counts is read from files."""
        while self._datagrams is not None:
            try:
                data = self._datagrams.socket.recv(65536)
            except BlockingIOError:
                return
            try:
                datagram = msgspec.json.decode(data, type=_Datagram)
                heartbeat = msgspec.json.decode(data, type=HeartbeatFields)
            except msgspec.DecodeError:
                _log.warning("a datagram that is no shim's", size=len(data))
                continue
            folder = self._state_dir / "attempts" / datagram.run_id / str(datagram.attempt)
            if folder not in self._watched:
                self._pool.hear()  # that it has the folder was sent before, on another socket
            watched = self._watched.get(folder)
            if watched is None:
                continue
            if datagram.kind in ("started", "heartbeat"):
                self._report_started(watched, None)
            if datagram.kind == "heartbeat":
                watched.heartbeat = heartbeat
                self._events.put_nowait(WorkerHeartbeat(folder, heartbeat))
            if datagram.kind == "metrics":
                self._events.put_nowait(MetricsWritten(folder))
            if datagram.kind == "exited":
                asyncio.get_running_loop().call_later(LEAVES_WITHIN_S, self._left, watched)

    def _report_started(self, watched: _Watched, exit_file: ExitFile | None) -> None:
        if watched.started is not None or (
            exit_file is not None and exit_file.reason is ExitReason.SPAWN_ERROR
        ):
            return
        started = files.read_started(watched.folder)
        if started is not None:
            watched.started = started
            self._events.put_nowait(WorkerStarted(watched.folder, started))

    async def _shim_of(self, folder: Path, *, look_around: bool) -> tuple[int, int] | None:
        """The folder's live shim, by pid and a descriptor: named in started.json, else (`look_around`) by where it works."""
        started = files.read_started(folder)
        if started is not None and started.boot_id == boot_id():
            pidfd = process_tree.pidfd(started.shim_pid, started.shim_start_time)
            return None if pidfd is None else (started.shim_pid, pidfd)
        return await self._working_in(folder) if look_around else None

    async def _working_in(self, folder: Path) -> tuple[int, int] | None:
        processes = await in_daemon_thread(partial(sweep.list_processes, self._marks))
        for pid in sweep.shims_of(processes, folder):
            pidfd = process_tree.pidfd(pid, processes[pid].started)
            if pidfd is not None:
                return pid, pidfd
        return None


def _locked(folder: Path) -> bool:
    """Whether a shim holds the attempt's lock. One that comes up at this very moment may find it taken, and leave."""
    try:
        fd = os.open(folder / files.LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _lives(stem: str) -> bool:
    """Whether the shim that a socket is named after is there."""
    return os.path.exists(f"/proc/{stem}")


def _wake(pidfd: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # its end is on its way to us
        signal.pidfd_send_signal(pidfd, number)
