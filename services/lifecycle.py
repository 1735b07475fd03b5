"""The one start/stop contract of every service.

Owns how a service is run until it is asked to stop; knows no service and no process.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Service(Protocol):
    """A part of the stack as a task. It does not know which process it is in.

    ``run`` returns after ``stop`` (a second stop is harmless) and raises what the service cannot go on from;
    ``ready`` is set once it serves.
    """

    name: str
    ready: asyncio.Event

    async def run(self) -> None:
        """Serve until stopped."""
        ...

    def stop(self) -> None:
        """Ask it to stop; ``run`` returns soon after."""
        ...
