"""What the blocking face of the client is made of: a connection on a thread of its own, and iterators that wait.

Owns how these begin and end; the calls themselves are generated (`sync`) from those of the asynchronous face.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from trainshed_client.errors import TrainshedError
from trainshed_client.portal import Portal

if TYPE_CHECKING:
    from typing_extensions import Self

    from trainshed_client.client import Trainshed
    from trainshed_client.records import RunRecord

T = TypeVar("T")


class SyncConnection:
    """A connection that blocks, on a thread of its own: see `trainshed_client.Trainshed.sync`."""

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, Trainshed]]) -> None:
        self._portal = Portal()
        try:
            self._trainshed = self._portal.run(connect)
            self._portal.at_end(self._trainshed.close)
        except BaseException:
            self._portal.stop()
            raise

    @property
    def where(self) -> str:
        """What answers: a server's URL, or inside a worker the path of its socket."""
        return self._trainshed.where

    def __repr__(self) -> str:
        return f"<Trainshed.sync at {self.where}{'' if self._portal.is_open else ', closed'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, and end its thread; what another thread waits for fails. Again it does nothing."""
        self._portal.stop()


class Iteration(Generic[T]):
    """An iterator that waits for each thing; `close`, or leaving its ``with``, ends it, in another thread's `next` too.

    Raises TrainshedError. One that nobody has any more is closed. Two threads must not ask for the next at once.
    """

    def __init__(self, portal: Portal, made: Callable[[], AsyncIterator[T]]) -> None:
        self._portal = portal
        self._made = made
        self._opened: _Opened[T] | None = None
        self._source: Any = None
        self._closed = False

    def __enter__(self) -> Self:
        if self._opened is None:
            self._portal.run(self._open)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if self._closed:
            raise StopIteration
        try:
            return self._portal.run(self._next)
        except _OverError:
            self.close()
        except TrainshedError:
            if not self._closed:
                raise
        raise StopIteration

    def close(self) -> None:
        """End it: nothing more is heard. Again it does nothing."""
        self._closed = True
        opened, self._opened = self._opened, None
        if opened is not None and self._portal.is_open:
            self._portal.run(opened.close)

    async def _open(self) -> _Opened[T]:
        opened: _Opened[T] = _Opened(self._made())
        await opened.open()
        self._opened, self._source = opened, opened.source
        self._portal.let_go(self, opened.close)
        return opened

    async def _next(self) -> T:
        return await (self._opened or await self._open()).next()


class RunIteration(Iteration[T]):
    """The same of what a run writes. ``record`` and ``missing`` as `RunOutput` has them."""

    @property
    def record(self) -> RunRecord:
        """The newest record of the run. Raises KeyError before anything came."""
        return self._source.record  # type: ignore[no-any-return]

    @property
    def missing(self) -> list[str]:
        """What could not be read for good, and why."""
        return self._source.missing  # type: ignore[no-any-return]


class _OverError(Exception):
    """It has come to its end. (A coroutine may not raise StopAsyncIteration.)"""


class _Opened(Generic[T]):
    """What an iteration has on the loop."""

    def __init__(self, source: AsyncIterator[T]) -> None:
        self.source: Any = source
        self._iterator = source
        self._turn: asyncio.Task[Any] | None = None

    async def open(self) -> None:
        if hasattr(self.source, "__aenter__"):
            await self.source.__aenter__()
        self._iterator = self.source.__aiter__()

    async def next(self) -> T:
        self._turn = asyncio.current_task()
        try:
            return await self._iterator.__anext__()
        except StopAsyncIteration:
            raise _OverError from None
        finally:
            self._turn = None

    async def close(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
            await asyncio.wait({self._turn})
        if hasattr(self.source, "__aexit__"):
            await self.source.__aexit__(None, None, None)
        elif hasattr(self.source, "aclose"):
            await self.source.aclose()
