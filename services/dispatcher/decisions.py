"""What the active dispatcher writes next: what is owed, nodes that fell silent, then grants. Pure: no log, no clock.

Owns the queue, the obligations and what is in flight, kept from each change of the fold (docs/protocol.md rules 1, 3).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import msgspec

from events.change import Change
from events.codec import StoredEvent
from events.config import stored_config
from events.state import LOCAL, State
from events.times import nanoseconds, rfc3339
from events.types import Dispatched, Event, NodeLost, View, Why
from services.dispatcher.in_flight import InFlight
from services.dispatcher.obligations import Obligations
from services.scheduling.kept_offers import KeptOffers
from services.scheduling.queue import PendingQueue
from services.scheduling.scheduler import Grant, schedule
from services.scheduling.suspects import next_probe_ns
from trainshed_client.statuses import NodeStatus

BATCH_LIMIT = 200


class Decisions:
    """Give it every change of the fold; ask it what to append; count in what is sent (``in_flight``).

    ``strict`` and ``kept`` are a simulation's: see `plan`.
    """

    def __init__(self, *, strict: bool = False, kept: KeptOffers | None = None) -> None:
        self._strict, self._kept = strict, kept
        self.in_flight = InFlight()
        self._queue = PendingQueue()
        self._owed = Obligations()
        self._now_ns = 0
        self._probe_ns: int | None = None

    def rebuild(self, state: State) -> None:
        """Look at all of a state once, before its changes are noted."""
        for run in state.runs.values():
            self._queue.update(run)
        self._owed.rebuild(state)

    def note(self, state: State, stored: StoredEvent, change: Change) -> None:
        """Take in what an event changed."""
        for run_change in change.runs:
            self._queue.update(run_change.after)
        self._owed.note(state, stored, change)
        if self._kept is not None:
            self._kept.note(change)

    def next_due_ns(self) -> int | None:
        """When the next back-off is over or the next probe of a suspect node is due (ns since 1970); None where neither is
        to come."""
        times = (self._queue.next_due_ns(), self._probe_ns)
        return min((at_ns for at_ns in times if at_ns is not None), default=None)

    def decide(
        self,
        state: State,
        position: int,
        epoch: int,
        now_ns: int,
        silent: Mapping[str, float],
    ) -> list[Event]:
        """What ``state``, folded up to ``position``, and the clock ask for now; rests on nothing that is not folded.

        ``silent`` are the nodes that were silent too long, each with its seconds.
        """
        self.in_flight.folded(position)
        taken = self.in_flight.taken(state)
        owed = (event for run_id, event in self._owed.events(state, epoch) if run_id not in taken.runs)
        lost = (
            NodeLost(node=name, incarnation=node.incarnation, epoch=epoch, silent_s=round(seconds, 3))
            for name, seconds in silent.items()
            if (node := state.nodes.get(name)) is not None
            and node.status is NodeStatus.UP
            and name not in taken.nodes
        )
        decided = list(itertools.islice(itertools.chain(lost, owed), BATCH_LIMIT))
        if decided:
            return decided
        # never backwards: a replay that is given this clock must find the same back-offs over
        self._now_ns = max(self._now_ns, now_ns)
        now = rfc3339(self._now_ns)
        decided_ns = nanoseconds(now)
        self._queue.promote(decided_ns)
        view = View(seq=position, now=now)
        grants = schedule(
            state, self._queue, taken, BATCH_LIMIT, decided_ns, strict=self._strict, kept=self._kept
        )
        none_suspect = self._kept is not None and not self._kept.unlike
        probing = self._queue.queued and not none_suspect
        self._probe_ns = next_probe_ns(state, decided_ns) if probing else None
        return [dispatched(grant, epoch, view) for grant in grants]


def dispatched(grant: Grant, epoch: int, view: View) -> Dispatched:
    """The event of a grant: with all that its node needs to launch."""
    run = grant.run
    launch = stored_config(run.config).launch()
    if run.caller_path is not None:
        launch["caller_path"] = run.caller_path
    if "code" in launch and run.code_folder:
        launch["code_folder"], launch["code_ignore"] = run.code_folder, run.code_ignore
    if run.submitter != LOCAL:
        launch["submitted_by"] = run.submitter
    return Dispatched(
        run_id=run.run_id,
        attempt=run.attempt,
        epoch=epoch,
        node=grant.node,
        incarnation=grant.incarnation,
        slots=grant.slots,
        cpus=run.needs.cpus,
        memory_mb=run.needs.memory_mb,
        launch=msgspec.Raw(msgspec.json.encode(launch)),
        view=view,
        why=Why(free=grant.free, passed_over=grant.passed_over, passed_over_count=grant.passed_over_count),
    )
