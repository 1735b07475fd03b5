"""`--at`, `audit at` and `audit diff`: what a command printed at a moment is what it says of that moment later."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.support.replayed_at import without_heartbeats
from tests.support.stack import Done, Stack, until

NewStack = Callable[..., Stack]
MEASURED = '{"type": "step", "step": %d, "loss": %d}'


class Printed(NamedTuple):
    """What was printed at one moment, by command."""

    seq: int
    answers: dict[tuple[str, ...], dict[str, Any]]


class History:
    """A stack with a past, and what it printed meanwhile."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.printed: list[Printed] = []
        self.named: dict[str, str] = {}

    def look(self) -> Printed:
        """Print everything; asked again where something happened meanwhile."""

        def ask() -> Printed | None:
            commands: list[tuple[str, ...]] = [("ls",), ("ls", "--all"), ("slots",), ("nodes",)]
            commands += [("show", run_id) for run_id in self.named.values()]
            answers = {words: self.stack.trainshed(*words, json=True) for words in commands}
            seqs = {answer["seq"] for answer in answers.values()}
            return Printed(seqs.pop(), answers) if len(seqs) == 1 else None

        found = until(ask, 60.0, what="nothing happens while everything is printed")
        assert found is not None
        self.printed.append(found)
        return found


@pytest.fixture(scope="module")
def history(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """Runs that complete, fail, are tried again, cancelled and wait; a node that is drained, and one that leaves."""
    told = History(stack)
    told.look()
    named = told.named
    wait_for = "while [ ! -e $TRAINSHED_RUN_DIR/go_on ]; do sleep 0.02; done"
    named["done"] = stack.submit("--name", "done", shell="echo out")
    stack.wait(named["done"])
    told.look()
    named["live"] = stack.submit(
        *("--name", "live", "--gpus", "2"),
        shell=f"echo first; echo '{MEASURED % (1, 5)}'; {wait_for}; echo second; echo '{MEASURED % (2, 3)}'",
    )
    stack.running(named["live"])
    named["again"] = stack.submit(
        *("--name", "again", "--retries", "1", "--backoff", "0.1s"), shell="echo why >&2; exit 3"
    )
    stack.wait(named["again"], code=3)
    until(lambda: stack.trainshed("metrics", "live", json=True)["points"])
    told.look()
    with stack.far_node(tmp_path_factory.mktemp("far")):
        named["far"] = stack.submit("--name", "far", "--gpus", "4", "--label", "on=far", "--", "sleep", "600")
        until(lambda: stack.record(named["far"])["status"] == "RUNNING", what="far runs")
        named["queued"] = stack.submit("--name", "queued", "--gpus", "4", "--", "true")
        stack.trainshed("drain", "box")
        told.look()
        stack.trainshed("cancel", named["far"])
        stack.wait(named["far"], named["queued"], code=None)
        told.look()
    until(lambda: "far" not in stack.trainshed("nodes").text, 20.0, what="far has left")
    stack.trainshed("resume", "box")
    (stack.run_dir(named["live"]) / "go_on").touch()
    stack.wait(named["live"])
    stack.trainshed("retry", "again")
    stack.wait(named["again"], code=3)
    told.look()
    named["last"] = stack.submit("--name", "last", "--", "true")
    stack.wait(named["last"])
    yield told


def test_what_was_printed_then_is_what_is_told_of_then(history: History) -> None:
    statuses = set()
    for printed in history.printed:
        for words, then in printed.answers.items():
            now = history.stack.trainshed(*words, "--at", str(printed.seq), json=True)
            assert without_heartbeats(now) == without_heartbeats(then), (words, printed.seq)
            statuses |= {run["status"] for run in now.get("runs", ())}
    assert {"PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"} <= statuses


def test_of_what_was_live_then_no_heartbeat_is_told_and_people_are_told_why(history: History) -> None:
    then = history.printed[2]
    live = history.stack.trainshed("ls", "--at", str(then.seq), json=True)["runs"]
    running = next(run for run in live if run["name"] == "live")
    assert (running["status"], running["metrics"], running["last_heartbeat_at"]) == ("RUNNING", {}, None)
    shown = history.stack.trainshed("ls", "--at", str(then.seq))
    assert shown.stderr.startswith(f"as of event {then.seq}, stored 20")
    assert f"trainshed metrics --at {then.seq} RUN" in shown.stderr
    for verb in ("slots", "nodes"):
        assert "is not kept" in history.stack.trainshed(verb, "--at", str(then.seq)).stderr


def test_filters_and_pages_are_those_of_then(history: History) -> None:
    stack, then = history.stack, history.printed[3]
    listed = stack.trainshed("ls", "--all", "--at", str(then.seq), json=True)["runs"]
    assert [run["name"] for run in listed] == ["queued", "far", "again", "live", "done"]
    for words, names in (
        (("--status", "running"), ["far", "live"]),
        (("--label", "on=far"), ["far"]),
        (("--name", "again"), ["again"]),
        (("-n", "2"), ["queued", "far"]),
    ):
        found = stack.trainshed("ls", "--all", *words, "--at", str(then.seq), json=True)["runs"]
        assert found == [run for run in listed if run["name"] in names]
    more = stack.trainshed("ls", "--at", str(then.seq), "--name", "nobody")
    assert "no run matches" in more.stderr


def test_a_time_is_the_last_event_by_then_in_either_zone(history: History) -> None:
    stack, then = history.stack, history.printed[2]
    stored = stack.trainshed("audit", "at", str(then.seq), json=True)["time"]
    by_time = stack.trainshed("audit", "at", stored, json=True)
    assert (by_time["seq"], by_time["time"]) == (then.seq, stored)
    east = {"TZ": "CET-1"}
    stack.trainshed("slots", "--at", stored.removesuffix("Z"), code=2, environment=east)  # before the log
    told = stack.trainshed("slots", "--at", stored, environment=east).stderr
    assert told.startswith(f"as of event {then.seq}, stored ")


def test_a_run_is_found_by_its_name_of_then_and_one_of_later_is_not_there(history: History) -> None:
    stack, first = history.stack, history.printed[1]
    done = stack.trainshed("show", "done", "--at", str(first.seq), json=True)
    assert done["run"]["run_id"] == history.named["done"]
    missing = stack.trainshed("show", "last", "--at", str(first.seq), code=4).stderr
    assert f"event {first.seq}" in missing
    assert "ls --all --at" in missing
    by_id = stack.trainshed("explain", history.named["last"], "--at", str(first.seq), code=4).stderr
    assert f"event {first.seq}" in by_id


def test_what_a_live_run_had_written_and_measured_by_then_is_read_of_its_node(history: History) -> None:
    stack, then = history.stack, history.printed[2]
    at = ("--at", str(then.seq))
    logs = stack.trainshed("logs", "live", *at)
    assert logs.lines[0] == "first"
    assert "second" not in logs.text
    assert "by box's clock" in logs.stderr
    assert stack.trainshed("logs", "live", "--tail", "1", *at).lines == [MEASURED % (1, 5)]
    points = stack.trainshed("metrics", "live", *at, json=True)["points"]
    assert [point["step"] for point in points] == [1]
    shown = stack.trainshed("show", "live", *at)
    assert "loss 5" in shown.text
    assert "  first" in shown.lines
    assert "  second" not in shown.lines
    assert "by that node's clock" in shown.stderr
    assert "loss 5" in stack.trainshed("explain", "live", *at).text
    whole = stack.trainshed("logs", "done", *at)
    assert whole.lines == ["out"]
    assert "clock" not in whole.stderr
    assert "choose one" in stack.trainshed("logs", "-f", "live", *at, code=2).stderr


def test_explain_says_what_it_waited_for_then_and_how_it_had_ended_then(history: History) -> None:
    stack = history.stack
    waiting = stack.trainshed("explain", "queued", "--at", str(history.printed[3].seq))
    assert "was PENDING" in waiting.text
    assert "HELD BY" in waiting.text
    assert "trainshed cancel" not in waiting.text
    failed = stack.trainshed("explain", "again", "--at", str(history.printed[2].seq))
    assert "was FAILED" in failed.text
    assert "trainshed retry" not in failed.text
    assert failed.text.count("\nattempt ") == 2, "the third came later"


def test_audit_at_has_all_that_was_live_and_the_state_hash(history: History) -> None:
    stack = history.stack
    for then in history.printed:
        found = stack.trainshed("audit", "at", str(then.seq), json=True)
        assert list(found) == ["v", "seq", "time", "state_hash", "runs", "slots", "nodes"]
        assert found["seq"] == then.seq
        for words, key in ((("slots",), "slots"), (("nodes",), "nodes")):
            assert without_heartbeats({key: found[key]}) == without_heartbeats(
                {key: then.answers[words][key]}
            )
        live = [run for run in then.answers["ls", "--all"]["runs"] if run["ended_at"] is None]
        assert without_heartbeats({"runs": found["runs"]}) == without_heartbeats({"runs": live})
    end = stack.trainshed("audit", "verify", json=True)
    last = stack.trainshed("audit", "at", str(end["seq"]), json=True)
    assert last["state_hash"] == end["state_hash"]
    shown = stack.trainshed("audit", "at", str(history.printed[3].seq)).text
    assert all(
        title in shown for title in ("state hash: ", "queued: 1", "running or starting: 2", "nodes: 2")
    )


def test_audit_diff_tells_what_changed_between_two_moments(history: History) -> None:
    stack, seqs = history.stack, [str(printed.seq) for printed in history.printed]
    found = stack.trainshed("audit", "diff", seqs[3], seqs[4], json=True)
    ways = {one["after"]["name"]: one["changes"] for one in found["runs"]}
    assert ways["far"] == ["cancel_requested", "ended"]
    assert ways["queued"] == ["granted", "started", "ended"]
    assert found["counts"]["slots"] == {"freed": 4}
    back = stack.trainshed("audit", "diff", seqs[4], seqs[3], json=True)
    assert back == found
    left = stack.trainshed("audit", "diff", seqs[4], seqs[5], json=True)
    nodes = {(one["before"] or one["after"])["node"]: one["changes"] for one in left["nodes"]}
    assert nodes == {"box": ["resumed"], "far": ["gone"]}
    again = next(one for one in left["runs"] if one["after"]["name"] == "again")
    assert again["changes"] == ["retried", "granted", "started", "ended"]
    assert again["before"]["attempt"] == 2 < again["after"]["attempt"]
    assert "nothing changed" in stack.trainshed("audit", "diff", seqs[2], seqs[2]).text
    until_now = stack.trainshed("audit", "diff", seqs[5]).text
    assert "1 submitted" in until_now
    assert "last" in until_now


def test_a_moment_that_there_is_not_is_refused_by_its_option(history: History) -> None:
    stack = history.stack
    for moment in ("0", "999999", "2020-01-01", "2099-01-01", "-9000d", "yesterday", ""):
        for words in (
            ("ls",),
            ("show", "done"),
            ("explain", "done"),
            ("slots",),
            ("nodes",),
            ("logs", "done"),
        ):
            refused = stack.trainshed(*words, "--at", moment, code=2)
            assert refused.stderr.startswith("Error: --at is "), refused
            assert refused.stdout == b""
    assert "Error: A is '0'" in stack.trainshed("audit", "diff", "0", "5", code=2).stderr
    assert "Error: B is '999999'" in stack.trainshed("audit", "diff", "5", "999999", code=2).stderr
    assert "the moment is 'x'" in stack.trainshed("audit", "at", "x", code=2).stderr


def test_without_a_stack_the_past_is_not_told(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.wait(stack.submit("--name", "done", "--", "true"))
    far_ago = stack.trainshed("ls", "--at", "-1h", code=2).stderr
    assert "--at is '-1h'" in far_ago, "the log is younger"
    stack.stop()
    for words in (("ls",), ("show", "done"), ("logs", "done"), ("slots",)):
        done: Done = stack.trainshed(*words, "--at", "3", code=3)
        assert done.stdout == b""
        assert "trainshed up" in done.stderr
    assert "by the stack" in stack.trainshed("ls", "--at", "3", code=3).stderr
    assert json.loads(stack.trainshed("ls", "--json", code=3).stdout)["runs"], "the present is told"
