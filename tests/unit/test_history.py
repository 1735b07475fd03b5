"""An ended run's past: read back from its own events and folded by the one evolve, only where it is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import cast

import pytest

from events.codec import StoredEvent
from events.evolve import ended_runs_needed
from events.history import LogHistory, fold, last_value
from events.log import EventLog
from events.state import Ended, Run, State
from events.types import RetryRequested, Submitted
from tests.support.builders import Story, config, stored
from trainshed_client.statuses import FailureReason, RunStatus
from trainshed_client.subjects import Role


class Remembered:
    """A History that was told what to say, and remembers what it was asked."""

    def __init__(self, runs: dict[str, Run]) -> None:
        self._runs = runs
        self.asked: list[tuple[str, int]] = []

    async def run_before(self, run_id: str, seq: int) -> Run | None:
        self.asked.append((run_id, seq))
        return self._runs.get(run_id)


def ended() -> Story:
    story = Story()
    story.elect()
    story.join()
    story.submit(retry={"max_attempts": 2, "backoff_s": 0})
    story.dispatch(slots=(0,))
    story.start()
    story.fail()
    story.dispatch(attempt=2, slots=(0,))
    story.complete(attempt=2)
    return story


def test_the_last_value_of_a_run_is_what_a_full_fold_had() -> None:
    story = ended()
    assert last_value("r1", story.log) == story.run()
    assert last_value("r9", story.log) is None


def test_a_retry_within_the_past_is_followed() -> None:
    story = ended()
    story.retry(attempt=2)
    story.dispatch(attempt=3)
    story.fail(attempt=3, reason=FailureReason.SIGNAL)
    assert last_value("r1", story.log) == story.run()
    assert story.run().attempt == 4, "queued again: a retry counts tries anew"


class Recorded:
    """An event log that was told what it holds, and remembers what was read of it."""

    def __init__(self, log: list[StoredEvent]) -> None:
        self._log = log
        self.read_seqs: list[int] = []

    async def read(self, filters: Iterable[str], *, end_seq: int) -> AsyncIterator[StoredEvent]:
        """As EventLog's."""
        prefixes = tuple(one.removesuffix(">") for one in filters)
        for one in self._log:
            if one.seq <= end_seq and str(one.subject).startswith(prefixes):
                self.read_seqs.append(one.seq)
                yield one


async def test_of_nodes_only_those_are_read_that_the_run_was_on() -> None:
    story = Story()
    story.elect()
    for number in range(50):
        story.join(f"other{number}")
    story.join("gpu01")
    story.join("gpu02")
    submitted = story.submit()
    story.dispatch(node="gpu02")
    story.lose("gpu02")
    story.remove("gpu02")
    end = story.seq
    story.retry()
    log = Recorded(story.log)
    run = await LogHistory(cast("EventLog", log)).run_before("r1", end + 1)
    assert run is not None and isinstance(run.phase, Ended)
    assert run.phase.reason is FailureReason.NODE_LOST
    assert sorted(log.read_seqs) == [1, submitted - 1, *range(submitted, end + 1)]
    assert await LogHistory(cast("EventLog", Recorded(story.log))).run_before("r9", end) is None


async def test_a_retry_of_an_ended_run_asks_for_its_past() -> None:
    story = ended()
    history = Remembered({"r1": story.run()})
    one = stored(99, Role.GATEWAY, RetryRequested(run_id="r1", attempt=2))
    change = await fold(story.state, one, history)
    assert history.asked == [("r1", 99)]
    assert change.runs[0].after.status is RunStatus.PENDING


async def test_a_retry_of_a_run_that_never_was_changes_nothing() -> None:
    story = ended()
    one = stored(99, Role.GATEWAY, RetryRequested(run_id="r9", attempt=1))
    assert not (await fold(story.state, one, Remembered({}))).runs


@pytest.mark.parametrize("live", [True, False])
async def test_only_ended_dependencies_are_asked_for(live: bool) -> None:
    story = ended()
    if live:
        story.retry(attempt=2)
    history = Remembered({"r1": story.run()})
    event = Submitted(run_id="r2", config=config(after=["r1"]), digest="")
    await fold(story.state, stored(99, Role.GATEWAY, event), history)
    assert history.asked == ([] if live else [("r1", 99)])
    phase = story.state.runs["r2"].phase
    assert getattr(phase, "waiting_for", None) == (frozenset({"r1"}) if live else frozenset())


def test_nothing_else_asks_for_a_past() -> None:
    story = ended()
    for one in story.log:
        assert ended_runs_needed(State(), one) == ()
    broken = stored(99, Role.GATEWAY, Submitted(run_id="r2", config=config(after=5), digest=""))
    assert ended_runs_needed(State(), broken) == ()
    assert isinstance(broken, StoredEvent)
