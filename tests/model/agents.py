"""Moves of the agents: what each process of `machine.step`'s actions does on disk, to shims and in the log.

Owns the shell around the session (`session.shell`, `attempts` and `workers` in small); every decision is `machine.step`'s.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from events.types import (
    AttemptEnd,
    AttemptRef,
    Device,
    Dispatched,
    NodeJoined,
    NodeLeft,
    NodeLost,
    Started,
    Stopping,
)
from services.agent.folders.files import ExitFile, ExitReason, StopReason
from services.agent.machine.inventory import slots_of
from services.agent.reports.ends import end_of
from services.agent.session.values import (
    WRITES,
    Ack,
    Action,
    AppendEnd,
    AppendJoined,
    AppendLeft,
    AppendStarted,
    Begun,
    CountedLost,
    EndStored,
    ExitWritten,
    Finalise,
    Finish,
    FoldersPrepared,
    Forget,
    Found,
    Granted,
    Input,
    Joined,
    JoinRefused,
    Launch,
    LeaveStored,
    Name,
    NameRead,
    OnDisk,
    PrepareFolders,
    ReadName,
    Refuse,
    SessionPhase,
    SessionState,
    ShimAlive,
    ShimLost,
    StopOrdered,
    Sweep,
    Swept,
    WakeShim,
    WriteFolder,
    WriteGrant,
    WriteStop,
)
from tests.model import shims
from tests.model.dispatchers import Moves, as_world, short
from tests.model.model import ENDS, Draft, Model
from tests.model.values import Agent, Files, Fold, Proc, Push, Stage, World
from trainshed_client.statuses import AtFault
from trainshed_client.subjects import Role

_HAS_JOINED = frozenset(
    {SessionPhase.JOINED, SessionPhase.LEAVING, SessionPhase.RECLAIMING, SessionPhase.LEAVING_EMPTY}
)


def going_on(model: Model, world: World, m: int) -> Moves:
    """What the agent of machine ``m`` does by itself, one step each."""
    agent: Agent | None = world.agents[m].value
    if agent is None:
        return
    who = world.disks[m].value.incarnation
    for ref in sorted(agent.watched, key=str):
        if not any(each.ref == ref and each.stage is not Stage.ORPHAN for each in world.procs[m].value):
            yield from _hear_end(model, world, m, ref, who)
    told: set[str] = set()
    for task in agent.tasks:
        if isinstance(task, AppendStarted | AppendEnd):
            if task.ref.run_id in told:
                continue
            told.add(task.ref.run_id)
        yield from _do(model, world, m, task, who)
    yield from _deliver(model, world, m, who)


def starts(model: Model, world: World, m: int) -> Moves:
    """The agent's process starts, unless it waits for a shim to show who it is (`Workers.adopt`)."""
    if world.agents[m].value is not None:
        return
    draft = Draft(model, world)
    disk = draft.disk(m)
    marked = [(ref, files) for ref, files in disk.files if files.marker]
    procs = draft.of_procs(m)
    if any(each.stage is Stage.LOCKED and each.ref == ref for each in procs for ref, _ in marked):
        return
    found, watched = [], set()
    for ref, files in marked:
        shim = next((each for each in procs if each.ref == ref and each.stage is Stage.UP), None)
        alive = files.exit is None and shim is not None
        if alive and shim is not None:
            draft.unspoken(draft.node(m), ref, ENDS)
            watched.add(ref)
            shims.make_anew(draft, m, shim)
            files = shims.files(draft, m, ref)
        found.append(
            Found(
                ref=ref,
                seq=files.intent,
                slots=files.slots,
                alive=alive,
                ended=not alive and files.exit is not None,
                started=files.started,
                stop=files.stop,
            )
        )
    state = SessionState(incarnation=disk.incarnation)
    at_fault = frozenset(each.ref for each in found) if model.code.blames_what_it_finds else frozenset()
    draft.set_agent(m, Agent(state, watched=frozenset(watched), at_fault=at_fault))
    for ref in watched:
        shims.wake(draft, m, ref)
    for label, after in feed(draft, m, Begun(tuple(found)), f"{disk.incarnation} starts"):
        yield label, as_world(after)


def gone(draft: Draft, m: int) -> None:
    """The agent's process is no more: what it had under way is lost."""
    draft.set_agent(m, None)
    draft.set_procs(m, tuple(replace(each, woken=False) for each in draft.of_procs(m)))


# --- inputs --------------------------------------------------------------------------------------------------


