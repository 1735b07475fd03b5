"""The gateway's decisions: which events a command makes, and refusals that name the field and say what to do."""

from __future__ import annotations

from typing import Any

import pytest

from events.change import NOTHING
from events.config import RunConfig, stored_config
from events.decide import (
    Cancel,
    Command,
    Drain,
    Remove,
    Resume,
    Retry,
    could_run_on,
    decide,
    refuse_impossible,
)
from events.types import (
    CancelRequested,
    NodeDrained,
    NodeRemoved,
    NodeResumed,
    RetryRequested,
    SlotHealthy,
    SlotUnhealthy,
)
from tests.support.builders import Story, config, needs
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.statuses import RunStatus
from trainshed_client.subjects import Role


def a_story() -> Story:
    story = Story()
    story.elect()
    story.join()
    story.submit()
    return story


def refused(story: Story, command: Command) -> TrainshedError:
    with pytest.raises(TrainshedError) as caught:
        decide(story.state, command, story.past.get(getattr(command, "run_id", "")))
    return caught.value


@pytest.mark.parametrize("phase", ["pending", "dispatching", "running"])
def test_a_live_run_can_be_cancelled_once(phase: str) -> None:
    story = a_story()
    if phase != "pending":
        story.dispatch()
    if phase == "running":
        story.start()
    command = Cancel(run_id="r1", reason="enough", by="ann")
    assert decide(story.state, command, story.run()) == [
        CancelRequested(run_id="r1", reason="enough", requested_by="ann")
    ]
    story.cancel()
    assert decide(story.state, command, story.run()) == []


def test_an_ended_run_is_not_cancelled_and_that_is_no_error() -> None:
    story = a_story()
    story.dispatch()
    story.complete()
    assert decide(story.state, Cancel(run_id="r1"), story.run()) == []


@pytest.mark.parametrize("command", [Cancel(run_id="r9"), Retry(run_id="r9")])
def test_a_run_that_is_not_there_is_not_found(command: Command) -> None:
    error = refused(a_story(), command)
    assert (error.code, error.path) == (ErrorCode.NOT_FOUND, "run_id")
    assert "r9" in error.message


@pytest.mark.parametrize("end", ["complete", "fail", "stopped"])
def test_an_ended_run_can_be_retried_and_the_retry_names_its_last_attempt(end: str) -> None:
    story = a_story()
    story.dispatch()
    getattr(story, end)()
    (event,) = decide(story.state, Retry(run_id="r1", by="ann"), story.run())
    assert event == RetryRequested(run_id="r1", attempt=1, requested_by="ann")
    story.retry(attempt=event.attempt)
    assert story.status() is RunStatus.PENDING


def test_a_live_run_cannot_be_retried() -> None:
    error = refused(a_story(), Retry(run_id="r1"))
    assert error.code is ErrorCode.CONFLICT
    assert "PENDING" in error.message


@pytest.mark.parametrize("status", [RunStatus.FAILED, RunStatus.CANCELLED])
def test_a_run_is_not_retried_before_the_one_that_it_comes_after(status: RunStatus) -> None:
    story = a_story()
    story.dispatch()
    story.fail()
    after = {"r-done": RunStatus.COMPLETED, "r-failed": status}
    error = refused(story, Retry(run_id="r1", after=after))
    assert error.code is ErrorCode.CONFLICT
    assert str(status) in error.message
    assert "trainshed retry r-fail" in error.message
    for fine in (RunStatus.COMPLETED, RunStatus.RUNNING, RunStatus.PENDING):
        assert decide(story.state, Retry(run_id="r1", after={**after, "r-failed": fine}), story.run())


def test_drain_and_resume_ask_only_for_what_is_not_so_yet() -> None:
    story = a_story()
    assert decide(story.state, Resume(node="gpu01")) == []
    assert decide(story.state, Drain(node="gpu01", reason="new disk", by="ann")) == [
        NodeDrained(node="gpu01", incarnation="a", reason="new disk", requested_by="ann")
    ]
    story.drain()
    assert decide(story.state, Drain(node="gpu01")) == []
    assert decide(story.state, Resume(node="gpu01")) == [NodeResumed(node="gpu01", incarnation="a")]


