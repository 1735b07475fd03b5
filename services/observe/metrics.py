"""What a process measures of itself, in Prometheus' format; docs/monitoring/README.md lists every metric.

Owns their names, labels and buckets, and the watching of log, fold, projector and agent; decides nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import nats.errors
from nats.aio.msg import Msg
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from events.change import Change
from events.codec import NewEvent, StoredEvent
from events.feed import ApiError
from events.log import Appended, Conflict, EventLog, Guard, Refused, UnknownOutcome
from events.state import Pending
from events.types import Dispatched, Elected
from services.logging import get_logger
from services.version import VERSION
from trainshed_client import subjects
from trainshed_client.nats_client import SafeClient
from trainshed_client.os_errors import cause

if TYPE_CHECKING:
    from services.agent.agent import AgentService
    from services.fold import SharedFold
    from services.projector.service import ProjectorService

_log = get_logger("metrics")

APPEND_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
DISPATCH_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200, 43200)
LOG_END_WITHIN_S = 1.0
_NS = 1e9

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, which says what the process's start time says


class Metrics:
    """One process's metrics; ``service`` labels trainshed_build_info. The clock (ns since 1970) is passed in."""

    def __init__(self, service: str, clock: Callable[[], int] = time.time_ns) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        self._projector: ProjectorService | None = None
        self._pending_since: dict[str, int] = {}
        self._epoch = 0
        self._connections: list[SafeClient] = []
        self._appends_counted = False
        ProcessCollector(registry=self.registry)
        info = Gauge(
            "trainshed_build_info",
            "1, with the service that this process runs and its release.",
            ("service", "version"),
            registry=self.registry,
        )
        info.labels(service, VERSION).set(1)
        self._connected = Gauge(
            "trainshed_nats_connected",
            "1 while the connection to the NATS server stands.",
            registry=self.registry,
        )
        self._reconnects = Counter(
            "trainshed_nats_reconnects", "Connections made anew.", registry=self.registry
        )

    async def page(self) -> tuple[bytes, str]:
        """The text of `/metrics` and its content type."""
        if self._projector is not None:
            await self._read(self._projector)
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4

    def connection(self, nc: SafeClient) -> None:
        """Watch a connection of the process; it is connected where all of them are."""
        self._connections.append(nc)
        self._connected.set_function(lambda: float(all(one.is_connected for one in self._connections)))
        nc.reconnect_hooks.add(self._reconnects.inc)

    # --- appends ------------------------------------------------------------------------------------------

    def log(self, nc: SafeClient) -> EventLog:
        """A log whose appends are counted, with those of the process's others."""
        if not self._appends_counted:
            self._appends_counted = True
            self._count_appends()
        return MeteredLog(nc, self)

    def _count_appends(self) -> None:
        self._appended = Counter(
            "trainshed_events_appended",
            "Events that this process appended to the log and saw acknowledged.",
            ("type",),
            registry=self.registry,
        )
        self._rejected = Counter(
            "trainshed_events_rejected",
            "Events that the log did not take: conflict (a guard did not hold), refused (too large, storage full), "
            "unknown (no answer: stored or not).",
            ("reason",),
            registry=self.registry,
        )
        for reason in ("conflict", "refused", "unknown"):
            self._rejected.labels(reason)
        self._latency = Histogram(
            "trainshed_append_latency_seconds",
            "From sending an append (an event, or a batch) to its acknowledgement.",
            ("kind",),
            buckets=APPEND_BUCKETS,
            registry=self.registry,
        )
        for kind in ("event", "batch"):
            self._latency.labels(kind)

    def appended(self, kind: str, events: Sequence[NewEvent], seconds: float, seq: int) -> None:
        """An append was acknowledged, its last event at ``seq``."""
        self._latency.labels(kind).observe(seconds)
        for event in events:
            self._appended.labels(type(event.event).__name__).inc()
            if isinstance(event.event, Elected):
                self._epoch = seq

    def rejected(self, reason: str, events: int) -> None:
        """An append was not acknowledged."""
        self._rejected.labels(reason).inc(events)

    # --- dispatching --------------------------------------------------------------------------------------

    def dispatching(self, fold: SharedFold) -> None:
        """Watch what a dispatcher decides from ``fold``."""
        self._dispatch_latency = Histogram(
            "trainshed_dispatch_latency_seconds",
            "From a run's being queued (submitted, put back, or the last of `after` completed) to its Dispatched.",
            buckets=DISPATCH_BUCKETS,
            registry=self.registry,
        )
        active = Gauge(
            "trainshed_dispatcher_active",
            "1 while this dispatcher is the elected one.",
            registry=self.registry,
        )
        active.set_function(lambda: float(self._epoch != 0 and self._epoch == fold.state.epoch))
        fold.listen(self._folded)

    def dispatched(self, sent: Sequence[tuple[NewEvent, int | None]]) -> None:
        """Decisions were acknowledged; with each the time (ns) since which its run was queued."""
        now = self._clock()
        for event, since in sent:
            if since is not None and isinstance(event.event, Dispatched):
                self._dispatch_latency.observe(max(0, now - since) / _NS)

    def queued_since(self, events: Sequence[NewEvent]) -> list[tuple[NewEvent, int | None]]:
        """With each event since when (ns since 1970) its run has been queued, where that is known."""
        return [
            (new, self._pending_since.get(new.event.run_id) if isinstance(new.event, Dispatched) else None)
            for new in events
        ]

    def _folded(self, stored: StoredEvent, change: Change) -> None:
        for each in change.runs:
            match each.after.phase:
                case Pending() as after:
                    before = each.before.phase if each.before is not None else None
                    if isinstance(before, Pending) and before.waiting_for == after.waiting_for:
                        continue
                    self._pending_since[each.after.run_id] = max(stored.stored_ns, after.not_before_ns)
                case _:
                    self._pending_since.pop(each.after.run_id, None)

    # --- the agent ----------------------------------------------------------------------------------------

    def agent(self, agent: AgentService, slots: int) -> None:
        """Watch an agent."""
        attempts = Gauge(
            "trainshed_agent_attempts",
            "Attempts on this node whose end is not in the log yet.",
            registry=self.registry,
        )
        attempts.set_function(lambda: float(len(agent.state.attempts)))
        used = Gauge(
            "trainshed_agent_slots_used",
            "Slots of this node that these attempts hold.",
            registry=self.registry,
        )
        used.set_function(lambda: float(len({i for each in agent.state.attempts for i in each.slots})))
        Gauge("trainshed_agent_slots", "Slots of this node.", registry=self.registry).set(slots)

    # --- who is enrolled ------------------------------------------------------------------------------------

    def certificates(self, ends: Callable[[], Mapping[str, datetime]]) -> None:
        """Show when whose certificate expires, each time that a page is made."""
        self.registry.register(Certificates(ends, self._clock))

    # --- the read model -----------------------------------------------------------------------------------

    async def projector(self, nc: SafeClient, projector: ProjectorService) -> None:
        """Watch a projector; heartbeats are counted as they pass by."""
        heartbeats = Counter(
            "trainshed_heartbeats_seen",
            "Heartbeats that passed by, of runs and of nodes.",
            ("scope",),
            registry=self.registry,
        )
        counters = {scope: heartbeats.labels(scope) for scope in ("run", "node")}

        async def count(msg: Msg) -> None:
            counter = counters.get(msg.subject.split(".")[2])
            if counter is not None:
                counter.inc()

        await nc.subscribe(subjects.ALL_HEARTBEATS, cb=count)
        self._event_log = EventLog(nc)
        self._read_model = ReadModel()
        self.registry.register(self._read_model)
        self._projector = projector

    async def _read(self, projector: ProjectorService) -> None:
        """Read the read model and the log's end for this page."""
        if not projector.ready.is_set():
            self._read_model.families = []
            return
        totals = await projector.totals()
        families = [
            _gauges("trainshed_runs", "Runs by status.", "status", totals.runs),
            _gauges("trainshed_nodes", "Nodes by status.", "status", totals.nodes),
            _reasons(
                "trainshed_node_suspect",
                "Of each node that is up 1 where it could start none of the last three runs, with why; else 0.",
                "reason",
                totals.suspect,
            ),
            _reasons(
                "trainshed_node_objects",
                "Of each node that witnesses the log 1 where it objects to it, with which kind of objection; else 0.",
                "kind",
                totals.objects,
            ),
            _gauges(
                "trainshed_node_witnessed_size",
                "The leaves of the last checkpoint of the log that each node cosigned.",
                "node",
                totals.witnessed,
            ),
            _gauge("trainshed_queue_depth", "Runs that wait to be dispatched.", totals.runs["PENDING"]),
            _gauge(
                "trainshed_queue_oldest_wait_seconds",
                "How long ago the run was submitted that waits the longest; 0 where none waits.",
                _seconds_since(totals.oldest_pending_at, self._clock()),
            ),
            _gauge("trainshed_slots", "GPU slots of the nodes.", totals.slots),
            _gauge("trainshed_slots_used", "GPU slots that an attempt holds.", totals.slots_used),
            _gauge(
                "trainshed_quarantined_events", "Messages of the log that cannot be read.", totals.quarantined
            ),
            _gauge("trainshed_projector_position", "The last event in the read model.", totals.seq),
        ]
        try:
            async with asyncio.timeout(LOG_END_WITHIN_S):
                end = await self._event_log.end()
        except (TimeoutError, nats.errors.Error, ApiError) as error:
            _log.debug("the log's end is not known for the metrics", why=cause(error))
        else:
            families += [
                _gauge("trainshed_log_end", "The last event in the log.", end),
                _gauge(
                    "trainshed_projector_lag_events",
                    "Events in the log that the read model has not taken in.",
                    max(0, end - projector.position),
                ),
            ]
        self._read_model.families = families


