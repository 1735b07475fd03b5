"""What is taken of one account: its rate in any window, what is answered beyond it, and nothing of another's."""

from __future__ import annotations

import bisect

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.access.identities import PersonRole
from services.admission import (
    DEFAULT_RATE,
    LOCAL_RATE,
    LOOK_AGAIN_S,
    REFUSED_RATE,
    TURN_WITHIN_S,
    AccountLine,
    Admission,
    Rate,
    Taking,
    rate_of,
    spend,
)
from services.people import Everybody, Rights
from trainshed_client.errors import ErrorCode

rates = st.builds(Rate, st.floats(0.05, 1_000), st.integers(1, 500))
gaps = st.lists(st.floats(0, 3), min_size=1, max_size=300)
SLACK = 0.01
MOST = round(DEFAULT_RATE.burst + DEFAULT_RATE.per_s * TURN_WITHIN_S)
"""Of an account after a pause."""


class Roster:
    """People as a test has them."""

    def __init__(self, **rights: Rights) -> None:
        self.known = rights

    def rights(self, name: str) -> Rights | None:
        return self.known.get(name)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def taken(rate: Rate, moments: list[float]) -> list[float]:
    full_at = float("-inf")
    out = []
    for now in moments:
        then = spend(full_at, now, rate)
        if then is not None:
            full_at = then
            out.append(now)
    return out


def moments_of(between: list[float], begin: float = 1e6) -> list[float]:
    out = []
    for gap in between:
        begin += gap
        out.append(begin)
    return out


@given(rates, gaps)
@example(Rate(1.0, 1), [0.0] * 50)
def test_no_window_has_more_than_its_burst_and_its_rate(rate: Rate, between: list[float]) -> None:
    got = taken(rate, moments_of(between))
    for first, begin in enumerate(got):
        for last in range(first, len(got)):
            assert last - first + 1 <= rate.burst + rate.per_s * (got[last] - begin) + SLACK


@given(rates, gaps)
def test_whoever_keeps_to_the_rate_is_never_refused(rate: Rate, between: list[float]) -> None:
    slow = moments_of([gap + 1 / rate.per_s for gap in between])
    assert taken(rate, slow) == slow


@given(rates, gaps)
def test_after_a_pause_the_whole_burst_is_there_again(rate: Rate, between: list[float]) -> None:
    before = moments_of(between)
    later = before[-1] + rate.burst / rate.per_s
    got = taken(rate, before + [later] * (rate.burst + 3))
    assert len(got) - bisect.bisect_left(got, later) == rate.burst


@given(rates, gaps)
def test_every_one_that_is_taken_has_its_turn_in_time_and_turns_keep_to_the_rate(
    rate: Rate, between: list[float]
) -> None:
    line = AccountLine(rate, 0.0)
    turns = []
    for now in moments_of(between):
        if line.take(now) is Taking.TAKEN:
            pause = line.turn(now)
            assert 0 <= pause <= TURN_WITHIN_S + SLACK
            turns.append(now + pause)
    assert turns == sorted(turns)
    for first, begin in enumerate(turns):
        for last in range(first, len(turns)):
            assert last - first + 1 <= rate.burst + rate.per_s * (turns[last] - begin) + SLACK


def test_a_rate_that_somebody_gave_has_a_burst_of_a_second_and_of_one_at_least() -> None:
    assert rate_of(None) == DEFAULT_RATE
    assert rate_of(50) == Rate(50, 50)
    assert rate_of(0.1) == Rate(0.1, 1)


def test_a_flood_is_taken_then_refused_then_dropped_and_another_account_hears_nothing_of_it() -> None:
    clock = Clock()
    admission = Admission(Everybody(), clock)
    flood = [admission.take("P_sam") for _ in range(20_000)]
    assert flood[:MOST] == [Taking.TAKEN] * MOST
    assert flood.count(Taking.TAKEN) == MOST
    assert flood.count(Taking.REFUSED) == REFUSED_RATE.burst
    assert flood[-1] is Taking.DROPPED
    assert {admission.take("P_ada") for _ in range(MOST)} == {Taking.TAKEN}
    clock.now += 1
    again = [admission.take("P_sam") for _ in range(20_000)]
    assert again.count(Taking.TAKEN) == DEFAULT_RATE.per_s


def test_the_local_person_has_a_rate_of_his_own_and_a_node_has_the_default() -> None:
    admission = Admission(Roster(local=Rights(role=PersonRole.VIEWER, rate=1)), Clock())
    flood = [admission.take("P_local") for _ in range(20_000)]
    assert flood.count(Taking.TAKEN) == LOCAL_RATE.burst + TURN_WITHIN_S * LOCAL_RATE.per_s
    assert flood[-1] is Taking.DROPPED
    assert [admission.take("NODE_gpu01") for _ in range(MOST + 1)][-1] is Taking.REFUSED


def test_a_rate_counts_soon_after_it_was_changed() -> None:
    clock = Clock()
    roster = Roster(sam=Rights(role=PersonRole.SUBMITTER, rate=1))
    admission = Admission(roster, clock)
    assert [admission.take("P_sam") for _ in range(4)] == [Taking.TAKEN] * 3 + [Taking.REFUSED]
    roster.known["sam"] = Rights(role=PersonRole.SUBMITTER, rate=100)
    clock.now += LOOK_AGAIN_S + 0.5
    assert [admission.take("P_sam") for _ in range(50)] == [Taking.TAKEN] * 50


def test_what_waits_has_a_bound_in_number_and_in_bytes() -> None:
    line = AccountLine(DEFAULT_RATE, 0.0)
    for _ in range(DEFAULT_RATE.waiting):
        assert line.has_room(10)
        line.begin(10)
    assert not line.has_room(10)
    line.end(10)
    assert line.has_room(10)
    assert not line.has_room(DEFAULT_RATE.waiting_bytes)


def test_it_is_logged_now_and_then_with_how_many_there_were() -> None:
    clock = Clock()
    admission = Admission(Everybody(), clock)
    for _ in range(MOST + 5):
        admission.take("P_sam")
    assert admission.dropped_of("P_sam") == 5
    admission.take("P_sam")
    assert admission.dropped_of("P_sam") is None
    clock.now += 31
    assert admission.dropped_of("P_sam") == 1


@pytest.mark.parametrize(("account", "advised"), [("P_sam", True), ("NODE_gpu01", False)])
def test_the_refusal_names_the_rate_and_what_to_do(account: str, advised: bool) -> None:
    roster = Roster(sam=Rights(role=PersonRole.SUBMITTER, rate=50))
    error = Admission(roster, Clock()).refusal(account)
    assert error.code is ErrorCode.TOO_MANY
    assert ("50 a second" if advised else "100 a second") in error.message
    assert ("trainshed user add sam --rate" in error.message) is advised
