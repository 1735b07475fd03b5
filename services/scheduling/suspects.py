"""Suspect nodes: when one run is granted there, to see; and the nodes that a run avoids (docs/protocol.md rule 19). Pure.

Owns the steps of these probes; that a node is suspect is the state's to say. Knows no queue, log or clock.
"""

from __future__ import annotations

from collections.abc import Iterable

from events.config import Needs
from events.resources import could_hold
from events.run_machine import SECOND_NS
from events.state import Node, State
from services.scheduling.offers import Claims, Offer

FIRST_PROBE_S = 60
LAST_PROBE_S = 30 * 60


def probe_due_ns(node: Node) -> int:
    """From when on (ns since 1970) a suspect node is granted one run as a probe: 1 min after its last failed start, and twice
    as long after each probe that failed, 30 min at most."""
    last = node.failed_starts[-1]
    return last.at_ns + min(FIRST_PROBE_S << min(last.probes, 10), LAST_PROBE_S) * SECOND_NS


def next_probe_ns(state: State, now_ns: int) -> int | None:
    """When the next probe of a node that takes work is due, after now; None where none is to come."""
    due = (probe_due_ns(node) for node in state.nodes.values() if node.suspect and node.takes_work)
    return min((at_ns for at_ns in due if at_ns > now_ns), default=None)


def under_way(state: State, taken: Claims, name: str) -> bool:
    """Whether a run was granted to this node that has neither started nor ended yet: a probe, or what came before."""
    return any(not active.started for _, active, _ in state.attempts_of(name)) or any(
        grant.node == name for grant in taken.grants
    )


def probes_of(state: State, taken: Claims, offers: Iterable[Offer], now_ns: int) -> list[Offer]:
    """The suspect nodes that may be granted one run now."""
    return [
        o
        for o in offers
        if o.node.suspect and probe_due_ns(o.node) <= now_ns and not under_way(state, taken, o.node.name)
    ]


def avoided(state: State, needs: Needs, tried: tuple[str, ...]) -> frozenset[str]:
    """Of the nodes where a run could not be started those that it is not granted: all of them while another node that takes
    work, and is not suspect, could hold it when empty; else none."""
    if tried and any(
        node.takes_work
        and not node.suspect
        and node.name not in tried
        and could_hold(node, needs, unhealthy_too=False)
        for node in state.nodes.values()
    ):
        return frozenset(tried)
    return frozenset()


def open_to(offers: Iterable[Offer], avoid: frozenset[str]) -> Iterable[Offer]:
    """The offers less those of nodes that a run avoids."""
    return [o for o in offers if o.node.name not in avoid] if avoid else offers
