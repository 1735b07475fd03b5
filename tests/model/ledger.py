"""What `audit verify` remembers of a log (projections.audit), as a value: so that the search audits every log that it makes.

Owns that value, and how the project's own checks are taken up from it for one event; knows no rule.
"""

from __future__ import annotations

import msgspec

from events.change import Change
from events.codec import StoredEvent
from events.state import Placement
from events.types import Submitted
from projections.audit.invariants import Invariants
from projections.audit.legality import Legality, _Attempt
from projections.audit.violation import Violation

Attempt = tuple[str, int]


class NodeJoin(msgspec.Struct, frozen=True):
    """A node's last NodeJoined that counted."""

    node: str
    joined: int


class Ledger(msgspec.Struct, frozen=True):
    """The fields of Invariants and Legality that an event may change, but for what they count."""

    holders: frozenset[tuple[tuple[str, int], Attempt]] = frozenset()
    on_device: frozenset[tuple[str, Attempt, Placement]] = frozenset()
    joined: frozenset[NodeJoin] = frozenset()
    older: frozenset[Attempt] = frozenset()
    ended: frozenset[int] = frozenset()
    attempts: frozenset[tuple[int, _Attempt]] = frozenset()
    last_end: frozenset[tuple[int, int]] = frozenset()


def audited(ledger: Ledger, stored: StoredEvent, change: Change) -> tuple[Ledger, list[Violation]]:
    """What is remembered after an event, and what is wrong with it. (A run is not called by its config here.)"""
    invariants, legality = Invariants(), Legality()
    invariants._holders = dict(ledger.holders)
    for uuid, attempt, placement in ledger.on_device:
        invariants._on_device.setdefault(uuid, {})[attempt] = placement
    invariants._joined = {one.node: one.joined for one in ledger.joined}
    invariants._older, invariants._ended = set(ledger.older), set(ledger.ended)
    legality._attempts, legality._last_end = dict(ledger.attempts), dict(ledger.last_end)
    invariants.observe(stored, change)
    if not isinstance(stored.event, Submitted):
        legality.observe(stored, change)
    after = Ledger(
        holders=frozenset(invariants._holders.items()),
        on_device=frozenset(
            (uuid, attempt, placement)
            for uuid, holders in invariants._on_device.items()
            for attempt, placement in holders.items()
        ),
        joined=frozenset(NodeJoin(node, seq) for node, seq in invariants._joined.items()),
        older=frozenset(invariants._older),
        ended=frozenset(invariants._ended),
        attempts=frozenset(legality._attempts.items()),
        last_end=frozenset(legality._last_end.items()),
    )
    return after, invariants.at_the_end() + legality.violations
