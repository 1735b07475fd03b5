"""The command line against a running stack: what it prints for people, and how runs are named to it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.support.stack import TRAINSHED, Stack, until


def test_a_run_is_named_by_its_id_a_part_of_it_or_its_name(stack: Stack) -> None:
    run = stack.submit("--name", "named-once", shell="true")
    stack.wait(run)
    for name in (run, run[:10], "named-once"):
        assert stack.record(name)["run_id"] == run


def test_of_several_runs_of_a_name_reading_takes_the_newest_and_cancel_lists_five(stack: Stack) -> None:
    runs = [stack.submit("--name", "many", "--priority", str(n), shell="true") for n in range(6)]
    stack.wait(*runs)
    assert stack.record("many")["run_id"] == runs[-1]
    for verb in ("cancel", "retry"):
        refused = stack.trainshed(verb, "many", code=2)
        assert [run in refused.stderr for run in runs] == [False, True, True, True, True, True]
        assert refused.stdout == b""
    assert all(stack.record(run)["status"] == "COMPLETED" for run in runs)


def test_submit_prints_the_whole_id_first_and_says_what_a_second_one_meets(stack: Stack) -> None:
    words = ("submit", "--name", "twice", "--", "/bin/sh", "-c", "exit 4")
    first = stack.trainshed(*words)
    run, status = first.text.split()
    assert (len(run), status) == (26, "PENDING")
    stack.wait(run, code=4)
    again = stack.trainshed(*words)
    assert again.text.split() == [run, "FAILED"]
    told, ago = f"nothing started: this config is run {run[:6]} (FAILED ", "(just now|\\d+ s ago)"
    rest = f"). Again: trainshed submit --new …, or: trainshed retry {run[:6]}\n"
    assert re.fullmatch(re.escape(told) + ago + re.escape(rest), again.stderr)


def test_a_config_that_is_a_live_run_says_so(stack: Stack, tmp_path: Path) -> None:
    words = (
        "submit",
        "--name",
        "live",
        "--",
        "/bin/sh",
        "-c",
        f"until [ -e {tmp_path}/go ]; do sleep 0.02; done",
    )
    run = stack.trainshed(*words).text.split()[0]
    again = stack.trainshed(*words)
    assert f"nothing started: this config is run {run[:6]} (" in again.stderr
    assert f"trainshed logs -f {run[:6]}" in again.stderr
    (tmp_path / "go").touch()
    stack.wait(run)


def test_run_of_what_is_a_run_already_shows_its_output_and_code(stack: Stack) -> None:
    words = ("run", "--name", "again", "--", "/bin/sh", "-c", "echo out; echo err >&2; exit 6")
    first = stack.trainshed(*words, code=6)
    again = stack.trainshed(*words, code=6)
    assert first.stdout == again.stdout == b"out\n"
    assert "err\n" in first.stderr and "err\n" in again.stderr
    assert "nothing started" in again.stderr
    assert len(stack.show("again")["attempts"]) == 1


def test_following_goes_on_over_attempts_and_each_can_be_read_later(stack: Stack) -> None:
    config = (
        '{"run_name":"retried","entry_point":"/bin/sh","arguments":["-c","echo try {{attempt}}; exit 3"],'
    )
    config += '"retry":{"max_attempts":2,"backoff_s":0}}'
    followed = stack.trainshed("run", "-f", "-", stdin=config.encode(), code=3)
    assert followed.lines == ["try 1", "try 2"]
    assert "-- attempt 2 on box --" in followed.stderr
    assert stack.trainshed("logs", "retried").lines == ["try 2"]
    assert stack.trainshed("logs", "--attempt", "1", "retried").lines == ["try 1"]
    assert "has no attempt 3" in stack.trainshed("logs", "--attempt", "3", "retried", code=4).stderr


def test_a_worker_that_cannot_be_started_is_told_in_words(stack: Stack) -> None:
    ended = stack.trainshed("run", "--new", "--", "/no/such/program", code=125)
    assert "could not be started: /no/such/program" in ended.stderr
    assert ended.stdout == b""
    run = ended.stderr.split()[1]
    logs = stack.trainshed("logs", run)
    assert logs.stdout == b"" and logs.stderr.endswith(f"could not be started; why: trainshed show {run}\n")
    for verb in ("show", "explain"):
        words = stack.trainshed(verb, run).text
        assert re.search(
            r"^(status: +FAILED|why): +could not be started: /no/such/program", words, re.MULTILINE
        )


def test_a_listing_for_a_program_is_plain_and_whole(stack: Stack) -> None:
    name = "n" * 120
    run = stack.submit("--name", name, "--label", "exp=listing", shell="exit 3")
    stack.wait(run, code=3)
    listed = stack.trainshed("ls", "--label", "exp=listing")
    head, row = listed.lines
    assert head.split() == ["RUN", "NAME", "STATUS", "WHERE", "SINCE", "WAITED", "RAN", "LAST"]
    assert row.split()[:4] == [run, name, "FAILED", "box"]
    assert row.endswith("exit 3")
    assert row.index("FAILED") == head.index("STATUS")
    assert "\t" not in listed.text and "\x1b" not in listed.text


def test_a_listing_tells_of_what_it_leaves_out(stack: Stack) -> None:
    runs = [stack.submit("--label", "exp=limit", "--priority", str(n), shell="true") for n in range(3)]
    stack.wait(*runs)
    some = stack.trainshed("ls", "--label", "exp=limit", "--limit", "2")
    assert [line.split()[0] for line in some.lines[1:]] == [runs[2], runs[1]]
    assert some.stderr == "... and 1 more: trainshed ls --all --label exp=limit\n"
    every = stack.trainshed("ls", "--label", "exp=limit", "--all", json=True)
    assert [record["run_id"] for record in every["runs"]] == runs[::-1]
    assert stack.trainshed("ls", "--label", "exp=limit", "--status", "failed").stdout == b""


def test_what_a_queued_run_waits_for_is_told_and_a_drained_node_takes_none(stack: Stack) -> None:
    assert stack.trainshed("drain", "box").text == "box  up, drained\n"
    run = stack.submit("--name", "held", shell="true")
    try:
        assert "drained" in stack.trainshed("nodes").text
        assert "drained" in stack.trainshed("ls", "--name", "held").lines[1]
        assert stack.record(run)["status"] == "PENDING"
    finally:
        assert stack.trainshed("resume", "box").text == "box  up\n"
    stack.wait(run)
    assert "drained" not in stack.trainshed("nodes").text


def test_a_node_that_is_up_is_not_removed(stack: Stack) -> None:
    assert "box" in stack.trainshed("node", "remove", "box", code=2).stderr
    assert stack.trainshed("nodes", json=True)["nodes"][0]["status"] == "up"


def test_n_is_the_newest_whatever_else_is_listed(stack: Stack) -> None:
    label = ("--label", "exp=newest")
    runs = [stack.submit(*label, "--new", shell=f"exit {code}") for code in (0, 4, 0)]
    stack.wait(*runs, code=4)
    newest = [run["run_id"] for run in stack.trainshed("ls", *label, "-n", "2", json=True)["runs"]]
    assert newest == [runs[2], runs[1]]
    assert newest == [
        run["run_id"] for run in stack.trainshed("ls", "--all", *label, "-n", "2", json=True)["runs"]
    ]
    shown = stack.trainshed("ls", *label, "-n", "2")
    assert [line.split()[0] for line in shown.lines[1:]] == newest
    assert shown.stderr == "... and 1 more: trainshed ls --all --label exp=newest\n"


def test_cancel_tells_what_it_did_to_each(stack: Stack) -> None:
    stack.trainshed("drain", "box")
    try:
        queued = stack.submit("--new", shell="true")
        assert stack.trainshed("cancel", queued).lines == [
            f"{queued}  cancelled: it was queued, and does not start"
        ]
    finally:
        stack.trainshed("resume", "box")
    ended = stack.submit("--new", shell="exit 3")
    running = stack.submit("--new", shell="sleep 60")
    stack.wait(ended, code=3)
    stack.running(running)
    done = stack.trainshed("cancel", running, ended)
    assert done.lines[0] == f"{running}  told to stop: SIGTERM, then SIGKILL after 5s"
    assert re.fullmatch(rf"{ended}  had ended already \(FAILED, .*\): exit 3", done.lines[1])
    stack.wait(running, code=125)


def test_one_refusal_does_not_keep_cancel_from_the_others(stack: Stack) -> None:
    one, two = (stack.submit("--gpus", "1", "--priority", str(n), shell="sleep 60") for n in range(2))
    done = stack.trainshed("cancel", one, "no-such-run", two, code=4)
    assert [line.split()[0] for line in done.lines] == [one, two]
    assert "no-such-run" in done.stderr
    assert {record["status"] for record in stack.wait(one, two, code=125)} == {"CANCELLED"}


def test_after_takes_a_name_and_waits_for_that_run(stack: Stack, tmp_path: Path) -> None:
    first = stack.submit("--name", "goes-first", shell=f"until [ -e {tmp_path}/go ]; do sleep 0.02; done")
    second = stack.submit("--after", "goes-first", shell="true")
    until(lambda: stack.record(first)["status"] == "RUNNING")
    assert stack.record(second)["status"] == "PENDING"
    (tmp_path / "go").touch()
    stack.wait(first, second)
    assert stack.show(second)["config"]["after"] == [first]


def test_wait_tells_changes_on_stderr_and_ends_on_stdout(stack: Stack, tmp_path: Path) -> None:
    run = stack.submit(
        "--name", "waited-for", shell=f"until [ -e {tmp_path}/go ]; do sleep 0.02; done; exit 9"
    )
    waiting = subprocess.Popen(
        [TRAINSHED, "wait", run],
        env=stack.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waiting.stderr is not None
    assert waiting.stderr.readline().startswith(f"{run[:6]}  waited-for  ")
    (tmp_path / "go").touch()
    told, _ = waiting.communicate(timeout=30)
    assert waiting.returncode == 9
    assert told.startswith(f"{run}  waited-for  FAILED after ") and told.endswith(": exit 9\n")
    assert told.count("\n") == 1


def test_show_tells_attempts_and_timeline(stack: Stack) -> None:
    run = stack.submit("--name", "shown", "--gpus", "1", "--label", "a=b", shell="exit 3")
    stack.wait(run, code=3)
    text = stack.trainshed("show", run).text
    for part in (run, "FAILED: exit 3", "box:", "a=b", "ATTEMPT", "submitted", "dispatched", "failed"):
        assert part in text


def test_slots_tell_who_holds_them(stack: Stack) -> None:
    run = stack.submit("--gpus", "2", "--name", "holds-both", shell="sleep 60")
    stack.running(run)
    assert stack.trainshed("slots").text.count(f"{run}.1  holds-both") == 2
    stack.trainshed("cancel", run, "--reason", "no need")
    stack.wait(run, code=125)
    text = stack.trainshed("show", run).text
    assert "CANCELLED by local: no need" in text and "cancelled: cancel" not in text
    assert run[:6] not in stack.trainshed("slots").text


def test_replaying_the_log_gives_the_tables(stack: Stack) -> None:
    verdict = stack.trainshed("audit", "verify").text
    assert verdict.startswith("replayed ") and ": the tables are the same (state hash " in verdict
    found = stack.trainshed("audit", "verify", "--json").json
    assert (found["v"], found["ok"], found["violations"]) == (1, True, [])
    assert found["state_hash"][:12] in stack.trainshed("audit", "verify").text


def test_events_begin_where_they_are_asked_to(stack: Stack) -> None:
    events = stack.events()
    later = stack.trainshed("events", "--from", str(int(events[3]["sequence"]))).lines
    assert len(later) >= len(events) - 3
    assert events[3]["id"] in later[0]
