"""New output of the attempts that run here: published as it comes, indexed, and never in a worker's way.

Owns how far each stream was published; knows no event log. The files are the one copy: what is skipped here because
it came too fast is read there by whoever follows, who sees from the offsets that something was.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import nats.errors
from asyncinotify import Inotify, Mask, Watch

from events.times import rfc3339
from events.types import AttemptRef, OutputBytes
from services import beneath
from services.agent.output import output_index
from services.agent.output.output_index import OutputIndex, Seen
from services.daemon_thread import in_daemon_thread
from services.logging import get_logger
from trainshed_client import subjects, telemetry
from trainshed_client.nats_client import SafeClient
from trainshed_client.os_errors import cause

_log = get_logger("agent")

STREAMS = ("stdout", "stderr")
CHUNK = 64 * 1024
TURN_BYTES = 256 * 1024
"""Bytes of a stream that one turn publishes at most; where more is there it skips ahead to the newest."""
TURN_S = 0.1
"""Seconds from one turn of an attempt to the next."""
TURN_LINES = 500
"""Telemetry lines that one turn publishes at most: the newest."""
ANSWERS_WITHIN_S = 2.0
"""Seconds that an end waits for the storage of its output; what was not published then is in the file."""
PENDING_BYTES = 1 << 20
"""Bytes waiting in the connection's buffer above which nothing is added to it."""


