"""What the keeper of nats-server makes of its looks: told once, and no restart without a reason."""

from __future__ import annotations

import itertools

import pytest

from services.nats_server.monitor import Health, HealthAnswer
from services.nats_server.nats_supervisor import (
    HUNG_LOOKS,
    RESTART_PAUSE_MAX_S,
    RESTART_PAUSE_S,
    ROOM_BYTES,
    SLOW_LOOKS,
    Act,
    Watch,
    after_look,
)

OK, SLOW, SILENT = HealthAnswer(Health.OK), HealthAnswer(Health.SLOW), HealthAnswer(Health.SILENT)
FAILING = HealthAnswer(Health.FAILING, "no space left on device")


def acts(*looks: tuple[HealthAnswer, int | None, float]) -> list[Act]:
    """What is done look by look: what it said, bytes free, and when."""
    watch, done = Watch(), []
    for said, free, now in looks:
        watch, act = after_look(watch, said, free, now)
        done.append(act)
    return done


def test_a_server_that_is_well_is_left_alone() -> None:
    assert acts(*[(OK, None, n) for n in range(3)], (SLOW, None, 3), (OK, None, 4)) == [Act.NOTHING] * 5


def test_silence_is_told_once_and_ended_only_when_it_goes_on() -> None:
    hung = [(SILENT, None, float(n)) for n in range(HUNG_LOOKS)]
    assert acts(*hung) == [Act.LOG_SILENT, *[Act.NOTHING] * (HUNG_LOOKS - 2), Act.END_HUNG]
    # still silent, one that is opening a long log among them: it is not killed at once
    assert acts(*hung, (SILENT, None, 9.0))[-1] is Act.NOTHING
    # an answer in between begins the count anew
    assert Act.END_HUNG not in acts(*hung[:-1], (SLOW, None, 5.0), *hung[:-1])
    assert acts(hung[0], (OK, None, 5.0)) == [Act.LOG_SILENT, Act.LOG_WELL]


def test_a_store_that_hangs_is_told_once_and_no_reason_to_end_a_server_that_lives() -> None:
    done = acts(*[(SLOW, None, float(n)) for n in range(3 * SLOW_LOOKS)], (OK, None, 99.0))
    assert [act for act in done if act is not Act.NOTHING] == [Act.LOG_SLOW, Act.LOG_WELL]


def test_on_a_full_disk_it_waits_for_room_and_then_starts_it_again() -> None:
    full = [(FAILING, ROOM_BYTES - 1, float(n)) for n in range(5)]
    assert acts(*full) == [Act.LOG_FULL, *[Act.NOTHING] * 4]
    assert acts(*full, (FAILING, ROOM_BYTES, 6.0), (OK, None, 8.0))[-2:] == [Act.RESTART, Act.LOG_WELL]
    # full again soon after: told again
    again = acts(*full, (FAILING, ROOM_BYTES, 6.0), (FAILING, 0, 8.0))
    assert again[-1] is Act.LOG_FULL


def test_one_look_that_finds_it_failing_is_no_reason() -> None:
    assert acts((FAILING, ROOM_BYTES, 0.0), (OK, None, 2.0)) == [Act.NOTHING, Act.LOG_WELL]


@pytest.mark.parametrize("free", [None, ROOM_BYTES])
def test_one_that_goes_on_failing_is_started_again_ever_more_seldom(free: int | None) -> None:
    now, restarts = 0.0, []
    watch = Watch()
    for _ in range(2_000):
        watch, act = after_look(watch, FAILING, free, now)
        if act is Act.RESTART:
            restarts.append(now)
        now += 2.0
    pauses = [later - earlier for earlier, later in itertools.pairwise(restarts)]
    assert pauses[0] == RESTART_PAUSE_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == RESTART_PAUSE_MAX_S
