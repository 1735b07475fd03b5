"""Several of each service as processes of their own: one is killed or cut off, and the others go on.

What docs/protocol.md rules 6, 11, 12 and 16 promise, as an operator sees it through the command line.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support import eventually
from tests.support.lab import Lab
from tests.support.stack import alive, until
from trainshed_client.client import Trainshed
from trainshed_client.nats_client import connect
from trainshed_client.nats_connection import NatsConnection

DISPATCHERS = ("d1", "d2", "d3")
LOST_S = "6"
"""Above the 5 s at which a node says that it is alive."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    one = Lab(tmp_path_factory.mktemp("lab"))
    try:
        one.launch("gateway", "gateway")
        one.launch("p1", "projector", "--records")
        one.launch("p2", "projector")
        for name in DISPATCHERS:
            one.launch(name, "dispatcher", TRAINSHED_NODE_LOST_S=LOST_S, TRAINSHED_HTTP_LISTEN=_listen(name))
        for node in ("a", "b"):
            one.launch(node, "agent", "--node", node, "--gpus", "1", "--cpus", "4", "--memory", "1024")
        until(lambda: (one.status("a"), one.status("b")) == ("up", "up"), 60.0)
        yield one
    finally:
        one.close()


PORTS: dict[str, int] = {}


def _listen(name: str) -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        PORTS[name] = free.getsockname()[1]
    return f"127.0.0.1:{PORTS[name]}"


