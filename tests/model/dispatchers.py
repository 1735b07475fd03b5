"""Moves of the dispatchers: fold, decide, append under the epoch, stand for election; and the gateway's commands.

Owns what may become of each append; what is decided is the project's own code.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from events import rules
from events.decide import Cancel, Command, Remove, Resume, Retry, decide
from events.state import Ended, Run
from events.types import (
    CancelRequested,
    Dispatched,
    Elected,
    Event,
    NodeLost,
    NodeRemoved,
    RetryRequested,
    Stopping,
)
from tests.model.code import SCHEDULER, state_of, still_in_flight
from tests.model.model import Draft, Model
from tests.model.values import Fold, Heads, Letter, Office, Sent, World
from trainshed_client.errors import TrainshedError
from trainshed_client.statuses import NodeStatus
from trainshed_client.subjects import Role

Moves = Iterator[tuple[str, World]]


def going_on(model: Model, world: World) -> Moves:
    """What a dispatcher does by itself, one step each."""
    for d, cell in enumerate(world.offices):
        office: Office | None = cell.value
        if office is None:
            continue
        if office.standing:
            draft = Draft(model, world)
            _stand(draft, d)
            yield f"d{d} is elected again", as_world(draft)
            continue
        if office.queue:
            draft = Draft(model, world)
            said = _send(draft, d)
            yield f"d{d} {said}", as_world(draft)
            continue
        if office.pending:
            draft = Draft(model, world)
            fold_one(draft, d)
            yield f"d{d} folds", as_world(draft)
        events = _decided(model, world, d, office)
        if events:
            draft = Draft(model, world)
            draft.offices[d] = draft.cell(replace(office, queue=events))
            yield f"d{d} decides {', '.join(map(short, events))}", as_world(draft)


def elections(model: Model, world: World) -> Moves:
    """A dispatcher that holds nobody for active stands for election."""
    for d, cell in enumerate(world.offices):
        if cell.value is None:
            draft = Draft(model, world)
            _stand(draft, d)
            yield f"d{d} is elected", as_world(draft)
            return


def faults(model: Model, world: World) -> Moves:
    """Rival elections, silence, and appends of dispatchers without an answer."""
    if model.left(world, "consumer"):
        for place, name in enumerate(model.config.names):
            if world.pushes[place].value.events:
                draft = Draft(model, world)
                draft.make_consumer(name)
                yield f"the consumer of {name} is made anew", as_world(draft.spend("consumer"))
    if model.left(world, "election"):
        for label, after in elections(model, world):
            yield label, as_world(Draft(model, after).spend("election"))
    for d, cell in enumerate(world.offices):
        office: Office | None = cell.value
        if office is None or office.standing:
            continue
        if not office.queue and model.left(world, "silence"):
            yield from silences(model, world, d, office)
        if office.queue and model.left(world, "timeout"):
            draft = Draft(model, world)
            said = _send(draft, d)
            if draft.offices[d].value is not None:
                yield f"d{d} {said}, no answer", as_world(_gives_up(draft, d))
            yield f"d{d} append is lost", as_world(_gives_up(Draft(model, world), d))
            draft = Draft(model, world)
            letter = Letter(Role.DISPATCHER, "", office.queue[0], ("elected",), office.epoch)
            draft.wire = draft.cell((*draft.wire.value, letter))
            yield f"d{d} append is late", as_world(_gives_up(draft, d))


def silences(model: Model, world: World, d: int, office: Office, *, free: bool = False) -> Moves:
    """A node that dispatcher ``d`` has for up is not heard."""
    fold: Fold = world.folds[d].value
    for node in fold.nodes:
        if node.status is not NodeStatus.UP:
            continue
        events = model.code.decide(world.folds[d], office.epoch, office.sent, frozenset({node.name}))
        if events and isinstance(events[0], NodeLost):
            draft = Draft(model, world)
            draft.offices[d] = draft.cell(replace(office, queue=events))
            yield f"d{d} does not hear {node.name}", as_world(draft if free else draft.spend("silence"))


def letters(model: Model, world: World) -> Moves:
    """What was sent long ago reaches the log, or never does."""
    for place, letter in enumerate(world.wire.value):
        draft = Draft(model, world)
        draft.wire = draft.cell((*world.wire.value[:place], *world.wire.value[place + 1 :]))
        if _arrives(model, draft, letter):
            yield f"late {short(letter.event)} is stored", as_world(draft)
        draft = Draft(model, world)
        draft.wire = draft.cell((*world.wire.value[:place], *world.wire.value[place + 1 :]))
        yield f"late {short(letter.event)} is not stored", as_world(draft)


def _arrives(model: Model, draft: Draft, letter: Letter) -> bool:
    if letter.key == ("elected",) and not model.code.epoch_guard:
        letter = replace(letter, seq=draft.guarded(letter.key))
    return draft.deliver_letter(letter)


# --- the gateway ---------------------------------------------------------------------------------------------


def commands(model: Model, world: World) -> Moves:
    """What users and operators ask for, each as often as the configuration says."""
    truth: Fold = world.truth.value
    runs: tuple[Run, ...] = (*truth.runs, *truth.ended)
    asked: list[tuple[str, Command, Run | None]] = [
        *(("cancel", Cancel(run_id=run.run_id), run) for run in truth.runs),
        *(("retry", Retry(run_id=run.run_id), run) for run in runs if isinstance(run.phase, Ended)),
    ]
    for kind, command, run in asked:
        if model.left(world, kind):
            yield from _commanded(model, world, kind, command, run)
    for node in truth.nodes:
        if model.left(world, "remove"):
            yield from _commanded(model, world, "remove", Remove(node=node.name), None)
        if model.left(world, "resume"):
            yield from _commanded(model, world, "resume", Resume(node=node.name), None)


def removal(model: Model, world: World, node: str) -> Moves:
    """The operator's word that a machine is off, where it is true."""
    for event in _events(world, Remove(node=node), None):
        draft = Draft(model, world)
        draft.store(Role.GATEWAY, event)
        yield short(event), as_world(draft)


