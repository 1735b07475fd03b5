"""Who is the active dispatcher: standing for election by the log, and the announcement that keeps others from standing.

Owns Elected, the epoch and ``trainshed.alive.dispatcher`` (docs/protocol.md rules 1, 16); decides nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import msgspec
from nats.aio.msg import Msg

from events import rules
from events.codec import StoredEvent, Writer
from events.log import Conflict, EventLog, Guard, Refused, UnknownOutcome
from events.types import Elected
from services.failpoints import failpoint
from services.fold import SharedFold
from services.logging import get_logger
from services.scheduling.scheduler import SCHEDULER
from trainshed_client import subjects

_log = get_logger("dispatcher")

ALIVE_EVERY_S = 0.5
SILENCE_S = 1.5


class Election:
    """Stands for election when nobody active is heard. Safety is the guard alone; this is economy."""

    def __init__(
        self,
        log: EventLog,
        fold: SharedFold,
        writer: Writer,
        name: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._fold = fold
        self._writer = writer
        self._name = name
        self._monotonic = monotonic
        self._heard = float("-inf")
        self._listening_since = monotonic()

    def hear(self, msg: Msg) -> bool:
        """Take in an announcement on ``trainshed.alive.dispatcher``; True where it was our own that came back."""
        if msg.data == self._name.encode():
            return True
        self._heard = self._monotonic()
        return False

    async def silence(self) -> None:
        """Return once no other active dispatcher has been heard for 1.5 s."""
        while True:
            left = max(self._heard, self._listening_since) + SILENCE_S - self._monotonic()
            if left <= 0:
                return
            await asyncio.sleep(left)

    def listen_anew(self) -> None:
        """Wait for a whole silence again, after having been deposed."""
        self._listening_since = self._monotonic()

    async def stand(self) -> int:
        """Append Elected until one is stored, fold up to it and return the epoch.

        Raises NotActive where another was elected meanwhile: to stand against it would only depose it; and where the
        last Elected, which is folded first, leaves rules in force that this release does not know.
        """
        while True:
            event = self._writer.new(Elected(name=self._name, scheduler=SCHEDULER, rules=rules.KNOWN))
            try:
                seq, _ = await self._log.last_id(subjects.ELECTED)
                await self._fold.reached(seq)
                if self._fold.state.rules > rules.KNOWN:
                    raise NotActive
                epoch = (await self._log.append(event, Guard(subjects.ELECTED, seq))).seq
            except Conflict:
                if await self._another_was():
                    raise NotActive from None
                continue
            except (UnknownOutcome, Refused) as error:
                # what was sent and not answered may still be stored: its successor's guard sees it then
                _log.warning("an Elected was not acknowledged; standing again", why=str(error))
                await self._log.reachable()
                continue
            failpoint("dispatcher.elected")
            await self._fold.reached(epoch)
            if self._fold.state.epoch != epoch:
                raise NotActive
            _log.info("elected", epoch=epoch, name=self._name)
            return epoch

    async def announce(self) -> None:
        """Say that we are active, every 0.5 s, until cancelled."""
        while True:
            if self._log.nc.is_connected:  # what is said later than it was true must not be said at all
                await self._log.nc.publish(subjects.ALIVE_DISPATCHER, self._name.encode())
            await asyncio.sleep(ALIVE_EVERY_S)

    async def _another_was(self) -> bool:
        """True where the last Elected is not our own (one of ours may be stored after its time-out)."""
        try:
            last = await self._log.last(subjects.ELECTED)
        except UnknownOutcome:
            return False
        return not (
            isinstance(last, StoredEvent)
            and isinstance(last.event, Elected)
            and last.event.name == self._name
        )


class Silence:
    """When each node was last heard, on the dispatcher's monotonic clock (docs/protocol.md rule 6).

    Counted while connected and from the election: a node that nobody could hear was not silent. That we could is
    known from our own words, which come back by the same way: silence lasts up to the last of these, and where they
    stopped for a while (connection lost, server or this process stopped) it is counted anew.
    """

    def __init__(self, limit_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.limit_s = limit_s
        self._monotonic = monotonic
        self._heard: dict[str, float] = {}
        self._counted_from = self._connected_at = monotonic()

    async def hear(self, msg: Msg) -> None:
        """Callback of the subscription to the nodes' heartbeats."""
        where = subjects.parse_heartbeat_subject(msg.subject)
        if where is not None:
            self._heard[where[1]] = self._monotonic()

    def joined(self, node: str) -> None:
        """A join counts as a heartbeat."""
        self._heard[node] = self._monotonic()

    def forget(self, node: str) -> None:
        """The node is known no longer."""
        self._heard.pop(node, None)

    def count_anew(self) -> None:
        """From an election or a reconnection on."""
        self._counted_from = self._connected_at = self._monotonic()

    def heard_ourselves(self) -> None:
        """Our own announcement came back, so what others send comes through as well."""
        now = self._monotonic()
        if now - self._connected_at > SILENCE_S:
            self._counted_from = now
        self._connected_at = now

    def silent_s(self, node: str) -> float:
        """How long the node has been silent, in seconds."""
        since = max(self._heard.get(node, float("-inf")), self._counted_from)
        return max(0.0, self._connected_at - since)

    def too_long(self, nodes: Iterable[str]) -> dict[str, float]:
        """Those that have been silent longer than the limit, each with its seconds."""
        return {node: silent for node in nodes if (silent := self.silent_s(node)) > self.limit_s}


class NotActive(Exception):
    """This dispatcher's epoch is over: whatever it would append is refused."""


class Epoch(msgspec.Struct, frozen=True):
    """The sequence of our Elected, and the guard that every event of this epoch bears."""

    seq: int

    @property
    def guard(self) -> Guard:
        """Expects that nobody was elected since."""
        return Guard(subjects.ELECTED, self.seq)
