"""The shim's pure step: limits, stop and end. Each test tells the core what happened and reads what it wants done."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.shim import notify
from services.agent.shim.core import KILL_AGAIN_MAX_S, MAX_METRICS, next_deadline, step
from services.agent.shim.core_types import (
    Action,
    CheckOutput,
    EndedBeforeExec,
    ExecFailed,
    Fields,
    HandedIn,
    Input,
    KeepMetrics,
    KillTree,
    Limits,
    Notified,
    OutOfMemory,
    OutputGrew,
    PassedOver,
    Reason,
    Released,
    SendToAgent,
    ShimMessage,
    ShimPhase,
    ShimState,
    SignalTree,
    Source,
    StopAsked,
    Tick,
    TreeGone,
    WorkerExited,
    WriteExit,
)
from services.agent.shim.values import replace
from trainshed_client.rendering import passed_over

LIMITS = Limits(stop_signal=15, grace_s=5.0)
NOTIFY = replace(LIMITS, source=Source.NOTIFY, heartbeat_timeout_s=30.0)
OUTPUT = replace(LIMITS, source=Source.OUTPUT, heartbeat_timeout_s=30.0)


def play(limits: Limits, *events: Input) -> tuple[ShimState, list[Action]]:
    """The state and the last input's actions, after the worker exec'd at 100.0."""
    state, _ = step(ShimState(limits), Released(100.0, 42))
    actions: tuple[Action, ...] = ()
    for event in events:
        state, actions = step(state, event)
    return state, list(actions)


def ended(actions: list[Action]) -> WriteExit:
    (found,) = [action for action in actions if isinstance(action, WriteExit)]
    return found


def test_a_started_worker_is_told_and_without_limits_no_time_matters() -> None:
    state, actions = step(ShimState(LIMITS), Released(100.0, 42))
    assert actions == (SendToAgent(ShimMessage.STARTED),)
    assert next_deadline(state) is None


def test_an_exit_by_itself_ends_what_was_left_behind_before_it_is_written() -> None:
    state, actions = play(LIMITS, WorkerExited(103.0, 3, None))
    assert actions == [SignalTree(15)]
    assert next_deadline(state) == 108.0
    state, last = step(state, Tick(108.0))
    assert last == (KillTree(),)
    _, last = step(state, TreeGone(108.5))
    end = ended(list(last))
    assert (end.reason, end.exit_code, end.signal, end.stop_reason) == (Reason.EXITED, 3, None, None)
    assert end.duration_s == 3.0


@pytest.mark.parametrize("exit_code, signal", [(None, 9), (1, None)])
def test_a_worker_that_failed_after_the_kernel_ended_a_process_of_it_was_out_of_memory(
    exit_code: int | None, signal: int | None
) -> None:
    _, actions = play(LIMITS, WorkerExited(101.0, exit_code, signal, "too much"), TreeGone(101.0))
    end = ended(actions)
    assert (end.reason, end.message, end.signal) == (Reason.OUT_OF_MEMORY, "too much", signal)


@pytest.mark.parametrize(
    ("exit_code", "signal", "reason"), [(0, None, Reason.EXITED), (None, 15, Reason.SIGNALLED)]
)
def test_what_the_worker_survived_is_not_its_end(
    exit_code: int | None, signal: int | None, reason: Reason
) -> None:
    _, actions = play(LIMITS, WorkerExited(101.0, exit_code, signal, "too much"), TreeGone(101.0))
    assert (ended(actions).reason, ended(actions).message) == (reason, None)


def test_a_tree_that_lost_a_process_for_memory_is_killed_at_once() -> None:
    _state, actions = play(LIMITS, OutOfMemory(101.0, "too much"))
    assert actions == [KillTree()]
    _, actions = play(
        LIMITS, OutOfMemory(101.0, "too much"), WorkerExited(101.1, None, 9, "too much"), TreeGone(101.2)
    )
    assert (ended(actions).reason, ended(actions).message) == (Reason.OUT_OF_MEMORY, "too much")


def test_a_stop_that_came_first_stays_the_reason() -> None:
    _, actions = play(
        LIMITS,
        StopAsked(101.0, "cancel"),
        OutOfMemory(101.5, "too much"),
        WorkerExited(102.0, None, 9, "too much"),
        TreeGone(102.0),
    )
    assert (ended(actions).reason, ended(actions).stop_reason) == (Reason.STOPPED, "cancel")


def test_a_signal_is_an_end_of_its_own_kind() -> None:
    _, actions = play(LIMITS, WorkerExited(101.0, None, 9), TreeGone(101.0))
    assert (ended(actions).reason, ended(actions).signal) == (Reason.SIGNALLED, 9)


@pytest.mark.parametrize("reason", ["cancel", "ended", "reclaimed"])
def test_a_stop_signals_the_tree_and_the_exit_keeps_the_workers_own_code(reason: str) -> None:
    _, actions = play(LIMITS, StopAsked(101.0, reason))
    assert actions == [SignalTree(15)]
    _, actions = play(LIMITS, StopAsked(101.0, reason), WorkerExited(102.0, 0, None), TreeGone(102.0))
    end = ended(actions)
    assert (end.reason, end.exit_code, end.stop_reason) == (Reason.STOPPED, 0, reason)


def test_sigkill_is_repeated_more_and_more_slowly_until_the_tree_is_gone() -> None:
    state, actions = play(LIMITS, StopAsked(101.0, "cancel"), Tick(106.0))
    assert actions == [KillTree()]
    due = 0.0
    for _ in range(10):
        due = next_deadline(state) or 0.0
        assert due
        state, again = step(state, Tick(due))
        assert again == (KillTree(),)
    later = next_deadline(state)
    assert later is not None
    assert later - due == KILL_AGAIN_MAX_S


def test_without_grace_the_tree_is_killed_at_once() -> None:
    _, actions = play(replace(LIMITS, grace_s=0.0), StopAsked(101.0, "cancel"))
    assert actions == [KillTree()]


def test_a_stop_after_the_worker_went_by_itself_changes_nothing() -> None:
    _, actions = play(LIMITS, WorkerExited(101.0, 0, None), StopAsked(101.1, "cancel"), TreeGone(101.2))
    end = ended(actions)
    assert (end.reason, end.exit_code, end.stop_reason) == (Reason.EXITED, 0, None)


def test_a_stop_while_coming_up_ends_what_waits_there_and_the_agent_writes_the_end() -> None:
    state, actions = step(ShimState(LIMITS), StopAsked(99.0, "cancel"))
    assert (actions, next_deadline(state)) == ((SignalTree(15),), 104.0)
    state, actions = step(state, Tick(104.0))
    assert (actions, state.phase) == ((KillTree(),), ShimPhase.COMING_UP)
    state, actions = step(state, EndedBeforeExec())
    assert (actions, state.phase, next_deadline(state)) == ((), ShimPhase.GONE, None)


def test_a_worker_that_execs_all_the_same_has_its_stop_signal_and_its_grace() -> None:
    state, _ = step(ShimState(LIMITS), StopAsked(99.0, "cancel"))
    state, actions = step(state, Released(103.0, 42))
    assert actions == (SendToAgent(ShimMessage.STARTED), SignalTree(15))
    assert next_deadline(state) == 108.0
    state, _ = step(state, WorkerExited(104.0, 3, None))
    _, actions = step(state, TreeGone(104.0))
    end = ended(list(actions))
    assert (end.reason, end.exit_code, end.stop_reason) == (Reason.STOPPED, 3, "cancel")


def test_the_time_limit_counts_from_exec() -> None:
    state, _ = play(replace(LIMITS, max_duration_s=60.0))
    assert next_deadline(state) == 160.0
    assert step(state, Tick(159.9))[1] == ()
    _, actions = play(
        replace(LIMITS, max_duration_s=60.0), Tick(160.0), WorkerExited(161.0, 0, None), TreeGone(161.0)
    )
    end = ended(actions)
    assert (end.reason, end.timeout_s, end.exit_code) == (Reason.TIME_LIMIT, 60.0, 0)


def test_silence_ends_a_notify_worker_and_each_datagram_puts_it_off() -> None:
    state, _ = play(NOTIFY, Notified(120.0, Fields()))
    assert step(state, Tick(149.9))[1] == ()
    _, actions = step(state, Tick(150.0))
    assert actions == (SignalTree(15),)
    _, last = play(NOTIFY, Tick(130.0), WorkerExited(131.0, None, 15), TreeGone(131.0))
    assert (ended(last).reason, ended(last).timeout_s) == (Reason.WORKER_TIMEOUT, 30.0)


def test_a_cancel_while_a_time_out_winds_down_is_told_beside_it() -> None:
    _, actions = play(
        NOTIFY, Tick(130.0), StopAsked(130.1, "cancel"), WorkerExited(131.0, None, 15), TreeGone(131.0)
    )
    assert (ended(actions).reason, ended(actions).stop_reason) == (Reason.WORKER_TIMEOUT, "cancel")


@pytest.mark.parametrize("source", [Source.PROCESS, Source.OUTPUT])
def test_datagrams_are_no_sign_of_life_for_other_sources(source: Source) -> None:
    state, _ = play(replace(NOTIFY, source=source), Notified(120.0, Fields()))
    assert next_deadline(state) == (None if source is Source.PROCESS else 130.0)


def test_output_is_looked_at_only_when_its_time_is_due() -> None:
    state, actions = play(OUTPUT, Tick(129.0))
    assert actions == []
    state, again = step(state, Tick(130.0))
    assert again == (CheckOutput(),)
    grown, _ = step(state, OutputGrew(130.0, 126.0))
    assert next_deadline(grown) == 156.0
    _, silent = step(state, OutputGrew(130.0, 90.0))
    assert silent == (SignalTree(15),)


def test_output_that_grew_right_after_the_last_look_does_not_put_it_off() -> None:
    state, _ = play(OUTPUT, Tick(130.0))
    _, actions = step(state, OutputGrew(130.0, 100.0))
    assert actions == (SignalTree(15),)


def sent(actions: Iterable[Action]) -> tuple[Action, ...]:
    return tuple(action for action in actions if isinstance(action, SendToAgent))


def test_the_agent_is_told_the_first_word_and_ready_at_once_and_the_rest_once_a_second() -> None:
    told = (SendToAgent(ShimMessage.HEARTBEAT),)
    state, _ = play(LIMITS)
    state, actions = step(state, Notified(101.0, Fields(step=1)))
    assert sent(actions) == told
    state, actions = step(state, Notified(101.2, Fields(step=2)))
    assert sent(actions) == ()
    state, actions = step(state, Notified(101.3, Fields(ready=True)))
    assert sent(actions) == told
    state, actions = step(state, Notified(101.4, Fields(step=3, metrics=(("reward", 1.5),))))
    assert sent(actions) == ()
    assert next_deadline(state) == 102.3
    state, actions = step(state, Tick(102.3))
    assert sent(actions) == told
    assert next_deadline(state) is None
    assert (state.heartbeat.ready_at, state.heartbeat.step) == (101.3, 3)
    assert state.heartbeat.metrics == (("reward", 1.5),)


def test_every_message_with_a_step_or_a_metric_is_kept_as_it_was() -> None:
    state, _ = play(LIMITS)
    told = [
        Fields(step=1, progress=0.5, metrics=(("loss", 2.0),)),
        Fields(metrics=(("loss", 1.0), ("reward", 3.0))),
        Fields(progress=0.75, status_text="half", ready=True),
        Fields(step=2),
    ]
    kept: list[Action] = []
    for number, fields in enumerate(told):
        state, actions = step(state, Notified(101.0 + number / 10, fields))
        kept += [action for action in actions if isinstance(action, KeepMetrics)]
    assert kept == [
        KeepMetrics(1, 0.5, (("loss", 2.0),)),
        KeepMetrics(None, None, (("loss", 1.0), ("reward", 3.0))),
        KeepMetrics(2, None, ()),
    ]


def test_a_line_of_stdout_counts_once_and_is_no_sign_of_life() -> None:
    state, _ = play(NOTIFY)
    kept: list[Action] = []
    for now, offset, number in (
        (101.0, 0, 1.0),
        (102.0, 40, 2.0),
        (103.0, 0, 1.0),
        (104.0, 40, 2.0),
        (105.0, 80, 3.0),
    ):
        state, actions = step(
            state, HandedIn(now, offset, Fields(step=offset, metrics=(("reward", number),)))
        )
        kept += [action for action in actions if isinstance(action, KeepMetrics)]
    assert kept == [KeepMetrics(at, None, (("reward", at / 40 + 1),), at) for at in (0, 40, 80)]
    assert (state.heartbeat.step, state.heartbeat.metrics) == (80, (("reward", 3.0),))
    assert state.heartbeat.last_heartbeat_at is None
    assert next_deadline(replace(state, unsent=False)) == 130.0
    _, actions = step(state, Tick(130.0))
    assert SignalTree(15) in actions


def test_metric_names_are_bounded_and_what_is_kept_has_no_others() -> None:
    state, _ = play(LIMITS)
    kept = set()
    for number in range(3 * MAX_METRICS):
        state, actions = step(state, Notified(101.0 + number, Fields(metrics=((f"m{number}", 1.0),))))
        kept |= {name for action in actions if isinstance(action, KeepMetrics) for name, _ in action.metrics}
    assert len(state.heartbeat.metrics) == MAX_METRICS
    assert kept == {name for name, _ in state.heartbeat.metrics}
    assert state.heartbeat.passed_over == ((PassedOver.TOO_MANY, f"m{MAX_METRICS}"),)


def test_a_failed_exec_is_written_at_once() -> None:
    state, actions = step(ShimState(LIMITS), ExecFailed(100.0, "/x/y: no such file"))
    assert (ended(list(actions)).reason, ended(list(actions)).message) == (
        Reason.SPAWN_ERROR,
        "/x/y: no such file",
    )
    assert state.phase is ShimPhase.GONE


times = st.floats(0, 1000)
inputs = st.one_of(
    st.builds(Released, times, st.just(42)),
    st.builds(ExecFailed, times, st.just("no")),
    st.just(EndedBeforeExec()),
    st.builds(WorkerExited, times, st.integers(0, 255), st.none()),
    st.builds(WorkerExited, times, st.none(), st.integers(1, 64)),
    st.builds(Notified, times, st.builds(Fields, st.booleans(), st.none() | st.integers(0, 9))),
    st.builds(WorkerExited, times, st.none(), st.just(9), st.just("too much")),
    st.builds(OutOfMemory, times, st.just("too much")),
    st.builds(
        HandedIn, times, st.integers(0, 9), st.builds(Fields, st.just(False), st.none() | st.integers(0, 9))
    ),
    st.builds(OutputGrew, times, times),
    st.builds(StopAsked, times, st.sampled_from(["cancel", "ended", "reclaimed"])),
    st.builds(Tick, times),
    st.builds(TreeGone, times),
)
limits = st.builds(
    Limits,
    st.just(15),
    st.sampled_from([0.0, 5.0]),
    st.none() | st.floats(0.1, 500),
    st.sampled_from(Source),
    st.none() | st.floats(0.1, 500),
)


@given(limits, st.lists(inputs, max_size=30))
def test_any_input_in_any_state_has_an_answer_and_the_end_is_written_once(
    chosen: Limits, events: list[Input]
) -> None:
    state = ShimState(chosen)
    order = list(ShimPhase)
    written = 0
    never_ran = False
    for event in events:
        never_ran |= state.phase is ShimPhase.COMING_UP and isinstance(event, EndedBeforeExec)
        before = state.phase
        state, actions = step(state, event)
        next_deadline(state)
        assert order.index(state.phase) >= order.index(before)
        written += sum(isinstance(action, WriteExit) for action in actions)
        if before is ShimPhase.GONE:
            assert actions == ()
    assert written == (state.phase is ShimPhase.GONE and not never_ran)


@given(limits, st.lists(inputs, max_size=20))
def test_once_the_worker_is_gone_time_alone_leads_to_sigkill(chosen: Limits, events: list[Input]) -> None:
    state = ShimState(chosen)
    for event in [*events, WorkerExited(2000.0, 0, None)]:
        state, _ = step(state, event)
    if state.phase is ShimPhase.GONE:
        return
    killed = False
    for _ in range(5):
        due = next_deadline(state)
        assert due is not None
        state, actions = step(state, Tick(max(due, 2000.0)))
        killed = killed or KillTree() in actions
    assert killed


# sd_notify datagrams


def test_a_datagram_says_what_systemd_services_and_trainers_say() -> None:
    fields = notify.parse(
        b"READY=1\nSTATUS=step 1200 reward 195\nX_STEP=1200\nX_PROGRESS=0.24\nX_METRIC_reward=195\nMAINPID=7"
    )
    assert fields == Fields(
        ready=True, step=1200, progress=0.24, status_text="step 1200 reward 195", metrics=(("reward", 195.0),)
    )


@pytest.mark.parametrize(
    "datagram", [b"WATCHDOG=1", b"READY=1", b"STATUS=", b"X_STEP=1", b"\xff\xfe\nWATCHDOG=1\n"]
)
def test_one_known_key_is_a_heartbeat(datagram: bytes) -> None:
    assert notify.parse(datagram) is not None


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"hello",
        b"\xff\xfe\x00",
        b"MAINPID=7\nSTOPPING=1",
        b"X_SYSTEMD_A=1",
        b"READY=0",
        b"WATCHDOG=trigger",
    ],
)
def test_garbage_is_no_heartbeat(datagram: bytes) -> None:
    assert notify.parse(datagram) is None


@pytest.mark.parametrize(
    "name",
    ["acc@1", "loss/train", "eval.reward", "Loss (val)", "perte d'été", "損失", "a,b;c", '"q"', "n" * 100],
)
def test_metrics_are_called_as_people_write_them(name: str) -> None:
    fields = notify.parse(f"X_METRIC_{name}=0.5\nX_PRIMARY={name}".encode())
    assert fields is not None
    assert (fields.metrics, fields.primary_metric) == (((name, 0.5),), name)


@pytest.mark.parametrize(("text", "value"), [("nan", math.nan), ("inf", math.inf), ("-inf", -math.inf)])
def test_a_metric_that_is_not_finite_is_a_value_and_a_sign_of_life(text: str, value: float) -> None:
    state, _ = play(NOTIFY, Notified(101.0, Fields(metrics=(("loss", 0.5),))))
    fields = notify.parse(f"X_METRIC_loss={text}".encode())
    assert fields is not None
    state, _ = step(state, Notified(120.0, fields))
    assert repr(state.heartbeat.metrics) == repr((("loss", value),))
    assert next_deadline(replace(state, unsent=False)) == 150.0


def test_what_matters_most_stays_until_another_is_named() -> None:
    state, _ = play(LIMITS, Notified(101.0, Fields(primary_metric="reward")), Notified(102.0, Fields(step=1)))
    assert state.heartbeat.primary_metric == "reward"
    state, _ = step(state, Notified(103.0, Fields(primary_metric="loss")))
    assert state.heartbeat.primary_metric == "loss"


LONG = "n" * 101


@pytest.mark.parametrize(
    ("line", "kind", "told"),
    [
        ("X_STEP=many", "value", "X_STEP=many"),
        ("X_STEP=1.5", "value", "X_STEP=1.5"),
        ("X_STEP=inf", "value", "X_STEP=inf"),
        ("X_STEP=9007199254740992", "value", "X_STEP=9007199254740992"),
        (f"X_STEP={'9' * 5000}", "value", f"X_STEP={'9' * 93}"),
        ("X_PROGRESS=nan", "value", "X_PROGRESS=nan"),
        ("X_PROGRESS=24%", "value", "X_PROGRESS=24%"),
        ("X_METRIC_loss=1,5", "value", "X_METRIC_loss=1,5"),
        ("X_METRIC_loss=1e400", "value", "X_METRIC_loss=1e400"),
        ("X_METRIC_a=b=1", "value", "X_METRIC_a=b=1"),
        ("READY=true", "value", "READY=true"),
        ("X_METRIC_=1", "name", ""),
        ("X_METRIC_ a=1", "name", " a"),
        ("X_METRIC_a =1", "name", "a "),
        ("X_METRIC_a\tb=1", "name", "a b"),
        ("X_METRIC_a\u2028b=1", "name", "a b"),
        (f"X_METRIC_{LONG}=1", "name", LONG[:100]),
        ("X_PRIMARY=", "name", ""),
        ("X_PRIMARY=a=b", "name", "a=b"),
        ("X_STEPS=5", "key", "X_STEPS"),
        ("x_step=5", "key", "x_step"),
        ("X_STEP: 5", "key", "X_STEP: 5"),
        ("password=hunter2", "key", "password"),
    ],
)
def test_what_cannot_be_taken_is_said_and_the_rest_counts(line: str, kind: str, told: str) -> None:
    assert notify.parse(line.encode()) == Fields(alive=False, passed_over=((PassedOver(kind), told),))
    read = notify.parse(f"X_METRIC_a=1\n{line}\nX_METRIC_b=2\n{line}".encode())
    assert read == Fields(metrics=(("a", 1.0), ("b", 2.0)), passed_over=((PassedOver(kind), told),))


def test_a_name_that_is_no_utf_8_is_passed_over() -> None:
    assert notify.parse(b"X_METRIC_a\xff=1") == Fields(
        alive=False, passed_over=((PassedOver.NAME, "a\ufffd"),)
    )


def test_what_is_passed_over_is_said_once_and_is_no_sign_of_life() -> None:
    state, _ = play(NOTIFY, Notified(101.0, Fields(step=1)))
    garbage = notify.parse(b"X_STEP=many")
    assert garbage is not None
    state, actions = step(state, Notified(120.0, garbage))
    assert actions == (SendToAgent(ShimMessage.HEARTBEAT),)
    assert (state.heartbeat.last_heartbeat_at, next_deadline(state)) == (101.0, 131.0)
    assert step(state, Notified(130.0, garbage)) == (state, ())


def test_of_each_kind_the_first_that_was_passed_over_is_kept() -> None:
    first, second = (PassedOver.VALUE, "X_STEP=a"), (PassedOver.VALUE, "X_STEP=b")
    state, _ = play(LIMITS, Notified(101.0, Fields(passed_over=(first,))))
    state, _ = step(state, Notified(102.0, Fields(passed_over=(second, (PassedOver.KEY, "A")))))
    assert dict(state.heartbeat.passed_over) == {PassedOver.VALUE: "X_STEP=a", PassedOver.KEY: "A"}


def test_a_datagram_that_was_cut_is_read_up_to_its_last_whole_line() -> None:
    room = notify.MAX_DATAGRAM - len("X_METRIC_a=123456") - 1
    first = f"X_STEP=7\n{'STATUS='.ljust(room - 13, 'x')}\n"
    for cut in range(3, 15):
        datagram = f"{first}{'Y' * (room - len(first) + cut - 3)}\nX_METRIC_a=123456\nX_METRIC_b=1\n".encode()
        read = notify.parse(datagram[: notify.MAX_DATAGRAM + 1])  # as recv() gives it
        assert read is not None
        assert (read.step, PassedOver.CUT in dict(read.passed_over)) == (7, True)
        assert read.metrics in ((), (("a", 123456.0),))
        assert bool(read.metrics) == (datagram.index(b"\nX_METRIC_b") <= notify.MAX_DATAGRAM)


def test_the_longest_datagram_is_read_whole_and_one_long_line_is_none() -> None:
    last = b"\nX_METRIC_a=123456"
    whole = b"STATUS=" + b"x" * (notify.MAX_DATAGRAM - 7 - len(last)) + last
    read = notify.parse(whole)
    assert read is not None
    assert (len(whole), read.metrics, read.passed_over) == (notify.MAX_DATAGRAM, (("a", 123456.0),), ())
    assert notify.parse(b"X_METRIC_a=" + b"1" * notify.MAX_DATAGRAM) == Fields(
        alive=False, passed_over=((PassedOver.CUT, ""),)
    )


def test_every_kind_has_a_sentence_and_its_bounds_are_those_that_hold() -> None:
    told = {kind.value: "X_METRIC_a=b" for kind in PassedOver}
    assert not [text for text in passed_over.texts(told) if text.endswith(")") and "X_METRIC_a=b (" in text]
    assert (passed_over.MAX_METRICS, passed_over.MAX_NAME, passed_over.MAX_DATAGRAM) == (
        MAX_METRICS,
        notify.MAX_NAME,
        notify.MAX_DATAGRAM,
    )


@given(st.binary(max_size=20_000) | st.binary(max_size=200).map(lambda part: part * 700))
def test_no_datagram_harms(datagram: bytes) -> None:
    fields = notify.parse(datagram)
    assert fields is None or len(fields.metrics) <= MAX_METRICS