def feed(draft: Draft, m: int, event: Input, label: str) -> Iterator[tuple[str, Draft]]:
    """One input: all its actions, or a crash between two of them, or a write that fails."""
    agent = draft.agent(m)
    assert agent is not None
    state, actions = draft.model.code.step(agent.state, event)
    if not draft.model.config.slow_storage:
        state, actions = _prepared(draft.model, state, actions)
    if state.phase in _HAS_JOINED:
        state = replace(state, name=Name())  # read anew before it counts again
    after = draft.copy()
    after.set_agent(m, replace(agent, state=state))
    wrong: list[tuple[str, Draft]] = []
    for place, action in enumerate(actions):
        if place and draft.model.left(after, "crash"):
            crashed = after.copy()
            gone(crashed, m)
            done = type(actions[place - 1]).__name__
            wrong.append((f"{label}, crashes after {done}", crashed.spend("crash")))
        if isinstance(action, WRITES) and draft.model.left(after, "full"):
            failed = after.copy()
            now = failed.agent(m)
            assert now is not None
            tasks = now.tasks if isinstance(event, Granted | StopOrdered) else (*now.tasks, event)
            failed.set_agent(m, replace(now, state=agent.state, tasks=tasks))
            wrong.append((f"{label}, {type(action).__name__} fails", failed.spend("full")))
            if isinstance(event, Granted):
                refused = after.copy()
                now = refused.agent(m)
                assert now is not None
                then, others = draft.model.code.step(agent.state, replace(event, unwritable=True))
                refused.set_agent(m, replace(now, state=then, at_fault=now.at_fault | {event.ref}))
                for other in others:
                    _act(refused, m, other)
                wrong.append((f"{label}, and refuses it", refused.spend("full")))
        _act(after, m, action)
        if after.agent(m) is None:
            break
    yield label, after
    yield from wrong


def _prepared(
    model: Model, state: SessionState, actions: tuple[Action, ...]
) -> tuple[SessionState, tuple[Action, ...]]:
    """The same, where storage answers at once."""
    done: list[Action] = []
    for action in actions:
        if isinstance(action, PrepareFolders):
            state, more = model.code.step(state, FoldersPrepared(action.ref))
            done += more
        else:
            done.append(action)
    return state, tuple(done)


def fed(model: Model, draft: Draft, m: int, event: Input, label: str) -> Moves:
    """One input, as moves."""
    for said, after in feed(draft, m, event, label):
        yield said, as_world(after)


def _act(draft: Draft, m: int, action: Action) -> None:
    agent = draft.agent(m)
    assert agent is not None
    match action:
        case WriteGrant(ref, seq):
            slots = next(each.slots for each in agent.state.attempts if each.ref == ref)
            shims.write(draft, m, ref, marker=True, intent=seq, slots=slots)
        case WriteFolder(ref):
            shims.write(draft, m, ref, marker=True)
        case WriteStop(ref, reason, _):
            shims.write(draft, m, ref, stop=reason)
        case Launch(ref):
            draft.unspoken(draft.node(m), ref, (*ENDS, "Started"))
            attempt = next(each for each in agent.state.attempts if each.ref == ref)
            devices = _devices(draft, m, attempt.slots)
            proc = Proc(ref, agent.state.incarnation, attempt.slots, devices, Stage.COMING)
            draft.set_procs(m, (*draft.of_procs(m), proc))
            draft.set_agent(m, replace(agent, watched=agent.watched | {ref}))
        case PrepareFolders(ref):
            draft.set_agent(m, replace(agent, tasks=(*agent.tasks, FoldersPrepared(ref))))
        case WakeShim(ref):
            shims.wake(draft, m, ref)
        case Ack(seq):
            draft.acknowledge(draft.node(m), seq)
        case Forget(ref):
            draft.set_agent(m, replace(agent, at_fault=agent.at_fault - {ref}))
            if ref not in dict(draft.disk(m).files):
                return  # it was never written down
            if draft.model.code.keeps_folders:
                shims.write(draft, m, ref, marker=False)
            else:
                shims.remove_folder(draft, m, ref)
        case Finish() | Refuse():
            gone(draft, m)
        case _:
            draft.set_agent(m, replace(agent, tasks=(*agent.tasks, action)))


def _devices(draft: Draft, m: int, slots: tuple[int, ...]) -> tuple[str, ...]:
    """What these slots are by the inventory with which the node joined last."""
    truth: Fold = draft.truth.value
    gpus = next((node.gpus for node in truth.nodes if node.name == draft.node(m)), ())
    return tuple(sorted({gpu.uuid for gpu in gpus if gpu.uuid is not None and gpu.index in slots}))


def without(draft: Draft, m: int, task: Action | Input) -> Draft:
    """The agent no longer has this under way."""
    agent = draft.agent(m)
    assert agent is not None
    tasks = list(agent.tasks)
    tasks.remove(task)
    unanswered = 0 if isinstance(task, AppendJoined) else agent.unanswered
    draft.set_agent(m, replace(agent, tasks=tuple(tasks), unanswered=unanswered))
    return draft


