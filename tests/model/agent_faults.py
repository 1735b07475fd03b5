"""What goes wrong with agents: crashes, answers that are lost or late, deliveries that come again; and their leaving.

Owns these moves; a crash between two actions and a write that fails are in `agents.feed`.
"""

from __future__ import annotations

from msgspec.structs import replace

from events.types import AttemptEnd, Started
from services.agent.session.values import (
    AppendEnd,
    AppendJoined,
    AppendLeft,
    AppendStarted,
    LeaveAsked,
    LeaveStored,
    SessionPhase,
)
from tests.model import agents
from tests.model.dispatchers import Moves, as_world, short
from tests.model.model import Draft, Model
from tests.model.values import Agent, Letter, Push, World
from trainshed_client.subjects import Role


def faults(model: Model, world: World, m: int) -> Moves:
    """Crash, a leave, answers that are lost, and a full disk (within `feed`)."""
    agent: Agent | None = world.agents[m].value
    if agent is None:
        return
    who = world.disks[m].value.incarnation
    if model.left(world, "crash"):
        draft = Draft(model, world)
        agents.gone(draft, m)
        yield f"{who} crashes", as_world(draft.spend("crash"))
    for kind, reclaim in (("leave", False), ("reclaim", True)):
        if model.left(world, kind) and agent.state.phase is SessionPhase.JOINED:
            draft = Draft(model, world).spend(kind)
            for label, after in agents.feed(draft, m, LeaveAsked(reclaim), f"{who} is to leave"):
                yield label, as_world(after)
    if model.left(world, "timeout"):
        yield from _unanswered(model, world, m, agent, who)
    if model.left(world, "duplicate"):
        yield from _duplicates(model, world, m, agent, who)


def _duplicates(model: Model, world: World, m: int, agent: Agent, who: str) -> Moves:
    if agent.state.phase is not SessionPhase.JOINED:
        return
    push: Push = world.pushes[model.config.names.index(model.config.machines[m][0])].value
    for stored in push.events[: push.acked]:
        draft = Draft(model, world).spend("duplicate")
        event = agents.delivered(draft, m, stored.seq, stored.event)
        yield from agents.fed(model, draft, m, event, f"{who} takes {short(stored.event)} once more")


# --- answers that do not come ----------------------------------------------------------------------------------


def _unanswered(model: Model, world: World, m: int, agent: Agent, who: str) -> Moves:
    """An append is stored and its answer lost, or reaches the log when its sender has long tried again."""
    node = model.config.machines[m][0]
    for task in agent.tasks:
        draft = Draft(model, world)
        match task:
            case AppendJoined() if not agent.unanswered:
                if draft.guarded(("joined", node)) == task.guard:
                    seq = agents.store_joined(draft, m, task, agent)
                    draft.set_agent(m, replace(agent, unanswered=seq))
                    yield (
                        f"{who} NodeJoined{agents.listing(task)}, no answer",
                        as_world(draft.spend("timeout")),
                    )
            case AppendLeft():
                key: tuple[str, ...] = ("joined", node) if model.code.left_guard else ()
                guard = task.guard if key else 0
                letter = Letter(Role.AGENT, node, agents.left(draft, m, task), key, guard)
                draft = agents.without(draft, m, task)
                draft.wire = draft.cell((*draft.wire.value, letter))
                draft.spend("timeout")
                yield from agents.fed(model, draft, m, LeaveStored(), f"{who} leaves, its NodeLeft is late")
            case AppendStarted(ref) | AppendEnd(ref):
                if isinstance(task, AppendEnd):
                    event: Started | AttemptEnd = agents.end(draft, m, ref)
                else:
                    event = Started(run_id=ref.run_id, attempt=ref.attempt, pid=0, host="")
                if not draft.said(
                    node, event
                ):  # else it is refused by its guard, or found, and never sent again
                    key = ("words", node, ref.run_id)
                    letter = Letter(Role.AGENT, node, event, key, draft.guarded(key))
                    late = draft.copy()
                    late.wire = draft.cell((*draft.wire.value, letter))
                    yield f"{who} {short(event)} is late", as_world(late.spend("timeout"))
                agents.say(draft, m, event)
                yield f"{who} {short(event)}, no answer", as_world(draft.spend("timeout"))
            case _:
                pass
