"""The judge of messages taken off the wire: what fits the contract passes, and each kind of slip is named with its place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.samples import FILE
from tests.support.wire_check import Contract, Heard, faults
from trainshed_client import subjects

SAMPLES = json.loads(FILE.read_text())
RUNNING = SAMPLES["RunRecord"]["running"]
RUN = RUNNING["run_id"]
FAILED = SAMPLES["LogEvent"]["failed"]
OFFSET = {"Trainshed-Offset": "0", "Trainshed-Size": "5"}


def heard(subject: str, value: Any, **more: Any) -> Heard:
    return Heard(
        subject,
        value if isinstance(value, bytes) else json.dumps(value).encode(),
        more.pop("headers", {}),
        **more,
    )


FITTING = {
    "a record": heard(subjects.watch_run(RUN), RUNNING),
    "a key that left": heard(subjects.watch_run(RUN), b"", headers={"KV-Operation": "PURGE"}),
    "a slot": heard(subjects.watch_slot("gpu01", 0), SAMPLES["SlotRecord"]["gpu01_0"]),
    "a node": heard(subjects.watch_node("gpu01"), SAMPLES["NodeRecord"]["gpu01"]),
    "the queue": heard(subjects.WATCH_QUEUE, SAMPLES["QueueRecord"]["two"]),
    "a checkpoint": heard(subjects.WATCH_CHECKPOINT, SAMPLES["CheckpointMessage"]["one"]),
    "output": heard(subjects.output(RUN, 1, "gpu01", "stdout"), b"\xffhello", headers=OFFSET),
    "telemetry": heard(subjects.telemetry(RUN, 1, "gpu01"), {"type": "x", "y": 1}),
    "an event": heard(f"{subjects.LOG}.run.r1.agent.failed.gpu01", FAILED),
    "a heartbeat": heard(subjects.run_heartbeat(RUN, "gpu01"), SAMPLES["RunHeartbeatMessage"]["one"]),
    "a request": heard(subjects.api("run.submit"), SAMPLES["RunConfig"]["some"]),
    "one with more beside": heard(subjects.api("run.submit"), SAMPLES["SubmitRequest"]["beside"]),
    "one of an account": heard("trainshed.api.u.ada.run.get", {"run_id": RUN}),
    "one without bytes": heard(subjects.api("health"), b""),
    "an answer": heard("_INBOX.x", SAMPLES["RunView"]["completed"], asked=subjects.api("run.get")),
    "a refusal": heard("_INBOX.x", SAMPLES["ErrorAnswer"]["several"], asked=subjects.api("run.get")),
    "bytes": heard("_INBOX.x", b"hello", headers=OFFSET, asked=subjects.node_output("gpu01")),
    "what others need not know": heard("trainshed.alive.dispatcher", b"box/1"),
}


@pytest.mark.parametrize("what", FITTING)
def test_it_passes(what: str) -> None:
    assert faults([FITTING[what]]) == []


SLIPS = {
    "a field of another name": (
        heard(subjects.watch_run(RUN), {**RUNNING, "stage": 1}),
        "Additional properties are not allowed ('stage' was unexpected)",
        "",
    ),
    "a field too few": (
        heard(subjects.watch_run(RUN), {name: RUNNING[name] for name in RUNNING if name != "step"}),
        '"step" is a required property',
        "",
    ),
    "another type": (heard(subjects.watch_run(RUN), {**RUNNING, "pid": "42"}), '"42" is not', "/pid"),
    "an event of another kind": (
        heard(f"{subjects.LOG}.run.r1.agent.failed.gpu01", {**FAILED, "type": "trainshed.run.failed.v2"}),
        '"trainshed.run.failed.v1" was expected',
        "/type",
    ),
    "a field in an event": (
        heard(f"{subjects.LOG}.run.r1.agent.failed.gpu01", {**FAILED, "data": {**FAILED["data"], "why": 1}}),
        "'why' was unexpected",
        "/data",
    ),
    "no JSON": (heard(subjects.watch_run(RUN), b"{"), "JSON", ""),
    "output without its offset": (
        heard(subjects.output(RUN, 1, "gpu01", "stdout"), b"x"),
        '"Trainshed-Offset" is a required property',
        "header ",
    ),
    "an answer of another call": (
        heard("_INBOX.x", SAMPLES["SlotPage"]["all"], asked=subjects.api("node.list")),
        '"nodes" is a required property',
        "",
    ),
    "a code of no error": (
        heard("_INBOX.x", {"error": {"code": "oops", "message": ""}}, asked=subjects.api("run.get")),
        '"oops" is not one of',
        "/error/code",
    ),
    "a subject that nobody knows": (
        heard("trainshed.watch.disks.gpu01", {}),
        "no channel of the contract",
        "",
    ),
}


@pytest.mark.parametrize("what", SLIPS)
def test_it_finds(what: str) -> None:
    message, expected, path = SLIPS[what]
    found = faults([message])
    assert any(expected in fault.expected and fault.path == path for fault in found), found
    assert all((message.asked or message.subject) in str(fault) for fault in found)


def test_each_of_the_clients_subjects_is_a_channels() -> None:
    contract = Contract.committed()
    channels = {message.asked or message.subject for message in FITTING.values()} - {
        "trainshed.alive.dispatcher"
    }
    assert all(contract.channel(subject) for subject in channels)


def test_one_slip_in_a_thousand_messages_is_one_fault() -> None:
    slip = SLIPS["a field of another name"][0]
    assert len(faults([FITTING["a record"], slip] * 500)) == 1
