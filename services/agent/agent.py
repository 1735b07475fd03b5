"""The agent of one node: takes grants and stops, has shims run them, and tells the event log what came of it.

Owns the carrying out of what `session.step` decides; knows no rule of the protocol that is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import assert_never

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from events.codec import Unreadable, Writer, decode, uuid7
from events.feed import ApiError
from events.log import EventLog, reconnected
from events.types import AttemptRef, Dispatched, NodeLost, Stopping
from services.agent import session
from services.agent.attempt import Parts
from services.agent.attempt_files import StopReason
from services.agent.blanks import Blanks
from services.agent.devices import Devices
from services.agent.disk import Disk
from services.agent.folders import Folders, is_ref
from services.agent.gpus import Gpus
from services.agent.heartbeats import NodeHeartbeats
from services.agent.identity import Identity, identify, only_agent
from services.agent.intents import Intents
from services.agent.inventory import Inventory
from services.agent.live import LiveAttempts
from services.agent.membership import Membership
from services.agent.output import Output
from services.agent.output_service import OutputService
from services.agent.prune_service import PruneService
from services.agent.session_types import (
    Ack,
    Action,
    AppendJoined,
    AppendLeft,
    Begun,
    Bury,
    CountedLost,
    Finish,
    Forget,
    Granted,
    Input,
    Joined,
    Launch,
    LeaveAsked,
    Phase,
    Place,
    ReadName,
    Refuse,
    State,
    StopOrdered,
    Sweep,
    Swept,
    TellEnd,
    TellStarted,
    WakeShim,
    WriteFolder,
    WriteGrant,
    WriteStop,
)
from services.agent.words import PAUSE_S, Words
from services.agent.workers import Workers, boot_id
from services.failpoints import failpoint
from services.logging import get_logger
from trainshed_client import subjects
from trainshed_client.errors import TrainshedError
from trainshed_client.nats_client import SafeClient
from trainshed_client.subjects import Role

_log = get_logger("agent")

LAST_WORDS_S = 5.0
"""Seconds that an agent whose workers are all ended goes on trying to tell their ends before it exits."""


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
        log: EventLog | None = None,
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
        self._host = host or socket.gethostname()
        self._environment = environment
        self._clock = clock
        self._ids = ids
        self._identity: Identity | None = None
        self._state = State(incarnation="")
        self._inputs: deque[Input] = deque()
        self._draining = False
        self._deliveries: dict[int, Msg] = {}
        self._asked_to_stop = asyncio.Event()
        self._finished = asyncio.Event()
        self._refusal: TrainshedError | None = None
        self._last_words: asyncio.TimerHandle | None = None

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
            await reconnected(self._nc)
        return None

    async def _serve(self, identity: Identity) -> None:
        writer = Writer(Role.AGENT, self._clock, self._ids, identity.node)
        words = Words(self._log, writer, identity.node)
        self._tell_node = words.tell_node
        self._heartbeats = NodeHeartbeats(self._nc, writer, identity.node, identity.incarnation)
        self._devices = Devices(self._gpus, identity.node, identity.incarnation, identity.log_id)
        self._disk = Disk(self._folders.runs_dir)
        self._membership = Membership(
            words,
            self._heartbeats,
            identity=identity,
            inventory=self._inventory,
            host=self._host,
            borrowed=self._borrowed,
            clock=self._clock,
        )
        workers = Workers(
            state_dir=self._folders.state_dir,
            log_id=identity.log_id,
            node=identity.node,
            environment=self._environment,
        )
        self._intents = Intents(
            node=identity.node,
            host=self._host,
            log_id=identity.log_id,
            boot_id=boot_id(),
            sockets=str(workers.sockets_dir),
            heartbeat_timeout_s=self._heartbeat_timeout_s,
            inventory=self._inventory,
            folders=self._folders,
        )
        blanks = Blanks(
            self._folders.state_dir,
            self._folders.runs_dir,
            identity.node,
            with_output=self._folders.var_logs_dir is None,
        )
        output = Output(self._nc, identity.node, self._clock)
        pushed: Subscription | None = None
        try:
            await asyncio.to_thread(blanks.clear)
            await workers.start()
            async with asyncio.TaskGroup() as self._tasks:
                parts = Parts(
                    self._nc,
                    self._folders,
                    words,
                    writer,
                    output,
                    self._clock,
                    self._host,
                    self._tasks.create_task,
                )
                self._live = LiveAttempts(parts, workers, blanks, self._feed)
                try:
                    await self._live.refill()
                    self._tasks.create_task(self._disk.run())
                    self._tasks.create_task(output.run())
                    self._tasks.create_task(self._live.hear())
                    self._tasks.create_task(self._leave_when_asked())
                    pushed = await self._nc.listen(subjects.push_delivery(identity.node), self._deliver)
                    async with (
                        OutputService(self._nc, identity.node, self._folders),
                        PruneService(self._nc, identity.node, self._folders, self._clock),
                    ):
                        self._state = State(incarnation=identity.incarnation)
                        self._feed(Begun(await self._live.found()))
                        await self._finished.wait()
                finally:
                    self._finished.set()
                    self._live.close()
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
            self._tasks.create_task(self._heartbeats.run(self._devices.readings, self._disk.free_mb))
            self._tasks.create_task(self._devices.run(self._tell_node))
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

    def _deliver(self, msg: Msg) -> None:
        """One decision of the dispatcher, from the node's push consumer (docs/protocol.md rule 10)."""
        tokens = msg.reply.split(".")
        if tokens[:2] != ["$JS", "ACK"] or len(tokens) not in (9, 12):
            return  # the server's idle heartbeat
        at = 5 if len(tokens) == 9 else 7
        seq, stored_ns = int(tokens[at]), int(tokens[at + 2])
        self._deliveries[seq] = msg
        if self._finished.is_set() or self._state.phase is not Phase.JOINED:
            return  # taken once the session has begun, or delivered again
        stored = decode(msg.subject, msg.data, seq, stored_ns)
        if isinstance(stored, Unreadable):
            self._pass_over(seq, msg.subject, stored.reason)
            return
        event = stored.event
        failpoint("agent.delivered")
        match event:
            case Dispatched() if is_ref(event.run_id, event.attempt):
                granted = self._granted(seq, event)
                self._feed(granted)
                if session.attempt_of(self._state, granted.ref) is None:
                    self._live.drop(granted.ref)  # delivered again: nothing of it is left behind
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

    def _granted(self, seq: int, event: Dispatched) -> Granted:
        ref = AttemptRef(event.run_id, event.attempt)
        work = self._live.on(ref)
        intent, why_not = self._intents.of(seq, event)
        if work.intent is None:
            work.intent = intent
        if why_not is not None:
            work.message = why_not
        return Granted(
            seq=seq,
            incarnation=event.incarnation,
            ref=ref,
            slots=event.slots,
            usable=why_not is None,
            disk=self._folders.on_disk(ref),
        )

    # --- actions ------------------------------------------------------------------------------------------

    def _act(self, action: Action) -> None:
        spawn, live = self._tasks.create_task, self._live
        match action:
            case WriteGrant(ref):
                live.write_grant(ref)
                failpoint("agent.intent_written")
            case WriteFolder(ref):
                live.write_folder(ref)
            case WriteStop(ref, reason, seq):
                live.write_stop(ref, reason, seq)
                failpoint("agent.stop_written")
            case Launch(ref):
                live.launch(ref)
            case WakeShim(ref):
                spawn(live.wake(ref))
            case Ack(seq):
                if (msg := self._deliveries.get(seq)) is not None:
                    spawn(self._acknowledge(msg))
            case Bury(ref, reason):
                spawn(live.bury(ref, reason))
            case TellStarted(ref):
                spawn(live.tell_started(ref))
            case TellEnd(ref):
                spawn(live.tell_end(ref))
            case Forget(ref):
                live.forget(ref)
            case ReadName():
                spawn(self._then(self._membership.read_name()))
            case Sweep(keep):
                spawn(self._then(self._swept(keep)))
            case AppendJoined(guard, attempts):
                spawn(self._then(self._membership.join(guard, attempts)))
            case AppendLeft():
                spawn(self._then(self._membership.leave(action, reclaim=self._state.reclaim)))
            case Refuse(owner):
                spawn(self._refuse(owner))
            case Finish():
                self._finished.set()
            case _:
                assert_never(action)

    async def _acknowledge(self, msg: Msg) -> None:
        with contextlib.suppress(nats.errors.Error):  # then it is delivered again
            await self._nc.publish(msg.reply, b"+ACK")
            failpoint("agent.acknowledged")

    async def _then(self, work: Awaitable[Input]) -> None:
        self._feed(await work)

    async def _swept(self, keep: tuple[AttemptRef, ...]) -> Input:
        await self._live.sweep(keep)
        failpoint("agent.swept")
        return Swept()

    async def _refuse(self, owner: str) -> None:
        self._refusal = await self._membership.refusal(owner)
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
