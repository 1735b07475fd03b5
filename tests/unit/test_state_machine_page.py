"""docs/state_machine.md says what evolve does now."""

from __future__ import annotations

from pathlib import Path

from events.types import EVENT_KINDS
from tests.support import state_machine
from trainshed_client.subjects import Scope

PAGE = Path(__file__).resolve().parents[2] / "docs" / "state_machine.md"


def test_the_page_of_the_state_machine_is_current() -> None:
    assert PAGE.read_text() == state_machine.page(), (
        "make it again: python -m tests.support.state_machine > docs/state_machine.md"
    )


def test_every_status_but_the_unknown_one_is_on_the_page() -> None:
    befores = {before for before, _, _ in state_machine.transitions()}
    afters = {after for _, after, _ in state_machine.transitions()}
    assert befores == afters == {"PENDING", "DISPATCHING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"}


def test_every_event_of_a_run_is_tried() -> None:
    of_runs = {kind.type.__name__ for kind in EVENT_KINDS.values() if kind.scope is Scope.RUN}
    tried = " ".join(["Submitted", *state_machine.EVENTS])
    assert {name for name in of_runs if name not in tried} == set()
