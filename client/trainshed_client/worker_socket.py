"""The way to the stack from inside a worker: the socket that the worker's agent keeps (docs/contracts/inside-a-worker.md).

Owns its lines and what a lost connection means; knows no call. Standard library and msgspec only: workers import it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Optional, TypeVar

import msgspec

from trainshed_client import subjects
from trainshed_client._compat_asyncio import timeout as timeout_after
from trainshed_client.answers import error_in
from trainshed_client.connection import ABSENT_S, ReceiveOutput, ReceiveRun, Reply, no_answer
from trainshed_client.errors import ErrorCode, TrainshedError

AT_ONCE = 16
"""Requests of one client under way at the same time, a connection each; others wait for their turn."""
LONGEST_LINE = 16 * 1024 * 1024
RETRY_S = 0.1
AGENT_ANSWERS_LATER_S = 2.0
"""Seconds more than a request may take: the agent, which knows better why, has the first word."""
BEGINS_WITHIN_S = 10.0

T = TypeVar("T")
_Line = Callable[[bytes], None]


class _WatchLine(msgspec.Struct, frozen=True):
    """A line of what is watched: a run's new record, output of a stream, or that something may have been missed."""

    again: bool = False
    run_id: Optional[str] = None
    run: msgspec.Raw = msgspec.Raw(b"")
    stream: str = ""
    offset: int = 0
    size: Optional[int] = None
    data: bytes = b""


class _RangeLine(msgspec.Struct, frozen=True):
    """The answer to a range of output."""

    offset: int
    size: int
    data: bytes
    file: Optional[str] = None


_WATCHED = msgspec.json.Decoder(_WatchLine)


class WorkerSocket:
    """See Connection. The agent may be starting again: its socket is then waited for, as long as a request may take.

    A request whose connection was lost is sent again: each of a worker's calls may be.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._watching: set[_WatchedLines] = set()

    @property
    def where(self) -> str:
        """See Connection."""
        return self._path

    async def request(
        self, subject: str, payload: bytes, *, timeout: float, tries: int = 1, absent_s: float = ABSENT_S
    ) -> Reply:
        """See Connection."""
        call = subject.removeprefix(f"{subjects.API}.")
        line = request_line(call, payload)
        try:
            async with self._turns, timeout_after(timeout + AGENT_ANSWERS_LATER_S):
                data = await self._answer(line)
        except TimeoutError:
            raise no_answer(self._path, subject, timeout) from None
        if call.endswith(".output") and error_in(data) is None:
            return _range(data)
        return Reply(data, {})

    async def _answer(self, line: bytes) -> bytes:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                return await _connected(self._path, lambda reader, writer: _ask(reader, writer, line))
            await asyncio.sleep(RETRY_S)

    async def watch_runs(
        self, run_ids: frozenset[str] | None, receive: ReceiveRun, again: Callable[[], None]
    ) -> _WatchedLines:
        """See Connection."""

        def take(line: bytes) -> None:
            watched = _WATCHED.decode(line)
            if watched.again:
                again()
            elif watched.run_id is not None:
                receive(watched.run_id, bytes(watched.run))

        return await self._watch(request_line("run.watch", b"{}"), take)

    async def watch_output(
        self, run_id: str, attempt: int, node: str, receive: ReceiveOutput, again: Callable[[], None]
    ) -> _WatchedLines:
        """See Connection."""

        def take(line: bytes) -> None:
            watched = _WATCHED.decode(line)
            if watched.again:
                again()
                return
            headers = {subjects.OFFSET_HEADER: str(watched.offset)}
            if watched.size is not None:
                headers[subjects.SIZE_HEADER] = str(watched.size)
            receive(watched.stream, headers, watched.data)

        request = msgspec.json.encode({"run_id": run_id, "attempt": attempt, "node": node})
        return await self._watch(request_line("output.watch", request), take)

    async def _watch(self, line: bytes, take: _Line) -> _WatchedLines:
        watched = _WatchedLines(self._path, line, take, self._watching.discard)
        self._watching.add(watched)
        try:
            await watched.begun()
        except BaseException:
            await watched.close()
            raise
        return watched

    async def close(self) -> None:
        """See Connection."""
        for watched in list(self._watching):
            await watched.close()

    async def abandon(self) -> None:
        """See Connection."""
        await self.close()


class _WatchedLines:
    """One connection on which lines come, made anew for ever when it is lost. See Watching."""

    def __init__(self, path: str, line: bytes, take: _Line, closed: Callable[[_WatchedLines], None]) -> None:
        self._path = path
        self._line = line
        self._take = take
        self._closed = closed
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())

    async def begun(self) -> None:
        """Wait until something can be heard. Raises UNAVAILABLE where that takes too long, and as the agent refuses."""
        try:
            async with timeout_after(BEGINS_WITHIN_S):
                await asyncio.shield(self._begun)
        except TimeoutError:
            text = f"no answer from {self._path} within {BEGINS_WITHIN_S:g} s"
            raise TrainshedError(ErrorCode.UNAVAILABLE, text) from None

    async def _run(self) -> None:
        while True:
            try:
                await _connected(self._path, self._listen)
            except TrainshedError as error:
                if not self._begun.done():
                    self._begun.set_exception(error)
            except (OSError, asyncio.IncompleteReadError, msgspec.MsgspecError):
                pass  # the agent is starting again
            await asyncio.sleep(RETRY_S)

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._line)
        await writer.drain()
        while True:
            line = await reader.readuntil(b"\n")
            if (error := error_in(line)) is not None:
                raise error
            self._take(line)
            if not self._begun.done():
                self._begun.set_result(None)

    async def close(self) -> None:
        """See Watching."""
        self._closed(self)
        self._task.cancel()
        await asyncio.wait({self._task})
        self._begun.cancel()


def request_line(call: str, payload: bytes) -> bytes:
    """A request as a line; ``payload`` is JSON on one line."""
    return b'{"call": %b, "request": %b}\n' % (msgspec.json.encode(call), payload)


async def _connected(
    path: str, work: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[T]]
) -> T:
    """What ``work`` makes of a connection to the agent. Raises OSError where there is none, DENIED where it may not be."""
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=LONGEST_LINE)
    except PermissionError:
        raise TrainshedError(
            ErrorCode.DENIED, f"{path} is the socket of another user's worker; name a stack: --nats URL"
        ) from None
    try:
        return await work(reader, writer)
    finally:
        writer.transport.abort()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes) -> bytes:
    writer.write(line)
    await writer.drain()
    return (await reader.readuntil(b"\n"))[:-1]


def _range(data: bytes) -> Reply:
    try:
        found = msgspec.json.decode(data, type=_RangeLine)
    except msgspec.MsgspecError:
        return Reply(data, {})
    headers = {subjects.OFFSET_HEADER: str(found.offset), subjects.SIZE_HEADER: str(found.size)}
    if found.file is not None:
        headers[subjects.FILE_HEADER] = found.file
    return Reply(found.data, headers)
