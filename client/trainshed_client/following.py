"""The two ways to follow what happens: records as they change, and a run's output as it is written.

Owns which these are; knows nothing of how news come.
"""

from __future__ import annotations

import builtins
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from trainshed_client._compat_asyncio import timeout as time_limit
from trainshed_client.queries import QueryCalls
from trainshed_client.records import RunRecord
from trainshed_client.watching.watches import Watches

if TYPE_CHECKING:
    from trainshed_client.callbacks import Called
    from trainshed_client.follow import RunOutput
    from trainshed_client.log_reading.events import EventStream
    from trainshed_client.metrics import MetricsPoint
    from trainshed_client.records import NodeRecord, QueueRecord, SlotRecord
    from trainshed_client.run_lines import RunLines
    from trainshed_client.telemetry import TelemetryEntry
    from trainshed_client.watching.watch import RecordWatch


class FollowingCalls(QueryCalls):
    """What is followed; see `trainshed_client.Trainshed`."""

    @cached_property
    def watching(self) -> Watches:
        """The watches of this connection."""
        return Watches(self.connection, self._asking)

    def watch_runs(
        self, run_ids: Collection[str] | None = None, *, since_seq: int = 0
    ) -> RecordWatch[RunRecord]:
        """The present record of each of these runs, `PRESENT`, then each newer one as they change; nothing is polled.

        ``async with trainshed.watch_runs() as changes: async for record in changes: ...``. Without ``run_ids`` (full ids) it
        is of every run: of the present the live ones and the last 1,000 that ended. ``since_seq``: of the present only
        what changed after that event of the log. See RecordWatch.
        """
        return self.watching.runs(run_ids, since_seq=since_seq)

    def watch_slots(self) -> RecordWatch[SlotRecord]:
        """The same of every slot; one that is no more yields a `Gone` with the key ``<node>.<index>``."""
        return self.watching.slots()

    def watch_nodes(self) -> RecordWatch[NodeRecord]:
        """The same of every node; one that is no more yields a `Gone`."""
        return self.watching.nodes()

    def watch_queue(self) -> RecordWatch[QueueRecord]:
        """The same of the queue as a whole: how many runs wait, and the first 500 in their order."""
        return self.watching.queue()

    def events(
        self,
        since_seq: int = 0,
        *,
        follow: bool = True,
        run: str | None = None,
        types: Collection[str] = (),
        node: str | None = None,
        log_id: str | None = None,
    ) -> EventStream:
        """Every event after ``since_seq``, each once and in the log's order; with ``follow`` for ever, else to the present end.

        ``async for event in trainshed.events(): ...``. ``run``, ``types`` (as `failed`) and ``node`` narrow it down.
        ``log_id``: the log that you mean, as `health` names it; raises CONFLICT where it is another one, or becomes one.
        """
        from trainshed_client.log_reading.events import EventStream

        connection = self.watching.nats("the event log")
        return EventStream(
            self,
            connection,
            since_seq=since_seq,
            follow=follow,
            run=run,
            types=types,
            node=node,
            log_id=log_id,
        )

    async def wait(self, runs: Collection[str], *, timeout: float | None = None) -> builtins.list[RunRecord]:
        """Wait until every one of these runs has ended; their records, in order.

        Raises TimeoutError after ``timeout`` seconds.
        """
        run_ids = [await self.run_id_of(run) for run in runs]
        async with time_limit(timeout), self.watch_runs(run_ids) as records:
            left = set(run_ids)
            ended: dict[str, RunRecord] = {}
            async for record in records:
                if isinstance(record, RunRecord) and record.status.ended:
                    ended[record.run_id] = record
                    left.discard(record.run_id)
                if not left:
                    break
            return [ended[run_id] for run_id in run_ids]

    def output(
        self,
        run: str,
        *,
        first_attempt: int | None = None,
        begin: Mapping[str, int] | None = None,
        patient: bool = False,
        on_attempt: Called[[int, str]] | None = None,
        on_record: Called[[RunRecord]] | None = None,
        streams: Sequence[str] = ("stdout", "stderr"),
    ) -> RunOutput:
        """A run's output from its first byte, over all attempts from ``first_attempt`` on, until the run ends.

        ``async with trainshed.output(run) as output: async for chunk in output: ...``. Without
        ``first_attempt`` it begins with the latest attempt. ``begin``: the bytes of each stream of that first attempt to pass over. ``patient``: for a run that was just submitted, wait for a projector that does not
        answer yet instead of raising UNAVAILABLE. ``on_attempt`` hears of each attempt (number, node) before its first
        byte, ``on_record`` of every change of the run meanwhile; they are plain functions or coroutine functions. ``streams``:
        some of ``stdout``, ``stderr`` and ``metrics``, the file whose lines `metrics` reads.
        """
        from trainshed_client.follow import RunOutput

        return RunOutput(
            self,
            run,
            first_attempt=first_attempt,
            begin=begin,
            patient=patient,
            on_attempt=on_attempt,
            on_record=on_record,
            streams=streams,
        )

    def telemetry(self, run: str, *, attempt: int | None = None, since: int = 0) -> RunLines[TelemetryEntry]:
        """The telemetry of a run: each JSON object with a ``type`` or an ``event`` that its stdout has on a line.

        From the byte ``since`` of the stdout of ``attempt`` (else of the latest) on, over later attempts, until the run ends;
        what was written before is read from its node, what comes is heard, without a gap and none twice. To go on from a line
        later, ask for its attempt since one byte more than its offset.
        """
        from trainshed_client.follow import RunOutput
        from trainshed_client.run_lines import RunLines
        from trainshed_client.telemetry import TelemetryCutter

        begin = {"stdout": max(0, since - 1)}
        output = RunOutput(self, run, first_attempt=attempt, begin=begin, streams=["stdout"])
        return RunLines(output, TelemetryCutter(since).feed)

    def metrics(self, run: str, *, attempt: int | None = None) -> RunLines[MetricsPoint]:
        """What a run measures: a point a message of its worker's, from ``attempt`` (else the latest) on, until the run ends.

        As `telemetry` it begins with what was written before. `trainshed_client.metrics` joins several attempts by step.
        """
        from trainshed_client.follow import RunOutput
        from trainshed_client.metrics import PointsCutter
        from trainshed_client.run_lines import RunLines

        output = RunOutput(self, run, first_attempt=attempt, streams=["metrics"])
        return RunLines(output, PointsCutter().feed)
