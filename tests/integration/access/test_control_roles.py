"""The control side's roles among themselves: what one that was taken over cannot do, and what it can (docs/security.md)."""

from __future__ import annotations

import asyncio
import json

import pytest
from nats.aio.msg import Msg

from services.access.identities import Control, ControlRole
from services.access.table import NODE
from tests.support.everybody import EverybodyServer, heard, settled, stored_messages
from trainshed_client import subjects
from trainshed_client.nats_client import SafeClient

GATEWAY = Control(ControlRole.GATEWAY)
PROJECTOR = Control(ControlRole.PROJECTOR)
RUN = "mfrggzdfmztwq2lk"
AN_AGENTS = subjects.agent_event(RUN, "completed", NODE)
DELETE = f"$JS.API.STREAM.DELETE.{subjects.EVENTS_STREAM}"


async def answers_itself(client: SafeClient, hears: str, sends: str, reply: str) -> None:
    """It asks itself, and answers where it likes."""

    async def answer(msg: Msg) -> None:
        await client.publish(msg.reply, b"")

    await client.subscribe(hears, cb=answer)
    await settled(client)
    await client.publish(sends, b"", reply=reply)
    await settled(client)
    await settled(client)  # the answer was sent meanwhile


@pytest.mark.parametrize("reply", [AN_AGENTS, DELETE])
@pytest.mark.parametrize(
    ("role", "hears", "sends"),
    [
        (GATEWAY, "$SRV.>", f"$SRV.PING.{ControlRole.GATEWAY}"),
        (PROJECTOR, subjects.WATCH_CHECKPOINT, subjects.WATCH_CHECKPOINT),
    ],
)
async def test_who_answers_calls_publishes_nothing_by_answering_himself(
    server: EverybodyServer, role: Control, hears: str, sends: str, reply: str
) -> None:
    """With nats-server's `allow_responses` this deleted the log."""
    probe = await server.probe()
    tried = await probe.subscribe(sends)
    await settled(probe)
    await answers_itself(await server.client(role), hears, sends, reply)
    assert await stored_messages(probe) == []
    await settled(probe)
    assert [msg.reply for msg in await heard(tried)] == [reply], "it did ask itself"
    assert any(
        f'Permissions Violation for Publish to "{reply}"'.lower() in one.lower() for one in server.refusals
    )


@pytest.mark.parametrize("role", [one for one in ControlRole if one is not ControlRole.OPERATOR])
@pytest.mark.parametrize("stream", [subjects.EVENTS_STREAM, subjects.HEARTBEATS_STREAM])
async def test_no_role_but_the_operator_s_makes_or_changes_deletes_or_purges_a_stream(
    server: EverybodyServer, role: ControlRole, stream: str
) -> None:
    client, probe = await server.client(Control(role)), await server.probe()
    tried = await probe.subscribe("$JS.API.STREAM.>")
    await settled(probe)
    for call in (
        "CREATE",
        "UPDATE",
        "DELETE",
        "PURGE",
        "MSG.DELETE",
        "RESTORE",
        "SNAPSHOT",
        "LEADER.STEPDOWN",
    ):
        await client.publish(f"$JS.API.STREAM.{call}.{stream}", b"{}")
    await settled(client, probe)
    assert await heard(tried) == []


async def test_a_role_hears_no_other_s_answers(server: EverybodyServer) -> None:
    clients = {role: await server.client(Control(role)) for role in ControlRole}
    probe = await server.probe()
    subs = [
        await client.subscribe(place)
        for role, client in clients.items()
        for place in (
            ">",
            "_INBOX.>",
            "_R_.>",
            "*.>",
            *(f"_INBOX_{one}.>" for one in ControlRole if one != role),
        )
    ]
    await settled(*clients.values())
    for place in ("_INBOX.x", "_R_.x.y", *(f"_INBOX_{one}.x" for one in ControlRole)):
        await probe.publish(place, b"secret")
    await settled(probe, *clients.values())
    assert [msg.subject for sub in subs for msg in await heard(sub)] == []


async def test_the_server_s_own_answers_go_where_a_role_wants_them(server: EverybodyServer) -> None:
    """What is open: no permission counts for a reply subject, and the roles share an account.

    A role that was taken over may therefore write as another, and delete the log. Should this test fail, the server or
    the layout of the accounts has become better: docs/security.md is to be put right.
    """
    projector, probe = await server.client(PROJECTOR), await server.probe()
    key = f"$KV.{subjects.RUNS_BUCKET}.{RUN}"
    await projector.publish(key, b"whatever it likes")
    asked = json.dumps({"last_by_subj": key}).encode()
    bucket = f"$JS.API.DIRECT.GET.KV_{subjects.RUNS_BUCKET}"
    await settled(projector)
    await projector.request(bucket, asked, timeout=5)  # it is stored
    await projector.publish(bucket, asked, reply=AN_AGENTS)
    await projector.request(bucket, asked, timeout=5)
    assert await stored_messages(probe) == [(AN_AGENTS, "whatever it likes")]
    deleted = await probe.subscribe("$JS.EVENT.ADVISORY.STREAM.DELETED.>")
    await settled(probe)
    await projector.publish(bucket, b'{"last_by_subj": "$KV.none"}', reply=DELETE)
    assert (await deleted.next_msg(5)).subject.endswith(f".{subjects.EVENTS_STREAM}")


async def test_an_answer_of_the_server_can_change_the_log_s_stream(server: EverybodyServer) -> None:
    """Why a reader that refused events with the server's own headers (`Nats-Stream`) would keep nobody out.

    Open, as the test above says. The gateway has the stream store its own events under an agent's subject.
    """
    gateway, probe = await server.client(GATEWAY), await server.probe()
    info = f"$JS.API.STREAM.INFO.{subjects.EVENTS_STREAM}"
    config = json.loads((await gateway.request(info, timeout=5)).data)["config"]
    config["subject_transform"] = {"src": subjects.submitted(RUN), "dest": AN_AGENTS}
    await gateway.request(subjects.submitted(RUN), json.dumps(config).encode(), timeout=5)
    asked = json.dumps({"last_by_subj": subjects.submitted(RUN)}).encode()
    update = f"$JS.API.STREAM.UPDATE.{subjects.EVENTS_STREAM}"
    await gateway.publish(f"$JS.API.DIRECT.GET.{subjects.EVENTS_STREAM}", asked, reply=update)
    async with asyncio.timeout(10):
        while "subject_transform" not in json.loads((await gateway.request(info, timeout=5)).data)["config"]:
            await asyncio.sleep(0.02)
    stored = json.loads((await gateway.request(subjects.submitted(RUN), b"its own", timeout=5)).data)["seq"]
    got = await probe.request(
        f"$JS.API.STREAM.MSG.GET.{subjects.EVENTS_STREAM}", json.dumps({"seq": stored}).encode(), timeout=5
    )
    message = json.loads(got.data)["message"]
    assert (message["subject"], "hdrs" in message) == (AN_AGENTS, False)
