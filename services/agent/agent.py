"""The agent of one node: takes grants and stops, has shims run them, and tells the event log what came of it.

Owns the carrying out of what `session.step` decides; knows no rule of the protocol that is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, assert_never

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg

from events.codec import Unreadable, Writer, decode, uuid7
from events.feed import ApiError
from events.log import EventLog
from events.types import AttemptRef, Dispatched, NodeJoined, NodeLeft, NodeLost, Stopping
from services.agent import attempt_files, session
from services.agent.attempt import AttemptWork, Parts
from services.agent.attempt_files import Intent, StopReason
from services.agent.blanks import Blanks
from services.agent.devices import Devices
from services.agent.folders import Folders, is_ref
from services.agent.gpus import Gpus
from services.agent.heartbeats import NodeHeartbeats
from services.agent.identity import Identity, identify, only_agent
from services.agent.inventory import Inventory
from services.agent.output import Output
from services.agent.output_service import OutputService
from services.agent.session_types import (
    Ack,
    Action,
    AppendJoined,
    AppendLeft,
    Begun,
    Bury,
    BuryReason,
    CountedLost,
    EndStored,
    Finish,
    Forget,
    Found,
    Granted,
    Input,
    Joined,
    JoinRefused,
    Launch,
    LeaveAsked,
    Left,
    NameRead,
    Phase,
    Place,
    ReadName,
    Refuse,
    ShimDied,
    ShimFound,
    State,
    StopOrdered,
    Sweep,
    Swept,
    TellEnd,
    TellStarted,
    TreeGone,
    WakeShim,
    WorkerUp,
    WriteFolder,
    WriteGrant,
    WriteStop,
)
from services.agent.words import PAUSE_S, Words, reconnected
from services.agent.workers import ShimAlive, ShimGone, WorkerHeartbeat, Workers, WorkerStarted, boot_id
from services.version import VERSION
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient
from trainshed_client.subjects import Role

_log = structlog.get_logger("trainshed.agent")

LEAVE_S = 0.6
"""Seconds that a leaving agent waits for NodeLeft to be stored; without it the node counts as lost a little later."""
LAST_WORDS_S = 5.0
"""Seconds that an agent whose workers are all ended goes on trying to tell their ends before it exits."""
FOLLOW_AFTER_S = 0.02
"""Seconds from a worker's start until its output is followed: one that ends sooner is told of as a whole."""


class _Finished(Exception):
    """Ends the agent's tasks from inside its task group."""


