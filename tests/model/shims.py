"""Moves of a machine's shims and workers, and of the machine itself: kill, reboot, power cut, wiped folders.

Owns disk and processes; how a shim ends its worker is the project's own `core.step`.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from events.types import AttemptRef
from services.agent.folders.files import ExitFile, ExitReason, StopReason
from services.agent.session.values import StartedWritten
from services.agent.shim import core, core_types, launch
from tests.model.dispatchers import Moves, as_world
from tests.model.model import Draft, Model
from tests.model.values import Disk, Files, Proc, Stage, World
from trainshed_client.statuses import AtFault

NO_FILES = Files(marker=False)


def going_on(model: Model, world: World, m: int) -> Moves:
    """What shims and workers do by themselves, one step each."""
    for place, proc in enumerate(world.procs[m].value):
        draft = Draft(model, world)
        match proc.stage:
            case Stage.COMING:
                yield f"shim {at(proc)} {_take_up(draft, m, place, proc)}", as_world(draft)
            case Stage.LOCKED:
                _exec(draft, m, place, proc)
                yield f"worker {at(proc)} starts", as_world(draft)
                if proc.woken and files(draft, m, proc.ref).stop is not None:
                    yield (
                        f"shim {at(proc)} is stopped before its exec",
                        _ended_before_exec(model, world, m, place),
                    )
            case Stage.UP:
                yield from _supervise(model, world, m, place, proc)
            case Stage.ORPHAN:
                pass  # only a sweep ends what a killed shim's worker left behind


def exits(model: Model, world: World, m: int) -> Moves:
    """Workers that end by themselves, and well."""
    if model.config.hang:
        return
    for place, proc in enumerate(world.procs[m].value):
        if _running(proc):
            draft = Draft(model, world)
            _step(draft, m, place, core_types.WorkerExited(0.0, 0, None))
            yield f"worker {at(proc)} exits with 0", as_world(draft)


def faults(model: Model, world: World, m: int) -> Moves:
    """Failing workers, killed shims, and what happens to the machine."""
    for place, proc in enumerate(world.procs[m].value):
        if _running(proc) and model.left(world, "fail"):
            draft = Draft(model, world)
            _step(draft, m, place, core_types.WorkerExited(0.0, 1, None))
            yield f"worker {at(proc)} exits with 1", as_world(draft.spend("fail"))
        if _running(proc) and model.left(world, "memory"):
            draft = Draft(model, world)
            _step(draft, m, place, core_types.WorkerExited(0.0, None, core.SIGKILL, ""))
            yield f"worker {at(proc)} is ended for want of memory", as_world(draft.spend("memory"))
        if proc.stage is Stage.LOCKED and model.left(world, "spawn"):
            for at_fault in (launch.RUN, launch.NODE):
                draft = Draft(model, world)
                _replace(draft, m, place, replace(proc, shim=core_types.ShimState(core_types.Limits())))
                _step(draft, m, place, core_types.ExecFailed(0.0, "", at_fault))
                yield f"worker {at(proc)} cannot be started ({at_fault})", as_world(draft.spend("spawn"))
        if proc.stage is not Stage.ORPHAN and model.left(world, "kill"):
            yield from _kill(model, world, m, place, proc)
    yield from _machine(model, world, m)


def at(proc: Proc) -> str:
    """Which attempt, in words."""
    return f"{proc.ref.run_id}.{proc.ref.attempt}"


# --- disk ----------------------------------------------------------------------------------------------------


def files(draft: Draft, m: int, ref: AttemptRef) -> Files:
    """What the attempt's folder holds; nothing where there is none."""
    return dict(draft.disk(m).files).get(ref, NO_FILES)


def write(draft: Draft, m: int, ref: AttemptRef, **fields: Any) -> None:
    """Write files of the attempt's folder, which is made where there is none."""
    disk = draft.disk(m)
    kept = dict(disk.files)
    kept[ref] = replace(kept.get(ref, NO_FILES), **fields)
    draft.set_disk(m, replace(disk, files=tuple(sorted(kept.items(), key=lambda item: str(item[0])))))


def make_anew(draft: Draft, m: int, proc: Proc) -> None:
    """A live shim makes what has vanished of its folder."""
    there = files(draft, m, proc.ref)
    if not there.started:
        write(draft, m, proc.ref, started=True, intent=there.intent or 1, slots=proc.slots)


def remove_folder(draft: Draft, m: int, ref: AttemptRef) -> None:
    """As if the attempt had never been."""
    disk = draft.disk(m)
    draft.set_disk(m, replace(disk, files=tuple(item for item in disk.files if item[0] != ref)))


