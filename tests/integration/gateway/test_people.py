"""People on a server with an account each: who is stored, whose a run is, what a node may ask for, and quotas."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import nats.errors
import pytest

from bench.accounts import CONTROL_USER, AccountsServer, accounts_server
from events.codec import StoredEvent, Unreadable
from events.log import EventLog
from events.streams import ensure_streams
from events.types import CancelRequested, Completed, Elected, Event, RetryRequested, SchedulerInfo, Submitted
from services.access.identities import PersonRole
from services.fold import SharedFold
from services.gateway.gateway import Gateway
from services.people import Rights
from services.projector.service import ProjectorService
from tests.support.builders import EXAMPLES
from tests.support.control import ask, everything, running, say
from trainshed_client import subjects
from trainshed_client.nats_client import SafeClient, connect
from trainshed_client.subjects import Role

NODE = "gpu01"
"""That of the examples."""


def config(number: int = 0, **more: Any) -> dict[str, Any]:
    return {"entry_point": "/bin/true", "arguments": [str(number)], **more}


class Enrolled:
    """The roster of a test."""

    def __init__(self) -> None:
        self.known = {
            "sam": Rights(role=PersonRole.SUBMITTER),
            "eve": Rights(role=PersonRole.SUBMITTER),
            "vic": Rights(role=PersonRole.VIEWER),
            "ada": Rights(role=PersonRole.ADMIN),
        }

    def rights(self, name: str) -> Rights | None:
        return self.known.get(name)

    def grant(self, name: str, **more: Any) -> None:
        self.known[name] = msgspec.structs.replace(self.known[name], **more)


class Cluster:
    """A gateway and a projector on such a server, with the log and a connection for each person and node."""

    def __init__(self, server: AccountsServer, log: EventLog, people: Enrolled) -> None:
        self.server = server
        self.log = log
        self.people = people
        self.fold = SharedFold(log, "")
        self.clients: dict[str, SafeClient] = {}

    async def client(self, user: str) -> SafeClient:
        if user not in self.clients:
            self.clients[user] = await connect(self.server.endpoint(user), name=user)
        return self.clients[user]

    async def ask(self, user: str, call: str, request: object) -> Any:
        return await ask(await self.client(user), call, request)

    async def as_worker(self, run_id: str, call: str, request: object, node: str = NODE) -> Any:
        nc = await self.client(f"NODE_{node}")
        answer = await nc.request(subjects.api_for(run_id, call), msgspec.json.encode(request), timeout=10)
        return json.loads(answer.data)

    async def submit(self, user: str, number: int = 0, **more: Any) -> str:
        answer = await self.ask(user, "run.submit", config(number, **more))
        assert "run_id" in answer, answer
        return str(answer["run_id"])

    async def start(self, run_id: str, attempt: int = 1) -> None:
        """Grant it to the examples' node."""
        if self.fold.state.epoch == 0:
            elected = Elected(name="x", scheduler=SchedulerInfo(name="s", version=1))
            await self.fold.reached(await say(self.log, Role.DISPATCHER, elected))
        granted = msgspec.structs.replace(
            EXAMPLES["dispatched"][1], run_id=run_id, attempt=attempt, epoch=self.fold.state.epoch
        )
        await say(self.log, Role.DISPATCHER, granted)

    async def complete(self, run_id: str, attempt: int = 1) -> None:
        seq = await say(self.log, Role.AGENT, Completed(run_id=run_id, attempt=attempt), NODE)
        await self.fold.reached(seq)

    async def events(self, kind: type[Event]) -> list[Any]:
        return [one.event for one in await everything(self.log) if isinstance(one.event, kind)]

    async def gateway(self) -> Gateway:
        return Gateway(self.log, self.fold, people=self.people)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    with accounts_server(["sam", "eve", "vic", "ada", "local"], [NODE, "gpu02"]) as server:
        clients = [
            await connect(server.endpoint(CONTROL_USER), name=name) for name in ("gateway", "projector")
        ]
        await ensure_streams(clients[0])
        people = Enrolled()
        made = Cluster(server, EventLog(clients[0]), people)
        gateway = await made.gateway()
        projector = ProjectorService(clients[1], tmp_path / "read.db", people=people)
        try:
            async with running(made.fold, gateway, projector):
                async with asyncio.timeout(20):
                    await gateway.ready.wait()
                    await projector.ready.wait()
                yield made
        finally:
            for nc in (*clients, *made.clients.values()):
                with contextlib.suppress(nats.errors.Error):
                    await nc.close()


async def refused(cluster: Cluster, user: str, call: str, request: object) -> dict[str, Any]:
    """The error; nothing may be appended."""
    before = await cluster.log.end()
    answer = await cluster.ask(user, call, request)
    assert set(answer) == {"error"}, answer
    assert await cluster.log.end() == before
    return dict(answer["error"])


