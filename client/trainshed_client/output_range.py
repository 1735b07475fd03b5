"""Stored output: ranges of an attempt's files, from the node that has them, and both streams merged by the index.

Owns that call and the order of two streams; knows nothing of live output.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from trainshed_client import subjects
from trainshed_client.answers import error_in
from trainshed_client.errors import ErrorCode, TrainshedError

if TYPE_CHECKING:
    from nats.aio.msg import Msg

RANGE_BYTES = 128 * 1024
"""The most bytes that one answer has."""

STREAMS = ("stdout", "stderr")
_LONGEST_INDEX_LINE = 4096


class Requests(Protocol):
    """Who asks a service on NATS: the connection class, as far as this module needs it."""

    async def request(self, subject: str, payload: bytes) -> Msg:
        """One request, answered by any message; raises TrainshedError."""
        ...


class OutputChunk(NamedTuple):
    """Some bytes of one stream of an attempt: where in it they begin, they, and (stored ones) when they came."""

    attempt: int
    node: str
    stream: str
    offset: int
    data: bytes
    time: str | None = None


class Range(NamedTuple):
    """Bytes of a file from ``offset`` on, and the size that the file has now."""

    data: bytes
    offset: int
    size: int


class _Seen(msgspec.Struct, frozen=True):
    """A line of the index: by ``time`` the first ``offset`` bytes of ``stream`` had come."""

    time: str
    stream: str
    offset: int


_SEEN = msgspec.json.Decoder(_Seen)


async def read_range(
    asks: Requests,
    node: str,
    run_id: str,
    attempt: int,
    stream: str,
    offset: int,
    limit: int = RANGE_BYTES,
) -> Range:
    """Read a range of ``stdout``, ``stderr`` or ``index``; a file that is not there yet is empty.

    Raises UNAVAILABLE where the node's agent does not answer, NOT_FOUND where it has no such attempt.
    """
    request = {"run_id": run_id, "attempt": attempt, "stream": stream, "offset": offset, "limit": limit}
    answer = await asks.request(subjects.node_output(node), msgspec.json.encode(request))
    headers = answer.headers or {}
    try:
        return Range(answer.data, int(headers[subjects.OFFSET_HEADER]), int(headers[subjects.SIZE_HEADER]))
    except (KeyError, ValueError):
        raise error_in(answer.data) or TrainshedError(
            ErrorCode.UNAVAILABLE, f"the agent of {node} answers with what is no range of output"
        ) from None


async def stored_output(
    asks: Requests, run_id: str, attempt: int, node: str, *, streams: Sequence[str] = STREAMS
) -> AsyncIterator[OutputChunk]:
    """What the files of an attempt hold now, both streams in the order of their coming as far as the index knows it.

    Raises as `read_range`.
    """
    files = {name: _File(asks, node, run_id, attempt, name) for name in streams}
    for file in files.values():
        await file.look()
    index = _File(asks, node, run_id, attempt, "index")
    await index.look()
    async for line in index.lines():
        try:
            seen = _SEEN.decode(line)
        except msgspec.MsgspecError:
            continue  # torn by a power cut
        if (seen_of := files.get(seen.stream)) is not None:
            async for chunk in seen_of.up_to(seen.offset, seen.time):
                yield chunk
    for file in files.values():
        async for chunk in file.up_to(file.size, None):
            yield chunk


async def timed_lines(chunks: AsyncIterator[OutputChunk]) -> AsyncIterator[OutputChunk]:
    """The same with its time and its stream in front of every line."""
    at_line_start = dict.fromkeys(STREAMS, True)
    async for chunk in chunks:
        mark = f"{chunk.time or '-'} {chunk.stream} ".encode()
        ends = chunk.data.endswith(b"\n")
        data = chunk.data[:-1] if ends else chunk.data
        data = data.replace(b"\n", b"\n" + mark) + (b"\n" if ends else b"")
        yield chunk._replace(data=mark + data if at_line_start[chunk.stream] else data)
        at_line_start[chunk.stream] = ends


class _File:
    """One file, read from its beginning to the size that it had when it was looked at, a range at a time."""

    def __init__(self, asks: Requests, node: str, run_id: str, attempt: int, name: str) -> None:
        self.size = 0
        self._asks = asks
        self._node = node
        self._run_id = run_id
        self._attempt = attempt
        self._name = name
        self._position = 0
        self._ahead = b""  # what was read and not handed out: begins at the position

    async def look(self) -> None:
        """Read the first range; fixes the size, so that a file that grows is not followed for ever."""
        self._ahead, _, self.size = await self._range(0)

    async def up_to(self, end: int, time: str | None) -> AsyncIterator[OutputChunk]:
        """The bytes from the position to ``end``."""
        end = min(end, self.size)
        while self._position < end:
            if not self._ahead:
                self._ahead, _, _ = await self._range(self._position)
                if not self._ahead:  # cut short meanwhile
                    self.size = self._position
                    return
            data, self._ahead = self._split(end - self._position)
            chunk = OutputChunk(self._attempt, self._node, self._name, self._position, data, time)
            self._position += len(data)
            yield chunk

    async def lines(self) -> AsyncIterator[bytes]:
        """The whole lines of the file; longer ones than the index has are passed over."""
        rest = b""
        async for chunk in self.up_to(self.size, None):
            *lines, rest = (rest + chunk.data).split(b"\n")
            rest = rest[-_LONGEST_INDEX_LINE:]
            for line in lines:
                yield line

    async def _range(self, offset: int) -> Range:
        return await read_range(self._asks, self._node, self._run_id, self._attempt, self._name, offset)

    def _split(self, count: int) -> tuple[bytes, bytes]:
        return (self._ahead, b"") if count >= len(self._ahead) else (self._ahead[:count], self._ahead[count:])
