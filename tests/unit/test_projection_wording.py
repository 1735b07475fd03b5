"""A run's timeline has words for each kind of event about a run."""

from __future__ import annotations

import pytest

from events.change import EndedAttempt, RunChange
from events.run_machine import outcome
from events.state import Active, Pending, Run
from events.types import EVENT_KINDS, AttemptEnd, Submitted
from projections import wording
from tests.support.builders import EXAMPLES, START_NS, Story
from trainshed_client.subjects import Scope

OF_RUNS = sorted(name for name, kind in EVENT_KINDS.items() if kind.scope is Scope.RUN)


def some_run() -> Run:
    story = Story()
    story.submit("r1")
    return story.state.runs["r1"]


@pytest.mark.parametrize("name", OF_RUNS)
def test_each_event_type_about_a_run_has_words(name: str) -> None:
    run = some_run()
    _, event = EXAMPLES[name]
    match event:
        case Submitted():
            text: str | None = wording.submitted(run, event.submitted_by)
        case AttemptEnd():
            active = Active(
                attempt=1, node="n", incarnation="a", slots=(), cpus=1, memory_mb=0, dispatched_seq=2
            )
            ended = EndedAttempt("r1", active, *outcome(event))
            text = wording.end_of_attempt(event, ended, RunChange(run, run), START_NS)
            assert not text.startswith("ended"), "an end without words of its own"
        case _:
            text = wording.of_event(event, RunChange(run, run))
    assert text, f"add words for {name} in projections/wording.py"
    assert isinstance(run.phase, Pending)
