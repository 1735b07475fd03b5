"""Whoever waits for a service that starts, rebuilds or hangs is told so; a projector that hangs is started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from bench.log_maker import LogMaker
from events.streams import ensure_streams
from services import failpoints
from services.fold import SharedFold
from services.gateway.gateway import Gateway
from services.observe.observe import Observer
from services.projector import backlog
from services.projector import service as projector_service
from services.up.child_process import ChildProcess
from tests.support import NatsServer, eventually
from tests.support.control import gateway, new_log, running
from tests.support.stack import TRAINSHED, Stack, alive, clean_environment
from tests.support.stored_log import ask, projecting, store
from trainshed_client import Trainshed
from trainshed_client.endpoint import write_credentials
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.fold_progress import FoldProgress
from trainshed_client.nats_client import SafeClient
from trainshed_client.nats_connection import NatsConnection

RUNS = 1_500
CONFIG = {"entry_point": "/bin/true", "run_name": "one more"}
NewStack = Callable[..., Stack]


async def long_log(nc: SafeClient) -> list[str]:
    """A log that a slow reader needs a while for; the runs in it."""
    await ensure_streams(nc)
    made = LogMaker()
    made.elect()
    made.join()
    runs = [made.submit({"entry_point": "/bin/true", "run_name": f"run-{n}"}) for n in range(RUNS)]
    await store(nc, made.messages)
    return runs


def slow(monkeypatch: pytest.MonkeyPatch, point: str, milliseconds: int) -> None:
    monkeypatch.setitem(failpoints._armed, point, (None, milliseconds))


async def test_a_reader_during_a_rebuild_is_answered_at_once_with_how_far_it_is(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nc = await nats_server.client()
    runs = await long_log(nc)
    slow(monkeypatch, "projector.batch", 3_000)
    monkeypatch.setattr(projector_service, "BATCH", 100)
    monkeypatch.setattr(backlog, "FEW", 10)

    async with projecting(await nats_server.client(), tmp_path / "t.db") as service:
        reached = service._position.reached

        async def nobody_waits(seq: int) -> None:
            assert seq == 1, "a reader waits for what takes long"
            await reached(seq)

        monkeypatch.setattr(service._position, "reached", nobody_waits)
        nothing = (await ask(nc, "run.list"))["error"]
        assert nothing["code"] == "unavailable"
        assert nothing["progress"] == {"folded": 0, "events": RUNS + 2}
        assert f"nothing to show yet: 0 % of {RUNS + 2:,} events" in nothing["message"]

        await eventually(lambda: service.position >= 100)
        page = await ask(nc, "run.list")
        assert page["stale"] is True
        assert 100 <= page["progress"]["folded"] < page["progress"]["events"] == RUNS + 2
        assert page["runs"]
        later = (await ask(nc, "run.get", {"run_id": runs[-1]}))["error"]  # perhaps there is one
        assert (later["code"], later["progress"]["events"]) == ("unavailable", RUNS + 2)
        assert (await ask(nc, "health"))["ok"] is False
        behind = await Trainshed(NatsConnection(nc, "here")).behind()
        assert behind is not None
        assert behind.events == RUNS + 2
        hasty = Trainshed(NatsConnection(nc, "here"))
        with pytest.raises(TrainshedError, match="no run 'run-1499' is known yet") as refused:
            await hasty.resolve("run-1499")
        assert refused.value.code is ErrorCode.UNAVAILABLE
        heard: list[tuple[str, str | None]] = []
        waiting = Trainshed(
            NatsConnection(nc, "here"), on_waiting=lambda *what: heard.append(what), patient=True
        )
        resolving = asyncio.create_task(waiting.resolve("run-1499"))
        await eventually(lambda: bool(heard))

        monkeypatch.delitem(failpoints._armed, "projector.batch")
        monkeypatch.delattr(service._position, "reached")
        await eventually(lambda: service.position == RUNS + 2)
        fresh = await ask(nc, "run.get", {"run_id": runs[-1]})
        assert fresh["run"]["run_id"] == runs[-1]
        assert "stale" not in fresh
        assert (await resolving).run_id == runs[-1]
        assert {service for service, _ in heard} == {"the projector"}
        with pytest.raises(TrainshedError, match="nosuch") as refused:
            await waiting.resolve("nosuch")
        assert refused.value.code is ErrorCode.NOT_FOUND


async def test_a_gateway_that_folds_a_long_log_says_how_far_it_is_and_is_waited_for(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    nc = await nats_server.client()
    await long_log(nc)
    slow(monkeypatch, "fold.turn", 1_000)
    log = await new_log(nats_server, "gateway")
    fold = SharedFold(log, await log.log_id())
    service = Gateway(log, fold)
    heard: list[tuple[str, str | None]] = []
    async with running(fold, service):
        hasty = Trainshed(NatsConnection(nc, "here"))
        with pytest.raises(TrainshedError, match="Nothing was done; ask again") as refused:
            await hasty.call("run.submit", CONFIG, timeout=1.2)
        assert refused.value.code is ErrorCode.UNAVAILABLE
        starting = (await ask(nc, "run.submit", CONFIG))["error"]
        assert starting["code"] == "unavailable"
        assert not service.ready.is_set()
        progress = FoldProgress(**starting["progress"])
        assert (progress.events, starting["message"]) == (RUNS + 2, f"starting: {progress.text}")
        patient = Trainshed(NatsConnection(nc, "here"), on_waiting=lambda *what: heard.append(what))
        submitted = await patient.submit(CONFIG)
        assert submitted.created
        assert submitted.seq == RUNS + 3
    (*waiting, last) = heard
    assert last == ("the gateway", None)
    assert waiting
    assert all(service == "the gateway" and why and "starting: " in why for service, why in waiting)


async def test_a_gateway_that_starts_beside_another_takes_no_request_away_and_health_pages_say_how_far_it_is(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    async with gateway(nats_server):
        await long_log(nc)
        slow(monkeypatch, "fold.turn", 1_000)
        log = await new_log(nats_server, "second")
        fold = SharedFold(log, await log.log_id())
        second = Gateway(log, fold)
        watching = Observer("dispatcher", None)
        watching.connection(log.nc)
        watching.fold(fold)
        watching.services([fold])
        async with running(fold, second):
            await eventually(lambda: fold.progress is not None and fold.progress.folded > 0)
            (lacking,) = watching.lacking()
            assert lacking.startswith("fold is not ready (starting: ")
            assert lacking.endswith(f" of {RUNS + 2:,} events)")
            for number in range(10):
                answer = await ask(nc, "run.check", {**CONFIG, "submission_key": str(number)})
                assert answer.get("new") is True, answer
            assert not second.ready.is_set()
            monkeypatch.delitem(failpoints._armed, "fold.turn")
            await eventually(second.ready.is_set, 20)
            assert watching.lacking() == []


@contextlib.asynccontextmanager
async def projector_of(
    server: NatsServer, state_dir: Path, more: dict[str, str] | None = None
) -> AsyncIterator[ChildProcess]:
    """The projector's process as `up` keeps it, looked at often."""
    environment = clean_environment(state_dir, more)
    credentials = state_dir.with_name("projector.json")
    write_credentials(credentials, server.endpoint)
    service = ChildProcess(
        "projector",
        ("projector", "--records"),
        credentials,
        environment,
        look_every_s=0.1,
        answer_within_s=0.5,
    )
    async with running(service):
        await asyncio.wait_for(service.ready.wait(), 20)
        yield service


