"""What the projector answers: shapes, filters, pages, errors, and that no acknowledged event is missing from an answer."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.log_maker import LogMaker
from events.log import EventLog, publish
from events.streams import ensure_streams
from events.types import CancelRequested, NodeLeft, NodeLost
from services.projector.service import ProjectorService
from tests.support import NatsServer, eventually
from tests.support.stored_log import ask, projecting, store
from trainshed_client.answers import NodePage, RunPage, RunView, SlotPage
from trainshed_client.nats_client import SafeClient


class Lab:
    """A made-up log on a server, a projector that follows it, and a client that asks."""

    def __init__(self, nc: SafeClient, service: ProjectorService) -> None:
        self.nc = nc
        self.service = service
        self.made = LogMaker()
        self._stored = 0

    async def ask(self, call: str, request: object = None) -> dict[str, Any]:
        """Store what was made since, and ask at once."""
        await self.store()
        return await ask(self.nc, call, request)

    async def store(self) -> None:
        await store(self.nc, self.made.messages[self._stored :])
        self._stored = len(self.made.messages)

    def done(self, **config: object) -> str:
        run_id = self.made.submit({"entry_point": "/bin/true", **config})
        self.made.dispatch(run_id)
        self.made.start(run_id)
        self.made.complete(run_id)
        return run_id


@pytest.fixture
async def lab(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Lab]:
    nc = await nats_server.client()
    await ensure_streams(nc)
    async with projecting(await nats_server.client(), tmp_path / "t.db") as service:
        one = Lab(nc, service)
        one.made.elect()
        one.made.join(slots=4)
        yield one


def _ids(answer: dict[str, Any]) -> list[str]:
    return [run["run_id"] for run in answer["runs"]]


async def test_each_answer_is_what_the_client_reads(lab: Lab) -> None:
    run_id = lab.done(labels={"user": "ada"})
    queued = lab.made.submit({"entry_point": "/bin/later", "after": [run_id]})
    answers = {
        RunPage: await lab.ask("run.list"),
        RunView: await lab.ask("run.get", {"run_id": queued}),
        SlotPage: await lab.ask("slot.list"),
        NodePage: await lab.ask("node.list"),
    }
    for shape, answer in answers.items():
        decoded = msgspec.convert(answer, shape) if shape is not RunPage else None
        assert answer["v"] == 1
        assert answer["seq"] == lab.made.seq
        assert decoded is not None or len(answer["runs"]) == 2
    view = msgspec.convert(answers[RunView], RunView)
    assert view.config == {"entry_point": "/bin/later", "after": [run_id]}
    assert [entry.text for entry in view.timeline] == [f"submitted by local, after run {run_id}"]
    assert set(answers[RunView]["timeline"][0]) == {"seq", "time", "type", "data", "text"}


async def test_a_query_sees_every_event_that_was_acknowledged_before_it(lab: Lab) -> None:
    await lab.ask("health")
    for _ in range(30):
        run_id = lab.made.submit()
        message = lab.made.messages[-1]
        stored = await publish(lab.nc, message.subject, run_id, message.body)
        answer = await ask(lab.nc, "run.get", {"run_id": run_id})
        assert answer["run"]["submit_seq"] == stored.seq
        assert "stale" not in answer


async def test_an_answer_that_may_miss_something_says_so_and_the_lag_is_logged_once(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    known = lab.made.submit()
    await lab.ask("run.get", {"run_id": known})
    async with lab.service._writing.turn:  # as a commit that takes long
        unknown = lab.made.submit()
        await lab.store()
        answers = await asyncio.gather(
            ask(lab.nc, "run.list"), *(ask(lab.nc, "run.get", {"run_id": unknown}) for _ in range(3))
        )
        assert answers[0]["stale"] is True
        assert _ids(answers[0]) == [known]
        assert {answer["error"]["code"] for answer in answers[1:]} == {"unavailable"}
    assert len([record for record in caplog.records if "lags" in record.getMessage()]) == 1
    answer = await ask(lab.nc, "run.list")
    assert "stale" not in answer
    assert len(_ids(answer)) == 2


async def test_runs_come_newest_first_and_are_paged_by_their_submission(lab: Lab) -> None:
    made = [lab.made.submit() for _ in range(7)]
    first = await lab.ask("run.list", {"limit": 3})
    second = await lab.ask("run.list", {"limit": 3, "before_seq": first["runs"][-1]["submit_seq"]})
    third = await lab.ask("run.list", {"limit": 3, "before_seq": second["runs"][-1]["submit_seq"]})
    last = await lab.ask("run.list", {"limit": 3, "before_seq": third["runs"][-1]["submit_seq"]})
    assert _ids(first) + _ids(second) + _ids(third) == made[::-1]
    assert last["runs"] == []


async def test_listings_are_narrowed_by_status_label_name_and_life(lab: Lab) -> None:
    done = lab.done(run_name="a", labels={"user": "ada", "note": 'q"1'})
    shout = lab.done(run_name="b", labels={"user": "ADA"})
    queued = lab.made.submit(
        {"entry_point": "/bin/q", "run_name": "a", "labels": {"user": "bob", "x_user": "ada"}}
    )
    assert _ids(await lab.ask("run.list", {"live": True})) == [queued]
    assert _ids(await lab.ask("run.list", {"status": ["COMPLETED"]})) == [shout, done]
    assert _ids(await lab.ask("run.list", {"status": ["COMPLETED", "PENDING"], "name": "a"})) == [
        queued,
        done,
    ]
    assert _ids(await lab.ask("run.list", {"labels": {"user": "ada"}})) == [done]
    assert _ids(await lab.ask("run.list", {"labels": {"user": "ada", "note": 'q"1'}})) == [done]
    assert _ids(await lab.ask("run.list", {"labels": {"user": "a%"}})) == []
    page = await lab.ask("run.list", {"ended": True, "limit": 1})
    last = page["runs"][0]["ended_at"]
    before = await lab.ask("run.list", {"ended_before": last})
    assert (_ids(before), before["total"]) == ([done], 1)
    assert _ids(await lab.ask("run.list", {"ended_before": last, "before_seq": 1})) == []
    assert _ids(await lab.ask("run.list", {"ended_before": "2999-01-01T01:00:00+01:00"})) == [shout, done]


async def test_a_run_is_found_by_id_prefix_or_name_newest_first_and_six_at_most(lab: Lab) -> None:
    made = [
        lab.made.submit({"entry_point": "/bin/x", "run_name": "same", "submission_key": str(n)})
        for n in range(8)
    ]
    found = await lab.ask("run.list", {"run": "same"})
    assert _ids(found) == made[:1:-1]
    one = made[3]
    assert _ids(await lab.ask("run.list", {"run": one[:12]})) == [one]
    assert _ids(await lab.ask("run.list", {"prefix": one})) == [one]
    assert _ids(await lab.ask("run.list", {"run": "%"})) == []


async def test_a_run_is_found_by_what_a_list_shows_as_its_name_and_by_the_beginning_of_names(
    lab: Lab,
) -> None:
    def submit(*arguments: str, name: str | None = None, named: bool | None = None) -> str:
        config: dict[str, Any] = {"entry_point": "/venv/bin/python3", "arguments": list(arguments)}
        return lab.made.submit({**config, **({"run_name": name} if name else {})}, named=named)

    train = submit("train.py", "--lr", "1e-3", "it's", 'a"b', "100%")
    evaluate = submit("eval.py", "--é")
    given = submit("train.py", name="cart_pole")
    other = submit("test.py", name="cartoon")
    kept = submit("kept.py", named=True)

    async def found(run: str) -> list[str]:
        return _ids(await lab.ask("run.list", {"run": run}))

    shown = shlex.join(["python3", "train.py", "--lr", "1e-3", "it's", 'a"b', "100%"])
    assert await found(shown) == [train]
    assert await found(shown[:-8]) == [train]  # within quotes
    assert (
        await found("python3 eval.py '--é'")
        == await found("python3 ev")
        == await found("python3 e…é'")
        == [evaluate]
    )
    assert await found("python3 train") == [train]
    assert await found("cart_") == [given]
    assert await found("cart") == [other, given]
    assert (
        await found("CART_") == await found("cart%") == await found("python3 eva_") == await found("…") == []
    )
    assert await found("python3") == [kept, evaluate, train]
    assert await found("python3 kept.py") == []  # it is shown by the name that it was given
    assert (await lab.ask("run.get", {"run_id": kept}))["run"]["named"] is True
    assert (await lab.ask("run.get", {"run_id": given}))["run"]["named"] is True
    assert (await lab.ask("run.get", {"run_id": train}))["run"]["named"] is False


async def test_of_many_runs_of_a_name_its_beginning_does_not_hide_another_name(lab: Lab) -> None:
    old = lab.made.submit({"entry_point": "/bin/x", "run_name": "sweep-old"})
    new = [
        lab.made.submit({"entry_point": "/bin/x", "run_name": "sweep", "submission_key": str(n)})
        for n in range(10)
    ]
    assert _ids(await lab.ask("run.list", {"run": "swee"})) == [new[-1], old]
    assert _ids(await lab.ask("run.list", {"run": "sweep"})) == new[:3:-1]
    assert _ids(await lab.ask("run.list", {"run": "sweep-"})) == [old]


async def test_answers_stay_below_what_the_server_takes(lab: Lab) -> None:
    big = "x" * 100_000
    made = [
        lab.made.submit({"entry_point": "/bin/x", "arguments": [big], "submission_key": str(n)})
        for n in range(25)
    ]
    answer = await lab.ask("run.list")
    assert 0 < len(answer["runs"]) < 25
    assert len(msgspec.json.encode(answer)) < 1_000_000
    seen, before = _ids(answer), answer["runs"][-1]["submit_seq"]
    while page := (await lab.ask("run.list", {"before_seq": before}))["runs"]:
        seen += [run["run_id"] for run in page]
        before = page[-1]["submit_seq"]
    assert seen == made[::-1]


async def test_a_timeline_that_is_too_long_keeps_its_newest_entries(lab: Lab) -> None:
    run_id = lab.made.submit()
    lab.made.by_gateway(CancelRequested(run_id=run_id, reason="r" * 250))
    await lab.ask("health")
    database = lab.service._database
    with database.writer() as connection, connection.begin():
        connection.exec_driver_sql(
            "WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < 9000) "
            "INSERT INTO timeline SELECT 3, ?, i, 't', 'x', printf('[9%0300d]', i) FROM n",
            (run_id,),
        )
    timeline = (await lab.ask("run.get", {"run_id": run_id}))["timeline"]
    assert timeline[-1]["seq"] == 9000
    assert 1000 < len(timeline) < 8900


@pytest.mark.parametrize(
    ("call", "request_", "code", "path"),
    [
        ("run.get", {"run_id": "nobody"}, "not_found", None),
        ("run.get", {}, "invalid", "run_id"),
        ("run.get", {"run_id": 7}, "invalid", "run_id"),
        ("run.list", {"limit": 501}, "invalid", "limit"),
        ("run.list", {"limit": True}, "invalid", "limit"),
        ("run.list", {"status": ["RUNING"]}, "invalid", "status.0"),
        ("run.list", {"labels": {"a": 1}}, "invalid", "labels.a"),
        ("run.list", {"stauts": []}, "invalid", "stauts"),
        ("slot.list", {"node": "gpu01"}, "invalid", "node"),
    ],
)
async def test_a_bad_request_is_refused_by_its_field(
    lab: Lab, call: str, request_: dict[str, object], code: str, path: str | None
) -> None:
    error = (await lab.ask(call, request_))["error"]
    assert (error["code"], error.get("path")) == (code, path)


async def test_what_is_no_json_is_refused(lab: Lab) -> None:
    answer = await lab.nc.request("trainshed.api.run.list", b"\xff{", timeout=5)
    assert msgspec.json.decode(answer.data)["error"]["code"] == "invalid"


async def test_queued_runs_say_what_they_wait_for(lab: Lab) -> None:
    def two_gpus(key: str) -> str:
        return lab.made.submit(
            {"entry_point": "/bin/x", "resources": {"gpus": {"requested": 2}}, "submission_key": key}
        )

    holders = [two_gpus(str(n)) for n in range(2)]
    waiting = two_gpus("waits")
    after = lab.made.submit({"entry_point": "/bin/y", "after": [waiting]})
    for place, run_id in enumerate(holders):
        lab.made.dispatch(run_id, slots=(2 * place, 2 * place + 1))
        lab.made.start(run_id, slots=(2 * place, 2 * place + 1))
    texts = {
        run["run_id"]: run["waits_for"]["text"]
        for run in (await lab.ask("run.list", {"status": ["PENDING"]}))["runs"]
    }
    assert texts == {waiting: "waiting for 2 free GPUs (0 of 4 free)", after: f"waiting for run {waiting}"}
    assert "waits_for" not in (await lab.ask("run.get", {"run_id": holders[0]}))["run"]
    lost = NodeLost(node="gpu01", incarnation="gpu01-a", epoch=lab.made.epoch, silent_s=15)
    lab.made.by_dispatcher(lost)
    answer = await lab.ask("run.explain", {"run_id": waiting})
    assert answer["run"]["waits_for"] == {"reason": "no_node", "text": "no node is up (1 node lost or left)"}


async def test_nodes_that_left_without_attempts_and_their_slots_are_left_out(lab: Lab) -> None:
    run_id = lab.made.submit()
    lab.made.dispatch(run_id)
    lab.made.by_agent(NodeLeft(node="gpu01", incarnation="gpu01-a", upto=lab.made.seq), "gpu01")
    nodes = (await lab.ask("node.list"))["nodes"]
    assert [(node["node"], node["status"]) for node in nodes] == [("gpu01", "left")]
    assert [slot["index"] for slot in (await lab.ask("slot.list"))["slots"]] == [0]
    lab.made.complete(run_id)
    assert (await lab.ask("node.list"))["nodes"] == []
    assert (await lab.ask("slot.list"))["slots"] == []


async def test_it_answers_vouched_for_accounts_too_and_is_found_by_discovery(lab: Lab) -> None:
    run_id = lab.made.submit()
    await lab.ask("health")
    answer = await lab.nc.request("trainshed.api.u.ada.run.list", b"{}", timeout=5)
    assert _ids(msgspec.json.decode(answer.data)) == [run_id]
    info = await lab.nc.request("$SRV.INFO.projector", b"", timeout=5)
    subjects = {endpoint["subject"] for endpoint in msgspec.json.decode(info.data)["endpoints"]}
    for call in ("run.get", "run.list", "run.explain", "slot.list", "node.list", "audit.rows", "health"):
        assert {f"trainshed.api.{call}", f"trainshed.api.u.*.{call}"} <= subjects


async def test_several_projectors_share_the_queries(
    nats_server: NatsServer, lab: Lab, tmp_path: Path
) -> None:
    run_id = lab.made.submit()
    await lab.ask("health")
    async with projecting(await nats_server.client(), tmp_path / "second.db"):
        answers = [await ask(lab.nc, "run.get", {"run_id": run_id}) for _ in range(10)]
    assert all(answer == answers[0] for answer in answers)


async def test_a_query_is_answered_while_a_long_backlog_is_folded(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    made = LogMaker()
    made.elect()
    for _ in range(6000):
        made.submit()
    end = await store(nc, made.messages)
    assert await EventLog(nc).end() == end
    async with projecting(await nats_server.client(), tmp_path / "t.db"):
        answer = await ask(nc, "run.list", {"limit": 1})

        async def has_all() -> bool:
            return bool((await ask(nc, "health"))["seq"] == end)

        await eventually(has_all, 20)
        assert answer["v"] == 1
