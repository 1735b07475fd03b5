"""`agent --detach` and `node add --ssh`: the agent in the background, here and over an ssh that types it into a shell."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events.streams import ensure_streams
from services.cli import node_by_ssh
from services.enrol.roster_file import read_roster
from tests.integration.enrol.control import EnrolControl
from tests.support.nats import NatsServer
from tests.support.stack import alive
from trainshed_client.errors import TrainshedError

ROOT = Path(__file__).resolve().parents[3]
TRAINSHED = Path(sys.executable).with_name("trainshed")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    one = NatsServer(tmp_path / "server")
    await one.embedded.start()
    await ensure_streams(await one.client())
    yield one
    await one.close()


def environment(server: NatsServer, state_dir: Path) -> dict[str, str]:
    endpoint = server.endpoint
    assert endpoint.user and endpoint.password
    return {
        "PATH": os.environ["PATH"],
        "TRAINSHED_STATE_DIR": str(state_dir),
        "TRAINSHED_WORKER_USERS": "*=root",
        "NATS_URL": endpoint.url,
        "TRAINSHED_NATS_USER": endpoint.user,
        "TRAINSHED_NATS_PASSWORD": endpoint.password,
    }


async def typed(*words: str, env: dict[str, str]) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        TRAINSHED, *words, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_an_agent_in_the_background(server: NatsServer, tmp_path: Path) -> None:
    env = environment(server, tmp_path / "node")
    words = ("agent", "--node", "gpu01", "--gpus", "0", "--detach")
    code, out, err = await typed(*words, env=env)
    assert (code, err[-3000:]) == (0, ""), err
    pid = int(out.partition("(pid ")[2].partition(")")[0])
    try:
        assert os.getsid(pid) == pid
        assert (tmp_path / "node").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "node/logs/agent.log").stat().st_mode & 0o777 == 0o600
        code, _, err = await typed(*words, env=env)
        assert code == 2
        assert "the agent ended before it was ready" in err
        assert "another agent already runs" in err
    finally:
        code, _, err = await typed("down", env=env)
    assert (code, err) == (
        0,
        f"stopped (pid {pid}); running workers go on, and `trainshed agent` finds them again\n",
    )
    assert not alive(pid)
    assert (await typed("down", env=env))[2].startswith("nothing runs on ")


FAKE_SSH = """#!/bin/sh
[ "$1" = -- ] || exit 9
[ "$2" = nowhere ] && exit 255
echo "$3" >>"$FAKE_SSH_TYPED"
exec sh -c "$3"
"""


@pytest.fixture
def fake_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ssh that runs on this machine what it should on another; what was typed there stands in the file."""
    ssh = tmp_path / "bin/ssh"
    ssh.parent.mkdir()
    ssh.write_text(FAKE_SSH)
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SSH_TYPED", str(tmp_path / "typed"))
    return tmp_path / "typed"


async def test_a_node_is_added_by_ssh(server: NatsServer, tmp_path: Path, fake_ssh: Path) -> None:
    control = EnrolControl(tmp_path / "control/cluster")
    async with control.served():
        (tmp_path / "other").mkdir()
        env = environment(server, tmp_path / "control") | {
            "FAKE_SSH_TYPED": str(fake_ssh),
            "PATH": os.environ["PATH"],
        }
        there = tmp_path / "there.sh"
        there.write_text(f'#!/bin/sh\nexport TRAINSHED_STATE_DIR={tmp_path}/node\nexec {TRAINSHED} "$@"\n')
        there.chmod(0o755)
        (tmp_path / "control/cluster/cluster.json").write_text(
            f'{{"hosts": ["127.0.0.1"], "enrol_port": {control.port}, "v": 1}}'
        )
        code, out, err = await typed(
            "node", "add", "gpu01", "--ssh", "ada@gpu01", "--program", str(there), env=env
        )
        assert (code, err[-3000:]) == (0, ""), err
        assert "the agent runs (pid " in out
        os.kill(int(out.partition("(pid ")[2].partition(")")[0]), signal.SIGTERM)
    [node] = read_roster(tmp_path / "control/cluster").nodes
    assert node.name == "gpu01"
    assert fake_ssh.read_text() == f"{there} agent --join @/dev/stdin --detach\n", (
        "no token on a command line"
    )


def test_what_goes_wrong_over_ssh_is_named(fake_ssh: Path) -> None:
    for target, program, what in (
        ("nowhere", "trainshed", "does not get to nowhere"),
        ("there", "/no/such/program", "is not found on there"),
        ("there", "false", "ended with code 1"),
    ):
        with pytest.raises(TrainshedError, match=what):
            node_by_ssh.start_agent(target, program, "line")
    node_by_ssh.start_agent("there", "true", "line")


@pytest.mark.parametrize("target", ["-oProxyCommand=touch x", "", "a b", "a\n"])
def test_what_ssh_would_take_for_an_option_is_refused(target: str) -> None:
    with pytest.raises(TrainshedError, match="accepted is HOST or USER@HOST"):
        node_by_ssh.check_target(target)
