"""Who is blamed where no worker was started: nodes become suspect, runs go elsewhere (docs/protocol.md rule 19)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import cast

import pytest

from events.codec import StoredEvent
from events.history import LogHistory
from events.log import EventLog
from events.state import Ended, Pending
from events.types import SlotUnhealthy
from tests.support.builders import Story
from trainshed_client.statuses import AtFault, FailureReason, RunStatus
from trainshed_client.subjects import Role

NOT_STARTED, SPAWN_ERROR = FailureReason.NOT_STARTED, FailureReason.SPAWN_ERROR


def a_story(*nodes: str, rules: int = 3) -> Story:
    story = Story()
    story.elect(rules=rules)
    for node in nodes or ("gpu01",):
        story.join(node)
    return story


def blame(story: Story, run_id: str, *, node: str = "gpu01", reason: FailureReason = NOT_STARTED) -> None:
    """The node cannot start this run, which is submitted where it is not there yet."""
    if run_id not in story.past:
        story.submit(run_id)
    attempt = story.run(run_id).attempt
    story.dispatch(run_id, attempt, node=node)
    story.fail(
        run_id, attempt, node=node, reason=reason, at_fault=AtFault.NODE, message=f"no room for {run_id}"
    )


def blamed(story: Story, node: str = "gpu01") -> list[str]:
    return [one.run_id for one in story.node(node).failed_starts]


def test_three_runs_in_a_row_make_a_node_suspect_and_it_is_known_why() -> None:
    story = a_story()
    for run_id in ("r1", "r2"):
        blame(story, run_id)
        assert not story.node().suspect
    blame(story, "r3", reason=SPAWN_ERROR)
    assert story.node().suspect
    assert [(one.run_id, one.why) for one in story.node().failed_starts][-1] == ("r3", "no room for r3")


def test_one_run_alone_makes_none_suspect_however_often_it_is_tried() -> None:
    story = a_story()
    for _ in range(5):
        blame(story, "r1")
    assert blamed(story) == ["r1"]
    assert story.pending().attempt == 6, "it is queued again each time, and counts no try"
    assert story.run().tries == 0


def test_the_last_three_are_kept() -> None:
    story = a_story()
    for run_id in ("r1", "r2", "r3", "r1", "r4"):
        blame(story, run_id)
    assert blamed(story) == ["r3", "r1", "r4"]


@pytest.mark.parametrize("does", ["starts", "is resumed", "joins"])
def test_a_start_a_resume_and_a_join_clear_it(does: str) -> None:
    story = a_story()
    for run_id in ("r1", "r2", "r3"):
        blame(story, run_id)
    match does:
        case "starts":
            story.submit("r9")
            story.dispatch("r9")
            story.start("r9")
            assert story.change.nodes == ("gpu01",)
        case "is resumed":
            story.resume()
        case _:
            story.join()
    assert blamed(story) == []


def test_what_was_granted_before_the_last_join_blames_nobody() -> None:
    story = a_story()
    for run_id in ("r1", "r2", "r3"):
        story.submit(run_id)
        story.dispatch(run_id)
    story.join(attempts=[("r1", 1), ("r2", 1), ("r3", 1)])
    for run_id in ("r1", "r2", "r3"):
        story.fail(run_id, reason=NOT_STARTED, at_fault=AtFault.NODE)
    assert blamed(story) == []


@pytest.mark.parametrize("at_fault", [None, AtFault.RUN, AtFault.UNSPECIFIED])
def test_what_is_not_the_nodes_fault_blames_no_node(at_fault: AtFault | None) -> None:
    story = a_story()
    for run_id in ("r1", "r2", "r3", "r4"):
        story.submit(run_id)
        story.dispatch(run_id)
        story.fail(run_id, reason=SPAWN_ERROR, at_fault=at_fault)
        assert story.status(run_id) is RunStatus.FAILED
    assert blamed(story) == []


def test_an_end_of_what_ran_blames_nobody_whatever_it_says() -> None:
    story = a_story()
    story.submit()
    story.dispatch()
    story.start()
    story.fail(at_fault=AtFault.NODE)
    assert (blamed(story), story.status(), story.run().tried) == ([], RunStatus.FAILED, ())


def test_a_spawn_error_by_the_nodes_fault_ends_no_run_and_is_told_apart_from_its_own() -> None:
    story = a_story()
    blame(story, "r1", reason=SPAWN_ERROR)
    assert isinstance(story.run().phase, Pending) and story.run().tried == ("gpu01",)
    story.dispatch(attempt=2)
    story.fail(attempt=2, reason=SPAWN_ERROR, at_fault=AtFault.RUN)
    assert story.ended().reason is SPAWN_ERROR


def test_a_cancelled_run_ends_cancelled_whoever_was_at_fault() -> None:
    story = a_story()
    story.submit()
    story.dispatch()
    story.cancel()
    story.fail(reason=NOT_STARTED, at_fault=AtFault.NODE)
    assert story.ended().status is RunStatus.CANCELLED
    assert blamed(story) == ["r1"]


def test_a_spawn_error_is_retried_while_a_node_that_is_up_is_untried() -> None:
    story = a_story("gpu01", "gpu02", "gpu03")
    story.lose("gpu03")
    story.submit(retry={"max_attempts": 5, "backoff_s": 0})
    for attempt, node in ((1, "gpu01"), (2, "gpu02")):
        assert isinstance(story.run().phase, Pending), "somebody else may have the program"
        story.dispatch(attempt=attempt, node=node)
        story.fail(attempt=attempt, node=node, reason=SPAWN_ERROR, at_fault=AtFault.RUN)
    assert story.ended().reason is SPAWN_ERROR
    assert story.run().tried == ("gpu01", "gpu02")
    story.retry(attempt=2)
    assert story.run().tried == (), "asked for again, it is tried everywhere again"


@pytest.mark.parametrize("other", ["too small", "unhealthy"])
def test_a_node_that_could_not_hold_it_is_no_other(other: str) -> None:
    story = a_story()
    story.join("gpu02", slots=1 if other == "unhealthy" else 0)
    if other == "unhealthy":
        story.put(Role.AGENT, SlotUnhealthy(node="gpu02", incarnation="a", index=0), "gpu02")
    story.submit(retry={"max_attempts": 5, "backoff_s": 0}, resources={"gpus": {"requested": 1}})
    story.dispatch(slots=(0,))
    story.fail(reason=SPAWN_ERROR, at_fault=AtFault.RUN)
    assert story.status() is RunStatus.FAILED


def test_other_reasons_go_by_the_policy_alone() -> None:
    story = a_story()
    story.submit(retry={"max_attempts": 2, "backoff_s": 0})
    story.dispatch()
    story.start()
    story.fail()
    assert isinstance(story.run().phase, Pending)
    assert story.run().tried == ()


@pytest.mark.parametrize("rules", [1, 2])
def test_by_older_rules_nobody_is_blamed_and_a_spawn_error_goes_by_the_policy(rules: int) -> None:
    story = a_story(rules=rules)
    story.submit(retry={"max_attempts": 2, "backoff_s": 0})
    story.dispatch()
    story.fail(reason=SPAWN_ERROR, at_fault=AtFault.NODE)
    assert (blamed(story), story.run().tried, story.run().tries) == ([], (), 1)
    story.dispatch(attempt=2)
    story.fail(attempt=2, reason=SPAWN_ERROR, at_fault=AtFault.NODE)
    assert story.ended().reason is SPAWN_ERROR


class Recorded:
    """An event log that was told what it holds."""

    def __init__(self, log: list[StoredEvent]) -> None:
        self._log = log

    async def read(self, filters: Iterable[str], *, end_seq: int) -> AsyncIterator[StoredEvent]:
        """As EventLog's."""
        prefixes = tuple(one.removesuffix(">") for one in filters)
        for one in self._log:
            if one.seq <= end_seq and str(one.subject).startswith(prefixes):
                yield one


async def test_a_run_that_is_read_back_went_on_for_the_nodes_that_it_was_never_on() -> None:
    story = a_story("gpu01", "gpu02")
    story.submit(retry={"max_attempts": 3, "backoff_s": 0})
    for attempt in (1, 2, 3):
        story.dispatch(attempt=attempt)
        story.fail(attempt=attempt, reason=SPAWN_ERROR, at_fault=AtFault.RUN)
    assert isinstance(story.run().phase, Ended)
    log = cast("EventLog", Recorded(story.log))
    assert await LogHistory(log).run_before("r1", story.seq + 1) == story.run()
