"""The read model's core: folds each event and has it change the rows of runs, attempts, slots, nodes and timeline.

Owns the order in which that goes; knows no SQL, clock or NATS, and no column (`runs.py`, `nodes.py`).

``seq`` of a row is the sequence of the event that last changed one of its columns (heartbeat columns apart): an event
that changes none leaves it.
"""

from __future__ import annotations

from collections.abc import Mapping

from events.change import Change
from events.codec import StoredEvent, Unreadable
from events.evolve import ended_runs_needed, evolve
from events.state import NO_HISTORY, Run, Snapshot, State, restore
from events.types import ArtifactsHashed, AttemptEnd, Dispatched, NodeEvent, Started
from projections.read_model.nodes import node_changed, set_used, use_changed
from projections.read_model.runs import artifacts_hashed, late, runs_changed
from projections.read_model.times import stored_time
from projections.read_model.working_set import Batch, Changes, CommittedRows, LiveSet, Quarantined, WorkingSet
from trainshed_client.statuses import AtFault, FailureReason

# up to Python 3.11 an enum looks its members up slowly, and a union is made anew wherever it stands
_MAY_BE_UNKNOWN = ("failure_reason", "at_fault")
_UNKNOWN = (FailureReason.UNSPECIFIED, AtFault.UNSPECIFIED)
_MOVING = (Dispatched, Started)


class Projection:
    """The fold and the rows of what is live. Feed it in order: ``begin``, ``apply`` each, ``finish``.

    Rows depend on the log alone, never on how it was cut into batches.
    """

    def __init__(
        self, committed: CommittedRows, state: State | None = None, state_hash: int = 0, seq: int = 0
    ) -> None:
        self.working = WorkingSet(committed, state or State(), state_hash, seq)
        self.history: Mapping[str, Run] = NO_HISTORY
        """The ended runs that the last event was folded with, as they were before it."""

    @classmethod
    def restored(cls, committed: CommittedRows, live: LiveSet) -> Projection:
        """One that goes on from where another stood."""
        # by the last change of their rows, so that an index that depends on the order is made as it was
        runs = sorted(live.runs, key=lambda pair: pair[0].seq)
        state = restore(
            Snapshot(
                seq=live.seq,
                epoch=live.epoch,
                epoch_of=live.epoch_of,
                rules=live.rules,
                runs=tuple(run for _, run in runs),
                nodes=tuple(node for _, node in live.nodes),
            )
        )
        projection = cls(committed, state, live.state_hash, live.seq)
        projection.working.restore(live)
        return projection

    def begin(self, run_ids: set[str]) -> None:
        """Load the ended runs that a batch speaks of, in one go."""
        self.working.load(run_ids - self.working.runs.keys())

    def apply(self, stored: StoredEvent, body: bytes) -> Change:
        """Fold one event into the state and the rows. Total: no event stops it."""
        working, event = self.working, stored.event
        working.seq = stored.seq
        state, needed = working.state, ended_runs_needed(working.state, stored)
        self.history = working.history(needed) if needed else NO_HISTORY
        change = evolve(state, stored, self.history)
        if isinstance(event, AttemptEnd):
            if found := [name for name in _MAY_BE_UNKNOWN if getattr(event, name, None) in _UNKNOWN]:
                self._set_aside(stored, f"an unknown {' and '.join(found)}, taken as UNSPECIFIED", body)
            if change.late is not None:
                late(working, stored, event)
        elif isinstance(event, ArtifactsHashed):
            artifacts_hashed(working, stored, event)
        elif change.unreadable is not None:
            self._set_aside(stored, change.unreadable, body)
        if change.runs:
            runs_changed(working, stored, event, change)
        if change.nodes:
            if isinstance(event, NodeEvent):
                node_changed(working, stored, event.node)
            else:
                moves = bool(change.ended) or isinstance(event, _MOVING)
                for name in change.nodes:
                    use_changed(working, name, stored.stored_ns if moves else None)
        return change

    def quarantine(self, message: Unreadable) -> None:
        """Keep a message aside that is no event we know."""
        self.working.seq = message.seq
        self.working.quarantine.append(
            Quarantined(
                message.seq, stored_time(message.stored_ns), message.subject, message.reason, message.body
            )
        )

    def sum_up(self) -> Changes:
        """Bring the rows and the state hash up to the last event, be it in the middle of a batch: what changed since the last
        time."""
        set_used(self.working)
        return self.working.sum_up()

    def finish(self) -> Batch:
        """The rows that changed since ``begin``; what is no longer live is let go of."""
        self.sum_up()
        return self.working.take_batch()

    def _set_aside(self, stored: StoredEvent, reason: str, body: bytes) -> None:
        self.working.quarantine.append(
            Quarantined(stored.seq, stored_time(stored.stored_ns), str(stored.subject), reason, body)
        )
