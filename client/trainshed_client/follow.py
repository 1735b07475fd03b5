"""A run's output as it is written: the live chunks where they join up, ranges of the file wherever they do not.

Owns that no byte is lost, repeated or kept in memory for long; knows nothing of what the bytes mean.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from trainshed_client import subjects
from trainshed_client.callbacks import call
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.output_range import RANGE_BYTES, STREAMS, OutputChunk, Requests, read_range
from trainshed_client.records import AttemptRecord, RunRecord
from trainshed_client.self_entering import SelfEntering
from trainshed_client.statuses import PLACED, RunStatus

if TYPE_CHECKING:
    from typing_extensions import Self

    from trainshed_client.answers import RunView
    from trainshed_client.callbacks import Called
    from trainshed_client.connection import Connection, Watching
    from trainshed_client.watching.watch import RecordWatch
    from trainshed_client.watching.watches import Watches

BUFFERED_BYTES = 1024 * 1024
"""What a follower keeps of live chunks; when it is slower than that, it reads the file instead."""

RETRY_S = 0.5


class Runs(Requests, Protocol):
    """The connection class, as far as following a run's output needs it."""

    connection: Connection

    @property
    def watching(self) -> Watches:
        """What makes the watch of the run's record."""
        ...

    async def get(self, run: str) -> RunView:
        """Everything about one run."""
        ...

    async def run_id_of(self, run: str) -> str:
        """The id of the run that is named."""
        ...


class RunOutput(SelfEntering[OutputChunk]):
    """An async context manager and iterator of a run's output, attempt after attempt, until the run has ended.

    ``record`` is the run as last seen. Output that cannot be read for good, because its machine does not answer
    and its attempt has ended, or because its files were deleted, is named in ``missing`` and passed over. Not for use by two
    tasks at once.
    """

    def __init__(
        self,
        runs: Runs,
        run_id: str,
        *,
        first_attempt: int | None = None,
        begin: Mapping[str, int] | None = None,
        patient: bool = False,
        on_attempt: Called[[int, str]] | None = None,
        on_record: Called[[RunRecord]] | None = None,
        streams: Sequence[str] = STREAMS,
    ) -> None:
        self.run_id = run_id
        self.missing: list[str] = []
        self._runs = runs
        self._first = first_attempt
        self._wake = asyncio.Event()
        self._patient = patient
        self._watch: RecordWatch[RunRecord] | None = None
        self._record: RunRecord | None = None
        self._following: _AttemptOutput | None = None
        self._begin_at = begin or {}
        self._on_attempt: Called[[int, str]] = on_attempt or (lambda attempt, node: None)
        self._on_record: Called[[RunRecord]] = on_record or (lambda record: None)
        self._streams = streams
        self._done = 0 if first_attempt is None else first_attempt - 1
        """Attempts up to this one have been handed out."""

    @property
    def record(self) -> RunRecord:
        """The newest record of the run."""
        if self._record is None:
            raise KeyError(self.run_id)
        return self._record

    async def __aenter__(self) -> Self:
        self.run_id = await self._runs.run_id_of(self.run_id)
        self._watch = self._runs.watching.runs([self.run_id], wake=self._wake, patient=self._patient)
        await self._watch.__aenter__()
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._following is not None:
            await self._following.close()
        if self._watch is not None:
            await self._watch.__aexit__(kind, error, trace)

    async def __anext__(self) -> OutputChunk:
        assert self._watch is not None, "it is read in `async with`"
        while True:
            self._wake.clear()
            while (change := self._watch.next_change()) is not None:
                if isinstance(change, RunRecord):
                    self._record = change
                    await call(self._on_record, change)
            if self._record is None:
                pass  # nothing has reached us yet
            elif self._following is None and not await self._next_attempt():
                if self.record.status.ended:
                    raise StopAsyncIteration
            elif (chunk := await self._next_chunk()) is not None:
                return chunk
            elif self._following is None:
                continue  # that attempt is done: is there another?
            await self._wake.wait()

    async def _next_chunk(self) -> OutputChunk | None:
        following = self._following
        if following is None:
            return None
        if not (self.record.attempt == following.attempt and self.record.status in PLACED):
            following.end()
        try:
            chunk = await following.next_chunk()
        except TrainshedError as error:
            if error.code is not ErrorCode.UNAVAILABLE:
                raise
            self.missing.append(
                f"the rest of the output of attempt {following.attempt} is on {following.node}, which does not answer"
            )
            following.finished = True
            chunk = None
        if chunk is None and following.finished:
            if following.gone is not None:
                self.missing.append(f"on {following.node}: {following.gone}")
            await following.close()
            self._done, self._following = following.attempt, None
        return chunk

    async def _next_attempt(self) -> bool:
        """Begin to follow the next attempt, if one was granted."""
        record = self.record
        granted = record.attempt if record.status is not RunStatus.PENDING else record.attempt - 1
        if granted <= self._done:
            return False
        if record.attempt == granted == self._done + 1 and record.node is not None:
            await self._begin(granted, record.node)
            return True
        attempts = await self._attempts()
        if not self._done:
            first = self._first if self._first is not None else max((a.attempt for a in attempts), default=1)
            self._done = first - 1
        for attempt in attempts:
            if attempt.attempt > self._done:
                await self._begin(attempt.attempt, attempt.node)
                return True
        return False

    async def _attempts(self) -> list[AttemptRecord]:
        while True:
            try:
                view = await self._runs.get(self.run_id)
            except TrainshedError as error:
                if error.code is not ErrorCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(RETRY_S)
                continue
            if self._watch is not None:
                self._watch.offer(self.run_id, view.run)
            return sorted(view.attempts, key=lambda attempt: attempt.attempt)

    async def _begin(self, attempt: int, node: str) -> None:
        self._done = attempt - 1
        begin, self._begin_at = self._begin_at, {}  # the first attempt's alone
        await call(self._on_attempt, attempt, node)
        self._following = _AttemptOutput(
            self._runs, self.run_id, attempt, node, self._wake, begin, self._streams
        )
        await self._following.open()


