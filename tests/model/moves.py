"""All that may happen next in a world, and what is done once nothing goes wrong any more.

Owns the first world, the order of recovery and what a good end is; each move is in the module of who makes it.
"""

from __future__ import annotations

import itertools
from typing import cast

import msgspec

from events.state import Active, FailedStart
from events.types import Submitted
from services.agent.session.values import Name
from tests.model import agent_faults, agents, dispatchers, shims
from tests.model.dispatchers import Moves, as_world
from tests.model.ledger import Ledger
from tests.model.model import Draft, Model
from tests.model.values import Disk, Fold, Heads, Office, Push, World
from tests.support.builders import config as run_config
from trainshed_client.statuses import NodeStatus
from trainshed_client.subjects import Role


def first(model: Model) -> World:
    """Runs submitted, a dispatcher elected, the first machine of each name joined."""
    config = model.config
    of = model.cells.of
    nothing, empty = of(None), of(())
    machines = range(len(config.machines))
    world = World(
        heads=of(Heads()),
        truth=of(Fold()),
        ledger=of(Ledger()),
        wire=empty,
        budget=of(model.budget()),
        disowned=of(frozenset()),
        pushes=tuple(of(Push()) for _ in config.names),
        offices=(nothing, nothing),
        folds=(of(Fold()), of(Fold())),
        agents=tuple(nothing for _ in machines),
        disks=tuple(of(Disk(incarnation)) for _, incarnation in config.machines),
        procs=tuple(empty for _ in machines),
    )
    draft = Draft(model, world)
    for _ in range(config.runs):
        submit(draft)
    world = next(dispatchers.elections(model, as_world(draft)))[1]
    for name in config.names:
        m = next(m for m in machines if config.machines[m][0] == name)
        world = next(agents.starts(model, world, m))[1]
        while True:
            label, world = next(agents.going_on(model, world, m))
            if "NodeJoined" in label:
                break
    return _blamed(model, world) if config.blamed else world


def _blamed(model: Model, world: World) -> World:
    """Each node could not start some runs that are long gone."""
    starts = tuple(FailedStart(f"x{number}", 0, "") for number in range(model.config.blamed))
    truth: Fold = world.truth.value
    nodes = tuple(msgspec.structs.replace(node, failed_starts=starts) for node in truth.nodes)
    cell = model.cells.of(msgspec.structs.replace(truth, nodes=nodes))
    folds = tuple(cell if fold is world.truth else fold for fold in world.folds)
    return world._replace(truth=cell, folds=folds)


def submit(draft: Draft, priority: int = 0) -> str:
    """One run more; its id."""
    truth: Fold = draft.truth.value
    gpus: dict[str, object] = {"requested": draft.model.config.gpus}
    if draft.model.config.shares and not truth.runs and not truth.ended:
        gpus["whole"] = True
    config = run_config(
        resources={"cpus": 1, "gpus": gpus},
        retry={"max_attempts": draft.model.config.tries, "backoff_s": 0},
        priority=priority,
    )
    run_id = f"r{len(truth.runs) + len(truth.ended) + 1}"
    # bytes instead of msgspec.Raw, which has no hash
    draft.store(Role.GATEWAY, Submitted(run_id=run_id, config=cast(msgspec.Raw, bytes(config)), digest=""))
    return run_id


def moves(model: Model, world: World) -> Moves:
    """Everything: what goes on, what users do, and what goes wrong as often as the configuration lets it."""
    yield from going_on(model, world)
    machines = range(len(model.config.machines))
    for m in machines:
        yield from agents.starts(model, world, m)
    if not world.budget.value[0]:
        return
    yield from dispatchers.faults(model, world)
    yield from dispatchers.commands(model, world)
    if model.left(world, "submit"):
        draft = Draft(model, world).spend("submit")
        yield f"{submit(draft, priority=1)} is submitted and comes first", as_world(draft)
    for m in machines:
        yield from shims.faults(model, world, m)
        yield from agent_faults.faults(model, world, m)