# --- tasks ---------------------------------------------------------------------------------------------------


def _do(model: Model, world: World, m: int, task: Action | Input, who: str) -> Moves:
    draft = without(Draft(model, world), m, task)
    match task:
        case ReadName():
            name = dict(draft.heads.value.names).get(draft.node(m), Name())
            reading = draft.agent(m)
            assert reading is not None
            if model.config.half_reads and reading.half_read is None:
                half = Name(joined=name.joined, joined_by=name.joined_by)
                draft.set_agent(m, replace(world.agents[m].value, half_read=half))
                yield f"{who} reads who joined last", as_world(draft)
                return
            if reading.half_read is not None:
                name = replace(name, joined=reading.half_read.joined, joined_by=reading.half_read.joined_by)
            removed = name.removed_of == reading.state.incarnation and name.removed > name.joined
            draft.set_agent(m, replace(reading, disowned=removed, half_read=None))
            if not model.code.reads_name:
                name = Name(joined=name.joined)
            yield from fed(model, draft, m, NameRead(name), f"{who} reads its name")
        case Sweep(keep):
            agent: Agent = world.agents[m].value
            coming = (Stage.COMING, Stage.LOCKED)
            if any(each.ref in agent.watched and each.stage in coming for each in draft.of_procs(m)):
                return  # a launch is on its way
            if model.code.sweeps:
                shims.sweep(draft, m, frozenset(keep), agent.watched)
            yield from fed(model, draft, m, Swept(), f"{who} sweeps")
        case AppendJoined():
            yield from _join(model, world, draft, m, task, who)
        case AppendLeft():
            _store_left(draft, m, task)
            yield from fed(model, draft, m, LeaveStored(), f"{who} NodeLeft")
        case Finalise(ref, reason):
            holder = shims.holder(draft, m, ref)
            if holder is not None and holder.stage is Stage.LOCKED and model.code.lock:
                return  # waits
            if holder is not None and holder.stage is Stage.UP:
                now = draft.agent(m)
                assert now is not None
                draft.set_agent(m, replace(now, watched=now.watched | {ref}))
                shims.wake(draft, m, ref)
                yield from fed(model, draft, m, ShimAlive(ref), f"{who} finds the shim of {_at(ref)}")
                return
            shims.bury(draft, m, ref, ExitReason(reason))
            yield from fed(model, draft, m, ExitWritten(ref), f"{who} finalises {_at(ref)}")
        case AppendStarted(ref):
            if shims.files(draft, m, ref).started:
                say(draft, m, Started(run_id=ref.run_id, attempt=ref.attempt, pid=0, host=""))
            yield f"{who} Started {_at(ref)}", as_world(draft)
        case AppendEnd(ref):
            event = end(draft, m, ref)
            say(draft, m, event)
            yield from fed(model, draft, m, EndStored(ref), f"{who} {short(event)}")
        case FoldersPrepared(ref):
            yield from fed(model, draft, m, task, f"{who} has the folders of {_at(ref)}")
        case NameRead() | LeaveStored():
            yield from fed(model, draft, m, task, f"{who} tries again")
        case _:
            raise TypeError(task)


def _join(model: Model, world: World, draft: Draft, m: int, task: AppendJoined, who: str) -> Moves:
    agent: Agent = world.agents[m].value
    last = draft.guarded(("joined", draft.node(m)))
    if agent.unanswered and agent.unanswered == last:
        yield from fed(model, draft, m, Joined(last), f"{who} finds its NodeJoined")
        return
    if last != task.guard and model.code.join_guard:
        yield from fed(model, draft, m, JoinRefused(), f"{who} NodeJoined is refused")
        return
    seq = store_joined(draft, m, task, agent)
    yield from fed(model, draft, m, Joined(seq), f"{who} NodeJoined{listing(task)}")


def store_joined(draft: Draft, m: int, task: AppendJoined, agent: Agent) -> int:
    node, incarnation = draft.node(m), agent.state.incarnation
    _own_again(draft, m, task, agent)
    config, truth = draft.model.config, draft.truth.value
    each = config.slots_per_gpu[any(known.name == node for known in truth.nodes)]
    there = config.gpus if config.devices is None else config.devices
    uuids = [f"GPU-{index}" if config.shares else None for index in range(there)]
    devices = slots_of([Device(index=index, uuid=uuid) for index, uuid in enumerate(uuids)], each)
    event = NodeJoined(
        node=node,
        incarnation=incarnation,
        host="",
        cpus=4,
        memory_mb=0,
        gpus=devices,
        attempts=task.attempts,
        borrowed=draft.model.config.borrowed,
    )
    return draft.store(Role.AGENT, event, node)


