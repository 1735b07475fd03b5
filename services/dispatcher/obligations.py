"""What the log obliges the dispatcher to write, beside grants: stops, and ends that no agent will append.

Owns the rules "decisions follow from state, never from an event's arrival" (docs/protocol.md rules 3, 8); pure.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from events.change import Change
from events.codec import StoredEvent
from events.run_machine import verdict_on
from events.state import Active, Ended, Node, Pending, Run, State
from events.types import Cancelled, Elected, Event, Failed, NodeEvent, Stopping
from trainshed_client.statuses import FailureReason


def owed_to_run(state: State, run: Run, epoch: int) -> Event | None:
    """The event that this run's state asks for; None where it asks for none."""
    match run.phase:
        case Pending(attempt=attempt, failed_dependency=failed):
            if run.cancel_requested:
                return Cancelled(run_id=run.run_id, attempt=attempt, reason="cancel", epoch=epoch)
            if failed is not None:
                return Cancelled(
                    run_id=run.run_id,
                    attempt=attempt,
                    reason=f"run {failed} did not complete",
                    failure_reason=FailureReason.DEPENDENCY_FAILED,
                    epoch=epoch,
                )
            return None
        case Active() as active:
            verdict = verdict_on(state, run, active)
            if verdict is not None:
                return Failed(run_id=run.run_id, attempt=active.attempt, failure_reason=verdict, epoch=epoch)
            running = next((one for one in active.placements if not one.stopping), None)
            if not run.cancel_requested or running is None:
                return None
            return Stopping(
                run_id=run.run_id,
                attempt=active.attempt,
                epoch=epoch,
                node=running.node,
                incarnation=running.incarnation,
                reason="cancel",
            )
        case Ended():
            return None


def owed_to_node(node: Node, epoch: int) -> list[Event]:
    """A Stopping (ended) for each attempt that the node listed and the log has ended."""
    return [
        Stopping(
            run_id=ref.run_id,
            attempt=ref.attempt,
            epoch=epoch,
            node=node.name,
            incarnation=node.incarnation,
            reason="ended",
        )
        for ref in sorted(node.to_stop, key=msgspec.structs.astuple)
    ]


class Obligations:
    """Which runs and nodes are owed something: kept from each change, so that asking costs what is owed."""

    def __init__(self) -> None:
        self._runs: dict[str, None] = {}  # in the order in which the debts arose
        self._nodes: dict[str, None] = {}

    def rebuild(self, state: State) -> None:
        """Look at everything once, at the start."""
        self._runs = {
            run.run_id: None for run in state.runs.values() if owed_to_run(state, run, 0) is not None
        }
        self._nodes = {node.name: None for node in state.nodes.values() if node.to_stop}

    def note(self, state: State, stored: StoredEvent, change: Change) -> None:
        """Take in what an event changed. An election may bring rules by which more is owed."""
        if isinstance(stored.event, Elected):
            self.rebuild(state)
            return
        for run_change in change.runs:
            self._look(state, run_change.after.run_id)
        for name in change.nodes:
            node = state.nodes.get(name)
            if node is not None and node.to_stop:
                self._nodes[name] = None
            else:
                self._nodes.pop(name, None)
            if isinstance(stored.event, NodeEvent):
                for run, _, _ in state.attempts_of(name):
                    self._look(state, run.run_id)

    def events(self, state: State, epoch: int) -> Iterator[tuple[str, Event]]:
        """What is owed now, oldest debt first, each with the run that it is about."""
        for run_id in self._runs:
            event = owed_to_run(state, state.runs[run_id], epoch)
            if event is not None:
                yield run_id, event
        for name in self._nodes:
            for event in owed_to_node(state.nodes[name], epoch):
                assert isinstance(event, Stopping)
                yield event.run_id, event

    def _look(self, state: State, run_id: str) -> None:
        run = state.runs.get(run_id)
        if run is not None and owed_to_run(state, run, 0) is not None:
            self._runs[run_id] = None
        else:
            self._runs.pop(run_id, None)
