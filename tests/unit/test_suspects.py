"""Suspect nodes are granted single runs, ever more rarely; a run avoids nodes that could not start it (docs/protocol.md rule 19)."""

from __future__ import annotations

import pytest

from services.dispatcher.decisions import Decisions
from services.scheduling.explain import Explainer
from services.scheduling.suspects import probe_due_ns
from tests.support.builders import SECOND_NS, START_NS, Story
from trainshed_client.rendering import waiting
from trainshed_client.statuses import AtFault, FailureReason, WaitReason

STEPS_S = [60, 120, 240, 480, 960, 1800, 1800, 1800]


def a_story(*nodes: str) -> Story:
    story = Story()
    story.at_s = 0.0
    story.elect()
    for node in nodes:
        story.join(node, slots=1)
    return story


def submit(story: Story, *run_ids: str) -> None:
    for run_id in run_ids:
        story.submit(run_id, resources={"gpus": {"requested": 1}})


def decide(story: Story) -> dict[str, str]:
    """What a dispatcher that looks at this state for the first time grants now, appended: run → node."""
    decisions = Decisions()
    decisions.rebuild(story.state)
    now_ns = START_NS + int((story.at_s or 0) * SECOND_NS)
    events = decisions.decide(story.state, story.seq, story.state.epoch, now_ns, {})
    for event in events:
        story.by_dispatcher(event)
    return {getattr(event, "run_id", ""): getattr(event, "node", "") for event in events}


def next_due_s(story: Story) -> float | None:
    decisions = Decisions()
    decisions.rebuild(story.state)
    now_ns = START_NS + int((story.at_s or 0) * SECOND_NS)
    decisions.decide(story.state, story.seq, story.state.epoch, now_ns, {})
    due = decisions.next_due_ns()
    return None if due is None else (due - now_ns) / SECOND_NS


def blame(story: Story, run_id: str, node: str) -> None:
    attempt = story.run(run_id).attempt
    story.fail(
        run_id,
        attempt,
        node=node,
        reason=FailureReason.NOT_STARTED,
        at_fault=AtFault.NODE,
        message="disk full",
    )


def suspect(story: Story, node: str) -> None:
    """Three runs fail there, and are cancelled."""
    submit(story, "x1", "x2", "x3")
    for run_id in ("x1", "x2", "x3"):
        story.dispatch(run_id, node=node, slots=(0,))
        blame(story, run_id, node)
        story.cancel(run_id)
        story.cancelled_unstarted(run_id, 2)


def test_a_suspect_node_is_granted_one_run_a_step_and_the_steps_double_up_to_half_an_hour() -> None:
    story = a_story("bad")
    suspect(story, "bad")
    last_s = 0.0
    for number, step_s in enumerate(STEPS_S):
        submit(story, f"r{number}", f"s{number}")
        story.at_s = last_s + step_s - 0.001
        assert decide(story) == {}, f"before step {number}"
        assert next_due_s(story) == pytest.approx(0.001), "and the dispatcher is woken then"
        story.at_s = last_s + step_s
        granted = decide(story)
        assert len(granted) == 1, f"a probe at step {number}"
        assert decide(story) == {}, "one, however long it takes"
        story.at_s = last_s = story.at_s + 3
        (run_id,) = granted
        blame(story, run_id, "bad")
        assert decide(story) == {}


def test_the_same_run_as_the_probe_each_time_makes_no_other_steps() -> None:
    story = a_story("bad")
    suspect(story, "bad")
    submit(story, "r1")
    at_s = 0.0
    for step_s in STEPS_S:
        story.at_s = at_s + step_s - 0.001
        assert decide(story) == {}
        story.at_s = at_s = at_s + step_s
        assert decide(story) == {"r1": "bad"}
        blame(story, "r1", "bad")


def test_what_fails_together_or_long_after_makes_one_step_each() -> None:
    story = a_story("bad")
    submit(story, "x1", "x2", "x3")
    story.join("bad", slots=3)
    for index, run_id in enumerate(("x1", "x2", "x3")):
        story.dispatch(run_id, node="bad", slots=(index,))
    for at_s, run_id in ((10.0, "x1"), (11.0, "x2"), (19.0, "x3")):
        story.at_s = at_s
        blame(story, run_id, "bad")
    assert probe_due_ns(story.node("bad")) == START_NS + (19 + 60) * SECOND_NS


def test_a_probe_makes_one_step_however_long_nothing_was_tried_before_it() -> None:
    story = a_story("bad")
    suspect(story, "bad")
    at_s = 0.0
    for number, step_s in enumerate(STEPS_S):
        submit(story, f"r{number}")
        story.at_s = at_s = at_s + step_s + 40_000
        (run_id,) = decide(story)
        blame(story, run_id, "bad")
        story.cancel(run_id)
        story.cancelled_unstarted(run_id, 2)
        after_s = STEPS_S[min(number + 1, len(STEPS_S) - 1)]
        assert probe_due_ns(story.node("bad")) == START_NS + int(at_s + after_s) * SECOND_NS


def test_what_was_granted_before_the_last_failed_start_is_no_probe() -> None:
    story = a_story()
    story.join("bad", slots=5)
    names = [f"x{number}" for number in range(5)]
    submit(story, *names)
    for index, run_id in enumerate(names):
        story.dispatch(run_id, node="bad", slots=(index,))
    for second, run_id in enumerate(names, 1):
        story.at_s = second * 1000.0
        blame(story, run_id, "bad")
    assert probe_due_ns(story.node("bad")) == START_NS + (5_000 + 60) * SECOND_NS


