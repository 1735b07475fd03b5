"""Room in the event log's store: when there is too little, and in which words that is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from structlog.testing import capture_logs

from services.nats_server.room import MIB, Room, RoomWatch, on_server, refusal
from trainshed_client.errors import ErrorCode
from trainshed_client.nats_client import SafeClient


@pytest.mark.parametrize(
    ("free", "limit", "refused"),
    [
        (1024 * MIB, 1024, False),
        (1024 * MIB - 1, 1024, True),
        (0, 0, False),
        (-5, 1, True),
        (None, 1024, False),
    ],
)
def test_below_the_limit_nothing_is_accepted(free: int | None, limit: int, refused: bool) -> None:
    room = None if free is None else Room("the disk of /state/nats", free)
    assert (refusal(room, limit) is not None) == refused


def test_a_refusal_tells_the_place_the_room_the_limit_and_what_to_do() -> None:
    error = refusal(Room("the disk of /state/nats", 700 * MIB + 5), 1024)
    assert error is not None
    assert error.code is ErrorCode.UNAVAILABLE
    for word in ("/state/nats", "700 MB", "1024 MB", "TRAINSHED_MIN_FREE_MB", "trainshed prune"):
        assert word in error.message


async def test_it_is_told_once_when_it_runs_out_and_once_when_it_is_back() -> None:
    free: int | None = 5 * MIB

    async def look() -> Room | None:
        return None if free is None else Room("here", free)

    watch = RoomWatch(look, 4)
    with capture_logs() as logs:
        for free in (5 * MIB, MIB, MIB, None, MIB, 9 * MIB, 9 * MIB):
            await watch.look()
            assert (watch.refusal is not None) == (free == MIB)
    assert [line["log_level"] for line in logs] == ["error", "info"]


@pytest.mark.parametrize(("limit", "free"), [(-1, None), (0, None), (10 * MIB, 7 * MIB)])
async def test_an_account_without_a_limit_of_its_own_tells_nothing(limit: int, free: int | None) -> None:
    class Account:
        """As nats-server answers; limits by tiers of replicas leave the account's own at 0."""

        limits = SimpleNamespace(max_storage=limit)
        storage = 3 * MIB

    class Client:
        def jetstream(self, timeout: float) -> Client:
            return self

        async def account_info(self) -> Account:
            return Account()

    room = await on_server(cast("SafeClient", Client()), None)()
    assert (room and room.free) == free
