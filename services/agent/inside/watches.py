"""What a worker watches: changes of the runs that it sees and new output of theirs, as lines that wait to be written.

Owns how much waits, and what becomes of the rest: the watcher is told to read again. Knows no socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec

from services.parent import LABEL, seen_by
from trainshed_client import subjects
from trainshed_client.connection import Connection, Watching

MOST_BYTES = 4 * 1024 * 1024
"""What waits for a watcher that does not keep up; beyond that it is dropped, and read again by the watcher."""
LOOK_AGAIN_S = 1.0
AGAIN = b'{"again":true}\n'


class PendingLines:
    """Lines for one watcher: of each key the newest. It begins with `AGAIN`: from here on nothing is missed."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self._lines: dict[object, bytes] = {}
        self._bytes = 0
        self._again = False

    def put(self, key: object, line: bytes) -> None:
        """Have a line written, in the place of an earlier one of this key."""
        self._bytes += len(line) - len(self._lines.pop(key, b""))
        self._lines[key] = line
        if self._bytes > MOST_BYTES:
            self.again()
        self.wake.set()

    def again(self) -> None:
        """Something was missed: what waits is dropped, and the watcher told."""
        self._lines.clear()
        self._bytes = 0
        self._again = True
        self.wake.set()

    def take(self) -> bytes:
        """What waits, to be written now."""
        begin = AGAIN if self._again else b""
        taken = begin + b"".join(self._lines.values())
        self._lines.clear()
        self._bytes, self._again = 0, False
        return taken


class LookAgain:
    """In place of what cannot be heard: the watcher is told to read again, every `LOOK_AGAIN_S`."""

    def __init__(self, pending: PendingLines) -> None:
        self._pending = pending
        self._next = asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self._look)

    async def close(self) -> None:
        """See Watching."""
        self._next.cancel()

    def _look(self) -> None:
        self._pending.again()
        self._next = asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self._look)


class RunChanges:
    """Hears of every run's changes while somebody watches, and hands each to those who see that run."""

    def __init__(self, stack: Connection) -> None:
        self._stack = stack
        self._watchers: dict[str, set[PendingLines]] = {}
        self._watching: Watching | None = None
        self._turn = asyncio.Lock()

    async def add(self, parent: str, pending: PendingLines) -> None:
        """Have the changes put there that the worker of run ``parent`` sees. Raises as `Connection.watch_runs`."""
        async with self._turn:
            self._watchers.setdefault(parent, set()).add(pending)
            if self._watching is None:
                self._watching = await self._stack.watch_runs(None, self._receive, self._again)
        pending.again()

    async def remove(self, parent: str, pending: PendingLines) -> None:
        """Put nothing there any more."""
        async with self._turn:
            watchers = self._watchers.get(parent, set())
            watchers.discard(pending)
            if not watchers:
                self._watchers.pop(parent, None)
            if not self._watchers and self._watching is not None:
                watching, self._watching = self._watching, None
                await watching.close()

    def _receive(self, run_id: str, record: bytes) -> None:
        if not record:  # it left the bucket: whose it was is not known any more
            line = b'{"run_id":%b}\n' % msgspec.json.encode(run_id)
            for watchers in self._watchers.values():
                for pending in watchers:
                    pending.put((run_id, "left"), line)
            return
        try:
            seen = seen_by(record)
        except msgspec.MsgspecError:
            return  # not a record; only the projector may write there
        line = b""
        for parent in {seen.run_id, seen.labels.get(LABEL, "")}:
            for pending in self._watchers.get(parent, ()):
                line = line or _run_line(seen.run_id, record)
                pending.put(seen.run_id, line)

    def _again(self) -> None:
        for watchers in self._watchers.values():
            for pending in watchers:
                pending.again()


def _run_line(run_id: str, record: bytes) -> bytes:
    return b'{"run_id":%b,"run":%b}\n' % (msgspec.json.encode(run_id), record.replace(b"\n", b" "))


def receive_output(pending: PendingLines) -> Callable[[str, Mapping[str, str], bytes], None]:
    """What puts new output there."""

    def receive(stream: str, headers: Mapping[str, str], data: bytes) -> None:
        try:
            offset = int(headers[subjects.OFFSET_HEADER])
            size = int(headers[subjects.SIZE_HEADER]) if subjects.SIZE_HEADER in headers else None
        except (KeyError, ValueError):
            return  # not the agent's
        line: dict[str, object] = {"stream": stream, "offset": offset, "data": data}
        if size is not None:
            line["size"] = size
        pending.put((stream, offset, size), msgspec.json.encode(line) + b"\n")

    return receive