# --- a shim's life -------------------------------------------------------------------------------------------


def _take_up(draft: Draft, m: int, place: int, proc: Proc) -> str:
    """Lock, then look (docs/protocol.md rule 9)."""
    code = draft.model.code
    has_folder = proc.ref in dict(draft.disk(m).files)
    if not has_folder and code.makes_folder:
        write(draft, m, proc.ref, intent=1, slots=proc.slots)
        has_folder = True
    there = files(draft, m, proc.ref)
    held = code.lock and holder(draft, m, proc.ref) is not None
    stands = there.exit is not None or there.started or there.stop is not None
    if not has_folder or held or (stands and code.looks) or not there.intent:
        _replace(draft, m, place)
        return "leaves"
    _replace(draft, m, place, replace(proc, stage=Stage.LOCKED))
    return "has the lock"


def _exec(draft: Draft, m: int, place: int, proc: Proc) -> None:
    if proc.ref in dict(draft.disk(m).files):
        write(draft, m, proc.ref, started=True)
    shim, _ = draft.model.code.core_step(
        core_types.ShimState(core_types.Limits(grace_s=1.0)), core_types.Released(0.0, 0)
    )
    _replace(draft, m, place, replace(proc, stage=Stage.UP, shim=shim, woken=False))
    if proc.woken:
        _ask_stop(draft, m, place)
    agent = draft.agent(m)
    if agent is not None and proc.ref in agent.watched:
        state, actions = draft.model.code.step(agent.state, StartedWritten(proc.ref))
        draft.set_agent(m, replace(agent, state=state, tasks=(*agent.tasks, *actions)))


def _ended_before_exec(model: Model, world: World, m: int, place: int) -> World:
    """What hung on its way to exec is ended; its shim leaves the end to the agent."""
    draft = Draft(model, world)
    shim = core_types.ShimState(core_types.Limits(grace_s=1.0))
    for event in (core_types.StopAsked(0.0, "cancel"), core_types.EndedBeforeExec()):
        shim, actions = model.code.core_step(shim, event)
        assert not any(isinstance(action, core_types.WriteExit) for action in actions)
    assert shim.phase is core_types.ShimPhase.GONE
    _replace(draft, m, place)
    return as_world(draft)


def _supervise(model: Model, world: World, m: int, place: int, proc: Proc) -> Moves:
    shim = proc.shim
    assert shim is not None
    draft = Draft(model, world)
    if shim.worker_gone_at is not None:
        _step(draft, m, place, core_types.TreeGone(0.0))
        yield f"tree of {at(proc)} is gone", as_world(draft)
    elif shim.phase is core_types.ShimPhase.ENDING:
        # With its grace over it is killed: either way the shim sees it go.
        if model.config.hang:
            _step(draft, m, place, core_types.Tick(shim.due or 0.0))
        _step(draft, m, place, core_types.WorkerExited(0.0, None, 9 if model.config.hang else 15))
        yield f"worker {at(proc)} is ended", as_world(draft)


def _running(proc: Proc) -> bool:
    return proc.stage is Stage.UP and proc.shim is not None and proc.shim.worker_gone_at is None


def _step(draft: Draft, m: int, place: int, event: core_types.Input) -> None:
    proc = draft.of_procs(m)[place]
    assert proc.shim is not None
    shim, actions = draft.model.code.core_step(proc.shim, event)
    for action in actions:
        if isinstance(action, core_types.WriteExit):
            write(draft, m, proc.ref, exit=_record(action))  # what has vanished it makes anew
            live = not isinstance(event, core_types.TreeGone | core_types.ExecFailed)
            _replace(draft, m, place, replace(proc, stage=Stage.ORPHAN, shim=None) if live else None)
            return
    _replace(draft, m, place, replace(proc, shim=shim))


def _record(end: core_types.WriteExit) -> ExitFile:
    return ExitFile(
        exit_code=end.exit_code,
        signal=end.signal,
        reason=ExitReason(end.reason.value),
        stop_reason=StopReason(end.stop_reason) if end.stop_reason is not None else None,
        at_fault=AtFault(end.at_fault) if end.at_fault is not None else None,
        ended_at=0.0,
    )


