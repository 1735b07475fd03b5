"""Decisions that the own fold has not passed yet: what they hold stays taken until it has.

Owns that overlay (docs/protocol.md rule 1); an acknowledgement releases nothing, only the fold does.
"""

from __future__ import annotations

import msgspec

from events.state import State
from events.types import Dispatched, Event, NodeLost, RunEvent
from services.scheduling.offers import Claims, uuids_of


class Decision(msgspec.Struct):
    """One event that was decided; ``seq`` is 0 until it was acknowledged."""

    event: Event
    seq: int = 0


class InFlight:
    """The decisions of this epoch that are not folded."""

    def __init__(self) -> None:
        self._decisions: list[Decision] = []

    def __len__(self) -> int:
        return len(self._decisions)

    def clear(self) -> None:
        """A new epoch carries no older decision over."""
        self._decisions.clear()

    def add(self, event: Event) -> Decision:
        """Count a decision in, before it is sent."""
        decision = Decision(event)
        self._decisions.append(decision)
        return decision

    def folded(self, position: int) -> None:
        """Let go of what the fold has passed."""
        self._decisions = [d for d in self._decisions if d.seq == 0 or d.seq > position]

    def taken(self, state: State) -> Claims:
        """What these decisions hold."""
        taken = Claims()
        for decision in self._decisions:
            match decision.event:
                case Dispatched() as grant:
                    taken.runs.add(grant.run_id)
                    taken.grants.append(grant)
                    taken.cpus[grant.node] = taken.cpus.get(grant.node, 0) + grant.cpus
                    taken.memory_mb[grant.node] = taken.memory_mb.get(grant.node, 0) + grant.memory_mb
                    taken.slots.update((grant.node, index) for index in grant.slots)
                    node, run = state.nodes.get(grant.node), state.runs.get(grant.run_id)
                    if node is not None:
                        # whole, whatever slots its node has of it since that was decided
                        shares = None if run is not None and run.needs.whole else grant.node
                        taken.uuids |= dict.fromkeys(uuids_of(node, grant.slots), shares)
                case NodeLost(node=name):
                    taken.nodes.add(name)
                case RunEvent(run_id=run_id):
                    taken.runs.add(run_id)
                case _:
                    pass
        return taken
