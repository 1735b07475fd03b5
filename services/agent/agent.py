"""The agent of one node: takes grants and stops, has shims run them, and appends what came of it to the event log.

Owns what an agent is put together from, its start and its end; what comes in between is `session/shell.py`'s.

The life of an attempt, from grant to forgotten, by the files that it comes through (below services/agent/):

The agent knows who it is (`identity.py`) and what it has to give: GPUs (`machine/gpus.py`, of those that the process
may see: `machine/visible.py`; the options that its state folder keeps: `machine/kept.py`), CPUs and memory
(`machine/inventory.py`). It appends that as NodeJoined (`reports/membership.py`), and from then on the dispatcher's
decisions are pushed to it. A Dispatched comes in at `session/shell.py`, which makes of it the intent
(`attempts/intents.py`: devices, folders, limits) and an input of the session's one step (`session/machine.py`; its
values: `session/values.py`). The step decides: the grant is written down, the run's folder is made, the grant is
acknowledged. `attempts/attempts.py` does the first: marker and intent.json (`folders/paths.py` says where they lie,
`folders/files.py` what they hold) go into the node's own state, mostly as a folder that was made ahead
(`folders/prepared.py`). Where root runs the agent the intent says as whom the worker runs (`processes/users.py`), and the run's
folder is made his (`folders/ownership.py`). It may lie on storage that hangs, so a thread makes it, unless that is the state
folder's, in a way that no pruner takes it from then on (`folders/claims.py`), and FoldersPrepared is the next input.
Once no slot of it has a tree any more, the step asks for the launch: `processes/workers.py`, the one door to `shim/`,
hands the folder to an idle shim of the pool (`processes/pool.py`) and hears of it on a socket
(`processes/sockets.py`). The shim starts the worker, in the cgroups that `processes/memory_cgroups.py` found a place
for; StartedWritten comes in, and `attempts/attempt.py`, which keeps what belongs to one attempt, appends Started
(`reports/appender.py`) and has a thread look whether the run's code is still what was submitted
(`attempts/code_looks.py`; at one folder one thread at a time: `folders/turns.py`; as the worker's user: `folders/acting.py`). What the worker asks of the stack
comes in by a socket of its attempt (`inside/sockets.py`): it is asked in the name of its run (`inside/calls.py`), and
what it watches waits to be written (`inside/watches.py`). While the worker runs its output is published as it grows
(`output/tails.py`), indexed (`output/output_index.py`), looked through for telemetry (`trainshed_client.telemetry`) and
served to whoever asks for a range (`output/service.py`), as are the files that it leaves (`output/run_files.py`), where
they lie and their list (`output/folder_service.py`), and what an audit compares with the log (`output/files_service.py`,
`output/files_now.py`; threads read them all, few at a time: `output/readers.py`). What
lines of JSON in its output measure (`output/measured.py`) is handed to the shim (`processes/hand_in.py`; after that to
the file itself), which writes metrics.jsonl; what that gains is published too (`output/metrics_tail.py`), and ranges of
it are numbered so that they stay (`output/metrics_range.py`). What it
reports goes out as heartbeats (`reports/heartbeats.py`), the node's beside it with how its devices (`machine/devices.py`; whose processes are on
them: `machine/owners.py`; whether others compute there: `machine/busy.py`; what attempts use of them:
`machine/gpu_usage.py`) and its disk (`machine/disk.py`) do. A Stopping takes the way of the Dispatched: stop.json is
written, and the shim is told to read it. The worker exits or is ended, the shim ends its tree and writes exit.json:
ExitWritten comes in. Where no shim is left to do that, `processes/sweep.py` ends what may live of the tree and
`processes/finalise.py` closes the attempt. Then its artifacts are listed (`output/artifacts.py`), exit.json becomes
the event that says how it ended (`reports/ends.py`), and that is appended: the slots are free. Once the log has
acknowledged it the marker is removed, and the attempt is forgotten. Whatever a cleaner of temporary folders takes of
all that meanwhile is made again every few seconds: markers and sockets here, the attempt's folder by its shim. What it
left is hashed after that (`attempts/hashing.py`), and what of its stdout was not counted in time is (`attempts/late_metrics.py`). Its files stay until an operator asks for their deletion
(`prune/service.py`), which decides what may go (`prune/prune.py`) and takes it away in a way that a kill cannot leave
half done (`prune/trash.py`).

Beside all that the node is a witness of the log (`witness/witness.py`), with a key of its own (`witness/key.py`). It
hears of checkpoints (`witness/published.py`), and what one means for it is again a pure step (`witness/machine.py`; its
values: `witness/values.py`). Of what this agent appended some is looked for in them (`witness/own_events.py`), what it did not
append must not stand in its name (`reports/own_reports.py`; of live attempts: `witness/live_reports.py`), and what
it takes is kept (`witness/keeping.py`), without anything waiting for the disk, before a
heartbeat says it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import nats.errors
from nats.aio.subscription import Subscription

from events.codec import Writer, uuid7
from events.feed import ApiError
from events.log import EventLog, reconnected
from services.agent.attempts.attempt import Parts
from services.agent.attempts.code_looks import CodeLooks
from services.agent.attempts.intents import Intents
from services.agent.folders.paths import Folders
from services.agent.folders.prepared import PreparedFolders
from services.agent.folders.turns import Turns
from services.agent.identity import Identity, identify, only_agent
from services.agent.inside.calls import WorkerCalls
from services.agent.inside.sockets import WorkerSockets
from services.agent.machine.devices import Devices
from services.agent.machine.disk import Disk
from services.agent.machine.gpus import Gpus
from services.agent.machine.inventory import Inventory
from services.agent.machine.owners import Owners
from services.agent.output.files_service import FilesService
from services.agent.output.folder_service import FolderService
from services.agent.output.readers import Readers
from services.agent.output.service import OutputService
from services.agent.output.tails import Output
from services.agent.processes.sockets import sockets_dir
from services.agent.processes.users import AS_AGENT, WorkerUsers
from services.agent.processes.workers import Workers, boot_id
from services.agent.prune.service import PruneService
from services.agent.reports.appender import Appender
from services.agent.reports.heartbeats import NodeHeartbeats
from services.agent.reports.membership import Membership
from services.agent.session.shell import SessionShell
from services.agent.session.values import Begun, LeaveAsked, SessionState
from services.agent.witness.witness import Witness
from services.logging import get_logger
from trainshed_client import subjects
from trainshed_client.errors import TrainshedError
from trainshed_client.nats_client import SafeClient
from trainshed_client.nats_connection import NatsConnection
from trainshed_client.os_errors import cause
from trainshed_client.subjects import Role

_log = get_logger("agent")


ANSWERS_WITHIN_S = 1.0
"""Seconds that a start waits for the storage of the runs' folders."""


