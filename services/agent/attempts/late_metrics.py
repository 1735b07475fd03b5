"""What stdout of ended attempts measured and their end had no time to count: counted after it, one attempt at a time.

Owns the order of that work and what is left of it over a restart; knows neither slots nor the session.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from events.types import AttemptRef
from services.agent.folders import files
from services.agent.folders.paths import Folders
from services.agent.processes.hand_in import hand_in_rest
from services.daemon_thread import in_daemon_thread
from services.logging import get_logger
from trainshed_client.os_errors import cause

_log = get_logger("agent")

PIECE_S = 0.2
"""Seconds of one piece of the work; then others have the machine for as long."""
AGAIN_AFTER_S = 60.0


class LateMetrics:
    """What is still to be counted here. The marker of each stays until all of its stdout was looked at."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._queue: asyncio.Queue[AttemptRef] = asyncio.Queue()

    def add(self, ref: AttemptRef) -> None:
        """The end of this attempt is acknowledged, and there is more to count. Raises OSError."""
        self._folders.mark_uncounted(ref)
        self._queue.put_nowait(ref)

    async def run(self) -> None:
        """Count what an earlier process left and what is added. Runs until cancelled."""
        for ref in self._folders.uncounted_attempts():
            self._queue.put_nowait(ref)
        while True:
            ref = await self._queue.get()
            try:
                position = 0
                while (position := await self._count_piece(ref, position)) >= 0:
                    await asyncio.sleep(PIECE_S)
                self._folders.unmark_uncounted(ref)
            except OSError as error:
                _log.warning(
                    "metrics cannot be counted yet",
                    run_id=ref.run_id,
                    attempt=ref.attempt,
                    error=cause(error),
                )
                asyncio.get_running_loop().call_later(AGAIN_AFTER_S, self._queue.put_nowait, ref)

    async def _count_piece(self, ref: AttemptRef, position: int) -> int:
        """Where in stdout to go on; -1: that was the last. Raises OSError."""
        folder = self._folders.attempt(ref)
        intent, record = files.read_intent(folder), files.read_exit(folder)
        if intent is None or record is None:
            return -1  # it was pruned
        output_dir, give_up = Path(intent.output_dir), time.monotonic() + PIECE_S

        def count() -> int:
            """For a thread: the storage of the output may hang."""
            if not output_dir.exists():
                return -1
            rest = hand_in_rest(folder, output_dir, record, give_up, position)
            return -1 if rest.whole else rest.position

        return await in_daemon_thread(count)
