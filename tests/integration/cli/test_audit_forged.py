"""`audit verify` on a real stack after somebody with its password wrote what no part would, or changed its tables by hand."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.codec import Writer, uuid7
from events.log import EventLog
from events.types import Completed, Dispatched, Event, Failed, View, Why
from services.scheduling.scheduler import SCHEDULER
from tests.support.stack import Stack, until
from trainshed_client.nats_client import connect
from trainshed_client.statuses import FailureReason
from trainshed_client.subjects import Role


def forge(stack: Stack, role: Role, event: Event, node: str | None = None) -> int:
    """Append an event as one who has the server; returns its sequence once the read model has it."""

    async def append() -> int:
        nc = await connect(stack.unconfined(), name="forger")
        try:
            return (await EventLog(nc).append(Writer(role, time.time_ns, uuid7, node).new(event))).seq
        finally:
            await nc.close()

    seq = asyncio.run(append())
    until(lambda: stack.trainshed("ls", json=True)["seq"] >= seq, what="the projector has it")
    return seq


def audited(stack: Stack, *options: str) -> dict[str, Any]:
    """What `audit verify --json` finds, and that the code and what people read say so too."""
    told = stack.trainshed("audit", "verify", "--json", *options, code=None)
    found: dict[str, Any] = told.json
    assert told.code == (0 if found["ok"] else 1)
    text = stack.trainshed("audit", "verify", *options, code=told.code).text
    for violation in found["violations"]:
        assert f"{violation['invariant']} at " in text and violation["message"] in text
    return found


@pytest.fixture
def ended(stack: Stack) -> Iterator[dict[str, Any]]:
    """The record of a run that failed; the tables are put back as they were afterwards."""
    run = stack.submit("--gpus", "1", shell="exit 3")
    (record,) = stack.wait(run, code=None)
    database = stack.state_dir / "trainshed.db"
    with closing(sqlite3.connect(database)) as live, closing(sqlite3.connect(":memory:")) as kept:
        live.backup(kept)
        yield record
        with live:
            for table in ("runs", "attempts", "timeline"):
                rows = kept.execute(f"SELECT * FROM {table}").fetchall()
                live.execute(f"DELETE FROM {table}")
                marks = ", ".join("?" * len(rows[0]))
                live.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)


@pytest.mark.parametrize(
    ("statement", "expected", "set_by"),
    [
        (
            "UPDATE runs SET exit_code = 0 WHERE run_id = ?",
            {"table": "runs", "column": "exit_code", "live": 0, "replayed": 3},
            "failed",
        ),
        (
            "UPDATE runs SET host = 'elsewhere' WHERE run_id = ?",
            {"table": "runs", "column": "host", "live": "elsewhere"},
            "started",
        ),
        (
            "DELETE FROM attempts WHERE run_id = ?",
            {"table": "attempts", "column": None, "live": None},
            "dispatched",
        ),
        (
            "INSERT INTO timeline SELECT submit_seq, run_id, 999999, time, type, data FROM timeline WHERE run_id = ? LIMIT 1",
            {"table": "timeline", "column": None, "replayed": None},
            None,
        ),
    ],
    ids=("altered", "altered before its end", "deleted", "added"),
)
def test_a_row_that_was_changed_by_hand_is_named_with_what_set_it(
    stack: Stack, ended: dict[str, Any], statement: str, expected: dict[str, Any], set_by: str | None
) -> None:
    run = ended["run_id"]
    assert audited(stack)["ok"]
    with closing(sqlite3.connect(stack.state_dir / "trainshed.db")) as tables, tables:
        assert tables.execute(statement, (run,)).rowcount == 1
    found = audited(stack)
    named = [one for one in found["violations"] if one.get("table")]
    assert len(named) == 1, found["violations"]
    assert {**named[0], **expected} == named[0]
    assert named[0]["key"][0] == run and named[0]["invariant"] == "I4"
    events = {int(event["sequence"]): event["type"] for event in stack.events(run)}
    if set_by is None:
        assert named[0]["set_by"] is None
    else:
        assert named[0]["set_by"]["type"] == set_by
        assert f".{set_by}." in events[named[0]["set_by"]["seq"]]
        assert f"by {set_by} at {named[0]['set_by']['seq']})" in named[0]["message"]


def test_what_no_part_would_have_written_is_named(stack: Stack) -> None:
    """In order, since a log keeps what was forged in it."""
    holder = stack.submit("--gpus", "1", shell="sleep 60")
    done = stack.submit(shell="true")
    stack.wait(done)
    record = stack.running(holder)
    node, epoch = record["node"], last_epoch(stack)
    joined = next(event for event in stack.events() if ".node_joined." in event["type"])
    incarnation = joined["data"]["incarnation"]
    before = audited(stack, "--decisions")
    assert before["ok"] and before["decisions"]["same"] >= 2
    assert before["decisions"]["different"] == before["decisions"]["unchecked"] == 0
    expected: list[tuple[str, int, str]] = []

    def told(invariant: str, seq: int, message: str) -> None:
        expected.append((invariant, seq, message))
        found = audited(stack, "--decisions")["violations"]
        for number, place, part in expected:
            assert any(
                (one["invariant"], one["seq"]) == (number, place) and part in one["message"] for one in found
            ), (part, found)

    at = forge(stack, Role.AGENT, Completed(run_id=done, attempt=1), node)
    told("I9", at, "its agent had told an end before")
    at = forge(stack, Role.AGENT, Completed(run_id=done, attempt=2), node)
    told("I9", at, f"completed from {node} on run {done} attempt 2: it was never granted")
    at = forge(stack, Role.AGENT, Completed(run_id=holder, attempt=1), "elsewhere")
    told("I9", at, f"completed from elsewhere on run {holder} attempt 1: it was granted to {node}")
    verdict = Failed(run_id=done, attempt=3, epoch=epoch, failure_reason=FailureReason.SHIM_LOST)
    at = forge(stack, Role.DISPATCHER, verdict)
    told("I9", at, f"failed from the dispatcher on run {done} attempt 3: it was never granted")
    grant = Dispatched(
        run_id=done,
        attempt=2,
        epoch=epoch,
        node=node,
        incarnation=incarnation,
        slots=tuple(record["slots"]),
        cpus=1,
        memory_mb=0,
        launch=msgspec.Raw(b'{"entry_point":"/bin/false"}'),
        view=View(seq=1, now="2027-01-01T00:00:00.000000Z"),  # so that its agent refuses it
        why=Why(free=1),
    )
    at = forge(stack, Role.DISPATCHER, grant)
    told(
        "I2",
        at,
        f"slot {node}.{record['slots'][0]} was granted to run {done} attempt 2, which does not count",
    )
    told(
        "I11",
        at,
        f"run {done} attempt 2 was granted slots {record['slots'][0]}, 1 CPUs and 0 MB of {node} ({incarnation})",
    )
    assert audited(stack, "--decisions")["decisions"]["different"] == 1
    assert "decisions" in audited(stack)["not_checked"]


def test_an_end_that_is_forged_while_its_run_goes_on_does_not_keep_the_true_one_out(
    stack: Stack, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    run = stack.submit(shell=f"until test -e {go}; do sleep 0.1; done; exit 3")
    node = stack.running(run)["node"]
    stack.submit(shell="true")
    at = forge(stack, Role.AGENT, Completed(run_id=run, attempt=1, exit_code=0), node)
    go.touch()
    ends = until(lambda: [event for event in stack.events(run) if event["type"].endswith(".failed.v1")])
    assert ends[0]["data"]["exit_code"] == 3
    told = [
        line["reason"] for line in stack.warnings() if line["event"] == "this node objects to the event log"
    ]
    assert f"event {at} (completed of run {run} attempt 1)" in told[0]
    found = audited(stack)
    assert any(
        (one["invariant"], one["seq"]) == ("I9", int(ends[0]["sequence"]))
        and "its agent had told an end before" in one["message"]
        for one in found["violations"]
    )


def last_epoch(stack: Stack) -> int:
    """The sequence of the last election, by this release's scheduler."""
    elected = [event for event in stack.events() if ".elected." in event["type"]]
    assert elected[-1]["data"]["scheduler"]["version"] == SCHEDULER.version
    return int(elected[-1]["sequence"])