@pytest.mark.parametrize("gone", ["lose", "leave"])
def test_rule_12_a_node_that_is_lost_or_left_can_be_removed(gone: str) -> None:
    story = a_story()
    if gone == "lose":
        story.lose()
    else:
        story.leave(upto=2)
    (event,) = decide(story.state, Remove(node="gpu01"))
    assert event == NodeRemoved(node="gpu01", incarnation="a")
    story.remove()
    assert story.change != NOTHING
    assert story.state.nodes == {}


def test_rule_12_a_node_that_is_up_cannot_be_removed() -> None:
    error = refused(a_story(), Remove(node="gpu01"))
    assert error.code is ErrorCode.CONFLICT
    assert "Stop the agent" in error.message


@pytest.mark.parametrize("verb", [Drain, Resume, Remove])
def test_a_node_that_is_not_known_is_not_found_and_the_known_ones_are_named(
    verb: type[Drain | Resume | Remove],
) -> None:
    story = a_story()
    story.join("gpu02", "z")
    error = refused(story, verb(node="gpu03"))
    assert (error.code, error.path) == (ErrorCode.NOT_FOUND, "node")
    assert "gpu01, gpu02" in error.message
    story.lose("gpu02", "z")
    story.remove("gpu02", "z")
    assert refused(story, verb(node="gpu02")).code is ErrorCode.NOT_FOUND


# --- what no node could hold --------------------------------------------------------------------------------


def wants(**resources: Any) -> RunConfig:
    return stored_config(config(resources=needs(**resources)))


@pytest.mark.parametrize(
    ("resources", "path"),
    [
        ({"gpus": 3}, "resources.gpus.requested"),
        ({"cpus": 9}, "resources.cpus"),
        ({"memory_mb": 64_001}, "resources.memory_mb"),
        ({"gpus": 2, "cpus": 16}, "resources"),
    ],
)
def test_what_no_known_node_could_hold_when_empty_is_refused_by_its_field(
    resources: dict[str, int], path: str
) -> None:
    story = a_story()
    if path == "resources":
        story.join("big", "z", slots=0, cpus=32)
    with pytest.raises(TrainshedError) as caught:
        refuse_impossible(story.state, wants(**resources))
    assert (caught.value.code, caught.value.path) == (ErrorCode.INVALID, path)
    assert "trainshed nodes" in caught.value.message


@pytest.mark.parametrize("state", ["up", "busy", "lost", "drained"])
def test_lost_and_drained_and_busy_nodes_count_as_they_would_be_when_empty(state: str) -> None:
    story = a_story()
    match state:
        case "busy":
            story.dispatch(slots=(0, 1), cpus=8, memory_mb=64_000)
        case "lost":
            story.lose()
        case "drained":
            story.drain()
    refuse_impossible(story.state, wants(gpus=2, cpus=8, memory_mb=64_000))
    with pytest.raises(TrainshedError):
        refuse_impossible(story.state, wants(gpus=3))


@pytest.mark.parametrize("state", ["none", "left", "removed"])
def test_with_no_node_known_everything_is_accepted(state: str) -> None:
    story = Story() if state == "none" else a_story()
    match state:
        case "left":
            story.leave(upto=2)
        case "removed":
            story.lose()
            story.remove()
    refuse_impossible(story.state, wants(gpus=99, cpus=999))


def test_gpus_that_are_not_mandatory_do_not_count() -> None:
    story = a_story()
    refuse_impossible(story.state, stored_config(config(resources=needs(99, mandatory=False))))


def test_an_unhealthy_slot_holds_nothing_now_but_refuses_nothing_for_good() -> None:
    story = a_story()
    two = wants(gpus=2)
    assert could_run_on(story.state, two) == ["gpu01"]
    story.put(Role.AGENT, SlotUnhealthy(node="gpu01", incarnation="a", index=1, reason="lost"), "gpu01")
    assert could_run_on(story.state, two) == []
    assert could_run_on(story.state, wants(gpus=1)) == ["gpu01"]
    refuse_impossible(story.state, two)
    story.put(Role.AGENT, SlotHealthy(node="gpu01", incarnation="a", index=1), "gpu01")
    assert could_run_on(story.state, two) == ["gpu01"]
