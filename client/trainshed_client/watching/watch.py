"""A watch of records: an async iterator of the present, `PRESENT`, and the newest of each as they change.

Owns the order (subscribe, read the present, hand out) and what a lost connection does to it; what is newer is newest.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from trainshed_client.errors import ErrorCode, TrainshedError, Unanswered
from trainshed_client.self_entering import SelfEntering
from trainshed_client.watching.newest import Age, Gone, Newest, PresentMarker

if TYPE_CHECKING:
    from typing import Any, Self

    from trainshed_client.connection import Watching

R = TypeVar("R")

RETRY_S = 0.5


class RecordSource(Protocol[R]):
    """Where the records of a watch come from: both methods give what they find to ``newest``."""

    async def listen(
        self, newest: Newest[R], changed: Callable[[], None], again: Callable[[], None]
    ) -> Watching:
        """Hear of every change from the return on. ``changed``: there may be something to hand out; ``again``: something
        may have been missed, and the present is to be read again."""
        ...

    async def read(self, newest: Newest[R], *, again: bool, patient: bool) -> None:
        """Read the present; ``again``: not for the first time. ``patient``: wait for what is not there. Raises
        TrainshedError."""
        ...


class RecordWatch(SelfEntering["R | Gone | PresentMarker"], Generic[R]):
    """An async iterator, and an async context manager that ends it; ``async for`` alone enters and leaves it by itself.

    It yields the present record of each, once `PRESENT`, then each newer one as it changes, and `Gone` for a node or slot
    that is no more: never an older after a newer, and of changes that come faster than you read the newest. After a
    reconnection the present is read again, as often as it takes, and what changed is handed out. Entering raises
    UNAVAILABLE where there is nothing to be read (with ``patient`` that is waited for). Not for use by two tasks at once.
    """

    def __init__(
        self,
        source: RecordSource[R],
        age: Callable[[R], Age],
        *,
        opened: set[RecordWatch[Any]],
        since_seq: int = 0,
        wake: asyncio.Event | None = None,
        patient: bool = False,
    ) -> None:
        self._source = source
        self._opened = opened
        self._newest = Newest(age, since_seq=since_seq)
        self._wake = wake or asyncio.Event()
        self._patient = patient
        self._watching: Watching | None = None
        self._stale = asyncio.Event()
        """Set: the present is to be read again."""
        self._reading: asyncio.Task[None] | None = None
        self._error: TrainshedError | None = None

    async def __aenter__(self) -> Self:
        # The present must not be read before its changes are heard of.
        self._watching = await self._source.listen(self._newest, self._wake.set, self._stale.set)
        self._opened.add(self)
        self._entered = True
        try:
            await self._read(again=False)
        except BaseException:
            await self.close()
            raise
        self._reading = asyncio.create_task(self._read_again())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End it; nothing more is heard."""
        self._opened.discard(self)
        self._entered = False
        watching, self._watching = self._watching, None
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.wait({reading})
        if watching is not None:
            await watching.close()

    async def __anext__(self) -> R | Gone | PresentMarker:
        while True:
            self._wake.clear()
            if (change := self.next_change()) is not None:
                return change
            await self._wake.wait()

    def next_change(self) -> R | Gone | PresentMarker | None:
        """What was not handed out yet, or None; for a caller who waits for ``wake`` himself."""
        change = self._newest.take()
        if change is None and self._error is not None:
            raise self._error
        return change

    def offer(self, key: str, record: R) -> None:
        """Take a record that was read elsewhere, if it is newer."""
        if self._newest.arrived(key, record):
            self._wake.set()

    async def _read(self, *, again: bool) -> None:
        self._stale.clear()
        patient = again or self._patient
        try:
            await self._source.read(self._newest, again=again, patient=patient)
        except TrainshedError as error:
            if not (isinstance(error, Unanswered) or (patient and error.code is ErrorCode.UNAVAILABLE)):
                raise
            # Not awaited here: the record itself may come first, from a projector that fills its bucket again.
            asyncio.get_running_loop().call_later(RETRY_S, self._stale.set)
        else:
            self._newest.present_over()
        self._wake.set()

    async def _read_again(self) -> None:
        try:
            while True:
                await self._stale.wait()
                await self._read(again=True)
        except TrainshedError as error:
            self._error = error
            self._wake.set()
