"""A subscriber beside a test's stack: what it hears is held against the contract when the stack ends.

Owns the connection, in a thread of its own. It must change nothing of what is tested: so it hears calls only where it is asked
to, for with a listener on `trainshed.api.>` no request meets the answer that nobody is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

import nats.errors
from nats.aio.msg import Msg

from tests.support.wire_check import Fault, Heard, faults
from trainshed_client.endpoint import Endpoint
from trainshed_client.errors import TrainshedError
from trainshed_client.nats_client import SafeClient, connect

PASSIVE = ("trainshed.log.>", "trainshed.watch.>", "trainshed.heartbeats.>")
CALLS = ("trainshed.api.>", "_INBOX.>")
MOST_MESSAGES = 20_000
MOST_BYTES = 64 << 20
CONNECTS_WITHIN_S = 10.0


class Wire:
    """Hears what is published on one stack, until `stop`; the first 20,000 messages of 64 MB at most."""

    def __init__(self, endpoint: Endpoint, *, calls: Endpoint | None = None) -> None:
        """``calls``: as whom requests and answers are heard too: each account's are its own."""
        self.heard: list[Heard] = []
        self._endpoint = endpoint
        self._calls = calls
        self._bytes = 0
        self._asked: dict[str, str] = {}
        """Of each inbox the subject of the request."""
        self._excused: list[Callable[[Heard], bool]] = []
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wire", daemon=True)
        self._thread.start()
        assert self._ready.wait(CONNECTS_WITHIN_S), (
            "the subscriber of the contract's messages does not connect"
        )

    def excuse(self, excused: Callable[[Heard], bool]) -> None:
        """What a test sends that no contract has, on purpose."""
        self._excused.append(excused)

    def stop(self) -> None:
        """Hear what is on its way, and no more."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(CONNECTS_WITHIN_S)

    def check(self) -> None:
        """Fail the test where a message was none of the contract's."""
        found = self.found()
        shown = "\n".join(map(str, found))
        assert not found, f"messages that are not as the contract has them (docs/schema):\n{shown}"

    def found(self) -> list[Fault]:
        """What was none of the contract's, once no more is heard."""
        self.stop()
        return faults([one for one in self.heard if not any(excused(one) for excused in self._excused)])

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._hear_until_stopped())

    async def _hear_until_stopped(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            if self._calls is None:
                self._connecting = 1
            else:
                self._connecting = 2
                tasks.create_task(self._hear_as(self._calls, CALLS))
            await self._hear_as(self._endpoint, PASSIVE)

    def _connected(self) -> None:
        self._connecting -= 1
        if self._connecting <= 0:
            self._ready.set()

    async def _hear_as(self, endpoint: Endpoint, to: tuple[str, ...]) -> None:
        try:
            nc = await connect(endpoint, name="test-wire", on_error=_quiet)
        except TrainshedError:  # it has ended meanwhile
            self._connected()
            return
        try:
            listening = [await nc.listen(subject, self._hear) for subject in to]
            await nc.flush()
            self._connected()
            while not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await self._stop.wait()
                if len(self.heard) >= MOST_MESSAGES or self._bytes >= MOST_BYTES:
                    for one in listening:
                        await one.unsubscribe()
                    break
            await self._stop.wait()
            await _flushed(nc)
        except nats.errors.Error:  # the server is gone
            self._connected()
        finally:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                async with asyncio.timeout(2):
                    await nc.close()

    def _hear(self, msg: Msg) -> None:
        asked = None
        if msg.subject.startswith("_INBOX."):
            asked = self._asked.get(msg.subject)
            if (
                asked is None
            ):  # JetStream's, or of a question to a service that only looks whether it is there
                return
        elif msg.reply and msg.subject.startswith("trainshed.api."):
            self._asked[msg.reply] = msg.subject
        self._bytes += len(msg.data)
        self.heard.append(Heard(msg.subject, msg.data, dict(msg.headers or {}), msg.reply, asked))


async def _flushed(nc: SafeClient) -> None:
    if nc.is_connected:
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await nc.flush(2)


def _quiet(error: Exception) -> None:
    """A server that a test stops is no trouble here."""
