"""`trainshed prune` on a stack: which runs go, what is told of them afterwards, and that the log keeps everything."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from bench.log_maker import LogMaker
from events.feed import ApiError, api_call
from events.streams import ensure_streams
from events.types import RetryRequested
from services.api import ApiServer, Call
from services.projector.service import ProjectorService
from services.requests import PruneRequest
from tests.support import NatsServer
from tests.support.stack import Done, Stack, clean_environment, run_trainshed, until
from tests.support.stored_log import projecting, store
from trainshed_client import subjects
from trainshed_client.answers import Pruned, PruneKept
from trainshed_client.endpoint import discover
from trainshed_client.nats_client import SafeClient, connect


def test_folders_go_the_log_stays_and_logs_says_when_they_went(stack: Stack) -> None:
    run = stack.submit(
        "--name", "old", shell='echo out; head -c 100000 /dev/zero > "$TRAINSHED_RUN_DIR/ckpt"'
    )
    stack.wait(run)
    live = stack.submit("--name", "live", shell='touch "$TRAINSHED_RUN_DIR/ckpt"; sleep 60')
    stack.running(live)
    until((stack.run_dir(live) / "ckpt").exists)

    assert (
        "nothing is left of runs that ended before" in stack.trainshed("prune", "--older-than", "30d").stderr
    )
    dry = stack.trainshed("prune", "--older-than", "0s", "--dry-run", json=True)
    (node,) = dry["nodes"]
    assert (dry["dry_run"], dry["runs"], node["node"], node["runs"]) == (True, 1, "box", [run])
    assert dry["bytes"] == node["bytes"] > 100_000
    assert (stack.run_dir(run) / "ckpt").exists()
    before = stack.events()

    done = stack.trainshed("prune", "--older-than", "0s")
    assert [line.split()[:2] for line in done.lines] == [["NODE", "RUNS"], ["box", "1"]]
    assert not stack.run_dir(run).exists()
    assert (stack.run_dir(live) / "ckpt").exists()
    assert stack.events() == before
    gone = stack.trainshed("logs", run, code=4)
    assert gone.stderr.startswith(f"Error: on box: the output of attempt 1 of run {run} was deleted at 20")
    assert gone.stderr.endswith(" UTC by `trainshed prune`\n")
    assert stack.record(run)["status"] == "COMPLETED"
    assert stack.trainshed("audit", "verify", json=True)["ok"] is True

    stack.trainshed("retry", run)
    until(lambda: stack.record(run)["status"] == "COMPLETED" and stack.record(run)["attempt"] == 2)
    assert stack.trainshed("logs", run).text == "out\n"
    stack.trainshed("cancel", live)
    stack.wait(live, code=125)


def test_rule_9_a_consumer_made_anew_after_the_pruning_has_nothing_launched_again(stack: Stack) -> None:
    """Somebody deletes the node's consumer; the dispatcher makes it again from the node's join."""
    marks = stack.state_dir / "launches"
    run = stack.submit("--name", "once", shell=f"echo x >> {marks}")
    stack.wait(run)
    stack.trainshed("prune", "--older-than", "0s")

    async def make_anew() -> None:
        nc = await connect(stack.unconfined(), name="test")
        try:
            name = f"{subjects.EVENTS_STREAM}.{stack.node}"
            created = (await api_call(nc, f"CONSUMER.INFO.{name}"))["created"]
            await api_call(nc, f"CONSUMER.DELETE.{name}")
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(ApiError):  # not made yet
                        info = await api_call(nc, f"CONSUMER.INFO.{name}")
                        if info["created"] != created and not info["num_pending"] + info["num_ack_pending"]:
                            return
                    await asyncio.sleep(0.02)
        finally:
            await nc.close()

    asyncio.run(make_anew())
    stack.wait(stack.submit("--name", "after", "--", "true"))
    assert marks.read_text() == "x\n"
    words = [event["type"].split(".")[2] for event in stack.events(run)]
    assert words == ["submitted", "dispatched", "started", "completed"]


def test_without_an_age_nothing_is_deleted_and_an_age_that_is_none_is_named(stack: Stack) -> None:
    assert "--older-than" in stack.trainshed("prune", code=2).stderr
    assert "write seconds" in stack.trainshed("prune", "--older-than", "soon", code=2).stderr
    assert "before any run" in stack.trainshed("prune", "--older-than", "99999999d", code=2).stderr


def test_nodes_tells_how_much_room_there_is(stack: Stack) -> None:
    until(lambda: stack.trainshed("nodes", json=True)["nodes"][0]["disk_free_mb"], 20.0)
    heading, row = stack.trainshed("nodes").lines
    assert "DISK FREE" in heading
    assert " GB " in row or " TB " in row or " MB " in row


@pytest.mark.parametrize("time", ["yesterday", "2026-11-24T08:17:40"])
def test_a_time_that_is_none_is_refused_by_its_field(stack: Stack, time: str) -> None:
    async def ask() -> dict[str, object]:
        nc = await connect(discover(state_dir=stack.state_dir), name="test")
        try:
            answer = await nc.request(
                subjects.api("run.list"), json.dumps({"ended_before": time}).encode(), timeout=5
            )
            error: dict[str, object] = json.loads(answer.data)["error"]
            return error
        finally:
            await nc.close()

    error = asyncio.run(ask())
    assert (error["code"], error["path"]) == ("invalid", "ended_before")


class Asked:
    """A made-up log with two ended runs, a real projector, and a node's agent, played by the test."""

    def __init__(self, server: NatsServer, nc: SafeClient, projector: ProjectorService) -> None:
        self.projector = projector
        self.requests: list[list[str]] = []
        """The runs of each request that the agent was sent."""
        self.on_request: Callable[[], Awaitable[None]] | None = None
        self._server = server
        self._nc = nc
        self._made = LogMaker()
        self._stored = 0
        self._made.elect()
        self._made.join()
        self.runs = [self._ended(), self._ended()]

    def _ended(self) -> str:
        run_id = self._made.submit()
        self._made.dispatch(run_id)
        self._made.start(run_id)
        self._made.complete(run_id)
        return run_id

    async def store(self) -> None:
        await store(self._nc, self._made.messages[self._stored :])
        self._stored = len(self._made.messages)

    async def retry(self, run_id: str) -> None:
        self._made.by_gateway(RetryRequested(run_id=run_id, attempt=1))
        await self.store()

    async def answer(self, call: Call) -> Pruned:
        """As an agent that takes long for each run."""
        runs = [run["run_id"] for run in call.fields(PruneRequest)["runs"]]
        if runs:
            self.requests.append(runs)
            if self.on_request is not None:
                await self.on_request()
        kept = [] if runs else [PruneKept(run_id=self.runs[0], reason="still to delete: /x")]
        return Pruned(node="gpu01", handled=len(runs[:1]), runs=runs[:1], bytes=1, kept=kept)

    async def prune(self, *words: str, code: int = 0) -> Done:
        endpoint = self._server.endpoint
        environment = clean_environment(
            self._server.state_dir,
            {
                "NATS_URL": endpoint.url,
                "TRAINSHED_NATS_USER": endpoint.user or "",
                "TRAINSHED_NATS_PASSWORD": endpoint.password or "",
            },
        )
        return await asyncio.to_thread(
            lambda: run_trainshed(
                "prune", "--older-than", "0s", *words, environment=environment, code=code, within=60
            )
        )


