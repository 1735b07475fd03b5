"""The listener for pages: off unless asked for, on loopback, for the origins named, and read-only whatever is tried."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import nats
import nats.errors
import psutil
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from events.streams import ensure_streams
from services.access.local_realm import Unconfined
from services.nats_server.embedded_nats import EmbeddedNats
from services.nats_server.web_socket import (
    WebSocketEndpoint,
    WebSocketOptions,
    write_web_socket,
)
from tests.support import NatsServer, eventually
from trainshed_client import subjects
from trainshed_client.endpoint import Endpoint
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient, connect

# nats-py gives aiohttp a float for this; both go on with it.
pytestmark = pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float':DeprecationWarning")

RUN = "mfrggzdfmztwq2lk"
DIRECT = "$JS.API.DIRECT.GET."


class Page:
    """A connection as a page has it; ``refused``: what the server answered to what it may not do."""

    def __init__(self, endpoint: WebSocketEndpoint) -> None:
        self.endpoint = endpoint
        self.refused: list[str] = []
        self.nc = Client()

    async def open(self, **given: Any) -> Page:
        async def error_cb(error: Exception) -> None:
            self.refused.append(str(error))

        options: dict[str, Any] = {
            "user": self.endpoint.user,
            "password": self.endpoint.password,
            "inbox_prefix": self.endpoint.inbox_prefix,
            "error_cb": error_cb,
            "allow_reconnect": False,
            **given,
        }
        await self.nc.connect(options.pop("url", self.endpoint.url), **options)
        return self

    async def page_of(self, stream: str, subject: str = ">") -> list[Msg]:
        """What a stream holds, as a page reads it: all up to the status 204."""
        found: list[Msg] = []
        inbox = self.nc.new_inbox()
        sub = await self.nc.subscribe(inbox)
        await self.nc.publish(
            DIRECT + stream, json.dumps({"seq": 1, "batch": 500, "next_by_subj": subject}).encode(), inbox
        )
        while True:
            msg = await sub.next_msg(5)
            if (msg.headers or {}).get("Status"):
                assert msg.headers and msg.headers["Status"] in ("204", "404"), msg.headers
                await sub.unsubscribe()
                return found
            found.append(msg)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A server with the listener and Trainshed's streams, one event and one record in them."""
    made = NatsServer(tmp_path / "state", web_socket=WebSocketOptions())
    await made.embedded.start()
    try:
        nc = await made.client()
        await ensure_streams(nc)
        await nc.request(subjects.submitted(RUN), b'{"run_id":"%s"}' % RUN.encode())
        await nc.request(
            f"$KV.{subjects.RUNS_BUCKET}.{RUN}", b'{"run_id":"%s","status":"PENDING"}' % RUN.encode()
        )
        yield made
    finally:
        await made.close()


@pytest.fixture
async def page(server: NatsServer) -> AsyncIterator[Page]:
    opened = await Page(endpoint(server)).open()
    try:
        yield opened
    finally:
        await opened.nc.close()


def endpoint(server: NatsServer) -> WebSocketEndpoint:
    found = server.embedded.web_socket
    assert found is not None
    return found


