"""The present records of runs and every change after it, without polling and without a gap.

Owns the order (subscribe, read the present, keep the newest) and what a lost connection does to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from trainshed_client.answers import decode_run
from trainshed_client.errors import ErrorCode, TrainshedError, Unanswered
from trainshed_client.records import RunRecord

if TYPE_CHECKING:
    from typing_extensions import Self, TypeAlias

    from trainshed_client.connection import Connection, Watching

RETRY_S = 0.5


class PresentRuns(NamedTuple):
    """Records of runs as they are at a sequence of the log."""

    seq: int
    records: list[RunRecord]


Present: TypeAlias = "Callable[[Collection[str] | None], Awaitable[PresentRuns]]"
"""Reads the present records of these runs (None: of all live ones)."""


class RunWatch:
    """An async context manager and iterator of run records; only the newest of each run is kept.

    First comes the present record of every run, then each newer one: by (``seq``, ``updated_at``). After a
    reconnection the present is read again, as often as it takes, and what is no newer is passed over: also a run that had
    ended before a watch of the live ones began, which a server that was started again is told anew. It is read again the
    first time too where a projector is there and does not answer, and with ``patient`` where none is, where entering
    raises UNAVAILABLE otherwise. Not for use by two tasks at once.
    """

    def __init__(
        self,
        connection: Connection,
        present: Present,
        run_ids: Collection[str] | None,
        *,
        wake: asyncio.Event | None = None,
        patient: bool = False,
    ) -> None:
        self.latest: dict[str, RunRecord] = {}
        self._connection = connection
        self._present = present
        self._wanted = None if run_ids is None else frozenset(run_ids)
        self._wake = wake or asyncio.Event()
        self._patient = patient
        self._changed: dict[str, None] = {}  # in the order of their first unseen change
        self._reread: set[str] | None = set() if run_ids is not None else None  # None: everything
        self._since: int | None = None
        """Of a watch of all live runs: the log's sequence when they were first read."""
        self._early: list[RunRecord] = []
        """Of runs that had ended when they were heard of, before that."""
        self._watching: Watching | None = None
        self._retry: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        # The present must not be read before its changes are heard of.
        self._watching = await self._connection.watch_runs(self._wanted, self._receive, self._read_again)
        self._read_again()
        await self._read(patient=self._patient)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._retry is not None:
            self._retry.cancel()
        if self._watching is not None:
            await self._watching.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RunRecord:
        while True:
            self._wake.clear()
            if (record := await self.next_change()) is not None:
                return record
            await self._wake.wait()

    async def next_change(self) -> RunRecord | None:
        """A record that was not handed out yet, or None; for a caller who waits for ``wake`` himself."""
        if self._reread is None or self._reread:
            await self._read(patient=True)
        for run_id in self._changed:
            del self._changed[run_id]
            return self.latest[run_id]
        return None

    def offer(self, record: RunRecord) -> None:
        """Take a record that was read elsewhere, if it is newer."""
        known = self.latest.get(record.run_id)
        if known is None and self._wanted is None and record.status.ended:
            if self._since is None:
                self._early.append(record)
                return
            if record.seq <= self._since:
                return
        if known is None or _age(record) > _age(known):
            self.latest[record.run_id] = record
            self._changed[record.run_id] = None
            self._wake.set()

    def _read_again(self) -> None:
        self._reread = None if self._wanted is None else set(self._wanted)
        self._wake.set()

    def _receive(self, run_id: str, data: bytes) -> None:
        if self._wanted is not None and run_id not in self._wanted:
            return
        if not data:  # the key left the bucket; the run is not gone
            if self._reread is not None and self._wanted is not None:
                self._reread.add(run_id)
                self._wake.set()
            return
        try:
            self.offer(decode_run(data))
        except msgspec.MsgspecError:
            return  # not a record; only the projector may write there, so nothing of ours is lost

    async def _read(self, *, patient: bool) -> None:
        """Read the present of what is marked. ``patient``: wait for the service that is not there now."""
        reread = self._reread
        self._reread = set()
        try:
            seq, records = await self._present(reread)
            for record in records:
                self.offer(record)
            if reread is None:
                await self._read_what_ended(seq, records)
        except TrainshedError as error:
            waits = isinstance(error, Unanswered) or (patient and error.code is ErrorCode.UNAVAILABLE)
            if not waits:
                raise
            # Not awaited here: the record itself may come first, from a projector that fills its bucket again.
            self._reread = set()
            self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._read_again)

    async def _read_what_ended(self, seq: int, live: list[RunRecord]) -> None:
        """After a reading of all that is live: what was live when it was last heard of and is no more."""
        if self._since is None:
            self._since = seq
            early, self._early = self._early, []
            for record in early:
                self.offer(record)
        listed = {record.run_id for record in live}
        ended = {one.run_id for one in self.latest.values() if not one.status.ended} - listed
        for record in (await self._present(ended)).records if ended else ():
            self.offer(record)


def _age(record: RunRecord) -> tuple[int, str]:
    return record.seq, record.updated_at or ""