def _own_again(draft: Draft, m: int, task: AppendJoined, agent: Agent) -> None:
    """From a join on nothing excuses a worker but that its agent could not read of the removal before it."""
    kept = frozenset(
        (incarnation, ref)
        for incarnation, ref in draft.disowned.value
        if incarnation != agent.state.incarnation or (not agent.disowned and ref in task.attempts)
    )
    draft.disowned = draft.cell(kept)


def _store_left(draft: Draft, m: int, task: AppendLeft) -> bool:
    node = draft.node(m)
    if draft.model.code.left_guard and draft.guarded(("joined", node)) != task.guard:
        return False
    draft.store(Role.AGENT, left(draft, m, task), node)
    return True


def left(draft: Draft, m: int, task: AppendLeft) -> NodeLeft:
    """The NodeLeft that it appends."""
    agent = draft.agent(m)
    assert agent is not None
    return NodeLeft(
        node=draft.node(m), incarnation=agent.state.incarnation, upto=task.upto, attempts=task.attempts
    )


def say(draft: Draft, m: int, event: Started | AttemptEnd) -> None:
    """Append an event of a run, unless it stands there (`Appender.append`)."""
    event, node = draft.model.code.says(event), draft.node(m)
    if not draft.said(node, event):
        draft.store(Role.AGENT, event, node)


def end(draft: Draft, m: int, ref: AttemptRef) -> AttemptEnd:
    """The end that exit.json says."""
    agent = draft.agent(m)
    refused = agent is not None and ref in agent.state.refused
    unread = ExitReason.NOT_STARTED if refused else ExitReason.SHIM_LOST
    record = shims.files(draft, m, ref).exit or ExitFile(reason=unread, ended_at=0.0)
    at_fault = AtFault.NODE if agent is not None and ref in agent.at_fault else None
    return end_of(ref, record, None, at_fault=at_fault)


def _hear_end(model: Model, world: World, m: int, ref: AttemptRef, who: str) -> Moves:
    draft = Draft(model, world)
    agent = draft.agent(m)
    assert agent is not None
    there = shims.files(draft, m, ref)
    ended = there.exit is not None
    blames = {ref} if not ended and not there.started else set()
    draft.set_agent(m, replace(agent, watched=agent.watched - {ref}, at_fault=agent.at_fault | blames))
    event = ExitWritten(ref) if ended else ShimLost(ref)
    yield from fed(model, draft, m, event, f"{who} hears that the shim of {_at(ref)} is gone")


# --- deliveries ----------------------------------------------------------------------------------------------


def _deliver(model: Model, world: World, m: int, who: str) -> Moves:
    agent: Agent = world.agents[m].value
    if agent.state.phase is not SessionPhase.JOINED:
        return  # held back until then, or delivered again
    push: Push = world.pushes[model.config.names.index(model.config.machines[m][0])].value
    ahead = push.events[push.acked :]
    for stored in ahead[:1] if model.code.in_order else ahead:
        event = delivered(Draft(model, world), m, stored.seq, stored.event)
        label = f"{who} takes {short(stored.event)}"
        yield from fed(model, Draft(model, world), m, event, label)
        if model.left(world, "ack"):
            _, after = next(feed(Draft(model, world), m, event, label))
            after.pushes = list(world.pushes)
            yield f"{label}, the ack is lost", as_world(after.spend("ack"))


def delivered(draft: Draft, m: int, seq: int, event: object) -> Input:
    """A delivery as the session takes it."""
    match event:
        case Dispatched(run_id=run_id, attempt=attempt, incarnation=incarnation, slots=slots, view=view):
            ref = AttemptRef(run_id, attempt)
            disk = _on_disk(draft, m, ref)
            return Granted(seq=seq, incarnation=incarnation, ref=ref, slots=slots, view=view.seq, disk=disk)
        case Stopping(run_id=run_id, attempt=attempt, incarnation=incarnation, reason=reason):
            ref = AttemptRef(run_id, attempt)
            disk = _on_disk(draft, m, ref)
            return StopOrdered(
                seq=seq, incarnation=incarnation, ref=ref, reason=StopReason(reason), disk=disk
            )
        case NodeLost(incarnation=incarnation):
            return CountedLost(seq=seq, incarnation=incarnation)
        case _:
            raise TypeError(event)


def _on_disk(draft: Draft, m: int, ref: AttemptRef) -> OnDisk:
    files: Files = shims.files(draft, m, ref)
    return OnDisk(started=files.started, ended=files.exit is not None)


def listing(task: AppendJoined) -> str:
    """What a NodeJoined carries, in words."""
    return f" lists {', '.join(map(_at, task.attempts))}" if task.attempts else ""


def _at(ref: AttemptRef) -> str:
    return f"{ref.run_id}.{ref.attempt}"
