"""The shell around the agent's session: a delivery to its acknowledgement, and every action that a step asks for.

Owns the session's state and the order of its inputs; decides nothing (`session` does) and knows no wiring.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import assert_never

import msgspec
import nats.errors
from nats.aio.msg import Msg

from events.codec import Unreadable, decode
from events.types import AttemptRef, Dispatched, NodeLost, Stopping
from services.agent.attempts.attempt import Parts
from services.agent.attempts.attempts import Attempts
from services.agent.attempts.intents import Intents
from services.agent.folders.files import StopReason
from services.agent.folders.paths import is_ref
from services.agent.folders.prepared import PreparedFolders
from services.agent.identity import Identity
from services.agent.processes.workers import Workers
from services.agent.reports.appender import PAUSE_S
from services.agent.reports.membership import Membership
from services.agent.session import machine
from services.agent.session.machine import attempt_of
from services.agent.session.values import (
    Ack,
    Action,
    AppendEnd,
    AppendJoined,
    AppendLeft,
    AppendStarted,
    AttemptPlace,
    CountedLost,
    ExitWritten,
    Finalise,
    Finish,
    Forget,
    Granted,
    Input,
    Joined,
    Launch,
    PrepareFolders,
    ReadName,
    Refuse,
    SessionPhase,
    SessionState,
    StopOrdered,
    Sweep,
    Swept,
    WakeShim,
    WriteFolder,
    WriteGrant,
    WriteStop,
)
from services.failpoints import failpoint
from services.logging import get_logger
from trainshed_client.errors import TrainshedError
from trainshed_client.os_errors import cause

_log = get_logger("agent")

REFUSE_AFTER_S = 5.0
"""Seconds of trying after which a grant that cannot be written down is refused: the run may start elsewhere."""
RESTORE_EVERY_S = 2.0
"""Seconds from one look at what a cleaner of temporary folders may have taken to the next."""
APPEND_ENDS_S = 5.0
"""Seconds that an agent whose workers are all ended goes on trying to append their ends before it exits."""


class SessionShell:
    """Feeds one agent's session and carries out what it decides. ``joined`` is called at each of its joins, ``ended``
    with the slots of an attempt whose last process has gone.

    ``finished`` is set once nothing is left to do, or by whoever ends it; it takes nothing after that. ``refusal`` is
    the error for people where the node's name is another's.
    """

    def __init__(
        self,
        parts: Parts,
        workers: Workers,
        prepared: PreparedFolders,
        *,
        identity: Identity,
        intents: Intents,
        membership: Membership,
        joined: Callable[[], None],
        ended: Callable[[tuple[int, ...]], None] = lambda _: None,
    ) -> None:
        self.state = SessionState(incarnation=identity.incarnation)
        self.attempts = Attempts(parts, workers, prepared, self.feed)
        self.finished = asyncio.Event()
        self.refusal: TrainshedError | None = None
        self._nc = parts.nc
        self._folders = parts.folders
        self._spawn = parts.spawn
        self._node = identity.node
        self._intents = intents
        self._membership = membership
        self._joined = joined
        self._ended = ended
        self._inputs: deque[Input] = deque()
        self._draining = False
        self._deliveries: dict[int, Msg] = {}
        self._unwritten: dict[int, float] = {}
        """Sequence of a grant → since when (the loop's clock) it could not be written down."""
        self._give_up: asyncio.TimerHandle | None = None

    async def keep(self) -> None:
        """Make again what vanished of the state folder (a cleaner of temporary folders), until cancelled."""
        logged = False
        while True:
            await asyncio.sleep(RESTORE_EVERY_S)
            try:
                self._folders.make_roots()
                self.attempts.restore(self.state)
                logged = False
            except OSError as error:
                if not logged:
                    _log.warning("what vanished of the state folder cannot be made again", error=cause(error))
                logged = True

    # --- inputs -------------------------------------------------------------------------------------------

    def feed(self, event: Input) -> None:
        """Take an input, and whatever its actions bring about at once, one after the other."""
        self._inputs.append(event)
        if self._draining or self.finished.is_set():
            return
        self._draining = True
        try:
            while self._inputs:
                self._take(self._inputs.popleft())
        finally:
            self._draining = False

    def _take(self, event: Input) -> None:
        before = self.state
        self.state, actions = machine.step(before, event)
        try:
            for action in actions:
                self._act(action)
        except OSError as error:
            # Only writes raise, and they come first: this step did not happen.
            self.state = before
            _log.warning("the state folder cannot be written; trying again", error=cause(error))
            if isinstance(event, Granted):
                self._refuse_late(event, error)
            elif not isinstance(event, StopOrdered):  # these two are delivered again
                asyncio.get_running_loop().call_later(PAUSE_S, self.feed, event)
            return
        if isinstance(event, Granted):
            self._unwritten.pop(event.seq, None)
        if isinstance(event, ExitWritten):
            for each in before.attempts:
                if each.ref == event.ref:
                    self._ended(each.slots)
        if isinstance(event, Joined) and self.state.phase is SessionPhase.JOINED:
            self._has_joined()
        self._limit_appending()

    def _refuse_late(self, event: Granted, error: OSError) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._unwritten.setdefault(event.seq, now) >= REFUSE_AFTER_S:
            self.attempts.refuse(event.ref, f"it cannot be written down: {cause(error)}")
            self.feed(msgspec.structs.replace(event, unwritable=True))

    def _has_joined(self) -> None:
        self._joined()
        _log.info("joined", node=self._node, seq=self.state.joined, attempts=len(self.state.attempts))
        held, self._deliveries = self._deliveries, {}
        for msg in held.values():
            asyncio.get_running_loop().call_soon(self.deliver, msg)

    def _limit_appending(self) -> None:
        state = self.state
        if state.phase is not SessionPhase.RECLAIMING or self._give_up is not None:
            return
        if all(each.place is AttemptPlace.OVER for each in state.attempts):
            loop = asyncio.get_running_loop()
            self._give_up = loop.call_later(APPEND_ENDS_S, self.finished.set)

    def deliver(self, msg: Msg) -> None:
        """One decision of the dispatcher, from the node's push consumer (docs/protocol.md rule 10)."""
        tokens = msg.reply.split(".")
        if tokens[:2] != ["$JS", "ACK"] or len(tokens) not in (9, 12):
            return  # the server's idle heartbeat
        at = 5 if len(tokens) == 9 else 7
        seq, stored_ns = int(tokens[at]), int(tokens[at + 2])
        self._deliveries[seq] = msg
        if self.finished.is_set() or self.state.phase is not SessionPhase.JOINED:
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
                self.feed(granted)
                if attempt_of(self.state, granted.ref) is None:
                    self.attempts.drop(granted.ref)  # delivered again: nothing of it is left behind
            case Stopping() if is_ref(event.run_id, event.attempt):
                ref = AttemptRef(event.run_id, event.attempt)
                self.feed(
                    StopOrdered(
                        seq=seq,
                        incarnation=event.incarnation,
                        ref=ref,
                        reason=StopReason(event.reason),
                        disk=self._folders.on_disk(ref),
                    )
                )
            case NodeLost():
                self.feed(CountedLost(seq=seq, incarnation=event.incarnation))
            case _:
                self._pass_over(seq, msg.subject, "it is nothing that an agent takes")
        self._deliveries.pop(seq, None)

    def _pass_over(self, seq: int, subject: str, reason: str) -> None:
        """What cannot be used must not stand in the way of what follows it."""
        _log.warning("a decision is passed over", node=self._node, seq=seq, subject=subject, reason=reason)
        self._act(Ack(seq))
        self._deliveries.pop(seq, None)

    def _granted(self, seq: int, event: Dispatched) -> Granted:
        ref = AttemptRef(event.run_id, event.attempt)
        work = self.attempts.on(ref)
        intent, why_not = self._intents.of(seq, event)
        if work.intent is None:
            work.intent = intent
        granted = Granted(
            seq=seq,
            incarnation=event.incarnation,
            ref=ref,
            slots=event.slots,
            view=event.view.seq,
            usable=why_not is None,
            disk=self._folders.on_disk(ref),
        )
        if machine.has_older_slots(self.state, granted):
            why_not = "its slots were chosen by what this node had before its last join"
        if why_not is not None:
            work.message = why_not
        return granted

    # --- actions ------------------------------------------------------------------------------------------

    def _act(self, action: Action) -> None:
        spawn, attempts = self._spawn, self.attempts
        match action:
            case WriteGrant(ref):
                attempts.write_grant(ref)
                failpoint("agent.intent_written")
            case WriteFolder(ref):
                attempts.write_folder(ref)
            case WriteStop(ref, reason, seq):
                attempts.write_stop(ref, reason, seq)
                failpoint("agent.stop_written")
            case PrepareFolders(ref):
                attempts.prepare(ref)
            case Launch(ref):
                attempts.launch(ref)
            case WakeShim(ref):
                spawn(attempts.wake(ref))
            case Ack(seq):
                if (msg := self._deliveries.get(seq)) is not None:
                    spawn(self._acknowledge(msg))
            case Finalise(ref, reason):
                spawn(attempts.finalise(ref, reason))
            case AppendStarted(ref):
                spawn(attempts.append_started(ref))
            case AppendEnd(ref):
                spawn(attempts.append_end(ref))
            case Forget(ref):
                attempts.forget(ref)
            case ReadName():
                spawn(self._then(self._membership.read_name()))
            case Sweep(keep):
                spawn(self._then(self._swept(keep)))
            case AppendJoined(guard, refs):
                spawn(self._then(self._membership.join(guard, refs)))
            case AppendLeft():
                spawn(self._then(self._membership.leave(action, reclaim=self.state.reclaim)))
            case Refuse(owner):
                spawn(self._refuse(owner))
            case Finish():
                self.finished.set()
            case _:
                assert_never(action)

    async def _acknowledge(self, msg: Msg) -> None:
        await asyncio.sleep(0)  # a launch that follows at once comes first
        with contextlib.suppress(nats.errors.Error):  # then it is delivered again
            await self._nc.publish(msg.reply, b"+ACK")
            failpoint("agent.acknowledged")

    async def _then(self, work: Awaitable[Input]) -> None:
        self.feed(await work)

    async def _swept(self, keep: tuple[AttemptRef, ...]) -> Input:
        await self.attempts.sweep(keep)
        failpoint("agent.swept")
        return Swept()

    async def _refuse(self, owner: str) -> None:
        self.refusal = await self._membership.refusal(owner)
        self.finished.set()
