"""A node that can start nothing beside a good one: a sweep ends on the good one, and it is seen why (protocol rule 19)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import Lab
from tests.support.stack import TRAINSHED, until
from trainshed_client.statuses import NodeStatus

ROOT = Path(__file__).parents[3]
with socket.create_server(("127.0.0.1", 0)) as _free:
    LISTEN = f"127.0.0.1:{_free.getsockname()[1]}"
LIBRARIES = os.pathsep.join((sysconfig.get_path("purelib"), str(ROOT), str(ROOT / "client")))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Nodes ``bad`` and ``good``, one GPU each; the first runs on a Python of its own, which can be taken away."""
    one = Lab(tmp_path_factory.mktemp("lab"))
    try:
        _python(one).symlink_to(sys.executable)
        one.launch("gateway", "gateway")
        one.launch("projector", "projector", "--records", TRAINSHED_HTTP_LISTEN=LISTEN)
        one.launch("dispatcher", "dispatcher")
        has = ("--gpus", "1", "--cpus", "4", "--memory", "1024")
        one.launch("good", "agent", "--node", "good", *has)
        one.launch(
            "bad",
            "agent",
            "--node",
            "bad",
            *has,
            program=(str(_python(one)), str(TRAINSHED)),
            PYTHONPATH=LIBRARIES,
        )
        until(lambda: (one.status("bad"), one.status("good")) == (NodeStatus.UP, NodeStatus.UP), 60.0)
        yield one
    finally:
        one.close()


def _metrics() -> str:
    with urllib.request.urlopen(f"http://{LISTEN}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def _python(lab: Lab) -> Path:
    return lab.root / "python"


def _take_its_python_away(lab: Lab) -> None:
    """As an upgrade does under a running agent; and then its spawner dies."""
    _python(lab).unlink()
    agent = lab.of("bad").pid
    (spawner,) = [
        int(pid)
        for pid in subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(agent)], text=True).split()
        if b"services.agent.shim.spawner" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(spawner, signal.SIGKILL)
    until(lambda: "the shim spawner ended" in lab.log_of("bad"))


def _sweep(lab: Lab, count: int, command: str) -> list[str]:
    lines = [
        json.dumps(
            {
                "entry_point": command,
                "arguments": ["0.1"],
                "resources": {"gpus": {"requested": 1}},
                "submission_key": f"{command} {number} {os.urandom(4).hex()}",
            }
        )
        for number in range(count)
    ]
    path = lab.root / "sweep.jsonl"
    path.write_text("\n".join(lines))
    done = lab.trainshed("submit", "--no-check", "-f", str(path))
    return [line.split()[0] for line in done.lines]


def _node(lab: Lab, name: str) -> dict[str, Any]:
    nodes: list[dict[str, Any]] = lab.call("node.list", {})["nodes"]
    return next(one for one in nodes if one["node"] == name)


def test_a_sweep_whose_program_does_not_exist_leaves_every_node_healthy(lab: Lab) -> None:
    runs = _sweep(lab, 100, "/no/such/program")
    records = lab.wait(*runs, code=125)
    assert {(one["status"], one["failure_reason"], one["attempt"]) for one in records} == {
        ("FAILED", "spawn_error", 1)
    }
    assert {lab.show(runs[0])["attempts"][0]["at_fault"]} == {"run"}
    assert [_node(lab, name)["suspect_since"] for name in ("bad", "good")] == [None, None]


def test_a_sweep_ends_on_the_good_node_and_the_bad_one_is_suspect_until_it_is_mended(lab: Lab) -> None:
    _take_its_python_away(lab)
    runs = _sweep(lab, 12, "/bin/sleep")
    records = lab.wait(*runs)
    assert {(one["status"], one["node"]) for one in records} == {("COMPLETED", "good")}
    attempts = [one for run in runs for one in lab.show(run)["attempts"] if one["node"] == "bad"]
    assert {(one["failure_reason"], one["at_fault"]) for one in attempts} == {("not_started", "node")}
    assert len(attempts) == 3, "it is granted nothing more"

    bad = _node(lab, "bad")
    assert (bad["status"], bad["suspect_reason"][:21]) == ("up", "it cannot be launched")
    assert _node(lab, "good")["suspect_since"] is None
    assert 'trainshed_node_suspect{node="bad",reason="it cannot be launched' in _metrics()
    assert 'trainshed_node_suspect{node="good",reason=""} 0.0' in _metrics()
    said = lab.trainshed("nodes")
    assert "up, suspect" in said.text and "trainshed resume bad" in said.stderr

    lab.trainshed("drain", "good")
    waits = lab.submit("--gpus", "1", "--", "true")
    assert lab.show(waits)["run"]["waiting"]["reason"] == "suspect"
    assert "it cannot be launched" in lab.trainshed("explain", waits).text

    _python(lab).symlink_to(sys.executable)
    lab.trainshed("resume", "bad")
    (record,) = lab.wait(waits)
    assert (record["status"], record["node"], _node(lab, "bad")["suspect_since"]) == (
        "COMPLETED",
        "bad",
        None,
    )
