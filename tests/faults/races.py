"""Races of three dispatchers for one slot on a real nats-server: `python -m tests.faults.races [1000]`.

Each has its own connection and fold, each is elected and none heeds that another was since (docs/protocol.md rule 1):
what keeps the slot from being granted twice is the epoch guard alone. Two runs wait for the slot in every race.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from events.codec import StoredEvent
from events.evolve import ended_runs_needed, evolve
from events.log import Conflict, EventLog, Guard
from events.state import Run, State
from events.types import Completed, Dispatched, Elected, Submitted
from services import logging
from services.dispatcher.dispatcher import Dispatcher
from services.dispatcher.election import Epoch
from services.fold import SharedFold
from services.scheduling.scheduler import SCHEDULER
from services.settings import LogLevel
from tests.support.builders import config, needs
from tests.support.control import everything, joined, new_log, running, say
from tests.support.nats import NatsServer
from trainshed_client import subjects
from trainshed_client.subjects import Role

NODE = "gpu01"
DISPATCHERS = 3
PAUSE_S = 0.004


class Result(NamedTuple):
    """What came of the races."""

    races: int
    appended: int
    """Grants that were sent, by whichever of the three."""
    refused: int
    """Of these, refused by the guard."""
    elections: int
    seconds: float


class Contender:
    """One dispatcher that believes it is active from its Elected until its append is answered."""

    def __init__(self, log: EventLog, fold: SharedFold, service: Dispatcher) -> None:
        self.log = log
        self.fold = fold
        self.service = service
        self.appended = self.refused = 0

    async def contend(self, dice: random.Random) -> None:
        """Be elected, fold up to that, decide by the own fold, append under the own epoch."""
        await asyncio.sleep(dice.uniform(0, PAUSE_S))
        epoch = Epoch(await self._stand())
        self.service._decisions.in_flight.clear()
        await self.fold.reached(epoch.seq)
        await asyncio.sleep(dice.uniform(0, PAUSE_S))
        events = self.service._decide(epoch)
        if not events:
            return
        self.appended += 1
        try:
            await self.service._append(events, epoch)
        except Conflict:
            self.refused += 1

    async def _stand(self) -> int:
        event = self.service._writer.new(Elected(name=self.service._election._name, scheduler=SCHEDULER))
        while True:
            seq, _ = await self.log.last_id(subjects.ELECTED)
            with contextlib.suppress(Conflict):
                return (await self.log.append(event, Guard(subjects.ELECTED, seq))).seq


@contextlib.asynccontextmanager
async def contenders(server: NatsServer) -> AsyncIterator[list[Contender]]:
    """Three of them, whose folds run."""
    made: list[Contender] = []
    for number in range(DISPATCHERS):
        log = await new_log(server, f"d{number}")
        fold = SharedFold(log, await log.log_id())
        made.append(Contender(log, fold, Dispatcher(log, fold, who=f"d{number}", node_lost_s=3600.0)))
    async with running(*(one.fold for one in made)):
        for one in made:
            await asyncio.wait_for(one.fold.ready.wait(), 20)
            one.service._decisions.rebuild(one.fold.state)
            one.fold.listen(one.service._folded)
        yield made


async def races(server: NatsServer, number: int, seed: int = 1) -> Result:
    """Run them; fails with AssertionError at the first in which the slot was not granted exactly once."""
    dice = random.Random(seed)
    log = await new_log(server, "races")
    begun = time.monotonic()
    await say(log, Role.AGENT, joined(NODE, slots=1), NODE)
    await _submit(log, 0)
    async with contenders(server) as three, log.follow(1, (subjects.pushed_to(NODE),)) as feed:
        for race in range(1, number + 1):
            await _submit(log, race)
            async with asyncio.TaskGroup() as tasks:
                for one in three:
                    tasks.create_task(one.contend(dice))
            # All have been answered: what will ever be pushed to the node of this race is stored.
            granted: list[str] = []
            async with asyncio.timeout(20):
                while not granted:
                    granted += [message.subject.split(".")[3] for message in await feed.batch()]
            assert len(granted) == 1, f"race {race}: the one slot was granted to {granted}"
            await say(log, Role.AGENT, Completed(run_id=granted[0], attempt=1), NODE)
        seconds = time.monotonic() - begun
        appended = sum(one.appended for one in three)
        refused = sum(one.refused for one in three)
    events = await everything(log)
    _check(events, number)
    elections = sum(isinstance(one.event, Elected) for one in events)
    return Result(number, appended, refused, elections, seconds)


def _check(events: list[StoredEvent], number: int) -> None:
    """The whole log once more: no grant twice, and invariant I2 at every sequence."""
    grants = Counter(one.subject.id for one in events if isinstance(one.event, Dispatched))
    assert len(grants) == number and set(grants.values()) == {1}, grants.most_common(3)
    state = State()
    past: dict[str, Run] = {}
    for one in events:
        wanted = ended_runs_needed(state, one)
        for change in evolve(state, one, {run: past[run] for run in wanted if run in past}).runs:
            past[change.after.run_id] = change.after
        for usage in state.usage.values():
            assert all(len(refs) == 1 for refs in usage.slots.values()), f"seq {one.seq}: a slot held twice"


async def _submit(log: EventLog, number: int) -> None:
    run = config(resources=needs(1))
    await say(log, Role.GATEWAY, Submitted(run_id=f"race{number}", config=run, digest=""))


async def _main(number: int) -> None:
    logging.configure(level=LogLevel.WARNING)
    with tempfile.TemporaryDirectory(prefix="races-") as folder:
        server = NatsServer(Path(folder))
        await server.embedded.start()
        try:
            result = await races(server, number)
        finally:
            await server.close()
    print(
        f"{result.races} races of {DISPATCHERS} dispatchers for one slot in {result.seconds:.1f} s: no double grant; "
        f"{result.elections} elections, {result.appended} grants sent, {result.refused} refused by the guard"
    )


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000))
