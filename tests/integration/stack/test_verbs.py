"""Exit codes, JSON shapes and words of the verbs, as a script meets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import TRAINSHED, Stack, until


@pytest.mark.parametrize(
    ("line", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)]
)
def test_run_and_wait_exit_with_the_workers_code(stack: Stack, line: str, code: int) -> None:
    script = f"echo out; echo err >&2; {line}"
    done = stack.trainshed("run", "--new", "--name", "coded", "--", "/bin/sh", "-c", script, code=code)
    assert done.stdout == b"out\n"
    assert "err\n" in done.stderr
    newest = stack.trainshed("ls", "-n", "1", json=True)["runs"][0]["run_id"]
    stack.wait(newest, code=code)


def test_what_ended_without_a_code_exits_with_125(stack: Stack) -> None:
    missing = stack.trainshed("run", "--new", "--", "/no/such/program", code=125)
    assert "could not be started" in missing.stderr
    limited = stack.trainshed("run", "--new", "--time-limit", "1s", "--", "sleep", "60", code=125)
    assert "time limit" in limited.stderr
    run = stack.submit("--", "sleep", "60")
    stack.running(run)
    waiting = subprocess.Popen([TRAINSHED, "wait", run], env=stack.environment, stdout=subprocess.PIPE)
    stack.trainshed("cancel", run)
    out, _ = waiting.communicate(timeout=20)
    assert waiting.returncode == 125
    assert b"CANCELLED" in out


def test_wait_of_several_gives_the_highest_code_and_124_when_its_time_is_up(stack: Stack) -> None:
    runs = [stack.submit(shell=line) for line in ("exit 3", "exit 0", "exit 9")]
    assert [record["exit_code"] for record in stack.wait(*runs, code=9)] == [3, 0, 9]
    sleeping = stack.submit("--", "sleep", "60")
    records = stack.wait(runs[0], sleeping, code=124, timeout="1s")
    assert [record["ended_at"] is None for record in records] == [False, True]
    stack.trainshed("cancel", sleeping)
    stack.wait(sleeping, code=125)


def test_no_such_run_is_4_and_bad_use_is_2(stack: Stack) -> None:
    for words in (("show", "nosuch"), ("logs", "nosuch"), ("wait", "nosuch"), ("cancel", "nosuch")):
        assert "nosuch" in stack.trainshed(*words, code=4).stderr
    for bad in (
        ("submit",),
        ("submit", "--no-such-option", "--", "true"),
        ("submit", "--time-limit", "soon", "--", "true"),
        ("submit", "-f", "/no/such/file"),
        ("submit", "--", "no-such-program-anywhere"),
        ("ls", "--status", "nonsense"),
        ("frobnicate",),
    ):
        done = stack.trainshed(*bad, code=2)
        assert done.stdout == b""
        assert done.stderr


def test_listings_are_one_json_object_with_the_sequence_they_are_true_at(stack: Stack) -> None:
    run = stack.submit("--name", "listed", "--label", "sweep=a", "--", "true")
    stack.wait(run)
    ls = stack.trainshed("ls", "--label", "sweep=a", json=True)
    slots = stack.trainshed("slots", json=True)
    nodes = stack.trainshed("nodes", json=True)
    show = stack.trainshed("show", "listed", json=True)
    for answer in (ls, slots, nodes, show):
        assert answer["v"] == 1
        assert answer["seq"] >= show["run"]["seq"]
    assert [record["run_id"] for record in ls["runs"]] == [run]
    assert ls["runs"][0]["labels"] == {"sweep": "a"}
    assert [(slot["node"], slot["index"], slot["healthy"]) for slot in slots["slots"]] == [
        ("box", 0, True),
        ("box", 1, True),
    ]
    (node,) = nodes["nodes"]
    assert (node["node"], node["status"], node["gpus"], node["cpus"], node["memory_mb"]) == (
        *("box", "up", 2, 4, 4096),
    )
    assert set(show) >= {"v", "seq", "run", "config", "attempts", "timeline"}
    assert [entry["type"] for entry in show["timeline"]] == [
        "submitted",
        "dispatched",
        "started",
        "completed",
    ]
    assert show["run"]["run_id"] == run
    record = show["run"]
    assert record["submitted_at"] <= record["dispatched_at"] <= record["started_at"] <= record["ended_at"]


def test_events_are_cloudevents_in_order_with_their_sequence(stack: Stack) -> None:
    run = stack.submit("--", "true")
    stack.wait(run)
    events = stack.events(run)
    assert [event["type"] for event in events] == [
        f"trainshed.run.{name}.v1" for name in ("submitted", "dispatched", "started", "completed")
    ]
    assert {event["specversion"] for event in events} == {"1.0"}
    sequences = [int(event["sequence"]) for event in events]
    assert sequences == sorted(sequences)
    after = stack.trainshed("events", "--from", str(sequences[2]), "--run", run)
    assert [json.loads(line)["id"] for line in after.lines] == [event["id"] for event in events[2:]]


def test_events_are_chosen_by_time_type_and_node_and_exported_the_same(stack: Stack) -> None:
    before = stack.submit("--new", "--", "true")
    stack.wait(before)
    first = stack.events(before)
    time.sleep(0.01)
    moment = datetime.now(UTC).isoformat(timespec="microseconds")
    run = stack.submit("--new", shell="exit 3")
    stack.wait(run, code=3)

    def chosen(*words: str, verb: tuple[str, ...] = ("events",)) -> list[dict[str, Any]]:
        return [json.loads(line) for line in stack.trainshed(*verb, *words).lines]

    since = chosen("--since", moment)
    assert since == chosen("--since", moment, verb=("audit", "export"))
    assert next(event["type"] for event in since if event["subject"] == run) == "trainshed.run.submitted.v1"
    assert run in {event["subject"] for event in since} and before not in {
        event["subject"] for event in since
    }
    until = chosen("--until", moment)
    assert before in {event["subject"] for event in until} and run not in {
        event["subject"] for event in until
    }
    assert until + since == chosen("--to", since[-1]["sequence"].lstrip("0"))
    ended = chosen("--run", run, "--type", "failed", "--type", "submitted")
    assert [event["type"] for event in ended] == ["trainshed.run.submitted.v1", "trainshed.run.failed.v1"]
    at_node = chosen("--node", "box", "--since", moment)
    assert {event["type"].split(".")[2] for event in at_node} >= {"dispatched", "started", "failed"}
    to = first[1]["sequence"].lstrip("0")
    assert chosen("--run", before, "--to", to, verb=("audit", "export")) == first[:2]
    assert "before the first event" in stack.trainshed("events", "--until", "2001-01-01", code=2).stderr


def test_an_export_is_a_whole_file_or_none(stack: Stack, tmp_path: Path) -> None:
    stack.wait(stack.submit("--new", "--", "true"))
    file = tmp_path / "log.jsonl"
    file.write_bytes(b"before")
    end = str(len(stack.trainshed("audit", "export").lines))
    refused = stack.trainshed("audit", "export", "-o", str(file), "--until", "2001-01-01", code=2)
    assert "before the first event" in refused.stderr and file.read_bytes() == b"before"
    assert stack.trainshed("audit", "export", "-o", str(file), "--to", end).stdout == b""
    exported = stack.trainshed("audit", "export", "--to", end)
    assert file.read_bytes() == exported.stdout and len(exported.lines) == int(end)
    assert exported.stderr == ""
    assert "is a folder" in stack.trainshed("audit", "export", "-o", str(tmp_path), code=2).stderr
    assert "-o" in stack.trainshed("audit", "export", "-o", str(tmp_path / "no/such"), code=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    events = [json.loads(line) for line in exported.lines]
    assert all(event["storedtime"] >= event["time"] for event in events if event["source"] == "gateway")


def test_a_config_is_one_run_however_it_is_spelled_and_new_makes_another(stack: Stack) -> None:
    plain = {"entry_point": "/bin/true", "labels": {"a": "1", "b": "2"}}
    spelled = {
        "resources": {"gpus": {"requested": 0}, "cpus": 1},
        "labels": {"b": "2", "a": "1"},
        "priority": 0,
    }
    first = stack.trainshed("submit", "-f", "-", json=True, stdin=json.dumps(plain).encode())
    again = stack.trainshed(
        "submit", "-f", "-", json=True, stdin=json.dumps({**spelled, "entry_point": "/bin/true"}).encode()
    )
    assert (first["created"], again["created"]) == (True, False)
    assert (again["run_id"], again["digest"], again["seq"]) == (
        first["run_id"],
        first["digest"],
        first["seq"],
    )
    stack.wait(first["run_id"])
    told = stack.trainshed("submit", "-f", "-", stdin=json.dumps(plain).encode())
    assert "--new" in told.stderr
    assert first["run_id"] in told.text
    other = stack.trainshed("submit", "--new", "-f", "-", json=True, stdin=json.dumps(plain).encode())
    assert other["created"] is True
    assert other["run_id"] != first["run_id"]
    stack.wait(other["run_id"])
    assert sum(event["type"] == "trainshed.run.dispatched.v1" for event in stack.events(first["run_id"])) == 1


def test_a_sweep_is_an_answer_a_line(stack: Stack, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.jsonl"
    configs = [
        {"entry_point": "/bin/true", "labels": {"n": str(n % 3)}, "submission_key": "s"} for n in range(4)
    ]
    sweep.write_text("\n".join(json.dumps(config) for config in configs))
    answers = [json.loads(line) for line in stack.trainshed("submit", "--json", "-f", str(sweep)).lines]
    assert [answer["created"] for answer in answers] == [True, True, True, False]
    assert answers[3]["run_id"] == answers[0]["run_id"]
    stack.wait(*{answer["run_id"] for answer in answers})


def test_a_command_line_is_run_as_its_caller_would(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text('#!/bin/sh\necho "$PWD|$GIVEN|$NOT_GIVEN|$PYTHONPATH|$1"\n')
    (tmp_path / "tool").chmod(0o755)
    caller = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "GIVEN": "yes",
        "NOT_GIVEN": "no",
        "PYTHONPATH": "/somewhere",
    }
    done = stack.trainshed(
        *("run", "--new", "--env", "GIVEN", "--", "tool", "a b"), cwd=tmp_path, environment=caller
    )
    assert done.text == f"{tmp_path}|yes||/somewhere|a b\n"


def test_ctrl_c_detaches_from_a_run_and_leaves_it(stack: Stack) -> None:
    script = "print('up', flush=True); import time; time.sleep(60)"
    following = subprocess.Popen(
        [TRAINSHED, "run", "--new", "--name", "detached", "--", sys.executable, "-c", script],
        env=stack.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert following.stdout is not None
    assert following.stdout.readline() == b"up\n"
    following.send_signal(signal.SIGINT)
    _, said = following.communicate(timeout=5)
    assert following.returncode == 130
    assert b"trainshed cancel" in said
    record = stack.record("detached")
    assert record["status"] == "RUNNING"
    stack.trainshed("cancel", "detached")
    stack.wait("detached", code=125)


def test_cancel_ends_the_queued_and_the_running_and_leaves_the_ended(stack: Stack) -> None:
    running = stack.submit("--gpus", "2", "--", "sleep", "60")
    stack.running(running)
    queued = stack.submit("--gpus", "1", "--", "sleep", "60")
    ended = stack.submit("--", "true")
    stack.wait(ended)
    done = stack.trainshed("cancel", "--json", queued, running, ended)
    answers = {answer["run_id"]: answer["status"] for answer in map(json.loads, done.lines)}
    assert set(answers) == {queued, running, ended}
    assert answers[ended] == "COMPLETED"
    records = stack.wait(queued, running, code=125)
    assert [record["status"] for record in records] == ["CANCELLED", "CANCELLED"]
    assert [event["type"] for event in stack.events(ended)][-1] == "trainshed.run.completed.v1"


def test_a_failed_run_is_tried_again_as_its_policy_says_and_by_retry(stack: Stack, tmp_path: Path) -> None:
    marker = tmp_path / "second"
    script = f"echo attempt $TRAINSHED_ATTEMPT; test -e {marker} || {{ touch {marker}; exit 5; }}"
    config = {
        "entry_point": "/bin/sh",
        "arguments": ["-c", script],
        "retry": {"max_attempts": 2, "backoff_s": 0},
    }
    run = stack.submit_config(config)
    (record,) = stack.wait(run)
    assert record["attempt"] == 2
    assert [attempt["status"] for attempt in stack.show(run)["attempts"]] == ["FAILED", "COMPLETED"]
    stack.trainshed("retry", run)
    until(lambda: stack.record(run)["attempt"] == 3 and stack.record(run)["ended_at"])
    assert stack.stdout(run, 3) == "attempt 3\n"


def test_output_may_be_cut_off_by_its_reader(stack: Stack) -> None:
    line = f"{TRAINSHED} ls --all | head -n 1"
    done = subprocess.run(
        ["/bin/sh", "-c", line], env=stack.environment, capture_output=True, timeout=20, check=False
    )
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""
