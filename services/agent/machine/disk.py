"""How much room the disk of the runs' folders has: measured beside the agent's work.

Owns the latest measurement; knows no run. The disk may be shared storage that does not answer: nothing waits for it.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

from services.daemon_thread import in_daemon_thread
from services.logging import get_logger
from trainshed_client.os_errors import cause

_log = get_logger("agent")

EVERY_S = 5.0


class Disk:
    """Measures in a thread, as often as the node says that it is alive; never a second time while one hangs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._free_mb: int | None = None

    def free_mb(self) -> int | None:
        """MiB that were free when it was last measured, as far as they are ours to use; None: not known."""
        return self._free_mb

    async def run(self) -> None:
        """Measure until cancelled."""
        logged = False
        while True:
            try:
                self._free_mb = await in_daemon_thread(partial(_free_mb, self._folder))
                logged = False
            except OSError as error:
                self._free_mb = None
                if not logged:
                    logged = True
                    _log.warning("the disk of the runs' folders cannot be measured", error=cause(error))
            await asyncio.sleep(EVERY_S)


def _free_mb(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize >> 20
