"""The stream of mixed runs: submitted, submitted again, cancelled and retried, by seeded choice.

Owns what is asked of the cluster and every answer it gave; checks nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.cluster import NODES, Cluster
from tests.faults.follower import Follower
from tests.faults.pause import within
from trainshed_client import Trainshed
from trainshed_client.errors import ErrorCode, TrainshedError

WORKER = Path(__file__).with_name("worker.py")
LIVE_AT_ONCE = 14
LIMIT_S = 4.0
KINDS = {
    "plain": 6,
    "talks": 2,
    "long": 2,
    "two slots": 3,
    "no slot": 2,
    "fails": 3,
    "crashes": 2,
    "hangs": 2,
    "silent": 2,
    "ignores": 2,
    "forks": 4,
    "forks, two slots": 1,
    "secret": 2,
    "no such file": 1,
}
"""Kinds of runs and how often each is taken."""


class Ack(NamedTuple):
    """An answer that said: this event is stored."""

    call: str
    run_id: str
    seq: int
    created: bool | None = None


class Workload:
    """Asks for runs until told to stop. ``acks`` is every answer; ``lost`` counts calls that got none."""

    def __init__(self, cluster: Cluster, follower: Follower, rng: random.Random, name: str) -> None:
        self.acks: list[Ack] = []
        self.lost = 0
        self.refused: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self._cluster = cluster
        self._follower = follower
        self._rng = rng
        self._name = name
        self._number = 0
        self._answered: list[str] = []

    @property
    def acknowledged(self) -> set[str]:
        """Runs whose submission was acknowledged."""
        return {ack.run_id for ack in self.acks if ack.call == "submit"}

    async def run(self, stop: asyncio.Event) -> None:
        """Ask until `stop`; then what is under way is asked until it is answered."""
        server = self._cluster.endpoint
        url = f"nats://{server.user}:{server.password}@{server.url.removeprefix('nats://')}"
        under_way: set[asyncio.Task[None]] = set()
        async with (
            await Trainshed.connect(url, on_error=lambda _: None) as trainshed,
            asyncio.TaskGroup() as asking,
        ):
            while not stop.is_set():
                if max(len(self._follower.story.state.runs), len(under_way)) < LIVE_AT_ONCE:
                    life = asking.create_task(self._life(trainshed, self._next(), stop))
                    under_way.add(life)
                    life.add_done_callback(under_way.discard)
                await asyncio.sleep(self._rng.uniform(0.05, 0.5))

    # --- one run's life, as its user has it -----------------------------------------------------------------

    async def _life(self, trainshed: Trainshed, config: dict[str, Any], stop: asyncio.Event) -> None:
        rng = random.Random(self._rng.random())
        run_id = await self._submit(trainshed, config)
        if run_id is None:
            return
        if rng.random() < 0.2:  # the same again, twice at once
            async with asyncio.TaskGroup() as both:
                both.create_task(self._submit(trainshed, config))
                both.create_task(self._submit(trainshed, config))
        if rng.random() < 0.25:
            await asyncio.sleep(rng.uniform(0.0, 3.0))
            await self._command(trainshed, "cancel", run_id)
        if rng.random() < 0.15:
            await asyncio.sleep(rng.uniform(0.5, 4.0))
            if not stop.is_set():
                await self._command(trainshed, "retry", run_id)

    async def _submit(self, trainshed: Trainshed, config: dict[str, Any]) -> str | None:
        while True:
            try:
                answer = await trainshed.submit(config)
            except TrainshedError as error:
                if error.code is not ErrorCode.UNAVAILABLE:
                    self.refused[f"submit: {error.message[:80]}"] += 1
                    return None
                self.lost += 1
                await asyncio.sleep(0.3)
                continue
            self.acks.append(Ack("submit", answer.run_id, answer.seq, answer.created))
            self._answered.append(answer.run_id)
            return answer.run_id

    async def _command(self, trainshed: Trainshed, call: str, run_id: str) -> None:
        for _ in range(20):
            try:
                answer = await (trainshed.cancel(run_id) if call == "cancel" else trainshed.retry(run_id))
            except TrainshedError as error:
                if error.code is ErrorCode.UNAVAILABLE:
                    self.lost += 1
                    await asyncio.sleep(0.3)
                    continue
                if error.code is not ErrorCode.CONFLICT:  # a retry of what has not ended
                    self.refused[f"{call}: {error.message[:80]}"] += 1
                return
            self.acks.append(Ack(call, answer.run_id, answer.seq))
            return

    async def _drain_and_resume(self, trainshed: Trainshed, stop: asyncio.Event) -> None:
        rng = random.Random(self._rng.random())
        while not await within(stop, rng.uniform(4.0, 15.0)):
            node = rng.choice(NODES)
            if await self._node(trainshed.drain, node):
                await within(stop, rng.uniform(0.5, 4.0))
            await self._node(trainshed.resume, node)

    async def _node(self, call: Callable[[str], Awaitable[object]], node: str) -> bool:
        """One command on a node, until it is answered; False where it is refused."""
        while True:
            try:
                await call(node)
            except TrainshedError as error:
                if error.code is not ErrorCode.UNAVAILABLE:
                    return False  # its machine is gone
                self.lost += 1
                await asyncio.sleep(0.3)
            else:
                return True

    # --- configs ----------------------------------------------------------------------------------------------

    def _next(self) -> dict[str, Any]:
        kind = self._rng.choices(list(KINDS), list(KINDS.values()))[0]
        self.kinds[kind] += 1
        self._number += 1
        return self._config(kind)

    def _config(self, kind: str) -> dict[str, Any]:
        rng, slots, limit, behaviour = self._rng, 1, None, kind
        seconds = rng.uniform(0.0, 1.5)
        config: dict[str, Any] = {}
        match kind:
            case "long":
                behaviour, seconds = "plain", rng.uniform(4.0, 9.0)
            case "two slots":
                behaviour, slots = "plain", 2
            case "no slot":
                behaviour, slots = "plain", 0
            case "forks, two slots":
                behaviour, slots = "forks", 2
            case "hangs" | "ignores":
                limit = LIMIT_S
            case "silent":
                behaviour = "hangs"
                config["heartbeat"] = {"source": "notify", "timeout_s": 3}
            case "secret":
                config["secrets"] = {"FAULTS_SECRET": {"file": str(self._cluster.secret_file)}}
        if self._answered and rng.random() < 0.1:
            config["after"] = [rng.choice(self._answered[-5:])]
        environment = {"FAULTS_WITNESS": str(self._cluster.witness)}
        if kind == "secret":
            environment["FAULTS_SECRET_SHA256"] = hashlib.sha256(self._cluster.secret.encode()).hexdigest()
        entry_point = "/no/such/file" if kind == "no such file" else sys.executable
        return {
            **config,
            "run_name": f"{kind.replace(' ', '-').replace(',', '')}-{self._number}",
            "entry_point": entry_point,
            "arguments": ["-I", "-S", str(WORKER), behaviour, f"{seconds:.2f}"],
            "environment": environment,
            "resources": {"gpus": {"requested": slots, "mandatory": True}},
            "schedule": {"max_duration_seconds": limit if limit is not None else 60.0},
            "retry": {"max_attempts": rng.choice((1, 2, 4)), "backoff_s": rng.choice((0, 0.5))},
            "stop": {"grace_s": 0.5},
            "submission_key": f"{self._name}-{self._number}",
        }
