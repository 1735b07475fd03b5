"""What a start that takes long waits for, now and then, until the stack is ready.

Owns that text and when it is reported; knows no service but by its name, and the fold's progress.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from services.lifecycle import Service
from trainshed_client.fold_progress import FoldProgress

EVERY_S = 2.0


def waited_for(services: Sequence[Service], progress: FoldProgress | None) -> str | None:
    """What services that are not ready wait for, as text; None where all are. ``progress``: of the fold."""
    lacking = [service.name for service in services if not service.ready.is_set()]
    if not lacking:
        return None
    if progress is not None and progress.events:
        return f"starting: {progress.text}"
    return f"still starting: {', '.join(lacking)} not ready"


class Starting:
    """An async context manager around a start. ``report`` is given what ``look`` says, where it has changed."""

    def __init__(self, report: Callable[[str], None], *, every_s: float = EVERY_S) -> None:
        self.look: Callable[[], str | None] = lambda: "still starting: nats-server not ready"
        self._report = report
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="starting")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        last: str | None = ""
        while last is not None:
            await asyncio.sleep(self._every_s)
            text = self.look()
            if text is not None and text != last:
                self._report(text)
            last = text