# --- who is stored ------------------------------------------------------------------------------------------


async def test_who_asked_is_the_account_whatever_message_and_headers_claim(cluster: Cluster) -> None:
    nc = await cluster.client("sam")
    body = json.dumps(config()).encode()
    headers = {"Nats-Request-Info": '{"acc":"P_ada"}', "Submitted-By": "ada"}
    await nc.request(subjects.api("run.submit"), body, timeout=5, headers=headers)
    for claimed in ({"submitted_by": "ada"}, {"by": "ada"}):
        assert (await refused(cluster, "sam", "run.submit", {**config(1), **claimed}))["code"] == "invalid"
    (event,) = await cluster.events(Submitted)
    assert event.submitted_by == "sam"


async def test_nobody_reaches_the_subjects_of_another_nor_the_plain_ones_of_the_control_account(
    cluster: Cluster,
) -> None:
    nc = await cluster.client("sam")
    for subject in (
        "trainshed.api.u.P_ada.run.submit",
        "trainshed.api.w.abc.run.submit",
        "trainshed.api.u.*.run.submit",
    ):
        with pytest.raises((TimeoutError, nats.errors.NoRespondersError)):
            await nc.request(subject, json.dumps(config()).encode(), timeout=0.3)
    assert await cluster.events(Submitted) == []


async def test_a_reply_subject_does_not_make_it_another_s(cluster: Cluster) -> None:
    """The answer to sam's own question is published where he says: within his own account alone."""
    nc = await cluster.client("sam")
    before = await cluster.log.end()
    for reply in ("trainshed.api.u.P_ada.run.submit", "trainshed.api.run.submit", "trainshed.events.run.x"):
        await nc.publish(subjects.api("run.list"), b"{}", reply=reply)
    await nc.flush()
    await cluster.ask("sam", "run.list", {})
    assert await cluster.log.end() == before


async def test_a_command_that_was_recorded_is_another_s_once_another_sends_it(cluster: Cluster) -> None:
    """Byte for byte as the gateway got it from Sam, headers and all, to each subject that it may have had."""
    run_id = await cluster.submit("sam")
    control = await connect(cluster.server.endpoint(CONTROL_USER), name="recorder")
    try:
        recorded = await control.subscribe(f"{subjects.API}.>")
        await control.flush()
        assert "error" not in await cluster.ask("sam", "run.cancel", {"run_id": run_id})
        command = await recorded.next_msg(5)
        eve = await cluster.client("eve")
        before = await cluster.log.end()
        answer = await eve.request(
            subjects.api("run.cancel"), command.data, timeout=5, headers=command.headers
        )
        assert json.loads(answer.data)["error"]["code"] == "denied"
        await eve.publish(command.subject, command.data, reply=command.reply, headers=command.headers)
        await cluster.ask("eve", "run.list", {})
        assert await cluster.log.end() == before
    finally:
        await control.close()


async def test_the_local_person_is_stored_as_ever_and_is_an_admin_without_a_roster_s_line(
    cluster: Cluster,
) -> None:
    run_id = await cluster.submit("sam")
    assert (await cluster.ask("local", "run.cancel", {"run_id": run_id}))["run_id"] == run_id
    (event,) = await cluster.events(CancelRequested)
    assert event.requested_by == "local"


async def test_who_has_just_joined_is_waited_for_until_the_roster_is_read(cluster: Cluster) -> None:
    rights = cluster.people.known.pop("sam")
    asking = asyncio.create_task(cluster.ask("sam", "run.submit", config()))
    await asyncio.sleep(0.2)
    assert not asking.done()
    cluster.people.known["sam"] = rights
    assert (await asking)["created"] is True


async def test_who_was_revoked_is_denied_while_the_connection_lasts(cluster: Cluster) -> None:
    await cluster.submit("sam")
    del cluster.people.known["sam"]
    error = await refused(cluster, "sam", "run.submit", config(1))
    assert (error["code"], "sam is not enrolled" in error["message"]) == ("denied", True)
    assert (await cluster.ask("sam", "run.list", {}))["error"]["code"] == "denied"


# --- whose a run is -----------------------------------------------------------------------------------------


