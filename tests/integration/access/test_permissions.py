"""The table of services/access/table.py, cell by cell, against a real nats-server that has everybody's accounts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

from nats.aio.msg import Msg

from services.access.identities import Control, ControlRole, NodeIdentity, account
from services.access.table import CALLS, COLUMNS, HEARD, NODE, PUBLISHED, may_call, may_hear, may_publish
from tests.support.everybody import EVERYBODY, EverybodyServer, heard, settled, stored_messages
from trainshed_client import subjects
from trainshed_client.nats_client import SafeClient

Cell = tuple[str, str]
"""A row and a column."""


def marked(rows: Iterable[str], may: object) -> set[Cell]:
    assert callable(may)
    return {(row, name) for row in rows for name, who in COLUMNS.items() if may(who, row)}


async def connected(server: EverybodyServer) -> dict[str, SafeClient]:
    return {name: await server.client(who) for name, who in COLUMNS.items()}


async def test_a_call_reaches_who_answers_it_exactly_where_marked(server: EverybodyServer) -> None:
    """And bears its caller's account: in its own name and in everybody else's that is tried."""
    clients = await connected(server)
    gateway = await server.client(Control(ControlRole.GATEWAY))
    node = await server.client(NodeIdentity(NODE))
    by_gateway = await gateway.subscribe(f"{subjects.API}.>")
    by_node = await node.subscribe(subjects.api_as(f"node.{NODE}.*"))
    await settled(gateway, node)
    for name, client in clients.items():
        for call in CALLS:
            for place in (
                subjects.api(call),
                *(f"{subjects.API}.u.{account(who)}.{call}" for who in EVERYBODY),
                *(f"{subjects.PEER}.u.{account(who)}.{call}" for who in EVERYBODY),
            ):
                await client.publish(place, json.dumps([name, call, place]).encode())
    await settled(*clients.values(), gateway, node)
    reached: set[Cell] = set()
    for sub in (by_gateway, by_node):
        for msg in await heard(sub):
            name, call, place = json.loads(msg.data)
            spelled_out = f"{subjects.API}.u.{account(COLUMNS[name])}.{call}"
            if sub is by_node and name == "node" and place != subjects.api(call):
                continue  # within its own account it tells itself what it likes
            assert msg.subject == spelled_out, name
            if sub is by_gateway and call.startswith(f"node.{NODE}."):
                continue  # the control side hears what nodes are asked
            assert (call, name) not in reached, f"{call} of {name} arrives twice"
            reached.add((call, name))
    assert reached == marked(CALLS, may_call)


async def test_who_may_call_gets_the_answer(server: EverybodyServer) -> None:
    clients = await connected(server)
    gateway = await server.client(Control(ControlRole.GATEWAY))
    node = await server.client(NodeIdentity(NODE))

    async def answer(msg: Msg) -> None:
        await msg.respond(msg.subject.encode())

    await gateway.subscribe(f"{subjects.API}.u.*.>", cb=answer)
    await node.subscribe(subjects.api_as(f"node.{NODE}.*"), cb=answer)
    await settled(gateway, node)
    cells = marked(CALLS, may_call)
    answers = await asyncio.gather(
        *(clients[name].request(subjects.api(call), b"?", timeout=10) for call, name in cells)
    )
    assert {msg.data.decode() for msg in answers} == {
        f"{subjects.API}.u.{account(COLUMNS[name])}.{call}" for call, name in cells
    }


async def test_what_is_published_arrives_exactly_where_marked(server: EverybodyServer) -> None:
    """Whoever may do everything in the control account hears it, and what is an event is stored."""
    clients = await connected(server)
    probe = await server.probe()
    every = await probe.subscribe(">")
    await settled(probe)
    for name, client in clients.items():
        for subject in (*PUBLISHED, subjects.LOG_INFO):  # a node has another name for one of them
            await client.publish(subject, name.encode())
    await settled(*clients.values(), probe)
    arrived = [(msg.subject, msg.data.decode()) for msg in await heard(every) if msg.data.decode() in COLUMNS]
    wanted = marked(PUBLISHED, may_publish)
    assert {cell for cell in arrived if cell[0] in PUBLISHED} == wanted
    assert len([cell for cell in arrived if cell[0] in PUBLISHED]) == len(wanted), "once each"
    stored = set(await stored_messages(probe, subjects.EVENTS_STREAM))
    assert stored == {cell for cell in wanted if cell[0].startswith(f"{subjects.EVENTS}.")}
    stored = set(await stored_messages(probe, subjects.HEARTBEATS_STREAM))
    assert stored == {cell for cell in wanted if cell[0].startswith(f"{subjects.HEARTBEATS}.")}


async def test_what_is_published_is_heard_exactly_where_marked(server: EverybodyServer) -> None:
    """Subscribed to as it stands, by what is granted, and by wildcards that would take everything."""
    clients = await connected(server)
    sources: dict[str, SafeClient] = {"": await server.probe(), NODE: await server.client(NodeIdentity(NODE))}
    for subject in HEARD:
        subs = {
            name: [await client.subscribe(place) for place in (subject, ">", "trainshed.>", "*.>")]
            for name, client in clients.items()
        }
        await settled(*clients.values())
        # what a node shows, it alone publishes
        source = sources[NODE if ".output." in subject else ""]
        await source.publish(subject, b"heard")
        await settled(source, *clients.values())
        hears = {
            name: [sum(msg.subject == subject for msg in await heard(sub)) for sub in of]
            for name, of in subs.items()
            if clients[name].options["user"] != source.options["user"]  # one hears oneself
        }
        wanted = {name for name, who in COLUMNS.items() if may_hear(who, subject)}
        assert {name for name, counts in hears.items() if any(counts)} == wanted, subject
        assert {name for name, counts in hears.items() if counts[0] == 1} == wanted, "as it stands, once"
        assert all(count <= 1 for counts in hears.values() for count in counts), hears
        for of in subs.values():
            for sub in of:
                await sub.unsubscribe()
