"""How many runs of a person may wait or run at once: counted as they are folded, and before that as they are submitted.

Owns the count and the refusal; appends nothing. Another gateway counts for itself: together they may go over a quota by
what both take within the moment that an event needs to be folded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator

from events.change import Change
from events.codec import StoredEvent
from events.state import Ended, State
from events.types import RetryRequested, Submitted
from services.callers import Caller, PersonCaller, WorkerCaller
from services.fold import SharedFold
from services.gateway.lookup import Lookup
from services.gateway.ownership import RunOwners
from services.people import People, rights_of
from trainshed_client.errors import ErrorCode, TrainshedError

_READ_AT_ONCE = 256


class RunRoom:
    """Room for some runs: `keep` those that were appended; the others' is free again when the block ends."""

    def __init__(self, run_ids: Iterable[str] = ()) -> None:
        self.unused = set(run_ids)

    def keep(self, run_id: str) -> None:
        """It was appended: from now on the fold counts it."""
        self.unused.discard(run_id)


class QueuedRuns:
    """Counts each person's live runs, those that his runs' workers submitted among them."""

    def __init__(self, fold: SharedFold, lookup: Lookup, owners: RunOwners, people: People) -> None:
        self._fold = fold
        self._lookup = lookup
        self._owners = owners
        self._people = people
        self._of: State | None = None
        self._owner: dict[str, str] = {}
        self._live: Counter[str] = Counter()
        self._appending: dict[str, str] = {}
        fold.listen(self._folded)

    @contextlib.asynccontextmanager
    async def place(self, caller: Caller, run_ids: Collection[str]) -> AsyncIterator[RunRoom]:
        """Keep room for runs that are about to be live. Raises TOO_MANY where there is none for those that are new."""
        person, limit = await self._quota(caller)
        if person is None or limit is None:
            yield RunRoom()
            return
        with self._kept(person, await self._new_within(person, limit, run_ids)) as place:
            yield place

    @contextlib.asynccontextmanager
    async def place_again(self, caller: Caller, run_id: str) -> AsyncIterator[RunRoom]:
        """The same for an ended run that is his and is about to be retried; who retries another's needs none."""
        person, limit = await self._quota(caller)
        if person is None or limit is None or await self._owners.of(run_id) != person:
            yield RunRoom()
            return
        await self._count_all()
        if (has := self._has(person)) >= limit:
            raise _too_many(person, limit, has, 1)
        with self._kept(person, [run_id]) as place:
            yield place

    async def require_room(self, caller: Caller, run_ids: Collection[str]) -> None:
        """Raises TOO_MANY as `place` does."""
        async with self.place(caller, run_ids):
            pass

    async def _quota(self, caller: Caller) -> tuple[str | None, int | None]:
        """Who is counted for, and how many he may have."""
        match caller:
            case PersonCaller(name):
                person = name
            case WorkerCaller(run_id):
                person = await self._owners.of(run_id)
            case _:
                return None, None
        rights = rights_of(self._people, person)
        return person, None if rights is None else rights.queued

    async def _new_within(self, person: str, limit: int, run_ids: Collection[str]) -> list[str]:
        """Those that are neither live nor about to be. Nothing is awaited between the last count and the return."""
        asked = run_ids
        while True:
            await self._count_all()
            new = [one for one in asked if one not in self._fold.state.runs and one not in self._appending]
            has = self._has(person)
            if has + len(new) <= limit:
                return new
            if asked is not run_ids:
                raise _too_many(person, limit, has, len(new))
            asked = await self._unknown(new)  # of what exists, though it has ended, nothing is appended

    @contextlib.contextmanager
    def _kept(self, person: str, run_ids: Collection[str]) -> Iterator[RunRoom]:
        place = RunRoom(run_ids)
        self._appending |= dict.fromkeys(run_ids, person)
        try:
            yield place
        finally:
            for run_id in place.unused:
                self._appending.pop(run_id, None)

    def _has(self, person: str) -> int:
        return self._live[person] + sum(owner == person for owner in self._appending.values())

    async def _unknown(self, run_ids: Collection[str]) -> list[str]:
        return [one for one in run_ids if (await self._lookup.submitted(one))[0] == 0]

    async def _count_all(self) -> None:
        """Know whose every live run is. After a start they are read from the log, once, for the first who has a quota."""
        if self._of is not self._fold.state:  # the log was put back, and is folded anew
            self._of, self._owner, self._live = self._fold.state, {}, Counter()
        while missing := list(self._fold.state.runs.keys() - self._owner.keys()):
            for first in range(0, len(missing), _READ_AT_ONCE):
                some = missing[first : first + _READ_AT_ONCE]
                for run_id, owner in zip(some, await self._owners_of(some), strict=True):
                    if run_id in self._fold.state.runs and run_id not in self._owner:
                        self._owner[run_id] = owner
                        self._live[owner] += 1

    async def _owners_of(self, run_ids: Collection[str]) -> list[str]:
        failed: list[TrainshedError] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                reading = [tasks.create_task(self._owners.of(run_id)) for run_id in run_ids]
        except* TrainshedError as group:
            failed = [error for error in group.exceptions if isinstance(error, TrainshedError)]
        if failed:
            raise failed[0]
        return [task.result() for task in reading]

    def _folded(self, stored: StoredEvent, change: Change) -> None:
        if isinstance(stored.event, Submitted | RetryRequested):
            self._appending.pop(stored.event.run_id, None)
        for one in change.runs:
            if isinstance(one.after.phase, Ended) and (owner := self._owner.pop(one.after.run_id, None)):
                self._live[owner] -= 1


def _too_many(person: str, limit: int, has: int, new: int) -> TrainshedError:
    these = "this one" if new == 1 else f"these {new}"
    return TrainshedError(
        ErrorCode.TOO_MANY,
        f"{person} has {has} runs that wait or run, what their workers submitted among them, and may have {limit}: "
        f"{these} would be more. Submit again once some have ended, or have an admin allow more: "
        f"trainshed user add {person} --queued N",
    )
