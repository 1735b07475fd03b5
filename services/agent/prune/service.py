"""Serves the call by which an operator has this node delete the folders of runs that ended long ago.

Owns ``trainshed.api.node.<node>.prune`` and how long one call works; what may go is `prune`'s to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Self

from events.times import rfc3339
from services.agent.folders.paths import Folders, is_ref
from services.agent.prune import prune, trash
from services.agent.prune.trash import Trashed
from services.api import ApiServer, Call
from services.daemon_thread import in_daemon_thread
from services.logging import get_logger
from services.requests import PruneRequest
from trainshed_client.answers import Pruned, PruneKept
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient
from trainshed_client.os_errors import cause

_log = get_logger("agent")

MAX_RUNS = 500
MAX_BYTES = 128 * 1024
TURN_S = 2.0
"""Seconds after which a call answers with what it has done so far; the run that it is at is finished first."""
ANSWERS_WITHIN_S = 30.0
"""Seconds after which storage of earlier runs that does not answer at the start is passed over."""
STOPS_WITHIN_S = 2.0
"""Seconds that a stop waits for storage that does not answer."""


class PruneService:
    """The endpoint, as an async context manager. One request is worked on at a time."""

    def __init__(self, nc: SafeClient, node: str, folders: Folders, clock: Callable[[], int]) -> None:
        self._node = node
        self._folders = folders
        self._clock = clock
        self._api = ApiServer(nc, "agent", {f"node.{node}.prune": self._prune}, max_bytes=MAX_BYTES)
        self._turn = asyncio.Lock()
        self._stopped = threading.Event()
        self._tidying: asyncio.Task[None] | None = None
        self._undeleted: dict[Trashed, str] = {}
        """What waits in the trash and cannot be deleted, and why."""

    async def __aenter__(self) -> Self:
        await self._api.__aenter__()
        self._tidying = asyncio.create_task(self._tidy())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        try:
            if self._tidying is not None:  # first: calls under way may wait for its turn
                await asyncio.wait({self._tidying}, timeout=STOPS_WITHIN_S)
                self._tidying.cancel()  # its thread hangs in storage; a deletion may be left anywhere
                await asyncio.wait({self._tidying})
        finally:
            await self._api.__aexit__(kind, error, trace)

    async def _tidy(self) -> None:
        """Delete what an earlier process had moved away, also where the settings were others."""
        async with self._turn:
            for root in await in_daemon_thread(partial(prune.roots, self._folders)):
                look = partial(prune.leftovers, self._folders, self._node, root)
                try:
                    async with asyncio.timeout(ANSWERS_WITHIN_S):
                        found = await in_daemon_thread(look)
                except OSError as error:
                    why = cause(error)
                    _log.warning("what was pruned is not looked for", folder=str(root), error=why)
                    continue
                await self._finish(found)

    async def _finish(self, found: Iterable[Trashed]) -> None:
        """Delete these, and keep in mind which cannot be."""
        for trashed in found:
            try:
                await in_daemon_thread(partial(trash.delete, trashed, self._stopped))
            except trash.Stopped:
                return
            except OSError as error:
                self._undeleted[trashed] = cause(error)
                _log.warning("what was pruned cannot be deleted", folder=trashed.shown, error=cause(error))
            else:
                self._undeleted.pop(trashed, None)

    async def _prune(self, call: Call) -> Pruned:
        wanted, dry_run = _wanted(call)
        if not wanted:  # asked whether we are here, which is answered also while others wait for their turn
            kept = [
                PruneKept(run_id=prune.run_of(trashed), reason=_still_to_delete(trashed, why))
                for trashed, why in islice(self._undeleted.items(), MAX_RUNS)
            ]
            return Pruned(node=self._node, handled=0, runs=[], bytes=0, kept=kept)
        runs: list[str] = []
        kept = []
        size = handled = 0
        async with self._turn:
            begun = time.monotonic()
            if not dry_run:
                await self._finish(list(self._undeleted))
            for run_id, attempt in wanted:
                if handled and time.monotonic() - begun > TURN_S:
                    break
                handled += 1
                try:
                    found = await self._one(run_id, attempt, dry_run)
                except (prune.Kept, OSError) as error:
                    kept.append(PruneKept(run_id=run_id, reason=cause(error)))
                except trash.Stopped:
                    raise TrainshedError(
                        ErrorCode.UNAVAILABLE, f"the agent of {self._node} is stopping; ask again"
                    ) from None
                else:
                    if found is not None:
                        runs.append(run_id)
                        size += found
        return Pruned(node=self._node, handled=handled, runs=runs, bytes=size, kept=kept)

    async def _one(self, run_id: str, attempt: int, dry_run: bool) -> int | None:
        """Bytes that a run's folders took, None where there were none. Raises Kept, OSError, Stopped."""
        left = await in_daemon_thread(partial(prune.find, self._folders, run_id))
        if not left.places:
            return None
        if dry_run:
            await in_daemon_thread(partial(prune.check, self._folders, left, attempt))
            return await in_daemon_thread(partial(prune.on_disk, left, self._stopped))
        taken = await self._take(left, attempt)
        size = await self._delete(taken.aside)
        marker_stands = taken.whole
        if not marker_stands:  # now there may be room
            with contextlib.suppress(prune.Kept, OSError):
                left = await in_daemon_thread(partial(prune.find, self._folders, run_id))
                marker_stands = (await self._take(left, attempt)).whole
        if marker_stands:
            size += await self._delete(prune.take_own(self._folders, self._node, left, attempt))
        _log.info("pruned", run_id=run_id, bytes=size)
        return size

    async def _take(self, left: prune.Left, attempt: int) -> prune.Taken:
        at = rfc3339(self._clock())
        return await in_daemon_thread(
            partial(prune.take_shared, self._folders, self._node, left, attempt, at)
        )

    async def _delete(self, aside: Iterable[Trashed]) -> int:
        """Bytes. Raises Stopped, and OSError once all is deleted that can be."""
        size, failed = 0, None
        for trashed in aside:
            try:
                size += await in_daemon_thread(partial(trash.delete, trashed, self._stopped))
            except OSError as error:
                self._undeleted[trashed] = cause(error)
                failed = OSError(_still_to_delete(trashed, cause(error)))
        if failed is not None:
            raise failed
        return size


def _still_to_delete(trashed: Trashed, why: str) -> str:
    return f"still to delete: {trashed.shown} ({why})"


def _wanted(call: Call) -> tuple[list[tuple[str, int]], bool]:
    """Run ids with their last attempts, and whether nothing is to be deleted. Raises TrainshedError (INVALID)."""
    fields = call.fields(PruneRequest)
    wanted: list[tuple[str, int]] = []
    for place, run in enumerate(fields["runs"] or ()):
        run_id, attempt = (run.get("run_id"), run.get("attempt")) if isinstance(run, dict) else (None, None)
        if not is_ref(run_id, attempt):
            raise TrainshedError(
                ErrorCode.INVALID,
                'names no attempt: write {"run_id": the whole id, "attempt": the run\'s last, from 1 on}',
                f"runs.{place}",
            )
        wanted.append((str(run_id), int(str(attempt))))
    if len(wanted) > MAX_RUNS:
        raise TrainshedError(
            ErrorCode.INVALID, f"must name {MAX_RUNS} runs at most, not {len(wanted)}", "runs"
        )
    return wanted, bool(fields["dry_run"])