def test_of_a_suspect_with_room_for_several_one_is_granted_also_while_the_grant_is_in_flight() -> None:
    story = a_story()
    story.join("bad", slots=4)
    suspect(story, "bad")
    submit(story, "r1", "r2", "r3")
    story.at_s = 60.0
    now_ns = START_NS + 60 * SECOND_NS
    decisions = Decisions()
    decisions.rebuild(story.state)
    (grant,) = decisions.decide(story.state, story.seq, story.state.epoch, now_ns, {})
    decisions.in_flight.add(grant)
    assert decisions.decide(story.state, story.seq, story.state.epoch, now_ns, {}) == []
    story.by_dispatcher(grant)
    story.at_s = 4_000.0
    assert decide(story) == {}, "it has neither started nor ended"


def test_a_start_ends_it() -> None:
    story = a_story("bad")
    suspect(story, "bad")
    story.join("bad2", slots=0)
    submit(story, "r1", "r2")
    story.at_s = 60.0
    (run_id,) = decide(story)
    story.start(run_id, node="bad")
    story.complete(run_id, node="bad")
    assert len(decide(story)) == 1
    assert next_due_s(story) is None


def test_a_probe_is_what_has_no_room_elsewhere() -> None:
    story = a_story("bad", "good")
    suspect(story, "bad")
    submit(story, "r1", "r2", "r3")
    story.at_s = 3600.0
    assert decide(story) == {"r1": "good", "r2": "bad"}


def test_a_whole_sweep_ends_on_the_good_node_and_three_runs_meet_the_bad_one_first() -> None:
    story = a_story("bad", "good")
    names = [f"r{number:02}" for number in range(20)]
    submit(story, *names)
    on_bad: list[str] = []
    for second in range(40):
        story.at_s = second
        for run_id, node in decide(story).items():
            attempt = story.run(run_id).attempt
            if node == "bad":
                on_bad.append(run_id)
                blame(story, run_id, "bad")
            else:
                story.start(run_id, attempt, node=node)
                story.complete(run_id, attempt, node=node)
    assert len(on_bad) == len(set(on_bad)) == 3
    assert all(story.run(name).status == "COMPLETED" for name in names)


def test_a_run_avoids_the_node_that_could_not_start_it_while_another_could_hold_it() -> None:
    story = a_story("a", "b")
    submit(story, "busy", "r1")
    story.dispatch("busy", node="b", slots=(0,))
    story.dispatch("r1", node="a", slots=(0,))
    blame(story, "r1", "a")
    story.at_s = 5.0
    assert decide(story) == {}, "b could hold it when it is empty"
    wait = Explainer(story.state, START_NS + 5 * SECOND_NS).wait_of(story.run("r1"))
    assert (wait.reason, wait.numbers) == (WaitReason.GPUS, {"gpus": 1, "free": 0, "total": 1})
    assert Explainer(story.state, START_NS + 5 * SECOND_NS).explain(story.run("r1")).avoids == ["a"]
    story.drain("b")
    assert decide(story) == {"r1": "a"}, "where no other takes work it is tried again"


def test_a_suspect_node_is_no_other_that_could_hold_it() -> None:
    story = a_story("a", "b")
    suspect(story, "b")
    submit(story, "r1")
    story.dispatch("r1", node="a", slots=(0,))
    blame(story, "r1", "a")
    story.at_s = 5.0
    assert decide(story) == {"r1": "a"}


def test_nothing_is_kept_of_a_suspect_node_nor_of_one_that_is_avoided() -> None:
    story = a_story()
    story.join("bad", slots=1, cpus=1)
    story.join("good", slots=1, cpus=1)
    suspect(story, "bad")
    submit(story, "busy", "r1")
    story.dispatch("busy", node="good", slots=(0,))
    explainer = Explainer(story.state, START_NS)
    whole = explainer.explain(story.run("r1"))
    assert whole.reservation is not None and whole.reservation.node == "good"


def test_explain_names_the_suspect_the_reason_and_when_it_is_tried() -> None:
    story = a_story("bad")
    suspect(story, "bad")
    submit(story, "r1", "r2")
    at_ns = START_NS + 18 * SECOND_NS
    whole = Explainer(story.state, at_ns).explain(story.run("r1"))
    assert (whole.reason, whole.nodes) == (WaitReason.SUSPECT, ["bad"])
    assert whole.numbers == {"suspect": 1, "probe_in_s": 42}
    assert [(one.node, one.why) for one in whole.suspects] == [("bad", "disk full")]
    assert whole.commands == ["trainshed resume bad", "trainshed nodes"]
    assert waiting.text(whole) == "bad starts no run at present; one is tried there in 42 s"
    story.at_s = 60.0
    (probe,) = decide(story)
    other = "r2" if probe == "r1" else "r1"
    wait = Explainer(story.state, START_NS + 61 * SECOND_NS).wait_of(story.run(other))
    assert (wait.reason, wait.numbers) == (WaitReason.SUSPECT, {"suspect": 1})
    assert waiting.text(wait) == "bad starts no run at present; a run is being tried there"


def test_where_a_good_node_is_only_busy_and_the_suspect_has_room_that_is_why() -> None:
    story = a_story("bad", "good")
    suspect(story, "bad")
    submit(story, "busy", "r1")
    story.dispatch("busy", node="good", slots=(0,))
    assert Explainer(story.state, START_NS).wait_of(story.run("r1")).reason is WaitReason.SUSPECT
    story.join("bad", slots=0)
    assert Explainer(story.state, START_NS).wait_of(story.run("r1")).reason is WaitReason.GPUS


def test_a_dispatcher_that_is_elected_later_decides_the_same() -> None:
    story = a_story("bad")
    suspect(story, "bad")
    submit(story, "r1")
    story.at_s = 59.0
    story.elect("box/2")
    assert decide(story) == {}
    story.at_s = 60.0
    story.elect("box/3")
    assert decide(story) == {"r1": "bad"}
