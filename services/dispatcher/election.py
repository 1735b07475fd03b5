"""Who is the active dispatcher: standing for election by the log, and the word that keeps others from standing.

Owns Elected, the epoch and ``trainshed.alive.dispatcher`` (docs/protocol.md rules 1, 16); decides nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
from nats.aio.msg import Msg

from events.codec import Writer
from events.log import Conflict, EventLog, Guard, UnknownOutcome
from events.types import Elected
from services.dispatcher.scheduler import SCHEDULER
from services.fold import SharedFold
from services.logging import get_logger
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

    async def hear(self, msg: Msg) -> None:
        """Callback of the subscription to ``trainshed.alive.dispatcher``."""
        if msg.data != self._name.encode():
            self._heard = self._monotonic()

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
        """Append Elected until one counts, fold up to it and return the epoch."""
        while True:
            event = self._writer.new(Elected(name=self._name, scheduler=SCHEDULER))
            try:
                seq, _ = await self._log.last_id(subjects.ELECTED)
                epoch = (await self._log.append(event, Guard(subjects.ELECTED, seq))).seq
            except Conflict:
                continue
            except UnknownOutcome as error:
                _log.warning("no answer to an Elected; standing again", why=str(error))
                await self._unknown()
                continue
            await self._fold.reached(epoch)
            if self._fold.state.epoch == epoch:
                _log.info("elected", epoch=epoch, name=self._name)
                return epoch

    async def tell(self) -> None:
        """Say that we are active, every 0.5 s, until cancelled."""
        while True:
            await self._log.nc.publish(subjects.ALIVE_DISPATCHER, self._name.encode())
            await asyncio.sleep(ALIVE_EVERY_S)

    async def _unknown(self) -> None:
        """What was sent and not answered may still be stored: its successor's guard sees it then."""
        again = asyncio.Event()
        self._log.nc.reconnect_hooks.add(again.set)
        try:
            async with asyncio.timeout(1.0):
                await again.wait()
        except TimeoutError:
            pass
        finally:
            self._log.nc.reconnect_hooks.discard(again.set)


class Silence:
    """When each node was last heard, on the dispatcher's monotonic clock (docs/protocol.md rule 6).

    Counted while connected and from the election: a node that nobody could hear was not silent.
    """

    def __init__(self, limit_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.limit_s = limit_s
        self._monotonic = monotonic
        self._heard: dict[str, float] = {}
        self._counted_from = monotonic()

    async def hear(self, msg: Msg) -> None:
        """Callback of the subscription to the nodes' heartbeats."""
        where = subjects.parse_heartbeat_subject(msg.subject)
        if where is not None:
            self._heard[where[1]] = self._monotonic()

    def joined(self, node: str) -> None:
        """A join counts as a word."""
        self._heard[node] = self._monotonic()

    def count_anew(self) -> None:
        """From an election or a reconnection on."""
        self._counted_from = self._monotonic()

    def silent_s(self, node: str) -> float:
        """How long the node has been silent, in seconds."""
        return self._monotonic() - max(self._heard.get(node, float("-inf")), self._counted_from)


class NotActive(Exception):
    """This dispatcher's epoch is over: whatever it would append is refused."""


class Epoch(msgspec.Struct, frozen=True):
    """The sequence of our Elected, and the guard that every event of this epoch bears."""

    seq: int

    @property
    def guard(self) -> Guard:
        """Expects that nobody was elected since."""
        return Guard(subjects.ELECTED, self.seq)
