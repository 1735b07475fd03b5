"""Stored output: ranges of an attempt's files, from the node that has them, and both streams merged by the index.

Owns that call, the order of two streams, and where their last lines begin; knows nothing of live output.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from trainshed_client import subjects
from trainshed_client.answers import error_in
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.times import Time, in_its_zone

if TYPE_CHECKING:
    from trainshed_client.connection import Reply

RANGE_BYTES = 128 * 1024
"""The most bytes that one answer has."""

STREAMS = ("stdout", "stderr")
_LONGEST_INDEX_LINE = 4096
_INDEX_RANGES = 16
"""So far back the index is read for the last lines: some 30,000 entries."""


class Requests(Protocol):
    """Who asks a service: the connection class, as far as this module needs it."""

    async def request(self, subject: str, payload: bytes) -> Reply:
        """One request, answered by any message; raises TrainshedError."""
        ...


class OutputChunk(NamedTuple):
    """Some bytes of one stream of an attempt: where in it they begin, they, and (stored ones) when they came."""

    attempt: int
    node: str
    stream: str
    offset: int
    data: bytes
    time: datetime | None = None


class Range(NamedTuple):
    """Bytes of a file from ``offset`` on, and the size that the file has now."""

    data: bytes
    offset: int
    size: int


class _Seen(msgspec.Struct, frozen=True):
    """A line of the index: by ``time`` the first ``offset`` bytes of ``stream`` had come."""

    time: Time
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
    headers = answer.headers
    try:
        return Range(answer.data, int(headers[subjects.OFFSET_HEADER]), int(headers[subjects.SIZE_HEADER]))
    except (KeyError, ValueError):
        raise error_in(answer.data) or TrainshedError(
            ErrorCode.UNAVAILABLE, f"the agent of {node} answers with what is no range of output"
        ) from None


async def stored_output(
    asks: Requests,
    run_id: str,
    attempt: int,
    node: str,
    *,
    streams: Sequence[str] = STREAMS,
    begin: Mapping[str, int] | None = None,
    ends: Mapping[str, int] | None = None,
) -> AsyncIterator[OutputChunk]:
    """What the files of an attempt hold now, both streams in the order of their coming as far as the index knows it.

    ``begin``: where to begin in each stream; ``ends``: where to end, as `written_by` tells it. Raises as `read_range`.
    """
    index_start, starts = 0, dict(begin or {})
    if any(starts.values()) and ends is None:  # an end of the past may be far from the index's
        index_start, starts = await _index_start(asks, run_id, attempt, node, starts)
    files = {
        name: _File(
            asks,
            node,
            run_id,
            attempt,
            name,
            starts.get(name, 0),
            None if ends is None else ends.get(name, 0),
        )
        for name in streams
    }
    for file in files.values():
        await file.look()
    index = _File(asks, node, run_id, attempt, "index", index_start)
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


async def written_by(asks: Requests, run_id: str, attempt: int, node: str, time: datetime) -> dict[str, int]:
    """How many bytes of each stream had come by a time, by its node's clock. Raises as `read_range`."""
    ends: dict[str, int] = {}
    index = _File(asks, node, run_id, attempt, "index")
    await index.look()
    async for line in index.lines():
        try:
            seen = _SEEN.decode(line)
        except msgspec.MsgspecError:
            continue  # torn by a power cut
        if seen.time <= time:
            ends[seen.stream] = seen.offset
    return ends


class Tail(NamedTuple):
    """The last lines of an attempt's output, and how much of each stream there was."""

    chunks: list[OutputChunk]
    sizes: dict[str, int]


async def last_lines(
    asks: Requests,
    run_id: str,
    attempt: int,
    node: str,
    lines: int,
    *,
    streams: Sequence[str] = STREAMS,
    ends: Mapping[str, int] | None = None,
) -> Tail:
    """The last ``lines`` lines of what is stored, of both streams together; reads only the files' ends.

    ``ends`` as for `stored_output`. Raises as `read_range`.
    """
    begin: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for name in streams:
        end = None if ends is None else ends.get(name, 0)
        begin[name], sizes[name] = await _lines_start(asks, run_id, attempt, node, name, lines, end)
    if lines <= 0:
        return Tail([], sizes)
    chunks = []
    starts = {name: offset for name, offset in begin.items() if sizes[name]}
    async for chunk in stored_output(asks, run_id, attempt, node, streams=streams, begin=starts, ends=ends):
        chunks.append(chunk)
        sizes[chunk.stream] = chunk.offset + len(chunk.data)
    return Tail(_last(chunks, lines), sizes)


