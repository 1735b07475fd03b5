"""Everything that crosses the wire of a real stack, heard by a subscriber of all of it: no message is other than docs/schema has it,
and each channel and call of the document is used."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from nats.aio.msg import Msg

from services.schema.calls import CALLS, address
from services.schema.channels import published
from tests.support.stack import Stack, until
from tests.support.wire_check import Contract, Heard, faults
from trainshed_client import subjects
from trainshed_client.endpoint import Endpoint, read_endpoint
from trainshed_client.nats_client import SafeClient, connect

WORKS = """
echo '{"type": "epoch", "n": 1}'
echo trouble >&2
echo weights > "$TRAINSHED_RUN_DIR/artifacts/policy.npz"
sleep 3
"""
NOTIFIES = (
    "import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(os.environ['NOTIFY_SOCKET']);"
    "s.send(b'READY=1\\nX_STEP=3\\nX_PROGRESS=0.5\\nX_METRIC_loss=nan\\nX_METRIC_reward=1.5')"
)


@asynccontextmanager
async def connected(endpoint: Endpoint) -> AsyncIterator[SafeClient]:
    nc = await connect(endpoint, name="test")
    try:
        yield nc
    finally:
        await nc.close()


def requests(run: str) -> dict[str, list[dict[str, Any]]]:
    """For each call one request that is answered, and then some that are refused."""
    attempt = {"run_id": run, "attempt": 1}
    config = {"entry_point": "/bin/true", "submission_key": "wire"}
    waits = {"entry_point": "/bin/true", "submission_key": "waits", "resources": {"gpus": {"requested": 2}}}
    return {
        "run.submit": [config, {"config": waits, "caller_path": "/bin"}, {"entry_point": 1, "priority": "x"}],
        "run.submit_batch": [{"runs": [{**config, "submission_key": "b"}, {"config": config}]}, {"runs": []}],
        "run.check": [{**config, "submission_key": "c"}, {"entry_point": ""}],
        "run.cancel": [{"run_id": run}, {"run_id": "nobody"}],
        "run.retry": [{"run_id": run, "reason": "again"}, {}],
        "run.get": [{"run_id": run}, {"run_id": run, "at": 4}, {"run_id": "nobody"}],
        "run.list": [{}, {"status": ["PENDING"], "limit": 1}, {"limit": 0}],
        "run.explain": [{"run_id": run}, {"run": run}],
        "slot.list": [{}, {"at": 3}],
        "node.list": [{}, {"at": "x"}],
        "node.drain": [{"node": "box", "reason": "a look"}, {"node": "nobody"}],
        "node.resume": [{"node": "box"}],
        "node.remove": [{"node": "nobody"}],
        "audit.accept": [{"reason": "a test"}, {"reason": ""}],
        "audit.at": [{"seq": 2}, {"time": "2030-01-01T00:00:00Z"}],
        "audit.rows": [{}],
        "audit.rebuild": [{}],
        "audit.checkpoint": [{}, {"size": 2}, {"size": 10**6}],
        "audit.consistency": [{"from": 1, "to": 2}, {}],
        "audit.inclusion": [{"event": 1}, {"event": 0}],
        "health": [{}],
        "output": [
            attempt,
            {**attempt, "stream": "artifact", "path": "policy.npz"},
            {**attempt, "stream": "x"},
        ],
        "folder": [attempt, {}],
        "artifacts": [attempt, {"run_id": run}],
        "files": [{"attempts": [{**attempt, "artifacts": ["policy.npz"], "list": True}]}, {"attempts": [1]}],
        "prune": [{"runs": [{"run_id": run, "attempt": 1}], "dry_run": True}, {"runs": [{}]}],
    }


async def ask_all(stack: Stack, run: str) -> None:
    async with connected(read_endpoint(stack.state_dir)) as nc:
        for name, asked in requests(run).items():
            subject = address(name, CALLS[name]).format(node="box")
            for request in asked:
                await many(nc, subject, request) if CALLS[name].many else await nc.request(
                    subject, json.dumps(request).encode(), timeout=10
                )
        await nc.request(subjects.api("slot.list"), b"", timeout=10)


async def many(nc: SafeClient, subject: str, request: object) -> None:
    """Ask, and wait for the last of many answers."""
    inbox = nc.new_inbox()
    answers = await nc.subscribe(inbox)
    await nc.publish(subject, json.dumps(request).encode(), reply=inbox)
    while (await answers.next_msg(timeout=10)).data not in (b"", b"{}"):
        if subject.endswith("rebuild") and answers.pending_msgs == 0:
            await asyncio.sleep(0.6)
            if answers.pending_msgs == 0:
                return


@pytest.fixture
def stack(new_stack: Callable[..., Stack]) -> Stack:
    return new_stack(hears_calls=True, options=("--slots-per-gpu", "1"))


def test_each_channel_and_call_is_used_as_the_contract_has_it(stack: Stack) -> None:
    run = stack.submit("--gpus", "1", shell=WORKS)
    stack.running(run)
    notifying = stack.submit(
        "--heartbeat", "notify", "--", "python3", "-c", NOTIFIES + "; import time; time.sleep(2)"
    )
    stack.wait(run, notifying)
    asyncio.run(ask_all(stack, run))
    assert stack.wire is not None
    contract, wire = Contract.committed(), stack.wire

    def left() -> set[str]:
        heard = {contract.channel(one.asked or one.subject) for one in wire.heard}
        sent = {one.name for one in published() if not one.stored}
        called = {f"api.node.{name}" if call.node else f"api.{name}" for name, call in CALLS.items()}
        called.discard("api.cert.renew")  # of a stack that other machines may join: tests/integration/enrol
        return (sent | called) - heard

    until(lambda: not left(), 20.0, what=str(left()))
    wire.check()
    answered = {one.asked for one in wire.heard if one.asked is not None}
    assert len(answered) >= len(CALLS) - 1


def test_what_is_read_by_direct_gets_is_as_the_contract_has_it(stack: Stack) -> None:
    run = stack.submit(shell="exit 0")
    stack.wait(run)

    async def read() -> list[Heard]:
        found: list[Heard] = []
        async with connected(stack.unconfined()) as nc:
            for store, everything in (
                (subjects.EVENTS_STREAM, "trainshed.events.>"),
                (f"KV_{subjects.RUNS_BUCKET}", ">"),
                (f"KV_{subjects.SLOTS_BUCKET}", ">"),
                (f"KV_{subjects.NODES_BUCKET}", ">"),
                (f"KV_{subjects.QUEUE_BUCKET}", ">"),
            ):
                subject = f"$JS.API.DIRECT.GET.{store}"
                request = {"seq": 1, "batch": 100, "next_by_subj": everything}
                asked = Heard(subject, json.dumps(request).encode(), {})
                inbox = nc.new_inbox()
                answers = await nc.subscribe(inbox)
                await nc.publish(subject, asked.data, reply=inbox)
                found.append(asked)
                while True:
                    answer = await answers.next_msg(timeout=5)
                    found += taken(answer, subject)
                    if not answer.data:
                        break
        return found

    messages = asyncio.run(read())
    assert faults(messages) == []
    contract = Contract.committed()
    read_of = {contract.channel(one.subject) for one in messages if one.asked is None}
    assert read_of >= {
        "events.run",
        "events.node",
        "events.control",
        "record.runs",
        "record.slots",
        "record.nodes",
    }


def taken(answer: Msg, subject: str) -> list[Heard]:
    """An answer of a direct get, and in it what is stored under a subject of its own."""
    headers = dict(answer.headers or {})
    found = [Heard(answer.subject, answer.data, headers, asked=subject)]
    if answer.data:
        found.append(Heard(headers["Nats-Subject"], answer.data, headers))
    return found