@pytest.fixture
async def asked(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Asked]:
    nc = await nats_server.client()
    await ensure_streams(nc)
    async with projecting(await nats_server.client(), tmp_path / "t.db") as projector:
        one = Asked(nats_server, nc, projector)
        await one.store()
        async with ApiServer(nc, "agent", {"node.gpu01.prune": one.answer}, max_bytes=1 << 17):
            yield one


async def test_nothing_is_deleted_by_a_read_model_that_is_behind(asked: Asked) -> None:
    async with asked.projector._writing.turn:  # as a commit that takes long
        await asked.retry(asked.runs[0])
        said = await asked.prune(code=3)
        assert "the read side is behind the event log" in said.stderr
        assert "ask again later" in said.stderr
        assert asked.requests == []
    await asked.prune()
    assert {run for runs in asked.requests[-1:] for run in runs} == {asked.runs[1]}


async def test_a_run_that_is_tried_again_before_its_turn_comes_is_kept(asked: Asked) -> None:
    async def retry_the_second() -> None:
        asked.on_request = None
        await asked.retry(asked.requests[0][1])

    asked.on_request = retry_the_second
    done = (await asked.prune("--json")).json
    assert [len(runs) for runs in asked.requests] == [2]
    assert done["nodes"][0]["runs"] == asked.requests[0][:1]
    assert done["nodes"][0]["kept"] == [{"run_id": asked.runs[0], "reason": "still to delete: /x"}]


async def test_a_read_model_that_falls_behind_meanwhile_leaves_the_rest(asked: Asked) -> None:
    held = contextlib.AsyncExitStack()

    async def fall_behind() -> None:
        asked.on_request = None
        await held.enter_async_context(asked.projector._writing.turn)
        await asked.retry(asked.requests[0][1])

    asked.on_request = fall_behind
    async with held:
        done = (await asked.prune("--json", code=3)).json
    assert [len(runs) for runs in asked.requests] == [2]
    assert done["nodes"][0]["runs"] == asked.requests[0][:1]
    assert "the read side is behind" in done["nodes"][0]["error"]
