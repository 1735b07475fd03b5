"""The blocking face of the client: every call of the asynchronous one, each waited for.

Owns nothing. Generated from that face by `make sync-face`: do not edit; a test holds the two together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainshed_client.connection import CALL_TIMEOUT_S
from trainshed_client.sync_base import Iteration, RunIteration, SyncConnection

if TYPE_CHECKING:
    import builtins
    import os
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from trainshed_client.answers import (
        Acknowledged,
        ArtifactFile,
        Check,
        Explanation,
        MomentAnswer,
        NodeAnswer,
        NodePage,
        RunPage,
        RunView,
        SlotPage,
        Submission,
    )
    from trainshed_client.callbacks import Called
    from trainshed_client.fold_progress import FoldProgress
    from trainshed_client.log_reading.log_event import LogEvent
    from trainshed_client.metrics import MetricsPoint
    from trainshed_client.output_range import OutputChunk
    from trainshed_client.provenance import Provenance
    from trainshed_client.prune import PruneReport
    from trainshed_client.records import NodeRecord, QueuedRunRecord, QueueRecord, RunRecord, SlotRecord
    from trainshed_client.statuses import RunStatus
    from trainshed_client.telemetry import TelemetryEntry
    from trainshed_client.watching.newest import Gone, PresentMarker


class SyncTrainshed(SyncConnection):
    """A connection to a stack for code that blocks: ``with Trainshed.sync() as trainshed: ...``.

    Every method does what the one of that name of `Trainshed` does, and waits for it. It is for any number of threads, also
    inside a running event loop, as in Jupyter; callbacks are called on its own thread.
    """

    def submit(
        self,
        config: Mapping[str, object],
        *,
        caller_path: str | None = None,
        provenance: Provenance | None = None,
    ) -> Submission:
        """Submit a run config. The same config is the same run: then ``created`` is false and nothing starts.

        ``caller_path`` is the PATH for the worker, where its ``environment`` has none. ``provenance`` is where its ``code``
        was read: without it a node looks in its ``working_dir``. Neither makes another run. What JSON does not have is
        refused by its path, never turned into something else (docs/contracts/run-config.md).
        """
        return self._portal.run(
            lambda: self._trainshed.submit(config, caller_path=caller_path, provenance=provenance)
        )

    def submit_many(
        self,
        configs: Sequence[Mapping[str, object]],
        *,
        caller_path: str | None = None,
        provenance: Provenance | None = None,
    ) -> builtins.list[Submission]:
        """Submit all or none (1,000 runs and 1 MB at most), with one answer a config in order."""
        return self._portal.run(
            lambda: self._trainshed.submit_many(configs, caller_path=caller_path, provenance=provenance)
        )

    def check(self, config: Mapping[str, object]) -> Check:
        """What submitting this config would do; nothing is appended. Raises as `submit` would."""
        return self._portal.run(lambda: self._trainshed.check(config))

    def cancel(self, run: str, *, reason: str | None = None) -> Acknowledged:
        """Ask for a run's end. One that has ended answers with its status, and nothing is appended."""
        return self._portal.run(lambda: self._trainshed.cancel(run, reason=reason))

    def retry(self, run: str, *, reason: str | None = None) -> Acknowledged:
        """Ask for a new attempt of an ended run."""
        return self._portal.run(lambda: self._trainshed.retry(run, reason=reason))

    def drain(self, node: str, *, reason: str | None = None) -> NodeAnswer:
        """Grant the node nothing more; what runs there goes on."""
        return self._portal.run(lambda: self._trainshed.drain(node, reason=reason))

    def resume(self, node: str, *, reason: str | None = None) -> NodeAnswer:
        """Grant the node runs again."""
        return self._portal.run(lambda: self._trainshed.resume(node, reason=reason))

    def remove_node(self, node: str, *, reason: str | None = None) -> NodeAnswer:
        """Say that the machine is off: its attempts end. Refused while the node is neither lost nor left."""
        return self._portal.run(lambda: self._trainshed.remove_node(node, reason=reason))

    def watch_runs(
        self, run_ids: Collection[str] | None = None, *, since_seq: int = 0
    ) -> Iteration[RunRecord | Gone | PresentMarker]:
        """The present record of each of these runs, `PRESENT`, then each newer one as they change; nothing is polled.

        ``with trainshed.watch_runs() as changes: for record in changes: ...``. Without ``run_ids`` (full ids) it
        is of every run: of the present the live ones and the last 1,000 that ended. ``since_seq``: of the present only
        what changed after that event of the log. See RecordWatch.
        """
        return Iteration(self._portal, lambda: self._trainshed.watch_runs(run_ids, since_seq=since_seq))

    def watch_slots(self) -> Iteration[SlotRecord | Gone | PresentMarker]:
        """The same of every slot; one that is no more yields a `Gone` with the key ``<node>.<index>``."""
        return Iteration(self._portal, lambda: self._trainshed.watch_slots())

    def watch_nodes(self) -> Iteration[NodeRecord | Gone | PresentMarker]:
        """The same of every node; one that is no more yields a `Gone`."""
        return Iteration(self._portal, lambda: self._trainshed.watch_nodes())

    def watch_queue(self) -> Iteration[QueueRecord | Gone | PresentMarker]:
        """The same of the queue as a whole: how many runs wait, and the first 500 in their order."""
        return Iteration(self._portal, lambda: self._trainshed.watch_queue())

    def events(
        self,
        since_seq: int = 0,
        *,
        follow: bool = True,
        run: str | None = None,
        types: Collection[str] = (),
        node: str | None = None,
        log_id: str | None = None,
    ) -> Iteration[LogEvent]:
        """Every event after ``since_seq``, each once and in the log's order; with ``follow`` for ever, else to the present end.

        ``for event in trainshed.events(): ...``. ``run``, ``types`` (as `failed`) and ``node`` narrow it down.
        ``log_id``: the log that you mean, as `health` names it; raises CONFLICT where it is another one, or becomes one.
        """
        return Iteration(
            self._portal,
            lambda: self._trainshed.events(
                since_seq, follow=follow, run=run, types=types, node=node, log_id=log_id
            ),
        )

    def wait(self, runs: Collection[str], *, timeout: float | None = None) -> builtins.list[RunRecord]:
        """Wait until every one of these runs has ended; their records, in order.

        Raises TimeoutError after ``timeout`` seconds.
        """
        return self._portal.run(lambda: self._trainshed.wait(runs, timeout=timeout))

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
    ) -> RunIteration[OutputChunk]:
        """A run's output from its first byte, over all attempts from ``first_attempt`` on, until the run ends.

        ``with trainshed.output(run) as output: for chunk in output: ...``. Without
        ``first_attempt`` it begins with the latest attempt. ``begin``: the bytes of each stream of that first attempt to pass over. ``patient``: for a run that was just submitted, wait for a projector that does not
        answer yet instead of raising UNAVAILABLE. ``on_attempt`` hears of each attempt (number, node) before its first
        byte, ``on_record`` of every change of the run meanwhile; they are plain functions or coroutine functions. ``streams``:
        some of ``stdout``, ``stderr`` and ``metrics``, the file whose lines `metrics` reads.
        """
        return RunIteration(
            self._portal,
            lambda: self._trainshed.output(
                run,
                first_attempt=first_attempt,
                begin=begin,
                patient=patient,
                on_attempt=on_attempt,
                on_record=on_record,
                streams=streams,
            ),
        )

    def telemetry(
        self, run: str, *, attempt: int | None = None, since: int = 0
    ) -> RunIteration[TelemetryEntry]:
        """The telemetry of a run: each JSON object with a ``type`` or an ``event`` that its stdout has on a line.

        From the byte ``since`` of the stdout of ``attempt`` (else of the latest) on, over later attempts, until the run ends;
        what was written before is read from its node, what comes is heard, without a gap and none twice. To go on from a line
        later, ask for its attempt since one byte more than its offset.
        """
        return RunIteration(
            self._portal, lambda: self._trainshed.telemetry(run, attempt=attempt, since=since)
        )

    def metrics(self, run: str, *, attempt: int | None = None) -> RunIteration[MetricsPoint]:
        """What a run measures: a point a message of its worker's, from ``attempt`` (else the latest) on, until the run ends.

        As `telemetry` it begins with what was written before. `trainshed_client.metrics` joins several attempts by step.
        """
        return RunIteration(self._portal, lambda: self._trainshed.metrics(run, attempt=attempt))

    def artifacts(self, run: str, *, attempt: int | None = None) -> builtins.list[ArtifactFile]:
        """What is in the run's artifacts/ where ``attempt`` (else the latest) ran, with hashes as far as they are known.

        Raises NOT_FOUND where it has no such attempt, UNAVAILABLE where that node does not answer.
        """
        return self._portal.run(lambda: self._trainshed.artifacts(run, attempt=attempt))

    def artifact_pieces(
        self, run: str, path: str, *, attempt: int | None = None, checked: bool = True
    ) -> Iteration[bytes]:
        """The bytes of one of these files, piece by piece; ``path`` as `artifacts` lists it.

        Raises CONFLICT at the end where it was written to meanwhile, or (``checked``) is not what the run left: what was
        handed out is then no file. NOT_FOUND and INVALID where there is no such file, or may be none.
        """
        return Iteration(
            self._portal, lambda: self._trainshed.artifact_pieces(run, path, attempt=attempt, checked=checked)
        )

    def read_artifact(
        self, run: str, path: str, *, attempt: int | None = None, checked: bool = True
    ) -> bytes:
        """The content of one of these files. Raises as `artifact_pieces`."""
        return self._portal.run(
            lambda: self._trainshed.read_artifact(run, path, attempt=attempt, checked=checked)
        )

    def fetch_artifact(
        self,
        run: str,
        path: str,
        to: str | os.PathLike[str],
        *,
        attempt: int | None = None,
        checked: bool = True,
    ) -> Path:
        """Write one of these files to ``to``, whole or not at all; into it where that is a folder. Returns where it is.

        Raises as `artifact_pieces`, and OSError where it cannot be written.
        """
        return self._portal.run(
            lambda: self._trainshed.fetch_artifact(run, path, to, attempt=attempt, checked=checked)
        )

    def prune(self, *, ended_before: datetime, dry_run: bool = False) -> PruneReport:
        """Delete the folders of runs that ended before a time (aware), with output and artifacts, on every node that is up.

        The events stay, so do the runs in every list. What runs, waits or was tried again since is kept. ``dry_run``:
        count, and delete nothing. A node that cannot be asked is named with its error; it is safe to ask again.
        """
        return self._portal.run(lambda: self._trainshed.prune(ended_before=ended_before, dry_run=dry_run))

    def moment(self, *, seq: int | None = None, time: datetime | None = None) -> MomentAnswer:
        """An event by its sequence, or the last one stored at or before a time (an aware one)."""
        return self._portal.run(lambda: self._trainshed.moment(seq=seq, time=time))

    def get(self, run: str, *, at: int | None = None) -> RunView:
        """Everything about one run. Of several of a name: the newest."""
        return self._portal.run(lambda: self._trainshed.get(run, at=at))

    def explain(self, run: str, *, at: int | None = None) -> Explanation:
        """Why a run waits, or what happened to it last. Of several of a name: the newest."""
        return self._portal.run(lambda: self._trainshed.explain(run, at=at))

    def run_id_of(self, run: str, *, at: int | None = None) -> str:
        """The id of the run that is named, which is not looked for where it is one. Raises as `resolve`."""
        return self._portal.run(lambda: self._trainshed.run_id_of(run, at=at))

    def resolve(self, run: str, *, only: bool = False, at: int | None = None) -> QueuedRunRecord:
        """The record of the run that an id, a name, what `ls` shows as one, or a unique prefix of these means.

        A name that several runs bear means the newest, or with ``only`` none of them. Raises NOT_FOUND,
        CONFLICT where several are meant, or UNAVAILABLE where the read side does not know yet.
        """
        return self._portal.run(lambda: self._trainshed.resolve(run, only=only, at=at))

    def list(
        self,
        *,
        status: Collection[RunStatus | str] = (),
        labels: Mapping[str, str] | None = None,
        name: str | None = None,
        live: bool = False,
        limit: int | None = None,
        at: int | None = None,
    ) -> Iteration[QueuedRunRecord]:
        """Runs, newest first, read page by page while you iterate."""
        return Iteration(
            self._portal,
            lambda: self._trainshed.list(
                status=status, labels=labels, name=name, live=live, limit=limit, at=at
            ),
        )

    def list_pages(
        self,
        *,
        status: Collection[RunStatus | str] = (),
        labels: Mapping[str, str] | None = None,
        name: str | None = None,
        live: bool = False,
        ended: bool = False,
        ended_before: datetime | None = None,
        limit: int | None = None,
        at: int | None = None,
    ) -> Iteration[RunPage]:
        """The same, a page at a time; the first page's ``seq`` and ``total`` are the listing's.

        ``ended``: those that ended last, the last first; there is one page of them. ``ended_before``: only those that
        had ended by that time.
        """
        return Iteration(
            self._portal,
            lambda: self._trainshed.list_pages(
                status=status,
                labels=labels,
                name=name,
                live=live,
                ended=ended,
                ended_before=ended_before,
                limit=limit,
                at=at,
            ),
        )

    def slots(self, *, at: int | None = None) -> SlotPage:
        """Every slot and who holds it."""
        return self._portal.run(lambda: self._trainshed.slots(at=at))

    def nodes(self, *, at: int | None = None) -> NodePage:
        """Every node; those that left or were removed only while they have attempts."""
        return self._portal.run(lambda: self._trainshed.nodes(at=at))

    def health(self) -> dict[str, object]:
        """What the read side says of itself."""
        return self._portal.run(lambda: self._trainshed.health())

    def behind(self) -> FoldProgress | None:
        """How far the read side is; None where it has all that was acknowledged before."""
        return self._portal.run(lambda: self._trainshed.behind())

    def call(self, call: str, request: object, *, timeout: float = CALL_TIMEOUT_S) -> bytes:
        """One call of the API (``run.submit`` and so on); its JSON answer undecoded.

        A gateway that is starting is asked again for as long as ``timeout``; for what is patient see `connect`.
        """
        return self._portal.run(lambda: self._trainshed.call(call, request, timeout=timeout))
