"""The client on a thread and an event loop of its own, from its start to its stop.

Owns that thread, the connection and the tasks on it, and that all of it ends in time; knows no Qt.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from trainshed_client._compat import StrEnum
from trainshed_client._compat_asyncio import timeout as time_limit
from trainshed_client.client import Trainshed
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.qt.outbox import Frame, Outbox

if TYPE_CHECKING:
    from trainshed_client.qt.answer_target import AnswerTarget

_log = logging.getLogger("trainshed.qt")

T = TypeVar("T")
Work = Callable[[Trainshed], Awaitable[T]]
Feed = Callable[[Trainshed, Outbox], Awaitable[None]]

STOP_S = 1.9
"""So long `stop` waits for the thread, at the most."""
_FEEDS_S = 0.3
_CLOSE_S = 0.7
_ABANDON_S = 0.3
RETRY_S = 1.0
"""A feed that nobody answered begins again after this time."""

ENDED = "_ended"
ANSWERED = "_answered"
"""Items for the runner itself."""


class ConnectionState(StrEnum):
    """How the connection is; what `connection_changed` bears."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class ClientThread:
    """A connection and what is done with it. ``deliver`` gets its frames, in the thread of the loop.

    `start`, `stop`, `end`, `call`, `follow`, `unfollow` and `taken` are for other threads.
    """

    def __init__(self, url: str | None, deliver: Callable[[ClientThread, Frame], None]) -> None:
        self._url = url
        self._deliver = deliver
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="trainshed-qt", daemon=True)
        self._outbox: Outbox
        self._main: asyncio.Task[None] | None = None
        self._connected: asyncio.Future[Trainshed]
        self._feeds: dict[Hashable, asyncio.Task[None]] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._refused = False
        self._lock = threading.Lock()
        self._unanswered: set[Future[Any]] | None = set()
        """None once nothing is taken any more."""

    # --- for other threads ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread, which connects."""
        self._thread.start()

    def stop(self, within_s: float = STOP_S) -> bool:
        """End all of it, and wait for that; False where the thread has not ended in this time."""
        self.end()
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def end(self) -> None:
        """Begin to end all of it, and wait for nothing."""
        self._soon(self._end)

    def call(self, work: Work[T], target: AnswerTarget | None = None) -> Future[T]:
        """Do this with the client once it is connected. ``target`` hears of the result in the GUI's thread."""
        future: Future[T] = Future()
        with self._lock:
            if self._unanswered is None:
                future.set_exception(stopped_error())
                return future
            self._unanswered.add(future)
            self._soon(self._begin_call, work, future, target)
        return future

    def follow(self, key: Hashable, feed: Feed) -> None:
        """Run this feed until it ends, or `unfollow`; one that runs already under this key goes on."""
        self._soon(self._begin_feed, key, feed)

    def unfollow(self, key: Hashable) -> None:
        """End the feed of this key, if there is one."""
        self._soon(self._end_feed, key)

    def taken(self) -> None:
        """The GUI has emitted all of the last frame."""
        self._soon(lambda: self._outbox.taken())

    def _soon(self, function: Callable[..., object], *values: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *values)
        except RuntimeError:
            pass  # the loop is closed: all has ended

    # --- in the thread of the loop --------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            # Here, not before: up to Python 3.9 what waits belongs to the loop of the thread that makes it.
            self._outbox = Outbox(self._send)
            self._connected = self._loop.create_future()
            self._main = self._loop.create_task(self._live())
            self._loop.run_until_complete(asyncio.wait({self._main}))
            if left := asyncio.all_tasks(self._loop):
                for task in left:
                    task.cancel()
                self._loop.run_until_complete(asyncio.wait(left, timeout=_FEEDS_S))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            with self._lock:
                unanswered, self._unanswered = self._unanswered or set(), None
            for future in unanswered:
                if future.set_running_or_notify_cancel():
                    future.set_exception(stopped_error())
            self._loop.close()

    async def _live(self) -> None:
        self._outbox.put("connection_changed", str(ConnectionState.CONNECTING))
        try:
            client = await self._connect()
        except asyncio.CancelledError:
            self._outbox.drop()
            return
        except Exception as error:  # noqa: BLE001  # whatever it is, the GUI must hear of it
            await self._give_up(error)
            return
        try:
            self._connected.set_result(client)
            self._outbox.put("connection_changed", str(ConnectionState.CONNECTED))
            await self._loop.create_future()  # until `_end` cancels this task
        except asyncio.CancelledError:
            pass
        finally:
            self._outbox.drop()
            await self._close(client)

    async def _connect(self) -> Trainshed:
        if self._stopping:
            raise asyncio.CancelledError
        return await Trainshed.connect(
            self._url,
            name="trainshed-qt",
            on_error=self._hear_error,
            on_disconnect=lambda: self._hear_state(ConnectionState.RECONNECTING),
            on_reconnect=lambda: self._hear_state(ConnectionState.CONNECTED),
        )

    def _hear_state(self, state: ConnectionState) -> None:
        if state is ConnectionState.CONNECTED:
            self._refused = False
        self._outbox.put("connection_changed", str(state))

    def _hear_error(self, error: Exception) -> None:
        _log.warning("%s", error)
        if "authorization" in str(error).lower() and not self._refused:
            self._refused = True  # each try to come back is refused: the GUI hears it once
            self._outbox.put("failed", "the server refuses the password that it took before; it is asked on")

    async def _give_up(self, error: Exception) -> None:
        """Nothing is connected: whoever waits for it hears why, then the runner does."""
        if not isinstance(error, TrainshedError):
            _log.error("connecting failed", exc_info=error)
        self._connected.set_exception(error)
        self._connected.exception()  # it counts as seen: perhaps nobody waits
        await asyncio.sleep(0)
        if waiting := {*self._calls, *self._feeds.values()}:
            await asyncio.wait(waiting, timeout=_FEEDS_S)
        self._outbox.put(ENDED, _text(error))
        self._outbox.close()

    async def _close(self, client: Trainshed) -> None:
        """In order where the server answers, at once where it does not."""
        tasks = [*self._feeds.values(), *self._calls]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_FEEDS_S)
        for closing, within_s in ((client.close, _CLOSE_S), (client.connection.abandon, _ABANDON_S)):
            try:
                async with time_limit(within_s):
                    await closing()
                return
            except Exception as error:  # noqa: BLE001  # it is closed however that goes
                _log.warning("closing the connection failed (%s)", error or type(error).__name__)

    def _end(self) -> None:
        if self._main is not None and not self._stopping:
            self._main.cancel()  # once: a second time would end the closing of the connection
        self._stopping = True

    def _begin_call(self, work: Work[T], future: Future[T], target: AnswerTarget | None) -> None:
        if not future.set_running_or_notify_cancel():
            self._answered(future)
            return
        task = self._loop.create_task(self._do(work, future, target))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _do(self, work: Work[T], future: Future[T], target: AnswerTarget | None) -> None:
        try:
            result = await work(await asyncio.shield(self._connected))
        except asyncio.CancelledError:
            self._answered(future)
            future.set_exception(stopped_error())
        except Exception as error:  # noqa: BLE001  # it is the caller's
            self._answered(future)
            future.set_exception(error)
            self._outbox.put(ANSWERED, target, error, None)
        else:
            self._answered(future)
            future.set_result(result)
            self._outbox.put(ANSWERED, target, None, result)

    def _answered(self, future: Future[Any]) -> None:
        with self._lock:
            if self._unanswered is not None:
                self._unanswered.discard(future)

    def _begin_feed(self, key: Hashable, feed: Feed) -> None:
        if key in self._feeds or self._stopping:
            return
        task = self._feeds[key] = self._loop.create_task(self._feed(key, feed))
        task.add_done_callback(lambda done: self._feeds.pop(key) if self._feeds.get(key) is done else None)

    def _end_feed(self, key: Hashable) -> None:
        if (task := self._feeds.pop(key, None)) is not None:
            task.cancel()

    async def _feed(self, key: Hashable, feed: Feed) -> None:
        """Run it, again and again where nobody answers; the GUI hears of the first time."""
        heard = False
        try:
            client = await asyncio.shield(self._connected)
        except Exception:  # noqa: BLE001  # what came of connecting the runner hears by itself
            return
        while True:
            try:
                await feed(client, self._outbox)
                return
            except TrainshedError as error:
                if not heard:
                    self._outbox.put("failed", _text(error))
                if error.code is not ErrorCode.UNAVAILABLE:
                    return
                heard = True
            except Exception as error:  # noqa: BLE001  # whatever it is, the GUI must hear of it
                _log.exception("the feed %s failed", key)
                self._outbox.put("failed", _text(error))
                return
            await asyncio.sleep(RETRY_S)

    def _send(self, frame: Frame) -> None:
        try:
            self._deliver(self, frame)
        except RuntimeError:  # the runner's C++ object was deleted, and nobody can stop us
            self._end()


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, TrainshedError) else f"{type(error).__name__}: {error}"


def stopped_error() -> TrainshedError:
    """What became of a call that was not answered."""
    return TrainshedError(
        ErrorCode.UNAVAILABLE,
        "the runner was stopped before an answer came, so it is not known whether this was done. "
        "It is safe to ask again: the same config is the same run",
    )
