"""`up --websocket` as a user has it: off by default, its file and its line, what it refuses, and what a page gets of the stack."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nats.errors
import psutil
import pytest
from nats.aio.client import Client

from tests.support.stack import Stack, run_trainshed

# nats-py gives aiohttp a float for this; both go on with it.
pytestmark = pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float':DeprecationWarning")

NewStack = Callable[..., Stack]


def pages(stack: Stack) -> dict[str, Any]:
    """What is written for pages."""
    path = stack.state_dir / "websocket.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def connects(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((address, port)) == 0


def test_it_is_off_until_asked_for_and_off_again_without(new_stack: NewStack) -> None:
    stack = new_stack()
    path = stack.state_dir / "websocket.json"
    assert not path.exists()
    run = stack.submit(shell="true")
    stack.wait(run)
    stack.stop()

    stack.start("--websocket")
    page = pages(stack)
    said = stack.said()
    assert f"may read at {page['url']}; user and password are in {path}" in said
    assert page["password"] not in said
    assert stack.record(run)["status"] == "COMPLETED", "it is the same log"
    stack.stop()
    stack.start("--websocket", "--websocket-origin", "http://localhost:3000")
    assert pages(stack) == {**page, "origins": ["http://localhost:3000"]}
    stack.stop()

    stack.start()
    assert not path.exists()
    assert not connects("127.0.0.1", urlsplit(page["url"]).port or 0)
    assert stack.record(run)["status"] == "COMPLETED"


def test_no_other_machine_reaches_it(new_stack: NewStack) -> None:
    stack = new_stack(options=("--websocket",))
    port = urlsplit(pages(stack)["url"]).port or 0
    assert connects("127.0.0.1", port)
    others = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    ]
    assert [address for address in (*others, "127.0.0.2") if connects(address, port)] == []


def test_a_port_that_is_taken_and_one_that_is_none(new_stack: NewStack) -> None:
    stack = new_stack(start=False)
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        for more in ((), ("--detach",)):
            done = stack.trainshed("up", "--websocket", port, *more, code=3)
            assert f"nats-server's WebSocket port {port} cannot be had (" in done.stderr
            assert "name another: trainshed up --websocket PORT" in done.stderr
    for wrong in ("0", "65536", "x"):
        assert "--websocket" in stack.trainshed("up", "--websocket", wrong, code=2).stderr
    refused = stack.trainshed("up", "--websocket", "--websocket-origin", "null", code=2)
    assert "serve it on localhost" in refused.stderr
    assert "goes with --websocket" in stack.trainshed("up", "--websocket-origin", "http://a", code=2).stderr


def test_in_the_background_and_as_a_service_it_is_the_same(new_stack: NewStack, tmp_path: Path) -> None:
    stack = new_stack(start=False)
    words = ("--websocket", "--websocket-origin", "http://localhost:5173")
    try:
        said = stack.trainshed(
            "up", "--gpus", "0", "--cpus", "1", "--memory", "100", "--detach", *words
        ).stderr
        page = pages(stack)
        assert f"Pages of http://localhost:5173 may read at {page['url']}" in said
    finally:
        stack.trainshed("down")
    home = {**stack.environment, "XDG_CONFIG_HOME": str(tmp_path / "config")}
    run_trainshed("service", "install", *words, environment=home)
    unit = (tmp_path / "config" / "systemd" / "user" / "trainshed.service").read_text()
    assert "up --websocket any --websocket-origin http://localhost:5173" in unit


async def test_a_page_reads_the_stack_and_can_do_nothing_to_it(new_stack: NewStack) -> None:
    stack = new_stack(options=("--websocket",))
    run = stack.submit("--gpus", "1", shell="sleep 100")
    stack.running(run)
    page = pages(stack)
    refused: list[str] = []

    async def error_cb(error: Exception) -> None:
        refused.append(str(error))

    nc = Client()
    await nc.connect(
        page["url"],
        user=page["user"],
        password=page["password"],
        inbox_prefix=page["inbox_prefix"],
        error_cb=error_cb,
    )
    try:
        health = json.loads((await nc.request("trainshed.api.health", b"{}", timeout=5)).data)
        assert health["log_id"]
        assert health["last_seq"] >= 3
        key = f"$JS.API.DIRECT.GET.KV_trainshed_runs.$KV.trainshed_runs.{run}"
        assert json.loads((await nc.request(key, timeout=5)).data)["status"] == "RUNNING"
        assert refused == []
        asked = json.dumps({"run_id": run}).encode()
        for call in ("run.cancel", "run.retry", "run.get", "node.drain"):
            with pytest.raises(nats.errors.TimeoutError):
                await nc.request(f"trainshed.api.{call}", asked, timeout=0.2)
        assert len(refused) == 4
        # A direct get is answered to a subject of the page's choice, and that stays in its account.
        begin = json.loads((await nc.request("trainshed.api.health", b"{}", timeout=5)).data)["last_seq"]
        for reply in ("trainshed.api.run.cancel", f"trainshed.events.run.{run}.agent.completed.box"):
            await nc.publish(key, reply=reply)
        assert (await nc.request(key, timeout=5)).data
        assert (
            json.loads((await nc.request("trainshed.api.health", b"{}", timeout=5)).data)["last_seq"] == begin
        )
    finally:
        await nc.close()
    assert stack.record(run)["status"] == "RUNNING"
    types = [event["type"].split(".")[2] for event in stack.events(run)]
    assert sorted(types) == ["dispatched", "started", "submitted"]
