"""evolve under any sequence of events: total, order-respecting, and its index always what runs and nodes say."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from events.change import NOTHING
from events.codec import StoredEvent
from events.evolve import evolve
from events.history import last_value, nodes_of
from events.state import Active, Ended, Pending, Snapshot, State, restore, snapshot
from events.types import (
    AttemptRef,
    Cancelled,
    CancelRequested,
    Completed,
    Device,
    Dispatched,
    Elected,
    Event,
    Failed,
    NodeDrained,
    NodeJoined,
    NodeLeft,
    NodeLost,
    NodeRemoved,
    NodeResumed,
    RetryRequested,
    SchedulerInfo,
    SlotHealthy,
    SlotUnhealthy,
    Started,
    Stopping,
    Submitted,
    TimedOut,
    View,
    Why,
)
from tests.support.builders import LAUNCH, Story, config, facts, recomputed, stored
from trainshed_client.statuses import AtFault, FailureReason, RunStatus
from trainshed_client.subjects import Role, Scope

run_ids = st.sampled_from(["r1", "r2", "r3"])
node_names = st.sampled_from(["n1", "n2"])
incarnations = st.sampled_from(["a", "b"])
attempts = st.integers(1, 3)
epochs = st.integers(0, 6)
reasons = st.sampled_from(FailureReason)
refs = st.builds(AttemptRef, run_ids, attempts)
ref_lists = st.lists(refs, max_size=3).map(tuple)
uuids = st.sampled_from([None, "U0", "U1", "U2"])
slots = st.lists(st.integers(0, 2), max_size=2).map(tuple)
configs = st.builds(
    config,
    after=st.lists(run_ids, max_size=2),
    priority=st.integers(-1, 1),
    retry=st.fixed_dictionaries(
        {"max_attempts": st.integers(1, 3), "backoff_s": st.sampled_from([0, 1e300])}
    ),
)
about_run = {"run_id": run_ids, "attempt": attempts}
about_node = {"node": node_names, "incarnation": incarnations}
ends = {
    Completed: {},
    Failed: {
        "failure_reason": reasons,
        "at_fault": st.none() | st.sampled_from(AtFault),
        "message": st.none(),
        "epoch": st.none() | epochs,
    },
    Cancelled: {"failure_reason": st.none() | reasons, "epoch": st.none() | epochs},
    TimedOut: {"failure_reason": reasons},
}

gateway = st.one_of(
    st.builds(Submitted, run_id=run_ids, config=configs, digest=st.just("0")),
    st.builds(CancelRequested, run_id=run_ids),
    st.builds(RetryRequested, **about_run),
    *(st.builds(kind, **about_node) for kind in (NodeDrained, NodeResumed, NodeRemoved)),
)
dispatcher = st.one_of(
    st.builds(
        Elected,
        name=st.sampled_from(["x", "y"]),
        scheduler=st.just(SchedulerInfo(name="s", version=1)),
        rules=st.sampled_from([1, 2, 3]),
    ),
    st.builds(
        Dispatched,
        **about_run,
        **about_node,
        epoch=epochs,
        slots=slots,
        cpus=st.integers(-1, 2),
        memory_mb=st.integers(0, 2),
        launch=st.just(LAUNCH),
        view=st.just(View(seq=0, now="")),
        why=st.just(Why(free=0)),
    ),
    st.builds(Stopping, **about_run, **about_node, epoch=epochs, reason=st.sampled_from(["cancel", "ended"])),
    st.builds(NodeLost, **about_node, epoch=epochs, silent_s=st.just(15.0)),
    st.builds(Failed, **about_run, failure_reason=reasons, epoch=epochs),
    st.builds(Cancelled, **about_run, failure_reason=st.none() | reasons, epoch=epochs),
)
agent = st.one_of(
    st.builds(
        NodeJoined,
        **about_node,
        host=st.just("h"),
        cpus=st.integers(0, 4),
        memory_mb=st.integers(0, 4),
        gpus=st.lists(st.builds(Device, index=st.integers(0, 2), uuid=uuids), max_size=3).map(tuple),
        attempts=ref_lists,
        borrowed=st.booleans(),
    ),
    st.builds(NodeLeft, **about_node, upto=st.integers(0, 40), attempts=ref_lists),
    *(st.builds(kind, **about_node, index=st.integers(0, 2)) for kind in (SlotUnhealthy, SlotHealthy)),
    st.builds(Started, **about_run, pid=st.just(1), host=st.just("h")),
    *(st.builds(kind, **about_run, **fields) for kind, fields in ends.items()),
)


def _told(seq: int, role: Role, event: Event, node: str) -> StoredEvent:
    about = getattr(event, "node", node)
    return stored(seq, role, event, about if role is Role.AGENT else None)


@st.composite
def logs(draw: st.DrawFn) -> list[StoredEvent]:
    """Well-formed events of every role in any order, most decisions of the epoch that is in force."""
    log: list[StoredEvent] = []
    seq = epoch = 0
    for _ in range(draw(st.integers(0, 40))):
        role = draw(st.sampled_from([Role.GATEWAY, Role.DISPATCHER, Role.DISPATCHER, Role.AGENT, Role.AGENT]))
        event = draw({Role.GATEWAY: gateway, Role.DISPATCHER: dispatcher, Role.AGENT: agent}[role])
        seq += draw(st.sampled_from([1, 1, 1, 5]))
        if isinstance(event, Elected):
            epoch = seq
        elif role is Role.DISPATCHER and draw(st.integers(0, 4)):
            event = msgspec.structs.replace(event, epoch=epoch)
        log.append(_told(seq, role, event, draw(node_names)))
    return log


def folded(log: list[StoredEvent]) -> Story:
    story = Story()
    for one in log:
        story.fold(one)
    return story


@given(logs())
def test_every_sequence_of_events_has_a_defined_state(log: list[StoredEvent]) -> None:
    state = folded(log).state
    assert state.seq == (log[-1].seq if log else 0)
    for run in state.runs.values():
        assert isinstance(run.phase, Pending | Active), "ended runs are not kept in the index"
        assert run.attempt >= 1 and run.tries >= 0


@given(logs())
def test_the_index_is_what_runs_and_nodes_say_after_every_event(log: list[StoredEvent]) -> None:
    story = Story()
    for one in log:
        story.fold(one)
        assert facts(story.state) == recomputed(story.state)


@given(logs(), st.data())
def test_a_snapshot_taken_anywhere_goes_on_as_the_state_itself_would(
    log: list[StoredEvent], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(log)))
    whole, story = folded(log), folded(log[:cut])
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot(story.state)), type=Snapshot)
    story.state = restore(kept)
    for one in log[cut:]:
        story.fold(one)
    assert facts(story.state) == facts(whole.state)
    assert story.past == whole.past


@given(logs(), st.data())
def test_events_told_again_change_nothing(log: list[StoredEvent], data: st.DataObject) -> None:
    """A reader that begins again below its position, at any point, any number of times."""
    story = Story()
    for place, one in enumerate(log):
        story.fold(one)
        for again in log[data.draw(st.integers(0, place)) : place + 1]:
            before = facts(story.state)
            assert story.fold(again) == NOTHING
            assert facts(story.state) == before


@given(logs())
def test_the_same_log_gives_the_same_state_and_the_same_changes(log: list[StoredEvent]) -> None:
    one, other = Story(), Story()
    for event in log:
        assert one.fold(event) == other.fold(event)
    assert facts(one.state) == facts(other.state)


@given(logs())
def test_a_change_tells_exactly_which_runs_and_nodes_changed(log: list[StoredEvent]) -> None:
    story = Story()
    for one in log:
        runs, nodes = dict(story.state.runs), dict(story.state.nodes)
        change = story.fold(one)
        told = {run_change.after.run_id for run_change in change.runs}
        for run_id in runs.keys() | story.state.runs.keys():
            assert run_id in told or runs.get(run_id) == story.state.runs.get(run_id)
        for name in nodes.keys() | story.state.nodes.keys():
            assert name in change.nodes or nodes.get(name) == story.state.nodes.get(name)
        for run_change in change.runs:
            if run_change.before is not None and run_change.after.run_id in runs:
                assert run_change.before == runs[run_change.after.run_id] or len(change.runs) > 1


@given(logs())
def test_a_terminal_status_is_left_by_retry_requested_alone(log: list[StoredEvent]) -> None:
    """(Or by a second Submitted, which the guard of submission keeps out of every log.)"""
    story = Story()
    for one in log:
        past = dict(story.past)
        for run_change in story.fold(one).runs:
            before = past.get(run_change.after.run_id)
            if before is not None and isinstance(before.phase, Ended):
                assert isinstance(one.event, RetryRequested | Submitted)


@given(logs())
def test_attempt_numbers_only_grow_by_one_and_only_a_dispatched_makes_an_attempt(
    log: list[StoredEvent],
) -> None:
    story = Story()
    for one in log:
        for run_change in story.fold(one).runs:
            before, after = run_change.before, run_change.after
            if before is None:
                assert isinstance(one.event, Submitted)
                continue
            assert after.attempt - before.attempt in (0, 1)
            if isinstance(after.phase, Active) and not isinstance(before.phase, Active):
                assert isinstance(one.event, Dispatched)
                assert after.attempt == before.attempt == one.event.attempt


@given(logs())
def test_once_cancel_is_requested_nothing_requeues(log: list[StoredEvent]) -> None:
    story = Story()
    for one in log:
        for run_change in story.fold(one).runs:
            before, after = run_change.before, run_change.after
            if before is not None and before.cancel_requested and isinstance(before.phase, Active):
                assert isinstance(after.phase, Active | Ended)


@settings(max_examples=60)
@given(logs())
def test_an_ended_runs_past_can_be_read_back_from_its_own_events_and_those_of_its_nodes_and_elections(
    log: list[StoredEvent],
) -> None:
    story = folded(log)
    for run_id, run in story.past.items():
        if isinstance(run.phase, Ended):
            own = [one for one in log if one.subject.scope == Scope.RUN and one.subject.id == run_id]
            nodes = nodes_of(own)
            beside = [
                one
                for one in log
                if one.subject.scope == Scope.CONTROL
                or (one.subject.scope == Scope.NODE and one.subject.id in nodes)
            ]
            past = sorted([*own, *beside], key=lambda one: one.seq)
            assert last_value(run_id, past) == run


@given(logs())
def test_slots_are_given_back_by_an_end_alone(log: list[StoredEvent]) -> None:
    """No slot is freed by silence, a cancel, a join or a leave."""
    story = Story()
    for one in log:
        before = {
            run_id: run.phase for run_id, run in story.state.runs.items() if isinstance(run.phase, Active)
        }
        change = story.fold(one)
        for run_id, phase in before.items():
            run = story.state.runs.get(run_id)
            still = run is not None and isinstance(run.phase, Active)
            if not still:
                assert (run_id, phase) in [(end.run_id, end.attempt) for end in change.ended]
                assert not isinstance(
                    one.event,
                    CancelRequested | NodeJoined | NodeLeft | NodeLost | Stopping | Elected | Started,
                )


def test_statuses_are_three_ended_and_three_live() -> None:
    assert {status for status in RunStatus if status.ended} == {
        RunStatus.COMPLETED,
        RunStatus.FAILED,
        RunStatus.CANCELLED,
    }


def test_an_event_of_no_known_kind_changes_nothing_but_the_position() -> None:
    class Later(Event, frozen=True, kw_only=True):
        pass

    state = State()
    one = msgspec.structs.replace(stored(1, Role.GATEWAY, CancelRequested(run_id="r1")), event=Later())
    assert evolve(state, one) == NOTHING
    assert state.seq == 1