async def test_a_submitter_cancels_and_retries_what_is_his_own_alone(cluster: Cluster) -> None:
    run_id = await cluster.submit("sam")
    error = await refused(cluster, "eve", "run.cancel", {"run_id": run_id})
    assert (error["code"], error["path"]) == ("denied", "run_id")
    assert f"run {run_id[:6]} is sam's" in error["message"]
    assert "error" not in await cluster.ask("sam", "run.cancel", {"run_id": run_id})
    await cluster.start(run_id)
    await cluster.complete(run_id)
    assert (await refused(cluster, "eve", "run.retry", {"run_id": run_id}))["code"] == "denied"
    assert "error" not in await cluster.ask("sam", "run.retry", {"run_id": run_id})
    (event,) = await cluster.events(RetryRequested)
    assert event.requested_by == "sam"


async def test_submitting_what_is_another_s_already_does_not_make_it_one_s_own(cluster: Cluster) -> None:
    run_id = await cluster.submit("sam")
    assert (await cluster.ask("eve", "run.submit", config()))["created"] is False
    assert (await refused(cluster, "eve", "run.cancel", {"run_id": run_id}))["code"] == "denied"


async def test_an_admin_cancels_what_is_anybody_s(cluster: Cluster) -> None:
    run_id = await cluster.submit("sam")
    assert "error" not in await cluster.ask("ada", "run.cancel", {"run_id": run_id})


async def test_whose_a_run_is_is_known_after_a_restart_of_the_gateway(cluster: Cluster) -> None:
    run_id = await cluster.submit("sam")
    other = SharedFold(cluster.log, "")
    other.state = cluster.fold.state.copy()  # as from a snapshot: no Submitted is heard again
    gateway = Gateway(cluster.log, other, people=cluster.people)
    assert await gateway._owners.of(run_id) == "sam"


async def test_what_a_worker_submits_is_of_who_submitted_the_worker(cluster: Cluster) -> None:
    parent = await cluster.submit("sam")
    await cluster.start(parent)
    kid = (await cluster.as_worker(parent, "run.submit", config(1)))["run_id"]
    await cluster.start(kid)
    grandchild = (await cluster.as_worker(kid, "run.submit", config(2)))["run_id"]
    assert [one.submitted_by for one in await cluster.events(Submitted)] == [
        "sam",
        f"run/{parent}",
        f"run/{kid}",
    ]
    error = await refused(cluster, "eve", "run.cancel", {"run_id": grandchild})
    assert (error["code"], "is sam's" in error["message"]) == ("denied", True)
    assert "error" not in await cluster.ask("sam", "run.cancel", {"run_id": grandchild})
    await cluster.complete(parent)  # it is no less his once the worker's run has ended
    assert "error" not in await cluster.ask("sam", "run.cancel", {"run_id": kid})


# --- what a node asks for its workers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call", ["run.submit", "run.check", "run.cancel", "run.get", "run.list", "node.list"]
)
async def test_a_node_asks_for_no_worker_but_its_own(cluster: Cluster, call: str) -> None:
    run_id = await cluster.submit("sam")
    request = config(1) if call in ("run.submit", "run.check") else {"run_id": run_id}
    if call.endswith("list"):
        request = {}
    waiting = await cluster.as_worker(run_id, call, request)
    assert waiting["error"]["code"] == "denied", "no attempt of it anywhere"
    await cluster.start(run_id)
    before = await cluster.log.end()
    other = await cluster.as_worker(run_id, call, request, node="gpu02")
    assert (other["error"]["code"], "gpu02 has no present attempt" in other["error"]["message"]) == (
        "denied",
        True,
    )
    assert await cluster.log.end() == before
    assert "error" not in await cluster.as_worker(run_id, call, request)


