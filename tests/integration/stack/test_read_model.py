"""The projector may die anywhere and the log may hold anything."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.stack import Stack, until
from trainshed_client.nats_client import connect

NewStack = Callable[..., Stack]
DATABASE = "trainshed.db"


def _kill_projector(stack: Stack) -> None:
    os.kill(stack.child("projector"), signal.SIGKILL)


def _sweep(stack: Stack, count: int, name: str) -> list[str]:
    """Submit a batch of quick runs, one in three failing."""
    lines = "\n".join(
        f'{{"entry_point": "/bin/sh", "arguments": ["-c", "exit {n % 3 // 2}"], "submission_key": "{name}-{n}"}}'
        for n in range(count)
    )
    path = stack.state_dir.with_name(f"{name}.jsonl")
    path.write_text(lines)
    return [line.split()[0] for line in stack.trainshed("submit", "-f", str(path)).lines]


def test_a_projector_killed_in_the_middle_of_runs_leaves_no_trace_in_the_tables(new_stack: NewStack) -> None:
    stack = new_stack(cpus=8)
    runs: list[str] = []
    for kill in range(3):
        runs += _sweep(stack, 30, f"kill-{kill}")
        _kill_projector(stack)
    records = stack.wait(*runs, code=1, timeout="50s")
    assert {record["status"] for record in records} == {"COMPLETED", "FAILED"}
    verdict = stack.trainshed("audit", "verify", json=True)
    assert (verdict["v"], verdict["ok"], verdict["violations"]) == (1, True, [])
    assert verdict["events"] >= 4 * len(runs)
    ended = [line for line in stack.warnings() if "projector ended" in str(line["event"])]
    assert ended
    listed = stack.trainshed("ls", "--all", json=True)["runs"]
    assert {run["run_id"] for run in listed} == set(runs)


def _verdict(stack: Stack) -> dict[str, Any]:
    """What is said of log and tables, but for what nodes have cosigned by now."""
    verdict = stack.trainshed("audit", "verify", json=True)
    return {name: verdict[name] for name in ("ok", "seq", "end", "events", "state_hash", "violations")}


def test_a_deleted_database_is_built_again(new_stack: NewStack) -> None:
    stack = new_stack()
    runs = _sweep(stack, 30, "kept")
    stack.wait(*runs, code=1)
    before = stack.trainshed("ls", "--all", json=True)["runs"]
    verdict = _verdict(stack)

    # While it runs, and while it does not.
    for path in stack.state_dir.glob(f"{DATABASE}*"):
        path.unlink()
    _kill_projector(stack)
    until(lambda: (stack.state_dir / DATABASE).exists())
    assert stack.trainshed("ls", "--all", json=True)["runs"] == before
    assert _verdict(stack) == verdict

    stack.stop()
    for path in stack.state_dir.glob(f"{DATABASE}*"):
        path.unlink()
    stack.start()
    assert stack.trainshed("ls", "--all", json=True)["runs"] == before
    assert stack.trainshed("audit", "verify", json=True)["ok"] is True


def test_a_rebuild_that_is_asked_for_gives_the_same_and_says_so(new_stack: NewStack) -> None:
    stack = new_stack()
    live = stack.submit("--gpus", "1", "--", "sleep", "60")
    stack.running(live)
    runs = _sweep(stack, 10, "rebuilt")
    stack.wait(*runs, code=1)
    before = stack.trainshed("ls", "--all", json=True)["runs"]
    answer = stack.trainshed("audit", "rebuild", json=True)
    assert (answer["v"], answer["same"]) == (1, True)
    assert answer["database"] == str(stack.state_dir / DATABASE)
    assert answer["state_hash"] == stack.trainshed("audit", "verify", json=True)["state_hash"]
    after = stack.trainshed("ls", "--all", json=True)["runs"]
    assert [run["run_id"] for run in after] == [run["run_id"] for run in before]
    assert [run for run in after if run["run_id"] != live] == [run for run in before if run["run_id"] != live]
    done = stack.trainshed("audit", "rebuild")
    assert "the same as before" in done.text and str(stack.state_dir / DATABASE) in done.text
    assert done.stderr == ""
    stack.trainshed("cancel", live)
    stack.wait(live, code=125)


def test_a_database_deleted_under_the_stack_is_no_ones_trouble(new_stack: NewStack) -> None:
    stack = new_stack()
    runs = _sweep(stack, 10, "deleted")
    stack.wait(*runs, code=1)
    before = stack.trainshed("ls", "--all", json=True)["runs"]
    for path in stack.state_dir.glob(f"{DATABASE}*"):
        path.unlink()
    assert stack.trainshed("ls", "--all", json=True)["runs"] == before
    assert stack.trainshed("audit", "verify", json=True)["ok"] is True
    assert not (stack.state_dir / f"{DATABASE}.old").exists()


def test_answers_that_were_given_are_looked_for_in_the_log(new_stack: NewStack, tmp_path: Path) -> None:
    stack = new_stack()
    acks = tmp_path / "acks.jsonl"
    answers = [stack.trainshed("submit", "--json", "--", "true").text for _ in range(2)]
    acks.write_text("".join(answers))
    assert stack.trainshed("audit", "verify", "--acks", str(acks), json=True)["ok"] is True
    acks.write_text(answers[0].replace('"seq":', '"seq":9'))
    found = stack.trainshed("audit", "verify", "--acks", str(acks), json=True, code=1)["violations"]
    assert [violation["invariant"] for violation in found] == ["I6"]
    acks.write_text("no answer\n")
    assert "line 1" in stack.trainshed("audit", "verify", "--acks", str(acks), code=2).stderr


def test_a_table_that_was_altered_is_found_out(new_stack: NewStack) -> None:
    stack = new_stack()
    runs = _sweep(stack, 3, "altered")
    stack.wait(*runs, code=1)
    with sqlite3.connect(stack.state_dir / DATABASE, timeout=10) as database:
        database.execute("UPDATE runs SET exit_code = 1 WHERE run_id = ?", (runs[0],))
    verdict = stack.trainshed("audit", "verify", json=True, code=1)
    assert verdict["ok"] is False
    assert any(runs[0] in violation["message"] for violation in verdict["violations"])


POISON: list[tuple[str, bytes]] = [
    ("trainshed.events.run.abcdefghijklmnopqrstuvwxyz.gateway.submitted._", b"\xff\x00 no JSON"),
    ("trainshed.events.run.abcdefghijklmnopqrstuvwxyz.gateway.submitted._", b"{}"),
    ("trainshed.events.run.abcdefghijklmnopqrstuvwxyz.agent.completed.box", b"[" * 100_000),
    ("trainshed.events.run.x", b'{"specversion": "1.0"}'),
    ("trainshed.events.node.box.dispatcher.node_exploded.box", b'{"specversion": "1.0", "id": "1"}'),
    ("trainshed.events.control.dispatch.dispatcher.nonsense._", b""),
    ("trainshed.heartbeats.run.abcdefghijklmnopqrstuvwxyz.box", b"\x00"),
]


async def test_a_poison_message_is_quarantined_and_everything_goes_on(new_stack: NewStack) -> None:
    stack = new_stack()
    assert stack.wire is not None
    poison = {body for _, body in POISON}
    stack.wire.excuse(lambda message: message.data in poison)
    run = stack.submit("--gpus", "1", "--", "sleep", "60")
    stack.running(run)
    client = await connect(stack.unconfined(), name="poison")
    try:
        stored = []
        for subject, body in POISON:
            acknowledged = await client.jetstream().publish(subject, body)
            if acknowledged.stream == "TRAINSHED_EVENTS":
                stored.append(acknowledged.seq)
    finally:
        await client.close()
    quick = stack.submit("--gpus", "1", "--", "true")
    stack.wait(quick)
    stack.trainshed("cancel", run)
    stack.wait(run, code=125)

    def told() -> set[int]:
        return {line["seq"] for line in stack.warnings() if "seq" in line}

    until(lambda: told() >= set(stored), what=f"a WARNING for each of {stored}, not only {told()}")
    with sqlite3.connect(stack.state_dir / DATABASE, timeout=10) as database:
        kept = {seq for (seq,) in database.execute("SELECT seq FROM quarantine")}
    assert kept == set(stored)
    assert stack.trainshed("audit", "verify", json=True)["ok"] is True
    printed = stack.trainshed("events")
    assert len(printed.lines) < len(stored) + 30
    assert str(stored[0]) in printed.stderr

    stack.kill()
    stack.start()  # the fold and the projector read over it again
    stack.wait(stack.submit("--gpus", "2", "--", "true"))
    assert stack.trainshed("audit", "verify", json=True)["ok"] is True
