"""docs/state_machine.md says what evolve does now."""

from __future__ import annotations

from pathlib import Path

from tests.support import state_machine

PAGE = Path(__file__).resolve().parents[2] / "docs" / "state_machine.md"


def test_the_page_of_the_state_machine_is_current() -> None:
    assert PAGE.read_text() == state_machine.page(), (
        "make it again: python -m tests.support.state_machine > docs/state_machine.md"
    )


def test_every_status_but_the_unknown_one_is_on_the_page() -> None:
    befores = {before for before, _, _ in state_machine.transitions()}
    afters = {after for _, after, _ in state_machine.transitions()}
    assert befores == afters == {"PENDING", "DISPATCHING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"}
