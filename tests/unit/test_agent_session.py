"""The agent's session as a pure step: each rule of docs/protocol.md that it carries, and what holds for any inputs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.types import AttemptRef
from services.agent.folders.files import StopReason
from services.agent.session.machine import attempt_of, step
from services.agent.session.values import (
    WRITES,
    Ack,
    Action,
    AppendEnd,
    AppendJoined,
    AppendLeft,
    AppendStarted,
    AttemptPlace,
    Begun,
    CountedLost,
    EndStored,
    ExitWritten,
    Finalise,
    Finish,
    FoldersPrepared,
    Forget,
    Found,
    Granted,
    Input,
    Joined,
    JoinRefused,
    Launch,
    LeaveAsked,
    LeaveStored,
    Name,
    NameRead,
    OnDisk,
    PrepareFolders,
    ReadName,
    Refuse,
    SessionPhase,
    SessionState,
    ShimAlive,
    ShimLost,
    StartedWritten,
    StopOrdered,
    Sweep,
    Swept,
    WakeShim,
    WriteFolder,
    WriteGrant,
    WriteStop,
)

OWN, OTHER = "own", "other"
A, B = AttemptRef("a", 1), AttemptRef("b", 1)
CANCEL, ENDED, RECLAIMED = StopReason.CANCEL, StopReason.ENDED, StopReason.RECLAIMED


def play(
    *inputs: Input, state: SessionState | None = None, storage_hangs: bool = False
) -> tuple[SessionState, list[Action]]:
    """All inputs one after the other; the last state and every action. Folders are prepared at once."""
    state = state or SessionState(incarnation=OWN)
    actions: list[Action] = []
    for event in inputs:
        state, more = step(state, event)
        actions += more
        for action in () if storage_hangs else more:
            if isinstance(action, PrepareFolders):
                state, launched = step(state, FoldersPrepared(action.ref))
                actions += launched
    return state, actions


def joined(*found: Found, at: int = 10, name: Name | None = None) -> SessionState:
    """A session that has begun."""
    return play(Begun(found), NameRead(name or Name()), Swept(), Joined(at))[0]


def grant(ref: AttemptRef = A, seq: int = 20, **fields: object) -> Granted:
    return Granted(**{"seq": seq, "incarnation": OWN, "ref": ref, "view": seq - 1, **fields})  # type: ignore[arg-type]


def stop(ref: AttemptRef = A, seq: int = 30, **fields: object) -> StopOrdered:
    values = {"seq": seq, "incarnation": OWN, "ref": ref, "reason": CANCEL, **fields}
    return StopOrdered(**values)  # type: ignore[arg-type]


class TestJoining:
    """Rules 8 and 11."""

    def test_the_name_is_read_then_the_strays_are_ended_then_it_joins_with_its_list(self) -> None:
        found = (Found(ref=A, seq=5, alive=True), Found(ref=B, seq=6, ended=True))
        _, actions = play(Begun(found), NameRead(Name(joined=7, joined_by=OWN)), Swept())
        assert actions == [ReadName(), Sweep((A, B)), AppendJoined(7, (A, B))]

    def test_nothing_is_told_before_the_join_is_stored(self) -> None:
        found = (Found(ref=A, started=True, ended=True),)
        state, before = play(Begun(found), NameRead(Name()), Swept())
        assert not any(isinstance(action, AppendEnd | AppendStarted) for action in before)
        assert play(Joined(9), state=state)[1] == [AppendStarted(A), AppendEnd(A)]

    def test_a_name_of_another_incarnation_is_refused(self) -> None:
        state, actions = play(Begun(()), NameRead(Name(joined=7, joined_by=OTHER)))
        assert actions == [ReadName(), Refuse(OTHER)]
        assert state.phase is SessionPhase.GONE

    @pytest.mark.parametrize(
        ("name", "free"),
        [
            (Name(joined=7, joined_by=OTHER, removed=8, removed_of=OTHER), True),
            (Name(joined=7, joined_by=OTHER, removed=6, removed_of=OTHER), False),
            (Name(joined=7, joined_by=OTHER, removed=8, removed_of="third"), False),
            (Name(joined=7, joined_by=OTHER, left=8, left_by=OTHER, left_empty=True), True),
            (Name(joined=7, joined_by=OTHER, left=8, left_by=OTHER), False),
            (Name(joined=7, joined_by=OTHER, left=6, left_by=OTHER, left_empty=True), False),
        ],
    )
    def test_only_its_removal_or_its_empty_leave_frees_anothers_name(self, name: Name, free: bool) -> None:
        actions = play(Begun(()), NameRead(name))[1]
        assert (Sweep(()) in actions) is free

    def test_a_removed_incarnation_ends_every_worker_before_it_joins(self) -> None:
        name = Name(joined=7, joined_by=OWN, removed=8, removed_of=OWN)
        state, actions = play(Begun((Found(ref=A, alive=True),)), NameRead(name))
        assert actions == [ReadName(), WriteStop(A, ENDED, 0), WakeShim(A)]
        assert play(ExitWritten(A), state=state)[1] == [Sweep((A,))]

    def test_a_removal_before_its_last_join_ends_nothing(self) -> None:
        name = Name(joined=7, joined_by=OWN, removed=6, removed_of=OWN)
        assert play(Begun((Found(ref=A, alive=True),)), NameRead(name))[1] == [ReadName(), Sweep((A,))]

    def test_an_agent_whose_name_was_taken_ends_its_workers_and_is_refused(self) -> None:
        state, _ = play(Begun((Found(ref=A, alive=True),)), NameRead(Name(joined=7, joined_by=OTHER)))
        assert state.phase is SessionPhase.CLEARING
        assert play(ExitWritten(A), state=state)[1] == [Refuse(OTHER)]

    def test_a_join_that_came_too_late_reads_the_name_again(self) -> None:
        state, _ = play(Begun(()), NameRead(Name()), Swept())
        assert play(JoinRefused(), state=state)[1] == [ReadName()]

    def test_what_has_no_shim_is_buried_by_whether_it_had_started(self) -> None:
        found = (Found(ref=A, started=True), Found(ref=B))
        assert play(Begun(found))[1] == [Finalise(A, "shim_lost"), Finalise(B, "not_started"), ReadName()]

    def test_a_node_counted_lost_joins_again_and_launches_nothing_older(self) -> None:
        state, _ = play(grant(A, 20, slots=(0,)), grant(B, 21, slots=(0,)), state=joined())
        state, actions = play(CountedLost(seq=25, incarnation=OWN), state=state)
        assert actions == [Ack(25), ReadName()]
        state, actions = play(NameRead(Name(joined=10, joined_by=OWN)), Swept(), Joined(26), state=state)
        assert Finalise(B, "not_started") in actions
        assert not any(isinstance(action, Launch) for action in actions)
        assert play(ExitWritten(A), state=state)[1] == [AppendEnd(A)]

    def test_an_old_verdict_is_acknowledged_without_effect(self) -> None:
        assert play(CountedLost(seq=5, incarnation=OWN), state=joined())[1] == [Ack(5)]


class TestGrants:
    """Rules 5, 9, 10 and 11."""

    def test_it_is_written_down_before_it_is_acknowledged(self) -> None:
        actions = play(grant(), state=joined())[1]
        assert actions == [WriteGrant(A, 20), PrepareFolders(A), Ack(20), Launch(A)]

    def test_storage_that_hangs_holds_up_its_own_launch_and_no_acknowledgement(self) -> None:
        state, actions = play(grant(A, 20, slots=(0,)), state=joined(), storage_hangs=True)
        assert actions == [WriteGrant(A, 20), PrepareFolders(A), Ack(20)]
        state, actions = play(grant(B, 21, slots=(1,)), state=state)
        assert Launch(B) in actions and Launch(A) not in actions
        assert play(FoldersPrepared(A), state=state)[1] == [Launch(A)]

    def test_what_was_closed_while_its_storage_hung_is_not_launched_when_it_answers(self) -> None:
        hung, _ = play(grant(), state=joined(), storage_hangs=True)
        closed, actions = play(stop(), state=hung)
        assert actions == [WriteStop(A, CANCEL, 30), Finalise(A, "not_started"), Ack(30)]
        over, _ = play(ExitWritten(A), state=closed)
        gone, _ = play(EndStored(A), state=over)
        for state in (closed, over, gone):
            assert play(FoldersPrepared(A), state=state) == (state, [])

    def test_what_storage_held_up_beyond_its_session_is_not_launched(self) -> None:
        hung, _ = play(grant(), state=joined(), storage_hangs=True)
        leaving, _ = play(LeaveAsked(False), state=hung)
        assert play(FoldersPrepared(A), state=leaving)[1] == []
        lost, _ = play(CountedLost(seq=25, incarnation=OWN), FoldersPrepared(A), state=hung)
        actions = play(NameRead(Name(joined=10, joined_by=OWN)), Swept(), Joined(26), state=lost)[1]
        assert Finalise(A, "not_started") in actions and Launch(A) not in actions

    def test_before_the_join_it_is_neither_taken_nor_acknowledged(self) -> None:
        assert play(Begun(()), grant())[1] == [ReadName()]

    def test_delivered_again_it_is_acknowledged_and_nothing_else(self) -> None:
        state, _ = play(grant(), state=joined())
        assert play(grant(), state=state)[1] == [Ack(20)]
        assert play(grant(B, disk=OnDisk(ended=True)), state=state)[1] == [Ack(20)]

    def test_taken_and_over_nothing_follows_from_it_whatever_its_folder_says(self) -> None:
        """A cleaner of temporary folders took what an earlier delivery left."""
        ended = play(grant(), stop(), StartedWritten(A), ExitWritten(A), EndStored(A), state=joined())[0]
        for again in (grant(), stop()):
            assert play(again, state=ended)[1] == [Ack(again.seq)]
        assert Launch(B) in play(grant(B, 31), state=ended)[1]

    def test_older_than_the_join_it_is_closed_and_not_launched(self) -> None:
        actions = play(grant(seq=9), state=joined())[1]
        assert actions == [WriteFolder(A), Ack(9), Finalise(A, "not_started")]

    def test_one_that_cannot_be_taken_is_not_started(self) -> None:
        actions = play(grant(usable=False), state=joined())[1]
        assert actions == [WriteFolder(A), Ack(20), Finalise(A, "not_started")]

    def test_a_taken_slot_is_waited_for_and_the_grant_acknowledged(self) -> None:
        state, _ = play(grant(A, 20, slots=(0, 1)), state=joined())
        state, actions = play(grant(B, 21, slots=(1,)), state=state)
        assert actions == [WriteGrant(B, 21), PrepareFolders(B), Ack(21)]
        assert play(ExitWritten(A), state=state)[1] == [Launch(B), AppendEnd(A)]

    def test_the_next_attempt_waits_for_the_tree_of_the_one_before(self) -> None:
        state, _ = play(grant(A, 20), state=joined())
        again = AttemptRef("a", 2)
        state, actions = play(grant(again, 21), state=state)
        assert Launch(again) not in actions
        assert Launch(again) in play(ExitWritten(A), state=state)[1]

    def test_a_slot_is_not_free_while_a_dead_shims_tree_is_being_ended(self) -> None:
        state, _ = play(grant(A, 20, slots=(0,)), ShimLost(A), state=joined())
        state, actions = play(grant(B, 21, slots=(0,)), state=state)
        assert Launch(B) not in actions

    def test_of_two_that_wait_for_a_slot_the_older_goes_first(self) -> None:
        c = AttemptRef("c", 1)
        state, _ = play(grant(A, 20, slots=(0,)), grant(B, 21, slots=(0, 1)), state=joined())
        state, actions = play(grant(c, 22, slots=(1,)), state=state)
        assert Launch(c) not in actions
        assert [each for each in play(ExitWritten(A), state=state)[1] if isinstance(each, Launch)] == [
            Launch(B)
        ]

    def test_of_another_incarnation_it_has_no_effect_if_older_and_ends_the_agent_if_younger(self) -> None:
        assert play(grant(seq=9, incarnation=OTHER), state=joined())[1] == [Ack(9)]
        assert play(grant(seq=11, incarnation=OTHER), state=joined())[1] == [Refuse(OTHER)]

    def test_one_that_cannot_be_written_down_is_refused_and_never_launched(self) -> None:
        state, actions = play(grant(unwritable=True), state=joined())
        assert actions == [Ack(20), AppendEnd(A)]
        assert play(grant(), stop(), state=state)[1] == [Ack(20), Ack(30)]
        state, actions = play(EndStored(A), grant(), stop(seq=31), state=state)
        assert actions == [Forget(A), Ack(20), Ack(31)], "nothing on disk says that it has ended"
        assert state.attempts == ()
        assert play(LeaveAsked(False), state=state)[1] == [AppendLeft(10, 31, ())]


class TestStops:
    """Rules 3 and 10."""

    def test_it_is_written_before_it_is_acknowledged_and_the_shim_hears_of_it(self) -> None:
        state, _ = play(grant(), state=joined())
        assert play(stop(), state=state)[1] == [WriteStop(A, CANCEL, 30), WakeShim(A), Ack(30)]

    def test_delivered_again_it_wakes_again(self) -> None:
        state, _ = play(grant(), stop(), state=joined())
        assert play(stop(), state=state)[1] == [Ack(30), WakeShim(A)]

    def test_what_waits_is_closed_and_never_launched(self) -> None:
        state, _ = play(grant(B, 20, slots=(0,)), grant(A, 21, slots=(0,)), state=joined())
        state, actions = play(stop(), state=state)
        assert actions == [WriteStop(A, CANCEL, 30), Finalise(A, "not_started"), Ack(30)]
        assert Launch(A) not in play(ExitWritten(A), ExitWritten(B), state=state)[1]

    def test_an_attempt_never_seen_is_closed_and_told(self) -> None:
        state, actions = play(stop(), state=joined())
        assert actions == [WriteFolder(A), WriteStop(A, CANCEL, 30), Ack(30), Finalise(A, "not_started")]
        assert play(ExitWritten(A), state=state)[1] == [AppendEnd(A)]

    def test_what_has_ended_is_acknowledged(self) -> None:
        assert play(stop(disk=OnDisk(ended=True)), state=joined())[1] == [Ack(30)]

    def test_it_counts_also_where_the_attempt_is_older_than_the_join(self) -> None:
        state = joined(Found(ref=A, seq=5, alive=True))
        assert WriteStop(A, CANCEL, 8) in play(stop(seq=8), state=state)[1]

    def test_a_stop_that_an_earlier_process_wrote_is_heard_again(self) -> None:
        assert WakeShim(A) in play(Begun((Found(ref=A, alive=True, stop=CANCEL),)))[1]


class TestEnds:
    """Rules 8 and 13."""

    def test_started_and_the_end_are_told_once_each_and_the_marker_goes_last(self) -> None:
        state, actions = play(
            grant(), StartedWritten(A), StartedWritten(A), ExitWritten(A), ExitWritten(A), state=joined()
        )
        assert [each for each in actions if isinstance(each, AppendStarted | AppendEnd)] == [
            AppendStarted(A),
            AppendEnd(A),
        ]
        state, actions = play(EndStored(A), state=state)
        assert actions == [Forget(A)] and attempt_of(state, A) is None

    def test_a_dead_shim_is_buried_and_one_that_turns_up_is_watched(self) -> None:
        state, actions = play(grant(), StartedWritten(A), ShimLost(A), state=joined())
        assert actions[-1] == Finalise(A, "shim_lost")
        state, _ = play(ShimAlive(A), state=state)
        found = attempt_of(state, A)
        assert found is not None and found.place is AttemptPlace.UP


class TestLeaving:
    """Rule 8's last point, and borrowed nodes."""

    def test_it_names_the_last_decision_written_down_and_its_attempts(self) -> None:
        state, _ = play(grant(), state=joined())
        state, actions = play(LeaveAsked(False), state=state)
        assert actions == [AppendLeft(10, 20, (A,))]
        assert play(grant(B, 21), state=state)[1] == []
        assert play(LeaveStored(), state=state)[1] == [Finish()]

    def test_upto_is_never_below_the_own_join(self) -> None:
        assert play(LeaveAsked(False), state=joined())[1] == [AppendLeft(10, 10, ())]

    def test_a_borrowed_node_leaves_ends_all_tells_it_and_leaves_empty(self) -> None:
        state, _ = play(grant(A, 20, slots=(0,)), grant(B, 21, slots=(0,)), state=joined())
        state, actions = play(LeaveAsked(True), LeaveStored(), state=state)
        assert actions == [
            AppendLeft(10, 21, (A, B)),
            WriteStop(A, RECLAIMED, 0),
            WakeShim(A),
            Finalise(B, "not_started"),
        ]
        state, actions = play(ExitWritten(B), ExitWritten(A), EndStored(B), EndStored(A), state=state)
        assert actions == [AppendEnd(B), AppendEnd(A), Forget(B), Forget(A), AppendLeft(10, 21, ())]
        assert play(LeaveStored(), state=state)[1] == [Finish()]

    def test_every_word_to_stop_is_written_before_any_shim_hears_of_one(self) -> None:
        state, _ = play(grant(A, 20), grant(B, 21), LeaveAsked(True), state=joined())
        assert play(LeaveStored(), state=state)[1] == [
            WriteStop(A, RECLAIMED, 0),
            WriteStop(B, RECLAIMED, 0),
            WakeShim(A),
            WakeShim(B),
        ]

    def test_between_sessions_it_leaves_without_a_word(self) -> None:
        assert play(Begun(()), LeaveAsked(False))[1] == [ReadName(), Finish()]


