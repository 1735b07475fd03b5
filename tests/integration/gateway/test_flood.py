"""One person floods gateway and projector: of another's requests none fails, and the flood is answered in small part."""

from __future__ import annotations

import time

import pytest

from bench import flood
from bench.accounts import accounts_server
from services.admission import DEFAULT_RATE, REFUSED_RATE

SECONDS = 3.0


@pytest.mark.parametrize("kind", flood.KINDS)
async def test_a_flood_by_one_fails_none_of_another_s_requests(kind: str) -> None:
    with accounts_server([flood.FLOODER, flood.OTHER]) as server, flood.serving(server):
        begun = time.monotonic()
        with flood.flooding(server, kind, flood.RATE, SECONDS) as flooding:
            asked = await flood.ask_for(server, SECONDS)
            sent, answered = flood.sent_and_answered(flooding, 60)
        took = time.monotonic() - begun
    assert asked.failed == []
    assert len(asked.took_ms) > 20
    most = DEFAULT_RATE.burst + REFUSED_RATE.burst + (DEFAULT_RATE.per_s + REFUSED_RATE.per_s) * took
    assert 0 < answered <= most
    assert sent > 3 * most, "it was no flood"
