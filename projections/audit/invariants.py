"""What must hold at every sequence of a log: one holder a slot (I2), no end undone (I1), nothing acknowledged missing (I6).

Owns these checks, event by event while a log is folded; reads no log and no table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from events.change import Change
from events.codec import StoredEvent
from events.state import Active, Ended, Placement
from events.types import Dispatched, NodeJoined, RetryRequested, Started, Submitted
from projections.audit.acknowledged import SubmitAnswer, UnmetAnswers
from projections.audit.violation import MAX_VIOLATIONS, Violation


class Invariants:
    """What must hold at every sequence: observed event by event while replaying."""

    def __init__(self, acks: Iterable[SubmitAnswer] = ()) -> None:
        self._violations: list[Violation] = []
        self._unmet = UnmetAnswers(acks)
        self._holders: dict[tuple[str, int], tuple[str, int]] = {}
        self._on_device: dict[str, dict[tuple[str, int], Placement]] = {}
        self._joined: dict[str, int] = {}
        self._older: set[tuple[str, int]] = set()
        self._ended: set[int] = set()
        """Runs, by their hash: very many are to fit."""

    def observe(self, stored: StoredEvent, change: Change) -> None:
        """Check one event and what it did."""
        self._unmet.observe(stored)
        for end in change.ended:
            for slot in _slots_of(end.attempt):
                if self._holders.get(slot) == (end.run_id, end.attempt.attempt):
                    del self._holders[slot]
            for placement in end.attempt.placements:
                for uuid in placement.uuids:
                    self._on_device.get(uuid, {}).pop((end.run_id, end.attempt.attempt), None)
            self._older.discard((end.run_id, end.attempt.attempt))
        if isinstance(stored.event, NodeJoined) and change.nodes:
            self._joined[stored.subject.node] = stored.seq
        if isinstance(stored.event, Dispatched) and not change.runs:
            self._ignored(stored.seq, stored.event)
        for run_change in change.runs:
            run, phase = run_change.after, run_change.after.phase
            if isinstance(phase, Active) and isinstance(stored.event, Dispatched):
                self._granted(stored.seq, run.run_id, phase, stored.event.view.seq)
            elif (
                isinstance(phase, Active)
                and isinstance(stored.event, Started)
                and (run.run_id, phase.attempt) in self._older
            ):
                self._granted_devices(stored.seq, run.run_id, phase)
            if isinstance(phase, Ended):
                self._ended.add(hash(run.run_id))
            elif hash(run.run_id) in self._ended:
                self._ended.discard(hash(run.run_id))
                if not isinstance(stored.event, RetryRequested):
                    what = "submitted again" if isinstance(stored.event, Submitted) else stored.subject.type
                    self._violated(
                        "I1", stored.seq, f"run {run.run_id} had ended and was {what} without a retry"
                    )

    def at_the_end(self) -> list[Violation]:
        """All that was found, the log having been observed whole."""
        for seq, run_id in self._unmet.missing():
            self._violated("I6", seq, f"run {run_id} was acknowledged and its Submitted is not there")
        return self._violations

    def _granted(self, seq: int, run_id: str, phase: Active, view_seq: int) -> None:
        """A slot is held from its grant on; a device that was chosen by what its node had before its last join only once a
        worker is started there: its index may have named another device, and the agent refuses it (protocol rule 8)."""
        twice = set[tuple[str, int]]()
        for slot in _slots_of(phase):
            holder = self._holders.get(slot)
            if holder is not None:
                twice.add(holder)
                text = (
                    f"slot {slot[0]}.{slot[1]} was granted to run {run_id} attempt {phase.attempt} "
                    f"while run {holder[0]} attempt {holder[1]} held it"
                )
                self._violated("I2", seq, text)
            self._holders[slot] = (run_id, phase.attempt)
        if any(view_seq < self._joined.get(placement.node, 0) for placement in phase.placements):
            self._older.add((run_id, phase.attempt))
        else:
            self._granted_devices(seq, run_id, phase, twice)

    def _ignored(self, seq: int, event: Dispatched) -> None:
        """A grant that does not count takes no slot; its node may act on it all the same."""
        for index in event.slots:
            holder = self._holders.get((event.node, index))
            if holder is not None and holder != (event.run_id, event.attempt):
                text = (
                    f"slot {event.node}.{index} was granted to run {event.run_id} attempt {event.attempt}, which does "
                    f"not count, while run {holder[0]} attempt {holder[1]} held it"
                )
                self._violated("I2", seq, text)

    def _granted_devices(
        self, seq: int, run_id: str, phase: Active, twice: Collection[tuple[str, int]] = ()
    ) -> None:
        for placement in phase.placements:
            for uuid in placement.uuids:
                self._granted_device(seq, uuid, (run_id, phase.attempt), placement, twice)

    def _granted_device(
        self,
        seq: int,
        uuid: str,
        ref: tuple[str, int],
        placement: Placement,
        twice: Collection[tuple[str, int]],
    ) -> None:
        """Several hold a device only where all of them share it, on one node; who of ``twice`` is known by a slot."""
        holders = self._on_device.setdefault(uuid, {})
        for other, held in holders.items():
            shared = held.node == placement.node and uuid in held.shared and uuid in placement.shared
            if not shared and other not in twice:
                text = (
                    f"device {uuid} was granted to run {ref[0]} attempt {ref[1]} on {placement.node} "
                    f"while run {other[0]} attempt {other[1]} held it on {held.node} and did not share it"
                )
                self._violated("I2", seq, text)
        holders[ref] = placement

    def _violated(self, invariant: str, seq: int, message: str) -> None:
        if len(self._violations) < MAX_VIOLATIONS:
            self._violations.append(Violation(invariant, seq, message))


def _slots_of(active: Active) -> list[tuple[str, int]]:
    return [(placement.node, index) for placement in active.placements for index in placement.slots]