refs = st.builds(AttemptRef, st.sampled_from(["a", "b"]), st.integers(1, 2))
seqs = st.integers(1, 60)
whose = st.sampled_from([OWN, OWN, OWN, OTHER])
slots = st.sampled_from([(), (0,), (1,), (0, 1)])
disks = st.builds(OnDisk, started=st.booleans(), ended=st.booleans())
names = st.builds(
    Name,
    joined=seqs,
    joined_by=st.sampled_from([None, OWN, OTHER]),
    left=seqs,
    left_by=st.sampled_from([None, OWN, OTHER]),
    left_empty=st.booleans(),
    removed=seqs,
    removed_of=st.sampled_from([None, OWN, OTHER]),
)
inputs: st.SearchStrategy[Input] = st.one_of(
    st.builds(NameRead, names),
    st.just(Swept()),
    st.builds(Joined, seqs),
    st.just(JoinRefused()),
    st.builds(Granted, seq=seqs, incarnation=whose, ref=refs, slots=slots, usable=st.booleans(), disk=disks),
    st.builds(
        StopOrdered,
        seq=seqs,
        incarnation=whose,
        ref=refs,
        reason=st.sampled_from([CANCEL, ENDED]),
        disk=disks,
    ),
    st.builds(CountedLost, seq=seqs, incarnation=whose),
    st.builds(FoldersPrepared, refs),
    st.builds(StartedWritten, refs),
    st.builds(ShimLost, refs),
    st.builds(ShimAlive, refs),
    st.builds(ExitWritten, refs),
    st.builds(EndStored, refs),
    st.builds(LeaveAsked, st.booleans()),
    st.just(LeaveStored()),
)
founds = st.builds(
    Found,
    ref=refs,
    seq=seqs,
    slots=slots,
    alive=st.booleans(),
    ended=st.booleans(),
    started=st.booleans(),
    stop=st.sampled_from([None, CANCEL]),
)


