"""Whose a run is, and what follows for who asks: a submitter ends only his own, a worker only what it sees.

Owns who submitted each run (a worker's runs are of who submitted the first of them all) and the refusals; knows no quota.
"""

from __future__ import annotations

import asyncio
import sys

import nats.errors

from events.change import Change
from events.codec import StoredEvent
from events.feed import ApiError
from events.log import EventLog
from events.state import Active, Run
from events.types import Submitted
from services.access.identities import PersonRole
from services.callers import Caller, Insider, PersonCaller, WorkerCaller, stored_as, submitting_run
from services.fold import SharedFold
from services.gateway.lookup import Lookup
from services.parent import not_there, seen_by_config, unseen
from services.people import People, rights_of
from trainshed_client.errors import ErrorCode, TrainshedError

REACHED_WITHIN_S = 5.0
_KNOWN = 20_000
"""Of so many runs it is known who submitted them; then of the live ones alone."""


class RunOwners:
    """Who submitted each run: heard as it is folded, else read from the log."""

    def __init__(self, fold: SharedFold, lookup: Lookup) -> None:
        self._fold = fold
        self._lookup = lookup
        self._by: dict[str, str] = {}
        fold.listen(self._folded)

    async def of(self, run_id: str) -> str:
        """Who submitted the run; of what a worker submitted, who submitted that worker's run, and so on to the first."""
        passed: set[str] = set()
        while run_id not in passed:
            passed.add(run_id)
            by = self._by.get(run_id) or await self._read(run_id)
            parent = submitting_run(by)
            if parent is None:
                return by
            run_id = parent
        return f"run/{run_id}"  # a log that nobody wrote in order: it is nobody's

    async def _read(self, run_id: str) -> str:
        by = await self._lookup.submitted_by(run_id)
        if by is None:
            return f"run/{run_id}"
        self._keep(run_id, by)
        return by

    def _folded(self, stored: StoredEvent, change: Change) -> None:
        if isinstance(stored.event, Submitted) and change.runs:
            self._keep(stored.event.run_id, stored.event.submitted_by)

    def _keep(self, run_id: str, by: str) -> None:
        if len(self._by) >= _KNOWN + len(self._fold.state.runs):
            live = self._fold.state.runs
            self._by = {run_id: by for run_id, by in self._by.items() if run_id in live}
        self._by[run_id] = sys.intern(by)


class Ownership:
    """Refuses what somebody may not do with a run, or in a run's name."""

    def __init__(self, log: EventLog, fold: SharedFold, owners: RunOwners, people: People) -> None:
        self._log = log
        self._fold = fold
        self._owners = owners
        self._people = people

    async def require_there(self, caller: Caller) -> None:
        """A node asks for the workers that it has, and for no others. Raises DENIED; UNAVAILABLE where that is not known."""
        if not isinstance(caller, WorkerCaller) or caller.node is None or self._is_there(caller):
            return
        try:  # its grant may be stored, and its worker ask, before it is folded here
            async with asyncio.timeout(REACHED_WITHIN_S):
                await self._fold.reached(await self._log.end())
        except (TimeoutError, nats.errors.Error, ApiError):
            raise TrainshedError(
                ErrorCode.UNAVAILABLE,
                "the event log does not answer: where that run is, is not known; ask again",
            ) from None
        if not self._is_there(caller):
            raise not_there(caller.run_id, caller.node)

    def _is_there(self, caller: WorkerCaller) -> bool:
        run = self._fold.state.runs.get(caller.run_id)
        return (
            run is not None
            and isinstance(run.phase, Active)
            and caller.node is not None
            and run.phase.on(caller.node) is not None
        )

    async def require_own(self, caller: Caller, run: Run) -> None:
        """Raises DENIED where the run is not his to end or to retry; NOT_FOUND where a worker does not see it."""
        match caller:
            case Insider():
                return
            case WorkerCaller(parent):
                if parent not in seen_by_config(run.run_id, run.config):
                    raise unseen(run.run_id, parent)
                return
            case PersonCaller(name):
                rights = rights_of(self._people, name)
                if rights is not None and rights.role is PersonRole.ADMIN:
                    return
        owner = await self._owners.of(run.run_id)
        if owner != stored_as(caller):
            raise TrainshedError(
                ErrorCode.DENIED,
                f"run {run.run_id[:6]} is {owner}'s, and {stored_as(caller)} ends and retries only what is "
                f"{stored_as(caller)}'s own. Ask {owner}, or an admin of this stack",
                "run_id",
            )