def wake(draft: Draft, m: int, ref: AttemptRef) -> None:
    """The signal on which a shim reads stop.json; one that comes up has it once its worker runs."""
    for place, proc in enumerate(draft.of_procs(m)):
        if proc.ref == ref and proc.stage in (Stage.COMING, Stage.LOCKED):
            _replace(draft, m, place, replace(proc, woken=True))
        elif proc.ref == ref and proc.stage is Stage.UP:
            _ask_stop(draft, m, place)


def _ask_stop(draft: Draft, m: int, place: int) -> None:
    stop = files(draft, m, draft.of_procs(m)[place].ref).stop
    if stop is not None:
        _step(draft, m, place, core_types.StopAsked(0.0, stop.value))


def _replace(draft: Draft, m: int, place: int, proc: Proc | None = None) -> None:
    procs = list(draft.of_procs(m))
    procs[place : place + 1] = [] if proc is None else [proc]
    draft.set_procs(m, tuple(procs))


# --- what the agent does to them -------------------------------------------------------------------------------


def holder(draft: Draft, m: int, ref: AttemptRef) -> Proc | None:
    """The shim that holds the attempt's lock."""
    for proc in draft.of_procs(m):
        if proc.ref == ref and proc.stage in (Stage.LOCKED, Stage.UP):
            return proc
    return None


def sweep(draft: Draft, m: int, keep: frozenset[AttemptRef], watched: frozenset[AttemptRef]) -> None:
    """End every process of no kept attempt, and shims that come up for an agent that is gone."""
    draft.set_procs(
        m,
        tuple(
            proc
            for proc in draft.of_procs(m)
            if proc.ref in keep and (proc.stage is not Stage.COMING or proc.ref in watched)
        ),
    )


def bury(draft: Draft, m: int, ref: AttemptRef, reason: ExitReason) -> None:
    """With the lock: end what is left of the tree, and write exit.json where none stands."""
    there = files(draft, m, ref)
    if there.exit is not None:
        return
    if draft.model.code.buries_trees:
        left = (p for p in draft.of_procs(m) if not (p.ref == ref and p.stage is Stage.ORPHAN))
        draft.set_procs(m, tuple(left))
    write(draft, m, ref, exit=ExitFile(reason=reason, stop_reason=there.stop, ended_at=0.0))


# --- faults --------------------------------------------------------------------------------------------------


def _kill(model: Model, world: World, m: int, place: int, proc: Proc) -> Moves:
    draft = Draft(model, world).spend("kill")
    live = proc.stage is Stage.UP
    _replace(draft, m, place, replace(proc, stage=Stage.ORPHAN, shim=None, woken=False) if live else None)
    yield f"shim {at(proc)} is killed", as_world(draft)
    if proc.stage is Stage.LOCKED:
        write(draft, m, proc.ref, started=True)
        yield f"shim {at(proc)} is killed before exec", as_world(draft)


def _vanish(model: Model, world: World, m: int, ref: AttemptRef, there: Files) -> Moves:
    """A cleaner of temporary folders: what stands in the attempt's folder, without or with the marker beside it."""
    for marker in dict.fromkeys((there.marker, False)):
        draft = Draft(model, world).spend("vanish")
        remove_folder(draft, m, ref)
        if marker:
            write(draft, m, ref, marker=True)
        yield f"the folder of {ref.run_id}.{ref.attempt} vanishes", as_world(draft)


def _machine(model: Model, world: World, m: int) -> Moves:
    disk: Disk = world.disks[m].value
    who = disk.incarnation
    if model.left(world, "vanish"):
        for ref, there in disk.files:
            yield from _vanish(model, world, m, ref, there)
    if not disk.files and world.agents[m].value is None:
        return
    if model.left(world, "reboot"):
        yield f"{who} reboots", as_world(_off(Draft(model, world), m).spend("reboot"))
        draft = _off(Draft(model, world), m)
        lost = tuple(item for item in disk.files if item[1].exit is not None)
        if lost != disk.files:
            draft.set_disk(m, replace(disk, files=lost))
            yield f"{who} loses its power, and what was not synced", as_world(draft.spend("reboot"))
    if world.agents[m].value is not None:
        return
    if model.left(world, "wipe") and disk.files:
        draft = Draft(model, world).spend("wipe")
        draft.set_disk(m, Disk(who))
        yield f"the attempts of {who} are wiped", as_world(draft)
    if model.left(world, "new disk"):
        draft = Draft(model, world).spend("new disk")
        draft.set_disk(m, Disk(f"{who}'"))
        yield f"{who} gets a new state folder", as_world(draft)


def _off(draft: Draft, m: int) -> Draft:
    draft.set_agent(m, None)
    draft.set_procs(m, ())
    return draft