def cancel(model: Model, world: World, run: Run) -> Moves:
    """A user has had enough."""
    for event in _events(world, Cancel(run_id=run.run_id), run):
        draft = Draft(model, world)
        draft.store(Role.GATEWAY, event)
        yield short(event), as_world(draft)


def _events(world: World, command: Command, run: Run | None) -> list[Event]:
    try:
        return decide(state_of(world.truth.value, 0), command, run)
    except TrainshedError:
        return []


def _commanded(model: Model, world: World, kind: str, command: Command, run: Run | None) -> Moves:
    for event in _events(world, command, run):
        draft = Draft(model, world)
        draft.store(Role.GATEWAY, event)
        yield short(event), as_world(draft.spend(kind))
        if model.left(world, "timeout") and world.budget.value[0] > 1:
            draft = Draft(model, world)
            guarded = isinstance(event, NodeRemoved) and model.code.remove_guard
            key: tuple[str, ...] = ("joined", getattr(event, "node", "")) if guarded else ()
            letter = Letter(Role.GATEWAY, "", event, key, draft.guarded(key))
            draft.wire = draft.cell((*draft.wire.value, letter))
            yield f"{short(event)} is late", as_world(draft.spend("timeout").spend(kind))


# --- steps ---------------------------------------------------------------------------------------------------


def as_world(draft: Draft) -> World:
    """The world once every dispatcher that would decide nothing yet has folded what it can."""
    for d in range(len(draft.offices)):
        while True:
            office: Office | None = draft.offices[d].value
            if office is None or office.queue or office.standing or not office.pending:
                break
            if draft.model.code.decide(draft.folds[d], office.epoch, office.sent):
                break
            fold_one(draft, d)
    return draft.done()


def fold_one(draft: Draft, d: int) -> None:
    """Dispatcher ``d`` folds one event more; one that finds another elected is not active any more."""
    office: Office = draft.offices[d].value
    stored, *pending = office.pending
    draft.folds[d], _ = draft.model.code.fold(draft.folds[d], stored)
    fold: Fold = draft.folds[d].value
    if fold.epoch != office.epoch and not office.queue:
        _steps_down(draft, d)
        return
    sent = still_in_flight(office.sent, stored.seq)
    draft.offices[d] = draft.cell(replace(office, sent=sent, pending=tuple(pending)))


def _decided(model: Model, world: World, d: int, office: Office) -> tuple[Event, ...]:
    return model.code.decide(world.folds[d], office.epoch, office.sent)


def _send(draft: Draft, d: int) -> str:
    """The first of what is decided is appended; refused, the dispatcher learns that it is deposed."""
    office: Office = draft.offices[d].value
    event = office.queue[0]
    heads: Heads = draft.heads.value
    if draft.model.code.epoch_guard and heads.elected != office.epoch:
        _steps_down(draft, d)
        return f"is refused {short(event)}"
    seq = draft.store(Role.DISPATCHER, event)
    office = draft.offices[d].value
    sent = (*office.sent, Sent(event, seq)) if draft.model.code.remembers_sent else ()
    draft.offices[d] = draft.cell(replace(office, queue=office.queue[1:], sent=sent))
    return short(event)


def _gives_up(draft: Draft, d: int) -> Draft:
    office: Office = draft.offices[d].value
    queue = () if draft.model.code.clears_queue else office.queue
    draft.offices[d] = draft.cell(replace(office, queue=queue, standing=draft.model.code.stands_again))
    return draft.spend("timeout")


def _stand(draft: Draft, d: int) -> None:
    """Elected is stored, and folded up to it before anything is decided."""
    before: Office | None = draft.offices[d].value
    named = rules.KNOWN if draft.truth.value.epoch else draft.model.config.first_rules
    seq = draft.store(Role.DISPATCHER, Elected(name="d", scheduler=SCHEDULER, rules=named))
    queue = before.queue if before is not None and not draft.model.code.clears_queue else ()
    draft.offices[d] = draft.cell(Office(epoch=seq, queue=tuple(_anew(event, seq) for event in queue)))
    draft.folds[d] = draft.truth


def _anew(event: Event, epoch: int) -> Event:
    return replace(event, epoch=epoch)


def _steps_down(draft: Draft, d: int) -> None:
    draft.offices[d] = draft.cell(None)
    draft.folds[d] = draft.cell(Fold())


def short(event: Event) -> str:
    """An event in a few words."""
    match event:
        case Dispatched(run_id=run_id, attempt=attempt, incarnation=incarnation):
            return f"Dispatched {run_id}.{attempt} to {incarnation}"
        case Stopping(run_id=run_id, attempt=attempt, reason=reason):
            return f"Stopping {run_id}.{attempt} ({reason})"
        case NodeLost(incarnation=incarnation) | NodeRemoved(incarnation=incarnation):
            return f"{type(event).__name__} {incarnation}"
        case CancelRequested(run_id=run_id) | RetryRequested(run_id=run_id):
            return f"{type(event).__name__} {run_id}"
        case _:
            ref = f"{getattr(event, 'run_id', '')}.{getattr(event, 'attempt', '')}".strip(".")
            why = getattr(event, "failure_reason", None)
            return " ".join([type(event).__name__, *filter(None, (ref, f"({why})" if why else ""))])
