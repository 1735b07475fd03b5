"""New output of the attempts that run here: published as it comes, indexed, and never in a worker's way.

Owns how far each stream was published; knows no event log. The files are the one copy: what is skipped here because
it came too fast is read there by whoever follows, who sees from the offsets that something was.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import nats.errors
from asyncinotify import Inotify, Mask, Watch

from events.times import rfc3339
from events.types import AttemptRef
from services.agent.output import output_index, telemetry
from services.agent.output.output_index import OutputIndex, Seen
from services.logging import get_logger
from trainshed_client import subjects
from trainshed_client.nats_client import SafeClient

_log = get_logger("agent")

STREAMS = ("stdout", "stderr")
CHUNK = 64 * 1024
TURN_BYTES = 256 * 1024
"""Bytes of a stream that one turn publishes at most; where more is there it skips ahead to the newest."""
TURN_S = 0.1
"""Seconds from one turn of an attempt to the next."""
TURN_LINES = 500
"""Telemetry lines that one turn publishes at most: the newest."""
PENDING_BYTES = 1 << 20
"""Bytes waiting in the connection's buffer above which nothing is added to it."""


class _Stream:
    """How far one file was published."""

    def __init__(self, name: str, path: Path, offset: int) -> None:
        self.name = name
        self.path = path
        self.offset = offset
        self.fd = -1
        self.watch: Watch | None = None
        self.lines = telemetry.LineCutter() if name == "stdout" else None

    def open(self) -> bool:
        """Open the file once the shim has made it; False while there is none."""
        if self.fd < 0:
            try:
                self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            if self.lines is not None and self.offset and os.pread(self.fd, 1, self.offset - 1) != b"\n":
                self.lines.skip()
        return True

    @property
    def size(self) -> int:
        """Bytes that the file has now."""
        return os.fstat(self.fd).st_size if self.fd >= 0 else self.offset

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Tail:
    """The output of one attempt. ``grew`` is called after each turn that found something new."""

    def __init__(
        self, output: Output, ref: AttemptRef, folder: Path, offsets: dict[str, int], grew: Callable[[], None]
    ) -> None:
        self._output = output
        self._ref = ref
        self._index = OutputIndex(folder)
        self._streams = [_Stream(name, folder / f"{name}.log", offsets[name]) for name in STREAMS]
        self._dirty = asyncio.Event()
        self._grew = grew
        self._index_failed = False

    def wake(self) -> None:
        """A file has grown."""
        self._dirty.set()

    async def run(self) -> None:
        """Publish what comes until cancelled; then `finish` tells the rest."""
        try:
            while True:
                self._dirty.clear()
                self._output.arm(self)
                if await self._turn():
                    self._grew()
                    await asyncio.sleep(TURN_S)
                else:
                    await self._dirty.wait()
        except OSError as error:
            _log.warning(
                "output cannot be followed; its file has it all",
                run_id=self._ref.run_id,
                attempt=self._ref.attempt,
                error=str(error),
            )

    async def finish(self) -> None:
        """The tree is gone: tell what is left, and each stream's size last."""
        self._output.disarm(self)
        try:
            await self._turn()
            for stream in self._streams:
                size = str(stream.size)
                headers = {subjects.OFFSET_HEADER: size, subjects.SIZE_HEADER: size}
                await self._output.publish(self._subject(stream), b"", headers)
        except OSError as error:
            _log.warning(
                "the rest of the output was not told; its file has it all",
                run_id=self._ref.run_id,
                attempt=self._ref.attempt,
                error=str(error),
            )
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the files."""
        self._output.disarm(self)
        self._index.close()
        for stream in self._streams:
            stream.close()

    @property
    def streams(self) -> list[_Stream]:
        """For Output, which watches the files."""
        return self._streams

    async def _turn(self) -> bool:
        """Publish what is new, a bounded part of it; True where something was new."""
        found = False
        for stream in self._streams:
            if not stream.open():
                continue
            size = stream.size
            stream.offset = min(stream.offset, size)  # cut short by somebody: begin where it ends now
            if size == stream.offset:
                continue
            found = True
            await self._publish(stream, size)
            self._note(stream, size)
        return found

    async def _publish(self, stream: _Stream, size: int) -> None:
        if size - stream.offset > TURN_BYTES:
            stream.offset = size - TURN_BYTES
            if stream.lines is not None:
                stream.lines.skip()
        lines: list[telemetry.Line] = []
        while stream.offset < size:
            chunk = os.pread(stream.fd, min(CHUNK, size - stream.offset), stream.offset)
            if not chunk:
                break
            offset = stream.offset
            stream.offset += len(chunk)
            headers = {subjects.OFFSET_HEADER: str(offset)}
            await self._output.publish(self._subject(stream), chunk, headers)
            if stream.lines is not None:
                lines = (lines + stream.lines.feed(offset, chunk))[-TURN_LINES:]
        subject = subjects.telemetry(self._ref.run_id, self._ref.attempt, self._output.node)
        for line in lines:
            await self._output.publish(subject, line.text, {subjects.OFFSET_HEADER: str(line.offset)})

    def _note(self, stream: _Stream, size: int) -> None:
        try:
            self._index.append(Seen(rfc3339(self._output.clock()), stream.name, size))
        except OSError as error:
            if not self._index_failed:
                self._index_failed = True
                _log.warning(
                    "the output's index cannot be written",
                    run_id=self._ref.run_id,
                    attempt=self._ref.attempt,
                    error=str(error),
                )

    def _subject(self, stream: _Stream) -> str:
        return subjects.output(self._ref.run_id, self._ref.attempt, self._output.node, stream.name)


class Output:
    """Every attempt's output on this node: one inotify for all, told at most once a turn by one-shot watches."""

    def __init__(self, nc: SafeClient, node: str, clock: Callable[[], int]) -> None:
        self._nc = nc
        self.node = node
        self.clock = clock
        self._inotify = Inotify()
        self._tails: dict[Watch, Tail] = {}

    async def run(self) -> None:
        """Hear of files that grow, until cancelled."""
        async for event in self._inotify:
            if event.watch is not None and (tail := self._tails.pop(event.watch, None)) is not None:
                for stream in tail.streams:
                    if stream.watch is event.watch:
                        stream.watch = None
                tail.wake()

    def close(self) -> None:
        """Let go of the inotify descriptor; every tail must be closed."""
        self._inotify.close()

    def tail(
        self, ref: AttemptRef, folder: Path, grew: Callable[[], None], *, from_index: bool = False
    ) -> Tail:
        """The tail of an attempt; ``from_index``: an agent before this one may have told a part already."""
        offsets = output_index.ends(folder, STREAMS) if from_index else dict.fromkeys(STREAMS, 0)
        return Tail(self, ref, folder, offsets, grew)

    def arm(self, tail: Tail) -> None:
        """Watch for the next change of its files; before they are looked at, so that none is missed. Raises OSError."""
        for stream in tail.streams:
            if stream.watch is None:
                # The shim opens them with O_APPEND | O_CREAT: whoever comes first makes them.
                os.close(os.open(stream.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
                stream.watch = self._inotify.add_watch(stream.path, Mask.MODIFY | Mask.ONESHOT)
                self._tails[stream.watch] = tail

    def disarm(self, tail: Tail) -> None:
        """Watch its files no longer."""
        for stream in tail.streams:
            if stream.watch is not None:
                self._tails.pop(stream.watch, None)
                with contextlib.suppress(OSError):  # it has just fired
                    self._inotify.rm_watch(stream.watch)
                stream.watch = None

    async def publish(self, subject: str, data: bytes, headers: dict[str, str]) -> None:
        """Publish to whoever listens; nobody waits for it, and while there is no connection it is left out."""
        if not self._nc.is_connected:
            return
        with contextlib.suppress(nats.errors.Error):
            await self._nc.publish(subject, data, headers=headers)
            if self._nc.pending_data_size > PENDING_BYTES:
                await self._nc.flush(timeout=5)