def readiness(name: str) -> tuple[int, str]:
    """Status and text of a dispatcher's /readyz."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORTS[name]}/readyz", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def elected(lab: Lab) -> list[str]:
    """The dispatchers whose log says that they were elected, the last one last."""
    lines = [(name, json.loads(line)) for name in DISPATCHERS for line in lab.log_of(name).splitlines()]
    terms = [(line["epoch"], name) for name, line in lines if line["event"] == "elected"]
    return [name for _, name in sorted(terms)]


def test_rule_16_each_dispatcher_is_ready_and_one_of_them_takes_over_when_the_active_one_is_killed(
    lab: Lab,
) -> None:
    until(lambda: [readiness(name)[0] for name in DISPATCHERS] == [200, 200, 200], 20.0)
    lab.wait(lab.submit("--", "true"))
    first = elected(lab)[-1]
    lab.signal(first, signal.SIGKILL)
    run = lab.submit("--", "true")
    (record,) = lab.wait(run)
    assert record["status"] == "COMPLETED"
    assert elected(lab)[-1] != first
    assert [event["type"].split(".")[2] for event in lab.events(run)].count("dispatched") == 1


def _ready_again(lab: Lab, name: str, starts: int) -> bool:
    return lab.log_of(name).count('"ready"') > starts


def test_rule_16_queries_go_on_when_a_projector_is_killed_at_its_work(lab: Lab) -> None:
    """Both answer from databases of their own; what was asked of the killed one is asked again."""

    async def ask(trainshed: Trainshed, done: asyncio.Event) -> int:
        answered = 0
        while not done.is_set() or answered < 3:
            assert len((await trainshed.nodes()).nodes) == 2
            answered += 1
            await asyncio.sleep(0.02)
        return answered

    async def scenario() -> None:
        done = asyncio.Event()
        client = Trainshed(NatsConnection(await connect(lab.endpoint, name="test"), lab.endpoint.url))
        async with client as trainshed, asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(ask(trainshed, done)) for _ in range(4)]
            for name, words in (("p2", ("projector",)), ("p1", ("projector", "--records"))):
                await trainshed.nodes()
                lab.signal(name, signal.SIGKILL)
                starts = lab.log_of(name).count('"ready"')
                lab.launch(name, *words)
                await eventually(partial(_ready_again, lab, name, starts), 60.0)
            done.set()
        assert all(task.result() >= 3 for task in asking)

    asyncio.run(scenario())
    lab.wait(lab.submit("--", "true"))  # by the records, which the new p1 puts
    assert lab.trainshed("audit", "verify", json=True)["ok"] is True


def test_losing_contact_ends_no_worker_and_node_remove_is_the_word_that_does(
    lab: Lab, tmp_path: Path
) -> None:
    """Rules 6, 8, 11 and 12: both agents are cut off; one machine comes back, the other is given up, falsely."""
    go_on = tmp_path / "go_on"
    waits = f"until [ -e {go_on} ]; do date +%s%N >> $TRAINSHED_RUN_DIR/beats; sleep 0.1; done"
    config = {
        "entry_point": "/bin/sh",
        "arguments": ["-c", waits],
        "resources": {"gpus": {"requested": 1}},
        "retry": {"max_attempts": 2, "backoff_s": 0},
    }
    runs = [lab.submit_config(config), lab.submit_config(config)]
    until(lambda: all(lab.record(run)["pid"] for run in runs), 30.0)
    on = {lab.record(run)["node"]: run for run in runs}
    kept, given_up = on["a"], on["b"]
    worker, orphan = lab.placed(kept, "a"), lab.placed(given_up, "b")

    refused = lab.trainshed("node", "remove", "b", code=2)
    assert "b is up" in refused.stderr and "Stop the agent there first" in refused.stderr

    lab.signal("a", signal.SIGSTOP)
    lab.signal("b", signal.SIGSTOP)
    until(lambda: (lab.status("a"), lab.status("b")) == ("lost", "lost"), 60.0)
    assert "trainshed node remove b" in lab.trainshed("nodes").stderr
    assert lab.trainshed("ls").text.count("  node lost") == 2
    assert "trainshed node remove b" in lab.trainshed("explain", given_up).text
    beats = lab.root / "a/runs" / kept / "beats"
    size = beats.stat().st_size
    until(lambda: beats.stat().st_size > size, what="the worker of the lost node goes on")
    assert alive(worker) and alive(orphan)
    assert lab.record(kept)["status"] == lab.record(given_up)["status"] == "RUNNING"

    # Rule 11: another state folder of a known name.
    lab.launch("stranger", "agent", "--node", "b", "--gpus", "1")
    assert lab.of("stranger").wait(30) == 2
    said = lab.log_of("stranger")
    assert "b belongs to another state folder, last heard " in said
    assert said.rstrip().endswith(" ago. If that machine is gone: trainshed node remove b"), said

    # Nothing is deleted on what does not answer, and it is said.
    pruned = lab.trainshed("prune", "--older-than", "30d", code=3)
    assert "a was left out: it does not answer" in pruned.stderr

    assert lab.trainshed("node", "remove", "b", json=True)["status"] == "removed"
    again = until(lambda: lab.record(given_up)["attempt"] == 2, 20.0)
    assert again
    (first,) = [one for one in lab.show(given_up)["attempts"] if one["attempt"] == 1]
    assert (first["status"], first["failure_reason"]) == ("FAILED", "node_lost")
    assert alive(orphan), "nobody can end it from here"

    lab.signal("a", signal.SIGCONT)
    until(lambda: lab.status("a") == "up", 30.0)
    lab.signal("b", signal.SIGCONT)
    until(lambda: not alive(orphan), 30.0, what="the removed machine ends its workers")
    until(lambda: lab.status("b") == "up", 30.0)
    lab.placed(given_up, "b", attempt=2)  # a's one slot is still taken
    assert alive(worker)
    go_on.touch()
    lab.wait(kept, given_up)
    for run, starts in ((kept, 1), (given_up, 2)):
        events = [event["type"].split(".")[2] for event in lab.events(run)]
        assert events.count("started") == starts, events
        assert lab.record(run)["status"] == "COMPLETED"
    assert lab.record(kept)["pid"] == worker
    assert lab.trainshed("audit", "verify", json=True)["ok"] is True
