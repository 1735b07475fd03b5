"""Calls that take ``at``, and ``audit.at``: on a server each answers as a projector that has read the log up to there."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from events.log import EventLog
from events.streams import ensure_streams
from events.times import rfc3339
from services.projector import past
from services.projector.past import KEPT, PastMoments, Then
from services.projector.service import ProjectorService
from tests.support import NatsServer, eventually
from tests.support.random_log import RandomLog
from tests.support.replayed_at import ReplayedAt, without_heartbeats
from tests.support.stored_log import ask, projecting, store
from trainshed_client.direct_get import Message
from trainshed_client.nats_client import SafeClient

EVENTS = 240


class Recorded:
    """A random log on a server, as it was stored, and who asks about it."""

    def __init__(
        self, nc: SafeClient, messages: list[Message], service: ProjectorService, path: Path
    ) -> None:
        self.nc = nc
        self.messages = messages
        self._service = service
        self.path = path

    def kept(self) -> list[int]:
        """The moments that its projector keeps."""
        return list(self._service._past._kept)

    async def ask(self, call: str, **request: Any) -> dict[str, Any]:
        return await ask(self.nc, call, request, within=20)


@pytest.fixture
async def recorded(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Recorded]:
    nc = await nats_server.client()
    await ensure_streams(nc)
    made = RandomLog(11)
    while made.seq < EVENTS:
        made.grow()
    await store(nc, made.messages)
    stored = [message async for message in EventLog(nc).read_raw()]
    path = tmp_path / "t.db"
    async with projecting(await nats_server.client(), path) as service:
        yield Recorded(nc, stored, service, path)


async def test_each_call_answers_as_of_an_event(recorded: Recorded) -> None:
    replayed = ReplayedAt(recorded.messages)
    for seq in sorted(random.Random(3).sample(range(1, EVENTS + 1), 25)):
        replayed.at(seq)
        found = await recorded.ask("audit.at", seq=seq)
        expected = {"v": 1, "seq": seq, "time": replayed.time, "state_hash": replayed.state_hash()}
        assert found == expected
        runs = await recorded.ask("run.list", at=seq, limit=3)
        assert without_heartbeats(runs) == without_heartbeats(replayed.runs(limit=3))
        for call, of_replay in (("slot.list", replayed.slots()), ("node.list", replayed.nodes())):
            assert without_heartbeats(await recorded.ask(call, at=seq)) == without_heartbeats(of_replay)
        for run in runs["runs"]:
            run_id = run["run_id"]
            for call, one in (("run.get", replayed.run(run_id)), ("run.explain", replayed.explain(run_id))):
                answer = await recorded.ask(call, at=seq, run_id=run_id)
                assert without_heartbeats(answer) == without_heartbeats(one)
    replayed.close()


async def test_a_listing_of_a_moment_is_paged_to_its_end(recorded: Recorded) -> None:
    page = await recorded.ask("run.list", at=EVENTS - 20, limit=2)
    total, seen = page["total"], list(page["runs"])
    while page["runs"]:
        page = await recorded.ask(
            "run.list", at=EVENTS - 20, limit=2, before_seq=page["runs"][-1]["submit_seq"]
        )
        seen += page["runs"]
    assert len(seen) == len({run["run_id"] for run in seen}) == total > 4
    assert all(run["submit_seq"] <= EVENTS - 20 for run in seen)


async def test_the_moment_of_a_time_is_after_the_last_event_stored_by_then(recorded: Recorded) -> None:
    for place in (0, 100, EVENTS - 1):
        message = recorded.messages[place]
        time = rfc3339(message.stored_ns)
        last = max(m.seq for m in recorded.messages if rfc3339(m.stored_ns) <= time)
        found = await recorded.ask("audit.at", time=time)
        assert (found["seq"], found["time"]) == (last, rfc3339(recorded.messages[last - 1].stored_ns))


@pytest.mark.parametrize("at", [0, -1, EVENTS + 1, 2**52])
async def test_a_moment_that_the_log_does_not_have_is_refused_with_what_is_accepted(
    recorded: Recorded, at: int
) -> None:
    for call, field in (("run.list", "at"), ("slot.list", "at"), ("node.list", "at"), ("audit.at", "seq")):
        error = (await recorded.ask(call, **{field: at}))["error"]
        assert (error["code"], error["path"]) == ("invalid", field)
        assert f"from 1 to {EVENTS}" in error["message"]
    error = (await recorded.ask("run.get", run_id="x", at=at))["error"]
    assert (error["code"], error["path"]) == ("invalid", "at")


@pytest.mark.parametrize(
    ("request_", "path"),
    [
        ({"time": "1970-01-01T00:00:00Z"}, "time"),
        ({"time": "2999-01-01T00:00:00Z"}, "time"),
        ({"time": "yesterday"}, "time"),
        ({}, "seq"),
        ({"seq": 3, "time": "2026-11-24T08:00:00Z"}, "seq"),
        ({"seq": "3"}, "seq"),
    ],
)
async def test_what_is_no_moment_is_refused(recorded: Recorded, request_: dict[str, Any], path: str) -> None:
    error = (await recorded.ask("audit.at", **request_))["error"]
    assert (error["code"], error["path"]) == ("invalid", path)


async def test_a_run_that_was_submitted_later_is_not_there_yet(recorded: Recorded) -> None:
    newest = (await recorded.ask("run.list", limit=1))["runs"][0]
    error = (await recorded.ask("run.get", run_id=newest["run_id"], at=newest["submit_seq"] - 1))["error"]
    assert error["code"] == "not_found"
    assert f"--at {newest['submit_seq'] - 1}" in error["message"]


async def test_an_empty_log_has_no_moment(nats_server: NatsServer, tmp_path: Path) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    async with projecting(await nats_server.client(), tmp_path / "t.db"):
        for call, request in (("run.list", {"at": 1}), ("audit.at", {"time": "2026-11-24T08:00:00Z"})):
            error = (await ask(nc, call, request))["error"]
            assert (error["code"], error["message"]) == ("invalid", "the log has no event yet")


async def test_many_moments_asked_for_at_once_are_each_answered(recorded: Recorded) -> None:
    seqs = [EVENTS - place for place in range(3 * KEPT)]
    answers = await asyncio.gather(*(recorded.ask("audit.at", seq=seq) for seq in (*seqs, *seqs)))
    assert [answer["seq"] for answer in answers] == [*seqs, *seqs]
    assert answers[: len(seqs)] == answers[len(seqs) :]


async def test_what_is_kept_of_moments_is_bounded_and_let_go_of_when_nobody_asks_any_more(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = recorded.kept
    for seq in range(EVENTS - KEPT, EVENTS + 1):
        await recorded.ask("run.list", at=seq)
    assert kept() == list(range(EVENTS - KEPT + 1, EVENTS + 1))
    monkeypatch.setattr(past, "KEPT_RUNS", 0)  # so long queues that one moment is too much already
    await recorded.ask("run.list", at=EVENTS - KEPT)
    assert kept() == [EVENTS - KEPT]
    monkeypatch.setattr(past, "LET_GO_AFTER_S", 0.05)
    assert (await recorded.ask("run.list", at=EVENTS - KEPT))["seq"] == EVENTS - KEPT
    await eventually(lambda: not kept(), 5)
    assert (await recorded.ask("run.list", at=EVENTS - KEPT))["seq"] == EVENTS - KEPT


async def test_a_moment_that_is_found_out_while_all_is_forgotten_is_not_kept(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = PastMoments._found

    async def forgotten(self: PastMoments, seq: int) -> Then:
        then = await found(self, seq)
        self.forget()
        return then

    monkeypatch.setattr(PastMoments, "_found", forgotten)
    assert (await recorded.ask("audit.at", seq=EVENTS))["seq"] == EVENTS
    assert not recorded.kept()


async def test_a_database_that_is_deleted_is_built_again_and_moments_of_it_are_answered(
    recorded: Recorded,
) -> None:
    seq = EVENTS // 2
    recorded.path.unlink()
    asked = {"time": rfc3339(recorded.messages[seq - 1].stored_ns)}
    found: dict[str, Any] = {}

    async def is_answered() -> bool:  # "unavailable" while there is nothing of it yet
        found.update(await recorded.ask("audit.at", **asked))
        return "seq" in found

    await eventually(is_answered, 10)
    assert found["seq"] >= seq