def listening(pid: int) -> set[tuple[str, int]]:
    """(address, port) of each socket that a process listens on."""
    connections = psutil.Process(pid).net_connections()
    return {(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN}


async def test_there_is_none_unless_it_is_asked_for(nats_server: NatsServer) -> None:
    assert nats_server.embedded.web_socket is None
    assert len(listening(nats_server.pid)) == 2  # clients and monitoring
    assert "websocket" not in (nats_server.state_dir / "nats" / "server.conf").read_text()


async def test_it_listens_on_loopback_alone(server: NatsServer) -> None:
    port = int(endpoint(server).url.rpartition(":")[2])
    found = listening(server.pid)
    assert ("127.0.0.1", port) in found
    assert {address for address, _ in found} == {"127.0.0.1"}


async def test_a_page_hears_records_events_and_output_and_reads_buckets_and_log(
    server: NatsServer, page: Page
) -> None:
    nc = await server.client()
    (record,) = await page.page_of(f"KV_{subjects.RUNS_BUCKET}")
    assert json.loads(record.data) == {"run_id": RUN, "status": "PENDING"}
    assert record.headers and record.headers["Nats-Subject"] == f"$KV.{subjects.RUNS_BUCKET}.{RUN}"
    assert [json.loads(event.data) for event in await page.page_of(subjects.EVENTS_STREAM)] == [
        {"run_id": RUN}
    ]
    newest = await page.nc.request(f"{DIRECT}KV_{subjects.RUNS_BUCKET}.$KV.{subjects.RUNS_BUCKET}.{RUN}")
    assert newest.data == record.data
    assert await page.page_of(f"KV_{subjects.SLOTS_BUCKET}") == []

    heard = asyncio.Queue[Msg]()

    async def hear(msg: Msg) -> None:
        await heard.put(msg)

    for subject in (f"{subjects.WATCH}.>", f"{subjects.LOG}.>"):
        await page.nc.subscribe(subject, cb=hear)
    await page.nc.flush()
    await nc.request(f"$KV.{subjects.RUNS_BUCKET}.{RUN}", b"1")
    await nc.request(subjects.agent_event(RUN, "started", "box"), b"2")
    await nc.publish(
        subjects.output(RUN, 1, "box", "stdout"), b"3", headers={subjects.OFFSET_HEADER: str(2**31)}
    )
    arrived = [await asyncio.wait_for(heard.get(), 5) for _ in range(3)]
    assert {(msg.subject, msg.data) for msg in arrived} == {
        (subjects.watch_run(RUN), b"1"),
        (f"{subjects.LOG}.run.{RUN}.agent.started.box", b"2"),
        (subjects.output(RUN, 1, "box", "stdout"), b"3"),
    }
    assert page.refused == []


async def test_health_answers_and_knows_by_its_account_who_asks(server: NatsServer, page: Page) -> None:
    nc = await server.client()

    async def answer(msg: Msg) -> None:
        await msg.respond(msg.subject.encode())

    await nc.subscribe(subjects.api_as("health"), cb=answer)
    await nc.flush()
    assert (await page.nc.request(subjects.api("health"))).data == b"trainshed.api.u.PAGES.health"


REFUSED_TO_PUBLISH = (
    *(
        subjects.api(call)
        for call in (
            *(
                "run.submit",
                "run.submit_batch",
                "run.check",
                "run.cancel",
                "run.retry",
                "run.get",
                "run.list",
            ),
            *(
                "node.drain",
                "node.remove",
                "node.box.output",
                "node.box.prune",
                "audit.accept",
                "u.PAGES.health",
            ),
            *("u.TRAINSHED.run.cancel", f"w.{RUN}.run.submit"),
        )
    ),
    subjects.submitted(RUN),
    subjects.node_heartbeat("box"),
    subjects.watch_run(RUN),
    subjects.output(RUN, 1, "box", "stdout"),
    f"{subjects.LOG}.run.{RUN}.agent.started.box",
    f"$KV.{subjects.RUNS_BUCKET}.{RUN}",
    f"$JS.API.STREAM.PURGE.KV_{subjects.RUNS_BUCKET}",
    f"$JS.API.STREAM.INFO.{subjects.EVENTS_STREAM}",
    f"$JS.API.STREAM.MSG.GET.{subjects.EVENTS_STREAM}",
    f"$JS.API.CONSUMER.CREATE.{subjects.EVENTS_STREAM}",
    f"{DIRECT}{subjects.HEARTBEATS_STREAM}",
    f"{DIRECT}KV_others",
    f"{subjects.ACKS}{subjects.EVENTS_STREAM}.box.1.1.1.1.1",
    "$SYS.REQ.SERVER.PING",
    "$SRV.PING",
    "_INBOX.somebody.1",
    "anything",
)
REFUSED_TO_HEAR = (
    *(">", "*", "trainshed.>", "_INBOX.>", "$KV.>", "$JS.>", "$SYS.>", "$SRV.>"),
    *(
        subjects.ALL_EVENTS,
        subjects.ALL_HEARTBEATS,
        f"{subjects.API}.>",
        "trainshed.push.box.events",
        "trainshed.*.>",
    ),
)


async def all_heard(server: NatsServer) -> list[str]:
    """The subjects that arrive in the stack's own account from now on, monitoring of the connections apart."""
    arrived: list[str] = []
    nc = await server.client()

    async def hear(msg: Msg) -> None:
        arrived.append(msg.subject)

    await nc.subscribe(">", cb=hear)
    await nc.flush()
    return arrived


async def stored(nc: SafeClient, stream: str) -> int:
    info = json.loads((await nc.request(f"$JS.API.STREAM.INFO.{stream}")).data)
    return int(info["state"]["last_seq"])


async def test_it_may_send_nothing_else(server: NatsServer, page: Page) -> None:
    arrived = await all_heard(server)
    for subject in REFUSED_TO_PUBLISH:
        await page.nc.publish(subject, b'{"run_id":"%s"}' % RUN.encode())
    await page.nc.flush()
    await eventually(lambda: len(page.refused) == len(REFUSED_TO_PUBLISH))
    for subject, text in zip(REFUSED_TO_PUBLISH, page.refused, strict=True):
        assert f'permissions violation for publish to "{subject.lower()}"' in text.lower()
    nc = await server.client()
    await nc.flush()
    assert arrived == []


async def test_it_may_hear_nothing_else(server: NatsServer, page: Page) -> None:
    for subject in REFUSED_TO_HEAR:
        await page.nc.subscribe(subject)
    await page.nc.flush()
    await eventually(lambda: len(page.refused) == len(REFUSED_TO_HEAR))
    for subject, text in zip(REFUSED_TO_HEAR, page.refused, strict=True):
        assert f'permissions violation for subscription to "{subject.lower()}"' in text.lower()


@pytest.mark.parametrize(
    "target",
    [
        subjects.api("run.cancel"),
        subjects.agent_event(RUN, "completed", "box"),
        f"$KV.{subjects.RUNS_BUCKET}.{RUN}",
        subjects.watch_run(RUN),
        f"$JS.API.STREAM.PURGE.{subjects.HEARTBEATS_STREAM}",
    ],
)
async def test_no_answer_goes_where_the_page_may_not_send(
    server: NatsServer, page: Page, target: str
) -> None:
    """A direct get is answered with what is stored, to whatever reply subject the request names."""
    arrived = await all_heard(server)
    nc = await server.client()
    streams = (subjects.EVENTS_STREAM, f"KV_{subjects.RUNS_BUCKET}")
    before = [await stored(nc, stream) for stream in streams]
    for stream in streams:
        for asked in ({"seq": 1}, {"seq": 1, "batch": 10, "next_by_subj": ">"}):
            await page.nc.publish(DIRECT + stream, json.dumps(asked).encode(), reply=target)
    await page.nc.publish(subjects.api("health"), b"{}", reply=target)
    for stream in streams:  # answered after the others
        assert await page.page_of(stream)
    assert page.refused == []
    assert [await stored(nc, stream) for stream in streams] == before
    assert target not in arrived


async def test_each_of_the_two_users_has_his_own_door(server: NatsServer) -> None:
    stack, pages = server.endpoint, endpoint(server)
    with pytest.raises(TrainshedError):  # a page's password is none for programs
        await connect(Endpoint(stack.url, pages.user, pages.password), name="t")
    for user, password in ((stack.user, stack.password), (pages.user, "guess"), (None, None)):
        page = Page(pages)
        with pytest.raises((nats.errors.Error, ConnectionError)):
            await page.open(user=user, password=password, max_reconnect_attempts=0)
        assert not page.nc.is_connected


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


async def handshake(url: str, origin: str) -> int:
    """The status that a page of ``origin`` gets."""
    page = url.replace("ws://", "http://")
    async with (
        aiohttp.ClientSession() as session,
        session.get(page, headers={**UPGRADE, "Origin": origin}) as got,
    ):
        return got.status


async def test_pages_of_other_origins_are_refused(tmp_path: Path) -> None:
    origins = ("http://localhost:5173", "http://localhost:3000", "https://trainer.example")
    server = NatsServer(tmp_path, web_socket=WebSocketOptions(origins=origins))
    await server.embedded.start()
    try:
        url = endpoint(server).url
        assert [await handshake(url, origin) for origin in origins] == [101, 101, 101]
        others = (
            *("http://localhost:8080", "http://localhost", "https://localhost:5173", "http://127.0.0.1:5173"),
            *(
                "https://evil.example",
                "http://trainer.example",
                "null",
                "file://",
                url.replace("ws:", "http:"),
            ),
        )
        assert [await handshake(url, origin) for origin in others] == [403] * len(others)
    finally:
        await server.close()


async def test_port_password_and_log_stay_over_a_restart_with_it_and_without(tmp_path: Path) -> None:
    first = EmbeddedNats(tmp_path, Unconfined())
    await first.start()
    nc = await connect(first.endpoint, name="t")
    log_id = await ensure_streams(nc)
    await nc.request(subjects.submitted(RUN), b"kept")
    await nc.close()
    await first.stop()
    seen = []
    for asked in (WebSocketOptions(), None, WebSocketOptions(origins=("http://localhost:3000",))):
        server = EmbeddedNats(tmp_path, Unconfined(), web_socket=asked)
        await server.start()
        try:
            assert server.endpoint == first.endpoint
            nc = await connect(server.endpoint, name="t")
            assert await ensure_streams(nc) == log_id
            assert (await nc.jetstream().get_msg(subjects.EVENTS_STREAM, 1)).data == b"kept"
            await nc.close()
            if server.web_socket is not None:
                seen.append((server.web_socket.url, server.web_socket.password))
        finally:
            await server.stop()
    assert len(seen) == 2
    assert len(set(seen)) == 1


async def test_killed_it_comes_back_at_the_same_port(server: NatsServer) -> None:
    before = endpoint(server)
    os.kill(server.pid, signal.SIGKILL)
    await server.embedded.wait()
    await server.embedded.start()
    assert endpoint(server) == before
    page = await Page(before).open()
    assert len(await page.page_of(subjects.EVENTS_STREAM)) == 1
    await page.nc.close()


async def test_a_port_that_was_asked_for_must_be_free(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        asked = WebSocketOptions(port=port)
        with pytest.raises(TrainshedError) as refused:
            await EmbeddedNats(tmp_path, Unconfined(), web_socket=asked).start()
    assert refused.value.code is ErrorCode.UNAVAILABLE
    assert f"nats-server's WebSocket port {port} cannot be had (" in refused.value.message
    assert "name another: trainshed up --websocket PORT" in refused.value.message
    server = EmbeddedNats(tmp_path, Unconfined(), web_socket=asked)
    await server.start()
    assert server.web_socket is not None
    assert server.web_socket.url == f"ws://127.0.0.1:{port}"
    await server.stop()


async def test_two_stores_are_told_apart_by_a_person(tmp_path: Path) -> None:
    for asked in (None, WebSocketOptions()):
        server = EmbeddedNats(tmp_path, Unconfined(), web_socket=asked)
        await server.start()
        nc = await connect(server.endpoint, name="t")
        await ensure_streams(nc)
        await nc.close()
        await server.stop()
        kept = server.store_dir / "jetstream"
        (folder,) = [each for each in kept.iterdir() if each.name in ("$G", "TRAINSHED")]
    (kept / "$G/streams/EVENTS").mkdir(parents=True)
    for asked in (None, WebSocketOptions()):
        with pytest.raises(TrainshedError, match="there are two stores") as refused:
            await EmbeddedNats(tmp_path, Unconfined(), web_socket=asked).start()
        assert refused.value.code is ErrorCode.CONFLICT
        assert str(folder) in refused.value.message


def test_the_file_for_pages_is_its_owners_alone_and_goes_with_the_listener(tmp_path: Path) -> None:
    page = WebSocketEndpoint(url="ws://127.0.0.1:1", password="hush", origins=("http://localhost:8080",))
    write_web_socket(tmp_path, page)
    path = tmp_path / "websocket.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {
        "v": 1,
        "url": "ws://127.0.0.1:1",
        "user": "trainshed-web",
        "password": "hush",
        "inbox_prefix": "_INBOX_web",
        "origins": ["http://localhost:8080"],
    }
    assert "hush" not in repr(page) + str(page)
    write_web_socket(tmp_path, None)
    assert not path.exists()
    write_web_socket(tmp_path, None)
