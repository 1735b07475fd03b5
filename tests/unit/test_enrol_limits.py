"""How many connections the enrolment's listener takes."""

from __future__ import annotations

from services.enrol.limits import (
    ADDRESS_BURST,
    ADDRESS_RATE,
    BURST,
    MOST_ADDRESSES,
    MOST_OPEN,
    MOST_OPEN_OF_ADDRESS,
    RATE,
    ConnectionLimits,
)


def calls(limits: ConnectionLimits, addresses: list[str], now: float) -> int:
    """How many of these are taken, each over at once."""
    taken = 0
    for address in addresses:
        if limits.begin(address, now):
            taken += 1
            limits.end(address)
    return taken


def test_five_a_second_over_all_addresses() -> None:
    limits = ConnectionLimits(0.0)
    many = [f"10.0.{n // 250}.{n % 250}" for n in range(500)]
    assert calls(limits, many, 0.0) == BURST
    assert sum(calls(limits, many, 1.0 + second) for second in range(20)) == 20 * RATE


def test_one_address_alone_leaves_room_for_the_others() -> None:
    limits = ConnectionLimits(0.0)
    assert calls(limits, ["a"] * 50, 0.0) == ADDRESS_BURST
    for second in range(1, 20):
        assert calls(limits, ["a"] * 20, float(second)) == ADDRESS_RATE
        assert limits.begin("b", float(second))
        limits.end("b")


def test_open_ones_are_bounded_of_one_address_and_of_all() -> None:
    limits = ConnectionLimits(0.0)
    taken = [limits.begin("a", float(second)) for second in range(50)]
    assert sum(taken) == MOST_OPEN_OF_ADDRESS
    taken = [limits.begin(f"b{second}", 100.0 + second) for second in range(50)]
    assert sum(taken) == MOST_OPEN - MOST_OPEN_OF_ADDRESS
    limits.end("a")
    assert limits.begin("c", 200.0)


def test_a_clock_that_steps_back_opens_nothing() -> None:
    limits = ConnectionLimits(100.0)
    assert calls(limits, ["a"] * 50, 100.0) == ADDRESS_BURST
    assert calls(limits, ["a"] * 50, 0.0) == 0


def test_what_is_kept_of_addresses_is_bounded() -> None:
    limits = ConnectionLimits(0.0)
    for number in range(MOST_ADDRESSES * 3):
        limits.begin(f"n{number}", float(number))
        limits._open.clear()
    assert len(limits._addresses) == MOST_ADDRESSES
