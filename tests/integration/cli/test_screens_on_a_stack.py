"""What the verbs say to a person on a running stack: submissions, endings, errors, and what a terminal gets."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.nvml_stub.build import StubNvml, build, compiler
from tests.support.stack import TRAINSHED, Stack, until

NO_GPU = "no GPU asked for (CUDA_VISIBLE_DEVICES will be empty); --gpus 1 asks for one\n"
ONE_THREAD = "1 CPU asked for, so 1 thread (OMP_NUM_THREADS); --cpus N asks for more\n"
SHARE = "it gets threads by its share of the node's GPUs (OMP_NUM_THREADS); --cpus N asks for more\n"


def on_terminal(stack: Stack, *words: str, environment: Mapping[str, str] | None = None) -> str:
    """What a terminal of 80 columns shows of a command, its stderr too."""
    ours, theirs = pty.openpty()
    env = {**stack.environment, "TERM": "xterm", "COLUMNS": "80", **(environment or {})}
    process = subprocess.Popen([TRAINSHED, *words], env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # Linux: nobody has the other end open any more
            break
        if not data:
            break
        shown += data
    os.close(ours)
    assert process.wait(10) == 0
    return shown.decode().replace("\r\n", "\n")


# --- submit -----------------------------------------------------------------------------------------------


def test_a_run_without_gpus_is_told_so_where_there_are_some_and_not_where_slots_are_only_declared(
    stack: Stack, new_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    assert stack.trainshed("submit", "--new", "--", "true").stderr == ONE_THREAD
    if compiler() is None:
        pytest.skip("no C compiler for a stub of NVML")
    nvml = StubNvml(build(tmp_path), tmp_path)
    real = new_stack("real", environment={**nvml.environment(), "CUDA_VISIBLE_DEVICES": "0,1"})
    assert real.trainshed("submit", "--new", "--", "true").stderr == NO_GPU + ONE_THREAD
    assert NO_GPU in real.trainshed("run", "--new", "--", "true").stderr
    assert real.trainshed("submit", "--new", "--gpus", "0", "--", "true").stderr == ONE_THREAD


def test_a_run_that_says_nothing_of_cpus_is_told_its_threads(stack: Stack) -> None:
    words = ("submit", "--new", "--gpus", "1")
    assert stack.trainshed(*words, "--", "true").stderr == SHARE
    for more in (("--cpus", "1"), ("--env", "OMP_NUM_THREADS=2")):
        assert stack.trainshed(*words, *more, "--", "true").stderr == ""
    run = stack.submit(
        "--gpus", "1", shell="echo $OMP_NUM_THREADS $TRAINSHED_CPUS"
    )  # half of two slots and 4 CPUs
    stack.wait(run)
    assert stack.trainshed("logs", run).stdout == b"2 1\n"
    assert "threads:   2 (OMP_NUM_THREADS, unless the config sets it)" in stack.trainshed("show", run).lines


def test_run_of_an_ended_config_says_so_and_exits_with_the_old_code(stack: Stack) -> None:
    words = ("run", "--name", "old-code", "--gpus", "0", "--", "/bin/sh", "-c", "echo out; exit 7")
    first = stack.trainshed(*words, code=7)
    again = stack.trainshed(*words, code=7)
    (run,) = re.findall(r"^run (\w{6})$", first.stderr, re.MULTILINE)
    assert again.stdout == b"out\n"
    assert re.match(
        rf"nothing started: this config is run {run} \(FAILED (just now|\d+ (s|min) ago)\)\. "
        rf"Again: trainshed run --new …, or: trainshed retry {run}\n",
        again.stderr,
    )


def test_a_sweep_is_queued_whole_or_not_at_all(stack: Stack, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.jsonl"
    good = [{"entry_point": "/bin/true", "submission_key": f"whole-{n}"} for n in range(3)]
    before = len(stack.events())
    sweep.write_text("\n".join(json.dumps(one) for one in [*good, {"entry_point": "/bin/true", "cpu": 1}]))
    refused = stack.trainshed("submit", "-f", str(sweep), code=2)
    assert "sweep.jsonl, line 4: cpu: " in refused.stderr
    assert len(stack.events()) == before
    sweep.write_text("\n".join(json.dumps(one) for one in good))
    runs = [line.split()[0] for line in stack.trainshed("submit", "-f", str(sweep)).lines]
    assert len(set(runs)) == 3
    stack.wait(*runs)
    again = stack.trainshed("submit", "-f", str(sweep))
    assert again.stderr == "3 of 3 were runs already; nothing started for them\n"


def test_a_dry_run_tells_what_would_be_and_appends_nothing(stack: Stack) -> None:
    words = ("--no-code", "--gpus", "1", "--", "/bin/sh", "-c", "echo dry")
    before = len(stack.events())
    dry = stack.trainshed("submit", "--dry-run", *words)
    answer = stack.trainshed("submit", "--dry-run", *words, json=True)
    assert len(stack.events()) == before
    run = answer["run_id"]
    assert answer == {
        "run_id": run, "digest": answer["digest"], "new": True, "status": None, "nodes": ["box"],
    }  # fmt: skip
    assert dry.lines == [
        f"run:           {run}",
        f"digest:        {answer['digest']}",
        "code:          none: an edit of the program makes no other run",
        "new:           yes",
        "could run on:  box",
    ]
    assert dry.stderr == "nothing was submitted; to do it, leave out --dry-run\n"
    submitted = stack.trainshed("submit", *words, json=True)
    assert (submitted["run_id"], submitted["digest"]) == (run, answer["digest"])
    stack.wait(run)
    known = stack.trainshed("submit", "--dry-run", *words)
    assert known.lines[3].startswith("new:           no, there is one: COMPLETED ")


def test_a_dry_run_refuses_what_a_submission_would(stack: Stack) -> None:
    for words in (("--gpus", "3"), ("--env", "WANDB_API_KEY=s3cr3t"), ("--cpus", "0")):
        dry = stack.trainshed("submit", "--dry-run", *words, "--", "true", code=2)
        assert dry.stderr == stack.trainshed("submit", *words, "--", "true", code=2).stderr
    stack.trainshed("drain", "box")
    try:
        assert "no node that takes work now" in stack.trainshed("submit", "--dry-run", "--", "true").lines[4]
    finally:
        stack.trainshed("resume", "box")


def test_a_dry_run_of_a_sweep_is_a_line_a_run(stack: Stack, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.jsonl"
    sweep.write_text("\n".join(json.dumps({"entry_point": "/bin/true", "priority": n}) for n in range(3)))
    dry = stack.trainshed("submit", "--dry-run", "-f", str(sweep))
    assert [line.split()[1:] for line in dry.lines] == [["new", "box"]] * 3
    assert dry.stderr == "3 of 3 are new; nothing was submitted\n"


# --- how it went ------------------------------------------------------------------------------------------


def test_show_of_a_failed_run_ends_with_its_last_ten_lines_of_stderr(stack: Stack) -> None:
    run = stack.submit(shell="echo out; seq -f 'line %g' 1 12 >&2; exit 1")
    stack.wait(run, code=1)
    lines = stack.trainshed("show", run).lines
    assert lines[-11:] == ["the last lines of its stderr:", *(f"  line {n}" for n in range(3, 13))]
    quiet = stack.submit(shell="echo only this; exit 1")
    stack.wait(quiet, code=1)
    assert stack.trainshed("show", quiet).lines[-2:] == ["the last lines of its stdout:", "  only this"]
    fine = stack.submit(shell="echo warned >&2")
    stack.wait(fine)
    assert "the last lines" not in stack.trainshed("show", fine).text


def test_explain_says_why_a_run_waits_and_why_it_ended(stack: Stack) -> None:
    stack.trainshed("drain", "box")
    try:
        run = stack.submit("--name", "explained", shell="exit 3")
        waiting = stack.trainshed("explain", "explained").text
    finally:
        stack.trainshed("resume", "box")
    assert f"run {run} (explained) is PENDING" in waiting
    assert "drained" in waiting and f"trainshed cancel {run[:6]}" in waiting
    stack.wait(run, code=3)
    ended = stack.trainshed("explain", run[:8]).text
    assert "is FAILED" in ended and "why:       exit 3" in ended and f"trainshed retry {run[:6]}" in ended
    answer = stack.trainshed("explain", run, json=True)
    assert (answer["v"], answer["run"]["run_id"]) == (1, run)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("show", "nosuch"), 4),
        (("explain", "nosuch"), 4),
        (("logs", "nosuch"), 4),
        (("cancel", "nosuch"), 4),
        (("retry", "nosuch"), 4),
        (("wait", "nosuch"), 4),
        (("events", "--run", "nosuch"), 4),
        (("drain", "nosuch"), 4),
        (("node", "remove", "box"), 2),
        (("submit",), 2),
        (("submit", "-f", "/no/such.yaml"), 2),
        (("submit", "-f", "x.yaml", "--", "true"), 2),
        (("submit", "--", "no-such-program"), 2),
        (("submit", "--gpus", "3", "--", "true"), 2),
        (("submit", "--gpus", "-1", "--", "true"), 2),
        (("submit", "--gpus", "many", "--", "true"), 2),
        (("submit", "--time-limit", "soon", "--", "true"), 2),
        (("submit", "--memory", "lots", "--", "true"), 2),
        (("submit", "--label", "x", "--", "true"), 2),
        (("submit", "--env", "UNSET_ANYWHERE", "--", "true"), 2),
        (("submit", "--after", "nosuch", "--", "true"), 4),
        (("run", "-f", "sweep.jsonl"), 2),
        (("ls", "--status", "broken"), 2),
        (("ls", "--label", "x"), 2),
        (("ls", "--limit", "0"), 2),
        (("wait", "--timeout", "soon", "x"), 2),
        (("frobnicate",), 2),
        (("ls", "--frobnicate"), 2),
        (("ls", "--nats", "nats://127.0.0.1:1"), 3),
        (("ls", "--nats", "http://x"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_error_ends_with_the_command_to_try(
    stack: Stack, tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    (tmp_path / "sweep.jsonl").write_text('{"entry_point": "x"}\n')
    done = stack.trainshed(*words, code=code, cwd=tmp_path)
    assert done.stdout == b""
    assert done.stderr.startswith("Error: ")
    assert re.search(r"trainshed [a-z-]+", done.stderr.splitlines()[-1]), done.stderr


# --- what it looks like -----------------------------------------------------------------------------------


def test_an_ended_run_says_its_cause_on_every_screen(stack: Stack) -> None:
    run = stack.submit("--name", "why", "--", "python3", "-c", "import no_such_module")
    stack.wait(run, code=1)
    error = "ModuleNotFoundError: No module named 'no_such_module'"
    assert (stack.record(run)["error"], stack.show(run)["attempts"][0]["error"]) == (error, error)
    for words in (("ls", "--name", "why"), ("show", run), ("explain", run), ("wait", run)):
        assert f"exit 1: {error}" in stack.trainshed(*words, code=None).text, words
    assert "exit 1: No module named" in on_terminal(stack, "ls", "--name", "why")


def test_what_runs_tells_how_far_it_is_and_the_metric_that_matters(stack: Stack, tmp_path: Path) -> None:
    tell = "import os, socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(os.environ['TOLD'].encode(), os.environ['NOTIFY_SOCKET'])"
    config = {
        "entry_point": "/bin/sh",
        "arguments": ["-c", f'python3 -c "$TELL"; until [ -e {tmp_path}/go ]; do sleep 0.02; done'],
        "environment": {
            "TELL": tell,
            "TOLD": "X_STEP=250\nX_METRIC_entropy=0.5\nX_METRIC_eval/reward=7\nX_METRIC_fps=90",
        },
        "schedule": {"max_steps": 1000},
        "run_name": "far",
    }
    run = stack.submit_config(config)
    until(lambda: stack.record(run)["step"] == 250, what="it told")
    assert re.search(r"  25% eval/reward 7, \S+ left$", stack.trainshed("ls", "--name", "far").lines[1])
    (tmp_path / "go").touch()
    stack.wait(run)
    assert stack.trainshed("ls", "--name", "far").lines[1].endswith("  step 250 eval/reward 7")


def test_a_terminal_gets_colour_and_cut_lines_and_a_program_neither(stack: Stack) -> None:
    command = ("/bin/sh", "-c", f"exit 3 # {'x' * 120}")
    run = stack.submit("--label", "exp=look", "--", *command)
    stack.wait(run, code=3)
    words = ("ls", "--label", "exp=look")
    piped = stack.trainshed(*words).text
    assert run in piped and "x" * 120 in piped and "\x1b" not in piped
    shown = on_terminal(stack, *words, environment={"NO_COLOR": ""})
    assert "\x1b[31mFAILED\x1b[0m" in shown
    plain = on_terminal(stack, *words, environment={"NO_COLOR": "1"})
    assert plain == re.sub(r"\x1b\[\d+m", "", shown)
    head, row = plain.splitlines()
    assert head.split() == ["RUN", "NAME", "STATUS", "WHERE", "SINCE", "WAITED", "RAN", "LAST"]
    assert row.startswith(f"{run[:6]}  sh -c") and "…" in row and len(row) <= 80
    assert row.split("FAILED")[0].rstrip().endswith("x'")


def test_the_log_is_readable_on_a_terminal_and_json_where_that_is_asked_for(stack: Stack) -> None:
    run = stack.submit("--new", "--name", "readable", shell="exit 3")
    stack.wait(run, code=3)
    head, *lines = on_terminal(stack, "events", "--run", run, environment={"NO_COLOR": "1"}).splitlines()
    assert head.split() == ["SEQ", "STORED", "EVENT", "ABOUT"]
    assert [line.split()[3] for line in lines] == ["submitted", "dispatched", "started", "failed"]
    assert all(run[:6] in line and len(line) <= 80 for line in lines) and lines[-1].endswith("  exit 3")
    as_json = on_terminal(stack, "events", "--run", run, "--json").splitlines()
    assert [json.loads(line) for line in as_json] == stack.events(run)


def test_explain_of_an_ended_run_says_what_held_the_slots_where_it_was_placed_and_how_it_ended(
    stack: Stack, tmp_path: Path
) -> None:
    holder = stack.submit(
        "--new", "--gpus", "2", "--name", "holds", shell=f"until [ -e {tmp_path}/go ]; do sleep 0.02; done"
    )
    stack.running(holder)
    run = stack.submit("--new", "--gpus", "1", "--name", "waits", shell="echo KeyError: lr >&2; exit 3")
    until(lambda: stack.trainshed("explain", run, json=True)["waiting"]["holders"], what="it waits")
    (tmp_path / "go").touch()
    stack.wait(run, code=3)
    found = stack.trainshed("explain", run, json=True)
    [attempt] = found["past"]
    held = [part for part in attempt["waits"] if part["waiting"]["holders"]]
    assert {one["run_id"] for part in held for one in part["waiting"]["holders"]} == {holder}
    assert (attempt["grant"]["node"], attempt["grant"]["free"]) == ("box", 2)
    assert (attempt["end"]["how"]["exit_code"], attempt["end"]["output_of"]) == (3, "stderr")
    text = stack.trainshed("explain", run).text
    assert "waiting for 1 free GPU (0 of 2 free)" in text and f"held by {holder} (holds, box:0,1)" in text
    assert "placed:" in text and "where 2 slots were free" in text and "exit 3, after " in text
    assert text.endswith("the last of its stderr, as the log has it:\n  KeyError: lr\n")
    live = stack.submit("--new", shell="sleep 60")
    assert "past" not in stack.trainshed("explain", live, json=True)
    stack.trainshed("cancel", live)


def test_a_shell_completes_runs_and_nodes(stack: Stack) -> None:
    run = stack.submit("--name", "completed-by-tab", "--", "true")
    stack.wait(run)

    def offered(line: str, place: int) -> list[str]:
        asked = {"_TRAINSHED_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(place)}
        return [one.partition(",")[2] for one in stack.trainshed(environment=asked).lines]

    assert offered("trainshed show completed-", 2) == ["completed-by-tab"]
    assert run in offered(f"trainshed logs -f {run[:4]}", 3)
    assert offered("trainshed drain b", 2) == ["box"]


# --- words that are none ----------------------------------------------------------------------------------

BYTES = "a\udcff"
"""As Python has an argument that is not UTF-8."""


@pytest.mark.parametrize(
    "words",
    [
        ("submit", "--", "true", BYTES),
        ("submit", "--dry-run", "--name", BYTES, "--", "true"),
        ("show", BYTES),
        ("logs", BYTES),
        ("wait", BYTES),
        ("cancel", BYTES),
        ("ls", "--label", f"x={BYTES}"),
        ("events", "--run", BYTES),
        ("drain", BYTES),
        ("drain", "box", "--reason", BYTES),
    ],
    ids=lambda words: words[0],
)
def test_a_word_that_is_not_utf_8_is_refused_by_what_it_is(stack: Stack, words: tuple[str, ...]) -> None:
    told = stack.trainshed(*words, code=2).stderr
    assert told.startswith("Error: ")
    assert "not UTF-8, and so no text: " in told and r"a\xff" in told


def test_services_and_up_heed_nats_too(stack: Stack) -> None:
    for words in (("--nats", "http://x", "dispatcher"), ("agent", "--nats", "http://x")):
        assert "--nats" in stack.trainshed(*words, code=2).stderr
    assert (
        "trainshed agent --nats URL" in stack.trainshed("--nats", "nats://127.0.0.1:1", "up", code=2).stderr
    )
