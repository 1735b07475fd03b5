"""examples/node on a real stack: the present, its marker, every change after it, and the log, over a killed server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.node import installed
from tests.support.stack import Stack, marked
from tests.support.stack import until as until_soon

ROOT = Path(__file__).resolve().parents[3]
NewStack = Callable[..., Stack]
KINDS = ("runs", "slots", "nodes", "queue")


until = partial(until_soon, within=30.0)  # each change may have to wait for a server that starts again


class Printed:
    """What a Node program has printed so far."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def lines(self) -> list[str]:
        """Its whole lines."""
        return self.path.read_text().splitlines()

    def having(self, pattern: str) -> list[str]:
        """Those that a pattern matches from their begin on."""
        return [line for line in self.lines if re.match(pattern, line)]


@pytest.fixture(scope="module")
def folder() -> Path:
    return installed(ROOT / "examples" / "node")


@contextmanager
def running(stack: Stack, folder: Path, program: str, *words: str) -> Iterator[Printed]:
    """The program as long as the body; it must not have ended by itself."""
    output = stack.state_dir.with_name(f"{program}.out")
    errors = stack.state_dir.with_name(f"{program}.err")
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(
            ["node", program, *words],
            cwd=folder,
            env=marked(stack.environment, stack.mark),
            stdout=out,
            stderr=err,
        )
    try:
        yield Printed(output)
        assert process.poll() is None, errors.read_text()
    finally:
        process.kill()
        process.wait()


def kill_server(stack: Stack) -> None:
    os.kill(int((stack.state_dir / "nats" / "server.pid").read_text()), signal.SIGKILL)


def test_the_present_comes_then_a_marker_then_every_change(new_stack: NewStack, folder: Path) -> None:
    stack = new_stack()
    holder = stack.submit("--gpus", "2", shell="sleep 100")
    stack.running(holder)
    waiting = stack.submit("--gpus", "1", "--name", "waits", shell="exit 3")
    with running(stack, folder, "watch.mjs") as printed:
        until(lambda: len(printed.having(r"\w+ present$")) == len(KINDS), what="each kind's marker")
        for kind in KINDS:  # the present lies before the marker
            before = printed.lines[: printed.lines.index(f"{kind} present")]
            assert [line for line in before if line.startswith(f"{kind} ")], kind
        begin = printed.lines
        assert f"slots box.0 held by {holder}" in begin
        assert f"slots box.1 held by {holder}" in begin
        assert printed.having(f"runs {holder} RUNNING ")
        until(lambda: printed.having(f"queue queue 1 wait: {waiting}$"))
        stack.trainshed("cancel", holder)
        stack.wait(holder, waiting, code=None)
        until(lambda: printed.having(f"runs {waiting} FAILED "))
        until(lambda: printed.having("queue queue empty$"))
        until(
            lambda: [line for line in printed.lines if line.startswith("slots box.0 ")][-1].endswith(" free")
        )
        assert printed.having(f"runs {holder} CANCELLED ")
        assert len(printed.having(r"\w+ present$")) == len(KINDS)


def test_after_a_restart_of_the_server_only_what_changed_comes(new_stack: NewStack, folder: Path) -> None:
    stack = new_stack()
    done = stack.submit("--name", "done", shell="true")
    stack.wait(done)
    holder = stack.submit("--gpus", "1", shell="sleep 100")
    stack.running(holder)
    with running(stack, folder, "watch.mjs") as printed:
        until(lambda: len(printed.having(r"\w+ present$")) == len(KINDS))
        before = printed.having(f"runs {done} COMPLETED ")
        kill_server(stack)
        later = stack.submit("--name", "later", shell="true")
        stack.wait(later)
        until(lambda: printed.having(f"runs {later} COMPLETED "))
        stack.trainshed("cancel", holder)
        until(lambda: printed.having(f"runs {holder} CANCELLED "))
        assert printed.having(f"runs {done} COMPLETED ") == before, "nothing that did not change comes again"
        assert len(printed.having(r"\w+ present$")) == len(KINDS), "the marker comes once"
        assert printed.having(r"\w+ \S+ gone$") == []
        statuses = [line.split()[2] for line in printed.having(f"runs {holder} ")]
        assert statuses == sorted(statuses, key=["DISPATCHING", "RUNNING", "CANCELLED"].index), (
            "no older record follows a newer one"
        )


def test_events_come_each_once_and_in_order(new_stack: NewStack, folder: Path) -> None:
    stack = new_stack()
    first = stack.submit(shell="true")
    stack.wait(first)
    with running(stack, folder, "events.mjs") as printed:
        until(lambda: printed.having(rf"\d+ \S+ run {first} completed$"))
        kill_server(stack)
        second = stack.submit(shell="true")
        stack.wait(second)
        until(lambda: printed.having(rf"\d+ \S+ run {second} completed$"))
        log = stack.events()
        seqs = [int(line.split()[0]) for line in printed.lines]
        assert seqs == [int(event["sequence"]) for event in log][: len(seqs)]
        assert len(seqs) >= len(log) - 1
    with running(stack, folder, "events.mjs", str(seqs[-1])) as printed:
        third = stack.submit(shell="true")
        until(lambda: printed.having(rf"\d+ \S+ run {third} completed$"))
        assert int(printed.lines[0].split()[0]) == seqs[-1] + 1


def test_bad_use_and_no_stack_are_said_in_a_line(new_stack: NewStack, folder: Path) -> None:
    stack = new_stack(start=False)
    for words, text, code in (
        (["events.mjs", "x"], "usage: node events.mjs [SINCE]", 2),
        (["watch.mjs"], "Start one: trainshed up", 3),
    ):
        ended = subprocess.run(
            ["node", *words], cwd=folder, env=stack.environment, capture_output=True, timeout=30, check=False
        )
        assert (ended.returncode, ended.stderr.count(b"\n")) == (code, 1), ended.stderr
        assert text in ended.stderr.decode()


def test_whatever_the_order_of_arrival_the_newest_is_handed_out_and_nothing_older_after_it(
    folder: Path,
) -> None:
    played = Path(__file__).with_name("played_newest.mjs")
    ended = subprocess.run(
        ["node", played, folder / "trainshed.mjs", "20000"], capture_output=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stderr.decode()
    assert ended.stdout.decode().startswith("played 20000 stories, ")


def test_the_examples_use_fields_that_the_contracts_types_have(folder: Path) -> None:
    compiler = installed() / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run(["node", compiler, "-p", folder], capture_output=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, b"")
