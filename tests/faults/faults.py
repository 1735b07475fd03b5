"""The faults: what is done to a cluster, for how long, and how it is healed. Chosen by seed.

Owns their schedule and each one's doing and healing; checks nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from services import failpoints
from tests.faults import launch, processes
from tests.faults.cluster import NODES, Cluster, Part, Role
from tests.faults.follower import Follower
from tests.faults.kinds import DISK, WEIGHTS, Kind
from tests.faults.pause import within
from tests.faults.points import POINTS
from tests.faults.proxy import Way
from trainshed_client import Trainshed
from trainshed_client.errors import TrainshedError


class Injector:
    """Injects faults into one cluster until told to stop, and heals each. ``tries`` counts what really happened."""

    def __init__(
        self,
        cluster: Cluster,
        follower: Follower,
        seed: str,
        kinds: list[Kind],
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.tries: Counter[Kind] = Counter()
        self._cluster = cluster
        self._follower = follower
        self._seed = seed
        self._kinds = [kind for kind in kinds if kind not in DISK or cluster.disks]
        self._say = say
        self._busy: set[str] = set()
        self._armed = 0
        self.points: Counter[str] = Counter()

    async def run(self, stop: asyncio.Event, lanes: int) -> None:
        """Until `stop`: each lane one fault after the other, so that several meet."""
        async with asyncio.TaskGroup() as group:
            for lane in range(lanes):
                group.create_task(self._lane(random.Random(f"{self._seed}/{lane}"), stop))

    async def _lane(self, rng: random.Random, stop: asyncio.Event) -> None:
        while not await within(stop, rng.uniform(0.3, 2.5)):
            kind = rng.choices(self._kinds, [WEIGHTS[each] for each in self._kinds])[0]
            if await self._inject(kind, random.Random(rng.random()), stop):
                self.tries[kind] += 1

    async def _inject(self, kind: Kind, rng: random.Random, stop: asyncio.Event) -> bool:
        cluster = self._cluster
        match kind:
            case Kind.KILL_SERVER:
                return self._kill(kind, cluster.server)
            case Kind.KILL_GATEWAY:
                return self._kill(kind, cluster.of(Role.GATEWAY)[0])
            case Kind.KILL_PROJECTOR:
                return self._kill(kind, cluster.of(Role.PROJECTOR)[0])
            case Kind.KILL_ACTIVE | Kind.KILL_STANDBY:
                active, others = self._dispatchers()
                chosen = active if kind is Kind.KILL_ACTIVE else others
                return bool(chosen) and self._kill(kind, rng.choice(chosen))
            case Kind.KILL_AGENT:
                return self._kill(kind, rng.choice(cluster.of(Role.AGENT)))
            case Kind.KILL_SHIM | Kind.KILL_SPAWNER | Kind.KILL_WORKER | Kind.STOP_SHIM:
                return await self._process(kind, rng, stop)
            case Kind.KILL_AGENT_AND_SHIMS:
                return self._agent_and_shims(kind, rng)
            case Kind.AWAY_AGENT:
                return await self._away(kind, rng, stop)
            case Kind.TERM:
                return self._kill(kind, rng.choice(cluster.services), signal.SIGTERM)
            case Kind.STOP_SERVER:
                return await self._stopped(kind, cluster.server, rng.uniform(0.5, 4.0), stop)
            case Kind.STOP_ACTIVE:
                active, _ = self._dispatchers()
                return bool(active) and await self._stopped(kind, active[0], rng.uniform(2.0, 6.0), stop)
            case Kind.STOP_SERVICE:
                part = rng.choice([each for each in cluster.services if each.role is not Role.AGENT])
                return await self._stopped(kind, part, rng.uniform(0.5, 6.0), stop)
            case Kind.STOP_AGENT:
                part = rng.choice(cluster.of(Role.AGENT))
                return await self._stopped(kind, part, rng.uniform(7.5, 13.0), stop)
            case Kind.CUT | Kind.HOLD_UP | Kind.HOLD_DOWN | Kind.SLOW:
                return await self._partition(kind, rng, stop)
            case Kind.DISK_AGENT | Kind.DISK_PROJECTOR | Kind.DISK_SERVER:
                return await self._disk(kind, rng, stop)
            case Kind.CLOCK:
                return await self._clock(kind, rng, stop)
            case Kind.FAILPOINT | Kind.FAILPOINT_STOP:
                return await self._failpoint(kind, rng, stop)
            case Kind.MACHINE:
                return await self._machine(kind, rng, stop)

    # --- processes --------------------------------------------------------------------------------------------

    def _kill(self, kind: Kind, part: Part, number: signal.Signals = signal.SIGKILL) -> bool:
        self._say(f"{kind}: {part.name}")
        return part.kill(number)

    def _dispatchers(self) -> tuple[list[Part], list[Part]]:
        """The active one (by its own log), and the others."""
        name = self._follower.ledger.elected.encode()
        active: list[Part] = []
        others: list[Part] = []
        for each in self._cluster.of(Role.DISPATCHER):
            with contextlib.suppress(OSError):
                is_it = bool(name) and name in each.log.read_bytes()[-200_000:]
                (active if is_it else others).append(each)
        return active, others

    async def _process(self, kind: Kind, rng: random.Random, stop: asyncio.Event) -> bool:
        agents = {each.pid for each in self._cluster.of(Role.AGENT)}
        found = []
        for each in self._cluster.marked():
            if kind is Kind.KILL_WORKER:
                fits = each.attempt is not None
            elif kind is Kind.KILL_SPAWNER:
                fits = each.parent in agents and each.attempt is None
            else:
                fits = each.is_shim
            if fits:
                found.append(each)
        if not found:
            return False
        chosen = rng.choice(sorted(found))
        self._say(f"{kind}: pid {chosen.pid} {chosen.attempt or chosen.cwd}")
        if kind is not Kind.STOP_SHIM:
            return processes.send(chosen, signal.SIGKILL)
        if not processes.send(chosen, signal.SIGSTOP):
            return False
        try:
            await within(stop, rng.uniform(0.5, 6.0))
        finally:
            processes.send(chosen, signal.SIGCONT)
        return True

    def _agent_and_shims(self, kind: Kind, rng: random.Random) -> bool:
        part = rng.choice(self._cluster.of(Role.AGENT))
        shims = [each for each in self._cluster.marked() if each.is_shim and part.folder in each.cwd.parents]
        self._say(f"{kind}: {part.name}, {len(shims)} shims")
        if not part.kill():
            return False
        return sum(processes.send(shim, signal.SIGKILL) for shim in shims) > 0

    async def _away(self, kind: Kind, rng: random.Random, stop: asyncio.Event) -> bool:
        part = rng.choice(self._cluster.of(Role.AGENT))
        if part.name in self._busy:
            return False
        self._busy.add(part.name)
        part.hold()
        try:
            if not self._kill(kind, part):
                return False
            await within(stop, rng.uniform(1.0, 10.0))
            return True
        finally:
            part.release()
            self._busy.discard(part.name)

    async def _stopped(self, kind: Kind, part: Part, seconds: float, stop: asyncio.Event) -> bool:
        pid = part.pid
        if pid is None or part.name in self._busy:
            return False
        self._say(f"{kind}: {part.name} for {seconds:.1f} s")
        self._busy.add(part.name)
        try:
            if not part.kill(signal.SIGSTOP):
                return False
            await within(stop, seconds)
        finally:
            if part.pid == pid:
                part.kill(signal.SIGCONT)
            self._busy.discard(part.name)
        return True

    async def _failpoint(self, kind: Kind, rng: random.Random, stop: asyncio.Event) -> bool:
        """Start a service again with one point armed, which strikes once; True if it did while we waited."""
        every = [name for name, point in POINTS.items() if not point.by_hand]
        points = [name for name in every if kind is Kind.FAILPOINT or not name.startswith("shim.")]
        name = rng.choice(points)
        point = POINTS[name]
        if point.role is Role.DISPATCHER:
            active, others = self._dispatchers()
            choice = others or active
        else:
            active, choice = [], list(self._cluster.of(point.role))
        part = rng.choice(choice) if choice else None
        if part is None or part.name in self._busy:
            return False
        self._busy.add(part.name)
        self._armed += 1
        folder = self._cluster.root / "failpoints" / str(self._armed)
        folder.mkdir(parents=True)
        struck = folder / name
        action = "kill" if kind is Kind.FAILPOINT else "stop"
        hit = 1 if point.first_only else rng.randint(1, 4)
        part.more |= {failpoints.ARMED: f"{name}={action}@{hit}", failpoints.ONCE_IN: str(folder)}
        try:
            part.kill()
            if await within(stop, 2.5):
                return False
            if active and active[0] is not part:
                active[0].kill()  # so that the armed one, or a third, follows it
            if point.by_term:
                part.kill(signal.SIGTERM)
            for _ in range(60):
                if struck.exists() or await within(stop, 0.1):
                    break
            happened = struck.exists()
            if happened:
                self.points[name] += 1
                part.asked = part.asked or not name.startswith("shim.")
                self._say(f"{kind}: {part.name} at {name}, hit {hit}")
                if kind is Kind.FAILPOINT_STOP:
                    await within(stop, rng.uniform(0.5, 6.0))
            return happened
        finally:
            with contextlib.suppress(FileExistsError):
                struck.touch(exist_ok=False)  # from here on it is passed
            del part.more[failpoints.ARMED], part.more[failpoints.ONCE_IN]
            part.kill(signal.SIGCONT)
            self._busy.discard(part.name)

    async def _machine(self, kind: Kind, rng: random.Random, stop: asyncio.Event) -> bool:
        """A machine is off for ever: everything on it is killed, the node is removed, another one takes its name."""
        node = rng.choice(NODES)
        (part,) = [each for each in self._cluster.of(Role.AGENT) if each.name == f"agent-{node}"]
        if part.name in self._busy:
            return False
        self._say(f"{kind}: {node}")
        self._busy.add(part.name)
        part.hold()
        try:
            part.kill()
            for _ in range(20):
                on_it = [e for e in self._cluster.marked() if e.variables.get("TRAINSHED_NODE") == node]
                if sum(processes.send(each, signal.SIGKILL) for each in on_it) == 0:
                    break
                await asyncio.sleep(0.02)
            if not await self._removed(node, stop):
                return False
            for each in part.folder.iterdir():
                shutil.rmtree(each) if each.is_dir() else each.unlink()
            return True
        finally:
            part.release()
            self._busy.discard(part.name)

    async def _removed(self, node: str, stop: asyncio.Event) -> bool:
        """Remove the node as soon as it counts as lost; False where that did not happen in time."""
        server = self._cluster.endpoint
        url = f"nats://{server.user}:{server.password}@{server.url.removeprefix('nats://')}"
        try:
            connecting = Trainshed.connect(url, on_error=lambda _: None)
            async with await connecting as trainshed, asyncio.timeout(40):
                while True:
                    try:
                        await trainshed.remove_node(node)
                    except TrainshedError:
                        if await within(stop, 0.5):
                            return False
                    else:
                        return True
        except (TrainshedError, TimeoutError):
            return False

    # --- the way between, disks, clocks -----------------------------------------------------------------------

    async def _partition(self, kind: Kind, rng: random.Random, stop: asyncio.Event) -> bool:
        node = rng.choice(NODES)
        if f"proxy-{node}" in self._busy:
            return False
        ways = {
            Kind.CUT: Way.CUT,
            Kind.HOLD_UP: Way.HOLD_UP,
            Kind.HOLD_DOWN: Way.HOLD_DOWN,
            Kind.SLOW: Way.SLOW,
        }
        seconds, lost = rng.uniform(0.5, 9.0), rng.random() < 0.5
        self._say(f"{kind}: {node} for {seconds:.1f} s{', then lost' if lost else ''}")
        proxy = self._cluster.proxies[node]
        self._busy.add(f"proxy-{node}")
        try:
            proxy.turn(ways[kind])
            await within(stop, seconds)
            if lost:
                await proxy.drop()
        finally:
            proxy.turn(Way.PASS)
            self._busy.discard(f"proxy-{node}")
        return True

    async def _disk(self, kind: Kind, rng: random.Random, stop: asyncio.Event) -> bool:
        roles = {Kind.DISK_AGENT: Role.AGENT, Kind.DISK_PROJECTOR: Role.PROJECTOR}
        role = roles.get(kind, Role.SERVER)
        parts = [each for each in self._cluster.parts if each.role is role]
        disks = [each.folder for each in parts if each.folder in self._cluster.disks]
        if not disks or kind in self._busy:
            return False
        ballast = rng.choice(disks) / "ballast"
        seconds = rng.uniform(1.0, 6.0)
        self._say(f"{kind}: {ballast.parent.name} for {seconds:.1f} s")
        self._busy.add(kind)
        try:
            _fill(ballast)
            await within(stop, seconds)
        finally:
            ballast.unlink(missing_ok=True)
            self._busy.discard(kind)
        return True

    async def _clock(self, kind: Kind, rng: random.Random, stop: asyncio.Event) -> bool:
        part = rng.choice(self._cluster.services)
        if part.name in self._busy or part.role is Role.PROJECTOR:
            return False
        offset = rng.choice((-86_400, -3_600, -20, 20, 3_600, 86_400))
        self._say(f"{kind}: {part.name} by {offset} s")
        self._busy.add(part.name)
        part.more[launch.CLOCK_OFFSET] = str(offset)
        try:
            if not part.kill():
                return False
            await within(stop, rng.uniform(3.0, 10.0))
        finally:
            del part.more[launch.CLOCK_OFFSET]
            part.kill()
            self._busy.discard(part.name)
        return True


def _fill(path: Path) -> None:
    """Write until nothing more fits."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(fd, b"\0" * size)
    finally:
        os.close(fd)
