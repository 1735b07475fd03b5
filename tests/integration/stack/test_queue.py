"""The queue in a user's hands: order, the reservation and who passes it, `after`, retries, drain, and what `explain` says.

Through the real command line against `trainshed up` with two declared GPUs.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from events.times import nanoseconds
from tests.support.stack import Stack, until

WITHIN_S = 30.0


@pytest.fixture(autouse=True)
def all_ended_afterwards(stack: Stack) -> Iterator[None]:
    """Every test gives back what it took."""
    yield
    stack.trainshed("resume", "box")
    live = [run["run_id"] for run in stack.trainshed("ls", json=True)["runs"] if run["ended_at"] is None]
    if live:
        stack.trainshed("cancel", *live)
        stack.trainshed("wait", "-q", "--timeout", "20s", *live, code=None)


def gate(path: Path) -> str:
    """A line for the shell that ends when that file is there."""
    return f"until [ -e {shlex.quote(str(path))} ]; do sleep 0.02; done"


def waiting(stack: Stack, run: str) -> dict[str, Any]:
    answer: dict[str, Any] = stack.trainshed("explain", run, json=True)["waiting"]
    return answer


def test_priority_first_then_submission(stack: Stack, tmp_path: Path) -> None:
    holder = stack.submit("--gpus", "2", shell=gate(tmp_path / "go"))
    stack.running(holder)
    order = tmp_path / "order"
    runs = {
        name: stack.submit(
            "--gpus", "2", "--name", name, "--priority", priority, shell=f"echo {name} >> {order}"
        )
        for name, priority in (("low", "-1"), ("first", "0"), ("second", "0"), ("high", "3"))
    }
    places = {name: waiting(stack, run)["place"] for name, run in runs.items()}
    assert places == {"high": 1, "first": 2, "second": 3, "low": 4}
    shown = stack.trainshed("explain", runs["second"]).text
    assert "3rd of 4 in the queue" in shown
    assert holder in shown
    (tmp_path / "go").touch()
    stack.wait(*runs.values())
    assert order.read_text().split() == ["high", "first", "second", "low"]


def test_a_large_run_is_not_starved_and_who_is_over_in_time_passes(stack: Stack, tmp_path: Path) -> None:
    holder = stack.submit("--gpus", "1", "--time-limit", "1h", shell=gate(tmp_path / "go"))
    stack.running(holder)
    large = stack.submit("--gpus", "2", "--name", "large", shell="true")
    endless = stack.submit("--gpus", "1", shell="true")
    long = stack.submit("--gpus", "1", "--time-limit", "2h", shell="true")
    short = stack.submit("--gpus", "1", "--time-limit", "1m", shell="true")
    beside = stack.submit(shell="true")
    stack.wait(short, beside)
    for run in (large, endless, long):
        assert stack.record(run)["status"] == "PENDING"
    told = waiting(stack, endless)
    assert (told["reason"], told["place"], told["of"]) == ("reservation", 2, 3)
    assert told["reservation"]["run_id"] == large
    assert f"PENDING: {told['text']}" in stack.trainshed("show", endless).text
    (held,) = told["holders"]
    assert (held["run_id"], held["node"]) == (holder, "box")
    assert told["reservation"]["starts_by"] == held["ends_by"] > held["since"]
    (tmp_path / "go").touch()
    stack.wait(large, endless, long)
    assert stack.record(large)["dispatched_at"] <= stack.record(endless)["dispatched_at"]


def test_a_chain_ends_with_the_run_that_failed_and_goes_on_with_its_retry(
    stack: Stack, tmp_path: Path
) -> None:
    fixed = tmp_path / "fixed"
    first = stack.submit("--name", "first", shell=f"{gate(tmp_path / 'go')}; test -e {fixed}")
    second = stack.submit("--after", first, shell="true")
    third = stack.submit("--after", second, shell="true")
    stack.running(first)
    assert waiting(stack, third)["text"] == f"waiting for run {second}"
    (tmp_path / "go").touch()
    stack.wait(first, second, third, code=125)
    records = [stack.record(run) for run in (first, second, third)]
    assert [one["status"] for one in records] == ["FAILED", "CANCELLED", "CANCELLED"]
    assert [one["failure_reason"] for one in records[1:]] == ["dependency_failed"] * 2
    late = stack.submit("--after", first, shell="true")
    (record,) = stack.wait(late, code=125)
    assert (record["status"], record["failure_reason"]) == ("CANCELLED", "dependency_failed")

    refused = stack.trainshed("retry", second, code=2).stderr
    assert f"trainshed retry {first[:6]}" in refused and "FAILED" in refused
    fixed.touch()
    (tmp_path / "go").unlink()
    for run in (first, second, third):
        stack.trainshed("retry", run)
    stack.running(first)
    assert waiting(stack, second)["text"] == f"waiting for run {first}"
    (tmp_path / "go").touch()
    assert {one["status"] for one in stack.wait(first, second, third)} == {"COMPLETED"}


def test_only_the_named_reasons_are_retried_and_not_before_the_back_off(stack: Stack) -> None:
    def failing(**retry: object) -> str:
        return stack.submit_config(
            {
                "entry_point": "/bin/sh",
                "arguments": ["-c", "exit 5"],
                "retry": {"max_attempts": 2, **retry},
            }
        )

    other, named, later = failing(on=["signal"]), failing(backoff_s=1), failing(backoff_s=600)
    stack.wait(other, named, code=5)
    assert [stack.record(run)["attempt"] for run in (other, named)] == [1, 2]
    timeline = [(entry["type"], nanoseconds(entry["time"])) for entry in stack.show(named)["timeline"]]
    ended = next(time for kind, time in timeline if kind == "failed")
    granted = [time for kind, time in timeline if kind == "dispatched"]
    assert granted[1] - ended >= 1_000_000_000
    until(lambda: stack.record(later)["attempt"] == 2, WITHIN_S)
    told = waiting(stack, later)
    assert (told["reason"], told["place"]) == ("backoff", None)
    assert "waiting until its retry in" in told["text"]


def test_a_drained_node_takes_no_new_work_and_lets_the_running_end(stack: Stack, tmp_path: Path) -> None:
    running = stack.submit("--gpus", "1", shell=gate(tmp_path / "go"))
    stack.running(running)
    stack.trainshed("drain", "box")
    held = stack.submit("--gpus", "1", shell="true")
    told = waiting(stack, held)
    assert (told["reason"], told["commands"]) == ("no_node", ["trainshed resume box"])
    assert "trainshed resume box" in stack.trainshed("explain", held).text
    (tmp_path / "go").touch()
    (record,) = stack.wait(running)
    assert record["status"] == "COMPLETED"
    assert stack.record(held)["status"] == "PENDING"
    stack.trainshed("resume", "box")
    stack.wait(held)


def test_a_line_of_a_sweep_that_is_refused_is_named_by_its_number(stack: Stack, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.jsonl"
    bad = '{"entry_point": "/bin/true", "resources": {"gpus": {"requested": %s}}}'
    for value in ("-1", "9"):  # refused by its text, and by the nodes
        sweep.write_text('{"entry_point": "/bin/true"}\n\n' + bad % value + "\n")
        for words in (("submit",), ("submit", "--dry-run")):
            done = stack.trainshed(*words, "-f", str(sweep), code=2)
            assert "sweep.jsonl, line 3: resources.gpus.requested: " in done.stderr
            assert "runs[" not in done.stderr