class Certificates:
    """A collector of how long each certificate is valid yet."""

    def __init__(self, ends: Callable[[], Mapping[str, datetime]], clock: Callable[[], int]) -> None:
        self._ends = ends
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        family = GaugeMetricFamily(
            "trainshed_certificate_expires_seconds",
            "Seconds until the certificate of each who is enrolled expires; negative once it has.",
            labels=("user",),
        )
        now = self._clock() / _NS
        for user, not_after in sorted(self._ends().items()):
            family.add_metric((user,), not_after.timestamp() - now)
        yield family


class ReadModel:
    """A collector of what was just read."""

    def __init__(self) -> None:
        self.families: list[GaugeMetricFamily] = []

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        yield from self.families


class MeteredLog(EventLog):
    """An event log that tells the metrics of each append."""

    def __init__(self, nc: SafeClient, metrics: Metrics) -> None:
        super().__init__(nc)
        self._metrics = metrics

    async def append(self, event: NewEvent, guard: Guard | None = None) -> Appended:
        """See EventLog."""
        begun = time.monotonic()
        queued = self._metrics.queued_since([event])
        with _rejections(self._metrics, 1):
            appended = await super().append(event, guard)
        self._metrics.appended("event", [event], time.monotonic() - begun, appended.seq)
        self._metrics.dispatched(queued)
        return appended

    async def append_batch(self, events: Sequence[NewEvent], guards: Sequence[Guard | None]) -> list[int]:
        """See EventLog."""
        if len(events) < 2:
            return await super().append_batch(events, guards)  # which is `append`
        begun = time.monotonic()
        queued = self._metrics.queued_since(events)
        with _rejections(self._metrics, len(events)):
            seqs = await super().append_batch(events, guards)
        self._metrics.appended("batch", events, time.monotonic() - begun, seqs[-1])
        self._metrics.dispatched(queued)
        return seqs


@contextmanager
def _rejections(metrics: Metrics, events: int) -> Iterator[None]:
    """Counts what an append raises, and lets it pass."""
    try:
        yield
    except Conflict:
        metrics.rejected("conflict", events)
        raise
    except Refused:
        metrics.rejected("refused", events)
        raise
    except UnknownOutcome:
        metrics.rejected("unknown", events)
        raise


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _gauges(name: str, text: str, label: str, values: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for each, number in sorted(values.items()):
        family.add_metric((each,), number)
    return family


def _reasons(name: str, text: str, label: str, reasons: Mapping[str, str | None]) -> GaugeMetricFamily:
    """Of each node 1 where it has a reason, which is the label's value, else 0."""
    family = GaugeMetricFamily(name, text, labels=("node", label))
    for node, reason in sorted(reasons.items()):
        family.add_metric((node, reason or ""), float(reason is not None))
    return family


def _seconds_since(time_text: str | None, now_ns: int) -> float:
    if time_text is None:
        return 0.0
    return max(0.0, now_ns / _NS - datetime.fromisoformat(time_text).timestamp())
