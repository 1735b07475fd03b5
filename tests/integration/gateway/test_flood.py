"""One person floods gateway and projector: of another's requests none fails, and the flood is answered in small part."""

from __future__ import annotations

import time

import pytest

from bench import flood
from bench.accounts import accounts_server
from services.access.identities import LOCAL
from services.admission import DEFAULT_RATE, LOCAL_RATE, REFUSED_RATE, TURN_WITHIN_S

SECONDS = 3.0


@pytest.mark.parametrize(("by", "kind"), flood.FLOODS)
async def test_a_flood_by_one_fails_none_of_another_s_requests(by: str, kind: str) -> None:
    rate = LOCAL_RATE if by == LOCAL else DEFAULT_RATE
    with accounts_server([by, flood.OTHER]) as server, flood.serving(server):
        begun = time.monotonic()
        with flood.flooding(server, by, kind, flood.RATE, SECONDS) as flooding:
            asked = await flood.ask_for(server, SECONDS)
            sent, answered = flood.sent_and_answered(flooding, 60)
        took = time.monotonic() - begun
    assert asked.failed == []
    assert len(asked.took_ms) > 20
    most = (
        rate.burst
        + rate.per_s * TURN_WITHIN_S
        + REFUSED_RATE.burst
        + (rate.per_s + REFUSED_RATE.per_s) * took
    )
    assert 0 < answered <= most
    assert sent > 2 * most, "it was no flood"
