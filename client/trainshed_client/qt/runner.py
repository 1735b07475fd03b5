"""What a GUI holds of Trainshed: a QObject in its thread that turns what the client hears into Qt signals.

Owns the signals and when they are emitted; the client lives in client_thread.py, and knows nothing of Qt.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Hashable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from PySide6.QtCore import QCoreApplication, QObject, Qt, QTimer, Signal

from trainshed_client.answers import Acknowledged, Submission
from trainshed_client.client import Trainshed
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.qt import feeds
from trainshed_client.qt.answer_target import Answered, AnswerTarget
from trainshed_client.qt.client_thread import (
    ANSWERED,
    ENDED,
    ClientThread,
    ConnectionState,
    Feed,
    Work,
    stopped_error,
)
from trainshed_client.qt.outbox import Frame, FrameItem
from trainshed_client.qt.run_configs import CONFIGS_KEPT, RunConfigs
from trainshed_client.records import QueuedRunRecord

T = TypeVar("T")

_SLICE_S = 0.004
_SLICE_ITEMS = 250
"""A frame's signals are emitted in slices of this time and number, between which the GUI does what else it has to."""


class TrainerClientRunner(QObject):
    """A connection to a stack whose news are signals, emitted in the thread that this object lives in.

    ``url``: the server; else it is found as `Trainshed.connect` finds it. What is watched or followed before `start` begins
    once it is connected. No method waits for the network but `stop`, which takes two seconds at the most.
    """

    run_changed = Signal(object)
    """A `RunRecord`: the newest of a run."""
    slot_changed = Signal(object)
    """A `SlotRecord`; a `Gone` for one that is no more, with the key ``<node>.<index>``."""
    node_changed = Signal(object)
    """A `NodeRecord`; a `Gone` for one that is no more."""
    queue_changed = Signal(object)
    """A `QueueRecord`: the queue as a whole."""
    event_received = Signal(object)
    """A `LogEvent`: its ``seq``, ``type``, ``about`` and ``body``."""
    output_received = Signal(str, int, str, object, bytes)
    """Run id, attempt, stream, the offset in it (an int: Qt's own would end at 2 GB), bytes."""
    telemetry_received = Signal(str, int, object)
    """Run id, attempt, a `TelemetryEntry`: its ``data``, and the ``offset`` in stdout where it begins."""
    metrics_received = Signal(str, int, object)
    """Run id, attempt, a `MetricsPoint`: what was measured at a step."""
    config_received = Signal(str, object)
    """Run id, its run config as a dict (with ``metadata``): once for each run that is granted a place while runs are watched,
    and for each that is followed before anything else of it. `config_of` has it from then on."""
    present_reached = Signal(str)
    """``runs``, ``slots``, ``nodes`` or ``queue``: all that there was has been emitted, what follows is news."""
    connection_changed = Signal(str)
    """A `ConnectionState`: connecting, connected, reconnecting, closed."""
    failed = Signal(str)
    """What did not work, as text for people."""
    frame_ended = Signal()
    """Some signals were emitted together: now is the time to show what they changed."""

    _frame_arrived = Signal(object)
    _answered_here = Signal(object, object, object)
    """A target, an error or None, a result: what is answered without the client, a turn of the event loop later."""

    def __init__(self, url: str | None = None, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._url = url
        self._thread: ClientThread | None = None
        self._state = ConnectionState.CLOSED
        self._followed: dict[Hashable, Feed] = {}
        """Begun by `start`, and again where connecting failed before."""
        self._asked: dict[AnswerTarget, Future[Any]] = {}
        """Whose answers have not come."""
        self._configs: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._reading = RunConfigs()
        self._items: deque[FrameItem] = deque()
        self._frame_is_owed = False
        """Whether the thread waits to hear that its last frame was taken."""
        self._next_slice = QTimer(self)
        self._next_slice.setSingleShot(True)
        self._next_slice.setInterval(0)
        self._next_slice.timeout.connect(self._emit_slice)
        self._frame_arrived.connect(self._take_frame, Qt.ConnectionType.QueuedConnection)
        self._answered_here.connect(self._hand, Qt.ConnectionType.QueuedConnection)
        if (application := QCoreApplication.instance()) is not None:
            application.aboutToQuit.connect(self.stop)

    # --- its life -------------------------------------------------------------------------------------------

    @property
    def state(self) -> ConnectionState:
        """How the connection is."""
        return self._state

    def start(self) -> None:
        """Connect, on a thread of its own. `failed` where it is started already, and where connecting fails."""
        if self._thread is not None:
            self.failed.emit("this runner is started already; stop() it first, or make another one")
            return
        frame_arrived = self._frame_arrived
        thread = ClientThread(self._url, lambda thread, frame: frame_arrived.emit((thread, frame)))
        self._thread = thread
        thread.follow("configs", self._reading.feed)
        for key, feed in self._followed.items():
            thread.follow(key, feed)
        self.destroyed.connect(thread.end)
        self._change_state(ConnectionState.CONNECTING)
        thread.start()

    def stop(self) -> None:
        """End the connection and its thread, within two seconds; nothing is emitted afterwards but that it is closed.

        What was asked for and not answered fails with UNAVAILABLE: ``error`` is called a turn of the event loop later. `failed`
        where it was still connecting. What was followed is forgotten.
        """
        self._followed.clear()
        self._reading = RunConfigs()
        if self._thread is None:
            return
        connecting = self._state is ConnectionState.CONNECTING
        ended = self._lose_thread(self._thread)
        self._change_state(ConnectionState.CLOSED)
        if connecting:
            self.failed.emit(f"stopped while it was connecting to {self._url or 'the stack'}")
        if not ended:
            self.failed.emit("the connection does not end in time; its thread is left behind")

    def _lose_thread(self, thread: ClientThread) -> bool:
        """End it, and answer all that it has not; False where it does not end in time."""
        self._thread = None
        self._items.clear()
        self._next_slice.stop()
        self._frame_is_owed = False
        asked, self._asked = self._asked, {}
        self.destroyed.disconnect(thread.end)
        ended = thread.stop()
        for target, future in asked.items():
            if not future.done():
                self._answered_here.emit(target, stopped_error(), None)
            elif not future.cancelled():
                error = future.exception()
                self._answered_here.emit(target, error, None if error else future.result())
        return ended

    # --- what is followed -----------------------------------------------------------------------------------

    def watch_runs(self, since_seq: int = 0) -> None:
        """Begin with `run_changed`: the record of every live run and of the last that ended, then each that changes.

        ``since_seq``: of the present only what changed after that event of the log.
        """
        self._follow("runs", feeds.runs(since_seq, self._reading))

    def watch_slots(self) -> None:
        """Begin with `slot_changed`: every slot's record, then each that changes or goes."""
        self._follow("slots", feeds.slots())

    def watch_nodes(self) -> None:
        """Begin with `node_changed`: every node's record, then each that changes or goes."""
        self._follow("nodes", feeds.nodes())

    def watch_queue(self) -> None:
        """Begin with `queue_changed`."""
        self._follow("queue", feeds.queue())

    def watch_events(self, since_seq: int = 0) -> None:
        """Begin with `event_received`: every event of the log after this one, each once and in order."""
        self._follow("events", feeds.events(since_seq))

    def follow_output(self, run_id: str, since: int | Mapping[str, int] = 0) -> None:
        """Begin with `output_received` of a run's latest attempt. ``since``: so many bytes of each stream are passed over."""
        self._follow(("output", run_id), feeds.output(run_id, since, self._reading))

    def follow_metrics(self, run_id: str) -> None:
        """Begin with `metrics_received` of a run: what was measured up to now, then each new line."""
        self._follow(("metrics", run_id), feeds.metrics(run_id, self._reading))

    def follow_telemetry(self, run_id: str, since: int = 0) -> None:
        """Begin with `telemetry_received` of a run: what its latest attempt wrote from this byte of stdout on, then what comes."""
        self._follow(("telemetry", run_id), feeds.telemetry(run_id, since, self._reading))

    def config_of(self, run_id: str) -> Mapping[str, Any] | None:
        """The config of a run, where `config_received` has borne it; of many the last 5,000 are kept."""
        return self._configs.get(run_id)

    def unfollow(self, run_id: str) -> None:
        """End what is followed of this run."""
        for kind in ("output", "metrics", "telemetry"):
            self._followed.pop((kind, run_id), None)
            if self._thread is not None:
                self._thread.unfollow((kind, run_id))

    def _follow(self, key: Hashable, feed: Feed) -> None:
        self._followed[key] = feed
        if self._thread is not None:
            self._thread.follow(key, feed)

    # --- what is asked --------------------------------------------------------------------------------------

    def submit(
        self, config: Mapping[str, object], *, done: Answered | None = None, error: Answered | None = None
    ) -> Future[Submission]:
        """Submit a run config: see `Trainshed.submit`.

        As every call here: gives a future; ``done`` gets the result and ``error`` the `TrainshedError`, in this object's
        thread, and not once the object that they are bound to is deleted. Without ``error`` it is `failed` that tells it.
        """
        return self.call(lambda client: client.submit(config), done=done, error=error)

    def cancel(
        self,
        run: str,
        *,
        reason: str | None = None,
        done: Answered | None = None,
        error: Answered | None = None,
    ) -> Future[Acknowledged]:
        """Ask for a run's end: see `Trainshed.cancel`."""
        return self.call(lambda client: client.cancel(run, reason=reason), done=done, error=error)

    def retry(
        self,
        run: str,
        *,
        reason: str | None = None,
        done: Answered | None = None,
        error: Answered | None = None,
    ) -> Future[Acknowledged]:
        """Ask for a new attempt of an ended run: see `Trainshed.retry`."""
        return self.call(lambda client: client.retry(run, reason=reason), done=done, error=error)

    def list_runs(
        self,
        *,
        limit: int | None = 500,
        done: Answered | None = None,
        error: Answered | None = None,
    ) -> Future[list[QueuedRunRecord]]:
        """Records of the newest runs, ended ones too."""

        async def listed(client: Trainshed) -> list[QueuedRunRecord]:
            return [record async for record in client.list(limit=limit)]

        return self.call(listed, done=done, error=error)

    def call(
        self, work: Work[T], *, done: Answered | None = None, error: Answered | None = None
    ) -> Future[T]:
        """Do anything else with the client, on its thread: ``work`` is an async function of a `Trainshed`.

        It must not touch Qt's objects, and what it gives must be plain values.
        """
        target = AnswerTarget(done, error)
        if self._thread is not None:
            asked = self._asked[target] = self._thread.call(work, target)
            return asked
        failure = TrainshedError(
            ErrorCode.UNAVAILABLE, "this runner is not started, so nothing was asked: start() it"
        )
        refused: Future[T] = Future()
        refused.set_exception(failure)
        self._answered_here.emit(target, failure, None)
        return refused

    # --- what arrives ---------------------------------------------------------------------------------------

    def _take_frame(self, arrived: tuple[ClientThread, Frame]) -> None:
        thread, frame = arrived
        if thread is self._thread:  # else it is of one that was stopped
            self._items.extend(frame)
            self._frame_is_owed = True
            self._emit_slice()

    def _emit_slice(self) -> None:
        """Emit some of what has arrived. A callback may raise, stop the runner or open a dialog with an event loop of its own."""
        self._next_slice.start()  # the rest comes with it whatever happens here
        until, thread = time.perf_counter() + _SLICE_S, self._thread
        for _ in range(_SLICE_ITEMS):
            if not self._items or time.perf_counter() > until:
                break
            self._emit(*self._items.popleft())
        if thread is None or thread is not self._thread:
            return  # it was stopped meanwhile
        self.frame_ended.emit()
        if not self._items:
            self._next_slice.stop()
            if self._frame_is_owed:
                self._frame_is_owed = False
                thread.taken()

    def _emit(self, name: str, values: tuple[object, ...]) -> None:
        if name == ENDED:
            self._connecting_failed(*values)
        elif name == ANSWERED:
            self._take_answer(*values)
        elif name == "config_received":
            self._keep_config(*values)
        elif name == "connection_changed":
            self._change_state(ConnectionState(str(values[0])))
        else:
            getattr(self, name).emit(*values)

    def _keep_config(self, run_id: object, config: object) -> None:
        if isinstance(run_id, str) and isinstance(config, dict):
            self._configs[run_id] = config
            if len(self._configs) > CONFIGS_KEPT:
                self._configs.popitem(last=False)
            self.config_received.emit(run_id, config)

    def _change_state(self, state: ConnectionState) -> None:
        if state is not self._state:
            self._state = state
            self.connection_changed.emit(str(state))

    def _connecting_failed(self, text: object) -> None:
        if self._thread is not None:
            self._lose_thread(self._thread)
        self._change_state(ConnectionState.CLOSED)
        self.failed.emit(str(text))

    def _take_answer(self, target: object, error: object, result: object) -> None:
        if isinstance(target, AnswerTarget) and self._asked.pop(target, None) is not None:
            if isinstance(error, Exception) and not target.hears_errors:
                self.failed.emit(str(error))
            self._hand(target, error, result)

    def _hand(self, target: AnswerTarget, error: object, result: object) -> None:
        target.hand(error if isinstance(error, Exception) else None, result)
