"""A short slice of the fault suite, with a fixed seed: `make faults` plays as long as one likes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kinds import Kind
from tests.faults.report import again
from tests.faults.round import Plan, play

SHORT = tuple(
    kind for kind in Kind if kind not in (Kind.MACHINE, Kind.STOP_AGENT, Kind.AWAY_AGENT, Kind.CLOCK)
)
"""Not those that take longer than the slice does."""


@pytest.mark.timeout(300)  # what never ends is waited for through the longest back-off
async def test_nothing_is_violated_in_a_short_slice(tmp_path: Path) -> None:
    plan = Plan(seed=5, seconds=12.0, kinds=SHORT, dispatchers=2)
    told: list[str] = []
    result = await play(plan, told.append, tmp_path)
    told += [f"{each.invariant} at {each.seq}: {each.what}" for each in result.violations]
    assert not result.violations, "\n".join([*told, f"everything is in {result.folder}", again(plan)])
    assert result.broken is None, result.broken
    assert sum(result.tries.values()) >= 3, result.tries
    assert result.checked["workers started (I3)"] >= 5, result.checked
    assert result.checked["messages compared (contract)"] >= 100, result.checked