class AgentService:
    """A Service: the agent of one node (docs/protocol.md rules 8 to 14).

    ``node`` is the name that was asked for (None: the kept one, else the host's); ``heartbeat_timeout_s`` counts for
    runs that name none. ``stop_workers``: a stop ends the workers as well and leaves the node without attempts;
    ``borrowed`` nodes do so always.
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
        host: str | None = None,
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], int] = time.time_ns,
        ids: Callable[[], str] = uuid7,
    ) -> None:
        self.ready = asyncio.Event()
        self._nc = nc
        self._log = EventLog(nc)
        self._folders = Folders(
            state_dir.absolute(), runs_dir.absolute(), var_logs_dir.absolute() if var_logs_dir else None
        )
        self._asked_node = node
        self._inventory = inventory
        self._gpus = gpus
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._reclaim = stop_workers or borrowed
        self._borrowed = borrowed
        self._host = host or socket.gethostname()
        self._environment = environment
        self._clock = clock
        self._ids = ids
        self._identity: Identity | None = None
        self._state = State(incarnation="")
        self._inputs: deque[Input] = deque()
        self._draining = False
        self._work: dict[AttemptRef, AttemptWork] = {}
        self._orders: dict[str, asyncio.Lock] = {}
        self._launches: set[asyncio.Task[None]] = set()
        self._deliveries: dict[int, Msg] = {}
        self._asked_to_stop = asyncio.Event()
        self._finished = asyncio.Event()
        self._refusal: TrainshedError | None = None
        self._last_words: asyncio.TimerHandle | None = None
        self._refilling = False
        self._boot_id = boot_id()

    @property
    def node(self) -> str:
        """The node's name: the kept one once the agent runs."""
        return self._identity.node if self._identity is not None else self._asked_node or ""

    @property
    def state(self) -> State:
        """Where its session is; for tests and for who looks."""
        return self._state

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
            self._folders.make_roots()
            self._blanks = Blanks(self._folders.state_dir, self._folders.runs_dir, self._identity.node)
            await asyncio.to_thread(self._blanks.clear)
            try:
                await self._serve(self._identity)
            except BaseExceptionGroup as group:
                _raise_cause(group)
        if self._refusal is not None:
            raise self._refusal

    def stop(self, *, stop_workers: bool | None = None) -> None:
        """See Service. ``stop_workers`` overrules what the agent was made with."""
        if stop_workers is not None:
            self._reclaim = stop_workers or self._borrowed
        self._asked_to_stop.set()

    async def _log_id(self) -> str | None:
        """The log's id, as soon as the control side has made it; None where a stop was asked first."""
        said = False
        while not self._asked_to_stop.is_set():
            try:
                if log_id := await self._log.log_id():
                    return log_id
            except (TimeoutError, nats.errors.Error, ApiError) as error:
                if not said:
                    _log.info("waiting for the event log", reason=str(error) or type(error).__name__)
                    said = True
            await reconnected(self._nc.reconnect_hooks)
        return None

    async def _serve(self, identity: Identity) -> None:
        writer = Writer(Role.AGENT, self._clock, self._ids, identity.node)
        self._words = Words(self._log, writer, identity.node)
        self._heartbeats = NodeHeartbeats(self._nc, writer, identity.node, identity.incarnation)
        self._devices = Devices(self._gpus, identity.node, identity.incarnation, identity.log_id)
        self._workers = Workers(
            state_dir=self._folders.state_dir,
            log_id=identity.log_id,
            node=identity.node,
            environment=self._environment,
        )
        output = Output(self._nc, identity.node, self._clock)
        try:
            await self._workers.start()
            await self._refill()
            async with asyncio.TaskGroup() as self._tasks:
                self._parts = Parts(
                    self._nc,
                    self._folders,
                    self._words,
                    writer,
                    output,
                    self._clock,
                    self._host,
                    self._tasks.create_task,
                )
                self._tasks.create_task(output.run())
                self._tasks.create_task(self._hear_workers())
                self._tasks.create_task(self._leave_when_asked())
                delivery = subjects.push_delivery(identity.node)
                await self._nc.subscribe(delivery, cb=self._delivered)
                try:
                    async with OutputService(self._nc, identity.node, self._folders):
                        self._state = State(incarnation=identity.incarnation)
                        self._feed(Begun(await self._found()))
                        await self._finished.wait()
                finally:
                    self._finished.set()
                raise _Finished
        finally:
            for work in self._work.values():
                work.close()
            output.close()
            await self._workers.stop()
            if self._nc.is_connected:
                with contextlib.suppress(nats.errors.Error, TimeoutError):
                    await self._nc.flush(timeout=1)

    async def _found(self) -> tuple[Found, ...]:
        """What an earlier process left, its live shims watched again."""
        return tuple(await asyncio.gather(*(self._find(ref) for ref in self._folders.open_attempts())))

    async def _find(self, ref: AttemptRef) -> Found:
        work = self._work_on(ref)
        work.adopted = True
        folder = work.folder
        work.intent = attempt_files.read_intent(folder)
        work.exit = attempt_files.read_exit(folder)
        alive = False
        if work.exit is None:
            try:
                attempt_files.prepare_folder(folder)
                alive = await self._workers.adopt(folder)
            except OSError as error:
                _log.warning("not adopted", run_id=ref.run_id, attempt=ref.attempt, error=str(error))
            work.exit = attempt_files.read_exit(folder)
        stop = attempt_files.read_stop(folder)
        return Found(
            ref=ref,
            seq=work.intent.seq if work.intent is not None else 0,
            slots=work.intent.slots if work.intent is not None else (),
            alive=alive,
            ended=not alive and work.exit is not None,
            started=(folder / attempt_files.STARTED).exists(),
            stop=stop.reason if stop is not None else None,
        )

    # --- inputs -------------------------------------------------------------------------------------------

    def _feed(self, event: Input) -> None:
        """Take an input, and whatever its actions bring about at once, one after the other."""
        self._inputs.append(event)
        if self._draining or self._finished.is_set():
            return
        self._draining = True
        try:
            while self._inputs:
                self._take(self._inputs.popleft())
        finally:
            self._draining = False

    def _take(self, event: Input) -> None:
        before = self._state
        self._state, actions = session.step(before, event)
        try:
            for action in actions:
                self._act(action)
        except OSError as error:
            # Only writes raise, and they come first: this step did not happen.
            self._state = before
            _log.warning("the state folder cannot be written; trying again", error=str(error))
            if not isinstance(event, Granted | StopOrdered):  # these are delivered again
                asyncio.get_running_loop().call_later(PAUSE_S, self._feed, event)
            return
        if isinstance(event, Joined) and self._state.phase is Phase.JOINED:
            self._has_joined()
        self._limit_last_words()

    def _has_joined(self) -> None:
        self._devices.joined()
        if not self.ready.is_set():
            self.ready.set()
            self._tasks.create_task(self._heartbeats.run(self._devices.readings))
            self._tasks.create_task(self._devices.run(self._words.tell_node))
        _log.info("joined", node=self.node, seq=self._state.joined, attempts=len(self._state.attempts))
        held, self._deliveries = self._deliveries, {}
        for msg in held.values():
            asyncio.get_running_loop().call_soon(self._deliver, msg)

    def _limit_last_words(self) -> None:
        state = self._state
        if state.phase is not Phase.RECLAIMING or self._last_words is not None:
            return
        if all(each.place is Place.OVER for each in state.attempts):
            loop = asyncio.get_running_loop()
            self._last_words = loop.call_later(LAST_WORDS_S, self._finished.set)

    async def _leave_when_asked(self) -> None:
        await self._asked_to_stop.wait()
        self._feed(LeaveAsked(self._reclaim))

    async def _delivered(self, msg: Msg) -> None:
        self._deliver(msg)

    def _deliver(self, msg: Msg) -> None:
        """One decision of the dispatcher, from the node's push consumer (docs/protocol.md rule 10)."""
        tokens = msg.reply.split(".")
        if tokens[:2] != ["$JS", "ACK"] or len(tokens) not in (9, 12):
            return  # the server's idle heartbeat
        at = 5 if len(tokens) == 9 else 7
        seq, stored_ns = int(tokens[at]), int(tokens[at + 2])
        self._deliveries[seq] = msg
        if self._state.phase is not Phase.JOINED:
            return  # taken once the session has begun, or delivered again
        stored = decode(msg.subject, msg.data, seq, stored_ns)
        if isinstance(stored, Unreadable):
            self._pass_over(seq, msg.subject, stored.reason)
            return
        event = stored.event
        match event:
            case Dispatched() if is_ref(event.run_id, event.attempt):
                self._feed(self._grant(seq, event))
                self._drop_unknown(AttemptRef(event.run_id, event.attempt))
            case Stopping() if is_ref(event.run_id, event.attempt):
                ref = AttemptRef(event.run_id, event.attempt)
                self._feed(
                    StopOrdered(
                        seq=seq,
                        incarnation=event.incarnation,
                        ref=ref,
                        reason=StopReason(event.reason),
                        disk=self._folders.on_disk(ref),
                    )
                )
            case NodeLost():
                self._feed(CountedLost(seq=seq, incarnation=event.incarnation))
            case _:
                self._pass_over(seq, msg.subject, "it is nothing that an agent takes")
        self._deliveries.pop(seq, None)

    def _pass_over(self, seq: int, subject: str, reason: str) -> None:
        """What cannot be used must not stand in the way of what follows it."""
        _log.warning("a decision is passed over", node=self.node, seq=seq, subject=subject, reason=reason)
        self._act(Ack(seq))
        self._deliveries.pop(seq, None)

    def _grant(self, seq: int, event: Dispatched) -> Granted:
        ref = AttemptRef(event.run_id, event.attempt)
        work = self._work_on(ref)
        usable = all(0 <= index < len(self._inventory.gpus) for index in event.slots)
        if not usable:
            work.message = (
                f"node {self.node} has no slot {max(event.slots)}: it has {len(self._inventory.gpus)}"
            )
        try:
            launch = msgspec.json.decode(event.launch, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            usable, launch = False, {}
            work.message = f"what to launch cannot be read: {error}"
        if work.intent is None:
            work.intent = Intent(
                seq=seq,
                boot_id=self._boot_id,
                run_id=ref.run_id,
                attempt=ref.attempt,
                node=self.node,
                host=self._host,
                log_id=self._identity.log_id if self._identity is not None else "",
                launch=launch,
                slots=event.slots,
                devices=tuple(self._device(index) for index in event.slots),
                run_dir=str(self._folders.run(ref.run_id)),
                output_dir=str(self._folders.output(ref)),
                sockets=str(self._workers.sockets_dir),
                heartbeat_timeout_s=self._heartbeat_timeout_s,
            )
        return Granted(
            seq=seq,
            incarnation=event.incarnation,
            ref=ref,
            slots=event.slots,
            usable=usable,
            disk=self._folders.on_disk(ref),
        )

    def _device(self, index: int) -> str:
        """A slot's value for CUDA_VISIBLE_DEVICES."""
        gpus = self._inventory.gpus
        uuid = gpus[index].uuid if 0 <= index < len(gpus) else None
        return uuid or str(index)

    async def _hear_workers(self) -> None:
        async for event in self._workers.events():
            folder = event.folder
            ref = AttemptRef(folder.parent.name, int(folder.name))
            work = self._work.get(ref)
            if work is None:
                continue
            match event:
                case WorkerStarted():
                    self._feed(WorkerUp(ref))
                    asyncio.get_running_loop().call_later(FOLLOW_AFTER_S, self._follow, work)
                case WorkerHeartbeat():
                    work.told(event.heartbeat)
                case ShimGone(exit=None):
                    self._feed(ShimDied(ref))
                case ShimGone():
                    work.exit = event.exit
                    self._feed(TreeGone(ref))

    def _follow(self, work: AttemptWork) -> None:
        if work.exit is None and self._work.get(work.ref) is work and not self._finished.is_set():
            work.follow()

    def _work_on(self, ref: AttemptRef) -> AttemptWork:
        work = self._work.get(ref)
        if work is None:
            order = self._orders.setdefault(ref.run_id, asyncio.Lock())
            work = self._work[ref] = AttemptWork(self._parts, ref, order)
        return work

    def _drop_unknown(self, ref: AttemptRef) -> None:
        """A grant that the session did not take (it was delivered again) leaves nothing behind."""
        if session.attempt_of(self._state, ref) is None:
            self._work.pop(ref, None)

    # --- actions ------------------------------------------------------------------------------------------

    def _act(self, action: Action) -> None:
        spawn = self._tasks.create_task
        match action:
            case WriteGrant(ref):
                self._write_grant(self._work[ref])
            case WriteFolder(ref):
                self._folders.mark(ref)
                attempt_files.prepare_folder(self._work_on(ref).folder)
            case WriteStop(ref, reason, seq):
                attempt_files.write_stop(self._work_on(ref).folder, reason, seq)
            case Launch(ref):
                launch = spawn(self._launch(self._work[ref]))
                self._launches.add(launch)
                launch.add_done_callback(self._launches.discard)
            case WakeShim(ref):
                spawn(self._workers.ask_stop(self._work[ref].folder))
            case Ack(seq):
                msg = self._deliveries.get(seq)
                if msg is not None:
                    spawn(self._acknowledge(msg))
            case Bury(ref, reason):
                spawn(self._bury(self._work[ref], reason))
            case TellStarted(ref):
                spawn(self._work[ref].tell_started())
            case TellEnd(ref):
                spawn(self._tell_end(self._work[ref]))
            case Forget(ref):
                self._forget(ref)
            case ReadName():
                spawn(self._read_name())
            case Sweep(keep):
                spawn(self._sweep(keep))
            case AppendJoined(guard, attempts):
                spawn(self._join(guard, attempts))
            case AppendLeft():
                spawn(self._append_left(action))
            case Refuse(owner):
                spawn(self._refuse(owner))
            case Finish():
                self._finished.set()
            case _:
                assert_never(action)

    def _write_grant(self, work: AttemptWork) -> None:
        """Marker, folder, lock, the run's folder, and intent.json last: then the grant is written down."""
        assert work.intent is not None
        ref, intent = work.ref, work.intent
        self._folders.mark(ref)
        blank = self._blanks.take() if ref.attempt == 1 else None
        try:
            if blank is None or not self._blanks.put_run(blank, self._folders.run(ref.run_id)):
                self._folders.make_run(ref)
            elif self._folders.var_logs_dir is not None:
                os.makedirs(self._folders.output(ref), exist_ok=True)
        except OSError as error:
            # The runs' folder may be storage that is away: this run cannot start here, others may.
            work.message = f"the run's folder cannot be made: {error}"
        if blank is None or not self._blanks.put_attempt(blank, intent, work.folder):
            attempt_files.prepare_folder(work.folder)
            attempt_files.write_intent(work.folder, intent)
        if self._blanks.short and not self._refilling:
            self._refilling = True
            self._tasks.create_task(self._refill())

    async def _refill(self) -> None:
        """Make folders ahead, beside the grants. Without them each grant makes its own."""
        try:
            await asyncio.to_thread(self._blanks.refill)
        except OSError as error:
            _log.debug("no folders made ahead", error=str(error))
        finally:
            self._refilling = False

    async def _launch(self, work: AttemptWork) -> None:
        if work.message is None:
            try:
                await self._workers.launch(work.folder)
                return
            except OSError as error:
                work.message = f"it cannot be launched: {error}"
        _log.warning("not launched", run_id=work.ref.run_id, attempt=work.ref.attempt, reason=work.message)
        self._feed(ShimDied(work.ref))

    async def _acknowledge(self, msg: Msg) -> None:
        with contextlib.suppress(nats.errors.Error):  # then it is delivered again
            await self._nc.publish(msg.reply, b"+ACK")

    async def _bury(self, work: AttemptWork, reason: BuryReason) -> None:
        while True:
            try:
                work.exit = await self._workers.bury(work.folder, reason)
                self._feed(TreeGone(work.ref))
                return
            except ShimAlive:
                with contextlib.suppress(OSError):
                    if await self._workers.adopt(work.folder):
                        self._feed(ShimFound(work.ref))
                        return
            except OSError as error:
                _log.warning(
                    "cannot be closed yet; trying again",
                    run_id=work.ref.run_id,
                    attempt=work.ref.attempt,
                    error=str(error),
                )
            await asyncio.sleep(PAUSE_S)

    async def _tell_end(self, work: AttemptWork) -> None:
        await work.tell_end()
        self._feed(EndStored(work.ref))

    def _forget(self, ref: AttemptRef) -> None:
        self._folders.unmark(ref)
        work = self._work.pop(ref, None)
        if work is not None:
            work.close()
        if not any(other.run_id == ref.run_id for other in self._work):
            self._orders.pop(ref.run_id, None)

    # --- the session's words ------------------------------------------------------------------------------

    async def _read_name(self) -> None:
        self._feed(NameRead(await self._words.name()))

    async def _sweep(self, keep: tuple[AttemptRef, ...]) -> None:
        if self._launches:
            await asyncio.wait(self._launches)
        while True:
            try:
                ended = await self._workers.sweep([self._folders.attempt(ref) for ref in keep])
                break
            except OSError as error:
                _log.warning("processes of ended attempts cannot be ended yet", error=str(error))
                await asyncio.sleep(PAUSE_S)
        if ended:
            _log.warning("ended processes that belong to no attempt of this node", pids=ended)
        self._feed(Swept())

    async def _join(self, guard: int, attempts: tuple[AttemptRef, ...]) -> None:
        seq = await self._words.join(
            NodeJoined(
                node=self.node,
                incarnation=self._state.incarnation,
                host=self._host,
                cpus=self._inventory.cpus,
                memory_mb=self._inventory.memory_mb,
                gpus=self._inventory.gpus,
                attempts=attempts,
                borrowed=self._borrowed,
                version=VERSION,
            ),
            guard,
        )
        self._feed(JoinRefused() if seq is None else Joined(seq))

    async def _append_left(self, action: AppendLeft) -> None:
        event = NodeLeft(
            node=self.node,
            incarnation=self._state.incarnation,
            upto=action.upto,
            attempts=action.attempts,
            reason="reclaimed" if self._state.reclaim else "stopped",
        )
        try:
            async with asyncio.timeout(LEAVE_S):
                if await self._words.leave(event, action.guard) is None:
                    _log.warning("another agent has joined as this node", node=self.node)
        except TimeoutError:
            _log.warning("left without a word: the event log does not answer", node=self.node)
        self._feed(Left())

    async def _refuse(self, owner: str) -> None:
        heard = await self._heartbeats.last_heard(self._clock())
        last = f", last heard {heard}" if heard else ""
        self._refusal = TrainshedError(
            ErrorCode.CONFLICT,
            f"{self.node} belongs to another state folder{last}. If that machine is gone: trainshed node remove {self.node}",
        )
        _log.error("refused", node=self.node, owner=owner, reason=str(self._refusal))
        self._finished.set()


def _raise_cause(group: BaseExceptionGroup[BaseException]) -> None:
    """Raise what ended the agent's tasks: the error for people alone where there is one; nothing after a stop."""
    _, rest = group.split(_Finished)
    if rest is None:
        return
    error: BaseException = rest.subgroup(TrainshedError) or rest
    while isinstance(error, BaseExceptionGroup) and error is not rest:
        error = error.exceptions[0]
    raise error