async def test_a_projector_that_hangs_is_killed_and_started_again(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    nc = await nats_server.client()
    await ensure_streams(nc)
    async with projector_of(nats_server, tmp_path / "state") as service:
        hung = service.pid
        assert hung is not None
        os.kill(hung, signal.SIGSTOP)
        await eventually(lambda: service.pid not in (None, hung), 20)
        assert not alive(hung)

        async def answers() -> bool:
            try:
                return bool((await ask(nc, "health"))["ok"])
            except Exception:  # noqa: BLE001 — nobody answers yet
                return False

        await eventually(answers, 20)


async def test_a_projector_that_rebuilds_is_left_alone(nats_server: NatsServer, tmp_path: Path) -> None:
    nc = await nats_server.client()
    await long_log(nc)
    rebuilding = {failpoints.ARMED: "projector.batch=slow@4000"}  # longer than a hung one lives
    async with projector_of(nats_server, tmp_path / "state", rebuilding) as service:
        pid = service.pid

        async def built() -> bool:
            return bool((await ask(nc, "health"))["ok"])

        await eventually(built, 60)
        assert service.pid == pid


def test_who_follows_beside_a_projector_that_hangs_is_told_and_goes_on_when_it_is_replaced(
    new_stack: NewStack,
) -> None:
    stack = new_stack()
    sleeping = stack.submit("--", "sleep", "8")
    stack.running(sleeping)
    verbs: dict[str, tuple[str, ...]] = {
        "run": ("run", "--new", "--", "echo", "hello"),
        "wait": ("wait", sleeping),
        "logs": ("logs", "-f", sleeping),
        "in time": ("wait", "--timeout", "5s", "sleep"),
        "submit": ("submit", "--after", "sleep", "--", "true"),
    }
    early = _start(stack, ("run", "--new", "--", "sh", "-c", "echo begun; sleep 5; echo done"))
    assert early.stdout.readline() == "begun\n"  # it asks for nothing any more, and hears of changes alone
    os.kill(stack.child("projector"), signal.SIGSTOP)
    started = {name: _start(stack, words) for name, words in verbs.items()} | {"early": early}
    ended = {name: one.communicate(timeout=60) for name, one in started.items()}
    codes = {name: one.returncode for name, one in started.items()}
    for name, (_, errors) in ended.items():
        assert "the projector: no answer for 3 s; waiting" in errors, (name, errors)
    assert codes["early"] == codes["run"] == codes["logs"] == 0, ended
    assert ended["early"][0] == "done\n"
    assert ended["run"][0] == "hello\n"
    assert "the projector answers again" in ended["run"][1]
    assert codes["wait"] == 0, ended
    assert (codes["in time"], ended["in time"][0]) == (124, ""), ended
    assert codes["submit"] == 3, ended
    assert "the projector at nats://" in ended["submit"][1]
    stack.trainshed("ls")


def _start(stack: Stack, words: tuple[str, ...]) -> Any:
    return subprocess.Popen(
        [TRAINSHED, *words],
        env=stack.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