class _StreamState:
    """How far one stream of an attempt has been handed out, and what is known of the rest."""

    def __init__(self, name: str, begin: int) -> None:
        self.name = name
        self.position = begin
        self.known_end = begin
        self.look = True
        """Whether the file may hold more than any chunk has shown: at first, after a loss, and at the end."""
        self.size: int | None = None
        """The stream's final size, once the agent has published it."""

    @property
    def behind(self) -> bool:
        return self.look or self.known_end > self.position

    @property
    def complete(self) -> bool:
        return self.size is not None and self.position >= self.size


class _AttemptOutput:
    """The streams of one attempt, chunk by chunk in the order of their arrival."""

    def __init__(
        self,
        runs: Runs,
        run_id: str,
        attempt: int,
        node: str,
        wake: asyncio.Event,
        begin: Mapping[str, int],
        streams: Sequence[str],
    ) -> None:
        self.attempt = attempt
        self.node = node
        self.finished = False
        self.gone: str | None = None
        """What the node says of files that there were and that are gone."""
        self._runs = runs
        self._run_id = run_id
        self._wake = wake
        self._ended = False
        self._streams = {name: _StreamState(name, begin.get(name, 0)) for name in streams}
        self._chunks: deque[tuple[_StreamState, int, bytes]] = deque()
        self._buffered = 0
        self._watching: Watching | None = None
        self._retry: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Hear of what is new, before anything is read."""
        self._watching = await self._runs.connection.watch_output(
            self._run_id, self.attempt, self.node, self._receive, self._look_again
        )

    async def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        if self._watching is not None:
            await self._watching.close()

    def end(self) -> None:
        """The attempt has ended: what the files hold now is all."""
        if not self._ended:
            self._ended = True
            self._look_again()

    async def next_chunk(self) -> OutputChunk | None:
        """The next bytes, or None where there are none now. Raises UNAVAILABLE where an ended one cannot be read."""
        while True:
            if (chunk := self._from_memory()) is not None:
                return chunk
            behind = next((state for state in self._order() if state.behind), None)
            if behind is None:
                complete = all(state.complete for state in self._streams.values())
                self.finished = complete or self._ended
                return None
            try:
                data = await self._read(behind)
            except TrainshedError as error:
                if self._ended or error.code is not ErrorCode.UNAVAILABLE:
                    raise
                # The agent is starting again, or the network is cut; look again then, and when it speaks.
                self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._wake.set)
                return None
            if data:
                return self._hand_out(behind, data)

    def _order(self) -> list[_StreamState]:
        """The streams, that of the oldest chunk in memory first: it alone holds the others up."""
        states = list(self._streams.values())
        if self._chunks:
            first = self._chunks[0][0]
            states.sort(key=lambda state: state is not first)
        return states

    def _from_memory(self) -> OutputChunk | None:
        """The next live chunk that joins up; what was handed out already is dropped."""
        while self._chunks:
            state, offset, data = self._chunks[0]
            if offset > state.position:
                state.known_end = max(state.known_end, offset)
                return None  # the file has what lies between
            self._chunks.popleft()
            self._buffered -= len(data)
            if fresh := data[state.position - offset :]:
                return self._hand_out(state, fresh)
        return None

    def _hand_out(self, state: _StreamState, data: bytes) -> OutputChunk:
        chunk = OutputChunk(self.attempt, self.node, state.name, state.position, data)
        state.position += len(data)
        return chunk

    async def _read(self, state: _StreamState) -> bytes:
        """The file from where we are: up to the first chunk in memory if it is near, else as much as one answer has."""
        first = next((offset for other, offset, _ in self._chunks if other is state), None)
        limit = RANGE_BYTES if first is None else max(1, min(RANGE_BYTES, first - state.position))
        end_seen = state.known_end
        try:
            found = await read_range(
                self._runs, self.node, self._run_id, self.attempt, state.name, state.position, limit
            )
        except TrainshedError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                raise
            state.look = False
            if end_seen:  # there was something: what is told live goes on
                self.gone = error.message
                state.position = end_seen if first is None else first
            return b""
        state.position = max(state.position, found.offset)  # what was thinned out is passed over
        if state.position + len(found.data) >= found.size:
            state.look = False
        if not found.data and max(end_seen, state.position) > found.size:
            # The worker has cut its file short, or somebody has deleted it: go on from its end.
            self._forget(state, end_seen)
            state.position = min(state.position, found.size)
            state.known_end = state.position if state.known_end == end_seen else state.known_end
        return found.data

    def _forget(self, state: _StreamState, end_seen: int) -> None:
        """Drop the chunks that end at ``end_seen`` or before: what they held is gone."""
        self._chunks = deque(
            chunk for chunk in self._chunks if chunk[0] is not state or chunk[1] + len(chunk[2]) > end_seen
        )
        self._buffered = sum(len(data) for _, _, data in self._chunks)

    def _look_again(self) -> None:
        for state in self._streams.values():
            state.look = True
        self._wake.set()

    def _receive(self, stream: str, headers: Mapping[str, str], data: bytes) -> None:
        state = self._streams.get(stream)
        try:
            offset = int(headers[subjects.OFFSET_HEADER])
            size = int(headers[subjects.SIZE_HEADER]) if subjects.SIZE_HEADER in headers else None
        except (KeyError, ValueError):
            return  # not the agent's
        if state is None or offset < 0:
            return
        state.known_end = max(state.known_end, offset + len(data))
        if size is not None:
            state.size = size
            state.known_end = max(state.known_end, size)
        if data:
            self._chunks.append((state, offset, data))
            self._buffered += len(data)
        if self._buffered > BUFFERED_BYTES:
            self._chunks.clear()
            self._buffered = 0
        self._wake.set()
