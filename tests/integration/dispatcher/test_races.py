"""Fifty of the races of three dispatchers for one slot; `python -m tests.faults.races` runs a thousand."""

from __future__ import annotations

from tests.faults.races import races
from tests.support import NatsServer


async def test_rule_1_of_three_dispatchers_that_all_believe_to_be_active_one_grant_counts(
    nats_server: NatsServer,
) -> None:
    result = await races(nats_server, 50)
    assert result.appended - result.refused == 50
    assert result.refused > 0, "nobody raced: the guard was never asked"