def going_on(model: Model, world: World) -> Moves:
    """What happens by itself."""
    machines = range(len(model.config.machines))
    for m in machines:
        yield from shims.going_on(model, world, m)
        yield from shims.exits(model, world, m)
        yield from agents.going_on(model, world, m)
    yield from dispatchers.letters(model, world)
    yield from dispatchers.going_on(model, world)


# --- once nothing goes wrong any more -----------------------------------------------------------------------


def recovery(model: Model, world: World) -> tuple[str, World] | None:
    """The next step to a good end: what goes on by itself, else what people would do. None: there is none."""
    one = next(going_on(model, world), None)
    if one is not None or good(model, world):
        return one
    people = (_electing, _restarting, _removing, _cancelling)
    return next(itertools.chain.from_iterable(each(model, world) for each in people), None)


def good(model: Model, world: World) -> bool:
    """Every run has ended, nothing of it is left, and nobody owes anybody anything."""
    truth: Fold = world.truth.value
    return (
        not truth.runs
        and not any(cell.value for cell in world.procs)
        and not any(node.to_stop for node in truth.nodes if node.status is NodeStatus.UP)
    )


def why_not(world: World) -> str:
    """What is left, in few words."""
    truth: Fold = world.truth.value
    left = [f"{run.run_id} is {run.status} for ever" for run in truth.runs]
    left += [f"a process of {shims.at(proc)} runs for ever" for cell in world.procs for proc in cell.value]
    left += [f"{node.name} is owed Stopping" for node in truth.nodes if node.to_stop]
    return ", ".join(left)


def _electing(model: Model, world: World) -> Moves:
    if all(cell.value is None for cell in world.offices):
        yield from dispatchers.elections(model, world)


def _restarting(model: Model, world: World) -> Moves:
    """An agent is started where its folder may have the name, or where its processes are left."""
    names = dict(world.heads.value.names)
    truth: Fold = world.truth.value
    for m, (node, _) in enumerate(model.config.machines):
        incarnation = world.disks[m].value.incarnation
        name = names.get(node, Name())
        if world.agents[m].value is not None:
            continue
        left = name.left > name.joined and name.left_by == name.joined_by == incarnation
        away = model.config.stays_away and left and not _took_some(truth, node, incarnation)
        own = any(proc.incarnation == incarnation for proc in world.procs[m].value)
        if (_may_have(name, incarnation) and not away) or own:
            yield from itertools.islice(agents.starts(model, world, m), 1)


def _took_some(truth: Fold, name: str, incarnation: str) -> bool:
    """It left with attempts: so it comes back."""
    upto = next((node.left_upto for node in truth.nodes if node.name == name), None)
    return upto is not None and any(
        isinstance(run.phase, Active)
        and any(one.incarnation == incarnation for one in run.phase.placements)
        and run.phase.dispatched_seq <= upto
        for run in truth.runs
    )


def _may_have(name: Name, incarnation: str) -> bool:
    removed = name.removed_of == name.joined_by and name.removed > name.joined
    left = name.left_by == name.joined_by and name.left > name.joined and name.left_empty
    return name.joined_by in (None, incarnation) or removed or left


def _removing(model: Model, world: World) -> Moves:
    """A machine whose folder is no more falls silent, and is then removed."""
    truth: Fold = world.truth.value
    alive = {cell.value.incarnation for cell in world.disks}
    for node in truth.nodes:
        if node.incarnation in alive:
            continue
        for d, cell in enumerate(world.offices):
            office: Office | None = cell.value
            if office is not None and node.status is NodeStatus.UP:
                yield from dispatchers.silences(model, world, d, office, free=True)
        yield from dispatchers.removal(model, world, node.name)


def _cancelling(model: Model, world: World) -> Moves:
    """Workers that never end by themselves are cancelled at last, once."""
    truth: Fold = world.truth.value
    if model.config.hang:
        for run in (run for run in truth.runs if run.run_id not in world.heads.value.cancelled):
            yield from dispatchers.cancel(model, world, run)
