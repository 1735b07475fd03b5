"""How many requests of one account are taken: so many a second, so many at once. The next ones wait for their turn, so that
a program that awaits its answers is slowed and not refused; the rest is refused, then dropped.

Owns the limits and the count that is kept of each account. What a flood costs is one look here for each request, before
anything of it is read. Knows no call and no NATS; the clock is passed in.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable

import msgspec

from services.access.identities import person_of
from services.people import People, is_owner_of_stack, rights_of
from trainshed_client.errors import ErrorCode, TrainshedError


class Rate(msgspec.Struct, frozen=True):
    """So many a second in the long run, and so many at once after a pause. ``waiting``: how many may be under way."""

    per_s: float
    burst: int
    waiting: int = 256
    waiting_bytes: int = 16 * 1024 * 1024


DEFAULT_RATE = Rate(100.0, 100)
"""Of every account that nobody gave another."""
LOCAL_RATE = Rate(500.0, 500, waiting=4_096, waiting_bytes=64 * 1024 * 1024)
"""Of the local person, whose stack it is: more than any program that works comes to, and less than a flood."""
REFUSED_RATE = Rate(20.0, 20)
"""So many of those that are too many are answered with why; the others are dropped."""
TURN_WITHIN_S = 2.0
"""A request whose turn comes later is too many: who sent it would not wait for it."""
AT_ONCE = 8
"""Requests of one account that are worked on at a time: the others wait in its own line, and another's do not."""
LOOK_AGAIN_S = 1.0
"""A rate that was changed counts within that."""
LOG_EVERY_S = 30.0
_EPSILON_S = 1e-6


class Taking(enum.Enum):
    """What becomes of a request."""

    TAKEN = enum.auto()
    REFUSED = enum.auto()
    DROPPED = enum.auto()


def rate_of(per_s: float | None) -> Rate:
    """The rate of whom so many requests a second are granted; None: nobody gave a number."""
    return DEFAULT_RATE if per_s is None else Rate(per_s, max(1, round(per_s)))


def spend(full_at: float, now: float, rate: Rate, owed_s: float = 0.0) -> float | None:
    """Take one token out of a bucket that will be full again at ``full_at``: when it will be then. None: it is empty, and
    owes what comes in within ``owed_s`` already."""
    then = max(full_at, now) + 1 / rate.per_s
    return then if then - now <= rate.burst / rate.per_s + owed_s + _EPSILON_S else None


class AccountLine:
    """What is counted of one account, and its requests under way."""

    def __init__(self, rate: Rate, looked_at: float) -> None:
        self.rate = rate
        self.looked_at = looked_at
        self.at_work = asyncio.Semaphore(AT_ONCE)
        """Entered for as long as one is worked on."""
        self.dropped = 0
        """Since it was logged last."""
        self.logged_at = float("-inf")
        self._full_at = float("-inf")
        self._refusals_full_at = float("-inf")
        self._turns_full_at = float("-inf")
        self._waiting = 0
        self._bytes = 0

    def take(self, now: float) -> Taking:
        """Whether a request that comes now is taken."""
        then = spend(self._full_at, now, self.rate, TURN_WITHIN_S)
        if then is not None:
            self._full_at = then
            return Taking.TAKEN
        return self.refuse(now)

    def refuse(self, now: float) -> Taking:
        """What becomes of one that is too many: some are answered."""
        self.dropped += 1
        then = spend(self._refusals_full_at, now, REFUSED_RATE)
        if then is not None:
            self._refusals_full_at = then
            return Taking.REFUSED
        return Taking.DROPPED

    def has_room(self, size: int) -> bool:
        """Whether a request of so many bytes may wait, beside those that do."""
        return self._waiting < self.rate.waiting and self._bytes + size <= self.rate.waiting_bytes

    def turn(self, now: float) -> float:
        """In how many seconds it is the turn of the next one that was taken; it is one request's."""
        self._turns_full_at = max(self._turns_full_at, now) + 1 / self.rate.per_s
        return max(0.0, self._turns_full_at - now - self.rate.burst / self.rate.per_s)

    def begin(self, size: int) -> None:
        """A request was taken."""
        self._waiting += 1
        self._bytes += size

    def end(self, size: int) -> None:
        """It was answered."""
        self._waiting -= 1
        self._bytes -= size


class Admission:
    """Each account's line. Within the control account there is none."""

    def __init__(self, people: People, clock: Callable[[], float]) -> None:
        self._people = people
        self._clock = clock
        self._lines: dict[str, AccountLine] = {}

    def take(self, account: str) -> Taking:
        """Whether a request of this account that comes now is taken."""
        now = self._clock()
        line = self._lines.get(account)
        if line is None:
            line = self._lines[account] = AccountLine(self._rate(account), now)
        elif now - line.looked_at > LOOK_AGAIN_S:
            line.rate, line.looked_at = self._rate(account), now
        return line.take(now)

    def refuse(self, account: str) -> Taking:
        """What becomes of a request of this account for which there is no room."""
        return self.line(account).refuse(self._clock())

    def line(self, account: str) -> AccountLine:
        """Of an account that has asked."""
        line = self._lines.get(account)
        if line is None:
            line = self._lines[account] = AccountLine(self._rate(account), self._clock())
        return line

    def turn(self, line: AccountLine) -> float:
        """In how many seconds the next one of this line may be worked on."""
        return line.turn(self._clock())

    def dropped_of(self, account: str) -> int | None:
        """How many were too many since the last time that it was logged; None where that is not to be logged now."""
        line, now = self.line(account), self._clock()
        if now - line.logged_at < LOG_EVERY_S:
            return None
        line.logged_at, dropped = now, line.dropped
        line.dropped = 0
        return dropped

    def refusal(self, account: str) -> TrainshedError:
        """What is answered to one that is too many."""
        rate = self.line(account).rate
        person = person_of(account)
        more = (
            "" if person is None else f", or have an admin allow more: trainshed user add {person} --rate N"
        )
        return TrainshedError(
            ErrorCode.TOO_MANY,
            f"more requests than {rate.per_s:g} a second, or more at once than may wait: this one was not looked at, "
            "and the next ones may get no answer. Await answers before you ask again; submit many runs in one request "
            f"(run.submit_batch){more}",
        )

    def _rate(self, account: str) -> Rate:
        name = person_of(account)
        if name is None:
            return DEFAULT_RATE
        if is_owner_of_stack(name):
            return LOCAL_RATE
        rights = rights_of(self._people, name)
        return DEFAULT_RATE if rights is None else rate_of(rights.rate)