class _Stream:
    """How far one file was published. Its files are touched in the thread of a look alone: their storage may hang."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.offset = 0
        self.fd = -1
        self.watch: Watch | None = None
        self.lines = telemetry.LineCutter() if name == "stdout" else None

    def read(self) -> Grown | None:
        """What is new, a bounded part of it: where more is there, the newest; None where there is nothing."""
        within = self.fd >= 0
        if not within:
            try:
                self.fd = beneath.open_file(str(self.path), os.O_RDONLY)
            except FileNotFoundError:  # the shim has not made it yet
                return None
        size = os.fstat(self.fd).st_size
        cut = not within and self.offset > 0 and os.pread(self.fd, 1, self.offset - 1) != b"\n"
        self.offset = min(self.offset, size)  # cut short by somebody: begin where it ends now
        if size == self.offset:
            return Grown(self, self.offset, b"", size, cut)
        if size - self.offset > TURN_BYTES:
            self.offset = size - TURN_BYTES
            cut = True
        offset = self.offset
        data = os.pread(self.fd, size - offset, offset)
        self.offset += len(data)
        return Grown(self, offset, data, size, cut)

    def size(self) -> int | None:
        """How large the file at its path is; None where there is none."""
        try:
            return beneath.look(str(self.path)).st_size
        except OSError:
            return None

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Grown(msgspec.Struct, frozen=True):
    """What one look at a file found: bytes from ``offset`` on, and its size. ``cut``: they begin within a line."""

    stream: _Stream
    offset: int
    data: bytes
    size: int
    cut: bool


class AttemptTail:
    """The output of one attempt. ``grew`` is called after each turn that found something new."""

    def __init__(
        self, output: Output, ref: AttemptRef, folder: Path, grew: Callable[[], None], *, from_index: bool
    ) -> None:
        self._output = output
        self._ref = ref
        self._folder = folder
        self._index = OutputIndex(folder)
        self._streams = [_Stream(name, folder / f"{name}.log") for name in STREAMS]
        self._from_index = from_index
        self._dirty = asyncio.Event()
        self._grew = grew
        self._index_failed = False
        self._look: asyncio.Task[list[Grown]] | None = None
        self._files = threading.Lock()
        self._closed = False
        self._at_end = OutputBytes()

    def wake(self) -> None:
        """A file has grown."""
        self._dirty.set()

    async def run(self) -> None:
        """Publish what comes until cancelled; then `finish` publishes the rest."""
        try:
            while True:
                self._dirty.clear()
                unclaimed = self._output.unclaimed
                grown = await self._seen(watch=True)
                self._output.claim(self)
                if self._output.unclaimed != unclaimed:
                    self._output.disarm(self)  # one of ours may have fired before it was known to be ours
                    self._dirty.set()
                await self._publish(grown)
                if any(each.data for each in grown):
                    self._grew()
                    await asyncio.sleep(TURN_S)
                else:
                    await self._dirty.wait()
        except OSError as error:
            _log.warning(
                "output cannot be followed; its file has it all",
                run_id=self._ref.run_id,
                attempt=self._ref.attempt,
                error=cause(error),
            )

    async def finish(self) -> OutputBytes:
        """The tree is gone: publish what is left, and each stream's size last; then `close`. Storage that hangs is not waited
        for. Returns how large the files are."""
        self._output.disarm(self)
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                if self._look is not None:
                    await self._publish(await self._seen(watch=False))
                grown = await self._seen(watch=False)
            await self._publish(grown)
            sizes = {each.stream.name: each.size for each in grown}
            for stream in self._streams:
                size = str(sizes.get(stream.name, stream.offset))
                headers = {subjects.OFFSET_HEADER: size, subjects.SIZE_HEADER: size}
                await self._output.publish(self._subject(stream), b"", headers)
            return self._at_end
        except OSError as error:
            _log.warning(
                "the rest of the output was not published; its file has it all",
                run_id=self._ref.run_id,
                attempt=self._ref.attempt,
                error=cause(error),
            )
            return OutputBytes()

    def last(self, name: str, count: int) -> bytes:
        """The last bytes of a stream, also where its path has vanished; empty where there is none. Blocks; raises OSError."""
        stream = self._streams[STREAMS.index(name)]
        try:
            with self._files:
                if stream.fd < 0 or self._closed:
                    return _last_bytes(stream.path, count)
                size = os.fstat(stream.fd).st_size
                return os.pread(stream.fd, count, max(0, size - count))
        finally:
            if self._closed:
                self._close_unless_in_use()

    def close(self) -> None:
        """Let go of the files; a look that hangs does it when it is done with them."""
        self._output.disarm(self)
        self._closed = True
        self._close_unless_in_use()

    def _close_unless_in_use(self) -> None:
        if self._files.acquire(blocking=False):
            try:
                self._index.close()
                for stream in self._streams:
                    stream.close()
            finally:
                self._files.release()

    @property
    def streams(self) -> list[_Stream]:
        """For Output, which watches the files."""
        return self._streams

    async def _seen(self, *, watch: bool) -> list[Grown]:
        """What is new. One look at a time: where one is under way, it is what that finds. Raises OSError."""
        if self._look is None:
            self._look = asyncio.ensure_future(in_daemon_thread(partial(self._look_now, watch)))
            self._look.add_done_callback(_heard)
        try:
            grown = await asyncio.shield(self._look)
        except OSError:
            self._look = None
            raise
        self._look = None  # not where this was cancelled: then `finish` tells what it has found
        return grown

    def _look_now(self, watch: bool) -> list[Grown]:
        """For a thread."""
        try:
            with self._files:
                if self._from_index:
                    self._from_index = False
                    for name, offset in output_index.ends(self._folder, STREAMS).items():
                        self._streams[STREAMS.index(name)].offset = offset
                if watch:
                    self._output.arm(self)
                else:
                    self._at_end = OutputBytes(**{stream.name: stream.size() for stream in self._streams})
                grown = [each for stream in self._streams if (each := stream.read()) is not None]
                for each in grown:
                    if each.data:
                        self._note(each)
                return grown
        finally:
            if self._closed:
                self._close_unless_in_use()

    async def _publish(self, grown: list[Grown]) -> None:
        for each in grown:
            stream = each.stream
            if stream.lines is not None and each.cut:
                stream.lines.skip()
            lines: list[telemetry.Line] = []
            for at in range(0, len(each.data), CHUNK):
                chunk = each.data[at : at + CHUNK]
                headers = {subjects.OFFSET_HEADER: str(each.offset + at)}
                await self._output.publish(self._subject(stream), chunk, headers)
                if stream.lines is not None:
                    lines = (lines + stream.lines.feed(each.offset + at, chunk))[-TURN_LINES:]
            subject = subjects.telemetry(self._ref.run_id, self._ref.attempt, self._output.node)
            for line in lines:
                await self._output.publish(subject, line.text, {subjects.OFFSET_HEADER: str(line.offset)})

    def _note(self, grown: Grown) -> None:
        try:
            self._index.append(Seen(rfc3339(self._output.clock()), grown.stream.name, grown.size))
        except OSError as error:
            if not self._index_failed:
                self._index_failed = True
                _log.warning(
                    "the output's index cannot be written",
                    run_id=self._ref.run_id,
                    attempt=self._ref.attempt,
                    error=cause(error),
                )

    def _subject(self, stream: _Stream) -> str:
        return subjects.output(self._ref.run_id, self._ref.attempt, self._output.node, stream.name)


def _last_bytes(path: Path, count: int) -> bytes:
    with open(beneath.open_file(str(path), os.O_RDONLY), "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - count))
        return file.read(count)


def _heard(look: asyncio.Task[list[Grown]]) -> None:
    """Whoever still waits hears of the error; no one need."""
    if not look.cancelled():
        look.exception()


class Output:
    """Every attempt's output on this node: one inotify for all, woken at most once a turn by one-shot watches."""

    def __init__(self, nc: SafeClient, node: str, clock: Callable[[], int]) -> None:
        self._nc = nc
        self.node = node
        self.clock = clock
        self._inotify = Inotify()
        self._tails: dict[Watch, AttemptTail] = {}
        self.unclaimed = 0
        """Events so far of files that no tail had claimed (yet)."""

    async def run(self) -> None:
        """Hear of files that grow, until cancelled."""
        async for event in self._inotify:
            if Mask.IGNORED in event.mask:
                continue
            if event.watch is None or (tail := self._tails.pop(event.watch, None)) is None:
                self.unclaimed += 1
            else:
                for stream in tail.streams:
                    if stream.watch is event.watch:
                        stream.watch = None
                tail.wake()

    def close(self) -> None:
        """Let go of the inotify descriptor; every tail must be closed."""
        self._inotify.close()

    def tail(
        self, ref: AttemptRef, folder: Path, grew: Callable[[], None], *, from_index: bool = False
    ) -> AttemptTail:
        """The tail of an attempt; ``from_index``: an agent before this one may have published a part already."""
        return AttemptTail(self, ref, folder, grew, from_index=from_index)

    def arm(self, tail: AttemptTail) -> None:
        """Watch for the next change of its files; before they are looked at, so that none is missed. For a thread, and
        then `claim`. Raises OSError."""
        for stream in tail.streams:
            # The worker writes to the file that it had at its start, whatever became of its path since. One that vanished
            # before it was opened here is not made anew: who asks for it is to hear that it is gone.
            path = stream.path if stream.fd < 0 else Path(f"/proc/self/fd/{stream.fd}")
            follow = Mask.DONT_FOLLOW if stream.fd < 0 else Mask(0)
            if stream.watch is None and os.path.lexists(path):
                stream.watch = self._inotify.add_watch(path, Mask.MODIFY | Mask.ONESHOT | follow)

    def claim(self, tail: AttemptTail) -> None:
        """What `arm` has watched is this tail's."""
        for stream in tail.streams:
            if stream.watch is not None:
                self._tails[stream.watch] = tail

    def disarm(self, tail: AttemptTail) -> None:
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
