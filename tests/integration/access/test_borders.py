"""Attacks from within: each identity tries what others may do, by subject, reply subject, header and subscription."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import nats.errors
import pytest
from nats.aio.msg import Msg

from events.codec import Unreadable
from events.log import EventLog
from events.types import EVENT_KINDS
from services.access.accounts import covers
from services.access.identities import Control, ControlRole, Known, NodeIdentity, account
from services.access.permissions import Way, permissions_of
from services.access.table import COLUMNS, NODE
from tests.support.everybody import EVERYBODY, EverybodyServer, heard, settled, stored_messages
from trainshed_client import subjects
from trainshed_client.subjects import Role, Scope

GATEWAY, DISPATCHER = Control(ControlRole.GATEWAY), Control(ControlRole.DISPATCHER)
GPU01 = NodeIdentity(NODE)
SAM = COLUMNS["submitter"]
OUTSIDERS = [who for who in EVERYBODY if not isinstance(who, Control)]
RUN = "mfrggzdfmztwq2lk"


def named(who: Known) -> str:
    return account(who) if not isinstance(who, Control) else who.role.value


def every_event() -> Iterator[str]:
    """The subject of each kind of event, as each role that writes it and for each node."""
    for name, kind in EVENT_KINDS.items():
        for role in kind.roles:
            about = {Scope.RUN: RUN, Scope.NODE: NODE, Scope.CONTROL: "log"}[kind.scope]
            for node in (NODE, "gpu02", subjects.NO_NODE):
                yield f"{subjects.EVENTS}.{kind.scope}.{about}.{role}.{name}.{node}"


@pytest.mark.parametrize("who", EVERYBODY, ids=named)
async def test_each_writes_the_events_of_its_own_role_and_node_alone(
    server: EverybodyServer, who: Known
) -> None:
    client, probe = await server.client(who), await server.probe()
    for subject in every_event():
        await client.publish(subject, b"forged")
    await settled(client)
    own: tuple[str, ...]
    match who:
        case Control(ControlRole.GATEWAY | ControlRole.DISPATCHER as role):
            own = (f"{subjects.EVENTS}.*.*.{role}.*.*",)
        case NodeIdentity(node):
            own = tuple(
                f"{subjects.EVENTS}.{about}.{Role.AGENT}.*.{node}" for about in ("run.*", f"node.{node}")
            )
        case _:
            own = ()
    wanted = [subject for subject in every_event() if any(covers(one, subject) for one in own)]
    assert await stored_messages(probe) == [(subject, "forged") for subject in wanted]


REPLIES = (
    f"{subjects.EVENTS}.run.{RUN}.dispatcher.dispatched.{NODE}",
    f"{subjects.EVENTS}.run.{RUN}.gateway.submitted._",
    f"{subjects.EVENTS}.run.{RUN}.agent.completed.gpu03",
    subjects.ELECTED,
    subjects.node_heartbeat("gpu03"),
    f"$KV.{subjects.RUNS_BUCKET}.{RUN}",
    f"$JS.API.STREAM.DELETE.{subjects.EVENTS_STREAM}",
    f"$JS.API.STREAM.PURGE.{subjects.HEARTBEATS_STREAM}",
    f"$JS.API.STREAM.UPDATE.{subjects.EVENTS_STREAM}",
    f"$JS.API.CONSUMER.CREATE.{subjects.EVENTS_STREAM}.c",
    f"$JS.API.CONSUMER.DELETE.{subjects.EVENTS_STREAM}.gpu03",
    f"{subjects.ACKS}{subjects.EVENTS_STREAM}.gpu03.1.1.1.1.1",
    "trainshed.api.u.P_zoe.run.cancel",
    "trainshed.api.run.cancel",
    "trainshed.push.gpu03.events",
    f"{subjects.WATCH_CHECKPOINT}",
    f"{subjects.LOG}.run.another.gateway.submitted._",
    "_INBOX_gateway.x",
    "_R_.x",
)
"""What a reply subject may be meant to reach: nobody here is gpu03, nor Zoe."""


@pytest.mark.parametrize("who", OUTSIDERS, ids=named)
async def test_a_reply_subject_carries_nothing_across_an_account_s_border(
    server: EverybodyServer, who: Known
) -> None:
    """Whatever it may ask, with every answer sent where another's words would count."""
    client, probe, gateway = await server.client(who), await server.probe(), await server.client(GATEWAY)
    forged = f"{subjects.EVENTS}.run.{RUN}.gateway.submitted._"
    await gateway.publish(forged, b"the stored one")

    async def answer(msg: Msg) -> None:
        await msg.respond(b"the answer")

    await gateway.subscribe(f"{subjects.API}.>", cb=answer)
    others = {one: await server.client(one) for one in OUTSIDERS if one != who}
    inboxes = [await other.subscribe(">") for other in others.values()]
    arrived = await probe.subscribe(">")
    await settled(gateway, probe, *others.values())
    for way, granted in permissions_of(who):
        asked = {
            Way.CALL: subjects.api(granted),
            Way.CALL_PEER: subjects.api(granted),
            Way.SEND: granted,
            Way.READ: granted,
        }.get(way)
        if asked is None:
            continue
        asked = asked.replace("*", RUN).replace(">", forged)
        for reply in REPLIES:
            for body in (b"", b'{"seq":1}', json.dumps({"last_by_subj": forged}).encode()):
                await client.publish(asked, body, reply=reply)
    await settled(client, gateway, *others.values(), client, probe, *others.values())
    assert {msg.subject for msg in await heard(arrived)} & set(REPLIES) == set()
    assert [msg.subject for inbox in inboxes for msg in await heard(inbox) if msg.subject in REPLIES] == []
    for stream in (subjects.EVENTS_STREAM, subjects.HEARTBEATS_STREAM, f"KV_{subjects.RUNS_BUCKET}"):
        info = json.loads((await probe.request(f"$JS.API.STREAM.INFO.{stream}", timeout=5)).data)
        assert "error" not in info, "the stream is there"
        assert info["state"]["consumer_count"] == 0
    own = f".{who.node}" if isinstance(who, NodeIdentity) else " "
    for stream in (subjects.EVENTS_STREAM, subjects.HEARTBEATS_STREAM):
        foreign = [one for one in await stored_messages(probe, stream) if not one[0].endswith(own)]
        assert foreign == ([(forged, "the stored one")] if stream == subjects.EVENTS_STREAM else [])