@given(st.lists(founds, max_size=3, unique_by=lambda each: each.ref), st.lists(inputs, max_size=40))
def test_any_inputs_have_an_answer_and_break_no_rule(found: list[Found], events: list[Input]) -> None:
    state, _ = step(SessionState(incarnation=OWN), Begun(tuple(found)))
    for event in events:
        before = state
        state, actions = step(before, event)
        hash(state)  # a search keeps the states it has seen
        kinds = [isinstance(action, WRITES) for action in actions]
        assert kinds == sorted(kinds, reverse=True), "a write after another action"
        for action in actions:
            match action:
                case Launch(ref):
                    launched = attempt_of(state, ref)
                    assert state.phase is SessionPhase.JOINED
                    assert launched is not None and launched.seq > state.joined - 1
                    already = attempt_of(before, ref)
                    assert already is None or already.place is AttemptPlace.WAITING
                    assert launched.prepared
                case AppendStarted() | AppendEnd() | Ack():
                    assert state.joined > 0
                case _:
                    pass
        up = [
            each for each in state.attempts if each.place is AttemptPlace.UP and each.seq >= state.joined > 0
        ]
        launched_now = {action.ref for action in actions if isinstance(action, Launch)}
        for one in up:
            for other in up:
                if one.ref != other.ref and launched_now & {one.ref, other.ref}:
                    assert one.ref.run_id != other.ref.run_id
                    assert set(one.slots).isdisjoint(other.slots)
