"""A stack on three servers under load, whose log's leader is killed again and again; then everything is checked.

Owns processes, load, kills and what they showed; how a page of the docs sets it up is tests/support/three_servers.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import secrets
import shutil
import sys
import time
from pathlib import Path

import msgspec

from tests.faults import checks, launch, processes
from tests.faults.cluster import Role, Service
from tests.faults.follower import Follower
from tests.faults.ledger import Violation
from tests.faults.processes import MARK
from tests.faults.workload import Ack
from tests.support.deadline import eventually
from tests.support.stack import clean_environment
from tests.support.three_servers import ServiceLine, ThreeServers, operator_stem, page_services
from trainshed_client import Trainshed
from trainshed_client.errors import ErrorCode, TrainshedError
from trainshed_client.nats_client import SafeClient
from trainshed_client.nats_connection import NatsConnection
from trainshed_client.records import RunRecord

HAS = ("--gpus", "2", "--cpus", "4", "--memory", "4096")
NODES = 2
AT_ONCE = 4
"""Submissions under way."""
LIVE = 12
"""So many runs live at most."""
AFTER_KILL_S = 2.0
"""Acknowledgements must have come for so long before the next kill."""


class Kill(msgspec.Struct, kw_only=True):
    """One kill of a leader: the longest time without an acknowledgement around it."""

    server: str
    at: float
    without_s: float = 0.0
    elected_s: float = 0.0
    unanswered: int = 0
    """Submissions whose answer never came, as the person's or the gateway's own server was the one."""


class Outcome(msgspec.Struct, kw_only=True):
    """What a play showed."""

    kills: list[Kill] = []
    violations: list[Violation] = []
    runs: int = 0
    lost_calls: int = 0
    refused: list[str] = []
    own_ends: list[str] = []
    missed: list[str] = []
    """Runs whose end a watcher was not handed out."""
    late: list[str] = []
    verified: str = ""


class ThreeServersLab:
    """Everything under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mark = secrets.token_hex(8)
        self.servers = ThreeServers(root / "three")
        self.services: list[Service] = []
        self.follower = Follower()
        self.outcome = Outcome()
        self.acks: list[Ack] = []
        self.acked_at: list[float] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._number = 0

    async def start(self) -> None:
        """Servers, streams and services; returns once both nodes are there."""
        await self.servers.make()
        await self.servers.start()
        await self.servers.make_streams()
        for number, line in enumerate(page_services()):
            if line.words != ("ls",):
                self._add(f"{number}-{line.stem}", line)
        self._tasks += [asyncio.create_task(service.keep()) for service in self.services]
        self._tasks.append(asyncio.create_task(self.follower.run(self.servers.endpoint("projector"))))
        await eventually(lambda: len(self.follower.story.state.nodes) == NODES, 40.0)

    def _add(self, name: str, line: ServiceLine) -> None:
        folder = self.root / name
        folder.mkdir()
        if line.words[0] in ("gateway", "projector"):
            (folder / "cluster").mkdir()
            shutil.copy(self.servers.folder / "cluster" / "roster.json", folder / "cluster")
        words = (*line.words, *HAS) if line.words[0] == "agent" else line.words
        environment = clean_environment(
            folder,
            {
                MARK: self.mark,
                "TRAINSHED_WORKER_ENV": MARK,
                "TRAINSHED_CREDENTIALS": str(self.servers.credentials(line.stem)),
                "TRAINSHED_REPLICAS": line.replicas,
                "TRAINSHED_LOG_FORMAT": "json",
                "TRAINSHED_MIN_FREE_MB": "0",
                "PYTHONPATH": f"{launch.ROOT}:{launch.ROOT}/client",
            },
        )
        self.services.append(Service(name, Role(line.words[0]), folder, words, environment))

    async def person(self, stem: str) -> tuple[Trainshed, SafeClient]:
        """A person's client."""
        nc = await self.servers.client(stem)
        return Trainshed(NatsConnection(nc, "three servers")), nc

    async def play(self, kills: int) -> Outcome:
        """Submit, kill the leader so often, heal, check."""
        operator = await self.servers.client(operator_stem())
        sam, _ = await self.person("user-sam")
        ann, _ = await self.person("user-ann")
        ended: set[str] = set()
        stop = asyncio.Event()
        watching = asyncio.create_task(_watch(ann, ended))
        logged: set[int] = set()
        reading = asyncio.create_task(_read(ann, logged))
        async with asyncio.TaskGroup() as asking:
            for _ in range(AT_ONCE):
                asking.create_task(self._ask(sam, stop))
            for _ in range(kills):
                await self._kill_leader(operator)
            stop.set()
        out = self.outcome
        acknowledged = {ack.run_id for ack in self.acks}
        out.runs = len(acknowledged)
        out.violations += await checks.everything_ends(self.follower, acknowledged)
        out.violations += checks.in_the_log(self.follower)
        out.violations += await checks.acknowledged(self.follower, self.acks)
        out.own_ends = [f"{each.name}: {how}" for each in self.services for how in each.own_ends]
        with contextlib.suppress(AssertionError):
            await eventually(lambda: acknowledged <= ended, 20.0)
        with contextlib.suppress(AssertionError):
            await eventually(lambda: self.follower.messages.keys() <= logged, 20.0)
        out.missed = sorted(acknowledged - ended)
        out.missed += [f"event {seq}" for seq in sorted(self.follower.messages.keys() - logged)]
        for task in (watching, reading):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        out.verified = await self._verify()
        return out

    async def _kill_leader(self, operator: SafeClient) -> None:
        await self.servers.whole(operator)
        begin = len(self.acked_at)
        await eventually(lambda: len(self.acked_at) >= begin + 10, 60.0)
        leader = await self.servers.leader(operator)
        at, lost = time.monotonic(), self.outcome.lost_calls
        kill = Kill(server=leader, at=at)
        await self.servers.kill(leader)
        while await self.servers.leader(operator) == leader:
            await asyncio.sleep(0.05)
        kill.elected_s = time.monotonic() - at
        await eventually(lambda: bool(self.acked_at) and self.acked_at[-1] > at + 1.0, 60.0)
        await self.servers.start(leader)
        await asyncio.sleep(AFTER_KILL_S)
        times = [one for one in self.acked_at if one > at - 1.0]
        kill.without_s = max((later - one for one, later in itertools.pairwise(times)), default=float("inf"))
        kill.unanswered = self.outcome.lost_calls - lost
        self.outcome.kills.append(kill)

    async def _ask(self, sam: Trainshed, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if len(self.follower.story.state.runs) >= LIVE:
                await asyncio.sleep(0.02)
                continue
            self._number += 1
            config = {
                "run_name": f"short-{self._number}",
                "entry_point": "/bin/true",
                "resources": {"gpus": {"requested": 1, "mandatory": True}},
                "submission_key": f"three-{self._number}",
            }
            while True:
                try:
                    answer = await sam.submit(config)
                except TrainshedError as error:
                    if error.code is not ErrorCode.UNAVAILABLE:
                        self.outcome.refused.append(error.message)
                        break
                    self.outcome.lost_calls += 1
                    await asyncio.sleep(0.1)
                    continue
                self.acks.append(Ack("submit", answer.run_id, answer.seq, answer.created))
                self.acked_at.append(time.monotonic())
                break

    async def _verify(self) -> str:
        environment = clean_environment(
            self.root / "sam", {"TRAINSHED_CREDENTIALS": str(self.servers.credentials("user-sam"))}
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.cli", "audit", "verify", "--json", "--decisions"),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            answer, said = await process.communicate()
        if process.returncode == 0:
            return "ok"
        return f"exit {process.returncode}: {answer.decode()[-2000:]} {said.decode()[-2000:]}"

    async def close(self) -> None:
        """End everything."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.to_thread(processes.end_all, self.mark)
        await self.servers.close()

    def delete(self) -> None:
        """Delete what it has written."""
        shutil.rmtree(self.root, ignore_errors=True)


async def _watch(ann: Trainshed, ended: set[str]) -> None:
    async with ann.watch_runs() as records:
        async for record in records:
            if isinstance(record, RunRecord) and record.status.ended:
                ended.add(record.run_id)


async def _read(ann: Trainshed, logged: set[int]) -> None:
    async with ann.events() as events:
        async for event in events:
            logged.add(event.seq)


def summary(outcome: Outcome) -> str:
    """What it showed, for people."""
    lines = [
        json.dumps(
            {
                "killed": kill.server,
                "s without an acknowledgement": round(kill.without_s, 2),
                "s to another leader": round(kill.elected_s, 2),
                "calls unanswered": kill.unanswered,
            }
        )
        for kill in outcome.kills
    ]
    gaps = sorted(kill.without_s for kill in outcome.kills)
    if gaps:
        middle = (gaps[(len(gaps) - 1) // 2] + gaps[len(gaps) // 2]) / 2
        lines.append(
            f"{len(gaps)} kills: without an acknowledgement {middle:.1f} s (median), {gaps[0]:.1f} to {gaps[-1]:.1f} s"
        )
    lines.append(
        f"{outcome.runs} runs acknowledged, {outcome.lost_calls} calls unanswered; verify: {outcome.verified}"
    )
    lines += [str(violation) for violation in outcome.violations]
    lines += [f"refused: {each}" for each in outcome.refused] + [
        f"ended by itself: {each}" for each in outcome.own_ends
    ]
    lines += [f"a watcher missed {each}" for each in outcome.missed[:20]]
    return "\n".join(lines)
