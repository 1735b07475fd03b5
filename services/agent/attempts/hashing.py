"""The artifacts of completed attempts: hashed after the end that freed the slots, and appended as ArtifactsHashed.

Owns the order of that work and what is left of it over a restart; knows neither slots nor the session.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from events.types import Artifacts, ArtifactsHashed, AttemptRef
from services.agent.attempts.attempt import Parts
from services.agent.folders import files
from services.agent.output import artifacts
from services.agent.reports.own_reports import OwnReports
from services.daemon_thread import in_daemon_thread
from services.failpoints import failpoint
from services.logging import get_logger
from trainshed_client.os_errors import cause

_log = get_logger("agent")

AT_ONCE = 2
"""Attempts that are hashed at the same time: the machine's disk and cores are the workers'."""
STEP_WITHIN_S = 10.0
"""Seconds without any progress after which the storage is left alone for a while."""
AGAIN_AFTER_S = 60.0


class Hashing:
    """What is still to be hashed here. The marker of each stays until its ArtifactsHashed is acknowledged."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._folders = parts.folders
        self._queue: asyncio.Queue[tuple[AttemptRef, OwnReports]] = asyncio.Queue()

    def add(self, ref: AttemptRef, own: OwnReports) -> None:
        """The end of this attempt is acknowledged, and it left artifacts. Raises OSError."""
        self._folders.mark_unhashed(ref)
        self._queue.put_nowait((ref, own))

    async def run(self) -> None:
        """Hash what an earlier process left and what is added. Runs until cancelled."""
        for ref in self._folders.unhashed_attempts():
            self._queue.put_nowait((ref, OwnReports()))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(self._work())

    async def _work(self) -> None:
        while True:
            ref, own = await self._queue.get()
            try:
                event = ArtifactsHashed(
                    run_id=ref.run_id, attempt=ref.attempt, artifacts=await self._hash(ref)
                )
                async with self._parts.orders.of(ref.run_id):
                    await self._parts.appender.append(event, own)
                failpoint("agent.hashed_appended")
                self._folders.unmark_unhashed(ref)
            except OSError as error:
                _log.warning(
                    "artifacts cannot be hashed yet",
                    run_id=ref.run_id,
                    attempt=ref.attempt,
                    error=cause(error),
                )
                asyncio.get_running_loop().call_later(AGAIN_AFTER_S, self._queue.put_nowait, (ref, own))

    async def _hash(self, ref: AttemptRef) -> Artifacts | None:
        """Raises OSError, TimeoutError among it where the storage does not get on."""
        intent = files.read_intent(self._folders.attempt(ref))
        if intent is None:
            return None
        progress = artifacts.Progress()
        hashing = asyncio.ensure_future(
            in_daemon_thread(partial(artifacts.hashed, Path(intent.run_dir), progress))
        )
        seen = -1
        try:
            while not hashing.done() and seen < progress.steps:
                seen = progress.steps
                await asyncio.wait({hashing}, timeout=STEP_WITHIN_S)
            if not hashing.done():
                raise TimeoutError("its storage does not answer")
            return hashing.result()
        finally:
            hashing.cancel()
