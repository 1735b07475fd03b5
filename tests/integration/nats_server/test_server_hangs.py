"""nats-server killed or standing still: workers never notice, who follows goes on, who asks hears so in time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from services.cli.main import VERBS
from services.nats_server.monitor import Health, health
from services.nats_server.nats_supervisor import NatsSupervisor
from tests.support import NatsServer, eventually
from tests.support.control import running, stopped
from tests.support.stack import TRAINSHED, Stack, until

NewStack = Callable[..., Stack]
ASKS_NOBODY = {"up", "down", "service", "config", "completion", "schema", "cluster", "user", "login"}
SERVES = {"gateway", "dispatcher", "projector", "agent", "enrol"}
"""They wait for their server, however long that takes."""
ASKING_SERVICES = [("submit", "--", "true"), ("ls",), ("audit", "verify")]
"""One for each way to ask a service that is connected and does not answer."""


def _asking(run: str, node: str) -> list[tuple[str, ...]]:
    """Every verb that asks somebody, as it would be typed."""
    return [
        ("submit", "--", "true"),
        ("submit", "--dry-run", "--", "true"),
        ("run", "--", "true"),
        ("ls",),
        ("show", run),
        ("explain", run),
        ("logs", run),
        ("logs", "-f", run),
        ("metrics", run),
        ("path", run),
        ("artifacts", run),
        ("wait", run),
        ("cancel", run),
        ("retry", run),
        ("slots",),
        ("nodes",),
        ("drain", node),
        ("resume", node),
        ("node", "remove", node),
        ("events",),
        ("events", "-f"),
        ("audit", "verify"),
        ("audit", "accept", "--reason", "none"),
        ("audit", "checkpoint"),
        ("audit", "prove", run),
        ("audit", "at", "1"),
        ("audit", "diff", "1", "2"),
        ("ls", "--at", "1"),
        ("slots", "--at", "-1h"),
        ("simulate",),
        ("prune", "--older-than", "30d"),
    ]


def _all_refused(stack: Stack, commands: Sequence[tuple[str, ...]]) -> None:
    """Each of these, all at once, ends with exit code 3 and says what was wrong and what to type."""
    with ThreadPoolExecutor(len(commands)) as pool:
        ended = list(pool.map(lambda words: stack.trainshed(*words, code=None, within=60.0), commands))
    for words, done in zip(commands, ended, strict=True):
        shown = f"{words}: {done}"
        assert done.code == 3, shown
        error = done.stderr[done.stderr.index("Error: ") :]
        assert "trainshed " in error, shown
        words_alone = error.partition("\nWhat ")[0]  # before what the state folder holds, where that is read
        assert len(words_alone.splitlines()) <= 2, shown
        assert "Traceback" not in done.stderr, shown


def test_every_verb_that_asks_somebody_is_tried() -> None:
    assert {words[0] for words in _asking("r", "n")} | ASKS_NOBODY | SERVES == set(VERBS) - _later()


def _later() -> set[str]:
    """Verbs of other pages: a dashboard serves for itself."""
    return {"dashboard"} & set(VERBS)


def test_who_asks_while_nobody_answers_hears_so_with_exit_code_3(new_stack: NewStack) -> None:
    stack = new_stack()
    run = stack.submit("--", "sleep", "300")
    worker = stack.running(run)["pid"]
    nats, projector = stack.child("nats-server"), stack.child("projector")
    asking = _asking(run, stack.node)
    with _standing(stack.process.pid), _standing(projector):
        _all_refused(stack, ASKING_SERVICES)
        with _standing(nats):
            _all_refused(stack, asking)
        os.kill(nats, signal.SIGKILL)
        _all_refused(stack, [("submit", "--", "true"), ("ls",), ("events", "-f")])
    until(lambda: stack.trainshed("ls", code=None).code == 0, 30)
    # what was answered with 3 may have been done all the same: a cancel that is asked for again is safe
    stack.trainshed("cancel", run)
    (record,) = stack.wait(run, code=125)
    assert (record["pid"], record["attempt"]) == (worker, 1)


def test_what_is_under_way_goes_on_when_the_server_was_killed(new_stack: NewStack, tmp_path: Path) -> None:
    stack = new_stack()
    go = tmp_path / "go"
    shell = f"echo begin; until [ -e {go} ]; do sleep 0.05; done; echo end; exit 3"
    run = stack.submit("--name", "followed", shell=shell)
    worker = stack.running(run)["pid"]
    with contextlib.ExitStack() as following:
        follow = [
            following.enter_context(_following(stack, *words))
            for words in (
                ("events", "-f", "--run", run),
                ("logs", "-f", run),
                ("wait", run),
                ("run", "--new", "--", "/bin/sh", "-c", shell),
            )
        ]
        events, logs, wait, ran = follow
        until(lambda: b"begin" in logs.stdout and b"begin" in ran.stdout and b"started" in events.stdout, 30)
        until(lambda: "RUNNING" in wait.stderr, 30)
        for _ in range(2):
            nats = stack.child("nats-server")
            os.kill(nats, signal.SIGKILL)
            until(lambda: stack.child("nats-server") != nats, 20)  # noqa: B023
            until(lambda: stack.trainshed("ls", code=None).code == 0, 20)
        go.touch()
        assert [one.ended() for one in (logs, wait, ran)] == [0, 3, 3]
        assert logs.stdout == b"begin\nend\n" == ran.stdout
        until(lambda: b"trainshed.run.failed.v1" in events.stdout, 20)
        assert events.poll() is None
        for one in follow:
            assert "Traceback" not in one.stderr
    (record,) = stack.wait(run, code=3)
    assert (record["pid"], record["attempt"]) == (worker, 1)
    assert "Traceback" not in stack.said()


async def test_a_server_that_stands_still_is_ended_and_started_again(nats_server: NatsServer) -> None:
    nc = await nats_server.client()
    keeper = NatsSupervisor(nats_server.embedded, look_every_s=0.1, ask_within_s=0.3)
    async with running(keeper):
        first = nats_server.pid
        assert (await health(nats_server.embedded.monitor_url)).health is Health.OK
        os.kill(first, signal.SIGSTOP)
        await eventually(lambda: nats_server.embedded.pid not in (first, None), 30)
        await eventually(_answers(nc), 30)


async def test_a_server_that_stood_still_for_a_moment_is_left_alone(nats_server: NatsServer) -> None:
    keeper = NatsSupervisor(nats_server.embedded, look_every_s=0.1, ask_within_s=5.0)
    async with running(keeper):
        first = nats_server.pid
        with stopped(first):
            said = await health(nats_server.embedded.monitor_url, within_s=0.2)
            assert said.health is Health.SILENT
        assert (await health(nats_server.embedded.monitor_url)).health is Health.OK
        assert nats_server.pid == first


def _answers(nc: Any) -> Callable[[], Any]:
    async def answers() -> bool:
        try:
            await nc.jetstream(timeout=1).account_info()
        except Exception:  # noqa: BLE001 — whatever it is, it is not an answer yet
            return False
        return True

    return answers


@contextlib.contextmanager
def _standing(pid: int) -> Iterator[None]:
    with stopped(pid), contextlib.suppress(ProcessLookupError):  # it may be killed meanwhile
        yield


class _Follower:
    """A command that goes on while the test does other things."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self._process = process
        self._out = out
        self._err = err

    @property
    def stdout(self) -> bytes:
        """So far."""
        return self._out.read_bytes()

    @property
    def stderr(self) -> str:
        """So far."""
        return self._err.read_text()

    def poll(self) -> int | None:
        """Its exit code once it has ended."""
        return self._process.poll()

    def ended(self) -> int:
        """Wait for its end; its exit code."""
        return self._process.wait(60)


@contextlib.contextmanager
def _following(stack: Stack, *words: str) -> Iterator[_Follower]:
    base = stack.state_dir.with_name(f"{words[0]}.out")
    err = base.with_suffix(".err")
    with base.open("wb") as out, err.open("wb") as errors:
        process = subprocess.Popen(
            [TRAINSHED, *words], env=stack.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=errors
        )
    try:
        yield _Follower(process, base, err)
    finally:
        process.kill()
        process.wait(10)
