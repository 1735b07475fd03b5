"""While somebody follows a run that waits: what it waits for, on stderr.

Owns when that is shown and how often; why a run waits comes from the read side.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Self

from services.cli.common import note
from services.cli.text import clean, short
from trainshed_client.errors import TrainshedError
from trainshed_client.records import QueuedRunRecord, RunRecord
from trainshed_client.statuses import RunStatus

if TYPE_CHECKING:
    from trainshed_client.client import Trainshed

AFTER_S = 1.0
"""A run that starts within this time never waited, for a person."""


class WaitNotice:
    """An async context manager; `seen` takes every record of the followed run."""

    def __init__(self, trainshed: Trainshed) -> None:
        self._trainshed = trainshed
        self._shown = 0
        """The attempt that was shown last."""
        self._task: asyncio.Task[None] | None = None
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()
        await self._tasks.__aexit__(kind, error, trace)

    def show(self, record: RunRecord) -> None:
        """Print now what a queued run waits for."""
        text = record.waits_for.text if isinstance(record, QueuedRunRecord) and record.waits_for else "queued"
        self._shown = record.attempt
        again = f" again (attempt {record.attempt})" if record.attempt > 1 else ""
        note(f"run {short(record.run_id)} has not started{again}: {clean(text)}")

    def seen(self, record: RunRecord) -> None:
        """Print it after a moment, if the run has not started by then."""
        if record.status is not RunStatus.PENDING:
            self._drop()
        elif record.attempt > self._shown and self._task is None:
            self._task = self._tasks.create_task(self._ask(record.run_id))

    def _drop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _ask(self, run_id: str) -> None:
        await asyncio.sleep(AFTER_S)
        try:
            record = (await self._trainshed.get(run_id)).run
        except TrainshedError:
            return  # a courtesy
        if record.status is RunStatus.PENDING:
            self.show(record)
