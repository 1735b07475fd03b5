"""A server's configuration read anew over the system account: at once, with its refusal, and twice for a new account."""

from __future__ import annotations

import asyncio
import socket
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path

import nats.errors
import pytest

from services.enrol.server_reload import SUBJECTS, reload_servers
from trainshed_client.endpoint import Endpoint
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient, connect

OPERATOR = ", ".join(f'"{subject}"' for subject in SUBJECTS)


class ReloadedServer:
    """Two accounts, and one more once `write` is given it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"nats://127.0.0.1:{free.getsockname()[1]}"

    def write(self, more: str = "") -> None:
        (self.folder / "nats.conf").write_text(f"""
listen: "{self.url.removeprefix("nats://")}"
system_account: SYS
accounts {{
  SYS: {{ users: [ {{user: s, password: s, permissions: {{publish: [{OPERATOR}], subscribe: ["_INBOX.>"]}}}} ] }}
  A: {{ users: [ {{user: a, password: a}} ], exports: [ {{service: "ask.*", account_token_position: 2}} ] }}
  {more}
}}
""")

    async def client(self, user: str) -> SafeClient:
        return await connect(Endpoint(self.url, user, user), name=user, on_error=lambda _: None)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ReloadedServer]:
    one = ReloadedServer(tmp_path)
    one.write()
    program = Path(sysconfig.get_path("scripts")) / "nats-server"
    process = await asyncio.create_subprocess_exec(program, "-c", "nats.conf", "-l", "log", cwd=tmp_path)
    async with asyncio.timeout(10):
        while not (tmp_path / "log").exists() or "Server is ready" not in (tmp_path / "log").read_text():
            await asyncio.sleep(0.01)
    yield one
    process.terminate()
    await process.wait()


B = 'B: { users: [ {user: b, password: b} ], imports: [ {service: {account: A, subject: "ask.B"}, to: "ask"} ] }'


async def test_a_new_account_answers_after_the_second_reload(server: ReloadedServer) -> None:
    system, answering = await server.client("s"), await server.client("a")

    async def answer(msg: object) -> None:
        await msg.respond(b"yes")  # type: ignore[attr-defined]

    await answering.subscribe("ask.*", cb=answer)
    await answering.flush()
    with pytest.raises(TrainshedError):
        await server.client("b")
    server.write(B)
    await reload_servers(system, times=2)
    asking = await server.client("b")
    assert (await asking.request("ask", b"", timeout=3)).data == b"yes"
    for client in (system, answering, asking):
        await client.close()


async def test_a_configuration_that_is_refused_is_told_and_the_old_one_stays(server: ReloadedServer) -> None:
    system = await server.client("s")
    for wrong in ("B: {", 'B: { imports: [ {service: {account: NONE, subject: "x"}} ] }'):
        server.write(wrong)
        with pytest.raises(
            TrainshedError, match="refuses its configuration and goes on by the old one: "
        ) as raised:
            await reload_servers(system)
        assert raised.value.code is ErrorCode.INVALID
        await (await server.client("a")).close()
    await system.close()


async def test_one_who_may_not_ask_gets_no_answer(
    server: ReloadedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.enrol.server_reload.FIRST_WITHIN_S", 0.3)
    stranger = await server.client("a")
    with pytest.raises(TrainshedError, match="no server answers in the system account"):
        await reload_servers(stranger)
    await stranger.close()


async def test_the_user_for_reloads_may_do_nothing_else(server: ReloadedServer) -> None:
    system = await server.client("s")
    for subject in ("$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.ACCOUNT.A.CONNZ", "x"):
        with pytest.raises((nats.errors.Error, TimeoutError)):
            await system.request(subject, b"", timeout=0.3)
    await system.close()
