"""Serves the call by which an operator has this node delete the folders of runs that ended long ago.

Owns ``trainshed.api.node.<node>.prune`` and how long one call works; what may go is `prune`'s to say.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from events.times import rfc3339
from services.agent import prune
from services.agent.folders import Folders, is_ref
from services.api import ApiServer, Call
from services.logging import get_logger
from trainshed_client.answers import Pruned, PruneKept
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient

_log = get_logger("agent")

MAX_RUNS = 500
MAX_BYTES = 128 * 1024
TURN_S = 2.0
"""Seconds after which a call answers with what it has done so far; the run that it is at is finished first."""


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

    async def __aenter__(self) -> Self:
        await self._api.__aenter__()
        self._tidying = asyncio.create_task(self._tidy())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        try:
            await self._api.__aexit__(kind, error, trace)
        finally:
            if self._tidying is not None:
                await asyncio.wait({self._tidying})

    async def _tidy(self) -> None:
        """Delete what an earlier process had moved away."""
        async with self._turn:
            for path in await asyncio.to_thread(prune.leftovers, self._folders, self._node):
                try:
                    await asyncio.to_thread(prune.delete, [path], self._stopped)
                except prune.Stopped:
                    return
                except OSError as error:
                    _log.warning("what was pruned cannot be deleted", folder=str(path), error=str(error))

    async def _prune(self, call: Call) -> Pruned:
        wanted, dry_run = _wanted(call)
        if not wanted:  # asked whether we are here, which is answered also while others wait for their turn
            return Pruned(node=self._node, handled=0, runs=[], bytes=0)
        runs: list[str] = []
        kept: list[PruneKept] = []
        size = handled = 0
        async with self._turn:
            begun = time.monotonic()
            for run_id, attempt in wanted:
                if handled and time.monotonic() - begun > TURN_S:
                    break
                handled += 1
                try:
                    found = await self._one(run_id, attempt, dry_run)
                except (prune.Kept, OSError) as error:
                    kept.append(PruneKept(run_id=run_id, reason=str(error)))
                except prune.Stopped:
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
        left = await asyncio.to_thread(prune.find, self._folders, run_id)
        if not left.places:
            return None
        if dry_run:
            prune.check(self._folders, left, attempt)
            return await asyncio.to_thread(prune.on_disk, left)
        aside: list[Path] = prune.take(self._folders, self._node, left, attempt, rfc3339(self._clock()))
        size = await asyncio.to_thread(prune.delete, aside, self._stopped)
        _log.info("pruned", run_id=run_id, bytes=size)
        return size


def _wanted(call: Call) -> tuple[list[tuple[str, int]], bool]:
    """Run ids with their last attempts, and whether nothing is to be deleted. Raises TrainshedError (INVALID)."""
    fields = call.fields(runs=list, dry_run=bool)
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
