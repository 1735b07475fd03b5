"""A run that is another's may have any text in it: no screen hands its escape codes on to a terminal, nor takes it for markup."""

from __future__ import annotations

import shlex
import sys

import pytest

from tests.support.played_page import on_a_terminal
from tests.support.stack import TRAINSHED, Stack, until

BAD = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e[bold red]x[/] <script>alert(1)</script>"
"""A terminal's title, an empty screen, a colour by one byte, text from right to left; markup of rich, and HTML's."""
LIVE = ("\x1b]", "\x1b[2J", "\x07", "\x9b", "\u202e")
"""What of it a terminal would heed."""
WORKER = f"""
import os, socket, sys, time
bad = {BAD!r}
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
def send(*lines):
    s.sendto("\\n".join(lines).encode(), os.environ["NOTIFY_SOCKET"])
send("READY=1", "STATUS=" + bad)
send("X_STEP=1", "X_METRIC_loss=1.5", "X_METRIC_" + bad + "=2.5", "X_METRIC_lr=" + bad, "X_" + bad + "=1")
print(bad, flush=True)
print(bad, file=sys.stderr, flush=True)
open(os.path.join(os.environ["TRAINSHED_RUN_DIR"], "artifacts", bad.replace("/", "_")), "w").write("x")
time.sleep(600 if sys.argv[-1] == 'stay' else 1)
sys.exit("ValueError: " + bad)
"""


@pytest.fixture(scope="module")
def runs(stack: Stack) -> tuple[str, str, str]:
    """One that has failed, one that waits and one that runs."""
    config = {
        "run_name": BAD,
        "entry_point": sys.executable,
        "arguments": ["-c", WORKER, BAD],
        "labels": {"exp": BAD},
        "metadata": {"note": BAD},
        "environment": {"BAD": BAD},
    }
    failed = stack.submit_config(config)
    both = {"resources": {"gpus": {"requested": 2}}}
    running = stack.submit_config({**config, **both, "arguments": ["-c", WORKER, BAD, "stay"]})
    stack.running(running)
    waiting = stack.submit_config({**config, **both})
    stack.wait(failed, code=1)
    until(lambda: stack.record(running)["metrics"], 10)
    return failed, waiting, running


TYPED = (
    "ls --all",
    "ls",
    "show {failed}",
    "show {waiting}",
    "show {running}",
    "explain {failed}",
    "explain {waiting}",
    "metrics {failed}",
    "metrics {failed} --metric loss",
    "artifacts {failed}",
    "path {failed}",
    "slots",
    "nodes",
    "events --run {failed}",
    "events",
    "wait {failed}",
    "cancel {failed}",
    "audit verify",
    "audit at 3",
    "audit diff 1 5",
    "prune --older-than 0s --dry-run",
    "simulate --nodes 2",
)
SHOWS_A_NAME = ("ls --all", "show {failed}", "show {running}", "explain {failed}")


@pytest.mark.parametrize("typed", TYPED)
def test_no_screen_hands_it_to_the_terminal(stack: Stack, runs: tuple[str, str, str], typed: str) -> None:
    failed, waiting, running = runs
    command = f"{TRAINSHED} " + typed.format(failed=failed, waiting=waiting, running=running)
    on_terminal = on_a_terminal(command, stack.environment, stack.state_dir, 100)
    piped = stack.trainshed(*command.split()[1:], code=None)
    assert "Traceback" not in on_terminal
    assert [live for live in LIVE if live in on_terminal + piped.stderr] == [], on_terminal
    as_json = piped.text.startswith("{")  # JSON for programs has what is above 0x1f as it is
    assert [live for live in LIVE[: 3 if as_json else None] if live in piped.text] == [], piped.text
    if typed in SHOWS_A_NAME:
        assert "\\x1b]0;owned" in on_terminal and "[bold red]x[/]" in on_terminal, on_terminal


@pytest.mark.parametrize("typed", ["logs {failed}", "logs --timestamps {failed}", "logs -f {failed}"])
def test_of_output_a_terminal_gets_no_more_than_colours_and_a_pipe_every_byte(
    stack: Stack, runs: tuple[str, str, str], typed: str
) -> None:
    words = typed.format(failed=runs[0])
    on_terminal = on_a_terminal(f"{TRAINSHED} {words}", stack.environment, stack.state_dir, 100)
    assert [live for live in LIVE if live in on_terminal] == [], on_terminal
    assert on_terminal.count(r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202e[bold red]x[/] <script>") >= 2
    assert BAD in stack.trainshed(*words.split()).text


def test_so_does_run(stack: Stack) -> None:
    command = f"{TRAINSHED} run -- {sys.executable} -c {shlex.quote(f'print({BAD!r})')}"
    on_terminal = on_a_terminal(command, stack.environment, stack.state_dir, 100)
    assert [live for live in LIVE if live in on_terminal] == [], on_terminal
    assert r"\x1b]0;owned\x07" in on_terminal