async def _lines_start(
    asks: Requests, run_id: str, attempt: int, node: str, stream: str, lines: int, end: int | None
) -> tuple[int, int]:
    """(An offset that has at least the last ``lines`` lines before ``end`` behind it, the stream's size up to there)."""
    size = (await read_range(asks, node, run_id, attempt, stream, 0, 1)).size
    size = size if end is None else min(size, end)
    offset, ends = size, -1 if lines > 0 else 0  # the last line's own end tells of no line behind it
    while offset > 0 and ends < lines:
        start = max(0, offset - RANGE_BYTES)
        data = (await read_range(asks, node, run_id, attempt, stream, start, offset - start)).data
        if not data:
            break  # cut short meanwhile
        offset, ends = start, ends + data.count(b"\n")
    return offset, size


async def _index_start(
    asks: Requests, run_id: str, attempt: int, node: str, begin: Mapping[str, int]
) -> tuple[int, dict[str, int]]:
    """Where to begin in the index so that it tells of everything from ``begin`` on, and where in the streams.

    A stream that said nothing for as long as the index is read back has nothing among the last lines.
    """
    starts = dict(begin)
    missing, silent = set(begin), set(begin)
    offset = (await read_range(asks, node, run_id, attempt, "index", 0, 1)).size
    for _ in range(_INDEX_RANGES):
        if not missing or offset == 0:
            break
        end, offset = offset, max(0, offset - RANGE_BYTES)
        data = (await read_range(asks, node, run_id, attempt, "index", offset, end - offset)).data
        for line in data.split(b"\n"):
            try:
                seen = _SEEN.decode(line)
            except msgspec.MsgspecError:
                continue  # cut by the range: the stream's next one tells enough
            silent.discard(seen.stream)
            if seen.offset <= begin.get(seen.stream, 0):
                missing.discard(seen.stream)
    if offset == 0:
        return 0, starts
    for name in silent:
        starts[name] = (await read_range(asks, node, run_id, attempt, name, 0, 1)).size
    cut = (await read_range(asks, node, run_id, attempt, "index", offset, _LONGEST_INDEX_LINE)).data
    return offset + cut.find(b"\n") + 1, starts


def _last(chunks: Sequence[OutputChunk], lines: int) -> list[OutputChunk]:
    """The chunks of the last ``lines`` lines; what follows the last line's end counts as one."""
    kept: list[OutputChunk] = []
    place = None
    for chunk in reversed(chunks):
        data = chunk.data
        place = len(data) - data.endswith(b"\n") if place is None else len(data)
        while lines > 0 and (place := data.rfind(b"\n", 0, place)) >= 0:
            lines -= 1
        if lines == 0:
            if rest := data[place + 1 :]:
                kept.append(chunk._replace(data=rest, offset=chunk.offset + place + 1))
            break
        kept.append(chunk)
    return kept[::-1]


async def timed_lines(chunks: AsyncIterator[OutputChunk]) -> AsyncIterator[OutputChunk]:
    """The same with its time and its stream in front of every line."""
    at_line_start = dict.fromkeys(STREAMS, True)
    async for chunk in chunks:
        mark = f"{'-' if chunk.time is None else in_its_zone(chunk.time)} {chunk.stream} ".encode()
        ends = chunk.data.endswith(b"\n")
        data = chunk.data[:-1] if ends else chunk.data
        data = data.replace(b"\n", b"\n" + mark) + (b"\n" if ends else b"")
        yield chunk._replace(data=mark + data if at_line_start[chunk.stream] else data)
        at_line_start[chunk.stream] = ends


class _File:
    """One file, read from ``begin`` to the size that it had when it was looked at, or to ``end``; a range at a time."""

    def __init__(
        self,
        asks: Requests,
        node: str,
        run_id: str,
        attempt: int,
        name: str,
        begin: int = 0,
        end: int | None = None,
    ) -> None:
        self.size = 0
        self._end = end
        self._asks = asks
        self._node = node
        self._run_id = run_id
        self._attempt = attempt
        self._name = name
        self._position = begin
        self._ahead = b""  # what was read and not handed out: begins at the position

    async def look(self) -> None:
        """Read the first range; fixes the size, so that a file that grows is not followed for ever."""
        self._ahead, _, size = await self._range(self._position)
        self.size = size if self._end is None else min(size, self._end)

    async def up_to(self, end: int, time: datetime | None) -> AsyncIterator[OutputChunk]:
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
