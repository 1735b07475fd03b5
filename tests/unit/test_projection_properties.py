"""Whatever the log holds and however it is cut: the same rows and the same state hash."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.random_log import ComingAndGoing, RandomLog
from tests.support.read_model import dump, fold, kept_hash, memory, recomputed_hash
from trainshed_client.direct_get import Message


def _log(seed: int, events: int) -> list[Message]:
    log = RandomLog(seed) if seed % 2 else ComingAndGoing(seed)
    for _ in range(events):
        log.grow()
    return log.messages


def _cut(messages: list[Message], seed: int) -> list[list[Message]]:
    chooser = random.Random(seed)
    batches, at = [], 0
    while at < len(messages):
        size = chooser.choice([1, 1, 2, 5, 40])
        batches.append(messages[at : at + size])
        at += size
    return batches


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**9), events=st.integers(1, 150), cut=st.integers(0, 10**9))
def test_any_batching_and_any_restart_give_the_same_rows_and_hash(seed: int, events: int, cut: int) -> None:
    messages = _log(seed, events)
    whole, cut_up, restarted = memory(), memory(), memory()
    fold(whole, [messages])
    fold(cut_up, _cut(messages, cut))
    fold(restarted, _cut(messages, cut + 1), reopen=True)
    expected = dump(whole)
    assert dump(cut_up) == expected
    assert dump(restarted) == expected
    assert kept_hash(expected) == recomputed_hash(expected)
    for database in (whole, cut_up, restarted):
        database.close()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**9), repeat=st.integers(0, 60))
def test_messages_that_come_again_change_nothing(seed: int, repeat: int) -> None:
    messages = _log(seed, 60)
    once, twice = memory(), memory()
    fold(once, [messages])
    fold(twice, [messages, messages[repeat:]], reopen=True)
    assert dump(once) == dump(twice)
