"""One round: a fresh cluster, a while of runs and faults, then everything healed and everything checked.

Owns the order of things in a round and what it found; prints nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.faults import checks
from tests.faults.cluster import NODES, Cluster
from tests.faults.faults import Injector
from tests.faults.follower import Follower
from tests.faults.kinds import LANES, Kind
from tests.faults.ledger import Violation
from tests.faults.workload import Workload
from tests.support.deadline import eventually
from tests.support.wire import Wire

LOOK_EVERY_S = 1.0
START_WITHIN_S = 60.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a round is: everything that is chosen is chosen from `seed`."""

    seed: int
    seconds: float
    kinds: tuple[Kind, ...]
    small_disk: bool = False
    dispatchers: int | None = None
    lanes: int = LANES
    bug: str | None = None
    still_s: float = checks.STILL_S
    keep: bool = False
    """Keep the folder also where nothing was found."""
    words: str = ""
    """What else the command line needs to play it again."""


class Result(msgspec.Struct, kw_only=True):
    """What a round did and found. ``folder`` is kept where there are violations."""

    plan: Plan
    folder: Path
    seconds: float = 0.0
    violations: list[Violation] = []
    tries: Counter[str] = msgspec.field(default_factory=Counter)
    checked: Counter[str] = msgspec.field(default_factory=Counter)
    runs: Counter[str] = msgspec.field(default_factory=Counter)
    points: Counter[str] = msgspec.field(default_factory=Counter)
    notes: Counter[str] = msgspec.field(default_factory=Counter)
    broken: str | None = None
    """Why the round itself could not go on; no verdict on Trainshed."""


async def play(plan: Plan, say: Callable[[str], None], parent: Path | None = None) -> Result:
    """Play one round. Whatever breaks in it, the violations found so far are in the result."""
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=parent))
    result = Result(plan=plan, folder=folder)
    began = time.monotonic()
    rng = random.Random(f"cluster/{plan.seed}")
    dispatchers = plan.dispatchers or rng.choice((2, 3))
    lines: list[str] = []

    def told(what: str) -> None:
        lines.append(f"{time.monotonic() - began:6.1f} s  {what}")
        say(what)

    cluster = Cluster(folder, dispatchers=dispatchers, small_disk=plan.small_disk, bug=plan.bug)
    try:
        await cluster.start()
        wire = await asyncio.to_thread(Wire, cluster.endpoint)
        try:
            await _play(plan, cluster, result, told)
        finally:
            result.violations += await asyncio.to_thread(checks.on_the_wire, wire)
            result.checked["messages compared (contract)"] += len(wire.heard)
    except Exception:  # noqa: BLE001 (whatever fails in the suite itself loses no violation)
        result.broken = traceback.format_exc()
    finally:
        await cluster.close()
    result.violations = _once(result.violations)
    for part in cluster.parts:
        for how in part.own_ends:
            result.notes[f"{part.role} ended by itself: {how}"] += 1
    for what, why in cluster.skipped.items():
        result.notes[f"no {what}: {why}"] += 1
    result.seconds = time.monotonic() - began
    if not (result.violations or result.broken or plan.keep):
        cluster.delete()
    else:
        lines += [f"{each.invariant} at {each.seq}: {each.what}" for each in result.violations]
        (folder / "round.txt").write_text("\n".join([*lines, result.broken or "", ""]))
    return result


async def _play(plan: Plan, cluster: Cluster, result: Result, say: Callable[[str], None]) -> None:
    follower = Follower()
    workload = Workload(cluster, follower, random.Random(f"runs/{plan.seed}"), f"seed-{plan.seed}")
    injector = Injector(cluster, follower, f"faults/{plan.seed}", list(plan.kinds), say)
    stop = asyncio.Event()
    following = asyncio.create_task(follower.run(cluster.endpoint))
    try:
        await eventually(lambda: len(follower.story.state.nodes) == len(NODES), START_WITHIN_S)
        async with asyncio.TaskGroup() as acting:
            acting.create_task(workload.run(stop))
            acting.create_task(injector.run(stop, plan.lanes))
            looking = acting.create_task(_look(cluster, follower, result))
            await asyncio.wait({following}, timeout=plan.seconds)
            stop.set()
            if following.done():
                following.result()
            looking.cancel()
        say("healed; waiting for every run to end")
        result.violations += await checks.everything_ends(follower, workload.acknowledged, plan.still_s)
        await _check_at_rest(cluster, follower, workload, result)
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        result.tries += Counter({str(kind): count for kind, count in injector.tries.items()})
        result.points += injector.points
        result.runs += workload.kinds
        result.checked["runs acknowledged (I1)"] += len(workload.acknowledged)
        result.checked["grants (I2)"] += follower.ledger.grants
        result.checked["workers started (I3)"] += checks.started_workers(cluster.witness)
        result.checked["attempts ended (I5)"] += len(follower.ledger.ended)
        result.checked["events acknowledged (I6)"] += len(workload.acks)
        result.notes += workload.refused
        result.violations += checks.in_the_log(follower) + checks.witnesses(cluster.witness)
        if result.violations:
            follower.dump(cluster.root / "events.txt")


async def _look(cluster: Cluster, follower: Follower, result: Result) -> None:
    """Along the way: what the log, the workers and /proc say now."""
    while True:
        ended = set(follower.ledger.told_ended)
        result.violations += await asyncio.to_thread(checks.left_behind, cluster, ended)
        await asyncio.sleep(LOOK_EVERY_S)


async def _check_at_rest(cluster: Cluster, follower: Follower, workload: Workload, result: Result) -> None:
    replayed = await checks.replayed(follower)
    result.violations += replayed.violations
    result.checked["replays compared (I4)"] += 1
    found, moments = await checks.past(follower, random.Random(len(follower.messages)))
    result.violations += found
    result.checked["moments compared (I4)"] += moments
    found, cosignatures = await checks.cosigned(follower)
    result.violations += found
    result.checked["cosignatures compared (I8)"] += cosignatures
    result.checked["attempts' files compared (I10)"] += replayed.compared
    ended = follower.ledger.ended | set(follower.ledger.live)
    result.violations += checks.witnesses(cluster.witness, ended)
    result.violations += await asyncio.to_thread(checks.at_rest, cluster)
    result.violations += await checks.acknowledged(follower, workload.acks)
    result.violations += await asyncio.to_thread(checks.secret_kept, cluster, follower.messages)
    result.checked["files searched (I7)"] += sum(each.is_file() for each in cluster.root.rglob("*"))


def _once(violations: list[Violation]) -> list[Violation]:
    return list(dict.fromkeys(violations))