class _Finished(Exception):
    """Ends the agent's tasks from inside its task group."""


class AgentService:
    """A Service: the agent of one node (docs/protocol.md rules 8 to 14).

    ``node`` is the name that was asked for (None: the kept one, else the host's); ``heartbeat_timeout_s`` counts for
    runs that name none. ``stop_workers``: a stop ends the workers as well and leaves the node without attempts;
    ``borrowed`` nodes do so always. ``avoid_busy_gpus``: a device on which others compute is unhealthy. ``users``:
    as whom workers run.
    """

    name = "agent"

    def __init__(
        self,
        nc: SafeClient,
        *,
        state_dir: Path,
        runs_dir: Path,
        inventory: Inventory,
        gpus: Gpus | None = None,
        node: str | None = None,
        heartbeat_timeout_s: float | None = 300.0,
        var_logs_dir: Path | None = None,
        stop_workers: bool = False,
        borrowed: bool = False,
        avoid_busy_gpus: bool = False,
        host: str | None = None,
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], int] = time.time_ns,
        ids: Callable[[], str] = uuid7,
        log: EventLog | None = None,
        users: WorkerUsers = AS_AGENT,
    ) -> None:
        self.ready = asyncio.Event()
        self._nc = nc
        self._log = log or EventLog(nc)
        self._folders = Folders(
            state_dir.absolute(), runs_dir.absolute(), var_logs_dir.absolute() if var_logs_dir else None
        )
        self._asked_node = node
        self._inventory = inventory
        self._gpus = gpus
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._reclaim = stop_workers or borrowed
        self._borrowed = borrowed
        self._avoid_busy_gpus = avoid_busy_gpus
        self._host = host or socket.gethostname()
        self._environment = environment
        self._users = users
        self._clock = clock
        self._ids = ids
        self._identity: Identity | None = None
        self._session: SessionShell | None = None
        self._asked_to_stop = asyncio.Event()

    @property
    def node(self) -> str:
        """The node's name: the kept one once the agent runs."""
        return self._identity.node if self._identity is not None else self._asked_node or ""

    @property
    def state(self) -> SessionState:
        """Where its session is; for tests and for who looks."""
        return self._session.state if self._session is not None else SessionState(incarnation="")

    async def run(self) -> None:
        """Serve until stopped.

        Raises TrainshedError where the state folder or the node's name is another's, or another agent's.
        """
        with only_agent(self._folders.state_dir):
            log_id = await self._log_id()
            if log_id is None:
                return
            self._identity = identify(
                self._folders.state_dir, log_id=log_id, node=self._asked_node, ids=self._ids
            )
            if self._users.others:
                beside_sockets = sockets_dir(self._folders.state_dir, for_others=True)
                self._folders = msgspec.structs.replace(self._folders, programs_dir=beside_sockets / "bin")
            self._folders.make_roots()
            try:
                await self._serve(self._identity)
            except BaseExceptionGroup as group:
                _raise_cause(group)
        if self._session is not None and self._session.refusal is not None:
            raise self._session.refusal

    def stop(self, *, stop_workers: bool | None = None) -> None:
        """See Service. ``stop_workers`` overrules what the agent was made with."""
        if stop_workers is not None:
            self._reclaim = stop_workers or self._borrowed
        self._asked_to_stop.set()

    async def _log_id(self) -> str | None:
        """The log's id, as soon as the control side has made it; None where a stop was asked first."""
        logged = False
        while not self._asked_to_stop.is_set():
            try:
                if log_id := await self._log.id_for_node():
                    return log_id
            except (TimeoutError, nats.errors.Error, ApiError) as error:
                if not logged:
                    _log.info("waiting for the event log", reason=cause(error))
                    logged = True
            await reconnected(self._nc)
        return None

    async def _serve(self, identity: Identity) -> None:
        writer = Writer(Role.AGENT, self._clock, self._ids, identity.node)
        self._heartbeats = NodeHeartbeats(self._nc, writer, identity.node, identity.incarnation)
        witness = self._witness = Witness(
            self._log,
            self._folders.witness,
            log_id=identity.log_id,
            node=identity.node,
            clock=self._clock,
            report_soon=self._heartbeats.soon,
            live=lambda: () if self._session is None else self._session.attempts.own_reports(),
        )
        appender = Appender(
            self._log,
            writer,
            identity.node,
            acknowledged=witness.acknowledged,
            objects=witness.objects,
        )
        self._append_node_event = appender.append_node_event
        self._devices = Devices(
            self._gpus,
            self._inventory.gpus,
            identity.node,
            identity.incarnation,
            Owners(identity.log_id),
            avoid_busy=self._avoid_busy_gpus,
        )
        self._disk = Disk(self._folders.runs_dir)
        workers = Workers(
            state_dir=self._folders.state_dir,
            log_id=identity.log_id,
            node=identity.node,
            environment=self._environment,
            for_others=bool(self._users.others),
        )
        membership = Membership(
            appender,
            self._heartbeats,
            identity=identity,
            inventory=self._inventory,
            host=self._host,
            borrowed=self._borrowed,
            memory_enforced=workers.memory_enforced,
            vkey=witness.vkey,
            clock=self._clock,
        )
        intents = Intents(
            node=identity.node,
            host=self._host,
            log_id=identity.log_id,
            boot_id=boot_id(),
            sockets=str(workers.sockets_dir),
            heartbeat_timeout_s=self._heartbeat_timeout_s,
            inventory=self._inventory,
            folders=self._folders,
            users=self._users,
        )
        prepared = PreparedFolders(
            self._folders.state_dir,
            self._folders.runs_dir,
            identity.node,
            with_output=self._folders.var_logs_dir is None,
        )
        output = Output(self._nc, identity.node, self._clock)
        orders = Turns()
        pushed: Subscription | None = None
        try:
            await workers.start()
            calls = WorkerCalls(NatsConnection(self._nc, "this node's stack"), identity.node)
            async with asyncio.TaskGroup() as self._tasks:
                inside = WorkerSockets(calls, workers.make_sockets_dir, self._tasks.create_task)
                inside.clear()
                parts = Parts(
                    self._nc,
                    self._folders,
                    orders,
                    appender,
                    writer,
                    output,
                    self._clock,
                    self._host,
                    self._tasks.create_task,
                    CodeLooks(),
                    inside,
                    self._devices.usage,
                    workers,
                )
                session = self._session = SessionShell(
                    parts,
                    workers,
                    prepared,
                    identity=identity,
                    intents=intents,
                    membership=membership,
                    joined=self._has_joined,
                    ended=self._devices.ended,
                )
                try:
                    self._tasks.create_task(witness.run())
                    await self._begin_folders(session)
                    self._tasks.create_task(self._disk.run())
                    self._tasks.create_task(output.run())
                    self._tasks.create_task(session.attempts.hear())
                    self._tasks.create_task(session.keep())
                    self._tasks.create_task(self._leave_when_asked(session))
                    pushed = await self._nc.listen(subjects.push_delivery(identity.node), session.deliver)
                    readers = Readers()
                    async with (
                        OutputService(self._nc, identity.node, self._folders, readers),
                        FolderService(self._nc, identity.node, self._folders, readers),
                        FilesService(self._nc, identity, self._folders, readers),
                        PruneService(self._nc, identity.node, self._folders, self._clock),
                    ):
                        session.feed(Begun(await session.attempts.found()))
                        await session.finished.wait()
                finally:
                    session.finished.set()
                    session.attempts.close()
                raise _Finished
        finally:
            output.close()
            await workers.stop()
            await self._hang_up(pushed)

    async def _hang_up(self, pushed: Subscription | None) -> None:
        """Take no more deliveries, and see what was published go out."""
        if self._nc.is_closed:
            return
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            if pushed is not None:
                await pushed.unsubscribe()
            if self._nc.is_connected:
                await self._nc.flush(timeout=1)

    async def _begin_folders(self, session: SessionShell) -> None:
        """Have folders made ahead; storage that does not answer is waited for a moment only.

        Raises OSError where folders cannot be made.
        """
        making = self._tasks.create_task(session.attempts.begin_folders())
        await asyncio.wait({making}, timeout=ANSWERS_WITHIN_S)
        if not making.done():
            _log.warning(
                "the storage of the runs' folders does not answer: runs start here once it does",
                folder=str(self._folders.runs_dir),
            )

    def _has_joined(self) -> None:
        self._devices.joined()
        if not self.ready.is_set():
            self.ready.set()
            self._tasks.create_task(
                self._heartbeats.run(self._devices.readings, self._disk.free_mb, self._witness.witnessed)
            )
            self._tasks.create_task(self._devices.run(self._append_node_event))
            if self._session is not None:
                self._tasks.create_task(self._session.attempts.hashing.run())
                self._tasks.create_task(self._session.attempts.late_metrics.run())

    async def _leave_when_asked(self, session: SessionShell) -> None:
        await self._asked_to_stop.wait()
        session.feed(LeaveAsked(self._reclaim))


def _raise_cause(group: BaseExceptionGroup[BaseException]) -> None:
    """Raise what ended the agent's tasks: the error for people alone where there is one; nothing after a stop."""
    _, rest = group.split(_Finished)
    if rest is None:
        return
    error: BaseException = rest.subgroup(TrainshedError) or rest
    while isinstance(error, BaseExceptionGroup) and error is not rest:
        error = error.exceptions[0]
    raise error