async def test_nobody_hears_what_another_asks_or_is_answered(server: EverybodyServer) -> None:
    """Sam asks the gateway and a node; everybody else subscribes to all that he can think of."""
    sam, gateway, node = [await server.client(who) for who in (SAM, GATEWAY, GPU01)]

    async def answer(msg: Msg) -> None:
        await msg.respond(b"secret")

    await gateway.subscribe(f"{subjects.API}.u.*.run.get", cb=answer)
    await node.subscribe(subjects.api_as(f"node.{NODE}.output"), cb=answer)
    others = {who: await server.client(who) for who in EVERYBODY if who not in (SAM, GATEWAY, GPU01)}
    places = (">", "*.>", "_INBOX.>", "_INBOX.*.*", "_R_.>", f"{subjects.API}.u.{account(SAM)}.>")
    subs = [(who, await other.subscribe(place)) for who, other in others.items() for place in places]
    await settled(sam, gateway, node, *others.values())
    calls = ("run.get", f"node.{NODE}.output")
    for call in calls:
        assert (await sam.request(subjects.api(call), b"secret question", timeout=5)).data == b"secret"
    await settled(sam, gateway, node, *others.values())
    told = {
        (named(who), msg.subject) for who, sub in subs for msg in await heard(sub) if b"secret" in msg.data
    }
    # What is asked is heard by those of the control side who answer calls, and by the operator.
    assert told == {
        (role, f"{subjects.API}.u.{account(SAM)}.{call}")
        for role in ("operator", "projector", "enrol")
        for call in calls
    }


@pytest.mark.parametrize("token", [b"*", b">"])
async def test_a_literal_wildcard_is_stored_on_one_s_own_grant_alone_and_is_no_event(
    server: EverybodyServer, token: bytes
) -> None:
    """A server that is not asked to be pedantic takes such a subject; it stands for no other."""
    places = [
        b"trainshed.events.run.%s.agent.completed.gpu01",
        b"trainshed.events.run.r.agent.%s.gpu01",
        b"trainshed.events.run.r.%s.completed.gpu01",
        b"trainshed.events.run.r.agent.completed.%s",
        b"trainshed.events.%s",
        b"trainshed.events.node.%s.agent.node_joined.gpu01",
        b"trainshed.api.u.%s.run.submit",
        b"trainshed.api.%s",
    ]
    probe = await server.probe()
    asked = await probe.subscribe(f"{subjects.API}.>")
    await settled(probe)
    for who in (GPU01, SAM, DISPATCHER):
        for place in places:
            async with server.raw(who) as raw:
                with contextlib.suppress(ConnectionError):  # a role is refused aloud
                    await raw.publish(place % token, b"forged")
    await settled(probe)
    assert await heard(asked) == []
    stored = await stored_messages(probe)
    assert {subject for subject, _ in stored} <= {(place % token).decode() for place in places[:2]}, (
        "a node's, on what it may write anyway"
    )
    log = [one async for one in EventLog(probe).read()]
    assert stored and all(isinstance(one, Unreadable) for one in log)
    last = await EventLog(probe).last(subjects.agent_event("r", "completed", NODE))
    assert last is None, "it is not found under another's subject"


async def test_a_node_reads_its_own_events_alone(server: EverybodyServer) -> None:
    """Its direct gets bear the subject; a body asks for nothing more."""
    gateway, dispatcher, node = [await server.client(who) for who in (GATEWAY, DISPATCHER, GPU01)]
    await gateway.request(subjects.submitted(RUN), b"another's", timeout=5)
    await dispatcher.request(
        f"{subjects.EVENTS}.run.{RUN}.dispatcher.dispatched.{NODE}", b"for it", timeout=5
    )
    own = subjects.agent_event(RUN, "completed", NODE)
    await node.request(own, b"its own", timeout=5)
    get = f"$JS.API.DIRECT.GET.{subjects.EVENTS_STREAM}"
    assert (await node.request(f"{get}.{own}", b"", timeout=5)).data == b"its own"
    foreign = (
        (f"{get}.{subjects.submitted(RUN)}", b""),
        (f"{get}.{subjects.EVENTS}.run.{RUN}.>", b""),
        (f"{get}.{subjects.EVENTS}.>", b""),
        (get, b'{"seq": 1}'),
        (f"{get}.{own}", b'{"seq": 1}'),
        (f"{get}.{own}", json.dumps({"last_by_subj": subjects.submitted(RUN)}).encode()),
    )
    for subject, body in foreign:
        try:
            answer = await node.request(subject, body, timeout=1)
        except (TimeoutError, nats.errors.Error):
            continue
        assert answer.data in (b"", b"its own"), (subject, body)
        assert (answer.headers or {}).get("Nats-Sequence", "3") == "3"