async def test_a_worker_that_asks_before_its_grant_is_folded_is_waited_for(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await cluster.submit("sam")
    other = await cluster.submit("sam", 9)
    await cluster.start(other)
    assert "error" not in await cluster.as_worker(other, "run.check", config(1))
    release, fold = asyncio.Event(), cluster.fold._fold

    async def late(stored: StoredEvent | Unreadable) -> None:
        await release.wait()
        await fold(stored)

    monkeypatch.setattr(cluster.fold, "_fold", late)
    await cluster.start(run_id)  # stored, and not folded
    asked = asyncio.create_task(cluster.as_worker(run_id, "run.check", config(1)))
    await cluster.as_worker(other, "run.check", config(1))  # that one's answer does not wait
    assert not asked.done()
    release.set()
    assert "error" not in await asked


async def test_a_worker_cancels_itself_and_what_it_submitted_alone(cluster: Cluster) -> None:
    other = await cluster.submit("sam", 7)
    parent = await cluster.submit("sam")
    await cluster.start(parent)
    kid = (await cluster.as_worker(parent, "run.submit", config(1)))["run_id"]
    unseen = await cluster.as_worker(parent, "run.cancel", {"run_id": other})
    assert unseen["error"]["code"] == "not_found"
    for run_id in (kid, parent):
        assert "error" not in await cluster.as_worker(parent, "run.cancel", {"run_id": run_id})


# --- quotas -------------------------------------------------------------------------------------------------


async def test_beyond_a_quota_nothing_is_submitted_until_a_run_has_ended(cluster: Cluster) -> None:
    cluster.people.grant("sam", queued=2)
    first, second = [await cluster.submit("sam", number) for number in range(2)]
    error = await refused(cluster, "sam", "run.submit", config(2))
    assert error["code"] == "too_many"
    assert "sam has 2 runs that wait or run" in error["message"]
    assert "--queued" in error["message"]
    assert (await refused(cluster, "sam", "run.check", config(2)))["code"] == "too_many"
    assert (await cluster.ask("sam", "run.submit", config(0)))["created"] is False, "what exists is answered"
    assert "run_id" in await cluster.ask("eve", "run.submit", config(2)), "it is no other's quota"
    await cluster.start(first)
    await cluster.complete(first)
    third = await cluster.submit("sam", 3)
    assert (await refused(cluster, "sam", "run.retry", {"run_id": first}))["code"] == "too_many"
    for run_id in (second, third):
        await cluster.ask("sam", "run.cancel", {"run_id": run_id})
    assert (await refused(cluster, "sam", "run.submit", config(4)))["code"] == "too_many", "they run still"


async def test_of_many_that_are_submitted_at_once_no_more_are_taken_than_the_quota(cluster: Cluster) -> None:
    cluster.people.grant("sam", queued=5)
    answers = await asyncio.gather(
        *(cluster.ask("sam", "run.submit", config(number % 20)) for number in range(40))
    )
    assert len({answer["run_id"] for answer in answers if "run_id" in answer}) == 5
    assert {answer["error"]["code"] for answer in answers if "error" in answer} == {"too_many"}
    assert len(await cluster.events(Submitted)) == 5


async def test_a_batch_is_counted_as_a_whole_less_what_exists(cluster: Cluster) -> None:
    cluster.people.grant("sam", queued=3)
    gone = await cluster.submit("sam", 0)
    await cluster.start(gone)
    await cluster.complete(gone)
    batch = {"runs": [config(number) for number in range(4)]}
    assert len((await cluster.ask("sam", "run.submit_batch", batch))["runs"]) == 4
    assert len((await cluster.ask("sam", "run.submit_batch", batch))["runs"]) == 4, "all of it exists"
    error = await refused(cluster, "sam", "run.submit_batch", {"runs": [config(3), config(8), config(9)]})
    assert (error["code"], "these 2 would be more" in error["message"]) == ("too_many", True)


async def test_what_is_not_appended_holds_no_room(cluster: Cluster) -> None:
    cluster.people.grant("sam", queued=1)
    await refused(cluster, "sam", "run.submit", config(0, after=["nosuchrun"]))
    gone = await cluster.submit("sam", 1)
    await cluster.start(gone)
    await cluster.complete(gone)
    assert (await cluster.ask("sam", "run.submit", config(1)))["created"] is False
    await cluster.submit("sam", 2)


async def test_what_workers_submit_counts_for_who_submitted_them(cluster: Cluster) -> None:
    cluster.people.grant("sam", queued=2)
    parent = await cluster.submit("sam")
    await cluster.start(parent)
    assert "run_id" in await cluster.as_worker(parent, "run.submit", config(1))
    answer = await cluster.as_worker(parent, "run.submit", config(2))
    assert answer["error"]["code"] == "too_many"
    assert (await refused(cluster, "sam", "run.submit", config(3)))["code"] == "too_many"


async def test_a_quota_counts_what_was_submitted_before_the_gateway_began(cluster: Cluster) -> None:
    for number in range(3):
        await cluster.submit("sam", number)
    cluster.people.grant("sam", queued=3)
    assert (await refused(cluster, "sam", "run.submit", config(3)))["code"] == "too_many"


# --- rates --------------------------------------------------------------------------------------------------


async def test_more_than_the_rate_is_refused_with_what_to_do_and_then_dropped(cluster: Cluster) -> None:
    cluster.people.grant("sam", rate=2)
    nc = await cluster.client("sam")
    inbox = nc.new_inbox()
    answered = await nc.subscribe(inbox)
    for _ in range(500):
        await nc.publish(subjects.api("run.list"), b"{}", reply=inbox)
    await cluster.ask("eve", "run.list", {})
    codes: list[str] = []
    with contextlib.suppress(nats.errors.TimeoutError):
        while True:
            answer = json.loads((await answered.next_msg(1.5)).data)
            codes.append(answer["error"]["code"] if "error" in answer else "ok")
    assert codes.count("ok") in range(6, 9)
    assert codes.count("too_many") in range(20, 40)
