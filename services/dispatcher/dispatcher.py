"""The dispatcher: wakes on each change of the fold, decides, and appends under its epoch, one append at a time.

Owns the loop around the pure parts (scheduler, obligations); every decision follows from state alone.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence

from nats.aio.msg import Msg

from events import rules
from events.change import Change
from events.codec import StoredEvent, Writer, uuid7
from events.log import Conflict, EventLog, Refused, UnknownOutcome
from events.types import Dispatched, Event, NodeEvent, NodeJoined
from services.dispatcher.consumers import DELETED, NodeConsumers
from services.dispatcher.decisions import Decisions
from services.dispatcher.election import Election, Epoch, NotActive, Silence
from services.failpoints import failpoint
from services.fold import SharedFold
from services.logging import get_logger
from trainshed_client import subjects
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.statuses import NodeStatus
from trainshed_client.subjects import Role

_log = get_logger("dispatcher")

BATCH_FROM = 8
"""From this many events on an atomic batch is cheaper than single appends (0.4 ms each; a batch 3 ms + 8 µs each)."""
CONSUMER_RETRY_S = 1.0
_NEWER = "the event log goes by the rules of a newer release."


class Dispatcher:
    """A Service. ``stand_at_once``: do not wait for 1.5 s of silence first (a stack that just started)."""

    name = "dispatcher"

    def __init__(
        self,
        log: EventLog,
        fold: SharedFold,
        *,
        node_lost_s: float = 15.0,
        stand_at_once: bool = False,
        who: str | None = None,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
        ids: Callable[[], str] = uuid7,
    ) -> None:
        self._log = log
        self._fold = fold
        self._clock = clock
        self._writer = Writer(Role.DISPATCHER, clock, ids)
        self._election = Election(
            log, fold, self._writer, who or f"{socket.gethostname()}/{ids()[-12:]}", monotonic=monotonic
        )
        self._silence = Silence(node_lost_s, monotonic)
        self._consumers = NodeConsumers(log.nc)
        self._stand_at_once = stand_at_once
        self._decisions = Decisions()
        self._wake = asyncio.Event()
        self._too_silent: tuple[str, ...] = ()
        self._stopping = False
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Be a candidate, or the active dispatcher, until stopped.

        Raises TrainshedError (CONFLICT) where it is to stand at once and the log goes by rules that it does not know.
        """
        await self._fold.ready.wait()
        self._decisions.rebuild(self._fold.state)
        self._fold.listen(self._folded)
        nc = self._log.nc
        hooks = {self._silence.count_anew, self._consumers.look_at_all}
        nc.reconnect_hooks |= hooks
        heard = [
            await nc.subscribe(subjects.ALL_NODE_HEARTBEATS, cb=self._silence.hear),
            await nc.subscribe(subjects.ALIVE_DISPATCHER, cb=self._hear_alive),
            await nc.subscribe(DELETED, cb=self._consumer_deleted),
        ]
        try:
            while not self._stopping:
                await self._candidate()
                if self._stopping:
                    return
                await self._active()
        finally:
            nc.reconnect_hooks -= hooks
            if not nc.is_closed:
                for subscription in heard:
                    await subscription.unsubscribe()

    def stop(self) -> None:
        """See Service. An append under way is awaited, no other begins."""
        self._stopping = True
        self._wake.set()

    # --- election -------------------------------------------------------------------------------------------

    async def _candidate(self) -> None:
        if self._fold.state.rules > rules.KNOWN:
            if self._stand_at_once:  # the one dispatcher of a stack: nothing would ever be decided
                raise TrainshedError(
                    ErrorCode.CONFLICT,
                    f"{_NEWER} Start that release, or another stack: TRAINSHED_STATE_DIR=DIR trainshed up",
                )
            await self._stand_aside()
            return
        if self._stand_at_once:
            self._stand_at_once = False
            return
        async with asyncio.TaskGroup() as tasks:
            silence = tasks.create_task(self._election.silence())
            while not silence.done() and not self._stopping:
                self._wake.clear()
                waking = tasks.create_task(self._wake.wait())
                await asyncio.wait({silence, waking}, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
            silence.cancel()

    async def _stand_aside(self) -> None:
        """Rules that were in force stay so: until it is stopped this dispatcher can decide nothing more."""
        _log.error(
            f"{_NEWER} This dispatcher does not stand for election; start that release",
            rules=self._fold.state.rules,
            known=rules.KNOWN,
        )
        while not self._stopping:
            self._wake.clear()
            await self._wake.wait()

    async def _active(self) -> None:
        """One term of office: ends when stopped or deposed."""
        try:
            epoch = Epoch(await self._election.stand())
        except NotActive:
            self._election.listen_anew()
            return
        self._decisions.in_flight.clear()
        self._silence.count_anew()
        self.ready.set()
        async with asyncio.TaskGroup() as tasks:
            helpers = [
                tasks.create_task(self._election.announce()),
                tasks.create_task(self._keep_consumers()),
                tasks.create_task(self._watch_silence()),
            ]
            try:
                while not self._stopping:
                    epoch = await self._turn(epoch)
            except NotActive:
                _log.warning("another dispatcher was elected", epoch=epoch.seq, by=self._fold.state.epoch_of)
                self._election.listen_anew()
            finally:
                self._consumers.look_at_all()
                for helper in helpers:
                    helper.cancel()

    # --- decisions ------------------------------------------------------------------------------------------

    def _folded(self, stored: StoredEvent, change: Change) -> None:
        self._decisions.note(self._fold.state, stored, change)
        if isinstance(stored.event, NodeJoined):
            self._silence.joined(stored.event.node)
        for name in change.nodes:
            node = self._fold.state.nodes.get(name)
            if node is None:
                self._silence.forget(name)
            # of a node that is there a grant or an end changes nothing
            if node is None or not node.is_there or isinstance(stored.event, NodeEvent):
                self._consumers.look_at(name)
        self._wake.set()

    async def _turn(self, epoch: Epoch) -> Epoch:
        """Decide once and append what was decided; wait where there is nothing to decide."""
        if self._fold.state.epoch != epoch.seq:
            raise NotActive
        self._wake.clear()
        events = self._decide(epoch)
        if not events:
            await self._something_new()
            return epoch
        try:
            if len(events) >= BATCH_FROM:
                await self._append(events, epoch)
            else:
                for event in events:
                    await self._append([event], epoch)
        except (Conflict, UnknownOutcome, Refused) as error:
            # what is not below the new Elected can never be stored, so nothing is carried over
            _log.warning("an append was not acknowledged; standing for election again", why=str(error))
            if isinstance(error, Conflict) or self._fold.state.epoch != epoch.seq:
                raise NotActive from None  # the guard says that somebody was elected since
            if isinstance(error, Refused):
                await self._log.reachable()  # the log takes nothing: no Elected for each try
            epoch = Epoch(await self._election.stand())
            self._decisions.in_flight.clear()
        return epoch

    def _decide(self, epoch: Epoch) -> list[Event]:
        return self._decisions.decide(
            self._fold.state,
            self._fold.position,
            epoch.seq,
            self._clock(),
            self._silence.too_long(self._too_silent),
        )

    async def _append(self, events: Sequence[Event], epoch: Epoch) -> None:
        decisions = [self._decisions.in_flight.add(event) for event in events]
        new = [self._writer.new(event) for event in events]
        failpoint("dispatcher.decided")
        while True:
            try:
                seqs = await self._log.append_batch(new, [epoch.guard] * len(new))
                break
            except Conflict as conflict:
                if not conflict.transient or self._fold.state.epoch != epoch.seq:
                    raise
        failpoint("dispatcher.appended")
        for decision, seq in zip(decisions, seqs, strict=True):
            decision.seq = seq
            _log_decision(decision.event, seq)

    async def _something_new(self) -> None:
        """Wait for a change of the fold, or for the next back-off to be over."""
        due = self._decisions.next_due_ns()
        timeout = None if due is None else max(0.0, (due - self._clock()) / 1e9)
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            pass

    # --- nodes ----------------------------------------------------------------------------------------------

    async def _hear_alive(self, msg: Msg) -> None:
        if self._election.hear(msg):
            self._silence.heard_ourselves()

    async def _consumer_deleted(self, msg: Msg) -> None:
        """A dispatcher that does not know yet that it was deposed may have removed what we made."""
        name = msg.subject.rpartition(".")[2]
        if name in self._fold.state.nodes:  # readers' consumers come and go as well
            self._consumers.look_at(name)

    async def _keep_consumers(self) -> None:
        while True:
            await self._consumers.changed.wait()
            if not await self._consumers.reconcile(self._fold.state):
                await asyncio.sleep(CONSUMER_RETRY_S)

    async def _watch_silence(self) -> None:
        """Wake the decisions when the next node has been silent too long: this alone looks at every node, by time."""
        while True:
            limit = self._silence.limit_s
            up = tuple(n.name for n in self._fold.state.nodes.values() if n.status is NodeStatus.UP)
            longest = max((self._silence.silent_s(name) for name in up), default=0.0)
            self._too_silent = tuple(self._silence.too_long(up)) if longest > limit else ()
            if self._too_silent:
                self._wake.set()
            await asyncio.sleep(max(0.1, min(limit, limit - longest + 0.01)))


def _log_decision(event: Event, seq: int) -> None:
    match event:
        case Dispatched(run_id=run_id, attempt=attempt, node=node, slots=slots):
            _log.info("dispatched", run_id=run_id, attempt=attempt, node=node, slots=list(slots), seq=seq)
        case _:
            fields = {name: getattr(event, name, None) for name in ("run_id", "attempt", "node")}
            _log.info(type(event).__name__.lower(), seq=seq, **{k: v for k, v in fields.items() if v})
