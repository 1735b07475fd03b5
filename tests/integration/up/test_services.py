"""Single services: what they say and how they end where no server answers, or not as it should."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import NatsServer
from tests.support.stack import TRAINSHED, clean_environment, run_trainshed, until

SERVICES = ("gateway", "dispatcher", "projector", "agent")


@pytest.fixture
def nobody(unused_tcp_port: int) -> str:
    """The URL of a port where nothing listens."""
    return f"nats://127.0.0.1:{unused_tcp_port}"


@pytest.fixture
def mute() -> Iterator[str]:
    """The URL of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"nats://127.0.0.1:{listening.getsockname()[1]}"


def _handles_sigterm(pid: int) -> bool:
    """Whether the process has a handler for SIGTERM by now."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught & 1 << (signal.SIGTERM - 1))


@pytest.mark.parametrize("server", ["nobody", "mute"])
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_waits_for_its_server_ends_at_a_sigterm(
    service: str, server: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    environment = clean_environment(tmp_path / "state", {"NATS_URL": request.getfixturevalue(server)})
    process = subprocess.Popen(
        [TRAINSHED, service], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        until(lambda: _handles_sigterm(process.pid))
        process.terminate()
        _, said = process.communicate(timeout=5)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    assert b"Traceback" not in said


async def test_refused_credentials_are_told_in_one_line(nats_server: NatsServer, tmp_path: Path) -> None:
    url = nats_server.endpoint.url
    environment = clean_environment(tmp_path / "other", {"NATS_URL": url, "TRAINSHED_NATS_USER": "stranger"})
    done = run_trainshed("submit", "--", "true", environment=environment, code=None)
    assert done.code == 2
    assert "refuses user stranger" in done.stderr


def test_a_service_without_an_endpoint_says_how_to_start_one(tmp_path: Path) -> None:
    done = run_trainshed("gateway", environment=clean_environment(tmp_path / "state"), code=3)
    assert "trainshed up" in done.stderr


async def test_a_stream_that_is_not_ours_stops_a_service_with_both_values(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    client = await nats_server.client()
    await client.jetstream().add_stream(name="TRAINSHED_EVENTS", subjects=["trainshed.events.>"])
    endpoint = nats_server.endpoint
    environment = clean_environment(
        tmp_path / "other",
        {
            "NATS_URL": endpoint.url,
            "TRAINSHED_NATS_USER": endpoint.user or "",
            "TRAINSHED_NATS_PASSWORD": endpoint.password or "",
        },
    )
    done = run_trainshed("gateway", environment=environment, code=2)
    assert "TRAINSHED_EVENTS has deny_delete False" in done.stderr


def test_a_server_without_jetstream_is_named(tmp_path: Path, unused_tcp_port: int) -> None:
    environment = clean_environment(tmp_path / "state", {"NATS_URL": f"nats://127.0.0.1:{unused_tcp_port}"})
    server = subprocess.Popen(
        [TRAINSHED.with_name("nats-server"), "-a", "127.0.0.1", "-p", str(unused_tcp_port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        done = run_trainshed("gateway", environment=environment, code=3)
    finally:
        server.kill()
        server.wait()
    assert "must run with JetStream" in done.stderr
    assert done.stderr.count("\n") <= 3


def test_where_nothing_runs_a_command_says_so_with_exit_code_3(tmp_path: Path) -> None:
    for verb in (["ls"], ["submit", "--", "true"], ["slots"], ["wait", "x"]):
        done = run_trainshed(*verb, environment=clean_environment(tmp_path / "state"), code=3)
        assert "trainshed up" in done.stderr
